//! A webhook behind a Service of the cluster: a pod that refuses the reviewed objects (kubectl.md 10.5).

use certificates::{Authority, SubjectAltNames};
use end_to_end::{wait_for, with_images};
use serde_json::{Value, json};

/// Responds to every review with a constant; in the older version a response need not contain the UID of the review.
const CONFIGURATION: &str = r#"
events {}
pid /tmp/nginx.pid;
http {
  client_body_temp_path /tmp/bodies;
  server {
    listen 8443 ssl;
    ssl_certificate /hook/tls.crt;
    ssl_certificate_key /hook/tls.key;
    location = /refuse {
      default_type application/json;
      return 200 '{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "response": {"allowed": false, "status": {"message": "closed on Sundays", "code": 403}}}';
    }
  }
}
"#;

fn pod_and_service() -> Value {
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "hook", "labels": {"app": "hook"}}, "spec": {
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "hook", "secret": {"secretName": "hook"}}],
            "containers": [{"name": "nginx", "image": "nginx:1",
                "command": ["nginx", "-c", "/hook/nginx.conf", "-g", "daemon off;"],
                "readinessProbe": {"tcpSocket": {"port": 8443}},
                "volumeMounts": [{"name": "hook", "mountPath": "/hook"}]}]}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"},
        "spec": {"selector": {"app": "hook"}, "ports": [{"port": 443, "targetPort": 8443}]}});
    json!({"apiVersion": "v1", "kind": "List", "items": [pod, service]})
}

#[test]
fn a_pod_has_a_say() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::open_or_create(directory.path()).expect("an authority");
    let names = SubjectAltNames {
        dns: ["hook.default.svc".to_owned()].into(),
        ..SubjectAltNames::default()
    };
    let identity = authority.server(&names).expect("a certificate");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hook"},
        "stringData": {"nginx.conf": CONFIGURATION, "tls.crt": identity.certificate_pem(),
            "tls.key": identity.key_pem()}});
    kubectl.apply(&secret.to_string());
    kubectl.apply(&pod_and_service().to_string());
    kubectl.wait_pods_ready(&["pod/hook"]);
    let bundle = directory.path().join("bundle");
    std::fs::write(&bundle, authority.ca_pem()).expect("write the bundle");
    // The client encodes the file in base64.
    let bundle = format!("--from-file=ca={}", bundle.display());
    let encoded = [
        "create",
        "secret",
        "generic",
        "ca",
        &bundle,
        "--dry-run=client",
    ];
    let bundle = kubectl.ok(&[&encoded[..], &["-o", "jsonpath={.data.ca}"]].concat());
    let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "sundays"},
        "webhooks": [{"name": "sundays.example.com", "sideEffects": "None",
            "admissionReviewVersions": ["v1beta1"],
            "clientConfig": {"caBundle": bundle, "service":
                {"namespace": "default", "name": "hook", "path": "/refuse"}},
            "objectSelector": {"matchLabels": {"shop": "open"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["*"],
                "resources": ["configmaps"]}]}]});
    kubectl.apply(&configuration.to_string());
    let shop = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: {shop: open}}}";
    let refused = wait_for("the Service to lead to the pod", 60, || {
        let refused = kubectl.run_with_input(&["create", "-f", "-"], shop);
        let was_called = !refused.stderr.contains("no endpoints available");
        if was_called {
            Ok(refused)
        } else {
            Err(refused)
        }
    });
    let why = "admission webhook \"sundays.example.com\" denied the request: closed on Sundays";
    assert!(refused.stderr.contains(why), "{refused:?}");
    kubectl.ok(&["create", "configmap", "other"]);
    let row = kubectl.ok(&["get", "validatingwebhookconfigurations", "--no-headers"]);
    assert!(row.starts_with("sundays   1 "), "{row}");
    kubectl.ok(&["delete", "validatingwebhookconfiguration", "sundays"]);
    kubectl.ok_with_input(&["create", "-f", "-"], shop);
}
