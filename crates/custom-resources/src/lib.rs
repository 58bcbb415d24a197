//! Custom resources: the schema that a CustomResourceDefinition carries, and what it does to
//! objects: pruning, defaulting, validation. Pure: no I/O, no clock.

mod format;
mod schema;
mod shape;
mod validate;

pub use schema::{Additional, Limits, ListType, Pattern, Schema, Type, Validation};
pub use shape::{default, prune};
pub use validate::validate;
