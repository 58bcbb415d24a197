//! Refusals of requests without a resource: unknown paths, and methods that a path does not support.

use object_model::{Status, StatusDetails, StatusReason};

/// 404 for a path that is not served.
///
/// The Status has empty details: some kubectl commands read the details without a check, to distinguish this 404 from
/// the 404 of an object, and crash if they are absent.
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
