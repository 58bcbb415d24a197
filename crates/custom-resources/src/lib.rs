//! Custom resources: the schema that a CustomResourceDefinition carries, and what it does to
//! objects: pruning, defaulting, validation. Pure: no I/O, no clock.

mod cel_library;
mod cel_values;
mod format;
mod rules;
mod schema;
mod shape;
mod validate;

pub use rules::{Expression, broken_rules};
pub use schema::{Additional, Limits, ListType, Pattern, Schema, Type, Validation};
pub use shape::{default, prune};
pub use validate::validate;
