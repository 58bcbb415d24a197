//! Access to the API server: the objects that pods refer to, events about pods, and their statuses.

pub(crate) mod claim_growth;
pub(crate) mod environments;
pub(crate) mod events;
pub(crate) mod object_error;
pub(crate) mod objects;
pub(crate) mod status_writer;
pub(crate) mod stored_status;

/// Whether the API server did not respond, or is not ready: a later attempt may succeed.
pub fn is_away(error: &kube_api_client::Error) -> bool {
    error
        .code()
        .is_none_or(|code| matches!(code, 429 | 500 | 503 | 504))
}
