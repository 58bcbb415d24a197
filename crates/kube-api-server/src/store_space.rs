//! Warnings about a full store: in the log, and as an Event on each node. The store in the data directory accepts
//! Events even when it is full. A full etcd accepts none; the Event is then stored after the store has space again,
//! with the times of the problem. `/readyz/store-room` and the metrics report a full store, too.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use jiff::Timestamp;
use json_tree::json;
use mvcc_store::StoreError;
use object_model::{Status, StatusReason};

use crate::bootstrap::{this_server, write_request};
use crate::handlers::verbs::create::create;
use crate::http::limits::STORE_CHECK_INTERVAL;
use crate::objects::quota;
use crate::objects::storage::reading;
use crate::server::{ApiServer, StartError};

const REASON: &str = "StoreFull";

/// Several servers detect the full store within their check interval, at times that differ by seconds. They must
/// create one Event.
const EVENT_WINDOW_SECONDS: i64 = 600;
/// Maximum length of the node name in the name of its Event, which has at most 253 characters.
const NODE_NAME_LENGTH: usize = 200;

/// A period in which the store is or was full.
struct Shortage {
    reason: String,
    first: Timestamp,
    last: Timestamp,
    /// The names of the nodes on which the Event is stored.
    notified: BTreeSet<String>,
}

/// Checks the store at intervals until the server is dropped.
pub(crate) async fn watch(server: Weak<ApiServer>) {
    let (mut was_full, mut shortage) = (false, None);
    loop {
        {
            let Some(server) = server.upgrade() else {
                return;
            };
            let full = server.objects.store.occupancy().full;
            if let Some(why) = &full {
                if !was_full {
                    tracing::warn!(%why, "the store takes nothing new");
                }
                shortage.get_or_insert_with(|| Shortage::begin(why)).last = Timestamp::now();
            } else if was_full {
                tracing::info!("the store has room again");
                // etcd does not subtract deletions that are made while it is full, so the quotas are recounted.
                if let Err(error) = quota::recount_all(&server.objects).await {
                    tracing::warn!(%error, "quotas could not be counted");
                }
            }
            was_full = full.is_some();
            if let Some(current) = &mut shortage
                && current.notify_nodes(&server).await
                && !was_full
            {
                shortage = None;
            }
        }
        tokio::time::sleep(STORE_CHECK_INTERVAL).await;
    }
}

impl Shortage {
    fn begin(why: &StoreError) -> Self {
        let now = Timestamp::now();
        Self {
            reason: why.to_string(),
            first: now,
            last: now,
            notified: BTreeSet::new(),
        }
    }

    /// Stores the Event on each node that does not have it yet; returns `false` if a write failed.
    async fn notify_nodes(&mut self, server: &Arc<ApiServer>) -> bool {
        let nodes = match reading(&server.objects, |reads| Ok(reads.all("", "nodes", ""))) {
            Ok(nodes) => nodes,
            Err(error) => {
                tracing::warn!(%error, "no node for the event of a full store");
                return false;
            }
        };
        let names = nodes
            .iter()
            .filter_map(|node| node["metadata"]["name"].as_str());
        for name in names {
            if self.notified.contains(name) {
                continue;
            }
            match self.store_event(server, name).await {
                Ok(()) => drop(self.notified.insert(name.to_owned())),
                Err(error) => {
                    // The writes for other nodes would fail, too.
                    tracing::debug!(%error, "the event of a full store is not stored yet");
                    return false;
                }
            }
        }
        true
    }

    async fn store_event(&self, server: &Arc<ApiServer>, node: &str) -> Result<(), Status> {
        let Some(resource) = server.objects.catalog.any_version("", "events") else {
            return Ok(());
        };
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": event_name(node, self.first), "namespace": "default"},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Node",
                "name": node,
                // The UID of the node in an Event is the node name, as for Events of kubelets: clients search by this
                // value.
                "uid": node,
            },
            "type": "Warning",
            "reason": REASON,
            "message": self.reason,
            "count": 1,
            "firstTimestamp": crate::objects::metadata::time(self.first),
            "lastTimestamp": crate::objects::metadata::time(self.last),
            "source": {"component": "kube-apiserver"},
        });
        let user = this_server();
        let request = write_request(&resource, &user, "default", "");
        match create(server.writer(), &request, event).await {
            Err(status) if status.reason == StatusReason::AlreadyExists => Ok(()),
            created => created.map(drop),
        }
    }
}

/// The name of a node's Event: equal for all servers that detect the full store within some minutes.
fn event_name(node: &str, first: Timestamp) -> String {
    let node = node.get(..NODE_NAME_LENGTH).unwrap_or(node);
    let node = node.trim_end_matches(['-', '.']);
    let window = first.as_second() / EVENT_WINDOW_SECONDS;
    format!("{node}.store-full-{window:x}")
}

/// The result of a step of the start. The start continues with a full store, because otherwise nothing in the store
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_name_the_event_of_a_node_alike() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let name = event_name("n1.example.com", at(1_800_000_000));
        assert_eq!(name, "n1.example.com.store-full-2dc6c0");
        assert_eq!(event_name("n1.example.com", at(1_800_000_009)), name);
        assert_ne!(event_name("n1.example.com", at(1_800_003_600)), name);
        assert_ne!(event_name("n2.example.com", at(1_800_000_000)), name);
        let long = event_name(&"a".repeat(253), at(1_800_000_000));
        assert!(long.len() < 253, "{long}");
    }
}
