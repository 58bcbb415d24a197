//! Requests that make no sense: each gets its `Status`, and nothing changes.

use serde_json::json;

use crate::harness::{Api, CONFIG_MAPS, SETS, config_map};

/// Method, path, content type, body; code and a part of the message.
type Case<'c> = (&'c str, String, &'c str, &'c [u8], u16, &'c str);

#[tokio::test]
async fn nonsense_is_refused_and_changes_nothing() {
    let api = Api::new().await;
    let before = mvcc_store::Store::current_revision(api.store.as_ref());
    let deep = format!("{}1{}", "{\"a\":".repeat(500), "}".repeat(500));
    let json = "application/json";
    let maps = CONFIG_MAPS;
    let cases: Vec<Case<'_>> = vec![
        ("POST", maps.into(), json, b"", 400, "empty"),
        (
            "POST",
            maps.into(),
            json,
            b"{\"a\":",
            400,
            "json parse error",
        ),
        ("POST", maps.into(), json, b"[]", 400, "not an object"),
        (
            "POST",
            maps.into(),
            json,
            b"{\"metadata\":{\"name\":\"\xff\"}}",
            400,
            "json parse error",
        ),
        ("POST", maps.into(), json, deep.as_bytes(), 400, "nested"),
        (
            "POST",
            maps.into(),
            "application/yaml",
            b"a: [",
            400,
            "yaml",
        ),
        (
            "POST",
            maps.into(),
            "application/yaml",
            b"a: *b",
            400,
            "yaml",
        ),
        (
            "POST",
            maps.into(),
            "text/plain",
            b"{}",
            415,
            "application/json",
        ),
        (
            "POST",
            maps.into(),
            "application/cbor",
            b"\xa0",
            415,
            "application/json",
        ),
        (
            "POST",
            maps.into(),
            json,
            br#"{"kind":"Secret","apiVersion":"v1"}"#,
            400,
            "Secret",
        ),
        (
            "POST",
            maps.into(),
            json,
            br#"{"apiVersion":"v2"}"#,
            400,
            "does not match the expected",
        ),
        (
            "POST",
            maps.into(),
            json,
            br#"{"metadata":{"name":"A_b"}}"#,
            422,
            "RFC 1123",
        ),
        (
            "POST",
            maps.into(),
            json,
            br#"{"metadata":{"name":"a","namespace":"b"}}"#,
            400,
            "namespace",
        ),
        (
            "POST",
            maps.into(),
            json,
            br#"{"metadata":{"name":"a","labels":{"a b":"c"}}}"#,
            422,
            "metadata.labels",
        ),
        (
            "POST",
            maps.into(),
            json,
            br#"{"metadata":7}"#,
            400,
            "cannot be handled as a ConfigMap",
        ),
        (
            "POST",
            "/api/v1/namespaces/nope/configmaps".into(),
            json,
            br#"{"metadata":{"name":"a"}}"#,
            404,
            "namespaces \"nope\" not found",
        ),
        (
            "POST",
            format!("{maps}/a"),
            json,
            b"{}",
            405,
            "does not allow this method",
        ),
        (
            "PUT",
            maps.into(),
            json,
            b"{}",
            405,
            "does not allow this method",
        ),
        (
            "PATCH",
            format!("{maps}/a"),
            json,
            b"{}",
            415,
            "merge-patch",
        ),
        (
            "PATCH",
            format!("{maps}/a"),
            "application/merge-patch+json",
            b"{",
            400,
            "decoding patch",
        ),
        (
            "PATCH",
            format!("{SETS}/a"),
            "application/json-patch+json",
            b"{}",
            404,
            "not found",
        ),
        (
            "GET",
            "/api/v1/namespaces/default/foos".into(),
            json,
            b"",
            404,
            "could not find the requested resource",
        ),
        (
            "GET",
            "/apis/nope/v1/foos".into(),
            json,
            b"",
            404,
            "could not find",
        ),
        ("GET", "/nope".into(), json, b"", 404, "could not find"),
        (
            "GET",
            "/api/v1/namespaces/default/nodes".into(),
            json,
            b"",
            404,
            "could not find",
        ),
        (
            "GET",
            format!("{maps}/a%2Fb"),
            json,
            b"",
            400,
            "may not contain",
        ),
        (
            "GET",
            format!("{maps}/a/status"),
            json,
            b"",
            404,
            "could not find",
        ),
        (
            "GET",
            format!("{maps}?labelSelector=a%20b%20c"),
            json,
            b"",
            400,
            "unable to parse requirement",
        ),
        (
            "GET",
            format!("{maps}?fieldSelector=data.a%3Db"),
            json,
            b"",
            400,
            "field label not supported: data.a",
        ),
        ("GET", format!("{maps}?limit=x"), json, b"", 400, "limit"),
        (
            "GET",
            format!("{maps}?continue=%21"),
            json,
            b"",
            400,
            "continue key is not valid",
        ),
        (
            "GET",
            format!("{maps}?resourceVersion=x"),
            json,
            b"",
            422,
            "resourceVersion",
        ),
        (
            "GET",
            format!("{maps}?resourceVersion=999999"),
            json,
            b"",
            504,
            "Too large resource version",
        ),
        (
            "GET",
            format!("{maps}?resourceVersionMatch=Exact"),
            json,
            b"",
            422,
            "forbidden unless resourceVersion",
        ),
        (
            "GET",
            format!("{maps}?watch=1&sendInitialEvents=true"),
            json,
            b"",
            422,
            "resourceVersionMatch",
        ),
        (
            "DELETE",
            format!("{maps}/a"),
            json,
            b"{\"kind\":\"Pod\"}",
            400,
            "DeleteOptions",
        ),
        (
            "DELETE",
            format!("{maps}/a?propagationPolicy=Nope"),
            json,
            b"",
            422,
            "propagationPolicy",
        ),
    ];
    for (method, path, content_type, body, code, part) in cases {
        let headers = [("content-type", content_type)];
        let answer = api.raw(method, &path, &headers, body.to_vec()).await;
        let status = answer.json();
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
        assert_eq!(answer.code, code, "{method} {path} {shown}: {status}");
        assert_eq!(status["kind"], "Status", "{method} {path}");
        assert_eq!(status["code"], code, "{method} {path}");
        let message = status["message"].as_str().unwrap();
        assert!(message.contains(part), "{method} {path} {shown}: {message}");
    }
    assert_eq!(
        mvcc_store::Store::current_revision(api.store.as_ref()),
        before
    );
}

#[tokio::test]
async fn a_huge_body_is_refused() {
    let api = Api::new().await;
    let json = [("content-type", "application/json")];
    let answer = api
        .raw("POST", CONFIG_MAPS, &json, vec![b' '; 3 * 1024 * 1024 + 1])
        .await;
    assert_eq!(answer.code, 413);
    assert_eq!(answer.json()["reason"], "RequestEntityTooLarge");
    let mut large = config_map("large");
    large["data"]["a"] = json!("x".repeat(2 * 1024 * 1024));
    let (code, _) = api.send("POST", CONFIG_MAPS, large).await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn only_forms_that_exist_are_sent() {
    let api = Api::new().await;
    let proto = [("accept", "application/vnd.kubernetes.protobuf")];
    assert_eq!(api.raw("GET", CONFIG_MAPS, &proto, "").await.code, 406);
    let yaml = [("accept", "application/yaml")];
    let answer = api
        .raw("GET", "/api/v1/namespaces/default", &yaml, "")
        .await;
    assert_eq!(answer.headers["content-type"], "application/yaml");
    assert!(answer.text().contains("kind: Namespace"));
}
