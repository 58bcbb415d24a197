//! The type checker (as cel-go, `checker/checker.go`).

mod aggregates;
mod calls;
mod children;
mod constants;
mod error;
mod homogeneous;
mod position;

use std::collections::BTreeMap;
use std::sync::Arc;

use cel::common::ast::{ComprehensionExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo};

pub use constants::{Constant, ConstantKind, invalid_constants};
pub use error::{CheckError, CheckErrorKind, CheckErrors};
pub use position::Position;

use crate::declarations::Declarations;
use crate::schema::is_reserved;
use crate::types::{Fields, Substitutions, Type, most_general};

/// The types of an expression.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The type of each subexpression by its identifier.
    pub types: BTreeMap<u64, Type>,
    /// The overloads that a call may select at evaluation, by the identifier of the call.
    pub overloads: BTreeMap<u64, Vec<Arc<str>>>,
    /// The type of the expression.
    pub result: Type,
}

/// Checks the types of a parsed expression.
///
/// # Errors
/// All errors of the expression, in the order of their positions.
pub fn check(
    expression: &IdedExpr,
    source: &SourceInfo,
    declarations: &Declarations,
) -> Result<Checked, CheckErrors> {
    let mut checker = Checker {
        declarations,
        source,
        locals: Vec::new(),
        substitutions: Substitutions::default(),
        fresh: 0,
        types: BTreeMap::new(),
        overloads: BTreeMap::new(),
        errors: Vec::new(),
    };
    let result = checker.check(expression);
    if !checker.errors.is_empty() {
        return Err(CheckErrors::new(checker.errors, &source.source));
    }
    let substitutions = checker.substitutions;
    let closed = |(id, of): (u64, Type)| (id, substitutions.substitute(&of, true));
    let checked = Checked {
        result: substitutions.substitute(&result, true),
        types: checker.types.into_iter().map(closed).collect(),
        overloads: checker.overloads,
    };
    if declarations.has_homogeneous_literals() {
        let errors = homogeneous::errors(expression, source, &checked.types);
        if !errors.is_empty() {
            return Err(CheckErrors::new(errors, &source.source));
        }
    }
    Ok(checked)
}

struct Checker<'c> {
    declarations: &'c Declarations,
    source: &'c SourceInfo,
    /// The variables of the comprehensions around the expression, from the outermost.
    locals: Vec<(String, Type)>,
    substitutions: Substitutions,
    /// The number of type parameters that the checker created.
    fresh: u64,
    types: BTreeMap<u64, Type>,
    overloads: BTreeMap<u64, Vec<Arc<str>>>,
    errors: Vec<CheckError>,
}

impl Checker<'_> {
    /// The type of an expression, which is recorded.
    fn check(&mut self, expression: &IdedExpr) -> Type {
        let of = match &expression.expr {
            Expr::Unspecified => Type::Error,
            Expr::Literal(literal) => literal_type(literal),
            Expr::Ident(name) => self.identifier(expression, name),
            Expr::Select(select) => self.select(expression, select),
            Expr::Call(call) => self.call(expression, call),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.map(map),
            Expr::Struct(literal) => self.object(expression, literal),
            Expr::Comprehension(all) => self.comprehension(all),
        };
        self.types.insert(expression.id, of.clone());
        of
    }

    fn identifier(&mut self, expression: &IdedExpr, name: &str) -> Type {
        let global = name.strip_prefix('.');
        let local = match global {
            None => self.local(name),
            Some(_) => None,
        };
        let declared = local.or_else(|| self.declarations.global(global.unwrap_or(name)));
        declared.unwrap_or_else(|| {
            self.refuse(expression, CheckErrorKind::undeclared(name));
            Type::Error
        })
    }

    fn local(&self, name: &str) -> Option<Type> {
        let mut inner_first = self.locals.iter().rev();
        let entry = inner_first.find(|(local, _)| local == name);
        entry.map(|(_, local_type)| local_type.clone())
    }

    fn select(&mut self, expression: &IdedExpr, select: &SelectExpr) -> Type {
        if let Some(of) = self.qualified(expression) {
            return of;
        }
        let of = self.field(expression, &select.operand, &select.field, false);
        if select.test {
            return Type::Bool;
        }
        self.substitutions.substitute(&of, false)
    }

    /// The type of a global variable with a qualified name: `a.b`.
    fn qualified(&self, expression: &IdedExpr) -> Option<Type> {
        let name = qualified_name(expression)?;
        let first = name.split('.').next().unwrap_or_default();
        if !name.starts_with('.') && self.local(first).is_some() {
            return None;
        }
        self.declarations
            .global(name.strip_prefix('.').unwrap_or(&name))
    }

    /// The type of a field of an operand, optional if the operand or the selection is optional.
    fn field(
        &mut self,
        expression: &IdedExpr,
        operand: &IdedExpr,
        field: &str,
        optional: bool,
    ) -> Type {
        let operand = self.check(operand);
        let operand = self.substitutions.substitute(&operand, false);
        let value = operand.optional_value();
        let of = match value.unwrap_or(&operand) {
            Type::Map(_, value) => (**value).clone(),
            Type::Object(object) => match &object.fields {
                Fields::Known(fields) => known_field(fields, field).unwrap_or_else(|| {
                    let name = field.to_owned();
                    self.refuse(expression, CheckErrorKind::UndefinedField { name });
                    Type::Error
                }),
                Fields::Hidden => {
                    let name = object.name.to_string();
                    self.refuse(expression, CheckErrorKind::UnresolvedType { name });
                    Type::Error
                }
            },
            parameter @ Type::Parameter(_) => {
                self.substitutions.is_assignable(&Type::Dyn, parameter);
                Type::Dyn
            }
            other => {
                if !other.is_dyn_or_error() {
                    let of = other.clone();
                    self.refuse(expression, CheckErrorKind::NoFields { of });
                }
                Type::Dyn
            }
        };
        if value.is_some() || optional {
            Type::optional(of)
        } else {
            of
        }
    }

    fn comprehension(&mut self, all: &ComprehensionExpr) -> Type {
        let range = self.check(&all.iter_range);
        let accumulator = self.check(&all.accu_init);
        let range = self.substitutions.substitute(&range, false);
        let outer = self.locals.len();
        self.locals
            .push((all.accu_var.clone(), accumulator.clone()));
        let (first, second) = self.elements(all, &range);
        let inner = self.locals.len();
        match &all.iter_var2 {
            None => self.locals.push((all.iter_var.clone(), first)),
            Some(name) => {
                self.locals.push((all.iter_var.clone(), first));
                self.locals.push((name.clone(), second));
            }
        }
        self.check_type(&all.loop_cond, &Type::Bool);
        self.check_type(&all.loop_step, &accumulator);
        self.locals.truncate(inner);
        let result = self.check(&all.result);
        self.locals.truncate(outer);
        self.substitutions.substitute(&result, false)
    }

    /// The types of the one or two variables of a comprehension.
    fn elements(&mut self, all: &ComprehensionExpr, range: &Type) -> (Type, Type) {
        let has_two = all.iter_var2.is_some();
        match range {
            Type::List(element) if has_two => (Type::Int, (**element).clone()),
            Type::List(element) => ((**element).clone(), Type::Dyn),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            Type::Dyn | Type::Error | Type::Parameter(_) => {
                self.substitutions.is_assignable(&Type::Dyn, range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let of = other.clone();
                self.refuse(&all.iter_range, CheckErrorKind::NoRange { of });
                (Type::Error, Type::Error)
            }
        }
    }

    /// Checks an expression that must have this type.
    fn check_type(&mut self, expression: &IdedExpr, expected: &Type) {
        let actual = self.check(expression);
        if !self.substitutions.is_assignable(expected, &actual) {
            self.refuse(expression, CheckErrorKind::mismatch(expected, &actual));
        }
    }

    /// The common type of the parts of a literal.
    fn join(&mut self, previous: Option<Type>, current: Type) -> Type {
        let Some(previous) = previous else {
            return current;
        };
        if self.substitutions.is_assignable(&previous, &current) {
            return most_general(&previous, &current).clone();
        }
        Type::Dyn
    }

    fn fresh_parameter(&mut self) -> Type {
        let parameter = Type::parameter(&format!("_var{}", self.fresh));
        self.fresh += 1;
        parameter
    }

    fn refuse(&mut self, expression: &IdedExpr, kind: CheckErrorKind) {
        let offset = position::of_expression(expression, self.source);
        self.refuse_at(expression.id, offset, kind);
    }

    fn refuse_at(&mut self, id: u64, offset: Option<usize>, kind: CheckErrorKind) {
        self.errors.push(CheckError {
            id,
            position: Position::at_offset(&self.source.source, offset),
            kind,
        });
    }
}

/// The type of a field; the field of a reserved word has an escaped name, too.
fn known_field(fields: &BTreeMap<String, Type>, name: &str) -> Option<Type> {
    let escaped = || is_reserved(name).then(|| fields.get(&format!("__{name}__")));
    fields.get(name).or_else(|| escaped().flatten()).cloned()
}

/// The name that a chain of selections spells: `a.b.c`.
fn qualified_name(expression: &IdedExpr) -> Option<String> {
    match &expression.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => {
            let prefix = qualified_name(&select.operand)?;
            Some(format!("{prefix}.{}", select.field))
        }
        _ => None,
    }
}

fn literal_type(literal: &LiteralValue) -> Type {
    match literal {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(_) => Type::String,
        LiteralValue::UInt(_) => Type::Uint,
    }
}
