//! Requests to servers with the credentials from kubeconfigs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use certificates::{Authority, SubjectAltNames};
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kubeconfig::{Kubeconfig, Limits, Transport, TransportError};
use outbound_http::{Body, BodyError};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tower::{Service, ServiceExt};

type HttpResponse = Response<UnsyncBoxBody<Bytes, std::convert::Infallible>>;

const PATIENCE: Duration = Duration::from_secs(240);

/// A server, and the paths and chosen headers of the requests that it has read. It stops with the test's runtime.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn new(
        tls: Option<TlsAcceptor>,
        respond: impl Fn(&Request<Incoming>) -> HttpResponse + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let all = requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (all, respond, tls) = (all.clone(), respond.clone(), tls.clone());
                tokio::spawn(async move {
                    let service = service_fn(|request: Request<Incoming>| {
                        all.lock().unwrap().push(line_of(&request));
                        let response = respond(&request);
                        async { Ok::<_, std::convert::Infallible>(response) }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    // A client may close the connection.
                    match tls {
                        Some(tls) => {
                            let stream = TokioIo::new(tls.accept(stream).await.ok()?);
                            http.serve_connection(stream, service).await.ok()
                        }
                        None => {
                            let stream = TokioIo::new(stream);
                            http.serve_connection(stream, service).await.ok()
                        }
                    }
                });
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

/// The path of a request, and its credentials.
fn line_of(request: &Request<Incoming>) -> String {
    let mut text = request.uri().to_string();
    for name in ["authorization", "impersonate-user"] {
        for value in request.headers().get_all(name) {
            text.push_str(&format!(" {}", value.to_str().unwrap()));
        }
    }
    text
}

fn status(code: StatusCode) -> HttpResponse {
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = code;
    response
}

/// The transport of a kubeconfig with this server, user and cluster settings.
async fn transport(
    server: &str,
    cluster: &str,
    user: &str,
    silence: Duration,
) -> Result<Transport<Full<Bytes>>, TransportError> {
    let text = format!(
        "{{clusters: [{{name: c, cluster: {{server: '{server}', {cluster}}}}}],
          users: [{{name: u, user: {{{user}}}}}], contexts: [{{name: x, context: {{cluster: c, user: u}}}}],
          current-context: x}}"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    fs::write(&path, text).unwrap();
    let read: Kubeconfig = kubeconfig::read::file(&path).unwrap();
    let settings = read.select(None).unwrap();
    let connect = PATIENCE;
    Transport::new(settings, Limits { connect, silence }).await
}

async fn get(
    transport: &Transport<Full<Bytes>>,
    path: &str,
) -> Result<Response<Body>, TransportError> {
    let request = Request::get(path).body(Full::default()).unwrap();
    transport.clone().ready().await.unwrap().call(request).await
}

/// kubernetes.io, "X509 client certificates", "User impersonation".
#[tokio::test]
async fn a_client_certificate_is_shown_to_a_server_of_the_authority() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(folder.path()).unwrap();
    let mut names = SubjectAltNames::default();
    names.dns.insert("kubernetes".to_owned());
    let identity = authority.server(&names).unwrap();
    let client = authority.client("admin", &["system:masters"]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(authority.ca_pem().as_bytes());
    roots.add(ca.unwrap()).unwrap();
    fs::write(folder.path().join("ca.pem"), authority.ca_pem()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![identity.certificate_der()], identity.key_der())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = Server::new(Some(acceptor), |_| status(StatusCode::OK)).await;
    let url = format!("https://{}/prefix/", server.address);
    for (name, text) in [
        ("c.pem", client.certificate_pem()),
        ("k.pem", client.key_pem()),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let folder_path = folder.path().display();
    let user = format!(
        "client-certificate: {folder_path}/c.pem, client-key: {folder_path}/k.pem, as: jane"
    );
    let trust = format!("certificate-authority: {folder_path}/ca.pem");
    let named = format!("{trust}, tls-server-name: kubernetes");
    let trusting = transport(&url, &named, &user, PATIENCE).await.unwrap();
    let response = get(&trusting, "/api?a=b").await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(server.requests(), ["/prefix/api?a=b jane"]);

    let any = "insecure-skip-tls-verify: true";
    let trusting_any = transport(&url, any, &user, PATIENCE).await.unwrap();
    get(&trusting_any, "/api").await.unwrap();
    assert_eq!(server.requests(), ["/prefix/api jane"]);
    for (cluster, user) in [(&*trust, &*user), (&named, ""), ("", &user)] {
        let refused = transport(&url, cluster, user, PATIENCE).await.unwrap();
        let error = get(&refused, "/api").await.unwrap_err();
        assert!(matches!(error, TransportError::Http(_)), "{error}");
    }
    let swapped =
        format!("client-certificate: {folder_path}/c.pem, client-key: {folder_path}/ca.pem");
    let error = transport(&url, &named, &swapped, PATIENCE)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, TransportError::Malformed { .. }), "{error}");
    let absent = format!("certificate-authority: {folder_path}/none");
    let error = transport(&url, &absent, "", PATIENCE).await.err().unwrap();
    assert!(matches!(error, TransportError::Pem { .. }), "{error}");
    assert_eq!(server.requests(), [""; 0]);
}

#[tokio::test]
async fn a_file_of_a_token_is_read_again() {
    let server = Server::new(None, |_| status(StatusCode::OK)).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    let url = format!("http://{}", server.address);
    let user = format!("token: given, tokenFile: {}", token.display());
    let transport = transport(&url, "", &user, PATIENCE).await.unwrap();
    get(&transport, "/").await.unwrap();
    for content in ["one\n", "two"] {
        fs::write(&token, content).unwrap();
        get(&transport, "/").await.unwrap();
    }
    let expected = ["/ Bearer given", "/ Bearer one", "/ Bearer two"];
    assert_eq!(server.requests(), expected);
    fs::write(&token, "").unwrap();
    let error = get(&transport, "/").await.unwrap_err();
    assert!(matches!(error, TransportError::Token), "{error}");
}

/// A program that returns the tokens `1`, `2`, …; each expires at `end`.
fn plugin(folder: &Path, end: &str) -> String {
    let script = format!(
        "#!/bin/sh -e\ncd \"$1\"\necho x >> runs\necho \"$KUBERNETES_EXEC_INFO\" > question\n\
         printf '{{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"kind\": \"ExecCredential\",\
         \"status\": {{\"token\": \"%s-%s\", \"expirationTimestamp\": \"{end}\"}}}}' \
         $PREFIX $(wc -l < runs)\n"
    );
    let path = folder.join("login");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, command: {}, args: ['{}'],
          env: [{{name: PREFIX, value: t}}], interactiveMode: Never, provideClusterInfo: true,
          installHint: ask an administrator}}",
        path.display(),
        folder.display()
    )
}

/// kubernetes.io, "client-go credential plugins".
#[tokio::test]
async fn a_plug_in_runs_again_when_its_credentials_end() {
    let server = Server::new(None, |request| match request.uri().path() {
        "/refuse" => status(StatusCode::UNAUTHORIZED),
        _ => status(StatusCode::OK),
    })
    .await;
    let url = format!("http://{}", server.address);
    let folder = tempfile::tempdir().unwrap();
    let cluster = "extensions: [{name: client.authentication.k8s.io/exec, extension: {a: 1}}]";
    let user = plugin(folder.path(), "2999-01-01T00:00:00Z");
    let lasting = transport(&url, cluster, &user, PATIENCE).await.unwrap();
    for path in ["/", "/", "/refuse", "/"] {
        get(&lasting, path).await.unwrap();
    }
    let expected = [
        "/ Bearer t-1",
        "/ Bearer t-1",
        "/refuse Bearer t-1",
        "/ Bearer t-2",
    ];
    assert_eq!(server.requests(), expected);
    let question = fs::read_to_string(folder.path().join("question")).unwrap();
    let config = format!("\"cluster\":{{\"server\":\"{url}\",\"config\":{{\"a\":1}}}}");
    assert!(question.contains(&config), "{question}");

    let user = plugin(folder.path(), "1999-01-01T00:00:00Z");
    let ended = transport(&url, "", &user, PATIENCE).await.unwrap();
    for _ in 0..2 {
        get(&ended, "/").await.unwrap();
    }
    assert_eq!(server.requests(), ["/ Bearer t-3", "/ Bearer t-4"]);

    let failed = user.replace("args: ['", "args: ['/absent");
    let failed = transport(&url, "", &failed, PATIENCE).await.unwrap();
    let error = get(&failed, "/").await.unwrap_err().to_string();
    assert!(error.contains("login"), "{error}");
    let absent = user.replace("/login,", "/absent,");
    let absent = transport(&url, "", &absent, PATIENCE).await.unwrap();
    let error = get(&absent, "/").await.unwrap_err().to_string();
    assert!(error.ends_with("; ask an administrator"), "{error}");
    assert_eq!(server.requests(), [""; 0]);
}

/// A watch sends nothing while nothing changes; a list must respond within the limit.
#[tokio::test]
async fn watches_outlast_the_limit_of_silence() {
    let server = Server::new(None, |_| {
        let first = futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"one")))]);
        let last = futures::stream::once(async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok(Frame::data(Bytes::from_static(b"two")))
        });
        Response::new(BodyExt::boxed_unsync(StreamBody::new(first.chain(last))))
    })
    .await;
    let url = format!("http://{}", server.address);
    // Longer than the pauses of a busy machine.
    let silence = Duration::from_secs(3);
    let transport = transport(&url, "", "", silence).await.unwrap();
    let read = async |path| {
        let body = get(&transport, path).await.unwrap().into_body();
        body.collect().await.map(|body| body.to_bytes())
    };
    assert_eq!(read("/api/v1/pods?watch=true").await.unwrap(), "onetwo");
    let error = read("/api/v1/pods").await.unwrap_err();
    assert!(matches!(error, BodyError::Silent(_)), "{error}");
}
