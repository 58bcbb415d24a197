//! Static type checking of CEL expressions, with the rules and the messages of cel-go's checker.
//!
//! [`Declarations`] has the variables and functions of an environment; [`check`] computes the type of each
//! subexpression and the overloads of each call, or the errors. [`SchemaNode`] is the input for the types of a
//! structural schema. [`estimate`] computes the cost that a checked expression has at most.
//!
//! The checker follows the nesting of an expression with recursion, so the caller limits that nesting.

mod check;
mod cost;
mod declarations;
mod schema;
mod types;

pub use check::{CheckError, CheckErrorKind, CheckErrors, Checked, Position, check};
pub use check::{Constant, ConstantKind, invalid_constants};
pub use cost::{Content, FieldSize, Range, ValueSize, estimate};
pub use declarations::{Declarations, Overload, parse_type};
pub use schema::{NodeKind, SchemaNode, escape, is_reserved, schema_type};
pub use types::{Fields, ObjectType, Type};

#[cfg(test)]
mod tests;
