//! Failed requests, and the `Status` with which an API server refuses a request.

use std::fmt;

use http::StatusCode;
use object_model::IncompleteMetadata;
use serde::{Deserialize, Serialize};

use crate::transport::BoxError;

/// The result of a request.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of a request: the server refused it, there is no response, or the response cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused the request.
    #[error("{0}")]
    Api(Box<Status>),
    /// The request cannot be expressed in HTTP.
    #[error("make a request to the API server")]
    Request(#[source] http::Error),
    /// The object of the request has no name.
    #[error("a request for an object without a name")]
    NoName,
    /// The connection could not be opened, or it ended before the response.
    #[error("no answer of the API server")]
    Transport(#[source] BoxError),
    /// The response ended early.
    #[error("read the answer of the API server")]
    Body(#[source] BoxError),
    /// A line of the response is longer than the limit.
    #[error("a line of the API server's answer is longer than {0} bytes")]
    LongLine(usize),
    /// An object does not match its type, or cannot be written as JSON.
    #[error("JSON of an object of the API")]
    Json(#[source] serde_json::Error),
    /// An object of the API has no complete identity.
    #[error("identity of an object of the API")]
    Identity(#[from] IncompleteMetadata),
}

impl Error {
    /// The code of a refusal; `None` for other errors.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api(status) => Some(status.code),
            _ => None,
        }
    }
}

/// The response of an API server that refuses a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// `Success` or `Failure`.
    pub status: String,
    /// HTTP status code.
    pub code: u16,
    /// Message for users.
    pub message: String,
    /// Reason for programs, for instance `NotFound`.
    pub reason: String,
    /// The object of the request, and the details of the causes.
    pub details: Option<StatusDetails>,
}

/// The object of a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StatusDetails {
    /// Name of the object; empty if the refusal concerns no object.
    pub name: String,
    /// API group of the object; empty for core.
    pub group: String,
    /// Resource or kind of the object, as the server chooses.
    pub kind: String,
    /// UID of the object; empty if the server did not send it.
    pub uid: String,
    /// The causes, for instance one for each invalid field.
    pub causes: Vec<StatusCause>,
    /// Seconds after which the client may try again.
    pub retry_after_seconds: u32,
}

/// One cause of a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusCause {
    /// Cause for programs, for instance `FieldValueInvalid`.
    pub reason: String,
    /// Message for users.
    pub message: String,
    /// Path of the field, for instance `spec.replicas`.
    pub field: String,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => write!(f, "the API server answers {} {}", self.code, self.reason),
            message => f.write_str(message),
        }
    }
}

impl Status {
    /// Creates a refusal of the API server.
    pub fn failure(message: &str, reason: &str, code: u16) -> Self {
        Self {
            status: "Failure".to_owned(),
            code,
            message: message.to_owned(),
            reason: reason.to_owned(),
            details: None,
        }
    }

    /// The refusal in a response with the given code. A proxy between client and server may send a body that is not a
    /// `Status`.
    pub(crate) fn of_response(code: StatusCode, body: &[u8]) -> Self {
        let code = code.as_u16();
        match serde_json::from_slice::<Self>(body) {
            Ok(mut status) if !(status.message.is_empty() && status.reason.is_empty()) => {
                if status.code == 0 {
                    status.code = code;
                }
                status
            }
            _ => Self::failure(String::from_utf8_lossy(body).trim(), "", code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_read_from_any_response() {
        let status = r#"{"kind":"Status","status":"Failure","reason":"Conflict","message":"m",
            "metadata":{},"details":{"causes":[{"reason":"r"}]}}"#;
        let status = Status::of_response(StatusCode::CONFLICT, status.as_bytes());
        assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
        assert_eq!(status.details.unwrap().causes[0].reason, "r");
        for (body, message) in [
            ("no backend\n", "no backend"),
            ("{}", "{}"),
            ("", "the API server answers 502 "),
        ] {
            let status = Status::of_response(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert_eq!((status.code, status.to_string().as_str()), (502, message));
        }
    }
}
