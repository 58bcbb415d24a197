//! CertificateSigningRequests (kubectl.md 10.5).

use std::sync::Arc;

use api_client::{Api, Client, Patch, PatchParams, PostParams, ResourceExt};
use api_server::UserInfo;
use certificates::{Authority, ClientSubject};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};

use crate::support::Cluster;

type Requests = Api<CertificateSigningRequest>;

/// A cluster whose controllers sign.
async fn cluster(dir: &std::path::Path) -> Cluster {
    let mut cluster = Cluster::without_controllers().await;
    cluster.authority = Some(Arc::new(Authority::open_or_create(dir).unwrap()));
    cluster.start_controllers(&cluster.shutdown);
    cluster
}

fn pem(common_name: &str, organization: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let names = &mut params.distinguished_name;
    names.push(DnType::OrganizationName, organization);
    names.push(DnType::CommonName, common_name);
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().pem().unwrap()
}

async fn ask(client: &Client, name: &str, signer: &str, pem: &str) -> api_client::Result<()> {
    let request = json!({"metadata": {"name": name}, "spec": {
        "request": ByteString(pem.as_bytes().to_vec()),
        "signerName": format!("kubernetes.io/{signer}"),
        "usages": ["digital signature", "client auth"]}});
    let request: CertificateSigningRequest = serde_json::from_value(request).unwrap();
    let requests: Requests = Api::all(client.clone());
    let made = requests.create(&PostParams::default(), &request).await;
    made.map(drop)
}

/// Asks as soon as the right to do so has spread.
async fn ask_soon(client: &Client, name: &str, signer: &str, pem: &str) {
    for _ in 0..3000 {
        match ask(client, name, signer, pem).await {
            Err(api_client::Error::Api(status)) if status.code == 403 => {}
            answer => return answer.unwrap(),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{name} may not be asked for");
}

async fn approve(client: &Client, name: &str) -> api_client::Result<CertificateSigningRequest> {
    let requests: Requests = Api::all(client.clone());
    let condition = json!({"type": "Approved", "status": "True", "reason": "Test"});
    let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
    let params = PatchParams::default();
    requests
        .patch_subresource("approval", name, &params, &patch)
        .await
}

/// Waits until a request has a certificate or a condition that ends it.
async fn decided(cluster: &Cluster, name: &str) -> CertificateSigningRequest {
    let requests: Requests = Api::all(cluster.client.clone());
    let mut last = None;
    for _ in 0..3000 {
        let request = requests.get(name).await.unwrap();
        let status = request.status.clone().unwrap_or_default();
        let mut conditions = status.conditions.iter().flatten();
        if status.certificate.is_some() || conditions.any(|one| one.type_ == "Failed") {
            return request;
        }
        last = Some(request);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("undecided: {last:?}");
}

fn subject(request: &CertificateSigningRequest) -> ClientSubject {
    let status = request.status.as_ref().unwrap();
    let certificate = status.certificate.as_ref().unwrap();
    let der = CertificateDer::from_pem_slice(&certificate.0).unwrap();
    ClientSubject::of(&der).unwrap()
}

#[tokio::test]
async fn what_is_approved_gets_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(dir.path()).await;
    let jane = pem("jane", "developers");
    ask(&cluster.client, "jane", "kube-apiserver-client", &jane)
        .await
        .unwrap();
    let requests: Requests = Api::all(cluster.client.clone());
    let pending = requests.get("jane").await.unwrap();
    assert_eq!(pending.spec.username.as_deref(), Some("admin"));
    assert_eq!(
        pending.spec.groups.as_deref(),
        Some(
            &[
                "system:masters".to_owned(),
                "system:authenticated".to_owned()
            ][..]
        )
    );
    approve(&cluster.client, "jane").await.unwrap();
    let signed = decided(&cluster, "jane").await;
    let subject = subject(&signed);
    assert_eq!(subject.common_name, "jane");
    assert_eq!(subject.organizations, ["developers"]);

    // What is not of its signer's form fails, with the reason.
    ask(&cluster.client, "node", "kubelet-serving", &jane)
        .await
        .unwrap();
    approve(&cluster.client, "node").await.unwrap();
    let failed = decided(&cluster, "node").await;
    let conditions = failed.status.unwrap().conditions.unwrap();
    let condition = conditions.iter().find(|one| one.type_ == "Failed").unwrap();
    assert_eq!(
        condition.message.as_deref(),
        Some("subject organization is not system:nodes")
    );
    // Nobody is made a master.
    let master = pem("me", "system:masters");
    let refused = ask(&cluster.client, "me", "kube-apiserver-client", &master).await;
    assert!(refused.unwrap_err().to_string().contains("is not allowed"));
}

#[tokio::test]
async fn approving_needs_a_right_on_the_signer_and_nodes_need_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(dir.path()).await;
    let bind = |name: &str, role: &str, user: &str| -> Value {
        json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]})
    };
    let bindings: Api<ClusterRoleBinding> = Api::all(cluster.client.clone());
    let selfnode = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";
    let mine = pem("system:node:n1", "system:nodes");
    for (name, role, user) in [
        (
            "approver",
            "system:controller:certificate-controller",
            "approver",
        ),
        ("nodes", selfnode, "system:node:n1"),
        ("asking", "system:node", "system:node:n1"),
        ("asking-too", "system:node", "joining"),
    ] {
        let binding = serde_json::from_value(bind(name, role, user)).unwrap();
        bindings
            .create(&PostParams::default(), &binding)
            .await
            .unwrap();
    }
    let node = |name: &str| {
        let user = UserInfo::new(name, ["system:nodes", "system:authenticated"]);
        cluster.client_of(user)
    };
    let signer = "kube-apiserver-client-kubelet";
    let joining = UserInfo::new("joining", ["system:authenticated"]);
    ask_soon(&cluster.client_of(joining), "other", signer, &mine).await;
    // findings S10: a node asks for itself only.
    let refused = ask(&node("system:node:n2"), "wrong", signer, &mine).await;
    let refused = refused.unwrap_err().to_string();
    let words = "can only create a node CSR with CN=system:node:n2";
    assert!(refused.contains(words), "{refused}");
    ask_soon(&node("system:node:n1"), "own", signer, &mine).await;
    let signed = decided(&cluster, "own").await;
    assert_eq!(subject(&signed).common_name, "system:node:n1");
    let conditions = signed.status.clone().unwrap().conditions.unwrap();
    assert_eq!(conditions[0].reason.as_deref(), Some("AutoApproved"));
    assert!(signed.name_any() == "own" && conditions.len() == 1);

    // The role of the controller lets approve nodes as clients, and nobody else.
    let approver = UserInfo::new("approver", ["system:authenticated"]);
    let approver = cluster.client_of(approver);
    let jane = pem("jane", "developers");
    ask(&cluster.client, "jane", "kube-apiserver-client", &jane)
        .await
        .unwrap();
    let put = |name: &'static str| {
        let requests: Requests = Api::all(approver.clone());
        async move {
            let mut request = requests.get(name).await.unwrap();
            let condition = json!({"type": "Approved", "status": "True"});
            let condition = serde_json::from_value(condition).unwrap();
            let status = request.status.get_or_insert_default();
            status.conditions.get_or_insert_default().push(condition);
            requests
                .replace_subresource("approval", name, &PostParams::default(), &request)
                .await
        }
    };
    let refused = put("jane").await.unwrap_err().to_string();
    assert!(
        refused.contains(
            "user not permitted to approve requests with signerName \
             \"kubernetes.io/kube-apiserver-client\""
        ),
        "{refused}"
    );
    put("other").await.unwrap();
    decided(&cluster, "other").await;
}
