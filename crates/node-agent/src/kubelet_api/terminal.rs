//! `/exec` and `/attach` (kubectl.md 5.1–5.3): the upgrade, then the streams.

use container_runtime::spec::{AttachSpec, ExecSpec};
use container_runtime::{Sandbox, Session};
use http::{Request, Response, StatusCode};
use object_model::Status;
use pod_lifecycle::record::Instance;

use super::query::{is_set, parameters};
use super::response::{BoxBody, RequestTarget, refused};
use super::session::SessionStreams;
use super::spdy_streams::{self, Version};
use super::streams::{self, Protocol};
use super::upgrade::{Transport, accept, none_offered};
use crate::paths::runtime_id;
use crate::pods::pod_manager::PodManager;

/// Runs a command in a container.
pub fn exec(
    pods: &PodManager,
    target: &RequestTarget<'_>,
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
    let (sandbox, container) = running(pods, target)?;
    let spec = ExecSpec {
        container,
        args,
        tty: wanted.tty,
        stdin: wanted.stdin,
        kill_on_drop: false,
        ..ExecSpec::default()
    };
    carry(request, wanted, true, async move {
        sandbox.exec(spec).await.map_err(|error| {
            format!("error executing command in container: failed to exec in container: {error}")
        })
    })
}

/// Connects to a container's own streams.
pub fn attach(
    pods: &PodManager,
    target: &RequestTarget<'_>,
    request: Request<BoxBody>,
) -> Result<Response<BoxBody>, Box<Status>> {
    let mut wanted = wanted(&parameters(request.uri().query()))?;
    let view = target.find(pods)?;
    let spec = view.pod.spec.as_ref();
    let found = spec.and_then(|spec| pod_lifecycle::spec::find(spec, target.container));
    let found = found.map(|(_, container)| container.into_owned());
    let made = found.unwrap_or_default();
    // A terminal is available only if the container was created with one.
    wanted.tty = made.tty == Some(true);
    wanted.stdin &= made.stdin == Some(true);
    // As containerd: an input that stays open does not keep the session.
    let closes = made.stdin_once == Some(true) && !wanted.tty;
    wanted.ends_with_input = wanted.stdin && !closes;
    let (sandbox, container) = running(pods, target)?;
    let (name, instance) = (target.container.to_owned(), container.clone());
    let spec = AttachSpec {
        container,
        stdin: wanted.stdin,
        terminal: None,
    };
    carry(request, wanted, false, async move {
        let session = sandbox.attach(spec).await;
        // Users know the container by the name in its pod.
        session.map_err(|error| error.to_string().replace(&instance, &name))
    })
}

fn wanted(parameters: &[(String, String)]) -> Result<SessionStreams, Box<Status>> {
    // The API calls them `stdin` and so on, kubelet's own clients `input` and so on.
    let is = |name: &str, other: &str| is_set(parameters, name) || is_set(parameters, other);
    let wanted = SessionStreams {
        stdin: is("stdin", "input"),
        stdout: is("stdout", "output"),
        stderr: is("stderr", "error"),
        tty: is_set(parameters, "tty"),
        ends_with_input: false,
    };
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        let message = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(refused(StatusCode::BAD_REQUEST, message));
    }
    Ok(wanted)
}

/// The running container's sandbox and its id there.
fn running(
    pods: &PodManager,
    target: &RequestTarget<'_>,
) -> Result<(Sandbox, String), Box<Status>> {
    let view = target.find(pods)?;
    let container = target.container;
    let record = view.record.containers.get(container);
    let runs = record.filter(|record| matches!(record.instance, Instance::Running(_)));
    match (runs, &view.sandbox) {
        (Some(record), Some(sandbox)) => {
            Ok((sandbox.clone(), runtime_id(container, record.restart_count)))
        }
        _ => {
            let message = format!("container not found ({container:?})");
            Err(refused(StatusCode::BAD_REQUEST, &message))
        }
    }
}

/// Answers the upgrade, then runs the session that `open` creates over the connection.
fn carry(
    request: Request<BoxBody>,
    wanted: SessionStreams,
    exit_code: bool,
    open: impl Future<Output = Result<Session, String>> + Send + 'static,
) -> Result<Response<BoxBody>, Box<Status>> {
    match Transport::of(&request)? {
        Transport::WebSocket(offered) => {
            let protocol = Protocol::choose(offered.iter().map(String::as_str));
            let known = || Protocol::NAMED.into_iter().rev().map(Protocol::name);
            let protocol = protocol.ok_or_else(|| none_offered(known()))?;
            accept(request, protocol.name(), move |connection| async move {
                let socket = streams::socket(connection).await;
                streams::carry(socket, protocol, wanted, open.await, exit_code).await;
            })
        }
        Transport::Spdy(offered) => {
            let version = Version::choose(&offered);
            let known = || Version::ALL.into_iter().map(Version::name);
            let version = version.ok_or_else(|| none_offered(known()))?;
            accept(request, version.name(), move |connection| {
                spdy_streams::carry(connection, version, wanted, open, exit_code)
            })
        }
    }
}
