//! A certificate by the standard client: requested, approved, denied (kubectl.md 10.5).

use end_to_end::{Api, Instance, program, text, wait_for, wait_for_text, words};
use k8s_openapi::ByteString;
use node_identity::{CertificateSubject, Credentials, JoinToken, client, join};
use serde_json::json;

const JANE: &[u8] =
    include_bytes!("../../resource-kinds/src/groups/certificates/testdata/jane.csr");

/// A request for `system:node:n1` of `system:nodes`.
const NODE: &[u8] =
    include_bytes!("../../resource-kinds/src/groups/certificates/testdata/node-client.csr");

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
    let expected = [
        "NAME",
        "AGE",
        "SIGNERNAME",
        "REQUESTOR",
        "REQUESTEDDURATION",
        "CONDITION",
    ];
    assert_eq!(words(&columns)[0], expected, "{columns}");
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

/// The first steps of a kubelet, executed by the standard client.
#[test]
fn a_new_node_gets_its_certificate_by_a_token() {
    let instance = Instance::start(&[]);
    let data = instance.data();
    let data = program::text(&data);
    let token = |arguments: &[&str]| {
        let command = ["token", "--data-dir", data];
        program::ok(&[&command[..], arguments].concat())
    };
    let created = token(&["create", "--ttl", "1h", "--description", "rack 7"]);
    let parts: Vec<&str> = created.trim().split('.').collect();
    let [id, secret, hash] = parts[..] else {
        panic!("{created}");
    };
    assert_eq!(
        (id.len(), secret.len(), hash.len()),
        (6, 16, 64),
        "{created}"
    );
    let kubectl = instance.kubectl();
    let object = kubectl.json(&[
        "get",
        "secret",
        "-n",
        "kube-system",
        &format!("bootstrap-token-{id}"),
    ]);
    assert_eq!(text(&object, "/type"), "bootstrap.kubernetes.io/token");
    let listed = token(&["list"]);
    assert!(listed.contains(id) && listed.contains("rack 7"), "{listed}");
    assert!(!listed.contains(secret), "{listed}");

    let node = kubectl.with_token(&format!("{id}.{secret}"));
    let who = node.ok(&["auth", "whoami"]);
    assert!(who.contains(&format!("system:bootstrap:{id}")), "{who}");
    assert!(node.fails(&["get", "pods"]).contains("Forbidden"));
    let request = json!({"apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest", "metadata": {"name": "joining"}, "spec": {
            "request": ByteString(NODE.to_vec()), "usages": ["digital signature", "client auth"],
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet"}});
    node.ok_with_input(&["create", "-f", "-"], &request.to_string());
    wait_for_text("Approved,Issued", 60, || {
        node.ok(&["get", "csr", "joining", "--no-headers"])
    });

    // A machine needs the server's address and the token, but no file of the server.
    let api = Api::new(&instance);
    let server = api.configuration().cluster_url;
    let read = JoinToken::read(&created).expect("the form of a token");
    api.block_on(async {
        let joined = join(&server, &read, "n2").await.expect("a certificate");
        let credentials = Credentials::Identity(&joined.identity);
        let credentials = client(&server, &joined.ca_pem, &credentials).await;
        let next = node_identity::request(
            &credentials.expect("a client"),
            &CertificateSubject::client("n2"),
        )
        .await;
        next.expect("the next certificate, without the token");
    });

    assert_eq!(
        token(&["delete", created.trim()]).trim(),
        format!("deleted {id}")
    );
    let refused = node.fails(&["get", "csr"]);
    assert!(refused.contains("must be logged in"), "{refused}");
    let refusal = program::refused(&["token", "--data-dir", data, "delete", id]);
    assert!(
        refusal.contains(&format!("there is no token {id}")),
        "{refusal}"
    );

    let short = token(&["create", "--ttl", "1s"]);
    let (short, _) = short.split_once('.').expect("a token");
    wait_for("the expired token is deleted", 60, || {
        let listed = token(&["list"]);
        match listed.contains(short) {
            true => Err(listed),
            false => Ok(()),
        }
    });
}
