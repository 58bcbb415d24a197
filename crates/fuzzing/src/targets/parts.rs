//! Bodies of sub-resources, sent to a complete server: `[part, body]`.

use std::sync::OnceLock;

use json_tree::Value;
use kube_api_server::decoders::Server;
use tokio::runtime::{Builder, Runtime};

use super::{Target, pair};

const POD: &str = "/api/v1/namespaces/default/pods/p";
const SET: &str = "/apis/apps/v1/namespaces/default/statefulsets/w";
const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";
const REQUEST: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests/c";

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Name, method, object, part, content type.
const PARTS: &[(&str, &str, &str, &str, &str)] = &[
    ("binding", "POST", POD, "binding", JSON),
    ("eviction", "POST", POD, "eviction", JSON),
    ("ephemeral", "PUT", POD, "ephemeralcontainers", JSON),
    (
        "ephemeral-patch",
        "PATCH",
        POD,
        "ephemeralcontainers",
        STRATEGIC,
    ),
    ("resize", "PATCH", POD, "resize", STRATEGIC),
    ("pod-status", "PATCH", POD, "status", STRATEGIC),
    ("pod-status-put", "PUT", POD, "status", JSON),
    ("scale", "PUT", SET, "scale", JSON),
    ("scale-patch", "PATCH", SET, "scale", MERGE),
    ("set-status", "PATCH", SET, "status", MERGE),
    ("token", "POST", ACCOUNT, "token", JSON),
    ("approval", "PATCH", REQUEST, "approval", MERGE),
    (
        "finalize",
        "PUT",
        "/api/v1/namespaces/default",
        "finalize",
        JSON,
    ),
    (
        "review",
        "POST",
        "/apis/authorization.k8s.io/v1",
        "subjectaccessreviews",
        JSON,
    ),
    (
        "token-review",
        "POST",
        "/apis/authentication.k8s.io/v1",
        "tokenreviews",
        JSON,
    ),
];

/// The owner of the parts: collection, object.
const OBJECTS: &[(&str, &str)] = &[
    (
        "/api/v1/namespaces/default/serviceaccounts",
        r#"{"metadata":{"name":"default"}}"#,
    ),
    (
        "/api/v1/namespaces/default/pods",
        r#"{"metadata":{"name":"p","labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i",
        "resources":{"requests":{"cpu":"1"}}}]}}"#,
    ),
    (
        "/apis/apps/v1/namespaces/default/statefulsets",
        r#"{"metadata":{"name":"w"},"spec":{"serviceName":"w","selector":{"matchLabels":{"a":"w"}},
        "template":{"metadata":{"labels":{"a":"w"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#,
    ),
    (
        "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
        r#"{"metadata":{"name":"b"},"spec":{"minAvailable":"50%","selector":{"matchLabels":{"a":"b"}}}}"#,
    ),
];

struct Running {
    runtime: Runtime,
    server: Server,
}

fn running() -> &'static Running {
    static RUNNING: OnceLock<Running> = OnceLock::new();
    RUNNING.get_or_init(|| {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let server = runtime.block_on(async {
            let server = Server::start().await.expect("a server");
            for (path, object) in OBJECTS {
                let code = server.ask("POST", path, JSON, object.as_bytes()).await;
                assert!(code < 300, "{path}: {code}");
            }
            server
        });
        Running { runtime, server }
    })
}

/// The named part; for an unknown name, a part that is derived from it.
fn selected(name: &Value) -> (&'static str, String, &'static str) {
    let text = name.as_str().unwrap_or_default();
    let named = PARTS.iter().find(|part| part.0 == text);
    let other = PARTS[text.len() % PARTS.len()];
    let (_, method, object, part, form) = *named.unwrap_or(&other);
    (method, format!("{object}/{part}?dryRun=All"), form)
}

pub const PART: Target = Target {
    name: "sub-resources",
    seeds: &[
        br#"["binding",{"metadata":{"name":"p","annotations":{"a":"b"}},"target":{"kind":"Node","name":"n"}}]"#,
        br#"["eviction",{"metadata":{"name":"p"},"deleteOptions":{"gracePeriodSeconds":5,"preconditions":{"uid":"u"}}}]"#,
        br#"["ephemeral",{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}],"ephemeralContainers":[{"name":"d","image":"i","targetContainerName":"c"}]}}]"#,
        br#"["ephemeral-patch",{"spec":{"ephemeralContainers":[{"name":"d","image":"i","command":["sh"],"stdin":true}]}}]"#,
        br#"["resize",{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"2","memory":"1Gi"},"limits":{"cpu":"3"}}}]}}]"#,
        br#"["pod-status",{"status":{"phase":"Running","podIP":"10.0.0.1","conditions":[{"type":"Ready","status":"True","lastTransitionTime":"2026-01-01T00:00:00Z"}],"containerStatuses":[{"name":"c","ready":true,"restartCount":1,"image":"i","imageID":"","state":{"terminated":{"exitCode":1}}}]}}]"#,
        br#"["scale",{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"w","namespace":"default"},"spec":{"replicas":3}}]"#,
        br#"["scale-patch",{"spec":{"replicas":2147483647}}]"#,
        br#"["set-status",{"status":{"replicas":1,"readyReplicas":1,"currentRevision":"x","conditions":[]}}]"#,
        br#"["token",{"spec":{"audiences":["x"],"expirationSeconds":3600,"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"p","uid":"u"}}}]"#,
        br#"["approval",{"status":{"conditions":[{"type":"Approved","status":"True","reason":"r","message":"m"}]}}]"#,
        br#"["finalize",{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"default"},"spec":{"finalizers":["kubernetes"]}}]"#,
        br#"["review",{"spec":{"user":"u","groups":["g"],"extra":{"k":["v"]},"resourceAttributes":{"verb":"get","resource":"pods","namespace":"d","fieldSelector":{"requirements":[{"key":"metadata.name","operator":"In","values":["a"]}]}}}}]"#,
        br#"["token-review",{"spec":{"token":"a.b.c","audiences":["x"]}}]"#,
    ],
    words: &[
        "binding", "eviction", "ephemeral", "resize", "pod-status", "scale", "token", "approval",
        "finalize", "review", "metadata", "annotations", "spec", "status", "conditions", "kind",
        "apiVersion", "Pod", "Node", "null", "name", "uid", "requests", "limits", "2147483648", "1e99",
        "$patch", "delete", "$setElementOrder/conditions",
    ],
    run: |bytes| {
        let Some((name, body)) = pair(bytes) else {
            return;
        };
        let (method, path, form) = selected(&name);
        let running = running();
        let body = body.to_string();
        let requested = running.server.ask(method, &path, form, body.as_bytes());
        // The input of a client never causes a server error.
        let code = running.runtime.block_on(requested);
        assert!(code < 500, "{method} {path}: {code}");
    },
};
