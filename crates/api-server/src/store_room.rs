//! Warnings of a full store: in the log, and as an event on each node, which the store accepts even then.
//! `/readyz/store-room` and the metrics show it too.

use std::sync::{Arc, Weak};

use jiff::Timestamp;
use mvcc_store::StoreError;
use object_model::Status;
use serde_json::{Value, json};

use crate::bootstrap::{this_server, write_request};
use crate::handlers::verbs::create::create;
use crate::http::limits::STORE_LOOK_INTERVAL;
use crate::objects::storage::reading;
use crate::server::{ApiServer, StartError};

const REASON: &str = "StoreFull";

/// Looks from time to time, for as long as there is the server.
pub(crate) async fn watch(server: Weak<ApiServer>) {
    let mut was_full = false;
    loop {
        {
            let Some(server) = server.upgrade() else {
                return;
            };
            let full = server.objects.store.occupancy().full;
            match &full {
                Some(why) if !was_full => {
                    tracing::warn!(%why, "the store takes nothing new");
                    tell(&server, why).await;
                }
                None if was_full => tracing::info!("the store has room again"),
                _ => {}
            }
            was_full = full.is_some();
        }
        tokio::time::sleep(STORE_LOOK_INTERVAL).await;
    }
}

async fn tell(server: &Arc<ApiServer>, why: &StoreError) {
    let nodes = match reading(&server.objects, |reads| Ok(reads.all("", "nodes", ""))) {
        Ok(nodes) => nodes,
        Err(error) => return tracing::warn!(%error, "no node for the event of a full store"),
    };
    for node in nodes {
        if let Err(error) = tell_of(server, &node, why).await {
            tracing::warn!(%error, "the event of a full store could not be stored");
        }
    }
}

async fn tell_of(server: &Arc<ApiServer>, node: &Value, why: &StoreError) -> Result<(), Status> {
    let Some(resource) = server.objects.catalog.any_version("", "events") else {
        return Ok(());
    };
    let now = crate::objects::metadata::time(Timestamp::now());
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "store-full-", "namespace": "default"},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Node",
            "name": node["metadata"]["name"],
            // As node agents do, so that events are found by the node's name.
            "uid": node["metadata"]["name"],
        },
        "type": "Warning",
        "reason": REASON,
        "message": format!("{why}"),
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": "kube-apiserver"},
    });
    let user = this_server();
    let request = write_request(&resource, &user, "default", "");
    create(server.writer(), &request, event).await.map(drop)
}

/// The result of a step of the start. A full store must not prevent the start, or nothing in it
/// could be deleted.
pub(crate) fn unless_full(
    server: &ApiServer,
    outcome: Result<(), StartError>,
) -> Result<(), StartError> {
    match (outcome, server.objects.store.occupancy().full) {
        (Err(StartError::DefaultObject { what, source }), Some(why)) => {
            tracing::warn!(%what, %source, %why, "a default object is missing");
            Ok(())
        }
        (outcome, _) => outcome,
    }
}
