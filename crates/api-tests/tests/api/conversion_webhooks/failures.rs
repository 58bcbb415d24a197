//! Webhooks that fail, lie or are down.

use std::sync::Arc;
use std::time::Duration;

use json_tree::{Value, json};

use super::{Converter, V1, V2, first, second, split, stored, success, with_endpoints};
use crate::harness::{Api, Events};
use crate::hook::{self, Hook};

/// The response of every verb in the other version.
async fn failures(api: &Api) -> Vec<(String, u16, String)> {
    let one = format!("{V2}/a");
    let object = second("a");
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {"name": "a"}, "spec": {"replicas": 42}});
    let annotation = json!({"metadata": {"annotations": {"a": "b"}}});
    let mut all = Vec::new();
    for path in [
        one.as_str(),
        V2,
        &format!("{one}/status"),
        &format!("{one}/scale"),
    ] {
        let (code, response) = api.get(path).await;
        all.push((format!("GET {path}"), code, response));
    }
    for (method, path, body) in [
        ("POST", V2, &second("new")),
        ("PUT", &one, &object),
        ("PUT", &format!("{one}/status"), &object),
        ("PUT", &format!("{one}/scale"), &scale),
        ("DELETE", V2, &Value::Null),
    ] {
        let (code, response) = api.send(method, path, body.clone()).await;
        all.push((format!("{method} {path}"), code, response));
    }
    for path in [
        one.as_str(),
        &format!("{one}/status"),
        &format!("{one}/scale"),
    ] {
        let (code, response) = api.patch(path, "merge", annotation.clone()).await;
        all.push((format!("PATCH {path}"), code, response));
    }
    let texts = all.into_iter().map(|(request, code, response)| {
        let text = response["message"].as_str().unwrap_or_default().to_owned();
        (request, code, text)
    });
    texts.collect()
}

#[tokio::test]
async fn a_webhook_that_fails_or_lies_is_an_error_of_every_request_that_needs_it() {
    type Respond = Arc<dyn Fn(&Value) -> Value + Send + Sync>;
    let changed = |change: fn(&mut Value)| -> Respond {
        Arc::new(move |review| {
            success(review, &|object, desired| {
                let mut object = split(object, desired);
                change(&mut object);
                object
            })
        })
    };
    let cases: Vec<(Respond, &str)> = vec![
        (
            changed(|o| o["metadata"]["uid"] = "x".into()),
            "must have the same UID",
        ),
        (
            changed(|o| o["metadata"]["name"] = "x".into()),
            "must have the same name: ",
        ),
        (
            changed(|o| o["metadata"]["namespace"] = "x".into()),
            "must have the same namespace: ",
        ),
        (
            changed(|o| o["kind"] = "X".into()),
            "must have the same kind: Endpoint != X",
        ),
        (
            changed(|o| o["apiVersion"] = "x/v9".into()),
            "invalid groupVersion (expected ",
        ),
        (
            changed(|o| o["metadata"] = json!("x")),
            "must have the same name: ",
        ),
        (
            changed(|o| *o = json!([])),
            "invalid groupVersion (expected ",
        ),
        (
            Arc::new(|_| json!({"result": {"status": "Success"}})),
            "returned 0 objects, expected 1",
        ),
        (
            Arc::new(|_| json!({"result": {"status": "Failure", "message": "custom error"}})),
            "Kind=Endpoint failed: custom error",
        ),
        (
            Arc::new(|_| json!({})),
            "failed: response.result.status was '', not 'Success'",
        ),
        (Arc::new(|_| Value::Null), "no response provided"),
    ];
    for (respond, text) in cases {
        for reviews in ["v1", "v1beta1"] {
            if reviews == "v1beta1" && !text.contains("custom") && !text.contains("UID") {
                continue;
            }
            let respond = respond.clone();
            let converter = Converter::start(move |review| respond(review)).await;
            let api = with_endpoints(&converter, reviews).await;
            api.create(V1, first("a")).await;
            for (request, code, message) in failures(&api).await {
                assert_eq!(code, 500, "{request} {text}: {message}");
                assert!(
                    message.contains("conversion webhook for stable.example.com/v"),
                    "{request}: {message}"
                );
                assert!(message.contains(text), "{request} {text}: {message}");
            }
            assert_eq!(
                api.get(&format!("{V1}/a")).await.1["spec"]["hostPort"],
                "db:5432"
            );
            assert_eq!(api.get(&format!("{V1}/new")).await.0, 404);
        }
    }
}

/// Metadata only, as the controllers of the cluster read them.
const METADATA: (&str, &str) = (
    "accept",
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
);

// findings-2 R27
#[tokio::test]
async fn the_cluster_goes_on_while_a_webhook_is_down() {
    let converter = Converter::of_objects(split).await;
    let api = with_endpoints(&converter, "v1").await;
    for name in ["a", "b", "c", "d"] {
        api.create(V1, first(name)).await;
    }
    // An admission webhook needs the object of a deletion.
    let validator = Hook::start(|_| json!({"allowed": true})).await;
    let kind = "ValidatingWebhookConfiguration";
    let rules = json!([{"operations": ["*"], "apiGroups": ["stable.example.com"],
        "apiVersions": ["v1"], "resources": ["endpoints"]}]);
    let configuration = validator.configuration(kind, "validator", json!({ "rules": rules }));
    hook::make(&api, hook::VALIDATING, configuration).await;
    drop(converter);

    let (code, read) = api.get(&format!("{V1}/a")).await;
    assert_eq!((code, &read["spec"]["hostPort"]), (200, &json!("db:5432")));
    let (code, refused) = api.get(&format!("{V2}/a")).await;
    let text = "conversion webhook for stable.example.com/v1, Kind=Endpoint failed: Post \"https://127.0.0.1:";
    let message = refused["message"].as_str().unwrap();
    assert!(code == 500 && message.contains(text), "{message}");

    // The controllers list, patch and delete in a version that must not matter.
    let listed = api.raw("GET", V2, &[METADATA], "").await;
    assert_eq!(
        (
            listed.code,
            listed.json()["items"].as_array().unwrap().len()
        ),
        (200, 4)
    );
    let metadata = METADATA.1.replace("MetadataList", "Metadata");
    let headers = [
        ("content-type", "application/merge-patch+json"),
        ("accept", metadata.as_str()),
    ];
    let patch = json!({"metadata": {"finalizers": ["example.com/f"]}});
    let path = format!("{V2}/a");
    let patched = api.raw("PATCH", &path, &headers, patch.to_string()).await;
    assert_eq!(patched.code, 200, "{}", patched.text());
    assert_eq!(
        stored(&api, "a").await["metadata"]["finalizers"][0],
        "example.com/f"
    );
    assert_eq!(stored(&api, "a").await["spec"], read["spec"]);
    let deleted = api.send("DELETE", &path, Value::Null).await;
    assert_eq!(
        (deleted.0, &deleted.1["status"]),
        (200, &json!("Success")),
        "{}",
        deleted.1
    );
    let patch = json!({"metadata": {"finalizers": null}});
    let patched = api.raw("PATCH", &path, &headers, patch.to_string()).await;
    assert_eq!(patched.code, 200, "{}", patched.text());
    assert_eq!(api.get(&format!("{V1}/a")).await.0, 404);
    assert_eq!(
        api.send("DELETE", &format!("{V2}/b"), Value::Null).await.0,
        200
    );
    let deleted = api.raw("DELETE", V2, &[METADATA], "").await;
    assert_eq!(deleted.code, 200, "{}", deleted.text());
    assert_eq!(api.get(V1).await.1["items"], json!([]));
    assert!(!validator.requests().is_empty());
}

#[tokio::test]
async fn a_watch_ends_with_an_error_when_its_webhook_stays_down() {
    let converter = Converter::of_objects(split).await;
    let api = with_endpoints(&converter, "v1").await;
    let mut of_v1 = Events::open(&api, &format!("{V1}?watch=true")).await;
    let mut of_v2 = Events::open(&api, &format!("{V2}?watch=true")).await;
    drop(converter);
    let begun = std::time::Instant::now();
    api.create(V1, first("a")).await;
    assert_eq!(of_v1.short().await, "ADDED a");
    let event = of_v2.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&json!("ERROR"), &json!(500))
    );
    let message = event["object"]["message"].as_str().unwrap();
    assert!(
        message.contains("conversion webhook for stable.example.com/v1, Kind=Endpoint failed: "),
        "{message}"
    );
    assert!(begun.elapsed() >= Duration::from_secs(4), "three attempts");
    assert_eq!(of_v2.next().await, None);
}
