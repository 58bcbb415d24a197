//! `/exec` and `/attach` (kubectl.md 5.1–5.3): answers the upgrade, then carries the streams.

use std::sync::Arc;

use container_runtime::Sandbox;
use container_runtime::spec::{AttachSpec, ExecSpec};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use object_model::Status;
use pod_lifecycle::record::Instance;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::query::{is_set, parameters};
use super::streams::{self, Protocol, Wanted};
use super::{BoxBody, Target, refused};
use crate::layout::runtime_id;
use crate::worker::Shared;

/// Runs a command in a container.
pub fn exec(
    shared: &Arc<Shared>,
    target: &Target<'_>,
    request: Request<BoxBody>,
) -> Result<Response<BoxBody>, Box<Status>> {
    let parameters = parameters(request.uri().query());
    let args: Vec<String> = parameters
        .iter()
        .filter(|(n, _)| n == "command")
        .map(|(_, v)| v.clone())
        .collect();
    if args.is_empty() {
        return Err(refused(
            StatusCode::BAD_REQUEST,
            "you must specify a command",
        ));
    }
    let wanted = wanted(&parameters)?;
    let (sandbox, container) = running(shared, target)?;
    let spec = ExecSpec {
        container,
        args,
        tty: wanted.tty,
        stdin: wanted.stdin,
        kill_on_drop: false,
        ..ExecSpec::default()
    };
    upgrade(request, wanted, move |socket, protocol| async move {
        let session = sandbox.exec(spec).await.map_err(|error| {
            format!("error executing command in container: failed to exec in container: {error}")
        });
        streams::carry(socket, protocol, wanted, session, true).await;
    })
}

/// Connects to a container's own streams.
pub fn attach(
    shared: &Arc<Shared>,
    target: &Target<'_>,
    request: Request<BoxBody>,
) -> Result<Response<BoxBody>, Box<Status>> {
    let mut wanted = wanted(&parameters(request.uri().query()))?;
    let view = target.find(shared)?;
    let spec = view.pod.spec.as_ref();
    let found = spec.and_then(|spec| pod_lifecycle::spec::find(spec, target.container));
    let (tty, stdin) = found.map_or((false, false), |(_, container)| {
        (container.tty == Some(true), container.stdin == Some(true))
    });
    // What the container was not made with cannot be had.
    wanted.tty = tty;
    wanted.stdin &= stdin;
    let (sandbox, container) = running(shared, target)?;
    let spec = AttachSpec {
        container,
        stdin: wanted.stdin,
        terminal: None,
    };
    upgrade(request, wanted, move |socket, protocol| async move {
        let session = sandbox
            .attach(spec)
            .await
            .map_err(|error| error.to_string());
        streams::carry(socket, protocol, wanted, session, false).await;
    })
}

fn wanted(parameters: &[(String, String)]) -> Result<Wanted, Box<Status>> {
    // The API calls them `stdin` and so on, kubelet's own clients `input` and so on.
    let is = |name: &str, other: &str| is_set(parameters, name) || is_set(parameters, other);
    let wanted = Wanted {
        stdin: is("stdin", "input"),
        stdout: is("stdout", "output"),
        stderr: is("stderr", "error"),
        tty: is_set(parameters, "tty"),
    };
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        let message = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(refused(StatusCode::BAD_REQUEST, message));
    }
    Ok(wanted)
}

/// The running container's sandbox and its id there.
fn running(shared: &Shared, target: &Target<'_>) -> Result<(Sandbox, String), Box<Status>> {
    let view = target.find(shared)?;
    let Target { pod, container, .. } = target;
    let record = view.record.containers.get(*container);
    let runs = record.filter(|record| matches!(record.instance, Instance::Running(_)));
    match (runs, &view.sandbox) {
        (Some(record), Some(sandbox)) => {
            Ok((sandbox.clone(), runtime_id(container, record.restart_count)))
        }
        _ => {
            let message = format!("container \"{container}\" in pod \"{pod}\" is not running");
            Err(refused(StatusCode::BAD_REQUEST, &message))
        }
    }
}

/// Answers the upgrade and runs `serve` with the connection that comes of it.
fn upgrade<F, Fut>(
    mut request: Request<BoxBody>,
    _wanted: Wanted,
    serve: F,
) -> Result<Response<BoxBody>, Box<Status>>
where
    F: FnOnce(streams::Socket, Protocol) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let bad = |message: &str| refused(StatusCode::BAD_REQUEST, message);
    let headers = request.headers();
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let upgrades = text(header::UPGRADE).is_some_and(|to| to.eq_ignore_ascii_case("websocket"));
    if !upgrades {
        return Err(bad("only WebSocket connections are served; SPDY is not"));
    }
    let key = text(header::SEC_WEBSOCKET_KEY)
        .map(|key| derive_accept_key(key.as_bytes()))
        .ok_or_else(|| bad("Sec-WebSocket-Key is missing"))?;
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offered = offered.iter().filter_map(|value| value.to_str().ok());
    let protocol = Protocol::choose(offered.flat_map(|list| list.split(',')).map(str::trim))
        .ok_or_else(|| bad("none of the subprotocols v5.channel.k8s.io, v4.channel.k8s.io"))?;
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(connection) => serve(streams::socket(connection).await, protocol).await,
            Err(error) => tracing::debug!(%error, "connection not upgraded"),
        }
    });
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let name = HeaderValue::from_static(protocol.name());
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    if let Ok(key) = HeaderValue::from_str(&key) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    }
    Ok(response)
}

fn empty() -> BoxBody {
    http_body_util::Empty::new()
        .map_err(|never: std::convert::Infallible| match never {})
        .boxed_unsync()
}
