//! Group versions of extension API servers: proxied requests, discovery, availability.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use json_tree::{Value, json};
use kube_api_server::{Config, FrontProxyMaterial, Limits};
use mvcc_store::embedded::EmbeddedStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::extension_server::{
    API_SERVICES, BASE, ExtensionServer, FLUNDERS, GROUP, front_proxy, wait_for_reason,
};
use crate::harness::{Api, CONFIG_MAPS};
use crate::network::Served;

const NAME: &str = "v1alpha1.wardle.example.com";
const AGGREGATED: (&str, &str) = (
    "accept",
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
);

async fn api_with(proxy: FrontProxyMaterial) -> Api {
    let store = EmbeddedStore::in_memory();
    let config = Config {
        front_proxy: Some(proxy),
        ..Config::in_process(store.clone())
    };
    Api::configured(store, config).await
}

/// A server with an available extension API server; `None` on a machine without a network.
async fn served() -> Option<(Api, ExtensionServer)> {
    let proxy = front_proxy();
    let extension = ExtensionServer::start(&proxy).await?;
    let api = api_with(proxy).await;
    extension.register(&api).await;
    wait_for_reason(&api, NAME, "Passed").await;
    Some((api, extension))
}

/// The code and the text of a response, which need not match a schema of this server.
async fn text(api: &Api, method: &str, path: &str, body: &str) -> (u16, String) {
    let json = [("content-type", "application/json")];
    let response = api.respond(method, path, &json, body.to_owned()).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8_lossy(&bytes).into_owned())
}

/// The version of the group in aggregated discovery.
async fn in_discovery(api: &Api) -> Value {
    let all = api.raw("GET", "/apis", &[AGGREGATED], "").await.json();
    let items = all["items"].as_array().unwrap();
    let group = items
        .iter()
        .find(|group| group["metadata"]["name"] == GROUP);
    group.map_or(Value::Null, |group| group["versions"][0].clone())
}

#[tokio::test]
async fn objects_of_an_extension_server_are_written_and_watched() {
    let Some((api, extension)) = served().await else {
        return;
    };
    let watching = format!("{FLUNDERS}?watch=true");
    let mut watch = api.respond("GET", &watching, &[], "").await.into_body();
    let flunder = r#"{"metadata": {"name": "a"}}"#;
    assert_eq!(text(&api, "POST", FLUNDERS, flunder).await.0, 201);
    let one = format!("{FLUNDERS}/a");
    let (code, stored) = text(&api, "GET", &one, "").await;
    let stored: Value = serde_json::from_str(&stored).unwrap();
    assert_eq!((code, &stored["metadata"]["name"]), (200, &json!("a")));
    assert_eq!(text(&api, "DELETE", &one, "").await.0, 200);
    assert_eq!(text(&api, "GET", &one, "").await.0, 404);
    for expected in ["ADDED", "DELETED"] {
        let frame = watch.frame().await.unwrap().unwrap().into_data().unwrap();
        let event: Value = serde_json::from_slice(&frame).unwrap();
        assert_eq!(event["type"], expected);
    }
    let lines: Vec<String> = extension
        .requests()
        .into_iter()
        .map(|request| request.line)
        .collect();
    assert_eq!(
        lines,
        [
            format!("GET {watching}"),
            format!("POST {FLUNDERS}"),
            format!("GET {one}"),
            format!("DELETE {one}"),
            format!("GET {one}"),
        ]
    );
    // Its kinds are in discovery in both forms, and its OpenAPI document in the index.
    let (_, group) = api.get(&format!("/apis/{GROUP}")).await;
    assert_eq!(group["preferredVersion"]["version"], "v1alpha1");
    let version = in_discovery(&api).await;
    assert_eq!(
        (&version["freshness"], &version["resources"][0]["resource"]),
        (&json!("Current"), &json!("flunders"))
    );
    assert!(text(&api, "GET", BASE, "").await.1.contains("Flunder"));
    let (_, index) = api.get("/openapi/v3").await;
    let url = &index["paths"][BASE.trim_start_matches('/')]["serverRelativeURL"];
    let (code, document) = text(&api, "GET", url.as_str().unwrap(), "").await;
    assert!(code == 200 && document.contains("wardle"), "{document}");
}

#[tokio::test]
async fn a_backend_sees_the_user_who_was_authenticated() {
    let Some((api, extension)) = served().await else {
        return;
    };
    let forged = [
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
        ("x-remote-extra-scopes", "all"),
        ("authorization", "Bearer secret"),
        ("connection", "x-remote-user, x-remote-group"),
    ];
    extension.requests();
    let response = api.respond("GET", FLUNDERS, &forged, "").await;
    assert_eq!(response.status(), 200);
    // Somebody without rights is refused before.
    let stranger = api.as_user("bob", &["system:authenticated"]);
    assert_eq!(text(&stranger, "GET", FLUNDERS, "").await.0, 403);
    let requests = extension.requests();
    assert_eq!(requests.len(), 1);
    let request = &requests[0];
    assert_eq!(request.all("x-remote-user"), ["admin"]);
    let groups = request.all("x-remote-group");
    assert!(groups.contains(&"system:masters".to_owned()), "{groups:?}");
    for name in ["authorization", "x-remote-extra-scopes", "connection"] {
        assert_eq!(request.all(name), [""; 0], "{name}");
    }
    // The backend receives the name of the impersonated user.
    let acting = [
        ("impersonate-user", "carol"),
        ("impersonate-group", "system:masters"),
    ];
    let response = api.respond("GET", FLUNDERS, &acting, "").await;
    assert_eq!(response.status(), 200);
    let request = &extension.requests()[0];
    assert_eq!(request.all("x-remote-user"), ["carol"]);
    assert_eq!(request.all("impersonate-user"), [""; 0]);
}

#[tokio::test]
async fn paths_redirects_and_senders_have_their_bounds() {
    let Some((api, extension)) = served().await else {
        return;
    };
    extension.requests();
    let escaped = format!("{FLUNDERS}/a%2fstatus");
    assert_eq!(text(&api, "GET", &escaped, "").await.0, 400);
    assert_eq!(extension.requests().len(), 0);
    let (code, body) = text(&api, "GET", &format!("{FLUNDERS}/elsewhere"), "").await;
    assert_eq!(code, 502, "{body}");
    // Requests without a response: those beyond the sender's share are refused, and another sender is served.
    let silent = format!("{FLUNDERS}/silent");
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (sender, path) = (api.as_user("eve", &["system:masters"]), silent.clone());
        waiting.spawn(async move { text(&sender, "GET", &path, "").await });
    }
    for _ in 0..8 {
        let (code, body) = waiting.join_next().await.unwrap().unwrap();
        assert_eq!(code, 429, "{body}");
    }
    assert_eq!(waiting.len(), 32);
    assert_eq!(text(&api, "GET", FLUNDERS, "").await.0, 200);
    let eve = api.as_user("eve", &["system:masters"]);
    assert_eq!(text(&eve, "GET", FLUNDERS, "").await.0, 429);
    assert_eq!(text(&eve, "GET", CONFIG_MAPS, "").await.0, 200);
}

#[tokio::test]
async fn a_killed_backend_is_unavailable_and_the_others_stay() {
    let Some((api, extension)) = served().await else {
        return;
    };
    drop(extension);
    let started = Instant::now();
    let (code, body) = text(&api, "GET", FLUNDERS, "").await;
    assert_eq!(code, 503, "{body}");
    assert!(started.elapsed() < Duration::from_secs(6));
    let condition = wait_for_reason(&api, NAME, "FailedDiscoveryCheck").await;
    assert_eq!(condition["status"], "False");
    assert_eq!(
        text(&api, "GET", FLUNDERS, "").await,
        (503, "service unavailable\n".to_owned())
    );
    // Discovery has the last cached kinds, and all other groups.
    let version = in_discovery(&api).await;
    assert_eq!(
        (&version["freshness"], &version["resources"][0]["resource"]),
        (&json!("Stale"), &json!("flunders"))
    );
    let (code, groups) = api.get("/apis").await;
    assert_eq!(code, 200);
    let groups = groups["groups"].as_array().unwrap();
    assert!(groups.iter().any(|group| group["name"] == "apps"));
    assert_eq!(api.get(CONFIG_MAPS).await.0, 200);
    let path = format!("{API_SERVICES}/{NAME}");
    assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
    assert_eq!(in_discovery(&api).await, Value::Null);
    assert_eq!(text(&api, "GET", FLUNDERS, "").await.0, 404);
}

#[tokio::test]
async fn only_the_front_proxy_of_the_cluster_is_trusted() {
    let proxy = front_proxy();
    let Some(extension) = ExtensionServer::start(&proxy).await else {
        return;
    };
    // A certificate of another authority, as that of the cluster's clients, names nobody.
    let api = api_with(front_proxy()).await;
    extension.register(&api).await;
    wait_for_reason(&api, NAME, "FailedDiscoveryCheck").await;
    assert_eq!(extension.requests().len(), 0);
    // The renewed certificate of the right authority is used at once for new connections.
    api.server
        .show_front_proxy(&proxy.certificate_pem, &proxy.key_pem);
    wait_for_reason(&api, NAME, "Passed").await;
    assert_eq!(text(&api, "GET", FLUNDERS, "").await.0, 200);
}

#[tokio::test]
async fn the_condition_follows_the_service_and_its_endpoints() {
    let Some((api, _extension)) = served().await else {
        return;
    };
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/flunders-1";
    let unready =
        json!([{"op": "replace", "path": "/endpoints/0/conditions/ready", "value": false}]);
    assert_eq!(api.patch(slices, "json", unready).await.0, 200);
    wait_for_reason(&api, NAME, "MissingEndpoints").await;
    assert_eq!(api.send("DELETE", slices, Value::Null).await.0, 200);
    wait_for_reason(&api, NAME, "EndpointsNotFound").await;
    let service = "/api/v1/namespaces/default/services/flunders";
    assert_eq!(api.send("DELETE", service, Value::Null).await.0, 200);
    wait_for_reason(&api, NAME, "ServiceNotFound").await;
}

#[tokio::test]
async fn upgraded_connections_are_passed_on() {
    let proxy = front_proxy();
    let Some(extension) = ExtensionServer::start(&proxy).await else {
        return;
    };
    let served = Served::new(Limits::default()).await;
    let server = &served.api.server;
    server.show_front_proxy(&proxy.certificate_pem, &proxy.key_pem);
    extension.register(&served.api).await;
    wait_for_reason(&served.api, NAME, "Passed").await;
    let mut stream = served.connect(Some(&served.admin())).await;
    let head = format!(
        "GET {FLUNDERS}/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Upgrade: test\r\nX-Remote-User: root\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        response.push(stream.read_u8().await.unwrap());
    }
    let response = String::from_utf8(response).unwrap();
    assert!(response.starts_with("HTTP/1.1 101"), "{response}");
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
    let request = extension.requests().remove(0);
    assert_eq!(request.all("x-remote-user"), ["mainstay-admin"]);
    assert_eq!(request.all("x-forwarded-for"), ["127.0.0.1"]);
}

#[tokio::test]
async fn a_metrics_server_replaces_the_metrics_of_this_server_until_it_goes() {
    let Some((api, extension)) = served().await else {
        return;
    };
    let nodes = "/apis/metrics.k8s.io/v1beta1/nodes";
    assert_eq!(text(&api, "GET", nodes, "").await.0, 200);
    let name = "v1beta1.metrics.k8s.io";
    api.create(
        API_SERVICES,
        extension.api_service("metrics.k8s.io", "v1beta1"),
    )
    .await;
    wait_for_reason(&api, name, "Passed").await;
    extension.requests();
    // The extension server of the test has no nodes.
    assert_eq!(text(&api, "GET", nodes, "").await.0, 404);
    assert_eq!(extension.requests()[0].line, format!("GET {nodes}"));
    let path = format!("{API_SERVICES}/{name}");
    assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
    assert_eq!(text(&api, "GET", nodes, "").await.0, 200);
}

#[tokio::test]
async fn extension_servers_find_the_authorities_of_the_cluster() {
    let proxy = front_proxy();
    let api = api_with(proxy.clone()).await;
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let (code, map) = api.get(path).await;
    assert_eq!(code, 200, "{map}");
    let data = &map["data"];
    assert_eq!(
        data["requestheader-client-ca-file"],
        proxy.ca_pem.trim_end().to_owned() + "\n"
    );
    assert_eq!(
        data["requestheader-allowed-names"],
        r#"["front-proxy-client"]"#
    );
    assert_eq!(
        data["requestheader-username-headers"],
        r#"["X-Remote-User"]"#
    );
}
