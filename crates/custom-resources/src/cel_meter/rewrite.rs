//! The change of a syntax tree that makes its evaluation count its cost.

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, LiteralValue, operators,
};

use super::functions;

/// Namespaces of functions: in `math.abs(x)`, `math` is not a value.
const NAMESPACES: [&str; 6] = [
    "base64",
    "jsonpatch",
    "lists",
    "math",
    "optional",
    "strings",
];

/// The metered tree of an expression, and the number of nodes that each evaluation visits once.
pub(crate) fn metered(expression: &IdedExpr) -> (IdedExpr, u64) {
    let mut expression = expression.clone();
    let nodes = Rewriter::default().visit(&mut expression);
    (expression, nodes)
}

#[derive(Default)]
struct Rewriter {
    /// The variable names of the loops around the present node.
    bound: Vec<String>,
}

impl Rewriter {
    /// Changes a tree. Returns the number of its nodes, without the nodes inside of its loops.
    fn visit(&mut self, expression: &mut IdedExpr) -> u64 {
        match &mut expression.expr {
            Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => 1,
            Expr::Select(select) => 1 + self.visit(&mut select.operand),
            Expr::List(list) => {
                let elements = list.elements.iter_mut();
                1 + elements.map(|element| self.copied(element)).sum::<u64>()
            }
            Expr::Map(map) => {
                1 + map
                    .entries
                    .iter_mut()
                    .map(|entry| self.entry(entry))
                    .sum::<u64>()
            }
            Expr::Struct(all) => {
                1 + all
                    .entries
                    .iter_mut()
                    .map(|entry| self.entry(entry))
                    .sum::<u64>()
            }
            Expr::Comprehension(all) => self.comprehension(all),
            Expr::Call(_) => self.call(expression),
        }
    }

    /// Wraps a value that is copied into another value.
    fn copied(&mut self, value: &mut IdedExpr) -> u64 {
        let nodes = self.visit(value);
        wrap(value, functions::COPIED);
        nodes
    }

    /// Wraps a value that a function or an operator reads.
    fn read(&mut self, value: &mut IdedExpr) -> u64 {
        let nodes = self.visit(value);
        wrap(value, functions::READ);
        nodes
    }

    fn entry(&mut self, entry: &mut IdedEntryExpr) -> u64 {
        match &mut entry.expr {
            EntryExpr::StructField(field) => self.copied(&mut field.value),
            EntryExpr::MapEntry(entry) => {
                self.copied(&mut entry.key) + self.copied(&mut entry.value)
            }
        }
    }

    fn comprehension(&mut self, all: &mut ComprehensionExpr) -> u64 {
        let outside = self.visit(&mut all.iter_range);
        let initial = match is_literal(&all.accu_init) {
            true => 1,
            false => self.copied(&mut all.accu_init),
        };
        let names = self.bound.len();
        self.bound.push(all.iter_var.clone());
        self.bound.extend(all.iter_var2.clone());
        self.bound.push(all.accu_var.clone());
        let appends = appends(all);
        let step = match appends {
            true => self.appended(all),
            false => self.visit(&mut all.loop_step),
        };
        let within = 1 + step + self.visit(&mut all.loop_cond);
        let result = match &all.result.expr {
            Expr::Ident(name) if *name == all.accu_var && is_literal(&all.accu_init) => 1,
            _ => self.copied(&mut all.result),
        };
        self.bound.truncate(names);
        let is_empty = matches!(&all.iter_range.expr, Expr::List(list) if list.elements.is_empty());
        if !is_empty {
            // A loop that appends always runs to its end, so all steps are charged at its start; another loop charges
            // each step.
            let before = if appends { within } else { 0 };
            call_with(&mut all.iter_range, functions::RANGE, before);
            if !appends {
                stop_when_spent(&mut all.loop_cond, within);
            }
        }
        1 + outside + initial + result
    }

    /// Changes the step of a loop that appends; the interpreter requires this form of the step.
    fn appended(&mut self, all: &mut ComprehensionExpr) -> u64 {
        let Expr::Call(step) = &mut all.loop_step.expr else {
            return 1;
        };
        match step.args.as_mut_slice() {
            [_, list] => 2 + self.visit(list),
            [guard, step, _] => {
                let guard = self.visit(guard);
                match &mut step.expr {
                    Expr::Call(step) => match step.args.last_mut() {
                        Some(list) => 4 + guard + self.visit(list),
                        None => 4 + guard,
                    },
                    _ => 4 + guard,
                }
            }
            _ => 1,
        }
    }

    fn call(&mut self, expression: &mut IdedExpr) -> u64 {
        let Expr::Call(call) = &mut expression.expr else {
            return 1;
        };
        let mut nodes = 1;
        match call.func_name.as_str() {
            operators::CONDITIONAL
            | operators::LOGICAL_AND
            | operators::LOGICAL_OR
            | operators::LOGICAL_NOT
            | operators::NEGATE
            | operators::NOT_STRICTLY_FALSE => {
                nodes += call.args.iter_mut().map(|arg| self.visit(arg)).sum::<u64>();
                return nodes;
            }
            operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT => {
                nodes += call.args.iter_mut().map(|arg| self.visit(arg)).sum::<u64>();
                let is_index = call.func_name != operators::OPT_SELECT;
                if let Some(index) = call.args.get_mut(1).filter(|_| is_index)
                    && !is_plain_key(index)
                {
                    replace(index, functions::KEY, |inner| vec![inner]);
                }
                if call.func_name != operators::INDEX {
                    wrap(expression, functions::READ);
                }
                return nodes;
            }
            _ => {}
        }
        let is_namespace = call.target.as_deref().is_some_and(|target| {
            matches!(&target.expr, Expr::Ident(name)
                if NAMESPACES.contains(&name.as_str()) && !self.bound.contains(name))
        });
        if let Some(new_name) = functions::replacement(call, is_namespace) {
            let target = call.target.take().filter(|_| !is_namespace);
            let mut args: Vec<IdedExpr> = target.map(|target| *target).into_iter().collect();
            args.append(&mut call.args);
            nodes += args.iter_mut().map(|arg| self.visit(arg)).sum::<u64>();
            call.args = args;
            call.func_name = new_name;
            return nodes;
        }
        if call.func_name == "size" {
            let parts = call.target.as_deref_mut().into_iter();
            for part in parts.chain(call.args.iter_mut()) {
                nodes += self.visit(part);
                wrap(part, functions::MEASURED);
            }
            return nodes;
        }
        nodes += call.args.iter_mut().map(|arg| self.read(arg)).sum::<u64>();
        if let Some(target) = call.target.as_deref_mut().filter(|_| !is_namespace) {
            nodes += self.read(target);
        }
        nodes
    }
}

/// Whether a loop has the form of `map` and `filter`: the interpreter runs such a loop to its end without an
/// evaluation of its condition, and does not copy the list that it builds.
fn appends(all: &ComprehensionExpr) -> bool {
    let is_list = |expression: &IdedExpr| matches!(expression.expr, Expr::List(_));
    let is_result = |expression: &IdedExpr| matches!(&expression.expr, Expr::Ident(name) if *name == all.accu_var);
    let adds = |expression: &IdedExpr| match &expression.expr {
        Expr::Call(call) if call.func_name == operators::ADD && call.target.is_none() => {
            matches!(call.args.as_slice(), [result, list] if is_result(result) && is_list(list))
        }
        _ => false,
    };
    let is_step = match &all.loop_step.expr {
        Expr::Call(call) if call.func_name == operators::CONDITIONAL => {
            matches!(call.args.as_slice(), [_, step, other] if adds(step) && is_result(other))
        }
        _ => adds(&all.loop_step),
    };
    is_step && is_result(&all.result) && is_list(&all.accu_init) && is_literal(&all.loop_cond)
}

fn is_literal(expression: &IdedExpr) -> bool {
    match &expression.expr {
        Expr::Literal(_) => true,
        Expr::List(list) => list.elements.is_empty(),
        _ => false,
    }
}

/// Whether a key is a literal of a usual type.
fn is_plain_key(expression: &IdedExpr) -> bool {
    match &expression.expr {
        Expr::Literal(literal) => !matches!(literal, LiteralValue::Double(_)),
        _ => false,
    }
}

/// Whether the value is neither text nor list nor map, whatever the values of variables are.
fn is_scalar(expression: &IdedExpr) -> bool {
    match &expression.expr {
        Expr::Literal(_) => true,
        Expr::Select(select) => select.test,
        Expr::Call(call) => matches!(
            call.func_name.as_str(),
            operators::LOGICAL_AND
                | operators::LOGICAL_OR
                | operators::LOGICAL_NOT
                | functions::EQUAL
                | functions::DIFFERENT
                | functions::WITHIN
                | operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS
        ),
        _ => false,
    }
}

/// Wraps a value in a call of a function, unless the value costs nothing.
fn wrap(expression: &mut IdedExpr, function: &str) {
    if !is_scalar(expression) {
        replace(expression, function, |inner| vec![inner]);
    }
}

fn call_with(expression: &mut IdedExpr, function: &str, number: u64) {
    let number = number_literal(expression.id, number);
    replace(expression, function, |inner| vec![inner, number]);
}

/// Adds the count of a step to the condition of a loop. An error in the condition ends the loop; an error in the step
/// itself would be stored until the end of the loop.
fn stop_when_spent(condition: &mut IdedExpr, nodes: u64) {
    let id = condition.id;
    let of = |func_name: &str, args: Vec<IdedExpr>| IdedExpr {
        id,
        expr: Expr::Call(CallExpr {
            func_name: func_name.to_owned(),
            target: None,
            args,
        }),
    };
    let step = of(functions::STEP, vec![number_literal(id, nodes)]);
    let never = IdedExpr {
        id,
        expr: Expr::Literal(LiteralValue::Boolean(false.into())),
    };
    let inner = std::mem::take(condition);
    *condition = of(operators::CONDITIONAL, vec![step, inner, never]);
}

fn number_literal(id: u64, number: u64) -> IdedExpr {
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    IdedExpr {
        id,
        expr: Expr::Literal(LiteralValue::Int(number.into())),
    }
}

fn replace(
    expression: &mut IdedExpr,
    function: &str,
    args: impl FnOnce(IdedExpr) -> Vec<IdedExpr>,
) {
    let inner = std::mem::take(expression);
    *expression = IdedExpr {
        id: inner.id,
        expr: Expr::Call(CallExpr {
            func_name: function.to_owned(),
            target: None,
            args: args(inner),
        }),
    };
}
