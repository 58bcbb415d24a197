//! Errors of an evaluation, with the texts of cel-go.

use thiserror::Error;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EvaluationError {
    #[error("no such overload")]
    NoOverload,
    #[error("no such key: {0}")]
    NoKey(String),
    #[error("index out of bounds: {0}")]
    OutOfBounds(i64),
    #[error("no such attribute(s): {0}")]
    NoAttribute(String),
    #[error("division by zero")]
    DivisionByZero,
    #[error("modulus by zero")]
    ModulusByZero,
    #[error("integer overflow")]
    IntegerOverflow,
    #[error("unsigned integer overflow")]
    UnsignedOverflow,
    #[error("duration overflow")]
    DurationOverflow,
    #[error("timestamp overflow")]
    TimestampOverflow,
    #[error("optional.none() dereference")]
    EmptyOptional,
    /// The cost exceeds the limit of the evaluation; no operator ignores this error.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
    /// A function refused its arguments.
    #[error("{0}")]
    Function(String),
}

impl EvaluationError {
    /// Whether the evaluation must stop, because the limit of its cost is exceeded.
    pub fn is_cost_limit(&self) -> bool {
        matches!(self, Self::CostLimit)
    }
}
