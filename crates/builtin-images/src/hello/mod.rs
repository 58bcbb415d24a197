//! The program of the built-in image `mainstay/hello`: a small HTTP server whose page has the identity of its
//! pod, its peers in DNS, and the number of visits, counted on its volume.
//!
//! It runs inside a container and does not depend on the rest of the program.

mod identity;
mod peers;
mod visits;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use json_tree::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use identity::Identity;
use visits::Visits;

/// The server does not start.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct HelloError {
    step: String,
    source: io::Error,
}

impl HelloError {
    fn at(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self { step, source }
    }
}

struct Hello {
    identity: Identity,
    visits: Visits,
}

/// Serves until SIGTERM or SIGINT. The visit counter is in the directory `data`, which is normally a mounted volume.
///
/// # Errors
/// The address is in use.
pub async fn serve(listen: SocketAddr, data: &Path) -> Result<(), HelloError> {
    // The kernel ignores signals without a handler for the first process of a container.
    let mut terminate =
        signal(SignalKind::terminate()).map_err(HelloError::at("watch for SIGTERM"))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(HelloError::at("watch for SIGINT"))?;
    let hello = Arc::new(Hello {
        identity: Identity::of_pod(),
        visits: Visits::open(data),
    });
    let listener = TcpListener::bind(listen)
        .await
        .map_err(HelloError::at(format!("listen on {listen}")))?;
    command_output::output::print_line(&format!("{} listens on {listen}", hello.identity.pod));
    loop {
        let connection = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        // A failed `accept` concerns only the client of that connection.
        let Ok((stream, _)) = connection else {
            continue;
        };
        tokio::spawn(serve_connection(Arc::clone(&hello), TokioIo::new(stream)));
    }
    command_output::output::print_line(&format!("{} stops", hello.identity.pod));
    Ok(())
}

async fn serve_connection(hello: Arc<Hello>, stream: TokioIo<tokio::net::TcpStream>) {
    let service = service_fn(move |request| respond(Arc::clone(&hello), request));
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(stream, service);
    if let Err(error) = connection.await {
        command_output::output::warn(&format!("connection ended early: {error}"));
    }
}

async fn respond(
    hello: Arc<Hello>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, body) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        "/" => {
            let (kind, body) = page(&hello, wants_json(&request)).await;
            (StatusCode::OK, kind, body)
        }
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "not found; there are / and /healthz\n".into(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, kind);
    Ok(response)
}

fn wants_json(request: &Request<Incoming>) -> bool {
    request
        .headers()
        .get(hyper::header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("application/json"))
}

async fn page(hello: &Hello, as_json: bool) -> (&'static str, String) {
    let visits = hello.visits.count();
    let identity = &hello.identity;
    let peers = match &identity.service {
        Some(service) => peers::find(service).await,
        None => Vec::new(),
    };
    if as_json {
        let peers: Vec<_> = peers
            .iter()
            .map(|peer| json!({ "name": peer.name, "address": peer.address.to_string() }))
            .collect();
        let body = json!({
            "pod": identity.pod,
            "set": identity.set,
            "ordinal": identity.ordinal,
            "service": identity.service,
            "visits": visits.number,
            "visitsKept": visits.is_stored,
            "peers": peers,
        });
        return ("application/json", format!("{body}\n"));
    }
    let mut text = format!("Hello from {}\n", identity.pod);
    if let (Some(set), Some(ordinal)) = (&identity.set, identity.ordinal) {
        text.push_str(&format!("ordinal  {ordinal} of {set}\n"));
    }
    let is_stored = if visits.is_stored {
        "kept on its volume"
    } else {
        "in memory only: no volume"
    };
    text.push_str(&format!("visits   {} ({is_stored})\n", visits.number));
    for (index, peer) in peers.iter().enumerate() {
        let label = if index == 0 { "peers" } else { "" };
        text.push_str(&format!("{label:8} {} {}\n", peer.name, peer.address));
    }
    ("text/plain", text)
}
