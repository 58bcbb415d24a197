//! ResourceQuotas of a namespace.

use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use json_tree::{Value, json};
use kube_api_server::AdmissionConfiguration;
use mvcc_store::embedded::EmbeddedStore;
use mvcc_store::{Operation, Store, StoreError, StoreLayer, Txn, TxnResult};

use crate::harness::{Api, CONFIG_MAPS, PODS, config_map, pod};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

fn quota(hard: Value) -> Value {
    json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})
}

async fn used(api: &Api) -> Value {
    api.get(&format!("{QUOTAS}/q")).await.1["status"]["used"].clone()
}

#[tokio::test]
async fn what_there_is_counts_and_what_is_too_much_is_refused() {
    let api = Api::new().await;
    api.with_account().await;
    api.create(CONFIG_MAPS, config_map("a")).await;
    let created = api
        .create(
            QUOTAS,
            quota(json!({"configmaps": "2", "pods": "1", "count/secrets": "0"})),
        )
        .await;
    assert_eq!(
        created["status"],
        json!({
            "hard": {"configmaps": "2", "pods": "1", "count/secrets": "0"},
            "used": {"configmaps": "1", "count/secrets": "0", "pods": "0"},
        })
    );
    api.create(CONFIG_MAPS, config_map("b")).await;
    let (code, refused) = api.send("POST", CONFIG_MAPS, config_map("c")).await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "configmaps \"c\" is forbidden: exceeded quota: q, requested: configmaps=1, used: \
         configmaps=2, limited: configmaps=2"
    );
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    assert_eq!(api.send("POST", &dry, config_map("c")).await.0, 403);
    // An update of an existing object does not increase the usage.
    let note = json!({"data": {"b": "2"}});
    assert_eq!(
        api.patch(&format!("{CONFIG_MAPS}/a"), "merge", note)
            .await
            .0,
        200
    );
    api.send("DELETE", &format!("{CONFIG_MAPS}/a"), Value::Null)
        .await;
    assert_eq!(used(&api).await["configmaps"], "1");
    api.create(CONFIG_MAPS, config_map("c")).await;

    api.create(PODS, pod("p")).await;
    assert_eq!(api.send("POST", PODS, pod("other")).await.0, 403);
    let over = json!({"status": {"phase": "Succeeded"}});
    assert_eq!(
        api.patch(&format!("{PODS}/p/status"), "merge", over)
            .await
            .0,
        200
    );
    assert_eq!(used(&api).await["pods"], "0");
    api.create(PODS, pod("other")).await;

    let more = json!({"spec": {"hard": {"configmaps": "3", "count/secrets": null}}});
    let (_, changed) = api.patch(&format!("{QUOTAS}/q"), "merge", more).await;
    assert_eq!(
        changed["status"],
        json!({"hard": {"configmaps": "3", "pods": "1"}, "used": {"configmaps": "2", "pods": "1"}})
    );
    // The quota does not apply to another namespace.
    let elsewhere = "/api/v1/namespaces/kube-public/configmaps";
    for name in ["a", "b", "c", "d"] {
        api.create(elsewhere, config_map(name)).await;
    }
}

#[tokio::test]
async fn a_quota_of_quotas_counts_itself() {
    let api = Api::new().await;
    let hard = json!({"resourcequotas": "2", "count/resourcequotas": "2"});
    let created = api.create(QUOTAS, quota(hard.clone())).await;
    let one = json!({"resourcequotas": "1", "count/resourcequotas": "1"});
    assert_eq!(created["status"]["used"], one);
    // The object is counted again, but still only once.
    let label = json!({"spec": {"hard": {"resourcequotas": "3"}}});
    api.patch(&format!("{QUOTAS}/q"), "merge", label).await;
    assert_eq!(used(&api).await, one);
    let other = json!({"metadata": {"name": "other"}, "spec": {"hard": hard}});
    assert_eq!(
        api.create(QUOTAS, other).await["status"]["used"]["resourcequotas"],
        "2"
    );
    assert_eq!(used(&api).await["resourcequotas"], "2");
}

#[tokio::test]
async fn a_quota_is_never_exceeded_however_many_ask_at_once() {
    let api = Api::new().await;
    api.create(QUOTAS, quota(json!({"configmaps": "7"}))).await;
    let all = (0..40).map(|number| {
        let api = &api;
        async move {
            let body = config_map(&format!("m{number}"));
            api.send("POST", CONFIG_MAPS, body).await.0
        }
    });
    let codes = futures::future::join_all(all).await;
    assert_eq!(
        codes.iter().filter(|code| **code == 201).count(),
        7,
        "{codes:?}"
    );
    assert_eq!(
        codes.iter().filter(|code| **code == 403).count(),
        33,
        "{codes:?}"
    );
    assert_eq!(used(&api).await, json!({"configmaps": "7"}));
    let deletions = (0..40).map(|number| {
        let api = &api;
        async move {
            let path = format!("{CONFIG_MAPS}/m{number}");
            api.send("DELETE", &path, Value::Null).await.0
        }
    });
    let codes = futures::future::join_all(deletions).await;
    assert_eq!(
        codes.iter().filter(|code| **code == 200).count(),
        7,
        "{codes:?}"
    );
    assert_eq!(used(&api).await, json!({"configmaps": "0"}));
}

#[tokio::test]
async fn pods_say_what_they_need_where_that_is_limited() {
    let api = Api::new().await;
    api.with_account().await;
    api.create(QUOTAS, quota(json!({"requests.cpu": "1"})))
        .await;
    let (code, refused) = api.send("POST", PODS, pod("p")).await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: c"
    );
    let mut with_resources = pod("p");
    with_resources["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "300m"}});
    api.create(PODS, with_resources).await;
    assert_eq!(used(&api).await, json!({"requests.cpu": "300m"}));
}

/// kubectl.md 6.7
#[tokio::test]
async fn a_pod_that_shrinks_is_charged_until_its_node_has_shrunk_it() {
    let api = Api::new().await;
    api.with_account().await;
    api.create(QUOTAS, quota(json!({"requests.cpu": "1"})))
        .await;
    let sized = |name: &str, cpu: &str| {
        let mut sized = pod(name);
        sized["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
        sized
    };
    api.create(PODS, sized("p", "800m")).await;
    let has = |cpu: &str| {
        json!({"status": {"containerStatuses": [{
            "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResources": {"cpu": cpu}, "resources": {"requests": {"cpu": cpu}}}]}})
    };
    let status = format!("{PODS}/p/status");
    assert_eq!(api.patch(&status, "merge", has("800m")).await.0, 200);
    let wants = |cpu: &str| {
        json!({"spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    };
    let resize = format!("{PODS}/p/resize");
    let (code, refused) = api.patch(&resize, "strategic", wants("1100m")).await;
    assert_eq!(code, 403, "{refused}");
    assert_eq!(api.patch(&resize, "strategic", wants("200m")).await.0, 200);
    assert_eq!(used(&api).await, json!({"requests.cpu": "800m"}));
    assert_eq!(api.send("POST", PODS, sized("q", "500m")).await.0, 403);
    assert_eq!(api.patch(&status, "merge", has("200m")).await.0, 200);
    assert_eq!(used(&api).await, json!({"requests.cpu": "200m"}));
    api.create(PODS, sized("q", "800m")).await;
    // The amount that a node reports as allocated counts, whatever the quota allows.
    assert_eq!(api.patch(&status, "merge", has("300m")).await.0, 200);
    assert_eq!(used(&api).await, json!({"requests.cpu": "1100m"}));
}

/// findings R19: a quota that is created during concurrent writes counts each object.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quota_that_comes_while_others_write_counts_exactly() {
    for _ in 0..10 {
        let api = Api::new().await;
        let writers = (0..4).map(|writer| {
            let api = api.as_user("admin", &["system:masters"]);
            tokio::spawn(async move {
                for number in 0..25 {
                    let name = format!("m{writer}-{number}");
                    api.create(CONFIG_MAPS, config_map(&name)).await;
                    if number % 5 == 4 {
                        api.send("DELETE", &format!("{CONFIG_MAPS}/{name}"), Value::Null)
                            .await;
                    }
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        tokio::task::yield_now().await;
        let hard = json!({"count/secrets": "9", "configmaps": "1000"});
        api.create(QUOTAS, quota(hard)).await;
        // From now on the quota counts more.
        let more = json!({"spec": {"hard": {"count/configmaps": "1000"}}});
        let (code, changed) = api.patch(&format!("{QUOTAS}/q"), "merge", more).await;
        assert_eq!(code, 200, "{changed}");
        for writer in writers {
            writer.await.unwrap();
        }
        let used = used(&api).await;
        assert_eq!(used["configmaps"], "80", "{used}");
        assert_eq!(used["count/configmaps"], "80", "{used}");
    }
}

/// Work that is executed once, after the next transaction on the guard of a quota.
struct AfterGuard {
    store: Arc<EmbeddedStore>,
    work: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl StoreLayer for AfterGuard {
    fn inner(&self) -> &dyn Store {
        self.store.as_ref()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        let is_of_guard = |operation: &Operation| matches!(operation, Operation::Put { key, .. } if key.starts_with(b"/quota-guards/"));
        let work = match txn.operations.iter().any(is_of_guard) {
            true => self.work.lock().unwrap().take(),
            false => None,
        };
        let stored = self.store.txn(txn);
        async move {
            let result = stored.await;
            if let Some(work) = work {
                work.await;
            }
            result
        }
        .boxed()
    }
}

/// findings R19: a deletion between the read of a quota and the count of its objects does not hide an object that the quota
/// did not count.
#[tokio::test]
async fn a_count_is_compared_with_the_quota_of_its_revision() {
    let api = Api::new().await;
    for name in ["a", "b"] {
        api.create(CONFIG_MAPS, config_map(name)).await;
    }
    api.create(QUOTAS, quota(json!({"configmaps": "5"}))).await;
    let store = api.store.clone();
    // An object that the quota does not count.
    let range = mvcc_store::Range {
        start: b"/registry/configmaps/default/b".to_vec(),
        ..mvcc_store::Range::default()
    };
    let item = store.range(range).await.unwrap().items.pop().unwrap();
    let put = Operation::Put {
        key: b"/registry/configmaps/default/c".to_vec(),
        value: mvcc_store::Value::Plain(item.value),
        lease: None,
    };
    let txn = Txn {
        compare: vec![],
        operations: vec![put],
    };
    store.txn(txn).await.unwrap();
    assert_eq!(used(&api).await["configmaps"], "2");
    let delete = async move {
        let (code, _) = api
            .send("DELETE", &format!("{CONFIG_MAPS}/a"), Value::Null)
            .await;
        assert_eq!(code, 200);
        assert_eq!(used(&api).await["configmaps"], "1");
    };
    let view = Arc::new(AfterGuard {
        store: store.clone(),
        work: Mutex::new(Some(delete.boxed())),
    });
    let again = Api::through(store, view, kube_api_server::Limits::default(), None).await;
    let counted = async {
        let deleted = format!("{CONFIG_MAPS}/a");
        while again.get(&deleted).await.0 != 404 || used(&again).await["configmaps"] != "2" {
            tokio::task::yield_now().await;
        }
    };
    let patience = std::time::Duration::from_secs(240);
    tokio::time::timeout(patience, counted)
        .await
        .expect("two objects are counted");
}

/// findings R19: a wrong count is corrected by a change of the quota and by the next start.
#[tokio::test]
async fn a_quota_that_counts_wrong_heals() {
    let api = Api::new().await;
    api.create(CONFIG_MAPS, config_map("a")).await;
    api.create(QUOTAS, quota(json!({"configmaps": "5"}))).await;
    let wrong = json!({"status": {"used": {"configmaps": "4"}}});
    let path = format!("{QUOTAS}/q/status");
    let (_, response) = api.patch(&path, "merge", wrong).await;
    assert_eq!(response["status"]["used"]["configmaps"], "1");
    // Objects are deleted without a request, like objects that expire.
    let range = mvcc_store::Range {
        start: b"/registry/configmaps/default/a".to_vec(),
        ..mvcc_store::Range::default()
    };
    let items = api.store.range(range).await.unwrap().items;
    let txn = Txn {
        compare: vec![],
        operations: vec![Operation::Delete {
            key: items[0].key.to_vec(),
        }],
    };
    api.store.txn(txn).await.unwrap();
    assert_eq!(used(&api).await["configmaps"], "1");
    let again = Api::over(api.store.clone(), kube_api_server::Limits::default(), None).await;
    while used(&again).await["configmaps"] != "0" {
        tokio::task::yield_now().await;
    }
}

// findings-2 S46
#[tokio::test]
async fn a_pod_that_reaches_into_other_namespaces_needs_a_quota_for_it() {
    let reaching = |name: &str| {
        let mut pod = pod(name);
        pod["spec"]["affinity"] = json!({"podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"namespaceSelector": {}, "labelSelector": {},
                    "topologyKey": "kubernetes.io/hostname"}]}});
        pod
    };
    let without = Api::new().await;
    without.with_account().await;
    without.create(PODS, reaching("a")).await;
    let yaml = "
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources:
    - resource: pods
      matchScopes:
      - {scopeName: CrossNamespacePodAffinity, operator: Exists}
    - resource: persistentvolumeclaims
      matchContains: [gold.storageclass.storage.k8s.io/requests.storage]
";
    let configuration = AdmissionConfiguration::parse(yaml, |_| Ok(String::new())).unwrap();
    let api = Api::admitting(configuration).await;
    api.with_account().await;
    api.create(PODS, pod("ordinary")).await;
    let (code, status) = api.send("POST", PODS, reaching("a")).await;
    assert_eq!(
        (code, status["message"].as_str()),
        (
            403,
            Some(
                "pods \"a\" is forbidden: insufficient quota to match these scopes: \
                 [{CrossNamespacePodAffinity Exists []}]"
            )
        )
    );
    // A quota with another scope does not count.
    let quota = |name: &str, scopes: Value| json!({"metadata": {"name": name}, "spec": {"hard": {"pods": "1"}, "scopes": scopes}});
    api.create(QUOTAS, quota("other", json!(["Terminating"])))
        .await;
    assert_eq!(api.send("POST", PODS, reaching("a")).await.0, 403);
    let dry = format!("{PODS}?dryRun=All");
    assert_eq!(api.send("POST", &dry, reaching("a")).await.0, 403);
    api.create(QUOTAS, quota("room", json!(["CrossNamespacePodAffinity"])))
        .await;
    api.create(PODS, reaching("a")).await;
    let counted = api.get(&format!("{QUOTAS}/room")).await.1;
    assert_eq!(counted["status"]["used"], json!({"pods": "1"}));
    let (code, status) = api.send("POST", PODS, reaching("b")).await;
    let text = status["message"].as_str().unwrap();
    assert!(
        code == 403 && text.contains("exceeded quota: room"),
        "{text}"
    );
    // The quota does not apply to writes that do not increase the usage.
    let path = format!("{QUOTAS}/room");
    assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(api.patch(&format!("{PODS}/a"), "merge", label).await.0, 200);
    let running = json!({"status": {"phase": "Running"}});
    let status = format!("{PODS}/a/status");
    assert_eq!(api.patch(&status, "merge", running).await.0, 200);
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = |class: &str| {
        json!({"metadata": {"name": class}, "spec": {"storageClassName": class,
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    };
    api.create(claims, claim("silver")).await;
    let (code, status) = api.send("POST", claims, claim("gold")).await;
    let text = status["message"].as_str().unwrap();
    let message =
        "insufficient quota to consume: gold.storageclass.storage.k8s.io/requests.storage";
    assert!(code == 403 && text.ends_with(message), "{text}");
}
