//! Refusals of requests that concern no resource: unknown paths and methods that a path does not have.

use object_model::{Status, StatusDetails, StatusReason};

/// 404 for a path that nothing is served at.
///
/// It has details, though empty ones: some commands of kubectl look into them unasked, to tell
/// this from the 404 of an object, and crash where there are none.
pub(crate) fn unknown_path() -> Status {
    let text = "the server could not find the requested resource";
    let mut status = Status::new(StatusReason::NotFound, text);
    status.details = Some(Box::new(StatusDetails::default()));
    status
}

/// 405.
pub(crate) fn not_allowed() -> Status {
    let text = "the server does not allow this method on the requested resource";
    Status::new(StatusReason::MethodNotAllowed, text)
}
