//! Evaluation of CEL expressions, with the libraries of Kubernetes and the cost model of cel-go.
//!
//! The parser is the crate `cel`. [`Program::compile`] turns its syntax tree into a [`Program`] whose names are
//! resolved; [`Program::evaluate`] counts the cost of each step and stops at a limit. Values are shared by reference
//! counts, so that a variable of any size is bound without a copy.
//!
//! The evaluation follows the nesting of an expression with recursion, so the caller limits that nesting.

mod arithmetic;
mod call;
mod compare;
mod compile;
mod error;
mod evaluate;
mod functions;
mod macros;
mod meter;
mod node;
mod pattern;
mod re2;
mod url;
mod value;

pub use compile::{CompileError, Names, Program};
pub use error::EvaluationError;
pub use evaluate::{Evaluation, Variables};
pub use functions::times::nanoseconds;
pub use macros::environment;
pub use pattern::{PatternError, compile_pattern};
pub use value::{Extension, Key, List, ListKind, Map, Object, Time, Value};

#[cfg(test)]
mod tests;
