//! The state of the store that a request must read if several servers share the store.
//!
//! A read without a resource version returns the newest state; a read with a resource version returns a state that is
//! at least as new (<https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>). A write and
//! its admission decide on the newest state, too, because another server may have written the objects that they
//! depend on.

use mvcc_store::{Store, StoreError};
use object_model::Status;

use super::verbs::list::parse_version;
use crate::http::call::Call;
use crate::objects::storage;

/// Waits until reads of the store return the state that the request must see. For the resource version "0" any state
/// is enough. If the store does not reach a version in time, the handler refuses the request.
///
/// *Errors.* 503 if the store does not respond.
pub(crate) async fn reach(store: &dyn Store, call: &Call) -> Result<(), Status> {
    let chooses = matches!(
        call.info.verb.as_str(),
        "get" | "list" | "watch" | "deletecollection"
    );
    // A continued list reads at the version in its token, which may come from another server.
    let chooses = chooses && call.query.get("continue").is_none();
    let version = call.query.get("resourceVersion").filter(|_| chooses);
    let reached = match version.map(parse_version) {
        None => store.newest().await.map(drop),
        Some(Ok(version)) if version <= store.current_revision() => Ok(()),
        Some(Ok(version)) => store.reached(version).await,
        Some(Err(_)) => Ok(()),
    };
    match reached {
        Ok(()) | Err(StoreError::Future { .. }) => Ok(()),
        Err(error) => Err(storage::refusal(&error)),
    }
}
