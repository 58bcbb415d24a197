//! The calls in the body of a function.

use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Block, Expr, Pat, Token};

use super::index::{Function, Index, Type};
use super::primitives;
use super::select::Branches;
use super::wrappers::{CONTAINERS, INNER_TYPE, POINTERS, SAME_TYPE, inner, pointed};

/// The function that a call runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Callee {
    /// By its number in the index.
    Indexed(usize),
    /// A call that waits, by its path.
    Primitive(String),
}

#[derive(Debug)]
pub struct Call {
    pub callee: Callee,
    /// Whether the call is in async code.
    pub is_async: bool,
    /// The functions that get the closure with this call: the call is made only if all of them run it.
    pub closures_of: Vec<usize>,
}

/// The calls of one function.
#[derive(Debug, Default)]
pub struct Body {
    pub calls: Vec<Call>,
    /// Whether it calls one of its parameters, or hands it to a function that is not resolved.
    pub runs_closure: bool,
    /// The functions to which it hands one of its parameters.
    pub hands_closure_to: Vec<usize>,
}

/// A name in a body.
enum Local {
    Value(Option<Type>),
    /// A closure that has not run yet.
    Closure(Box<Expr>, bool),
    /// A parameter that may be a closure or a function.
    Parameter(Option<Type>),
}

struct Walk<'i> {
    index: &'i Index,
    function: &'i Function,
    locals: Vec<(String, Local)>,
    is_async: bool,
    closures_of: Vec<usize>,
    body: Body,
}

/// The calls of a function.
pub fn read(index: &Index, function: &Function) -> Body {
    let mut walk = Walk {
        index,
        function,
        locals: Vec::new(),
        is_async: function.signature.asyncness.is_some(),
        closures_of: Vec::new(),
        body: Body::default(),
    };
    for input in &function.signature.inputs {
        match input {
            syn::FnArg::Receiver(_) => {
                let self_type = function.self_type.as_ref().map(Type::plain);
                walk.locals
                    .push(("self".to_owned(), Local::Value(self_type)));
            }
            syn::FnArg::Typed(input) => {
                let of = walk.written_type(&input.ty);
                match &*input.pat {
                    Pat::Ident(name) => {
                        let local = match is_callable(&input.ty, &function.signature) {
                            true => Local::Parameter(of),
                            false => Local::Value(of),
                        };
                        walk.locals.push((name.ident.to_string(), local));
                    }
                    pattern => walk.bind(pattern, of),
                }
            }
        }
    }
    walk.visit_block(&function.body);
    walk.body
}

/// Whether a parameter of this type may be a closure or a function.
fn is_callable(written: &syn::Type, signature: &syn::Signature) -> bool {
    match written {
        syn::Type::Reference(reference) => is_callable(&reference.elem, signature),
        syn::Type::BareFn(_) | syn::Type::ImplTrait(_) | syn::Type::TraitObject(_) => true,
        syn::Type::Path(path) => {
            let mut generic = signature.generics.type_params();
            path.path
                .get_ident()
                .is_some_and(|name| generic.any(|parameter| parameter.ident == *name))
        }
        _ => false,
    }
}

impl Walk<'_> {
    fn written_type(&self, written: &syn::Type) -> Option<Type> {
        let self_type = self.function.self_type.as_deref();
        self.index
            .written_type(&self.function.module, self_type, written)
    }

    fn resolved(&self, path: &syn::Path) -> String {
        let self_type = self.function.self_type.as_deref();
        self.index.resolved(&self.function.module, self_type, path)
    }

    fn local(&self, name: &str) -> Option<&Local> {
        let mut locals = self.locals.iter().rev();
        locals.find(|(local, _)| local == name).map(|(_, of)| of)
    }

    fn bind(&mut self, pattern: &Pat, of: Option<Type>) {
        match pattern {
            Pat::Ident(name) => {
                self.locals.push((name.ident.to_string(), Local::Value(of)));
            }
            Pat::Type(typed) => {
                let written = self.written_type(&typed.ty);
                self.bind(&typed.pat, written.filter(|of| of.path != "_").or(of));
            }
            Pat::Reference(reference) => self.bind(&reference.pat, of),
            Pat::Paren(paren) => self.bind(&paren.pat, of),
            Pat::TupleStruct(variant) => {
                let is_container = variant
                    .path
                    .segments
                    .last()
                    .is_some_and(|last| ["Some", "Ok"].iter().any(|name| last.ident == name));
                let of = of.filter(|_| is_container).as_ref().map(inner);
                for part in &variant.elems {
                    self.bind(part, of.clone());
                }
            }
            Pat::Tuple(tuple) => {
                for (number, part) in tuple.elems.iter().enumerate() {
                    let of = of.as_ref().filter(|of| of.path == "()");
                    let of = of.and_then(|of| of.args.get(number)).cloned();
                    self.bind(part, of);
                }
            }
            Pat::Struct(fields) => {
                let of = Type::plain(self.resolved(&fields.path));
                for field in &fields.fields {
                    let syn::Member::Named(name) = &field.member else {
                        continue;
                    };
                    let of = self.index.field(&of, &name.to_string());
                    self.bind(&field.pat, of);
                }
            }
            Pat::Or(or) => {
                for part in &or.cases {
                    self.bind(part, of.clone());
                }
            }
            _ => {}
        }
    }

    /// The type of an expression, if the code states the type.
    fn type_of(&self, expression: &Expr) -> Option<Type> {
        match expression {
            Expr::Path(path) => {
                let name = path.path.get_ident()?.to_string();
                match self.local(&name)? {
                    Local::Value(of) | Local::Parameter(of) => of.clone(),
                    Local::Closure(..) => None,
                }
            }
            Expr::Field(field) => {
                let mut of = self.type_of(&field.base)?;
                let name = match &field.member {
                    syn::Member::Named(name) => name.to_string(),
                    syn::Member::Unnamed(number) => {
                        let number = number.index as usize;
                        if of.path == "()" {
                            return of.args.get(number).cloned();
                        }
                        number.to_string()
                    }
                };
                loop {
                    if let Some(field) = self.index.field(&of, &name) {
                        return Some(field);
                    }
                    of = pointed(&of)?;
                }
            }
            Expr::Reference(reference) => self.type_of(&reference.expr),
            Expr::Paren(paren) => self.type_of(&paren.expr),
            Expr::Unary(unary) => self.type_of(&unary.expr),
            Expr::Try(tried) => self.type_of(&tried.expr).as_ref().map(inner),
            // The type of an async function's call is that of its result.
            Expr::Await(awaited) => {
                let of = self.type_of(&awaited.base)?;
                let is_future = ["BoxFuture", "Future"].contains(&of.name());
                Some(if is_future { inner(&of) } else { of })
            }
            Expr::Struct(literal) => Some(Type::plain(self.resolved(&literal.path))),
            Expr::Call(call) => self.type_of_call(call),
            Expr::MethodCall(call) => {
                let of = self.type_of(&call.receiver)?;
                let name = call.method.to_string();
                if let Some(number) = self.method(&of, &name) {
                    return self.index.functions[number].result.clone();
                }
                if let Some(result) = primitives::result_of(&format!("{}::{name}", of.path)) {
                    return Some(result);
                }
                match name.as_str() {
                    name if SAME_TYPE.contains(&name) => Some(of),
                    name if INNER_TYPE.contains(&name) => {
                        let of = pointed(&of).unwrap_or(of);
                        Some(inner(&of))
                    }
                    _ => None,
                }
            }
            Expr::Block(block) => match block.block.stmts.last()? {
                syn::Stmt::Expr(last, None) => self.type_of(last),
                _ => None,
            },
            Expr::Match(cases) => cases.arms.iter().find_map(|arm| self.type_of(&arm.body)),
            _ => None,
        }
    }

    fn type_of_call(&self, call: &syn::ExprCall) -> Option<Type> {
        let Expr::Path(path) = &*call.func else {
            return None;
        };
        let resolved = self.resolved(&path.path);
        if let Some(number) = self.index.function(&resolved) {
            return self.index.functions[number].result.clone();
        }
        if self.index.is_struct(&resolved) {
            return Some(Type::plain(resolved));
        }
        let name = resolved.rsplit("::").next().unwrap_or_default();
        let wraps = ["Some", "Ok"].contains(&name)
            || resolved
                .strip_suffix("::new")
                .and_then(|of| of.rsplit("::").next())
                .is_some_and(|of| POINTERS.contains(&of) || CONTAINERS.contains(&of));
        match call.args.first() {
            Some(arg) if wraps => {
                let path = match name {
                    "Some" => "Option",
                    "Ok" => "Result",
                    _ => resolved.trim_end_matches("::new"),
                };
                Some(Type {
                    path: path.to_owned(),
                    args: vec![self.type_of(arg)?],
                })
            }
            _ => primitives::result_of(&resolved),
        }
    }

    /// The method of a type, or of the type that it points to.
    fn method(&self, of: &Type, name: &str) -> Option<usize> {
        let mut of = of.clone();
        loop {
            if let Some(number) = self.index.function(&format!("{}::{name}", of.path)) {
                return Some(number);
            }
            of = pointed(&of)?;
        }
    }

    fn add(&mut self, callee: Callee) {
        self.body.calls.push(Call {
            callee,
            is_async: self.is_async,
            closures_of: self.closures_of.clone(),
        });
    }

    /// Adds the call of a resolved path; the number of the function if the index has it.
    fn add_path(&mut self, path: &str) -> Option<usize> {
        let number = self.index.function(path);
        match number {
            Some(number) => self.add(Callee::Indexed(number)),
            None if primitives::waits(path) => self.add(Callee::Primitive(path.to_owned())),
            None => {}
        }
        number
    }

    /// Visits the arguments of a call: a closure among them runs if the function runs it.
    fn visit_arguments(
        &mut self,
        arguments: &Punctuated<Expr, Token![,]>,
        called: Option<usize>,
        is_elsewhere: bool,
    ) {
        for argument in arguments {
            let is_path = matches!(argument, Expr::Path(_));
            if !is_path && !matches!(argument, Expr::Closure(_)) {
                self.visit_expr(argument);
                continue;
            }
            if is_elsewhere {
                continue;
            }
            self.closures_of.extend(called);
            match argument {
                Expr::Path(path) => self.hand(&path.path, called),
                closure => self.visit_expr(closure),
            }
            self.closures_of
                .truncate(self.closures_of.len() - usize::from(called.is_some()));
        }
    }

    /// A value that is handed to a function, which may be a function itself.
    fn hand(&mut self, path: &syn::Path, to: Option<usize>) {
        let name = path.get_ident().map(ToString::to_string);
        match name.as_deref().and_then(|name| self.local(name)) {
            Some(Local::Parameter(_)) => match to {
                Some(to) => self.body.hands_closure_to.push(to),
                None => self.run_parameter(),
            },
            Some(Local::Closure(..)) => self.run(name.as_deref().unwrap_or_default()),
            Some(Local::Value(_)) => {}
            None => {
                let path = self.resolved(path);
                self.add_path(&path);
            }
        }
    }

    /// A parameter runs here, or in a closure that another function gets.
    fn run_parameter(&mut self) {
        match self.closures_of.last() {
            Some(of) => self.body.hands_closure_to.push(*of),
            None => self.body.runs_closure = true,
        }
    }

    /// Visits the body of a closure that has a name, the first time that it runs.
    fn run(&mut self, name: &str) {
        let Some(at) = self.locals.iter().rposition(|(local, _)| local == name) else {
            return;
        };
        let former = std::mem::replace(&mut self.locals[at].1, Local::Value(None));
        if let Local::Closure(closure, is_async) = former {
            let is_async = std::mem::replace(&mut self.is_async, is_async);
            self.visit_expr(&closure);
            self.is_async = is_async;
        }
    }

    fn visit_call(&mut self, call: &syn::ExprCall) {
        let Expr::Path(path) = &*call.func else {
            visit::visit_expr_call(self, call);
            return;
        };
        let name = path.path.get_ident().map(ToString::to_string);
        let name = name.unwrap_or_default();
        match self.local(&name) {
            Some(Local::Closure(..)) => {
                self.run(&name);
                self.visit_arguments(&call.args, None, false);
            }
            Some(Local::Parameter(_)) => {
                self.run_parameter();
                self.visit_arguments(&call.args, None, false);
            }
            Some(Local::Value(_)) => self.visit_arguments(&call.args, None, false),
            None => {
                let path = self.resolved(&path.path);
                let is_other_thread = primitives::runs_on_other_thread(&path);
                let called = self.add_path(&path);
                // A value with the closure, such as a box, does not run it.
                let is_stored = called.is_none() && path.ends_with("::new");
                self.visit_arguments(&call.args, called, is_other_thread || is_stored);
            }
        }
    }

    fn visit_method(&mut self, call: &syn::ExprMethodCall) {
        self.visit_expr(&call.receiver);
        let name = call.method.to_string();
        let of = self.type_of(&call.receiver);
        let called = of.as_ref().and_then(|of| self.method(of, &name));
        let mut is_other_thread = false;
        if let Some(called) = called {
            self.add(Callee::Indexed(called));
        } else if let Some(of) = of {
            let of = match of.path.as_str() {
                "std::path::PathBuf" => "std::path::Path",
                path => path,
            };
            let path = format!("{of}::{name}");
            is_other_thread = primitives::runs_on_other_thread(&path);
            if primitives::waits(&path) {
                self.add(Callee::Primitive(path));
            }
        }
        self.visit_arguments(&call.args, called, is_other_thread);
    }
}

impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_expr(&mut self, expression: &'ast Expr) {
        let (depth, was_async) = (self.locals.len(), self.is_async);
        match expression {
            Expr::Call(call) => self.visit_call(call),
            Expr::MethodCall(call) => self.visit_method(call),
            Expr::Async(block) => {
                self.is_async = true;
                self.visit_block(&block.block);
            }
            Expr::Closure(closure) => {
                self.is_async |= closure.asyncness.is_some();
                for input in &closure.inputs {
                    self.bind(input, None);
                }
                self.visit_expr(&closure.body);
            }
            Expr::ForLoop(each) => {
                self.visit_expr(&each.expr);
                let of = self.type_of(&each.expr).as_ref().map(inner);
                self.bind(&each.pat, of);
                self.visit_block(&each.body);
            }
            Expr::If(condition) => {
                self.visit_expr(&condition.cond);
                self.visit_block(&condition.then_branch);
                self.locals.truncate(depth);
                if let Some((_, other)) = &condition.else_branch {
                    self.visit_expr(other);
                }
            }
            // Its names are those of the block after the condition.
            Expr::Let(condition) => {
                self.visit_expr(&condition.expr);
                let of = self.type_of(&condition.expr);
                self.bind(&condition.pat, of);
                return;
            }
            Expr::Binary(pair) if matches!(pair.op, syn::BinOp::And(_)) => {
                self.visit_expr(&pair.left);
                self.visit_expr(&pair.right);
                return;
            }
            Expr::While(repeated) => {
                self.visit_expr(&repeated.cond);
                self.visit_block(&repeated.body);
            }
            Expr::Match(cases) => {
                self.visit_expr(&cases.expr);
                let of = self.type_of(&cases.expr);
                for arm in &cases.arms {
                    let depth = self.locals.len();
                    self.bind(&arm.pat, of.clone());
                    if let Some((_, guard)) = &arm.guard {
                        self.visit_expr(guard);
                    }
                    self.visit_expr(&arm.body);
                    self.locals.truncate(depth);
                }
            }
            _ => visit::visit_expr(self, expression),
        }
        self.locals.truncate(depth);
        self.is_async = was_async;
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        let value = local.init.as_ref();
        if let (Some(value), Pat::Ident(name)) = (value, &local.pat)
            && matches!(&*value.expr, Expr::Closure(_))
        {
            let closure = Local::Closure(value.expr.clone(), self.is_async);
            self.locals.push((name.ident.to_string(), closure));
            return;
        }
        if let Some(value) = value {
            self.visit_expr(&value.expr);
            if let Some((_, other)) = &value.diverge {
                self.visit_expr(other);
            }
        }
        let of = value.and_then(|value| self.type_of(&value.expr));
        self.bind(&local.pat, of);
    }

    fn visit_block(&mut self, block: &'ast Block) {
        let depth = self.locals.len();
        visit::visit_block(self, block);
        self.locals.truncate(depth);
    }

    // A function inside a function.
    fn visit_item(&mut self, _: &'ast syn::Item) {}

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if let Ok(Branches(branches)) = call.parse_body() {
            for (pattern, future, body) in branches {
                let depth = self.locals.len();
                self.visit_expr(&future);
                let of = self.type_of(&future);
                self.bind(&pattern, of);
                self.visit_expr(&body);
                self.locals.truncate(depth);
            }
        } else if let Ok(arguments) =
            call.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated)
        {
            for argument in &arguments {
                self.visit_expr(argument);
            }
        }
    }
}
