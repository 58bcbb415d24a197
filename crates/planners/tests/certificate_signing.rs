//! Plans for certificate requests (kubectl.md 10.5).

#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use planners::certificate_signing::{Action, Plan, Usage, plan};
use resource_kinds::certificates::Request;
use serde_json::{Value, json};

const JANE: &[u8] =
    include_bytes!("../../resource-kinds/src/groups/certificates/testdata/jane.csr");
const NODE: &[u8] =
    include_bytes!("../../resource-kinds/src/groups/certificates/testdata/node.csr");
const NODE_CLIENT: &[u8] =
    include_bytes!("../../resource-kinds/src/groups/certificates/testdata/node-client.csr");

fn at(seconds: i64) -> Timestamp {
    "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

fn request(pem: &[u8], signer: &str, usages: &[&str]) -> Value {
    json!({"metadata": {"name": "a", "creationTimestamp": at(0)}, "spec": {
        "request": ByteString(pem.to_vec()), "signerName": format!("kubernetes.io/{signer}"),
        "usages": usages, "username": "system:node:n1", "expirationSeconds": 3600}})
}

fn decided(mut request: Value, kind: &str, certificate: Option<&str>) -> Value {
    request["status"] = json!({"conditions": [{"type": kind, "status": "True",
        "lastUpdateTime": at(100)}]});
    if let Some(certificate) = certificate {
        request["status"]["certificate"] = json!(ByteString(certificate.as_bytes().to_vec()));
    }
    request
}

fn planned(request: &Value, now: i64) -> Plan {
    let request: CertificateSigningRequest = serde_json::from_value(request.clone()).unwrap();
    plan(&Arc::new(request), at(now))
}

const CLIENT: &[&str] = &["digital signature", "client auth"];
const SERVING: &[&str] = &["digital signature", "key encipherment", "server auth"];

#[test]
fn what_is_approved_is_signed() {
    let pending = request(JANE, "kube-apiserver-client", CLIENT);
    assert_eq!(planned(&pending, 0).action, None);
    assert_eq!(
        planned(&decided(pending.clone(), "Approved", None), 0).action,
        Some(Action::Sign {
            request: Box::new(Request::parse(JANE).unwrap()),
            usages: vec![Usage::ClientAuth, Usage::DigitalSignature],
            seconds: Some(3600),
        })
    );
    for (kind, certificate) in [("Denied", None), ("Failed", None), ("Approved", Some("x"))] {
        let done = decided(pending.clone(), kind, certificate);
        assert_eq!(planned(&done, 0).action, None, "{kind}");
    }
    let other = decided(request(JANE, "other", CLIENT), "Approved", None);
    assert_eq!(planned(&other, 0).action, None);
}

#[test]
fn what_is_not_of_its_signers_form_fails() {
    for (pem, signer, usages, why) in [
        (
            JANE,
            "kube-apiserver-client",
            SERVING,
            "invalid usage for client certificate: server auth",
        ),
        (
            JANE,
            "kube-apiserver-client",
            &["digital signature"][..],
            "missing required usage for client certificate: client auth",
        ),
        (
            JANE,
            "kube-apiserver-client-kubelet",
            CLIENT,
            "subject organization is not system:nodes",
        ),
        (
            NODE,
            "kube-apiserver-client-kubelet",
            CLIENT,
            "DNS subjectAltNames are not allowed",
        ),
        (
            NODE_CLIENT,
            "kube-apiserver-client-kubelet",
            SERVING,
            "usages did not match [client auth digital signature key encipherment]",
        ),
        (
            NODE_CLIENT,
            "kubelet-serving",
            SERVING,
            "DNS or IP subjectAltName is required",
        ),
        (
            NODE,
            "kubelet-serving",
            CLIENT,
            "usages did not match [digital signature key encipherment server auth]",
        ),
    ] {
        let approved = decided(request(pem, signer, usages), "Approved", None);
        let Some(Action::Fail(condition)) = planned(&approved, 0).action else {
            panic!("{signer} {usages:?} is signed");
        };
        assert_eq!(condition.message.as_deref(), Some(why));
        assert_eq!(condition.reason.as_deref(), Some("SignerValidationFailure"));
    }
    for (pem, signer, usages) in [
        (NODE, "kubelet-serving", SERVING),
        (NODE_CLIENT, "kube-apiserver-client-kubelet", CLIENT),
    ] {
        let approved = decided(request(pem, signer, usages), "Approved", None);
        let action = planned(&approved, 0).action;
        assert!(matches!(action, Some(Action::Sign { .. })), "{action:?}");
    }
}

#[test]
fn a_node_is_approved_if_it_may() {
    let mine = request(NODE_CLIENT, "kube-apiserver-client-kubelet", CLIENT);
    let rights = |request: &Value| match planned(request, 0).action {
        Some(Action::ApproveIf(rights)) => {
            let conditions = rights.iter().map(|(right, condition)| {
                assert_eq!(condition.type_, "Approved");
                *right
            });
            conditions.collect()
        }
        _ => Vec::new(),
    };
    assert_eq!(rights(&mine), ["selfnodeclient", "nodeclient"]);
    let wake = planned(&mine, 0).wake_at;
    assert_eq!(wake, Some(at(60)));
    let mut anothers = mine.clone();
    anothers["spec"]["username"] = json!("system:bootstrap:abc");
    assert_eq!(rights(&anothers), ["nodeclient"]);
    let serving = request(NODE, "kubelet-serving", SERVING);
    assert_eq!(rights(&serving), [""; 0]);
}

#[test]
fn what_is_decided_or_forgotten_goes() {
    let pending = request(JANE, "other", CLIENT);
    let hour = 3600;
    assert_eq!(
        planned(&pending, 24 * hour - 1).wake_at,
        Some(at(24 * hour))
    );
    assert_eq!(planned(&pending, 24 * hour).action, Some(Action::Delete));
    for kind in ["Denied", "Failed"] {
        let decided = decided(pending.clone(), kind, None);
        assert_eq!(planned(&decided, hour + 99).action, None);
        assert_eq!(planned(&decided, hour + 100).action, Some(Action::Delete));
    }
    let signed = decided(pending.clone(), "Approved", Some("x"));
    assert_eq!(planned(&signed, hour + 100).action, Some(Action::Delete));
    // As long as it is not signed, it is not done.
    let approved = decided(pending, "Approved", None);
    assert_eq!(planned(&approved, 100 * hour), Plan::default());
}
