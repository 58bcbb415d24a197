//! Custom resources: the schema of a CustomResourceDefinition, and its application to objects:
//! pruning, defaulting, validation. Pure: no I/O, no clock.

mod authorization;
mod authorizer_values;
mod cel_bounds;
mod cel_values;
mod columns;
mod combinations;
mod construction;
pub mod conversion;
mod custom;
mod definition;
mod definition_fields;
mod definition_form;
mod definition_parts;
mod deprecation;
mod device_selector;
mod expression;
mod expression_check;
mod expression_error;
mod facts;
mod format;
mod json_path;
mod lazy_object;
mod object_meta;
#[cfg(test)]
mod rule_corpus;
mod rule_costs;
mod rule_types;
mod rules;
mod schema;
mod schema_defaults;
mod schema_lists;
mod schema_node;
mod schema_path;
mod schema_rules;
mod shape;
mod stored_versions;
mod structural;
mod validate;
pub mod version_order;

pub use authorization::{
    AccessCheck, AccessDecision, AccessSubject, AccessTarget, RequestAuthorizer, ResourceAccess,
};
pub use custom::{CustomKind, DefinedVersion, served_versions, withdrawn_versions};
pub use definition::{Definition, GROUP, PLURAL};
pub use device_selector::DeviceSelector;
pub use expression::{EvaluationResult, Expression, Values};
pub use expression_check::{constructed_type, result_type};
pub use expression_error::ExpressionError;
pub use json_path::JsonPath;
pub use rules::broken_rules;
pub use schema::{AdditionalProperties, Limits, ListType, Pattern, Schema, Type, Validation};
pub use shape::{Fields, default, prune, unknown};
pub use validate::validate;
