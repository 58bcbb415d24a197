//! Stored configuration is in force, whoever wrote it and however the request ended.

use json_tree::{Value, json};
use mvcc_store::{KeyValue, Operation, Range, Store, Txn};

use crate::harness::{Api, CONFIG_MAPS, DEFINITIONS, config_map};

const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

async fn stored(api: &Api, suffix: &str) -> KeyValue {
    let range = Range {
        start: b"/registry/".to_vec(),
        end: Some(b"/registry0".to_vec()),
        ..Range::default()
    };
    let mut all = api.store.range(range).await.unwrap().items;
    all.retain(|pair| pair.key.ends_with(suffix.as_bytes()));
    all.remove(0)
}

/// Writes directly to the store, as a request whose client did not wait for the response.
async fn write(api: &Api, operation: Operation) {
    let txn = Txn {
        compare: vec![],
        operations: vec![operation],
    };
    api.store.txn(txn).await.unwrap();
}

fn put(pair: &KeyValue) -> Operation {
    Operation::Put {
        key: pair.key.to_vec(),
        value: mvcc_store::Value::Plain(pair.value.clone()),
        lease: None,
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..12_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

/// findings A1: webhooks follow the store.
#[tokio::test]
async fn a_webhook_is_in_force_however_it_came_to_be_stored() {
    let api = Api::new().await;
    let hook = json!({"metadata": {"name": "h"}, "webhooks": [{
        "name": "h.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://127.0.0.1:1/"}, "timeoutSeconds": 1,
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
            "resources": ["configmaps"]}],
    }]});
    api.create(HOOKS, hook).await;
    assert_eq!(api.send("POST", CONFIG_MAPS, config_map("a")).await.0, 500);
    let pair = stored(&api, "/validatingwebhookconfigurations/h").await;
    let path = format!("{HOOKS}/h");
    assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
    api.create(CONFIG_MAPS, config_map("a")).await;
    write(&api, put(&pair)).await;
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    until("the webhook is asked", async || {
        api.send("POST", &dry, config_map("b")).await.0 == 500
    })
    .await;
    let key = pair.key.to_vec();
    write(&api, Operation::Delete { key }).await;
    until("the webhook is gone", async || {
        api.send("POST", &dry, config_map("b")).await.0 == 201
    })
    .await;
}

/// findings A1: the definitions of kinds follow the store, too.
#[tokio::test]
async fn a_definition_is_served_however_it_came_to_be_stored() {
    let api = Api::new().await;
    let definition = json!({"metadata": {"name": "things.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object"}}}],
    }});
    api.create(DEFINITIONS, definition).await;
    // The controller would accept the names with this write.
    let accepted = json!({"status": {"conditions": [
        {"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "True"}]}});
    let path = format!("{DEFINITIONS}/things.example.com/status");
    assert_eq!(api.patch(&path, "merge", accepted).await.0, 200);
    assert_eq!(api.get("/apis/example.com").await.0, 200);
    let pair = stored(&api, "/customresourcedefinitions/things.example.com").await;
    let key = pair.key.to_vec();
    write(&api, Operation::Delete { key }).await;
    let group = "/apis/example.com";
    until("the group is gone", async || api.get(group).await.0 == 404).await;
    write(&api, put(&pair)).await;
    until("the group is there", async || api.get(group).await.0 == 200).await;
}
