//! `/exec` and `/attach` (kubectl.md 5.1–5.3): the upgrade, then the streams.

use std::time::Duration;

use container_runtime::spec::{AttachSpec, ContainerStatus, ExecSpec, SandboxState, SandboxStatus};
use host_kernel::blocking_value;
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use object_model::Status;
use pod_lifecycle::record::{ContainerRecord, Instance};

use super::container_logs::instance_of;
use super::query::{is_set, parameters};
use super::recent_reads::{RecentReads, lines_since};
use super::response::{BoxBody, RequestTarget, error_status};
use super::session::{SessionState, SessionStreams};
use super::spdy_streams::{self, Version};
use super::streams::{self, Protocol};
use super::upgrade::{Transport, accept, none_offered};
use crate::paths::runtime_id;
use crate::pods::pod_manager::PodManager;

/// Time limit for the shim to report since when a session has received output.
const ATTACHED_MAX: Duration = Duration::from_secs(1);

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
        return Err(error_status(
            StatusCode::BAD_REQUEST,
            "you must specify a command",
        ));
    }
    let requested = requested_streams(&parameters)?;
    let view = target.find(pods)?;
    let record = view.record.containers.get(target.container);
    let running_container = running(record, target.container).zip(view.sandbox.clone());
    let (container, sandbox) =
        running_container.ok_or_else(|| not_running_status(record, target.container))?;
    let spec = ExecSpec {
        container,
        args,
        tty: requested.tty,
        stdin: requested.stdin,
        kill_on_drop: false,
        ..ExecSpec::default()
    };
    respond_with_session(request, requested, true, async move {
        match sandbox.exec(spec).await {
            Ok(session) => SessionState::Open(session, Vec::new()),
            Err(error) => SessionState::Refused(format!(
                "error executing command in container: failed to exec in container: {error}"
            )),
        }
    })
}

/// Connects to the standard streams of a container. If the container has exited, the session ends at once,
/// because the output is in the log: a client that attaches directly after the exit gets the response of a
/// client that was attached before. A client that has just read the log first receives the lines that were
/// added since.
pub fn attach(
    pods: &PodManager,
    reads: &RecentReads,
    target: &RequestTarget<'_>,
    request: Request<BoxBody>,
) -> Result<Response<BoxBody>, Box<Status>> {
    let mut requested = requested_streams(&parameters(request.uri().query()))?;
    let view = target.find(pods)?;
    let spec = view.pod.spec.as_ref();
    let container = spec.and_then(|spec| pod_lifecycle::spec::find(spec, target.container));
    let container = container.map(|(_, container)| container.into_owned());
    let container = container.unwrap_or_default();
    // A terminal is available only if the container was created with one.
    requested.tty = container.tty == Some(true);
    requested.stdin &= container.stdin == Some(true);
    // As containerd: a session does not continue only because its input stays open.
    let closes_with_input = container.stdin_once == Some(true) && !requested.tty;
    requested.ends_with_input = requested.stdin && !closes_with_input;
    let record = view.record.containers.get(target.container);
    let number = record.map_or(0, |record| record.restart_count);
    let log = view.dir.log(target.container, number);
    let last_read = reads.remove(&instance_of(&view, target.container, number)?);
    // Only a client that has just read the log receives older lines.
    let lines_until = async move |until: Option<Timestamp>| match last_read {
        Some(last_line) => {
            let lines = blocking_value(move || lines_since(&log, last_line, until));
            lines.await.unwrap_or_default()
        }
        None => Vec::new(),
    };
    let Some((container, sandbox)) = running(record, target.container).zip(view.sandbox.clone())
    else {
        return match record.is_some_and(has_run) {
            true => respond_with_session(request, requested, false, async move {
                SessionState::Ended(lines_until(None).await)
            }),
            false => Err(not_running_status(record, target.container)),
        };
    };
    let (name, instance) = (target.container.to_owned(), container.clone());
    let spec = AttachSpec {
        container,
        stdin: requested.stdin,
        terminal: None,
    };
    respond_with_session(request, requested, false, async move {
        let attach_start = Timestamp::now();
        let error = match sandbox.attach(spec).await {
            Ok(mut session) if last_read.is_some() => {
                let attached_at = session.control.attached_at(ATTACHED_MAX).await;
                let lines = lines_until(Some(attached_at.unwrap_or(attach_start))).await;
                return SessionState::Open(session, lines);
            }
            Ok(session) => return SessionState::Open(session, Vec::new()),
            Err(error) => error,
        };
        match sandbox.state().await {
            // The container has exited since the record was written.
            Ok(state) if has_ended(&state, &instance) => {
                SessionState::Ended(lines_until(None).await)
            }
            // Users know the container by the name in its pod.
            _ => SessionState::Refused(error.to_string().replace(&instance, &name)),
        }
    })
}

fn requested_streams(parameters: &[(String, String)]) -> Result<SessionStreams, Box<Status>> {
    // The API server names the parameters `stdin` and so on; kubelet's other clients name them `input` and
    // so on.
    let is_either_set =
        |name: &str, alias: &str| is_set(parameters, name) || is_set(parameters, alias);
    let requested = SessionStreams {
        stdin: is_either_set("stdin", "input"),
        stdout: is_either_set("stdout", "output"),
        stderr: is_either_set("stderr", "error"),
        tty: is_set(parameters, "tty"),
        ends_with_input: false,
    };
    if !(requested.stdin || requested.stdout || requested.stderr) {
        let message = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(error_status(StatusCode::BAD_REQUEST, message));
    }
    Ok(requested)
}

/// The id of a running container in its sandbox.
fn running(record: Option<&ContainerRecord>, container: &str) -> Option<String> {
    let record = record?;
    let is_running = matches!(record.instance, Instance::Running(_));
    is_running.then(|| runtime_id(container, record.restart_count))
}

/// Whether an instance of the container has ever started. The instance may have exited.
fn has_run(record: &ContainerRecord) -> bool {
    matches!(record.instance, Instance::Running(_)) || record.ended().is_some()
}

/// Whether a container of a sandbox has exited, or its whole sandbox has.
fn has_ended(sandbox: &SandboxState, container: &str) -> bool {
    let state = sandbox.containers.get(container).map(|state| &state.status);
    matches!(state, Some(ContainerStatus::Exited(_))) || sandbox.status == SandboxStatus::Dead
}

fn not_running_status(record: Option<&ContainerRecord>, container: &str) -> Box<Status> {
    let exit = record.and_then(ContainerRecord::ended);
    let message = match (record, exit) {
        (None, _) => format!("container not found ({container:?})"),
        (_, Some(exit)) => format!(
            "container not found ({container:?}): it has ended with exit code {}",
            exit.code
        ),
        (Some(_), None) => format!("container not found ({container:?}): it has not started"),
    };
    error_status(StatusCode::BAD_REQUEST, &message)
}

/// Responds to the upgrade, then runs the session that `open` creates over the connection.
fn respond_with_session(
    request: Request<BoxBody>,
    requested: SessionStreams,
    exit_code: bool,
    open: impl Future<Output = SessionState> + Send + 'static,
) -> Result<Response<BoxBody>, Box<Status>> {
    match Transport::from_request(&request)? {
        Transport::WebSocket(offered) => {
            let protocol = Protocol::choose(offered.iter().map(String::as_str));
            let supported = || Protocol::NAMED.into_iter().rev().map(Protocol::name);
            let protocol = protocol.ok_or_else(|| none_offered(supported()))?;
            accept(request, protocol.name(), move |connection| async move {
                let socket = streams::socket(connection).await;
                streams::run(socket, protocol, requested, open.await, exit_code).await;
            })
        }
        Transport::Spdy(offered) => {
            let version = Version::choose(&offered);
            let supported = || Version::ALL.into_iter().map(Version::name);
            let version = version.ok_or_else(|| none_offered(supported()))?;
            accept(request, version.name(), move |connection| {
                spdy_streams::run(connection, version, requested, open, exit_code)
            })
        }
    }
}
