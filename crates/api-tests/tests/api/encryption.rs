//! Secrets that are encrypted in the store.

use std::sync::Arc;

use json_tree::{Value, json};
use kube_api_server::Limits;
use kube_api_server::encryption::{self, EncryptionConfig};
use mvcc_store::embedded::EmbeddedStore;
use mvcc_store::{Range, Store};

use crate::harness::{Api, CONFIG_MAPS, Events, config_map};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const OLD: &str = "{name: old, secret: MDEyMzQ1Njc4OWFiY2RlZg==}";
const NEW: &str = "{name: new, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}";

fn config(providers: &[String]) -> EncryptionConfig {
    let text = format!(
        "{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: \
         [{{resources: [secrets], providers: [{}]}}]}}",
        providers.join(", ")
    );
    EncryptionConfig::parse(&text).unwrap()
}

fn keys(list: &[&str]) -> String {
    format!("{{aesgcm: {{keys: [{}]}}}}", list.join(", "))
}

fn plain() -> String {
    "{identity: {}}".to_owned()
}

async fn start(store: &Arc<EmbeddedStore>, config: Option<EncryptionConfig>) -> Api {
    let encrypted = encryption::over(store.clone(), config).await.unwrap();
    Api::through(store.clone(), encrypted, Limits::default(), None).await
}

fn secret(name: &str) -> Value {
    json!({"metadata": {"name": name}, "stringData": {"word": "hush"}})
}

/// The bytes of an object on disk.
async fn stored(api: &Api, key: &str) -> String {
    let range = Range {
        start: key.as_bytes().to_vec(),
        ..Range::default()
    };
    let listed = api.store.range(range).await.unwrap();
    String::from_utf8_lossy(&listed.items[0].value).into_owned()
}

#[tokio::test]
async fn what_is_chosen_is_encrypted_and_nobody_notices() {
    let store = EmbeddedStore::in_memory();
    let api = start(&store, Some(config(&[keys(&[OLD])]))).await;
    let created = api.create(SECRETS, secret("a")).await;
    api.create(CONFIG_MAPS, config_map("a")).await;
    let on_disk = stored(&api, "/registry/secrets/default/a").await;
    assert!(on_disk.starts_with("k8s:enc:aesgcm:v1:old:"), "{on_disk}");
    assert!(!on_disk.contains("aHVzaA") && !on_disk.contains("word"));
    assert!(
        stored(&api, "/registry/configmaps/default/a")
            .await
            .starts_with('{')
    );

    let path = format!("{SECRETS}/a");
    assert_eq!(api.get(&path).await, (200, created.clone()));
    let version = created["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = Events::open(
        &api,
        &format!("{SECRETS}?watch=1&resourceVersion={version}"),
    )
    .await;
    let patch = json!({"metadata": {"labels": {"x": "y"}}});
    let (code, changed) = api.patch(&path, "merge", patch).await;
    assert_eq!(code, 200);
    assert_ne!(
        changed["metadata"]["resourceVersion"],
        created["metadata"]["resourceVersion"]
    );
    let event = events.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]),
        (&json!("MODIFIED"), &changed)
    );
    let (_, list) = api.get(SECRETS).await;
    assert_eq!(list["items"][0]["data"]["word"], "aHVzaA==");
    assert_eq!(api.send("POST", SECRETS, secret("a")).await.0, 409);
    assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
    let event = events.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["data"]["word"]),
        (&json!("DELETED"), &json!("aHVzaA=="))
    );
}

#[tokio::test]
async fn keys_are_exchanged_one_start_after_the_other() {
    let store = EmbeddedStore::in_memory();
    let api = start(&store, None).await;
    api.create(SECRETS, secret("a")).await;
    let key = "/registry/secrets/default/a";
    assert!(stored(&api, key).await.contains("aHVzaA=="));
    let starts: [(&[String], &str); 4] = [
        (&[keys(&[OLD]), plain()], "k8s:enc:aesgcm:v1:old:"),
        (&[keys(&[NEW, OLD])], "k8s:enc:aesgcm:v1:new:"),
        (&[keys(&[NEW])], "k8s:enc:aesgcm:v1:new:"),
        (&[plain(), keys(&[NEW])], "{"),
    ];
    for (providers, begins) in starts {
        let api = start(&store, Some(config(providers))).await;
        let on_disk = stored(&api, key).await;
        assert!(on_disk.starts_with(begins), "{providers:?}: {on_disk}");
        let (_, read) = api.get(&format!("{SECRETS}/a")).await;
        assert_eq!(read["data"]["word"], "aHVzaA==");
        // The object can be changed again.
        let note = json!({"metadata": {"annotations": {"turn": begins}}});
        assert_eq!(
            api.patch(&format!("{SECRETS}/a"), "merge", note).await.0,
            200
        );
    }
    assert!(encryption::over(store.clone(), None).await.is_ok());
}

#[tokio::test]
async fn a_missing_or_wrong_key_is_told_at_start() {
    let store = EmbeddedStore::in_memory();
    start(&store, Some(config(&[keys(&[NEW])])))
        .await
        .create(SECRETS, secret("a"))
        .await;
    let wrong = NEW.replace("MDEy", "MDEz");
    for (config, expected) in [
        (
            None,
            "/registry/secrets/default/a cannot be opened: it is encrypted with the key \"new\", \
             which is not configured",
        ),
        (
            Some(config(&[keys(&[OLD]), plain()])),
            "/registry/secrets/default/a cannot be opened: it is encrypted with the key \"new\", \
             which is not configured",
        ),
        (
            Some(config(&[keys(&[&wrong])])),
            "/registry/secrets/default/a cannot be opened: the configured key \"new\" is not the \
             one it was encrypted with",
        ),
    ] {
        let Err(error) = encryption::over(store.clone(), config).await else {
            panic!("{expected}");
        };
        assert_eq!(error.to_string(), expected);
    }
}
