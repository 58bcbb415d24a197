//! Conversion webhooks of CustomResourceDefinitions. The cases are those of Kubernetes' integration tests
//! (`test/integration/conversion`), without copies of its text.

mod failures;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use json_tree::{Value, json};
use mvcc_store::{Operation, Range, Store, Txn};

use crate::harness::{Api, DEFINITIONS, Events, put_stored};
use crate::hook::JsonServer;

const DEFINITION: &str =
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/endpoints.stable.example.com";
const V1: &str = "/apis/stable.example.com/v1/namespaces/default/endpoints";
const V2: &str = "/apis/stable.example.com/v2/namespaces/default/endpoints";

/// A conversion webhook, and the number of its calls.
struct Converter {
    server: JsonServer,
    calls: Arc<AtomicUsize>,
}

impl Converter {
    /// `respond` gets a review, and returns the response without its UID.
    async fn start(respond: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let calls: Arc<AtomicUsize> = Arc::default();
        let counter = calls.clone();
        let server = JsonServer::start(move |review| {
            counter.fetch_add(1, Ordering::Relaxed);
            let mut response = respond(&review);
            if response.is_object() && response["uid"].is_null() {
                response["uid"] = review["request"]["uid"].clone();
            }
            json!({"apiVersion": review["apiVersion"], "kind": review["kind"],
                "response": response})
        })
        .await;
        Self { server, calls }
    }

    async fn of_objects(convert: impl Fn(Value, &str) -> Value + Send + Sync + 'static) -> Self {
        Self::start(move |review| success(review, &convert)).await
    }

    fn calls(&self) -> usize {
        self.calls.swap(0, Ordering::Relaxed)
    }
}

fn success(review: &Value, convert: &impl Fn(Value, &str) -> Value) -> Value {
    let request = &review["request"];
    let desired = request["desiredAPIVersion"].as_str().unwrap();
    let objects = request["objects"].as_array().unwrap().iter();
    let objects: Vec<Value> = objects
        .map(|object| convert(object.clone(), desired))
        .collect();
    json!({"result": {"status": "Success"}, "convertedObjects": objects})
}

/// Changes the version only.
fn named(mut object: Value, desired: &str) -> Value {
    assert_ne!(
        object["apiVersion"], desired,
        "only other versions are sent"
    );
    object["apiVersion"] = desired.into();
    object
}

/// `spec.hostPort` in v1 is `spec.host` and `spec.port` in v2.
fn split(object: Value, desired: &str) -> Value {
    let mut object = named(object, desired);
    let spec = object["spec"].as_object_mut().unwrap();
    if desired.ends_with("/v2") {
        let both = spec.shift_remove("hostPort").unwrap_or_default();
        let (host, port) = both.as_str().unwrap().split_once(':').unwrap();
        spec.insert("host".to_owned(), host.into());
        spec.insert("port".to_owned(), port.into());
    } else {
        let mut part = |name: &str| spec.shift_remove(name).unwrap_or_default();
        let (host, port) = (part("host"), part("port"));
        let both = format!("{}:{}", host.as_str().unwrap(), port.as_str().unwrap());
        spec.insert("hostPort".to_owned(), both.into());
    }
    object
}

fn version(name: &str, is_stored: bool, fields: &[&str]) -> Value {
    let mut spec = json!({"replicas": {"type": "integer"}});
    for field in fields {
        spec[*field] = json!({"type": "string"});
    }
    let mut defaults = json!({"v1": {"type": "boolean"}, "v2": {"type": "boolean"}});
    defaults[name]["default"] = json!(true);
    json!({"name": name, "served": true, "storage": is_stored,
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas"}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": spec},
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
            "defaults": {"type": "object", "properties": defaults}}}}})
}

fn definition(converter: &JsonServer, reviews: &str) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "endpoints.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "endpoints", "kind": "Endpoint"},
            "conversion": {"strategy": "Webhook", "webhook": {
                "clientConfig": converter.client_config(), "conversionReviewVersions": [reviews]}},
            "versions": [version("v1", true, &["hostPort"]),
                version("v2", false, &["host", "port"])]}})
}

/// A server with the kind, whose names the test accepts as the controller does.
async fn with_endpoints(converter: &Converter, reviews: &str) -> Api {
    let api = Api::new().await;
    let definition = definition(&converter.server, reviews);
    api.create(DEFINITIONS, definition).await;
    api.accept_definition("endpoints.stable.example.com").await;
    api
}

/// Makes a version the storage version.
async fn store_in(api: &Api, name: &str) {
    let patch = json!([
        {"op": "replace", "path": "/spec/versions/0/storage", "value": name == "v1"},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": name == "v2"}]);
    let (code, response) = api.patch(DEFINITION, "json", patch).await;
    assert_eq!(code, 200, "{response}");
}

fn first(name: &str) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "Endpoint", "metadata": {"name": name},
        "spec": {"hostPort": "db:5432", "replicas": 1}})
}

fn second(name: &str) -> Value {
    json!({"apiVersion": "stable.example.com/v2", "kind": "Endpoint", "metadata": {"name": name},
        "spec": {"host": "db", "port": "5432", "replicas": 1}})
}

/// The stored form of an object.
async fn stored(api: &Api, name: &str) -> Value {
    let range = Range {
        start: format!("/registry/stable.example.com/endpoints/default/{name}").into_bytes(),
        ..Range::default()
    };
    let items = api.store.range(range).await.unwrap().items;
    serde_json::from_slice(&items[0].value).unwrap()
}

/// The stored text of an object.
async fn text_at(api: &Api, key: &str) -> String {
    let range = Range {
        start: key.as_bytes().to_vec(),
        ..Range::default()
    };
    let items = api.store.range(range).await.unwrap().items;
    String::from_utf8(items[0].value.to_vec()).unwrap()
}

/// Stores an object without a request; the store inserts the resource version.
fn put(key: &str, text: &str) -> Operation {
    put_stored(key.as_bytes().to_vec(), text)
}

fn spec_of(object: &Value) -> Value {
    let mut spec = object["spec"].clone();
    spec.as_object_mut().unwrap().shift_remove("replicas");
    spec
}

#[tokio::test]
async fn objects_are_read_and_written_in_every_version() {
    let (of_v1, of_v2) = (
        json!({"hostPort": "db:5432"}),
        json!({"host": "db", "port": "5432"}),
    );
    for reviews in ["v1", "v1beta1"] {
        let converter = Converter::of_objects(split).await;
        let api = with_endpoints(&converter, reviews).await;
        let created = api.create(V1, first("a")).await;
        assert_eq!(converter.calls(), 0, "the version is the stored version");
        let (code, read) = api.get(&format!("{V2}/a")).await;
        assert_eq!((code, spec_of(&read)), (200, of_v2.clone()), "{read}");
        assert_eq!(read["apiVersion"], "stable.example.com/v2");
        assert_eq!(read["metadata"]["uid"], created["metadata"]["uid"]);
        assert_eq!(
            read["metadata"]["resourceVersion"],
            created["metadata"]["resourceVersion"]
        );
        let created = api.create(V2, second("b")).await;
        assert_eq!(spec_of(&created), of_v2);
        let in_store = stored(&api, "b").await;
        assert_eq!(in_store["apiVersion"], "stable.example.com/v1");
        assert_eq!(spec_of(&in_store), of_v1);

        store_in(&api, "v2").await;
        api.create(V1, first("c")).await;
        assert_eq!(
            stored(&api, "c").await["apiVersion"],
            "stable.example.com/v2"
        );
        assert_eq!(
            stored(&api, "a").await["apiVersion"],
            "stable.example.com/v1"
        );
        for (path, spec) in [(V1, &of_v1), (V2, &of_v2)] {
            let (code, list) = api.get(path).await;
            let items = list["items"].as_array().unwrap();
            assert_eq!((code, items.len()), (200, 3));
            for item in items {
                assert_eq!(spec_of(item), *spec, "{path}");
                let (_, one) = api
                    .get(&format!(
                        "{path}/{}",
                        item["metadata"]["name"].as_str().unwrap()
                    ))
                    .await;
                assert_eq!(one, *item);
            }
        }
        let (_, definition) = api.get(DEFINITION).await;
        assert_eq!(definition["status"]["storedVersions"], json!(["v1", "v2"]));
    }
}

#[tokio::test]
async fn every_write_goes_through_the_webhook() {
    let converter = Converter::of_objects(split).await;
    let api = with_endpoints(&converter, "v1").await;
    api.create(V2, second("a")).await;
    let one = format!("{V2}/a");
    let (_, mut object) = api.get(&one).await;
    object["spec"]["port"] = "1".into();
    let (code, put) = api.send("PUT", &one, object).await;
    assert_eq!((code, &put["spec"]["port"]), (200, &json!("1")), "{put}");
    assert_eq!(put["metadata"]["generation"], 2);
    assert_eq!(stored(&api, "a").await["spec"]["hostPort"], "db:1");
    let (code, patched) = api
        .patch(&one, "merge", json!({"spec": {"host": "web"}}))
        .await;
    assert_eq!(
        (code, &patched["spec"]["port"]),
        (200, &json!("1")),
        "{patched}"
    );
    assert_eq!(stored(&api, "a").await["spec"]["hostPort"], "web:1");
    let operation = json!([{"op": "replace", "path": "/spec/port", "value": "2"}]);
    let (code, patched) = api.patch(&one, "json", operation).await;
    assert_eq!(
        (code, &patched["spec"]["host"]),
        (200, &json!("web")),
        "{patched}"
    );
    let mut config = second("a");
    config["spec"] = json!({"port": "3"});
    let apply = format!("{one}?fieldManager=x&force=true");
    let (code, applied) = api.patch(&apply, "apply", config).await;
    assert_eq!(
        (code, &applied["spec"]["port"]),
        (200, &json!("3")),
        "{applied}"
    );
    let mut new = second("n");
    new["spec"]["host"] = "new".into();
    let (code, applied) = api
        .patch(&format!("{V2}/n?fieldManager=x"), "apply", new)
        .await;
    assert_eq!(
        (code, &applied["spec"]["host"]),
        (201, &json!("new")),
        "{applied}"
    );
    assert_eq!(stored(&api, "n").await["spec"]["hostPort"], "new:5432");

    let (_, mut object) = api.get(&one).await;
    object["status"] = json!({"replicas": 4});
    let (code, status) = api.send("PUT", &format!("{one}/status"), object).await;
    assert_eq!(
        (code, &status["status"]["replicas"]),
        (200, &json!(4)),
        "{status}"
    );
    let (code, mut scale) = api.get(&format!("{one}/scale")).await;
    assert_eq!(
        (code, &scale["status"]["replicas"]),
        (200, &json!(4)),
        "{scale}"
    );
    scale["spec"]["replicas"] = json!(7);
    let (code, scale) = api.send("PUT", &format!("{one}/scale"), scale).await;
    assert_eq!(
        (code, &scale["spec"]["replicas"]),
        (200, &json!(7)),
        "{scale}"
    );
    let in_store = stored(&api, "a").await;
    assert_eq!(
        in_store["spec"],
        json!({"hostPort": "web:3", "replicas": 7})
    );
    assert_eq!(in_store["status"]["replicas"], 4);

    // A write without a change does not call the webhook, and is not stored.
    let (_, before) = api.get(&one).await;
    converter.calls();
    let (code, same) = api
        .patch(&one, "merge", json!({"spec": {"port": "3"}}))
        .await;
    assert_eq!((code, same, converter.calls()), (200, before, 0));
    // A write without a change migrates an object to a new storage version.
    store_in(&api, "v2").await;
    let (code, _) = api.patch(&one, "merge", json!({})).await;
    assert_eq!(code, 200);
    assert_eq!(
        stored(&api, "a").await["apiVersion"],
        "stable.example.com/v2"
    );
    let dry = format!("{V1}?dryRun=All");
    assert_eq!(api.send("POST", &dry, first("d")).await.0, 201);
    assert_eq!(api.get(&format!("{V1}/d")).await.0, 404);
    assert_eq!(api.send("DELETE", &one, Value::Null).await.0, 200);
    assert_eq!(api.get(&one).await.0, 404);
}

#[tokio::test]
async fn written_objects_lose_what_the_storage_version_does_not_know() {
    let converter = Converter::of_objects(named).await;
    let api = with_endpoints(&converter, "v1").await;
    let mut object = second("a");
    object["garbage"] = "x".into();
    object["spec"]["garbage"] = "x".into();
    api.create(V2, object).await;
    assert_eq!(stored(&api, "a").await["spec"], json!({"replicas": 1}));
    api.rewrite_stored("/endpoints/default/a", |text| {
        text.replace(
            "\"spec\":{",
            "\"foo\":\"garbage\",\"spec\":{\"host\":\"h\",",
        )
    })
    .await;
    for path in [V1, V2] {
        let (code, read) = api.get(&format!("{path}/a")).await;
        assert_eq!((code, read.get("foo")), (200, None), "{path}");
    }
}

#[tokio::test]
async fn defaults_are_those_of_the_request_and_of_the_storage_version() {
    let converter = Converter::of_objects(named).await;
    let api = with_endpoints(&converter, "v1").await;
    let with_defaults = |mut object: Value| {
        object["defaults"] = json!({});
        object
    };
    let created = api.create(V2, with_defaults(second("a"))).await;
    assert_eq!(created["defaults"], json!({"v1": true, "v2": true}));
    assert_eq!(stored(&api, "a").await["defaults"], json!({"v2": true}));
    let created = api.create(V1, with_defaults(first("b"))).await;
    assert_eq!(created["defaults"], json!({"v1": true}));
    let (_, read) = api.get(&format!("{V2}/b")).await;
    assert_eq!(
        read["defaults"],
        json!({"v1": true}),
        "v2 is not the storage version"
    );
    let (_, list) = api.get(V2).await;
    assert_eq!(list["items"][1], read);
}

#[tokio::test]
async fn a_webhook_changes_no_more_of_the_metadata_than_labels_and_annotations() {
    let converter = Converter::of_objects(|object, desired| {
        let mut object = split(object, desired);
        let metadata = &mut object["metadata"];
        metadata["labels"] = json!({"from": "webhook"});
        metadata["annotations"] = json!({"from": "webhook"});
        metadata["finalizers"] = json!(["example.com/x"]);
        metadata["generateName"] = "x".into();
        metadata["resourceVersion"] = "1".into();
        metadata["ownerReferences"] = json!([]);
        object
    })
    .await;
    let api = with_endpoints(&converter, "v1").await;
    let created = api.create(V1, first("a")).await;
    let (_, read) = api.get(&format!("{V2}/a")).await;
    let mut expected = created["metadata"].clone();
    expected["labels"] = json!({"from": "webhook"});
    expected["annotations"] = json!({"from": "webhook"});
    assert_eq!(read["metadata"], expected);
    // Selectors apply to the version of the request.
    let count = async |path: &str| {
        let (_, list) = api
            .get(&format!("{path}?labelSelector=from%3Dwebhook"))
            .await;
        list["items"].as_array().unwrap().len()
    };
    assert_eq!((count(V1).await, count(V2).await), (0, 1));
}

/// Stores the objects `x000` to `x998` and `x` in the version v1.
async fn create_thousand(api: &Api) {
    api.create(V1, first("x")).await;
    let text = text_at(api, "/registry/stable.example.com/endpoints/default/x").await;
    let operations = (0..999).map(|number| {
        let name = format!("x{number:03}");
        let key = format!("/registry/stable.example.com/endpoints/default/{name}");
        put(&key, &text.replace("\"x\"", &format!("{name:?}")))
    });
    let operations: Vec<Operation> = operations.collect();
    // A transaction has a limited number of operations.
    for part in operations.chunks(100) {
        let txn = Txn {
            operations: part.to_vec(),
            ..Txn::default()
        };
        api.store.txn(txn).await.unwrap();
    }
}

#[tokio::test]
async fn lists_are_converted_in_few_calls_and_once() {
    let converter = Converter::of_objects(split).await;
    let api = with_endpoints(&converter, "v1").await;
    create_thousand(&api).await;
    let count = async || api.get(V2).await.1["items"].as_array().unwrap().len();
    converter.calls();
    assert_eq!((count().await, converter.calls()), (1000, 4));
    assert_eq!((count().await, converter.calls()), (1000, 0));
    let (_, page) = api.get(&format!("{V2}?limit=10")).await;
    assert_eq!(
        (page["items"].as_array().unwrap().len(), converter.calls()),
        (10, 0)
    );
    let change = json!({"spec": {"hostPort": "web:1"}});
    assert_eq!(
        api.patch(&format!("{V1}/x007"), "merge", change).await.0,
        200
    );
    assert_eq!((count().await, converter.calls()), (1000, 1));
    // Other settings of the definition make all converted objects stale.
    let served = json!([{"op": "add", "path": "/spec/versions/1/deprecated", "value": true}]);
    assert_eq!(api.patch(DEFINITION, "json", served).await.0, 200);
    assert_eq!((count().await, converter.calls()), (1000, 4));
}

#[tokio::test]
async fn watches_of_a_version_share_the_calls() {
    let converter = Converter::of_objects(split).await;
    let api = with_endpoints(&converter, "v1").await;
    api.create(V1, first("a")).await;
    let mut watches = Vec::new();
    for _ in 0..10 {
        let mut watch = Events::open(&api, &format!("{V2}?watch=true")).await;
        assert_eq!(watch.short().await, "ADDED a");
        watches.push(watch);
    }
    assert_eq!(converter.calls(), 1);
    for port in 1..=5 {
        let change = json!({"spec": {"hostPort": format!("db:{port}")}});
        assert_eq!(api.patch(&format!("{V1}/a"), "merge", change).await.0, 200);
    }
    assert_eq!(
        api.send("DELETE", &format!("{V1}/a"), Value::Null).await.0,
        200
    );
    for watch in &mut watches {
        for port in 1..=5 {
            let event = watch.next().await.unwrap();
            assert_eq!(
                (&event["type"], &event["object"]["spec"]["port"]),
                (&json!("MODIFIED"), &json!(port.to_string()))
            );
            assert_eq!(event["object"]["apiVersion"], "stable.example.com/v2");
        }
        let event = watch.next().await.unwrap();
        assert_eq!(
            (&event["type"], &event["object"]["spec"]["port"]),
            (&json!("DELETED"), &json!("5"))
        );
    }
    let calls = converter.calls();
    assert!((1..=6).contains(&calls), "{calls}");
}

// edge.md §1.3, item 4, with a fifth of its changes: without optimisation, each event of a watch costs a third of a
// millisecond
#[tokio::test]
async fn fifty_watches_convert_each_change_once() {
    let converter = Converter::of_objects(split).await;
    let api = with_endpoints(&converter, "v1").await;
    create_thousand(&api).await;
    let (_, list) = api.get(&format!("{V1}?limit=1")).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{V2}?watch=true&resourceVersion={version}");
    let mut watches = Vec::new();
    for _ in 0..50 {
        watches.push(Events::open(&api, &path).await);
    }
    converter.calls();
    let changes = async {
        for number in 0..200 {
            let change = json!({"spec": {"hostPort": "db:1"}});
            let path = format!("{V1}/x{number:03}");
            assert_eq!(api.patch(&path, "merge", change).await.0, 200);
        }
    };
    let reads = watches.iter_mut().map(|watch| watch.skip(200));
    futures::join!(changes, futures::future::join_all(reads));
    let calls = converter.calls();
    assert!(calls <= 210, "{calls}");
    let metrics = api.raw("GET", "/metrics", &[], "").await.text();
    let name = "apiserver_conversion_webhook_request_total{result=\"success\",failure_type=\"\"} ";
    let counted = metrics.lines().find_map(|line| line.strip_prefix(name));
    assert_eq!(counted.unwrap().parse(), Ok(calls), "{metrics}");
}

// findings-2 E8
#[tokio::test]
async fn stored_versions_are_trimmed_before_a_version_is_dropped() {
    let converter = Converter::of_objects(split).await;
    let api = with_endpoints(&converter, "v1").await;
    store_in(&api, "v2").await;
    let drop_v1 = json!([{"op": "remove", "path": "/spec/versions/0"}]);
    let (code, refused) = api.patch(DEFINITION, "json", drop_v1.clone()).await;
    let message = refused["message"].as_str().unwrap();
    assert!(
        code == 422 && message.contains("v1 was previously a storage version"),
        "{message}"
    );
    let status = format!("{DEFINITION}/status");
    let trim = |list: Value| json!({"status": {"storedVersions": list}});
    let (code, refused) = api.patch(&status, "merge", trim(json!(["v1"]))).await;
    let message = refused["message"].as_str().unwrap();
    assert!(
        code == 422 && message.contains("must have the storage version v2"),
        "{message}"
    );
    let (code, _) = api.patch(&status, "merge", trim(json!(["v2"]))).await;
    assert_eq!(code, 200);
    let (code, dropped) = api.patch(DEFINITION, "json", drop_v1).await;
    assert_eq!(code, 200, "{dropped}");
    // An earlier program version stored such a list.
    let key = "/registry/customresourcedefinitions/endpoints.stable.example.com";
    let text = text_at(&api, key).await;
    let wrong = text.replace(
        "\"storedVersions\":[\"v2\"]",
        "\"storedVersions\":[\"v0\",\"v2\"]",
    );
    assert_ne!(wrong, text);
    let txn = Txn {
        operations: vec![put(key, &wrong)],
        ..Txn::default()
    };
    api.store.txn(txn).await.unwrap();
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let (code, labelled) = api.patch(DEFINITION, "merge", label).await;
    assert_eq!(
        (code, &labelled["status"]["storedVersions"]),
        (200, &json!(["v0", "v2"]))
    );
    assert_eq!(api.send("DELETE", DEFINITION, Value::Null).await.0, 200);
}
