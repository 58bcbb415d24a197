//! A certificate by the stock client: asked for, approved, denied (kubectl.md 10.5).

use end_to_end::{Instance, text, wait_for_text, words};
use k8s_openapi::ByteString;
use serde_json::json;

const JANE: &[u8] =
    include_bytes!("../../resource-kinds/src/groups/certificates/testdata/jane.csr");

#[test]
fn requests_are_approved_and_denied() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    for name in ["jane", "other"] {
        let request = json!({"apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest", "metadata": {"name": name}, "spec": {
                "request": ByteString(JANE.to_vec()), "expirationSeconds": 3600,
                "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}});
        kubectl.apply(&request.to_string());
    }
    let columns = kubectl.ok(&["get", "csr"]);
    let wanted = [
        "NAME",
        "AGE",
        "SIGNERNAME",
        "REQUESTOR",
        "REQUESTEDDURATION",
        "CONDITION",
    ];
    assert_eq!(words(&columns)[0], wanted, "{columns}");
    assert!(
        columns.contains("60m") && columns.contains("Pending"),
        "{columns}"
    );

    let approved = kubectl.ok(&["certificate", "approve", "jane"]);
    assert_eq!(
        approved.trim(),
        "certificatesigningrequest.certificates.k8s.io/jane approved"
    );
    wait_for_text("Approved,Issued", 60, || {
        kubectl.ok(&["get", "csr", "jane", "--no-headers"])
    });
    let certificate = kubectl.ok(&["get", "csr", "jane", "-o", "jsonpath={.status.certificate}"]);
    let certificate: ByteString = serde_json::from_value(json!(certificate)).expect("base64");
    assert!(certificate.0.starts_with(b"-----BEGIN CERTIFICATE-----"));

    let denied = kubectl.ok(&["certificate", "deny", "other"]);
    assert!(denied.contains("other denied"), "{denied}");
    let other = kubectl.json(&["get", "csr", "other"]);
    assert_eq!(text(&other, "/status/conditions/0/reason"), "KubectlDeny");
    let undecided = kubectl.fails(&["certificate", "approve", "other"]);
    assert!(undecided.contains("is already Denied"), "{undecided}");
    let described = kubectl.ok(&["describe", "csr", "jane"]);
    assert!(described.contains("Common Name:    jane"), "{described}");
}
