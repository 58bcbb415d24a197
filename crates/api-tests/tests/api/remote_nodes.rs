//! Nodes on other machines, to which the server connects.

use std::net::IpAddr;
use std::sync::Arc;

use certificates::{ApprovedRequest, Authority, ClientSubject, Identity, SubjectAltNames, Usage};
use json_tree::json;
use kube_api_server::NodeConnection;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Api, PODS, pod};

/// A server certificate for 127.0.0.1, as the signer `kubernetes.io/kubelet-serving` creates it.
pub fn serving(authority: &Authority, user: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let approved = ApprovedRequest {
        der: request.der(),
        subject: ClientSubject {
            common_name: user.to_owned(),
            organizations: vec!["system:nodes".to_owned()],
        },
        dns: &[],
        addresses: &[[127, 0, 0, 1].into()],
        emails: &[],
        uris: &[],
        usages: vec![Usage::DigitalSignature, Usage::ServerAuth],
        life: 3600,
    };
    (authority.sign(&approved).unwrap(), key.serialize_pem())
}

/// A node that responds with the user and the first line of the request, and echoes all bytes after an upgrade.
pub async fn kubelet(authority: &Authority, certificate: &str, key: &str) -> u16 {
    let ca = CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that refuses the certificate closes the connection.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let head = String::from_utf8(head).unwrap();
                if head.to_lowercase().contains("upgrade: test") {
                    let response = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                                  Upgrade: test\r\n\r\n";
                    stream.write_all(response.as_bytes()).await.unwrap();
                    let (mut read, mut write) = tokio::io::split(stream);
                    tokio::io::copy(&mut read, &mut write).await.ok();
                    return;
                }
                let presented = stream.get_ref().1.peer_certificates().unwrap();
                let user = ClientSubject::of(&presented[0]).unwrap().common_name;
                assert!(!head.to_lowercase().contains("authorization"), "{head}");
                let text = format!("{user}: {}", head.lines().next().unwrap());
                let response = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
                    text.len()
                );
                stream.write_all(response.as_bytes()).await.unwrap();
            });
        }
    });
    port
}

pub async fn put_node(api: &Api, name: &str, port: u16) {
    api.create("/api/v1/nodes", json!({"metadata": {"name": name}}))
        .await;
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    let path = format!("/api/v1/nodes/{name}/status");
    assert_eq!(api.patch(&path, "merge", status).await.0, 200);
    let mut on_it = pod(&format!("on-{name}"));
    on_it["spec"]["nodeName"] = json!(name);
    api.create(PODS, on_it).await;
}

pub fn show(api: &Api, authority: &Authority, identity: &Identity) {
    let (certificate, key) = (identity.certificate_pem(), identity.key_pem());
    let ca = authority.ca_pem();
    api.server.dial_nodes_with(certificate, key, ca).unwrap();
}

#[tokio::test]
async fn a_node_on_another_machine_is_dialled() {
    let api = Api::new().await;
    api.with_account().await;
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path()).unwrap();
    let (certificate, key) = serving(&authority, "system:node:far");
    let port = kubelet(&authority, &certificate, &key).await;
    put_node(&api, "far", port).await;
    // Without a client certificate the server does not connect to nodes.
    let log = format!("{PODS}/on-far/log?tailLines=2");
    assert_eq!(api.raw("GET", &log, &[], "").await.code, 503);
    let identity = authority
        .client("kube-apiserver-kubelet-client", &[])
        .unwrap();
    show(&api, &authority, &identity);
    let response = api.raw("GET", &log, &[], "").await;
    assert_eq!(response.code, 200, "{}", response.text());
    assert_eq!(
        response.text(),
        "kube-apiserver-kubelet-client: GET /containerLogs/default/on-far/c?tailLines=2 HTTP/1.1"
    );
    let proxied = "/api/v1/nodes/far/proxy/stats/summary";
    let response = api.raw("GET", proxied, &[], "").await;
    assert!(
        response.text().contains("GET /stats/summary"),
        "{response:?}"
    );
    let upgrade = [("connection", "Upgrade"), ("upgrade", "test")];
    let exec = format!("{PODS}/on-far/exec?command=sh");
    let response = api.respond("POST", &exec, &upgrade, "").await;
    assert_eq!(response.status(), 101);
    let reach = api.server.reach_node("far").await.unwrap();
    assert_eq!(
        (reach.address, reach.connection),
        (format!("127.0.0.1:{port}"), Ok(NodeConnection::Direct))
    );
}

// findings-2 C33
#[tokio::test]
async fn the_port_of_a_node_proxy_is_asked_where_it_may_be() {
    let api = Api::new().await;
    api.with_account().await;
    put_node(&api, "far", 4321).await;
    let dialled = |name: &str| {
        let path = format!("/api/v1/nodes/{name}/proxy/metrics");
        let api = &api;
        async move { api.get(&path).await }
    };
    let (code, status) = dialled("far:9100").await;
    assert_eq!(
        (code, &status["message"]),
        (400, &json!("address not allowed"))
    );
    // The port in the object is the port of the node's own API, which this server cannot reach.
    let (code, status) = dialled("far:4321").await;
    assert_eq!(
        (code, &status["message"]),
        (503, &json!("node \"far\" cannot be reached"))
    );
    let address = machine_address().unwrap();
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let count = stream.read(&mut head).await.unwrap();
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup";
        stream.write_all(response).await.unwrap();
        String::from_utf8_lossy(&head[..count]).to_lowercase()
    });
    let status =
        json!({"status": {"addresses": [{"type": "InternalIP", "address": address.to_string()}]}});
    let path = "/api/v1/nodes/far/status";
    assert_eq!(api.patch(path, "merge", status).await.0, 200);
    let path = format!("/api/v1/nodes/far:{port}/proxy/metrics?a=b");
    let response = api.raw("GET", &path, &[], "").await;
    assert_eq!((response.code, response.text().as_str()), (200, "up"));
    let head = served.await.unwrap();
    assert!(head.starts_with("get /metrics?a=b http/1.1"), "{head}");
    assert!(!head.contains("authorization"), "{head}");
}

/// An address of this machine that other machines could use; `None` on a machine without a network.
pub fn machine_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    // The call sends no packet.
    socket.connect(("192.0.2.1", 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[tokio::test]
async fn a_node_that_is_somebody_else_gets_nothing() {
    let api = Api::new().await;
    api.with_account().await;
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path()).unwrap();
    let identity = authority
        .client("kube-apiserver-kubelet-client", &[])
        .unwrap();
    show(&api, &authority, &identity);
    // The certificate of another node, and of the API server itself.
    let (certificate, key) = serving(&authority, "system:node:near");
    let port = kubelet(&authority, &certificate, &key).await;
    put_node(&api, "far", port).await;
    let server = authority
        .server(&SubjectAltNames::api_server("h", []))
        .unwrap();
    let port = kubelet(&authority, server.certificate_pem(), server.key_pem()).await;
    put_node(&api, "odd", port).await;
    // A certificate from an unknown authority.
    let other = tempfile::tempdir().unwrap();
    let other = Authority::open_or_create(other.path()).unwrap();
    let (certificate, key) = serving(&other, "system:node:alien");
    let port = kubelet(&authority, &certificate, &key).await;
    put_node(&api, "alien", port).await;
    for (name, why) in [
        ("far", "the certificate of another node"),
        ("odd", "the certificate of another node"),
        ("alien", "invalid peer certificate"),
    ] {
        let response = api
            .raw("GET", &format!("{PODS}/on-{name}/log"), &[], "")
            .await;
        assert_eq!(response.code, 503, "{name}");
        assert!(response.text().contains(why), "{name}: {}", response.text());
    }
}
