//! Tunnels over connections in memory (docs/many-machines.md, "A node that the server cannot reach").

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use node_tunnel::{ConnectError, Tunnel, open, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy_bidirectional, duplex};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(120);
const LINE_BYTES: usize = 64 * 1024;

type Ended = JoinHandle<Result<(), hyper::Error>>;

/// A kubelet API that returns all bytes that it receives.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.into_split();
                tokio::io::copy(&mut read, &mut write).await.ok();
            });
        }
    });
    address
}

async fn tunnel(
    ours: DuplexStream,
    theirs: DuplexStream,
    target: SocketAddr,
) -> (Tunnel, [Ended; 2]) {
    let node = tokio::spawn(serve(TokioIo::new(theirs), target));
    let (tunnel, running) = open(TokioIo::new(ours)).await.unwrap();
    (tunnel, [tokio::spawn(running), node])
}

#[tokio::test]
async fn connections_reach_the_nodes_own_api_and_nothing_else() {
    let target = echo().await;
    let (ours, theirs) = duplex(LINE_BYTES);
    let (tunnel, [server, node]) = tunnel(ours, theirs, target).await;
    let mut first = tunnel.connect().await.unwrap();
    let mut second = tunnel.connect().await.unwrap();
    // More bytes than all windows hold, in one of two connections.
    let much = vec![7; 3 * 1024 * 1024];
    let (mut read, mut write) = tokio::io::split(&mut first);
    let mut back = Vec::new();
    let sending = async {
        write.write_all(&much).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (_, count) = tokio::join!(sending, read.read_to_end(&mut back));
    assert_eq!((count.unwrap(), back == much), (much.len(), true));
    second.write_all(b"still here").await.unwrap();
    let mut word = [0; 10];
    second.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"still here");
    // The tunnel and its connections end with the server's end.
    server.abort();
    timeout(PATIENCE, node).await.unwrap().unwrap().ok();
    assert!(!tunnel.is_open());
    assert!(matches!(
        tunnel.connect().await,
        Err(ConnectError::Ended(_))
    ));
    let left = timeout(PATIENCE, second.read(&mut word)).await.unwrap();
    assert!(!matches!(left, Ok(1..)));
}

#[tokio::test]
async fn a_node_without_its_api_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let (ours, theirs) = duplex(LINE_BYTES);
    let (tunnel, _ends) = tunnel(ours, theirs, nobody).await;
    let refused = tunnel.connect().await.map(drop).unwrap_err();
    assert!(matches!(
        refused,
        ConnectError::Refused(StatusCode::BAD_GATEWAY)
    ));
    assert!(tunnel.is_open());
}

/// A server cannot use a node to reach other destinations.
#[tokio::test]
async fn other_destinations_are_refused() {
    let target = echo().await;
    let (ours, theirs) = duplex(LINE_BYTES);
    tokio::spawn(serve(TokioIo::new(theirs), target));
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, running) = builder.handshake(TokioIo::new(ours)).await.unwrap();
    tokio::spawn(running);
    for (method, uri) in [
        (Method::CONNECT, "192.0.2.1:22"),
        (Method::CONNECT, "kubelet:22"),
        (Method::GET, "http://kubelet:10250/pods"),
    ] {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{uri}");
    }
}

/// Packets are lost silently on the path: both ends detect the failure independently.
#[tokio::test(start_paused = true)]
async fn a_link_that_says_nothing_is_found_by_both_ends() {
    let (ours, mut middle) = duplex(LINE_BYTES);
    let (mut other, theirs) = duplex(LINE_BYTES);
    let between = tokio::spawn(async move {
        let lost = tokio::time::sleep(Duration::from_secs(3600));
        tokio::select! {
            () = lost => {}
            _ = copy_bidirectional(&mut middle, &mut other) => {}
        }
        // Neither end is closed.
        std::future::pending::<()>().await;
        drop((middle, other));
    });
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    let (tunnel, [server, node]) = tunnel(ours, theirs, nobody).await;
    tokio::time::sleep(Duration::from_secs(3000)).await;
    assert!(tunnel.is_open() && !server.is_finished() && !node.is_finished());
    tokio::time::sleep(Duration::from_secs(600 + 60)).await;
    assert!(server.await.unwrap().is_err());
    assert!(node.await.unwrap().is_err());
    assert!(!tunnel.is_open());
    between.abort();
}
