//! Invalid requests: each gets its `Status`, and nothing changes.

use json_tree::json;
use mvcc_store::Store;

use crate::harness::{Api, CONFIG_MAPS, config_map};

const JSON: &str = "application/json";

/// One request per line: method, path, content type (`json`, `yaml`, `merge` … or the full name), body; then the code
/// and a part of the message. `MAPS` and `SETS` are collections in `default`.
const CASES: &str = r#"
POST | MAPS | json | | 400 | empty
POST | MAPS | json | {"a": | 400 | json parse error
POST | MAPS | json | [] | 400 | not an object
POST | MAPS | yaml | a: [ | 400 | yaml
POST | MAPS | yaml | a: *b | 400 | yaml
POST | MAPS | text/plain | {} | 415 | application/json
POST | MAPS | application/cbor | x | 415 | application/json
POST | MAPS | protobuf | {} | 400 | does not appear to be a protobuf message
POST | MAPS | json | {"kind":"Secret","apiVersion":"v1"} | 400 | Secret
POST | MAPS | json | {"apiVersion":"v2"} | 400 | does not match the expected
POST | MAPS | json | {"metadata":{"name":"A_b"}} | 422 | RFC 1123
POST | MAPS | json | {"metadata":{"name":"a","namespace":"b"}} | 400 | namespace
POST | MAPS | json | {"metadata":{"name":"a","labels":{"a b":"c"}}} | 422 | metadata.labels
POST | MAPS | json | {"metadata":7} | 400 | cannot be handled as a ConfigMap
POST | /api/v1/namespaces/no/configmaps | json | {"metadata":{"name":"a"}} | 404 | "no" not found
POST | MAPS/a | json | {} | 405 | does not allow this method
PUT | MAPS | json | {} | 405 | does not allow this method
PUT | MAPS/absent | json | {"metadata":{"name":"b"}} | 400 | does not match the name on the URL
PUT | MAPS/a%2Fb | json | {} | 400 | may not contain
PATCH | MAPS/a | json | {} | 415 | merge-patch
PATCH | MAPS/a | merge | { | 400 | decoding patch
PATCH | MAPS/a | merge | [] | 400 | not an object
PATCH | SETS/a | application/json-patch+json | {} | 404 | not found
GET | /api/v1/namespaces/default/foos | json | | 404 | could not find the requested resource
GET | /apis/nope/v1/foos | json | | 404 | could not find
GET | /nope | json | | 404 | could not find
GET | /api/v1/namespaces/default/nodes | json | | 404 | could not find
GET | MAPS/a/status | json | | 404 | could not find
GET | MAPS/a/b/c/d | json | | 404 | could not find
GET | MAPS?labelSelector=a%20b%20c | json | | 400 | unable to parse requirement
GET | MAPS?fieldSelector=data.a%3Db | json | | 400 | "data.a" is not a known field selector: only "metadata.name", "metadata.namespace"
GET | /api/v1/pods?fieldSelector=data.a%3Db | json | | 400 | field label not supported: data.a
GET | /apis/batch/v1/jobs?fieldSelector=data.a%3Db | json | | 400 | field label "data.a" not supported for Job
GET | MAPS?limit=x | json | | 400 | limit
GET | MAPS?continue=%21 | json | | 400 | continue key is not valid
GET | MAPS?resourceVersion=x | json | | 400 | invalid resource version
GET | MAPS?resourceVersion=999999 | json | | 504 | Too large resource version
GET | MAPS?resourceVersionMatch=Exact | json | | 422 | forbidden unless resourceVersion
GET | MAPS?sendInitialEvents=true | json | | 422 | sendInitialEvents is forbidden for list
GET | MAPS?watch=1&sendInitialEvents=true | json | | 422 | resourceVersionMatch
DELETE | MAPS/a | json | {"kind":"Pod"} | 400 | DeleteOptions
DELETE | MAPS/a | json | {"gracePeriodSeconds":"x"} | 400 | DeleteOptions
DELETE | MAPS/a?propagationPolicy=Nope | json | | 422 | propagationPolicy
"#;

async fn refuses(api: &Api, case: &str) {
    let words: Vec<&str> = case.split('|').map(str::trim).collect();
    let [method, path, content_type, body, code, part] = words[..] else {
        panic!("not a case: {case}");
    };
    let path = path
        .replace("MAPS", CONFIG_MAPS)
        .replace("SETS", "/apis/apps/v1/namespaces/default/statefulsets");
    let content_type = match content_type {
        "json" => JSON,
        "yaml" => "application/yaml",
        "merge" => "application/merge-patch+json",
        "protobuf" => "application/vnd.kubernetes.protobuf",
        other => other,
    };
    let headers = [("content-type", content_type)];
    let response = api.raw(method, &path, &headers, body.to_owned()).await;
    let status = response.json();
    assert_eq!(response.code.to_string(), code, "{case}: {status}");
    assert_eq!(status["kind"], "Status", "{case}");
    assert_eq!(status["code"].to_string(), code, "{case}");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains(part), "{case}: {message}");
}

#[tokio::test]
async fn nonsense_is_refused_and_changes_nothing() {
    let api = Api::new().await;
    let before = api.store.current_revision();
    for case in CASES.lines().filter(|line| !line.is_empty()) {
        refuses(&api, case).await;
    }
    assert_eq!(api.store.current_revision(), before);
}

#[tokio::test]
async fn bodies_that_are_no_text_or_endless_are_refused() {
    let api = Api::new().await;
    let json = [("content-type", JSON)];
    let not_utf8 = api
        .raw("POST", CONFIG_MAPS, &json, &b"{\"a\":\"\xff\"}"[..])
        .await;
    assert_eq!(not_utf8.code, 400);
    let deep = format!("{}1{}", "{\"a\":".repeat(500), "}".repeat(500));
    let deep = api.raw("POST", CONFIG_MAPS, &json, deep).await;
    assert_eq!(deep.code, 400);
    assert!(deep.text().contains("nested"));
    let huge = vec![b' '; 3 * 1024 * 1024 + 1];
    let huge = api.raw("POST", CONFIG_MAPS, &json, huge).await;
    assert_eq!(huge.code, 413);
    assert_eq!(huge.json()["reason"], "RequestEntityTooLarge");
    let mut large = config_map("large");
    large["data"]["a"] = json!("x".repeat(2 * 1024 * 1024));
    let (code, _) = api.send("POST", CONFIG_MAPS, large).await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn only_forms_that_exist_are_sent() {
    let api = Api::new().await;
    let html = [("accept", "text/html")];
    assert_eq!(api.raw("GET", CONFIG_MAPS, &html, "").await.code, 406);
    let yaml = [("accept", "application/yaml")];
    let response = api
        .raw("GET", "/api/v1/namespaces/default", &yaml, "")
        .await;
    assert_eq!(response.headers["content-type"], "application/yaml");
    assert!(response.text().contains("kind: Namespace"));
}
