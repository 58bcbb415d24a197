//! The kubelet API on the network, as API servers on other machines and monitoring tools use it.

use certificates::{ApprovedRequest, Authority, ClientSubject, Usage};
use json_tree::json;
use k8s_openapi::api::core::v1::Node;
use node_agent::{KubeletApi, OnShutdown, ServingCertificate};
use outbound_http::tls::{self, Roots, Trust};
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::harness::{Harness, NODE, PATIENCE};
use crate::pods::SLEEP;
use crate::terminal::{exec, finish};

/// The server certificate of the node, in the form of the signer `kubernetes.io/kubelet-serving`.
fn serving(authority: &Authority) -> ServingCertificate {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let approved = ApprovedRequest {
        der: request.der(),
        subject: ClientSubject {
            common_name: format!("system:node:{NODE}"),
            organizations: vec!["system:nodes".to_owned()],
        },
        dns: &[],
        addresses: &[[127, 0, 0, 1].into()],
        emails: &[],
        uris: &[],
        usages: vec![Usage::DigitalSignature, Usage::ServerAuth],
        life: 3600,
    };
    let certificate = authority.sign(&approved).unwrap();
    ServingCertificate::of_pem(&certificate, &key.serialize_pem()).unwrap()
}

pub async fn commands_and_logs_go_over_the_network() {
    let mut harness = Harness::new("https").await;
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path()).unwrap();
    harness.kubelet_api = Some(KubeletApi {
        listen: ([127, 0, 0, 1], 0).into(),
        client_ca_pem: authority.ca_pem().to_owned(),
        certificate: watch::Sender::new(Some(serving(&authority))).subscribe(),
        is_needed: true,
    });
    harness.start(OnShutdown::StopPods).await;
    let script = format!("echo begin; {SLEEP}");
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["sh", "-c", script]}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;

    // The API server cannot reach the node without the network.
    harness.forget_service();
    let client_certificate = authority
        .client("kube-apiserver-kubelet-client", &[])
        .unwrap();
    let (certificate, key) = (
        client_certificate.certificate_pem(),
        client_certificate.key_pem(),
    );
    let dialled = harness
        .server
        .dial_nodes_with(certificate, key, authority.ca_pem());
    dialled.unwrap();
    harness.logged("p", "c", "begin").await;

    let nodes: kube_api_client::Api<Node> = kube_api_client::Api::all(harness.client.clone());
    let status = nodes.get(NODE).await.unwrap().status.unwrap();
    let endpoint = status.daemon_endpoints.unwrap().kubelet_endpoint.unwrap();
    let port = u16::try_from(endpoint.port).unwrap();
    let dial = async |user: &str| {
        let client_certificate = authority.client(user, &[]).unwrap();
        let (certificate, key) = (
            client_certificate.certificate_pem(),
            client_certificate.key_pem(),
        );
        let identity = tls::Identity::of_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        let roots = Roots::none().with_pem(authority.ca_pem().as_bytes());
        let config = tls::client(Trust::Roots(roots.unwrap()), Some(identity)).unwrap();
        let host = ("127.0.0.1", port);
        let stream = outbound_http::connect(host, PATIENCE).await.unwrap();
        let stream = tls::handshake(stream, host.0, config).await.unwrap();
        let command = exec(&["sh", "-c", "echo out; exit 3"], "stdout=true");
        let mut request = format!("ws://node{command}").into_client_request().unwrap();
        let protocol = http::HeaderValue::from_static("v5.channel.k8s.io");
        let name = http::header::SEC_WEBSOCKET_PROTOCOL;
        request.headers_mut().insert(name, protocol);
        tokio_tungstenite::client_async(request, stream).await
    };
    let (socket, _) = dial("kube-apiserver-kubelet-client").await.unwrap();
    let (out, _, status) = finish(socket).await;
    assert_eq!(out, "out\n");
    assert_eq!(status["details"]["causes"][0]["message"], "3");
    match dial("nobody").await {
        Err(Error::Http(refused)) => assert_eq!(refused.status(), 403),
        other => panic!("{:?}", other.map(|_| "a session")),
    }
    harness.end().await;
}
