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
