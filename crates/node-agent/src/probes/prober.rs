//! The prober: commands, TCP, gRPC, and HTTP (`http_probe.rs`).

use std::time::Duration;

use container_runtime::spec::ExecSpec;
use container_runtime::{RuntimeError, Sandbox};
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use outbound_http::ConnectError;
use pod_lifecycle::record::probes::{self, ProbeOutcome};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

use super::grpc_probe;
use super::http_probe::{self, HttpTarget};
use crate::limits::PROBE_OUTPUT_BYTES_MAX;

/// The container that is probed.
#[derive(Clone)]
pub struct ProbeTarget {
    /// The sandbox of the pod.
    pub sandbox: Sandbox,
    /// The container's id in the sandbox.
    pub runtime_id: String,
    pub container: Container,
    /// The pod's address, to which probes connect by default.
    pub pod_ip: String,
}

/// The result of a probe's command.
pub enum CommandResult {
    /// The command exited by itself, with this code and output.
    Exited(i32, String),
    /// The command was killed at its timeout.
    TimedOut,
    /// The command could not be started.
    Failed(String),
}

/// The port of an action is unusable.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PortError {
    #[error("invalid port number: {0}")]
    Invalid(i32),
    #[error("couldn't find port: {0:?}")]
    Unknown(String),
}

/// A TCP connection was not established. The texts are those of Go.
#[derive(Debug, Error)]
pub enum DialError {
    #[error("dial tcp {address}: connect: {}", plain(error))]
    Io {
        address: String,
        error: std::io::Error,
    },
    #[error("dial tcp {address}: i/o timeout")]
    TimedOut { address: String },
}

/// Runs a probe once, within its timeout.
pub async fn probe(target: &ProbeTarget, probe: &Probe) -> ProbeOutcome {
    let timeout = Duration::try_from(probes::timeout(probe)).unwrap_or(Duration::from_secs(1));
    if let Some(action) = &probe.exec {
        return probe_command(target, action, timeout).await;
    }
    if let Some(action) = &probe.http_get {
        let url = match http_target(target, action) {
            Ok(url) => url,
            Err(error) => return ProbeOutcome::Failure(error.to_string()),
        };
        let headers = action.http_headers.as_deref().unwrap_or_default();
        return match http_probe::get(url, "kube-probe/1.36", headers, timeout).await {
            Ok(response) => http_probe::outcome(&response),
            Err(error) => ProbeOutcome::Failure(error.to_string()),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        return match connect_tcp(target, action, timeout).await {
            Ok(()) => ProbeOutcome::Success,
            Err(message) => ProbeOutcome::Failure(message),
        };
    }
    if let Some(action) = &probe.grpc {
        return match probe_grpc(target, action, timeout).await {
            Ok(()) => ProbeOutcome::Success,
            Err(message) => ProbeOutcome::Failure(message),
        };
    }
    ProbeOutcome::Error("missing probe handler".to_owned())
}

async fn probe_command(
    target: &ProbeTarget,
    action: &ExecAction,
    timeout: Duration,
) -> ProbeOutcome {
    let words = action.command.clone().unwrap_or_default();
    match run_command(target, words.clone(), timeout).await {
        CommandResult::Exited(0, _) => ProbeOutcome::Success,
        CommandResult::Exited(_, output) => ProbeOutcome::Failure(output),
        CommandResult::TimedOut => {
            let seconds = timeout.as_secs();
            let command = words.join(" ");
            ProbeOutcome::Failure(format!(
                "command timed out: {command:?} timed out after {seconds}s"
            ))
        }
        CommandResult::Failed(message) => ProbeOutcome::Error(message),
    }
}

async fn probe_grpc(
    target: &ProbeTarget,
    action: &GRPCAction,
    timeout: Duration,
) -> Result<(), String> {
    let port = u16::try_from(action.port).map_err(|_| "invalid port number".to_owned())?;
    let address = host_and_port(&target.pod_ip, port);
    let service = action.service.as_deref().unwrap_or_default();
    let exchange = async {
        let stream = connect(&address, timeout).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let checked = grpc_probe::check(stream, &address, service).await;
        checked.map_err(|error| error.to_string())
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(result) => result,
        Err(_) => Err(format!(
            "timeout: health rpc did not complete within {}s",
            timeout.as_secs()
        )),
    }
}

/// Runs a command in the container; it is killed at its timeout.
pub async fn run_command(
    target: &ProbeTarget,
    args: Vec<String>,
    timeout: Duration,
) -> CommandResult {
    let spec = ExecSpec {
        container: target.runtime_id.clone(),
        args,
        kill_on_drop: true,
        ..ExecSpec::default()
    };
    let run = async {
        let mut session = match target.sandbox.exec(spec).await {
            Ok(session) => session,
            Err(RuntimeError::Start(error)) => return CommandResult::Exited(126, error.message),
            Err(error) => return CommandResult::Failed(error.to_string()),
        };
        let (out, err) = tokio::join!(
            read_beginning(session.stdout),
            read_beginning(session.stderr)
        );
        match session.control.wait().await {
            Some(code) => CommandResult::Exited(code, out + &err),
            None => CommandResult::Failed("the container is gone".to_owned()),
        }
    };
    tokio::time::timeout(timeout, run)
        .await
        .unwrap_or(CommandResult::TimedOut)
}

/// Reads to the end, but stores only the first bytes.
async fn read_beginning(mut from: impl AsyncRead + Unpin) -> String {
    let mut beginning = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count) = from.read(&mut buffer).await
        && count > 0
    {
        let capacity = PROBE_OUTPUT_BYTES_MAX - beginning.len();
        beginning.extend_from_slice(&buffer[..count.min(capacity)]);
    }
    String::from_utf8_lossy(&beginning).into_owned()
}

/// The number of a port. A name is looked up in the container's ports.
fn port(container: &Container, port: &IntOrString) -> Result<u16, PortError> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    let number = number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|n| *n > 0);
    number.ok_or_else(|| match port {
        IntOrString::Int(number) => PortError::Invalid(*number),
        IntOrString::String(name) => PortError::Unknown(name.clone()),
    })
}

/// The host of an action; the pod's address if the action has none.
fn host<'a>(target: &'a ProbeTarget, host: Option<&'a str>) -> &'a str {
    let host = host.filter(|host| !host.is_empty());
    host.unwrap_or(&target.pod_ip)
}

/// `HOST:PORT`, with brackets around an IPv6 address.
pub fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Opens and closes a TCP connection.
async fn connect_tcp(
    target: &ProbeTarget,
    action: &TCPSocketAction,
    timeout: Duration,
) -> Result<(), String> {
    let port = port(&target.container, &action.port).map_err(|error| error.to_string())?;
    let address = host_and_port(host(target, action.host.as_deref()), port);
    let stream = connect(&address, timeout).await;
    stream.map(drop).map_err(|error| error.to_string())
}

/// Connects within the timeout of a probe.
pub async fn connect(address: &str, timeout: Duration) -> Result<TcpStream, DialError> {
    let stream = outbound_http::connect(address, timeout).await;
    let address = address.to_owned();
    stream.map_err(|error| match error {
        ConnectError::Io(error) => DialError::Io { address, error },
        ConnectError::TimedOut => DialError::TimedOut { address },
    })
}

/// The text of a kernel error, as Go prints it.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}

/// The target of an HTTP action.
///
/// # Errors
/// The port is invalid, or the container has no port of this name.
pub fn http_target(target: &ProbeTarget, action: &HTTPGetAction) -> Result<HttpTarget, PortError> {
    let path = match action.path.as_deref().unwrap_or("/") {
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    Ok(HttpTarget {
        tls: action.scheme.as_deref() == Some("HTTPS"),
        host: host(target, action.host.as_deref()).to_owned(),
        port: port(&target.container, &action.port)?,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_by_number_and_name() {
        let container = json_tree::from_value(json_tree::json!({
            "name": "c", "ports": [{"name": "web", "containerPort": 8080}]}))
        .unwrap();
        let number = |name: IntOrString| port(&container, &name);
        assert_eq!(number(IntOrString::Int(80)), Ok(80));
        assert_eq!(number(IntOrString::String("web".to_owned())), Ok(8080));
        assert_eq!(
            number(IntOrString::String("db".to_owned())),
            Err(PortError::Unknown("db".to_owned()))
        );
        let error = number(IntOrString::Int(70_000)).unwrap_err();
        assert_eq!(error.to_string(), "invalid port number: 70000");
    }
}
