//! A client with the account of a namespace.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use end_to_end::{Api, Instance, text};
use http::{Method, Request};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use node_identity::Identity;
use serde_json::json;
use std::convert::Infallible;
use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The maximum window: the server never waits for the client's flow control.
pub const WINDOW: u32 = 0x7fff_ffff;

pub type Body = BoxBody<Bytes, Infallible>;

/// The default account of a namespace, with the role `edit` in the namespace.
pub struct Tenant {
    pub namespace: String,
    token: String,
    server: Server,
}

/// The address of the server, its certificate authority, and the client certificate, if there is one.
#[derive(Clone)]
pub struct Server {
    address: (String, u16),
    /// The name in its certificate.
    name: String,
    roots: Arc<RootCertStore>,
    identity: Option<Identity>,
}

/// The certificate and the key of an identity.
pub fn certificate_and_key(
    identity: &Identity,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let certificates = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes());
    (certificates.map(Result::unwrap).collect(), key.unwrap())
}

impl Server {
    pub fn of(instance: &Instance, api: &Api) -> Self {
        let mut roots = RootCertStore::empty();
        let authority = instance.data().join("certificates/ca.crt");
        for certificate in CertificateDer::pem_file_iter(authority).unwrap() {
            roots.add(certificate.unwrap()).unwrap();
        }
        let url = api.configuration().cluster_url;
        Self {
            address: (url.host().unwrap().to_owned(), url.port_u16().unwrap()),
            name: "localhost".to_owned(),
            roots: Arc::new(roots),
            identity: None,
        }
    }

    /// Another listener of the cluster, whose certificate has its address.
    pub fn at(self, host: &str, port: u16) -> Self {
        Self {
            address: (host.to_owned(), port),
            name: host.to_owned(),
            ..self
        }
    }

    /// The server for a client with a certificate.
    pub fn with_identity(self, identity: &Identity) -> Self {
        Self {
            identity: Some(identity.clone()),
            ..self
        }
    }

    /// A connection with a protocol, on which the client has not sent data yet.
    pub async fn connect(&self, protocol: &str) -> TlsStream<TcpStream> {
        let (host, port) = &self.address;
        let stream = TcpStream::connect((host.as_str(), *port)).await.unwrap();
        self.handshake(protocol, stream).await.unwrap()
    }

    /// A connection from this address, before the handshake.
    pub async fn connect_tcp(&self, from: IpAddr) -> io::Result<TcpStream> {
        let (host, port) = &self.address;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let to = (host.parse::<IpAddr>().unwrap(), *port);
        socket.connect(to.into()).await
    }

    /// As [`connect`](Self::connect), from this address; the server may close the connection.
    pub async fn connect_from(
        &self,
        from: IpAddr,
        protocol: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let stream = self.connect_tcp(from).await?;
        self.handshake(protocol, stream).await
    }

    async fn handshake(
        &self,
        protocol: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let tls = ClientConfig::builder().with_root_certificates(self.roots.clone());
        let mut tls = match &self.identity {
            Some(identity) => {
                let (certificates, key) = certificate_and_key(identity);
                tls.with_client_auth_cert(certificates, key).unwrap()
            }
            None => tls.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::try_from(self.name.clone()).unwrap();
        let connector = TlsConnector::from(Arc::new(tls));
        connector.connect(name, stream).await
    }
}

impl Tenant {
    /// Creates a namespace, and allows its default account to edit it.
    pub fn new(server: &Server, api: &Api, namespace: &str) -> Self {
        let name = json!({"metadata": {"name": namespace}});
        api.create("/api/v1/namespaces", &name);
        let binding = json!({
            "metadata": {"name": "edit"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}
        });
        let group = "/apis/rbac.authorization.k8s.io/v1";
        api.create(
            &format!("{group}/namespaces/{namespace}/rolebindings"),
            &binding,
        );
        let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
        end_to_end::wait_for("the default account", 30, || {
            api.request(Method::GET, &account, None)
        });
        let token = api.create(
            &format!("{account}/token"),
            &json!({"spec": {"expirationSeconds": 7200}}),
        );
        Self {
            namespace: namespace.to_owned(),
            token: text(&token, "/status/token").to_owned(),
            server: server.clone(),
        }
    }

    /// The path of a resource of the core group in its namespace.
    pub fn path(&self, resource: &str) -> String {
        format!("/api/v1/namespaces/{}/{resource}", self.namespace)
    }

    /// A web socket whose frames the client does not read.
    pub async fn web_socket(&self, path: &str) -> TlsStream<TcpStream> {
        let stream = self.server.connect("http/1.1").await;
        self.request_web_socket(stream, path).await.unwrap()
    }

    /// A web socket from an address, if the server accepts it and does not close the connection.
    pub async fn web_socket_from(&self, from: IpAddr, path: &str) -> Option<TlsStream<TcpStream>> {
        let stream = self.server.connect_from(from, "http/1.1").await.ok()?;
        let mut stream = self.request_web_socket(stream, path).await.ok()?;
        let response_head = head(&mut stream).await.ok()?;
        response_head.starts_with("HTTP/1.1 101").then_some(stream)
    }

    async fn request_web_socket(
        &self,
        mut stream: TlsStream<TcpStream>,
        path: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
            self.token
        );
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        Ok(stream)
    }

    /// A connection of HTTP/2.
    pub async fn connect(&self) -> Connection {
        let stream = self.server.connect("h2").await;
        self.speak_http2(stream).await
    }

    /// A connection of HTTP/2 on which the client reads nothing.
    pub async fn connect_deaf(&self) -> Connection {
        let (_, writer) = io::split(self.server.connect("h2").await);
        self.speak_http2(io::join(Silence, writer)).await
    }

    async fn speak_http2(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Connection {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Connection {
            sender,
            token: self.token.clone(),
        }
    }
}

/// A connection of a tenant.
pub struct Connection {
    pub sender: SendRequest<Body>,
    token: String,
}

impl Connection {
    /// Sends a request, which stays open with its resources until `open` is dropped.
    pub fn hold_open(
        &mut self,
        request: Request<Body>,
        needed: impl Send + 'static,
        open: &mut JoinSet<()>,
    ) {
        let response = self.sender.send_request(request);
        open.spawn(async move {
            let _needed = needed;
            let _response = response.await;
            std::future::pending::<()>().await;
        });
    }

    pub fn get(&self, path: &str, accept: &str) -> Request<Body> {
        let request = Request::get(format!("https://localhost{path}"))
            .header("accept", accept)
            .header("authorization", format!("Bearer {}", self.token));
        request.body(Empty::new().boxed()).unwrap()
    }

    pub fn post(&self, path: &str, content_type: &str, body: Bytes) -> Request<Body> {
        self.send(Method::POST, path, content_type, Full::new(body).boxed())
    }

    pub fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Body,
    ) -> Request<Body> {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://localhost{path}"))
            .header("content-type", content_type)
            .header("authorization", format!("Bearer {}", self.token));
        request.body(body).unwrap()
    }

    /// The status code of the response, which is read completely.
    pub async fn code(&mut self, request: Request<Body>) -> Option<u16> {
        let response = self.sender.send_request(request).await.ok()?;
        let code = response.status().as_u16();
        response.into_body().collect().await.ok()?;
        Some(code)
    }
}

/// Reads the header of a request or a response, and no byte after it.
pub async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// A reader that never returns data.
struct Silence;

impl AsyncRead for Silence {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}
