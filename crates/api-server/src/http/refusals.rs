//! Refusals of requests that concern no resource: unknown paths and methods that a path does not have.

use object_model::{Status, StatusDetails, StatusReason};

/// 404 for a path where nothing is served.
///
/// It has details, though empty ones: some kubectl commands read them without a check, to
/// distinguish this from the 404 of an object, and crash without them.
pub(crate) fn unknown_path() -> Status {
    let text = "the server could not find the requested resource";
    let mut status = Status::new(StatusReason::NotFound, text);
    status.details = Some(Box::new(StatusDetails::default()));
    status
}

/// 405 `MethodNotAllowed`, with upstream's message.
pub(crate) fn not_allowed() -> Status {
    let text = "the server does not allow this method on the requested resource";
    Status::new(StatusReason::MethodNotAllowed, text)
}
