//! Literal arguments that a function would refuse at each evaluation (as cel-go, `cel/validator.go`).

use cel::common::ast::{Expr, IdedExpr, LiteralValue, SourceInfo};

use super::children::children;
use super::{CheckError, CheckErrorKind, CheckErrors, Position, position};

/// The kind of a literal argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConstantKind {
    /// The argument of `duration()`.
    Duration,
    /// The argument of `timestamp()`.
    Timestamp,
    /// The first argument of `matches()`.
    Pattern,
}

/// A literal argument.
#[derive(Clone, Copy, Debug)]
pub struct Constant<'e> {
    pub kind: ConstantKind,
    pub literal: &'e LiteralValue,
}

/// Checks the literal arguments of an expression.
///
/// # Errors
/// The arguments that are not valid, in the order of their positions.
pub fn invalid_constants(
    expression: &IdedExpr,
    source: &SourceInfo,
    is_valid: impl Fn(Constant<'_>) -> bool,
) -> Result<(), CheckErrors> {
    let mut errors = Vec::new();
    visit(expression, &mut |part, kind, function| {
        if let Expr::Literal(literal) = &part.expr
            && !is_valid(Constant { kind, literal })
        {
            errors.push(CheckError {
                id: part.id,
                position: Position::at_offset(
                    &source.source,
                    position::of_expression(part, source),
                ),
                kind: CheckErrorKind::InvalidConstant { function },
            });
        }
    });
    if errors.is_empty() {
        return Ok(());
    }
    Err(CheckErrors::new(errors, &source.source))
}

/// Calls a function for the first argument of each call of the checked functions.
fn visit<'e>(
    expression: &'e IdedExpr,
    visitor: &mut impl FnMut(&'e IdedExpr, ConstantKind, &'static str),
) {
    if let Expr::Call(call) = &expression.expr {
        let kind = match call.func_name.as_str() {
            "duration" => Some((ConstantKind::Duration, "duration")),
            "timestamp" => Some((ConstantKind::Timestamp, "timestamp")),
            "matches" => Some((ConstantKind::Pattern, "matches")),
            _ => None,
        };
        if let (Some((kind, function)), Some(argument)) = (kind, call.args.first()) {
            visitor(argument, kind, function);
        }
    }
    for part in children(expression) {
        visit(part, visitor);
    }
}
