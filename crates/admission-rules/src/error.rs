//! Errors of webhooks and policies, in upstream's words.

use custom_resources::ExpressionError;
use json_tree::Value;
use object_model::selector::SelectorError;
use resource_kinds::DecodeError;
use thiserror::Error;

/// The reason why a webhook or policy cannot be evaluated for a request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RuleError {
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    #[error("{condition}: {error}")]
    Condition {
        condition: String,
        error: ExpressionError,
    },
    /// The name of a match condition.
    #[error("{0}: not true or false")]
    ConditionNotBoolean(String),
    #[error(transparent)]
    Selector(#[from] SelectorError),
    #[error("failed to find resource referenced by paramKind: '{version}, Kind={kind}'")]
    ParameterKind { version: String, kind: String },
    #[error("no params found for policy binding with `Deny` parameterNotFoundAction")]
    NoParameters,
    /// The object cannot be converted to another version.
    #[error(transparent)]
    Conversion(#[from] DecodeError),
}

/// The reason why a policy cannot be applied to a request, by its fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigurationError {
    #[error("failed to configure policy: {0}")]
    Policy(RuleError),
    #[error("failed to configure binding: {0}")]
    Binding(RuleError),
}

/// The reason why the response of a webhook is not valid.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReviewError {
    #[error(
        "expected webhook response of {version}, Kind=AdmissionReview, got {actual_version}, Kind={actual_kind}"
    )]
    Kind {
        version: String,
        actual_version: Value,
        actual_kind: Value,
    },
    #[error("expected response.uid={expected:?}, got {actual}")]
    Uid { expected: String, actual: Value },
    #[error("webhook response was absent")]
    Absent,
    #[error(
        "webhook returned response.patch: {has_patch}, response.patchType: {patch_type:?}; both or neither have to \
         be there, and the type JSONPatch"
    )]
    Patch {
        has_patch: bool,
        patch_type: Option<String>,
    },
}
