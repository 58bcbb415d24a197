//! Responses of webhooks, and certificate requests.

use std::sync::OnceLock;

use admission_rules::{Webhook, webhooks};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use certificates::{ApprovedRequest, Authority, ClientSubject, Usage};
use json_tree::{Value, json};
use kube_api_server::decoders;
use resource_kinds::certificates::Request;

use super::{Target, pair};

fn webhook() -> &'static Webhook {
    static WEBHOOK: OnceLock<Webhook> = OnceLock::new();
    WEBHOOK.get_or_init(|| {
        let configuration = json!({"metadata": {"name": "a"}, "webhooks": [{"name": "a.b.c",
            "admissionReviewVersions": ["v1"]}]});
        webhooks(&[configuration]).remove(0)
    })
}

pub const WEBHOOK: Target = Target {
    name: "webhook-answer",
    // `[response, patch]`: the patch is added to the response in base64.
    seeds: &[
        br#"[{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"u","allowed":true,"patchType":"JSONPatch","warnings":["w"]}},[{"op":"add","path":"/metadata/labels","value":{"a":"b"}},{"op":"replace","path":"/spec/replicas","value":3}]]"#,
        br#"[{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"u","allowed":false,"status":{"message":"m","reason":"Invalid","code":422,"details":{"causes":[]}}}},[]]"#,
        br#"[{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"u","allowed":true,"auditAnnotations":{"k":"v"}}},[{"op":"move","from":"/spec","path":"/x"}]]"#,
    ],
    words: &[
        "response", "allowed", "patch", "patchType", "JSONPatch", "uid", "status", "code", "reason",
        "warnings", "op", "add", "remove", "copy", "test", "path", "from", "/-", "/metadata", "~0", "null",
    ],
    run: |bytes| {
        let object = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "w"}, "spec": {"replicas": 1}});
        decoders::webhook_response(webhook(), bytes, object.clone());
        let Some((mut response, patch)) = pair(bytes) else {
            return;
        };
        let verdict = response.get_mut("response").and_then(Value::as_object_mut);
        if let Some(verdict) = verdict {
            let patch = STANDARD.encode(patch.to_string());
            verdict.insert("patch".to_owned(), patch.into());
        }
        decoders::webhook_response(webhook(), response.to_string().as_bytes(), object);
    },
};

pub const CONVERSION: Target = Target {
    name: "conversion-answer",
    seeds: &[
        br#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"ConversionReview","response":{"uid":"u","result":{"status":"Success"},"convertedObjects":[{"apiVersion":"example.org/v2","kind":"Boat","metadata":{"name":"a","uid":"i","labels":{"a":"b"},"annotations":null},"spec":{}}]}}"#,
        br#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"ConversionReview","response":{"uid":"u","result":{"status":"Failure","message":"m"}}}"#,
    ],
    words: &[
        "response", "result", "status", "Success", "message", "convertedObjects", "uid", "metadata",
        "labels", "annotations", "apiVersion", "example.org/v2", "kind", "null", "[]", "{}",
    ],
    run: |bytes| {
        let original = json!({"apiVersion": "example.org/v1", "kind": "Boat",
            "metadata": {"name": "a", "uid": "i", "finalizers": ["example.org/f"]}, "spec": {}});
        for object in decoders::conversion_response(&original, bytes).unwrap_or_default() {
            assert_eq!(object["metadata"]["finalizers"], original["metadata"]["finalizers"]);
            assert_eq!(object["apiVersion"], "example.org/v2");
        }
    },
};

pub const EXTENSION: Target = Target {
    name: "extension-discovery",
    seeds: &[
        br#"{"resources":[{"name":"a","kind":"A","namespaced":true,"verbs":["get"],"shortNames":["x"]},{"name":"a/status","kind":"A","group":"g","version":"v","verbs":["update"]}],"paths":{"apis/a.example/v1":{"serverRelativeURL":"/openapi/v3/apis/a.example/v1?hash=0A"}}}"#,
        br#"{"resources":[{"name":"pods/metric","kind":"MetricValueList"}]}"#,
    ],
    words: &[
        "resources", "name", "kind", "namespaced", "verbs", "group", "version", "singularName", "/", "paths",
        "apis/a.example/v1", "serverRelativeURL", "?hash=", "null",
    ],
    run: |bytes| {
        assert!(decoders::extension_discovery(bytes) <= bytes.len());
    },
};

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        // The authority stays in memory, so the directory may be deleted.
        let directory = tempfile::tempdir().expect("a directory");
        Authority::open_or_create(directory.path()).expect("an authority")
    })
}

const BEGIN: &str = "-----BEGIN CERTIFICATE REQUEST-----";
const END: &str = "-----END CERTIFICATE REQUEST-----";

pub const CERTIFICATE: Target = Target {
    name: "client-certificate",
    seeds: &[include_bytes!("../../seeds/client.der")],
    words: &[
        "0\u{82}",
        "\u{6}\u{3}U\u{4}\u{3}",
        "\u{c}",
        "\u{13}",
        "system:masters",
    ],
    run: |bytes| {
        if let Ok(subject) = ClientSubject::of(bytes) {
            assert!(!subject.common_name.is_empty());
        }
    },
};

pub const BUNDLE: Target = Target {
    name: "certificate-bundle",
    seeds: &[include_bytes!("../../seeds/bundle.txt")],
    words: &[
        "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t",
        "LS0tLS1FTkQg",
        "=",
        "\n",
    ],
    run: |bytes| {
        // Without a certificate authority the machine's own certificates would be read.
        if let Some(text) = std::str::from_utf8(bytes)
            .ok()
            .filter(|text| !text.is_empty())
        {
            decoders::webhook_trust(text);
        }
    },
};

pub const REQUEST: Target = Target {
    name: "certificate-request",
    // The bytes of requests, and their PEM texts.
    seeds: &[
        include_bytes!("../../seeds/node.der"),
        include_bytes!("../../seeds/jane.der"),
        include_bytes!("../../seeds/node.csr"),
    ],
    words: &[
        "0\u{82}",
        "\u{6}\u{3}U\u{4}\u{3}",
        "\u{c}",
        BEGIN,
        END,
        "\r",
        "\n",
        "=",
        "/",
        "system:masters",
    ],
    run: |bytes| {
        let text = format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(bytes));
        for text in [bytes, text.as_bytes()] {
            let Ok(request) = Request::parse(text) else {
                continue;
            };
            let approved = ApprovedRequest {
                der: request.der(),
                subject: ClientSubject {
                    common_name: request.common_name.clone(),
                    organizations: request.organizations.clone(),
                },
                dns: &request.dns,
                addresses: &request.addresses,
                emails: &request.emails,
                uris: &request.uris,
                usages: vec![Usage::ClientAuth],
                life: 3600,
            };
            let _refused = authority().sign(&approved);
        }
    },
};
