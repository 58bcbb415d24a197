//! All paths without objects: health, version, discovery, OpenAPI, metrics.

use json_tree::json;

use crate::harness::Api;

#[tokio::test]
async fn health_is_told_check_by_check() {
    // kubectl.md 6.8
    let api = Api::new().await;
    for path in ["/livez", "/readyz", "/healthz", "/readyz/store"] {
        let response = api.raw("GET", path, &[], "").await;
        assert_eq!(
            (response.code, response.text()),
            (200, "ok".to_owned()),
            "{path}"
        );
    }
    let verbose = api.raw("GET", "/readyz?verbose", &[], "").await.text();
    assert!(verbose.starts_with("[+]ping ok\n") && verbose.ends_with("readyz check passed\n"));
    assert_eq!(api.raw("GET", "/readyz/nope", &[], "").await.code, 404);
}

#[tokio::test]
async fn the_version_is_kubernetes_and_ours() {
    // kubectl.md 0.4
    let (_, version) = Api::new().await.get("/version").await;
    assert_eq!(
        (&version["major"], &version["minor"]),
        (&json!("1"), &json!("36"))
    );
    assert!(
        version["gitVersion"]
            .as_str()
            .unwrap()
            .starts_with("v1.36.0+mainstay.")
    );
}

#[tokio::test]
async fn discovery_comes_in_both_forms_and_is_cached() {
    // kubectl.md 0.2, 0.3
    let api = Api::new().await;
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let beta = v2.replace("v=v2", "v=v2beta1");
    let accept = format!("{v2},{beta},application/json");
    let response = api.raw("GET", "/apis", &[("accept", &accept)], "").await;
    assert_eq!(response.headers["content-type"], v2);
    let list = response.json();
    let apps = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|g| g["metadata"]["name"] == "apps");
    let resources = apps.unwrap()["versions"][0]["resources"]
        .as_array()
        .unwrap()
        .clone();
    let sets = resources
        .iter()
        .find(|r| r["resource"] == "statefulsets")
        .unwrap();
    assert_eq!(sets["shortNames"], json!(["sts"]));
    assert_eq!(sets["categories"], json!(["all"]));
    assert_eq!(
        sets["responseKind"],
        json!({"group": "apps", "version": "v1", "kind": "StatefulSet"})
    );
    assert!(
        sets["subresources"]
            .as_array()
            .unwrap()
            .iter()
            .any(|s| s["subresource"] == "scale")
    );
    let etag = response.headers["etag"].to_str().unwrap();
    let cached = [("accept", accept.as_str()), ("if-none-match", etag)];
    assert_eq!(api.raw("GET", "/apis", &cached, "").await.code, 304);
    let old = api
        .raw("GET", "/apis", &[("accept", &beta)], "")
        .await
        .json();
    assert_eq!(old["apiVersion"], "apidiscovery.k8s.io/v2beta1");
    assert_eq!(api.get("/api").await.1["versions"], json!(["v1"]));
    let (_, groups) = api.get("/apis").await;
    assert_eq!(groups["kind"], "APIGroupList");
    assert_eq!(
        api.get("/apis/apps").await.1["preferredVersion"]["groupVersion"],
        "apps/v1"
    );
    let (_, core) = api.get("/api/v1").await;
    let names: Vec<&str> = core["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    for name in [
        "pods",
        "pods/exec",
        "pods/log",
        "pods/status",
        "services",
        "namespaces/finalize",
    ] {
        assert!(names.contains(&name), "{name}");
    }
    assert_eq!(api.get("/apis/nope").await.0, 404);
}

#[tokio::test]
async fn openapi_has_what_kubectl_looks_for() {
    // kubectl.md 0.9, 0.10
    let api = Api::new().await;
    let (code, index) = api.get("/openapi/v3").await;
    assert_eq!(code, 200);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap();
    let (code, document) = api.get(url).await;
    assert_eq!(code, 200);
    let path = "/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}";
    let parameters = document["paths"][path]["patch"]["parameters"]
        .as_array()
        .unwrap();
    assert!(parameters.iter().any(|p| p["name"] == "fieldValidation"));
    let plain = api.raw("GET", "/openapi/v2", &[], "").await;
    assert_eq!(plain.json()["swagger"], "2.0");
    let etag = plain.headers["etag"].to_str().unwrap();
    let again = api
        .raw("GET", "/openapi/v2", &[("if-none-match", etag)], "")
        .await;
    assert_eq!(again.code, 304);
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let accept = ("accept", protobuf);
    let binary = api.raw("GET", "/openapi/v2", &[accept], "").await;
    assert_eq!(binary.code, 200);
    let expected = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    assert_eq!(binary.headers["content-type"], expected);
    assert_ne!(binary.headers["etag"], etag);
    let etag = binary.headers["etag"].to_str().unwrap();
    let headers = [accept, ("if-none-match", etag)];
    let again = api.raw("GET", "/openapi/v2", &headers, "").await;
    assert_eq!(again.code, 304);
    assert_eq!(api.get("/openapi/v3/apis/nope/v1").await.0, 404);
}

#[tokio::test]
async fn metrics_count_requests() {
    let api = Api::new().await;
    api.get("/api/v1/namespaces").await;
    let text = api.raw("GET", "/metrics", &[], "").await.text();
    let label = "component=\"apiserver\",group=\"\",resource=\"namespaces\",scope=\"cluster\",\
                 subresource=\"\",verb=\"LIST\",version=\"v1\"";
    for line in [
        format!("apiserver_request_total{{code=\"200\",{label}}} 1\n"),
        format!("apiserver_request_duration_seconds_bucket{{{label},le=\"+Inf\"}} 1\n"),
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1\n".to_owned(),
        "apiserver_current_inflight_requests{request_kind=\"mutating\"} 0\n".to_owned(),
        "apiserver_storage_objects{resource=\"namespaces\"} 4\n".to_owned(),
        "\nprocess_resident_memory_bytes ".to_owned(),
        "\nprocess_start_time_seconds ".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}{text}");
    }
}

#[tokio::test]
async fn metrics_count_no_words_of_a_clients_choice() {
    // kubectl.md 0.1: refused requests are counted, too, and must not fill the memory.
    let api = Api::new().await;
    api.get("/api/v1/namespaces/default/madeup").await;
    api.get("/api/v1/namespaces/default/pods/x/madeup").await;
    api.raw("MADEUP", "/madeup", &[], "").await;
    let text = api.raw("GET", "/metrics", &[], "").await.text();
    assert!(!text.to_ascii_lowercase().contains("madeup"), "{text}");
    let label = r#"resource="pods",scope="resource",subresource="other",verb="GET""#;
    assert!(text.contains(label), "{text}");
}

#[tokio::test]
async fn a_head_is_answered_without_a_body() {
    let api = Api::new().await;
    for (path, code) in [("/healthz", 200), ("/api/v1/pods", 405)] {
        let response = api.raw("HEAD", path, &[], "").await;
        assert_eq!((response.code, response.bytes.len()), (code, 0), "{path}");
    }
}

#[tokio::test]
async fn kubectl_can_tell_that_a_kind_is_unknown() {
    // kubectl.md 10.6: the client reads the custom kinds first; it reads the details of an error without a check.
    let api = Api::new().await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, list) = api.get(path).await;
    assert_eq!((code, &list["items"]), (200, &json!([])));
    assert_eq!(list["kind"], "CustomResourceDefinitionList");
    let stranger = api.as_user("somebody", &["system:authenticated"]);
    assert_eq!(stranger.get(path).await.0, 403);
    let missing = "/api/v1/namespaces/default/pods/x/nothing";
    for path in [
        missing,
        "/apis/apps/v1/nothings",
        "/nowhere",
        "/openapi/v3/x",
    ] {
        let (code, status) = api.get(path).await;
        assert_eq!((code, &status["details"]), (404, &json!({})), "{path}");
    }
}

#[tokio::test]
async fn a_fresh_cluster_has_its_namespaces_and_knows_itself() {
    let api = Api::new().await;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        assert_eq!(
            api.get(&format!("/api/v1/namespaces/{name}")).await.0,
            200,
            "{name}"
        );
    }
    let (_, service) = api
        .get("/api/v1/namespaces/default/services/kubernetes")
        .await;
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let (_, endpoints) = api
        .get("/api/v1/namespaces/default/endpoints/kubernetes")
        .await;
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "10.244.0.1");
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    assert_eq!(
        api.get(slices).await.1["endpoints"][0]["addresses"],
        json!(["10.244.0.1"])
    );
    // A second server over the store finds all default objects and writes nothing.
    let before = mvcc_store::Store::current_revision(api.store.as_ref());
    let again = Api::over(api.store.clone(), kube_api_server::Limits::default(), None).await;
    assert_eq!(
        mvcc_store::Store::current_revision(again.store.as_ref()),
        before
    );
}
