//! CertificateSigningRequests (kubectl.md 10.5).

use std::sync::Arc;

use certificates::{Authority, ClientSubject};
use json_tree::{Value, json};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams, ResourceExt};
use kube_api_server::UserInfo;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::support::{Cluster, eventually};

type Requests = Api<CertificateSigningRequest>;

/// A cluster whose controllers have a certificate authority.
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

async fn ask(client: &Client, name: &str, signer: &str, pem: &str) -> kube_api_client::Result<()> {
    let request = json!({"metadata": {"name": name}, "spec": {
        "request": ByteString(pem.as_bytes().to_vec()),
        "signerName": format!("kubernetes.io/{signer}"),
        "usages": ["digital signature", "client auth"]}});
    let request: CertificateSigningRequest = json_tree::from_value(request).unwrap();
    let requests: Requests = Api::all(client.clone());
    let created = requests.create(&PostParams::default(), &request).await;
    created.map(drop)
}

/// Creates a request as soon as the user's right to create it is effective.
async fn ask_soon(client: &Client, name: &str, signer: &str, pem: &str) {
    for _ in 0..12_000 {
        match ask(client, name, signer, pem).await {
            Err(kube_api_client::Error::Api(status)) if status.code == 403 => {}
            response => return response.unwrap(),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{name} may not be asked for");
}

async fn approve(
    client: &Client,
    name: &str,
) -> kube_api_client::Result<CertificateSigningRequest> {
    let requests: Requests = Api::all(client.clone());
    let condition = json!({"type": "Approved", "status": "True", "reason": "Test"});
    let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
    let params = PatchParams::default();
    requests
        .patch_subresource("approval", name, &params, &patch)
        .await
}

/// Waits until a request has a certificate or a final condition.
async fn decided(cluster: &Cluster, name: &str) -> CertificateSigningRequest {
    let requests: Requests = Api::all(cluster.client.clone());
    let mut last = None;
    for _ in 0..12_000 {
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

    // A request that violates the rules of its signer fails, with the reason.
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
    // No certificate for the group `system:masters` is signed.
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
        let binding = json_tree::from_value(bind(name, role, user)).unwrap();
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
    // findings S10: a node may only create requests for itself.
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

    // The controller's role allows it to approve client certificates of nodes, and no other requests.
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
            let condition = json_tree::from_value(condition).unwrap();
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

/// A node that is alive at an address.
async fn put_node(cluster: &Cluster, name: &str, address: &str) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = json_tree::from_value(json!({"metadata": {"name": name}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": address}],
        "conditions": [{"type": "Ready", "status": "True",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let patch = Patch::Merge(status);
    nodes
        .patch_status(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_token_gets_the_certificate_of_a_new_node_and_not_of_a_live_one() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(dir.path()).await;
    put_node(&cluster, "n1", "10.0.0.1").await;
    let groups = [
        "system:bootstrappers",
        "system:bootstrappers:kubeadm:default-node-token",
        "system:authenticated",
    ];
    let joining = UserInfo::new("system:bootstrap:abcdef", groups);
    let joining = cluster.client_of(joining);
    let signer = "kube-apiserver-client-kubelet";
    let request_of_live_node = pem("system:node:n1", "system:nodes");
    ask_soon(&joining, "taken", signer, &request_of_live_node).await;
    let requests: Requests = Api::all(cluster.client.clone());
    let denied = async || {
        let request = requests.get("taken").await.unwrap();
        let conditions = request.status.unwrap_or_default().conditions;
        let conditions = conditions.unwrap_or_default();
        conditions.into_iter().find(|one| one.type_ == "Denied")
    };
    eventually(async || denied().await.is_some()).await;
    let message = denied().await.unwrap().message.unwrap();
    assert!(
        message.contains("a node of the name n1 is alive"),
        "{message}"
    );
    assert!(
        message.contains("last heartbeat was at 2026-01-01"),
        "{message}"
    );
    let new = pem("system:node:n2", "system:nodes");
    ask_soon(&joining, "new", signer, &new).await;
    let signed = decided(&cluster, "new").await;
    assert_eq!(subject(&signed).common_name, "system:node:n2");
}

#[tokio::test]
async fn a_node_gets_a_server_certificate_when_its_object_has_the_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(dir.path()).await;
    let mut params = CertificateParams::new(vec!["n1".to_owned()]).unwrap();
    let address = SanType::IpAddress([10, 0, 0, 1].into());
    params.subject_alt_names.push(address);
    params.distinguished_name = rcgen::DistinguishedName::new();
    let names = &mut params.distinguished_name;
    names.push(DnType::OrganizationName, "system:nodes");
    names.push(DnType::CommonName, "system:node:n1");
    let key = KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let request = json!({"metadata": {"name": "serving"}, "spec": {
        "request": ByteString(pem.into_bytes()), "signerName": "kubernetes.io/kubelet-serving",
        "usages": ["digital signature", "server auth"]}});
    let request: CertificateSigningRequest = json_tree::from_value(request).unwrap();
    let groups = ["system:nodes", "system:authenticated"];
    let node = cluster.client_of(UserInfo::new("system:node:n1", groups));
    let requests: Requests = Api::all(node);
    requests
        .create(&PostParams::default(), &request)
        .await
        .unwrap();
    put_node(&cluster, "n1", "10.0.0.1").await;
    let signed = decided(&cluster, "serving").await;
    assert_eq!(subject(&signed).common_name, "system:node:n1");
    let conditions = signed.status.unwrap().conditions.unwrap();
    assert_eq!(conditions[0].reason.as_deref(), Some("AutoApproved"));
}
