//! Errors of expressions.

use thiserror::Error;

use crate::cel_bounds::{BYTES_MAX, DEPTH_MAX, OPERATORS_MAX};

/// The reason why an expression cannot be compiled or evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExpressionError {
    #[error("the expression is longer than {BYTES_MAX} bytes")]
    TooLong,
    #[error("the expression is nested more than {DEPTH_MAX} deep")]
    TooDeep,
    #[error("the expression has more than {OPERATORS_MAX} operators")]
    TooManyOperators,
    #[error("a text in quotes does not end in its line, or has an escape that is not known")]
    UnreadableText,
    /// A syntax error, with its position.
    #[error("{0}")]
    Syntax(String),
    #[error("undeclared reference to '{0}'")]
    Undeclared(String),
    #[error("operation cancelled: actual cost limit exceeded: running out of cost budget")]
    OutOfBudget,
    /// A function failed, or a field does not exist.
    #[error("{0}")]
    Evaluation(String),
    #[error("expected {expected}, found {actual}")]
    UnexpectedType {
        expected: &'static str,
        actual: String,
    },
    #[error(
        "type mismatch: unexpected type name {actual:?}, expected {expected:?}, which matches field name path from \
         root Object type"
    )]
    UnexpectedTypeName { actual: String, expected: String },
    /// The result has no form in JSON.
    #[error("{0}")]
    NotJson(String),
    #[error("the expression says neither true nor false")]
    NotBoolean,
}
