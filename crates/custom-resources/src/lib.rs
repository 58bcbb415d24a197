//! Custom resources: the schema of a CustomResourceDefinition, and its application to objects:
//! pruning, defaulting, validation. Pure: no I/O, no clock.

mod cel_bounds;
mod cel_library;
mod cel_meter;
mod cel_values;
mod columns;
mod construction;
pub mod conversion;
mod custom;
mod definition;
mod deprecation;
mod device_selector;
mod expression;
mod expression_error;
mod facts;
mod format;
mod json_path;
mod object_meta;
mod rule_types;
mod rules;
mod schema;
mod shape;
mod structural;
mod validate;
pub mod version_order;

pub use custom::{CustomKind, DefinedVersion, served_versions, withdrawn_versions};
pub use definition::{Definition, GROUP, PLURAL};
pub use device_selector::DeviceSelector;
pub use expression::{EvaluationResult, Expression, Values};
pub use expression_error::ExpressionError;
pub use json_path::JsonPath;
pub use rules::broken_rules;
pub use schema::{AdditionalProperties, Limits, ListType, Pattern, Schema, Type, Validation};
pub use shape::{default, prune};
pub use validate::validate;
