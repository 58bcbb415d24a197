//! A full etcd, which executes only deletions: the possible deletions, and the reports afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use json_tree::{Value, json};
use kube_api_server::Limits;
use mvcc_store::embedded::EmbeddedStore;
use mvcc_store::{Operation, Store, StoreError, StoreLayer, StoreUsage, Txn, TxnResult};

use crate::harness::{Api, CONFIG_MAPS, config_map};

const QUOTA: &str = "/api/v1/namespaces/default/resourcequotas/q";
const EVENTS: &str = "/api/v1/namespaces/default/events?fieldSelector=reason=StoreFull";

/// A store that can behave like an etcd with the alarm NOSPACE.
struct MayBeFull {
    store: Arc<EmbeddedStore>,
    is_full: AtomicBool,
    /// The number of refused events.
    refused_events: AtomicUsize,
}

impl MayBeFull {
    fn full(&self) -> Option<StoreError> {
        let is_full = self.is_full.load(Ordering::SeqCst);
        is_full.then(|| StoreError::Full("mvcc: database space exceeded".to_owned()))
    }
}

impl StoreLayer for MayBeFull {
    fn inner(&self) -> &dyn Store {
        self.store.as_ref()
    }

    fn occupancy(&self) -> StoreUsage {
        StoreUsage {
            full: self.full(),
            ..self.store.occupancy()
        }
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        let mut puts = txn.operations.iter().filter_map(|one| match one {
            Operation::Put { key, .. } => Some(key),
            Operation::Delete { .. } => None,
        });
        match (self.full(), puts.next()) {
            (Some(full), Some(key)) => {
                if key.starts_with(b"/registry/events/") {
                    self.refused_events.fetch_add(1, Ordering::SeqCst);
                }
                async { Err(full) }.boxed()
            }
            _ => self.store.txn(txn),
        }
    }
}

/// Waits until the next check of the store has had its effect.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..6_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited for {what}");
}

#[tokio::test]
async fn a_full_etcd_can_be_emptied_and_tells_of_it_afterwards() {
    let store = EmbeddedStore::in_memory();
    let faulty = Arc::new(MayBeFull {
        store: store.clone(),
        is_full: AtomicBool::new(false),
        refused_events: AtomicUsize::new(0),
    });
    let api = Api::through(store, faulty.clone(), Limits::default(), None).await;
    api.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}}))
        .await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "3"}}});
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    api.create(quotas, quota).await;
    for name in ["a", "b"] {
        api.create(CONFIG_MAPS, config_map(name)).await;
    }
    faulty.is_full.store(true, Ordering::SeqCst);
    let (code, refused) = api.send("POST", CONFIG_MAPS, config_map("c")).await;
    assert_eq!(code, 507, "{refused}");
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("database space exceeded"), "{message}");
    // The deletion would also change the status of the quota, and that write is not a deletion.
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
    assert_eq!(api.get(&path).await.0, 404);
    let response = api.raw("GET", "/readyz/store-room", &[], "").await;
    assert_eq!(response.code, 500);
    until("the look at the full store", async || {
        faulty.refused_events.load(Ordering::SeqCst) > 0
    })
    .await;
    assert_eq!(api.get(EVENTS).await.1["items"], json!([]));

    faulty.is_full.store(false, Ordering::SeqCst);
    until("the event", async || {
        api.get(EVENTS).await.1["items"] != json!([])
    })
    .await;
    let (_, events) = api.get(EVENTS).await;
    let [event] = events["items"].as_array().unwrap().as_slice() else {
        panic!("{events}");
    };
    assert_eq!(event["involvedObject"]["name"], "n1");
    until("the count of the quota", async || {
        api.get(QUOTA).await.1["status"]["used"]["configmaps"] == "1"
    })
    .await;
    api.create(CONFIG_MAPS, config_map("c")).await;
}
