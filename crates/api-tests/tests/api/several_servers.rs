//! Several servers over one store. One server is behind: its reads return an earlier state until it waits for a newer
//! state.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::{BoxFuture, poll_immediate};
use json_tree::{Value, json};
use kube_api_server::Limits;
use mvcc_store::embedded::EmbeddedStore;
use mvcc_store::{Range, RangeResult, Revision, Store, StoreError, StoreLayer, Txn, TxnResult};
use tokio::sync::watch;

use crate::harness::{Api, CONFIG_MAPS, Events, config_map};

/// A server's copy of the store, which is updated only on request.
struct Copy {
    cluster: Arc<EmbeddedStore>,
    observed: watch::Sender<Revision>,
    /// The number of requests to the other servers for the newest revision.
    requests: AtomicUsize,
    /// The error that the other servers return; `None` if they respond.
    failure: Mutex<Option<StoreError>>,
}

impl Copy {
    fn catch_up(&self) {
        self.observed.send_replace(self.cluster.current_revision());
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl StoreLayer for Copy {
    fn inner(&self) -> &dyn Store {
        self.cluster.as_ref()
    }

    fn current_revision(&self) -> Revision {
        *self.observed.borrow()
    }

    fn newest(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if let Some(failure) = StoreLayer::failure(self) {
            return async { Err(failure) }.boxed();
        }
        self.catch_up();
        self.cluster.newest()
    }

    fn reached(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        if revision > self.cluster.current_revision() {
            return self.cluster.reached(revision);
        }
        let mut observed = self.observed.subscribe();
        async move {
            let reached = observed.wait_for(|value| *value >= revision).await;
            reached.map(drop).map_err(|_| StoreError::Closed)
        }
        .boxed()
    }

    fn failure(&self) -> Option<StoreError> {
        self.failure.lock().unwrap().clone()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        async move {
            let done = self.cluster.txn(txn).await;
            self.catch_up();
            done
        }
        .boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        let revision = Some(range.revision.unwrap_or(*self.observed.borrow()));
        self.cluster.range(Range { revision, ..range })
    }
}

/// A server that is up to date, a server that is behind, and the copy of the latter.
async fn two() -> (Api, Api, Arc<Copy>) {
    let cluster = EmbeddedStore::in_memory();
    let ahead = Api::over(cluster.clone(), Limits::default(), None).await;
    let copy = Arc::new(Copy {
        observed: watch::Sender::new(cluster.current_revision()),
        cluster: cluster.clone(),
        requests: AtomicUsize::new(0),
        failure: Mutex::default(),
    });
    let behind = Api::through(cluster, copy.clone(), Limits::default(), None).await;
    (ahead, behind, copy)
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

/// A server that has lost most members of its store is not ready, but a restart does not help; a server whose store
/// was replaced must be restarted.
#[tokio::test]
async fn a_store_that_does_not_answer_is_no_reason_to_restart() {
    let (_, server, copy) = two().await;
    let codes = async |failure: Option<StoreError>| {
        *copy.failure.lock().unwrap() = failure;
        let mut codes = Vec::new();
        for path in [
            "/readyz",
            "/readyz/etcd",
            "/livez",
            "/livez/etcd",
            "/healthz",
        ] {
            codes.push(server.raw("GET", path, &[], "").await.code);
        }
        codes
    };
    assert_eq!(codes(None).await, [200; 5]);
    let away = StoreError::Unavailable("no leader".to_owned());
    assert_eq!(codes(Some(away)).await, [500, 500, 200, 200, 500]);
    let replaced = StoreError::Replaced("an older state".to_owned());
    assert_eq!(codes(Some(replaced)).await, [500; 5]);
    assert_eq!(codes(None).await, [200; 5]);
}

/// A read without a resource version returns the newest state, and a read with "0" returns any state
/// (<https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list>).
#[tokio::test]
async fn reads_see_what_other_servers_have_written() {
    let (ahead, behind, copy) = two().await;
    ahead.create(CONFIG_MAPS, config_map("a")).await;
    let one = format!("{CONFIG_MAPS}/a");
    let before = copy.requests();
    assert_eq!(behind.get(&format!("{one}?resourceVersion=0")).await.0, 404);
    let (_, any) = behind
        .get(&format!("{CONFIG_MAPS}?resourceVersion=0"))
        .await;
    assert_eq!(names(&any), [""; 0]);
    assert_eq!(copy.requests(), before, "no other server is asked");
    assert_eq!(behind.get(&one).await.0, 200);
    ahead.create(CONFIG_MAPS, config_map("b")).await;
    let (_, list) = behind.get(CONFIG_MAPS).await;
    assert_eq!(names(&list), ["a", "b"]);
    ahead.create(CONFIG_MAPS, config_map("c")).await;
    let mut events = Events::open(&behind, &format!("{CONFIG_MAPS}?watch=1")).await;
    for name in ["a", "b", "c"] {
        assert_eq!(events.short().await, format!("ADDED {name}"));
    }
    // The second page has the version of the first page, also from a server that has not reached this version yet.
    let (_, page) = ahead.get(&format!("{CONFIG_MAPS}?limit=2")).await;
    ahead.create(CONFIG_MAPS, config_map("d")).await;
    let (_, page2) = ahead.get(&format!("{CONFIG_MAPS}?limit=2")).await;
    let rest = |page: &Value| {
        let token = page["metadata"]["continue"].as_str().unwrap();
        format!("{CONFIG_MAPS}?limit=2&resourceVersion=0&continue={token}")
    };
    assert_eq!(names(&behind.get(&rest(&page2)).await.1), ["c", "d"]);
    assert_eq!(names(&behind.get(&rest(&page)).await.1), ["c"]);
}

/// A server waits for the resource version of another server, and refuses a version only if it does not exist.
#[tokio::test]
async fn a_version_of_another_server_is_waited_for() {
    let (ahead, behind, copy) = two().await;
    let created = ahead.create(CONFIG_MAPS, config_map("a")).await;
    let version = created["metadata"]["resourceVersion"].as_str().unwrap();
    let at = format!("resourceVersion={version}");
    let one = format!("{CONFIG_MAPS}/a?{at}");
    let exact = format!("{CONFIG_MAPS}?{at}&resourceVersionMatch=Exact");
    let streamed = format!("{CONFIG_MAPS}?watch=1&{at}");
    let mut get = Box::pin(behind.get(&one));
    let mut list = Box::pin(behind.get(&exact));
    let mut watch = Box::pin(Events::open(&behind, &streamed));
    assert!(poll_immediate(&mut get).await.is_none());
    assert!(poll_immediate(&mut list).await.is_none());
    assert!(poll_immediate(&mut watch).await.is_none());
    copy.catch_up();
    assert_eq!(get.await.1["metadata"]["resourceVersion"], version);
    assert_eq!(names(&list.await.1), ["a"]);
    let mut events = watch.await;
    ahead.create(CONFIG_MAPS, config_map("b")).await;
    assert_eq!(events.short().await, "ADDED b");
    let (code, status) = behind
        .get(&format!("{CONFIG_MAPS}?resourceVersion=999999"))
        .await;
    assert_eq!(code, 504, "{status}");
    assert_eq!(
        status["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
}

/// A write and its admission decide on the newest state: another server may have written the namespace, the object
/// and the quota.
#[tokio::test]
async fn writes_decide_on_what_other_servers_have_written() {
    let (ahead, behind, _copy) = two().await;
    let namespace = json!({"metadata": {"name": "new"}});
    ahead.create("/api/v1/namespaces", namespace).await;
    let maps = "/api/v1/namespaces/new/configmaps";
    behind.create(maps, config_map("a")).await;
    let one = format!("{maps}/a");
    let (_, mut changed) = ahead
        .patch(&one, "merge", json!({"data": {"a": "2"}}))
        .await;
    changed["data"]["a"] = json!("3");
    let (code, put) = behind.send("PUT", &one, changed).await;
    assert_eq!(code, 200, "{put}");
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "1"}}});
    ahead
        .create("/api/v1/namespaces/new/resourcequotas", quota)
        .await;
    let (code, refused) = behind.send("POST", maps, config_map("b")).await;
    assert_eq!(code, 403, "{refused}");
    ahead.create(CONFIG_MAPS, config_map("c")).await;
    let path = format!("{CONFIG_MAPS}/c");
    assert_eq!(behind.send("DELETE", &path, Value::Null).await.0, 200);
    ahead.create(CONFIG_MAPS, config_map("d")).await;
    let all = behind.send("DELETE", CONFIG_MAPS, Value::Null).await.1;
    assert_eq!(names(&all), ["d"]);
}
