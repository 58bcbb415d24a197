//! The state of the store that a request must see when several servers share the store.
//!
//! Without a resource version a read is of the most recent state, and with one of a state that is at
//! least as new (<https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>). A
//! write and its admission decide on the most recent state, too: the objects that they depend on may
//! have been written through another server.

use mvcc_store::{Store, StoreError};
use object_model::Status;

use super::verbs::list::parse_version;
use crate::http::call::Call;
use crate::objects::storage;

/// Waits until reads of the store include the state that the request must see. With the resource version "0"
/// that is any state. The handler refuses a version that has not come in time.
///
/// *Errors.* 503 for a store that does not answer.
pub(crate) async fn reach(store: &dyn Store, call: &Call) -> Result<(), Status> {
    let chooses = matches!(
        call.info.verb.as_str(),
        "get" | "list" | "watch" | "deletecollection"
    );
    // A list is continued at the version in its token, perhaps of another server.
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
