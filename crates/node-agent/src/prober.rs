//! Asks containers how they are: commands, HTTP, TCP, gRPC.

use std::time::Duration;

use container_runtime::spec::ExecSpec;
use container_runtime::{RuntimeError, Sandbox};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, HTTPHeader, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pod_lifecycle::probes::{self, Outcome};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use crate::limits::{PROBE_OUTPUT_BYTES_MAX, REDIRECTS_MAX};
use crate::{grpc_probe, insecure_tls};

/// The container that is asked.
#[derive(Clone)]
pub struct Asked {
    /// Its sandbox.
    pub sandbox: Sandbox,
    /// Its id there.
    pub runtime_id: String,
    /// Its specification.
    pub container: Container,
    /// The pod's address.
    pub pod_ip: String,
}

/// How a command ended.
pub enum Ran {
    /// It ended by itself, with this code and output.
    Exited(i32, String),
    /// It was still running when its time was up.
    TimedOut,
    /// It could not be run.
    Failed(String),
}

/// Asks once.
pub async fn ask(asked: &Asked, probe: &Probe) -> Outcome {
    let timeout = Duration::try_from(probes::timeout(probe)).unwrap_or(Duration::from_secs(1));
    if let Some(action) = &probe.exec {
        return ask_command(asked, action, timeout).await;
    }
    if let Some(action) = &probe.http_get {
        let answer = http_get(asked, action, "kube-probe/1.36", timeout).await;
        return match answer.map(|answer| answer.status) {
            Ok(status) if (200..400).contains(&status) => Outcome::Success,
            Ok(status) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
            Err(message) => Outcome::Failure(message),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        return match connect_tcp(asked, action, timeout).await {
            Ok(()) => Outcome::Success,
            Err(message) => Outcome::Failure(message),
        };
    }
    if let Some(action) = &probe.grpc {
        return match ask_grpc(asked, action, timeout).await {
            Ok(()) => Outcome::Success,
            Err(message) => Outcome::Failure(message),
        };
    }
    Outcome::Error("missing probe handler".to_owned())
}

async fn ask_command(asked: &Asked, action: &ExecAction, timeout: Duration) -> Outcome {
    let words = action.command.clone().unwrap_or_default();
    match run_command(asked, words.clone(), timeout).await {
        Ran::Exited(0, _) => Outcome::Success,
        Ran::Exited(_, output) => Outcome::Failure(output),
        Ran::TimedOut => {
            let seconds = timeout.as_secs();
            let shown = words.join(" ");
            Outcome::Failure(format!(
                "command timed out: {shown:?} timed out after {seconds}s"
            ))
        }
        Ran::Failed(message) => Outcome::Error(message),
    }
}

async fn ask_grpc(asked: &Asked, action: &GRPCAction, timeout: Duration) -> Result<(), String> {
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

/// Runs a command in the container; it is killed when its time is up.
pub async fn run_command(asked: &Asked, args: Vec<String>, timeout: Duration) -> Ran {
    let spec = ExecSpec {
        container: asked.runtime_id.clone(),
        args,
        kill_on_drop: true,
        ..ExecSpec::default()
    };
    let run = async {
        let mut session = match asked.sandbox.exec(spec).await {
            Ok(session) => session,
            Err(RuntimeError::Start(error)) => return Ran::Exited(126, error.message),
            Err(error) => return Ran::Failed(error.to_string()),
        };
        let (out, err) = tokio::join!(read_some(session.stdout), read_some(session.stderr));
        match session.control.wait().await {
            Some(code) => Ran::Exited(code, out + &err),
            None => Ran::Failed("the container is gone".to_owned()),
        }
    };
    tokio::time::timeout(timeout, run)
        .await
        .unwrap_or(Ran::TimedOut)
}

/// Reads to the end, keeps the beginning.
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

/// The number of a port that may be named.
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

fn host<'a>(asked: &'a Asked, own: Option<&'a str>) -> &'a str {
    own.filter(|host| !host.is_empty()).unwrap_or(&asked.pod_ip)
}

fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Opens and closes a connection.
pub async fn connect_tcp(
    asked: &Asked,
    action: &TCPSocketAction,
    timeout: Duration,
) -> Result<(), String> {
    let port = port(&asked.container, &action.port)?;
    let address = host_and_port(host(asked, action.host.as_deref()), port);
    connect(&address, timeout).await.map(|_| ())
}

async fn connect(address: &str, timeout: Duration) -> Result<TcpStream, String> {
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(format!("dial tcp {address}: connect: {}", plain(&error))),
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
    }
}

/// An error's text as Go prints the kernel's.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    tls: bool,
    host: String,
    port: u16,
    /// Path and query.
    path: String,
}

impl Target {
    fn address(&self) -> String {
        host_and_port(&self.host, self.port)
    }

    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.address(), self.path)
    }

    /// Where a redirection leads, as long as it stays on the host.
    fn redirected(&self, location: &str) -> Option<Self> {
        let to: http::Uri = location.parse().ok()?;
        let path = to.path_and_query().map_or("/", |path| path.as_str());
        let Some(authority) = to.authority() else {
            return location.starts_with('/').then(|| Self {
                path: path.to_owned(),
                ..self.clone()
            });
        };
        let tls = to.scheme_str() == Some("https");
        let host = authority.host().trim_matches(['[', ']']);
        (host == self.host).then(|| Self {
            tls,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: path.to_owned(),
        })
    }
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    location: Option<String>,
}

/// Sends a GET request and follows redirections that stay on the host; the last answer.
pub async fn http_get(
    asked: &Asked,
    action: &HTTPGetAction,
    agent: &str,
    timeout: Duration,
) -> Result<Answer, String> {
    let path = match action.path.as_deref().unwrap_or("/") {
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    let mut target = Target {
        tls: action.scheme.as_deref() == Some("HTTPS"),
        host: host(asked, action.host.as_deref()).to_owned(),
        port: port(&asked.container, &action.port)?,
        path,
    };
    let first = target.url();
    let failed = |what: String| format!("Get \"{first}\": {what}");
    let headers = action.http_headers.as_deref();
    let exchange = async {
        for _ in 0..REDIRECTS_MAX {
            let answer = exchange(&target, agent, headers, timeout).await?;
            let redirect = (300..400).contains(&answer.status);
            let next = answer.location.as_deref().filter(|_| redirect);
            match next.and_then(|location| target.redirected(location)) {
                Some(next) => target = next,
                None => return Ok(answer),
            }
        }
        Err(format!("stopped after {REDIRECTS_MAX} redirects"))
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(failed(
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned(),
        )),
    }
}

async fn exchange(
    target: &Target,
    agent: &str,
    headers: Option<&[HTTPHeader]>,
    timeout: Duration,
) -> Result<Answer, String> {
    let address = target.address();
    let request = request(&address, &target.path, agent, headers);
    let request = request.map_err(|error| error.to_string())?;
    let stream = connect(&address, timeout).await?;
    match target.tls {
        true => converse(insecure_tls::connect(stream, &target.host).await?, request).await,
        false => converse(stream, request).await,
    }
}

/// One request and its answer, without the body.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: http::Request<NoBody>,
) -> Result<Answer, String> {
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .map_err(|error| error.to_string())?;
    let answer = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let location = answer.headers().get(http::header::LOCATION);
        Ok::<Answer, String>(Answer {
            status: answer.status().as_u16(),
            location: location
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned),
        })
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        ended = connection => match ended {
            // The connection may end in the same breath in which it delivers the answer.
            Ok(()) => answer.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

type NoBody = http_body_util::combinators::BoxBody<bytes::Bytes, std::convert::Infallible>;

fn request(
    address: &str,
    path: &str,
    agent: &str,
    headers: Option<&[HTTPHeader]>,
) -> Result<http::Request<NoBody>, http::Error> {
    let mut builder = http::Request::get(path);
    let own = headers.unwrap_or_default();
    let given = |name: &str| {
        own.iter()
            .any(|header| header.name.eq_ignore_ascii_case(name))
    };
    for (name, value) in [("Host", address), ("User-Agent", agent), ("Accept", "*/*")] {
        if !given(name) {
            builder = builder.header(name, value);
        }
    }
    builder = builder.header("Connection", "close");
    for header in own {
        builder = builder.header(&header.name, &header.value);
    }
    builder.body(http_body_util::Empty::new().boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_are_followed_on_the_same_host_only() {
        // statefulset.md 12.5
        let here = Target {
            tls: false,
            host: "10.0.0.1".to_owned(),
            port: 8080,
            path: "/a".to_owned(),
        };
        let to = |location: &str| here.redirected(location).map(|target| target.url());
        for (location, url) in [
            ("/login?next=a", Some("http://10.0.0.1:8080/login?next=a")),
            ("http://10.0.0.1/b", Some("http://10.0.0.1:80/b")),
            ("https://10.0.0.1:8443", Some("https://10.0.0.1:8443/")),
            ("https://example.org/", None),
            ("not a place", None),
        ] {
            assert_eq!(to(location).as_deref(), url, "{location}");
        }
    }

    #[test]
    fn ports_are_found_by_number_and_name() {
        let container = serde_json::from_value(serde_json::json!({
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
