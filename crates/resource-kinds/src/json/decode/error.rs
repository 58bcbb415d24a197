//! Reasons why JSON is not an object of its kind, in the words of upstream's decoder.

use thiserror::Error;

/// The reason why an object does not have the form of its kind.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind { api_version: String, kind: String },
    /// A kind that is never stored.
    #[error("no kind {0:?} is registered")]
    UnknownBody(String),
    #[error("the body is not an object")]
    BodyNotObject,
    #[error("json: cannot unmarshal into an object")]
    NotObject,
    #[error("it is of kind {0}")]
    OtherKind(String),
    /// A value does not have the type of its field.
    #[error("json: cannot unmarshal {actual} into {target} of type {expected}")]
    Mismatch {
        actual: &'static str,
        /// `Go value`, or `Go struct field` with the path of the field.
        target: String,
        expected: String,
    },
    #[error("json: cannot unmarshal {kind}: {reason}")]
    Definition { kind: &'static str, reason: String },
    #[error("json: cannot unmarshal into Go value of type {0}")]
    DefinitionNotObject(&'static str),
    #[error("{0}")]
    Quantity(String),
    #[error("{0}")]
    Base64(String),
    #[error("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": {reason}")]
    Time { text: String, reason: String },
    #[error("missing field `{0}`")]
    MissingField(String),
    /// `apiVersion` or `kind` of an object inside of a custom resource.
    #[error("{0}: must be a string")]
    NotString(String),
    /// The metadata of an object inside of a custom resource.
    #[error("{path}.metadata: {reason}")]
    Embedded { path: String, reason: Box<Self> },
}
