//! Kubernetes' `Status`: the form of every error for a client.

use serde::{Deserialize, Serialize};

use crate::field::FieldError;

/// Machine-readable reason of an error (`metav1.StatusReason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatusReason {
    /// 400
    BadRequest,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 406
    NotAcceptable,
    /// 409: an object with this name exists.
    AlreadyExists,
    /// 409: the object has changed, or a precondition is not met.
    Conflict,
    /// 410: the resource version is too old.
    Expired,
    /// 410
    Gone,
    /// 413
    RequestEntityTooLarge,
    /// 415
    UnsupportedMediaType,
    /// 422
    Invalid,
    /// 429
    TooManyRequests,
    /// 500
    InternalError,
    /// 500: a stored object cannot be decoded.
    #[serde(rename = "StorageReadError")]
    StoreReadError,
    /// 503
    ServiceUnavailable,
    /// 504
    Timeout,
    /// 507: the store has no space for the write.
    InsufficientStorage,
    /// 500 with retry; 504 from a server that timed out.
    ServerTimeout,
}

impl StatusReason {
    /// The HTTP status code of the reason.
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Expired | Self::Gone => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError | Self::StoreReadError | Self::ServerTimeout => 500,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
            Self::InsufficientStorage => 507,
        }
    }
}

/// One of several causes of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// For instance `FieldValueInvalid`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The error as a message for users.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The path of the field.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// The object of a Status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Resource (or kind, for validation) of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The single causes, for instance one for each invalid field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds after which the client may try again.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// An error in the form for clients.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// The reason for programs, for instance `NotFound`.
    pub reason: StatusReason,
    /// HTTP status code; the code of the reason, unless set otherwise.
    pub code: u16,
    /// The message for users.
    pub message: String,
    /// The object of the error; boxed because most results are not errors.
    pub details: Option<Box<StatusDetails>>,
    /// The token that continues an expired list (`metadata.continue`).
    pub next: Option<String>,
}

impl Status {
    /// An error without details.
    pub fn new(reason: StatusReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            code: reason.code(),
            message: message.into(),
            details: None,
            next: None,
        }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusReason::BadRequest, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(
            StatusReason::InternalError,
            format!("Internal error occurred: {}", message.into()),
        )
    }

    /// 404 `pods "web-0" not found`.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(group, resource));
        Self::about(StatusReason::NotFound, message, group, resource, name)
    }

    /// 409 `statefulsets.apps "web" already exists`.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(group, resource));
        Self::about(StatusReason::AlreadyExists, message, group, resource, name)
    }

    /// 409 for a generated name, after several attempts.
    pub fn no_unique_name(group: &str, resource: &str, name: &str) -> Self {
        let mut status = Self::already_exists(group, resource, name);
        let more = ", the server was not able to generate a unique name for the object";
        status.message.push_str(more);
        if let Some(details) = &mut status.details {
            details.retry_after_seconds = 1;
        }
        status
    }

    /// 409 `Operation cannot be fulfilled on pods "web-0": …`.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let subject = qualified(group, resource);
        let message = format!("Operation cannot be fulfilled on {subject} {name:?}: {why}");
        Self::about(StatusReason::Conflict, message, group, resource, name)
    }

    /// 403 `pods "web-0" is forbidden: …`.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let subject = qualified(group, resource);
        let message = if name.is_empty() {
            format!("{subject} is forbidden: {why}")
        } else {
            format!("{subject} {name:?} is forbidden: {why}")
        };
        Self::about(StatusReason::Forbidden, message, group, resource, name)
    }

    /// 422 `StatefulSet.apps "web" is invalid: …` with a cause per error.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let list: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let joined = match list.as_slice() {
            [only] => only.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} {name:?} is invalid: {joined}", qualified(group, kind));
        let mut status = Self::about(StatusReason::Invalid, message, group, kind, name);
        if let Some(details) = &mut status.details {
            details.causes = errors
                .iter()
                .map(|error| Cause {
                    reason: error.reason().to_owned(),
                    message: error.message(),
                    field: error.field.to_string(),
                })
                .collect();
        }
        status
    }

    fn about(reason: StatusReason, message: String, group: &str, kind: &str, name: &str) -> Self {
        let details = StatusDetails {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            ..StatusDetails::default()
        };
        Self {
            details: Some(Box::new(details)),
            ..Self::new(reason, message)
        }
    }

    /// The error with one more cause in its details.
    #[must_use]
    pub fn with_cause(mut self, cause: Cause) -> Self {
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// The JSON form of the response.
    pub fn to_json(&self) -> json_tree::Value {
        let mut value = json_tree::json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(details) = &self.details {
            value["details"] = json_tree::json!(details);
        }
        if let Some(next) = &self.next {
            value["metadata"]["continue"] = json_tree::json!(next);
        }
        value
    }
}

fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}
