//! Plans for certificate requests (kubectl.md 10.5).

use std::sync::Arc;

use controller_planners::certificate_signing::{
    CertificateSigningAction, CertificateSigningPlan, Names, NodeCertificateContext, Usage, plan,
};
use jiff::{SignedDuration, Timestamp};
use json_tree::{Value, json};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use resource_kinds::certificates::Request;

const JANE: &[u8] =
    include_bytes!("../../../resource-kinds/src/groups/certificates/testdata/jane.csr");
const NODE: &[u8] =
    include_bytes!("../../../resource-kinds/src/groups/certificates/testdata/node.csr");
const NODE_CLIENT: &[u8] =
    include_bytes!("../../../resource-kinds/src/groups/certificates/testdata/node-client.csr");

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

fn planned(request: &Value, now: i64) -> CertificateSigningPlan {
    planned_among(request, &[], &Names::default(), now)
}

fn planned_among(
    request: &Value,
    nodes: &[Value],
    server: &Names,
    now: i64,
) -> CertificateSigningPlan {
    let request: CertificateSigningRequest = json_tree::from_value(request.clone()).unwrap();
    let nodes = nodes.iter().cloned().map(json_tree::from_value);
    let nodes: Vec<Arc<Node>> = nodes.map(|node| Arc::new(node.unwrap())).collect();
    let around = NodeCertificateContext {
        nodes: &nodes,
        heartbeat: None,
        server,
    };
    plan(&Arc::new(request), &around, at(now))
}

fn node(name: &str, address: &str, ready: &str) -> Value {
    json!({"metadata": {"name": name}, "status": {
        "addresses": [{"type": "InternalIP", "address": address}],
        "conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": at(0)}]}})
}

const CLIENT: &[&str] = &["digital signature", "client auth"];
const SERVING: &[&str] = &["digital signature", "key encipherment", "server auth"];

#[test]
fn what_is_approved_is_signed() {
    let pending = request(JANE, "kube-apiserver-client", CLIENT);
    assert_eq!(planned(&pending, 0).action, None);
    assert_eq!(
        planned(&decided(pending.clone(), "Approved", None), 0).action,
        Some(CertificateSigningAction::Sign {
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
        let Some(CertificateSigningAction::Fail(condition)) = planned(&approved, 0).action else {
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
        assert!(
            matches!(action, Some(CertificateSigningAction::Sign { .. })),
            "{action:?}"
        );
    }
}

#[test]
fn a_node_is_approved_if_it_may() {
    let mine = request(NODE_CLIENT, "kube-apiserver-client-kubelet", CLIENT);
    let rights = |request: &Value| match planned(request, 0).action {
        Some(CertificateSigningAction::ApproveIf(rights)) => {
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
    assert_eq!(
        planned(&pending, 24 * hour).action,
        Some(CertificateSigningAction::Delete)
    );
    for kind in ["Denied", "Failed"] {
        let decided = decided(pending.clone(), kind, None);
        assert_eq!(planned(&decided, hour + 99).action, None);
        assert_eq!(
            planned(&decided, hour + 100).action,
            Some(CertificateSigningAction::Delete)
        );
    }
    let signed = decided(pending.clone(), "Approved", Some("x"));
    assert_eq!(
        planned(&signed, hour + 100).action,
        Some(CertificateSigningAction::Delete)
    );
    // A request is not complete before it is signed.
    let approved = decided(pending, "Approved", None);
    assert_eq!(
        planned(&approved, 100 * hour),
        CertificateSigningPlan::default()
    );
}

/// Differs from upstream, which leaves server certificates of nodes to an administrator: here these requests are
/// approved for the names of the Node object.
#[test]
fn a_node_gets_a_server_certificate_for_its_own_names() {
    let serving = request(NODE, "kubelet-serving", SERVING);
    let serving_node = node("n1", "10.0.0.1", "True");
    let server = Names {
        dns: ["kubernetes".to_owned()].into(),
        addresses: [[10, 0, 0, 9].into()].into(),
    };
    let approved = |request: &Value, nodes: &[Value], server: &Names| match planned_among(
        request, nodes, server, 0,
    )
    .action
    {
        Some(CertificateSigningAction::ApproveIf(rights)) => {
            assert_eq!(rights.len(), 1);
            assert_eq!(rights[0].0, "selfnodeserver");
            assert_eq!(rights[0].1.type_, "Approved");
            true
        }
        None => false,
        other => panic!("{other:?}"),
    };
    let alone = std::slice::from_ref(&serving_node);
    assert!(approved(&serving, alone, &server));
    // The request of another user is not approved.
    let mut anothers = serving.clone();
    anothers["spec"]["username"] = json!("system:node:n2");
    assert!(!approved(&anothers, alone, &server));
    // The Node object does not exist yet, or has another address.
    assert!(!approved(&serving, &[], &server));
    assert!(!approved(
        &serving,
        &[node("n1", "10.0.0.2", "True")],
        &server
    ));
    // The address, or the name, belongs to another node as well.
    let twin = node("n2", "10.0.0.1", "Unknown");
    assert!(!approved(&serving, &[serving_node.clone(), twin], &server));
    for stolen in [
        Names {
            addresses: [[10, 0, 0, 1].into()].into(),
            ..Names::default()
        },
        Names {
            dns: ["n1".to_owned()].into(),
            ..Names::default()
        },
    ] {
        assert!(!approved(&serving, alone, &stolen));
    }
    // A request that violates the rules of its signer is left to an administrator.
    let wrong = request(NODE, "kubelet-serving", CLIENT);
    assert!(!approved(&wrong, alone, &server));
}

#[test]
fn a_bootstrap_token_does_not_take_the_name_of_a_live_node() {
    let mut joining = request(NODE_CLIENT, "kube-apiserver-client-kubelet", CLIENT);
    joining["spec"]["username"] = json!("system:bootstrap:abcdef");
    joining["spec"]["groups"] = json!(["system:bootstrappers", "system:authenticated"]);
    let among = |request: &Value, ready: &str| {
        let nodes = [
            node("n1", "10.0.0.1", ready),
            node("n2", "10.0.0.2", "True"),
        ];
        planned_among(request, &nodes, &Names::default(), 0).action
    };
    let Some(CertificateSigningAction::Deny(condition)) = among(&joining, "True") else {
        panic!("not denied");
    };
    assert_eq!(condition.type_, "Denied");
    let message = condition.message.unwrap();
    assert!(message.contains("n1 is alive"), "{message}");
    assert!(message.contains("2026-01-01T00:00:00Z"), "{message}");
    assert!(matches!(
        among(&joining, "False"),
        Some(CertificateSigningAction::Deny(_))
    ));
    // The name of a lost node is free for a new node.
    assert!(matches!(
        among(&joining, "Unknown"),
        Some(CertificateSigningAction::ApproveIf(_))
    ));
    // A node renews its own certificate.
    let mut renewing = joining;
    renewing["spec"]["username"] = json!("system:node:n1");
    renewing["spec"]["groups"] = json!(["system:nodes"]);
    assert!(matches!(
        among(&renewing, "True"),
        Some(CertificateSigningAction::ApproveIf(_))
    ));
}

// findings-2 S35
#[test]
fn a_node_has_no_name_of_the_api_server() {
    let names = |dns: &str| Names {
        dns: [dns.to_owned()].into(),
        ..Names::default()
    };
    // The request of NODE is for the name `n1`; no approval allows a name of the API server.
    let serving = decided(request(NODE, "kubelet-serving", SERVING), "Approved", None);
    let action = planned_among(&serving, &[], &names("n1"), 0).action;
    let Some(CertificateSigningAction::Fail(condition)) = action else {
        panic!("signed: {action:?}");
    };
    let why = "n1 covers a name of the API server";
    assert_eq!(condition.message.as_deref(), Some(why));
    let action = planned_among(&serving, &[], &names("n2"), 0).action;
    assert!(matches!(
        action,
        Some(CertificateSigningAction::Sign { .. })
    ));
    // A machine of the API server may also be a node.
    let client = request(NODE_CLIENT, "kube-apiserver-client-kubelet", CLIENT);
    let action = planned_among(&client, &[], &names("n1"), 0).action;
    assert!(matches!(
        action,
        Some(CertificateSigningAction::ApproveIf(_))
    ));
}
