//! Warnings of a full store: in the log, and as an event on each node. The store in the data directory accepts events even
//! when it is full. A full etcd accepts none; the event is then stored when there is room again, with the times of the
//! problem. `/readyz/store-room` and the metrics show a full store, too.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use jiff::Timestamp;
use json_tree::json;
use mvcc_store::StoreError;
use object_model::{Status, StatusReason};

use crate::bootstrap::{this_server, write_request};
use crate::handlers::verbs::create::create;
use crate::http::limits::STORE_LOOK_INTERVAL;
use crate::objects::quota;
use crate::objects::storage::reading;
use crate::server::{ApiServer, StartError};

const REASON: &str = "StoreFull";

/// Servers find the store full within the interval of their looks, seconds after each other.
const EVENT_WINDOW_SECONDS: i64 = 600;
/// So much of a node's name is in the name of its event, which has at most 253 characters.
const NODE_NAME_LENGTH: usize = 200;

/// A time in which the store is full, or was until now.
struct Shortage {
    reason: String,
    first: Timestamp,
    last: Timestamp,
    /// The names of the nodes that have the event.
    told: BTreeSet<String>,
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
                // Deletions from a full etcd are not deducted.
                if let Err(error) = quota::recount_all(&server.objects).await {
                    tracing::warn!(%error, "quotas could not be counted");
                }
            }
            was_full = full.is_some();
            if let Some(told) = &mut shortage
                && told.tell(&server).await
                && !was_full
            {
                shortage = None;
            }
        }
        tokio::time::sleep(STORE_LOOK_INTERVAL).await;
    }
}

impl Shortage {
    fn begin(why: &StoreError) -> Self {
        let now = Timestamp::now();
        Self {
            reason: why.to_string(),
            first: now,
            last: now,
            told: BTreeSet::new(),
        }
    }

    /// Stores the event on each node that does not have it; `false` if one could not be stored.
    async fn tell(&mut self, server: &Arc<ApiServer>) -> bool {
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
            if self.told.contains(name) {
                continue;
            }
            match self.tell_of(server, name).await {
                Ok(()) => drop(self.told.insert(name.to_owned())),
                Err(error) => {
                    // The other ones would be refused, too.
                    tracing::debug!(%error, "the event of a full store is not stored yet");
                    return false;
                }
            }
        }
        true
    }

    async fn tell_of(&self, server: &Arc<ApiServer>, node: &str) -> Result<(), Status> {
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
                // As node agents do, so that events are found by the node's name.
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

/// The name of a node's event: the same of all servers that find the store full within some minutes.
fn event_name(node: &str, first: Timestamp) -> String {
    let node = node.get(..NODE_NAME_LENGTH).unwrap_or(node);
    let node = node.trim_end_matches(['-', '.']);
    let window = first.as_second() / EVENT_WINDOW_SECONDS;
    format!("{node}.store-full-{window:x}")
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
