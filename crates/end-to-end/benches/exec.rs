//! The time of a command in a running container: by `kubectl exec`, by a plain WebSocket, and the round trip of one
//! byte in an open session; compared with `runc exec`, and with a `kubectl` that gets one object.
//!
//! Run the benchmark on an idle machine with `cargo xtask bench exec`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use end_to_end::applications::busybox;
use end_to_end::runc::Bundle;
use end_to_end::samples::{Sample, sized};
use end_to_end::{Api, Kubectl, with_registry_of};
use futures::{SinkExt, StreamExt};
use kube::client::ConfigExt;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

const PROTOCOL: &str = "v5.channel.k8s.io";
const INPUT: u8 = 0;
const OUTPUT: u8 = 1;
const STATUS: u8 = 3;

type Session = WebSocketStream<TlsStream<TcpStream>>;

pub(crate) fn bench() {
    let image = busybox();
    let (_registry, instance) = with_registry_of(&[("library/busybox", "1", &image)]);
    let kubectl = instance.kubectl();
    let api = Api::new(&instance);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "idle"}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "busybox:1", "command": ["sleep", "100000"]}]}});
    kubectl.apply(&pod.to_string());
    kubectl.wait_pods_ready(&["pod/idle"]);
    let server = Server::of(&api);
    let bundle = Bundle::new(&image, &["sleep", "100000"]);
    let container = bundle.start("exec");
    let rounds = sized(31, 3);
    let [mut runc, mut socket, mut exec, mut get] = [(); 4].map(|()| Sample::new("ms"));
    for _ in 0..rounds {
        runc.push_time(container.time_exec(&["/bin/true"]));
        socket.push_time(api.block_on(server.time_command(&["true"])));
        exec.push_time(time(&kubectl, &["exec", "idle", "--", "true"]));
        get.push_time(time(&kubectl, &["get", "pod", "idle"]));
    }
    let bytes = api.block_on(server.time_bytes(sized(1000, 10)));
    println!("a command that does nothing, {rounds} rounds");
    println!("  runc exec: {runc}");
    println!("  a WebSocket, from its connection to the command's status: {socket}");
    println!("    against runc exec: {}", socket.against(&runc));
    println!("  kubectl exec: {exec}");
    println!("    against kubectl get: {}", exec.against(&get));
    println!("  kubectl get: {get}");
    println!("one byte to cat and back, in an open session: {bytes}");
}

fn time(kubectl: &Kubectl, arguments: &[&str]) -> Duration {
    let started = Instant::now();
    kubectl.ok(arguments);
    started.elapsed()
}

/// The address of the API, and its certificate authority.
struct Server {
    host: String,
    port: u16,
    tls: TlsConnector,
}

impl Server {
    fn of(api: &Api) -> Self {
        let configuration = api.configuration();
        let tls = configuration
            .rustls_client_config()
            .expect("certificates to connect with");
        let url = &configuration.cluster_url;
        Self {
            host: url.host().expect("a host").to_owned(),
            port: url.port_u16().expect("a port"),
            tls: TlsConnector::from(Arc::new(tls)),
        }
    }

    /// Opens a session that runs a command in the pod.
    async fn open(&self, command: &[&str], input: bool) -> Session {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.expect("connect");
        stream.set_nodelay(true).expect("set up the connection");
        let name = self.host.clone().try_into().expect("a name of the server");
        let stream = self.tls.connect(name, stream).await.expect("shake hands");
        let words: String = command
            .iter()
            .map(|word| format!("&command={word}"))
            .collect();
        let url = format!(
            "wss://{}:{}/api/v1/namespaces/default/pods/idle/exec?stdin={input}&stdout=true{words}",
            self.host, self.port
        );
        let mut request = url.into_client_request().expect("a request");
        let protocol = PROTOCOL.parse().expect("a header");
        let headers = request.headers_mut();
        headers.insert("Sec-WebSocket-Protocol", protocol);
        let (session, _) = client_async(request, stream).await.expect("a session");
        session
    }

    async fn time_command(&self, command: &[&str]) -> Duration {
        let started = Instant::now();
        let mut session = self.open(command, false).await;
        let status: Value = loop {
            let frame = next(&mut session).await;
            if let Some((&STATUS, status)) = frame.split_first() {
                break serde_json::from_slice(status).expect("a status");
            }
        };
        let elapsed = started.elapsed();
        assert_eq!(status["status"], "Success", "{status}");
        elapsed
    }

    /// Sends single bytes and waits for each to return.
    async fn time_bytes(&self, rounds: usize) -> Sample {
        let mut session = self.open(&["cat"], true).await;
        let mut sample = Sample::new("ms");
        for _ in 0..rounds {
            let started = Instant::now();
            let frame = Message::binary(vec![INPUT, b'x']);
            session.send(frame).await.expect("send a byte");
            while next(&mut session).await != [OUTPUT, b'x'] {}
            sample.push_time(started.elapsed());
        }
        sample
    }
}

/// The next frame of a channel.
async fn next(session: &mut Session) -> Vec<u8> {
    loop {
        match session.next().await {
            Some(Ok(Message::Binary(frame))) => return frame.to_vec(),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            other => panic!("the session ended: {other:?}"),
        }
    }
}
