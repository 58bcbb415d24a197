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
    /// The container's id in the sandbox.
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

/// Runs a probe once, within its timeout.
pub async fn ask(asked: &ProbeTarget, probe: &Probe) -> ProbeOutcome {
    let timeout = Duration::try_from(probes::timeout(probe)).unwrap_or(Duration::from_secs(1));
    if let Some(action) = &probe.exec {
        return ask_command(asked, action, timeout).await;
    }
    if let Some(action) = &probe.http_get {
        let target = match target(asked, action) {
            Ok(target) => target,
            Err(message) => return ProbeOutcome::Failure(message),
        };
        let headers = action.http_headers.as_deref().unwrap_or_default();
        return match http_probe::get(target, "kube-probe/1.36", headers, timeout).await {
            Ok(answer) => http_probe::outcome(&answer),
            Err(unanswered) => ProbeOutcome::Failure(unanswered.into()),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        return match connect_tcp(asked, action, timeout).await {
            Ok(()) => ProbeOutcome::Success,
            Err(message) => ProbeOutcome::Failure(message),
        };
    }
    if let Some(action) = &probe.grpc {
        return match ask_grpc(asked, action, timeout).await {
            Ok(()) => ProbeOutcome::Success,
            Err(message) => ProbeOutcome::Failure(message),
        };
    }
    ProbeOutcome::Error("missing probe handler".to_owned())
}

async fn ask_command(asked: &ProbeTarget, action: &ExecAction, timeout: Duration) -> ProbeOutcome {
    let words = action.command.clone().unwrap_or_default();
    match run_command(asked, words.clone(), timeout).await {
        CommandResult::Exited(0, _) => ProbeOutcome::Success,
        CommandResult::Exited(_, output) => ProbeOutcome::Failure(output),
        CommandResult::TimedOut => {
            let seconds = timeout.as_secs();
            let shown = words.join(" ");
            ProbeOutcome::Failure(format!(
                "command timed out: {shown:?} timed out after {seconds}s"
            ))
        }
        CommandResult::Failed(message) => ProbeOutcome::Error(message),
    }
}

async fn ask_grpc(
    asked: &ProbeTarget,
    action: &GRPCAction,
    timeout: Duration,
) -> Result<(), String> {
    let port = u16::try_from(action.port).map_err(|_| "invalid port number".to_owned())?;
    let address = host_and_port(&asked.pod_ip, port);
    let service = action.service.as_deref().unwrap_or_default();
    let exchange = async {
        let stream = connect(&address, timeout).await?;
        grpc_probe::check(stream, &address, service).await
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(format!(
            "timeout: health rpc did not complete within {}s",
            timeout.as_secs()
        )),
    }
}

/// Runs a command in the container; it is killed at its timeout.
pub async fn run_command(
    asked: &ProbeTarget,
    args: Vec<String>,
    timeout: Duration,
) -> CommandResult {
    let spec = ExecSpec {
        container: asked.runtime_id.clone(),
        args,
        kill_on_drop: true,
        ..ExecSpec::default()
    };
    let run = async {
        let mut session = match asked.sandbox.exec(spec).await {
            Ok(session) => session,
            Err(RuntimeError::Start(error)) => return CommandResult::Exited(126, error.message),
            Err(error) => return CommandResult::Failed(error.to_string()),
        };
        let (out, err) = tokio::join!(read_some(session.stdout), read_some(session.stderr));
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
async fn read_some(mut from: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count) = from.read(&mut buffer).await
        && count > 0
    {
        let room = PROBE_OUTPUT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The number of a port. A name is looked up in the container's ports.
fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
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
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => format!("couldn't find port: {name:?}"),
    })
}

fn host<'a>(asked: &'a ProbeTarget, own: Option<&'a str>) -> &'a str {
    own.filter(|host| !host.is_empty()).unwrap_or(&asked.pod_ip)
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
pub async fn connect_tcp(
    asked: &ProbeTarget,
    action: &TCPSocketAction,
    timeout: Duration,
) -> Result<(), String> {
    let port = port(&asked.container, &action.port)?;
    let address = host_and_port(host(asked, action.host.as_deref()), port);
    connect(&address, timeout).await.map(|_| ())
}

/// Connects within the timeout of a probe.
pub async fn connect(address: &str, timeout: Duration) -> Result<TcpStream, String> {
    let connected = outbound_http::connect(address, timeout).await;
    connected.map_err(|error| match error {
        ConnectError::Io(error) => format!("dial tcp {address}: connect: {}", plain(&error)),
        ConnectError::TimedOut => format!("dial tcp {address}: i/o timeout"),
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
/// The port is invalid, or the container has no port of this name; a message for users.
pub fn target(asked: &ProbeTarget, action: &HTTPGetAction) -> Result<HttpTarget, String> {
    let path = match action.path.as_deref().unwrap_or("/") {
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    Ok(HttpTarget {
        tls: action.scheme.as_deref() == Some("HTTPS"),
        host: host(asked, action.host.as_deref()).to_owned(),
        port: port(&asked.container, &action.port)?,
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
        let of = |wanted: IntOrString| port(&container, &wanted);
        assert_eq!(of(IntOrString::Int(80)), Ok(80));
        assert_eq!(of(IntOrString::String("web".to_owned())), Ok(8080));
        assert_eq!(
            of(IntOrString::String("db".to_owned())),
            Err("couldn't find port: \"db\"".to_owned())
        );
        assert!(of(IntOrString::Int(70_000)).is_err());
    }
}
