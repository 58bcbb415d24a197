//! The shares of namespaces in the store: a namespace that writes without end is refused, and other namespaces are
//! not affected.

use json_tree::{Value, json};
use mvcc_store::Store;
use mvcc_store::embedded::{EmbeddedStore, Limits as StoreLimits};

use kube_api_server::Limits;

use crate::custom_metadata::define_pois;
use crate::harness::Api;

const QUOTA: u64 = 16 << 20;
const LARGE: usize = 300_000;

fn maps(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

fn map(name: &str, bytes: usize) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "x".repeat(bytes)}})
}

/// Creates objects until one is refused; returns their number, and the response.
async fn fill(api: &Api, namespace: &str, bytes: usize) -> (usize, Value) {
    for count in 0.. {
        let name = format!("m{bytes}-{count}");
        let (code, response) = api.send("POST", &maps(namespace), map(&name, bytes)).await;
        if code != 201 {
            return (count, response);
        }
        assert!(count < 10_000);
    }
    unreachable!("a bound")
}

/// findings-2 S44
#[tokio::test]
async fn a_namespace_that_sends_without_end_is_refused_and_others_go_on() {
    let store = EmbeddedStore::in_memory_with(&StoreLimits {
        live_bytes_max: QUOTA,
        ..StoreLimits::default()
    });
    let api = Api::over(store.clone(), Limits::default(), None).await;
    for name in ["greedy", "modest"] {
        let namespace = json!({"metadata": {"name": name}});
        api.create("/api/v1/namespaces", namespace).await;
    }
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}});
    let leases =
        |namespace: &str| format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    api.create(&leases("greedy"), lease.clone()).await;
    let claims = "/api/v1/namespaces/greedy/persistentvolumeclaims";
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1"}}}});
    api.create(claims, claim).await;
    let (count, refused) = fill(&api, "greedy", LARGE).await;
    assert!(count > 8, "{count}");
    assert_eq!(
        (&refused["code"], &refused["reason"]),
        (&json!(403), &json!("Forbidden")),
        "{refused}"
    );
    let cause = &refused["details"]["causes"][0];
    assert_eq!(
        (&cause["reason"], &cause["field"]),
        (&json!("NamespaceStoreShare"), &json!("metadata.namespace"))
    );
    let bytes = store.bytes_of_owner(b"greedy");
    let message = refused["message"].as_str().unwrap();
    let text = format!("namespace \"greedy\" holds {bytes} bytes of the store and may hold ");
    assert!(message.contains(&text), "{message}");
    // Small objects, growing objects and dry runs do not exceed the share either.
    fill(&api, "greedy", 50_000).await;
    let (_, refused) = fill(&api, "greedy", 2_000).await;
    assert_eq!(refused["code"], 403);
    let first = format!("{}/m{LARGE}-0", maps("greedy"));
    let grown = json!({"data": {"b": "x".repeat(100_000)}});
    assert_eq!(api.patch(&first, "merge", grown).await.0, 403);
    let dry = format!("{}?dryRun=All", maps("greedy"));
    assert_eq!(api.send("POST", &dry, map("dry", LARGE)).await.0, 403);
    assert!(store.occupancy().live_bytes < QUOTA - QUOTA / 8);
    assert!(store.occupancy().full.is_none());
    // Writes by controllers and nodes in the namespace still succeed: status, Leases, Events, small changes,
    // deletions.
    let status = json!({"status": {"phase": "Bound", "capacity": {"storage": "1"}}});
    let (code, response) = api
        .patch(&format!("{claims}/c/status"), "merge", status)
        .await;
    assert_eq!(code, 200, "{response}");
    let renewed = json!({"spec": {"holderIdentity": "another"}});
    let path = format!("{}/l", leases("greedy"));
    assert_eq!(api.patch(&path, "merge", renewed).await.0, 200);
    let another = json!({"metadata": {"name": "another"}});
    api.create(&leases("greedy"), another).await;
    let event = json!({"metadata": {"name": "e"}, "reason": "R", "type": "Normal",
        "involvedObject": {"kind": "ConfigMap", "namespace": "greedy", "name": "m"}});
    api.create("/api/v1/namespaces/greedy/events", event).await;
    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(api.patch(&first, "merge", labelled).await.0, 200);
    // Writes in other namespaces, in the system's namespaces, and of cluster-wide objects still succeed.
    for namespace in ["modest", "kube-system"] {
        api.create(&maps(namespace), map("one", LARGE)).await;
        api.create(&leases(namespace), lease.clone()).await;
    }
    api.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}}))
        .await;
    let metrics = api.raw("GET", "/metrics", &[], "").await.text();
    let line = format!(
        "mainstay_store_largest_namespace_bytes{{namespace=\"greedy\"}} {}\n",
        store.bytes_of_owner(b"greedy")
    );
    assert!(metrics.contains(&line), "{line}");
    // After a start the shares are unchanged, and deletions free space.
    let again = Api::over(store.clone(), Limits::default(), None).await;
    let post = async |name: &str| {
        let path = maps("greedy");
        again.send("POST", &path, map(name, LARGE)).await.0
    };
    assert_eq!(post("after").await, 403);
    for number in 0..3 {
        let path = format!("{}/m{LARGE}-{number}", maps("greedy"));
        assert_eq!(again.send("DELETE", &path, Value::Null).await.0, 200);
    }
    assert_eq!(post("after").await, 201);
}

/// findings-2 S44: the small writes of many namespaces above their shares leave space, too.
#[tokio::test]
async fn small_writes_of_many_namespaces_do_not_take_the_room_of_the_system() {
    const SMALL_QUOTA: u64 = 4 << 20;
    const NAMESPACES: u64 = 24;
    /// An upper bound on the size of a Namespace object, which belongs to no namespace.
    const NAMESPACE_BYTES: u64 = 1024;
    let store = EmbeddedStore::in_memory_with(&StoreLimits {
        live_bytes_max: SMALL_QUOTA,
        ..StoreLimits::default()
    });
    let api = Api::over(store.clone(), Limits::default(), None).await;
    let send = async |namespace: &str, number: usize| {
        let event = json!({"reason": "R", "type": "Normal",
            "involvedObject": {"kind": "ConfigMap", "namespace": namespace, "name": "m"},
            "metadata": {"name": format!("e{number}"), "annotations": {"a": "x".repeat(2500)}}});
        let path = format!("/api/v1/namespaces/{namespace}/events");
        api.send("POST", &path, event).await
    };
    for number in 0..NAMESPACES {
        let name = format!("n{number}");
        let namespace = json!({"metadata": {"name": name}});
        api.create("/api/v1/namespaces", namespace).await;
        let mut number = 0;
        let refused = loop {
            match send(&name, number).await {
                (201, _) => number += 1,
                (_, refused) => break refused,
            }
            assert!(number < 10_000);
        };
        assert_eq!(refused["code"], 403, "{refused}");
        let reason = &refused["details"]["causes"][0]["reason"];
        assert_eq!(reason, "NamespaceStoreShare", "{refused}");
    }
    // Half of the system's sixteenth, of which the system's namespaces use a part.
    let system = ["kube-system", "kube-node-lease", "kube-public"];
    let system: u64 = system
        .map(|name| store.bytes_of_owner(name.as_bytes()))
        .iter()
        .sum();
    let left = SMALL_QUOTA - store.occupancy().live_bytes;
    let namespaces = NAMESPACES * NAMESPACE_BYTES;
    assert!(
        left + system + namespaces >= SMALL_QUOTA / 32,
        "{left}, {system}"
    );
    api.create(&maps("kube-system"), map("one", 50_000)).await;
}

/// findings-2 S44: many namespaces of one sender leave space, too, and no response is an internal error.
#[tokio::test]
async fn many_namespaces_do_not_take_the_room_of_the_system() {
    let store = EmbeddedStore::in_memory_with(&StoreLimits {
        live_bytes_max: QUOTA,
        ..StoreLimits::default()
    });
    let api = Api::over(store.clone(), Limits::default(), None).await;
    for number in 0..6 {
        let name = format!("n{number}");
        let namespace = json!({"metadata": {"name": name}});
        api.create("/api/v1/namespaces", namespace).await;
        for bytes in [LARGE, 50_000, 2_000] {
            let (_, refused) = fill(&api, &name, bytes).await;
            assert_eq!(refused["code"], 403, "{refused}");
        }
    }
    api.create(&maps("kube-system"), map("one", 500_000)).await;
    // The system itself may fill the store; then the store is reported as full.
    for bytes in [LARGE, 50_000, 2_000, 10] {
        let (_, refused) = fill(&api, "kube-system", bytes).await;
        assert_eq!(
            (&refused["code"], &refused["reason"]),
            (&json!(507), &json!("InsufficientStorage")),
            "{refused}"
        );
    }
}

/// findings-2 S44
#[tokio::test]
async fn writes_at_the_same_time_do_not_pass_the_share_together() {
    let store = EmbeddedStore::in_memory_with(&StoreLimits {
        live_bytes_max: QUOTA,
        ..StoreLimits::default()
    });
    let api = Api::over(store.clone(), Limits::default(), None).await;
    let namespace = json!({"metadata": {"name": "greedy"}});
    api.create("/api/v1/namespaces", namespace).await;
    let path = maps("greedy");
    let writes = (0..60).map(|number| {
        let object = map(&format!("m{number}"), LARGE);
        api.send("POST", &path, object)
    });
    let responses = futures::future::join_all(writes).await;
    let codes: Vec<u16> = responses.iter().map(|(code, _)| *code).collect();
    assert!(
        codes.iter().all(|code| [201, 403].contains(code)),
        "{codes:?}"
    );
    assert!(codes.contains(&201) && codes.contains(&403), "{codes:?}");
    let share = QUOTA / 6;
    let bytes = store.bytes_of_owner(b"greedy");
    assert!(bytes > share / 2 && bytes <= share, "{bytes} of {share}");
    // No reservation remains.
    assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
    let (count, _) = fill(&api, "greedy", LARGE).await;
    assert!(count as u64 * LARGE as u64 > share / 10 * 9, "{count}");
}

/// findings-2 S44: the status of a custom resource cannot exceed the share, and the status of built-in kinds keeps
/// its reserve.
#[tokio::test]
async fn writes_of_status_have_a_bound_too() {
    let store = EmbeddedStore::in_memory_with(&StoreLimits {
        live_bytes_max: QUOTA,
        ..StoreLimits::default()
    });
    let api = Api::over(store.clone(), Limits::default(), None).await;
    define_pois(&api).await;
    let namespace = json!({"metadata": {"name": "greedy"}});
    api.create("/api/v1/namespaces", namespace).await;
    let pois = "/apis/example.org/v1/namespaces/greedy/pois";
    let claims = "/api/v1/namespaces/greedy/persistentvolumeclaims";
    for number in 0..64 {
        let poi = json!({"apiVersion": "example.org/v1", "kind": "Poi",
            "metadata": {"name": format!("p{number}")}});
        api.create(pois, poi).await;
        let claim = json!({"metadata": {"name": format!("c{number}")}, "spec":
            {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1"}}}});
        api.create(claims, claim).await;
    }
    let grow = async |path: String, bytes: usize| {
        let status = json!({"status": {"phase": "x".repeat(bytes)}});
        api.patch(&format!("{path}/status"), "merge", status).await
    };
    let mut last = 201;
    for number in 0..64 {
        last = grow(format!("{pois}/p{number}"), LARGE).await.0;
    }
    assert_eq!(last, 403);
    let share = QUOTA / 6;
    assert!(store.bytes_of_owner(b"greedy") <= share);
    // Small writes still succeed for some time.
    assert_eq!(grow(format!("{pois}/p63"), 3000).await.0, 200);
    fill(&api, "greedy", 50_000).await;
    fill(&api, "greedy", 2_000).await;
    let mut refused = None;
    for number in 0..2_000 {
        let path = format!("/api/v1/namespaces/greedy/events?n={number}");
        let event = json!({"metadata": {"name": format!("e{number}")}, "reason": "R",
            "message": "x".repeat(1000), "type": "Normal",
            "involvedObject": {"kind": "ConfigMap", "namespace": "greedy", "name": "m"}});
        let (code, response) = api.send("POST", &path, event).await;
        if code != 201 {
            refused = Some(response);
            break;
        }
    }
    assert_eq!(refused.unwrap()["code"], 403);
    let bound =
        |storage: &str| json!({"status": {"phase": "Bound", "capacity": {"storage": storage}}});
    for number in 0..64 {
        let path = format!("{claims}/c{number}/status");
        let (code, response) = api.patch(&path, "merge", bound("1")).await;
        assert_eq!(code, 200, "{response}");
    }
    // A status of this size is too large for the reserve.
    let conditions = json!({"status": {"conditions": [{"type": "Resizing", "status": "True",
        "message": "x".repeat(100_000)}]}});
    let path = format!("{claims}/c0/status");
    let (code, response) = api.patch(&path, "merge", conditions).await;
    assert_eq!(
        (code, &response["details"]["causes"][0]["reason"]),
        (403, &json!("NamespaceStoreShare"))
    );
}
