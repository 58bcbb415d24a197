//! flowcontrol.apiserver.k8s.io: priority and concurrency of requests.

mod defaults;
mod flow_schema;
mod priority_level_configuration;

pub use defaults::{AUTOUPDATE, mandatory, suggested};
pub use flow_schema::FlowSchema;
use json_tree::Value;
use object_model::FieldError;
pub use priority_level_configuration::PriorityLevelConfiguration;

use crate::validation::field::Field;

/// The API group of FlowSchemas and PriorityLevelConfigurations.
pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// The resource of FlowSchemas.
pub const SCHEMAS: &str = "flowschemas";
/// The resource of PriorityLevelConfigurations.
pub const LEVELS: &str = "prioritylevelconfigurations";

/// The name of the FlowSchema and of the priority level without limits.
pub const EXEMPT: &str = "exempt";
/// The name of the FlowSchema, and of its priority level, for requests that match no other schema.
pub const CATCH_ALL: &str = "catch-all";

/// The condition of a FlowSchema: whether its priority level does not exist.
pub const DANGLING: &str = "Dangling";

/// The default of `matchingPrecedence`.
const PRECEDENCE_DEFAULT: i64 = 1000;

/// Checks that condition types are unique.
fn check_conditions(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut types: Vec<&str> = Vec::new();
    for condition in Field::of(object, "status.conditions").items() {
        let kind = condition.get("type");
        if types.contains(&kind.text()) {
            errors.push(kind.duplicate());
        }
        types.push(kind.text());
        if kind.is_empty() {
            errors.push(kind.required("must not be empty"));
        }
    }
    errors
}
