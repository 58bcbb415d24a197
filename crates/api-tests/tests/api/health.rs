//! The version and the health of the server.

use process_telemetry::health::Kind;
use tokio_util::sync::CancellationToken;

use crate::harness::Api;

/// findings C7: tools read the commit and the Go version, and request single checks by their Kubernetes names.
#[tokio::test]
async fn the_version_has_all_fields_and_checks_have_their_usual_names() {
    let api = Api::new().await;
    let (code, version) = api.get("/version").await;
    assert_eq!(code, 200);
    for field in [
        "major",
        "minor",
        "gitVersion",
        "gitCommit",
        "gitTreeState",
        "buildDate",
        "goVersion",
        "compiler",
        "platform",
    ] {
        let text = version[field].as_str().unwrap_or_default();
        assert!(!text.is_empty(), "{field}: {version}");
    }
    for endpoint in ["healthz", "livez", "readyz"] {
        for check in ["ping", "log", "etcd"] {
            let path = format!("/{endpoint}/{check}");
            let response = api.raw("GET", &path, &[], "").await;
            assert_eq!(
                (response.code, response.text().as_str()),
                (200, "ok"),
                "{path}"
            );
        }
        let unknown = format!("/{endpoint}/nothing");
        assert_eq!(api.raw("GET", &unknown, &[], "").await.code, 404);
    }
}

/// findings A3: a failing component makes the server not ready, with the component's name; the server stays alive.
#[tokio::test]
async fn a_component_that_fails_is_named() {
    let api = Api::new().await;
    let component = api.server.health();
    let component = component.component("scheduler", CancellationToken::new());
    let pods = component.follow(Kind::Watch, "pods");
    let ready = api.raw("GET", "/readyz?verbose", &[], "").await;
    assert_eq!(ready.code, 200);
    assert!(ready.text().contains("[+]watches ok\n"), "{}", ready.text());

    for _ in 0..3 {
        pods.failed(&"gone");
    }
    let ready = api.raw("GET", "/readyz", &[], "").await;
    assert_eq!(ready.code, 500);
    let line = "[-]watches failed: scheduler: pods (3 failures in a row)\n";
    assert!(ready.text().contains(line), "{}", ready.text());
    for (path, code) in [
        ("/readyz/watches", 500),
        ("/readyz?exclude=watches", 200),
        ("/livez", 200),
        ("/livez/watches", 404),
    ] {
        assert_eq!(api.raw("GET", path, &[], "").await.code, code, "{path}");
    }
    let metrics = api.raw("GET", "/metrics", &[], "").await.text();
    for (component, of, count) in [
        ("scheduler", "pods", 3),
        ("API server", "definitions, webhooks and flows", 0),
    ] {
        let series = format!("{{kind=\"watch\",part=\"{component}\",of=\"{of}\"}} {count}\n");
        assert!(metrics.contains(&series), "{series}: {metrics}");
    }
}
