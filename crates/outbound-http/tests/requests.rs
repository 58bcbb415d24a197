//! Requests to servers of every sort: silent, endless, behind TLS, behind a proxy.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::Empty;
use outbound_http::tls::{self, Roots, TlsError};
use outbound_http::{BodyError, Error, Pool, Proxies, Settings, Url, connect, exchange};
use rcgen::{CertifiedKey, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

const PATIENCE: Duration = Duration::from_secs(240);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

/// A server that answers by the head of a request, and the heads that it has read. It ends with the
/// test's runtime.
struct Server {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
}

impl Server {
    async fn new(respond: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::over(None, respond).await
    }

    async fn over(
        tls: Option<TlsAcceptor>,
        respond: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let (requests, counted, respond) = (heads.clone(), connections.clone(), Arc::new(respond));
        tokio::spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                *counted.lock().unwrap() += 1;
                let (requests, respond, tls) = (requests.clone(), respond.clone(), tls.clone());
                clients.spawn(async move {
                    match tls {
                        // A client that does not trust the server goes away.
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &requests, &*respond).await,
                            Err(_) => None,
                        },
                        None => serve(stream, &requests, &*respond).await,
                    }
                });
            }
        });
        Self {
            address,
            heads,
            connections,
        }
    }

    fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://{}{path}", self.address)).unwrap()
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// Answers until the client goes away.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    requests: &Mutex<Vec<String>>,
    respond: &(dyn Fn(&str) -> String + Send + Sync),
) -> Option<()> {
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(char::from(stream.read_u8().await.ok()?));
        }
        let response = respond(&head);
        requests.lock().unwrap().push(head);
        stream.write_all(response.as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
    }
}

/// A certificate for `127.0.0.1` that signs itself, and the server's side of it.
fn identity() -> (String, TlsAcceptor) {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key: &KeyPair = &signing_key;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (cert.pem(), TlsAcceptor::from(Arc::new(config)))
}

fn settings() -> Settings {
    Settings {
        http2: false,
        connect_limit: PATIENCE,
        silence_limit: PATIENCE,
        tls: tls::trusting(Roots::none()).unwrap(),
        server_name: None,
        proxies: Proxies::None,
        allows: Arc::new(|_, _| true),
    }
}

fn all(_: &Url, _: usize) -> Result<(), Infallible> {
    Ok(())
}

async fn text(pool: &Pool, url: &Url) -> Result<String, Error> {
    let response = pool.get(url, HeaderMap::new(), all).await?;
    let body = response.into_body().whole(100).await.unwrap();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_pool_uses_a_connection_again() {
    let server = Server::new(|_| OK.to_owned()).await;
    let pool = Pool::new(settings());
    for _ in 0..3 {
        assert_eq!(text(&pool, &server.url("/")).await.unwrap(), "hi");
    }
    assert_eq!(*server.connections.lock().unwrap(), 1);
    assert_eq!(server.heads().len(), 3);
}

#[tokio::test]
async fn a_refused_connection_is_told_from_a_silent_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let url = Url::parse(&format!("http://{address}/")).unwrap();
    let silent = Pool::new(Settings {
        silence_limit: Duration::from_millis(200),
        ..settings()
    });
    let error = text(&silent, &url).await.unwrap_err();
    assert!(matches!(error, Error::Silent(_)) && !error.is_connect());
    drop(listener);
    let error = text(&silent, &url).await.unwrap_err();
    assert!(error.is_connect(), "{error}");
}

#[tokio::test]
async fn a_body_that_stops_is_given_up() {
    let server = Server::new(|_| "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi".to_owned()).await;
    let pool = Pool::new(Settings {
        // Longer than a busy machine is silent.
        silence_limit: Duration::from_secs(3),
        ..settings()
    });
    let result = pool.get(&server.url("/"), HeaderMap::new(), all).await;
    let mut body = result.unwrap().into_body();
    assert_eq!(body.content_length(), Some(9));
    assert_eq!(body.chunk().await.unwrap().unwrap(), "hi");
    // A wait that is cancelled counts.
    let short = Duration::from_millis(1);
    tokio::time::timeout(short, body.chunk()).await.unwrap_err();
    let error = body.chunk().await.unwrap_err();
    assert!(matches!(error, BodyError::Silent(_)), "{error}");
}

#[tokio::test]
async fn a_body_is_read_to_its_limit() {
    let server = Server::new(|_| OK.to_owned()).await;
    let get = async || {
        let stream = connect(server.address, PATIENCE).await.unwrap();
        let request = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
        exchange(stream, request).await.unwrap().into_body()
    };
    assert_eq!(get().await.whole(2).await.unwrap(), "hi");
    assert_eq!(get().await.beginning(1).await, b"h");
    let error = get().await.whole(1).await.unwrap_err();
    assert!(matches!(error, BodyError::TooLong), "{error}");
}

/// A name that resolves to an address that the caller does not allow is not connected to.
#[tokio::test]
async fn names_lead_to_allowed_addresses_only() {
    let server = Server::new(|_| OK.to_owned()).await;
    let url = format!("http://localhost:{}/", server.address.port());
    let pool = Pool::new(Settings {
        allows: Arc::new(|name, address| name != "localhost" || !address.is_loopback()),
        ..settings()
    });
    let error = text(&pool, &Url::parse(&url).unwrap()).await.unwrap_err();
    assert!(error.is_connect(), "{error}");
    assert_eq!(server.heads(), [""; 0]);
}

#[tokio::test]
async fn redirects_are_followed_as_the_caller_says_and_without_credentials_elsewhere() {
    let last = Server::new(|_| OK.to_owned()).await;
    let away = last.url("/last");
    let first = Server::new(move |head| {
        let to = match head.starts_with("GET /here ") {
            true => away.to_string(),
            false => "here".to_owned(),
        };
        format!("HTTP/1.1 307 x\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
    })
    .await;
    let pool = Pool::new(settings());
    let mine = || HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("mine"))]);
    let response = pool.get(&first.url("/"), mine(), all).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let is_told = |head: &String| head.contains("authorization: mine");
    assert_eq!(
        first.heads().iter().map(is_told).collect::<Vec<_>>(),
        [true; 2]
    );
    let heads = last.heads();
    assert!(!is_told(&heads[0]), "{heads:?}");
    let referer = format!("referer: {}", first.url("/here"));
    assert!(heads[0].contains(&referer), "{heads:?}");

    let once = |_: &Url, followed| match followed {
        0 => Ok(()),
        _ => Err(std::io::Error::other("enough")),
    };
    let error = pool.get(&first.url("/"), mine(), once).await.unwrap_err();
    assert!(
        matches!(&error, Error::Redirect(reason) if reason.to_string() == "enough"),
        "{error}"
    );
    assert_eq!(last.heads().len(), 1);
}

/// statefulset.md 12.5: probes accept any certificate; other clients accept one of their roots.
#[tokio::test]
async fn servers_are_trusted_as_the_settings_say() {
    let (pem, acceptor) = identity();
    let server = Server::over(Some(acceptor), |_| OK.to_owned()).await;
    let custom_roots = Roots::none().with_pem(pem.as_bytes()).unwrap();
    let shake = async |config| {
        let stream = connect(server.address, PATIENCE).await.unwrap();
        tls::handshake(stream, "127.0.0.1", config).await
    };
    for config in [tls::insecure(), tls::trusting(custom_roots)] {
        let config = config.unwrap();
        shake(config.clone()).await.unwrap();
        let pool = Pool::new(Settings {
            tls: config,
            ..settings()
        });
        let url = format!("https://{}/", server.address);
        assert_eq!(text(&pool, &Url::parse(&url).unwrap()).await.unwrap(), "hi");
    }
    for roots in [Roots::none(), Roots::of_machine().await] {
        let error = shake(tls::trusting(roots).unwrap()).await.unwrap_err();
        assert!(matches!(error, TlsError::Failed(_)), "{error}");
    }
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    Roots::none().with_pem(broken.as_bytes()).unwrap_err();
}

#[tokio::test]
async fn a_server_without_tls_is_known_by_its_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(OK.as_bytes()).await.unwrap();
        let read = stream.read(&mut [0; 1024]).await.unwrap();
        assert!(read > 0);
    });
    let stream = connect(address, PATIENCE).await.unwrap();
    let error = tls::handshake(stream, "127.0.0.1", tls::insecure().unwrap()).await;
    assert!(matches!(error, Err(TlsError::NotTls(_))));
    server.await.unwrap();
}

/// A proxy: it passes a tunnel on to `server`, and answers other requests itself.
async fn proxy(server: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let requests = heads.clone();
    tokio::spawn(async move {
        let mut clients = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let requests = requests.clone();
            clients.spawn(async move {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    head.push(char::from(stream.read_u8().await.ok()?));
                }
                let is_tunnel = head.starts_with("CONNECT ");
                requests.lock().unwrap().push(head);
                if !is_tunnel {
                    return stream.write_all(OK.as_bytes()).await.ok();
                }
                let mut there = TcpStream::connect(server).await.ok()?;
                stream.write_all(b"HTTP/1.1 200 x\r\n\r\n").await.ok()?;
                let copied = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
                copied.ok().map(drop)
            });
        }
    });
    (address, heads)
}

/// The child of [`proxies_of_the_environment_are_used`]: what a request through the proxies brings.
const CHILD: &str = "HTTP_CLIENT_TEST_CERTIFICATE";

/// Proxies come from the environment, as image pulls have them (docs/images.md). The environment is
/// that of a child, which runs this test again.
#[tokio::test]
async fn proxies_of_the_environment_are_used() {
    if let Ok(pem) = std::env::var(CHILD) {
        let roots = Roots::none().with_pem(pem.as_bytes()).unwrap();
        let pool = Pool::new(Settings {
            tls: tls::trusting(roots).unwrap(),
            proxies: Proxies::Environment,
            ..settings()
        });
        for url in ["http://plain.example/a?b", "https://127.0.0.1:1/c"] {
            let url = Url::parse(url).unwrap();
            assert_eq!(text(&pool, &url).await.unwrap(), "hi");
        }
        let near = Url::parse("http://no-proxy.invalid/").unwrap();
        let error = text(&pool, &near).await.unwrap_err();
        assert!(error.is_connect(), "{error}");
        return;
    }
    let (pem, acceptor) = identity();
    let server = Server::over(Some(acceptor), |_| OK.to_owned()).await;
    let (address, heads) = proxy(server.address).await;
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "proxies_of_the_environment_are_used"])
        .env_remove("REQUEST_METHOD")
        .env(CHILD, pem)
        .env("ALL_PROXY", format!("http://me:secret@{address}"))
        .env("NO_PROXY", "no-proxy.invalid")
        .env_remove("HTTP_PROXY")
        .env_remove("http_proxy")
        .env_remove("HTTPS_PROXY")
        .env_remove("https_proxy")
        .kill_on_drop(true)
        .output();
    let output = child.await.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{printed}"
    );
    let heads = heads.lock().unwrap();
    let [plain, tunnel] = &heads[..] else {
        panic!("{heads:?}");
    };
    assert!(
        plain.starts_with("GET http://plain.example/a?b HTTP/1.1\r\n"),
        "{plain}"
    );
    assert!(
        tunnel.starts_with("CONNECT 127.0.0.1:1 HTTP/1.1\r\n"),
        "{tunnel}"
    );
    for head in [plain, tunnel] {
        let credentials = "proxy-authorization: basic bwu6c2vjcmv0";
        assert!(head.to_lowercase().contains(credentials), "{head}");
    }
    assert!(server.heads()[0].starts_with("GET /c HTTP/1.1\r\n"));
}

/// A SOCKS proxy (RFC 1928) with a password (RFC 1929): it connects each client to `server`, and keeps
/// what it was sent before.
async fn socks(server: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let received = sent.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.ok()?;
        // Methods, credentials, and the place to connect to, with the answers of a willing proxy.
        let steps: [(usize, &[u8]); 3] = [
            (3, &[5, 2]),
            (3 + "me".len() + "secret".len(), &[1, 0]),
            (7 + "far.example".len(), &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
        ];
        for (length, reply) in steps {
            let mut read = vec![0; length];
            stream.read_exact(&mut read).await.ok()?;
            received.lock().unwrap().extend(read);
            stream.write_all(reply).await.ok()?;
        }
        let mut there = TcpStream::connect(server).await.ok()?;
        let copied = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
        copied.ok()
    });
    (address, sent)
}

/// kubernetes.io, kubeconfig (v1): `proxy-url` is an http, https or socks5 URL.
#[tokio::test]
async fn a_given_proxy_is_used() {
    let (pem, acceptor) = identity();
    let roots = Roots::none().with_pem(pem.as_bytes()).unwrap();
    let server = Server::over(Some(acceptor), |_| OK.to_owned()).await;
    let (http, heads) = proxy(server.address).await;
    let (socks, sent) = socks(server.address).await;
    for proxy_url in [
        format!("http://me:secret@{http}"),
        format!("socks5://me:secret@{socks}"),
    ] {
        let pool = Pool::new(Settings {
            tls: tls::trusting(roots.clone()).unwrap(),
            server_name: Some("127.0.0.1".to_owned()),
            proxies: Proxies::Through(proxy_url.parse().unwrap()),
            ..settings()
        });
        let url = Url::parse("https://far.example:6443/a").unwrap();
        assert_eq!(text(&pool, &url).await.unwrap(), "hi", "{proxy_url}");
    }
    let heads = heads.lock().unwrap().concat().to_lowercase();
    assert!(heads.starts_with("connect far.example:6443 "), "{heads}");
    assert!(heads.contains("proxy-authorization: basic "), "{heads}");
    let sent = String::from_utf8_lossy(&sent.lock().unwrap()).into_owned();
    assert!(sent.contains("\x02me\x06secret"), "{sent:?}");
    assert!(sent.contains("\x0bfar.example\x19\x2b"), "{sent:?}");
}
