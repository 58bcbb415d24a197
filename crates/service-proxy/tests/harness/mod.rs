//! A host with pods, and a machine outside, in network namespaces.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use pod_network::{PodNetwork, PodNetworkOptions};
use process_telemetry::{Component, Health, SlowPolls};
use service_proxy::{Config, Kernel};
use service_routing::{
    MachineAddresses, PublishedPort, Settings, Table, changes, ports, publish, table,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[path = "../../../pod-network/tests/namespaces/mod.rs"]
mod namespaces;

pub use namespaces::Namespace;
use namespaces::connect;

pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 5);

/// A host with two pods, `a` (10.244.0.2) and `b` (10.244.0.3), which serve their names on port
/// 8080, and a machine outside.
pub struct Harness {
    pub host: Namespace,
    pub a: Namespace,
    pub b: Namespace,
    pub outside: Namespace,
    pub kernel: Kernel,
    /// The table that this connection has applied.
    pub programmed: Option<Table>,
    _dir: tempfile::TempDir,
}

impl Harness {
    pub fn new() -> Harness {
        Harness::on(|_| {})
    }

    /// A world on a prepared host.
    pub fn on(prepare: impl FnOnce(&Namespace)) -> Harness {
        let [host, a, b, outside] = std::array::from_fn(|_| Namespace::new());
        let dir = tempfile::tempdir().unwrap();
        connect(&host, &outside);
        prepare(&host);
        host.block_on(|| async {
            let network = PodNetwork::open(PodNetworkOptions {
                instance_id: "a1b2c3".to_owned(),
                state_dir: dir.path().to_owned(),
                pod_cidr: "10.244.0.0/24".parse().unwrap(),
                service_cidr: "10.96.0.0/16".parse().unwrap(),
                encryption: None,
            })
            .await
            .unwrap();
            network.attach("pod-a", a.path()).await.unwrap();
            network.attach("pod-b", b.path()).await.unwrap();
        });
        a.serve(8080, "a");
        b.serve(8080, "b");
        outside.serve(8080, "outside");
        let kernel = host.run(|| Kernel::open("a1b2c3")).unwrap();
        Harness {
            host,
            a,
            b,
            outside,
            kernel,
            programmed: None,
            _dir: dir,
        }
    }

    pub fn settings() -> Settings {
        Settings {
            pod_range: "10.244.0.0/24".parse().unwrap(),
            cluster_range: "10.244.0.0/16".parse().unwrap(),
            service_range: "10.96.0.0/16".parse().unwrap(),
            further_ranges: Vec::new(),
            unmanaged: ["10.96.0.10".parse().unwrap()].into(),
            pod_links: pod_network::link_prefix("a1b2c3"),
            encrypted_link: None,
            switch_range: None,
            machines: MachineAddresses::default(),
        }
    }

    /// Both pods respond with their names on UDP port 5353.
    pub fn serve_udp(&self) {
        for (pod, name) in [(&self.a, "a"), (&self.b, "b")] {
            let socket = pod.run(|| UdpSocket::bind("0.0.0.0:5353")).unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, client)) = socket.recv_from(&mut buffer) {
                    socket.send_to(name.as_bytes(), client).ok();
                }
            });
        }
    }

    /// Programs one Service with the endpoints, and host ports of pods.
    pub fn program_with(&mut self, spec: Value, endpoints: &[(&str, &str)], on: &[PublishedPort]) {
        let (service, slice) = objects(spec, endpoints);
        self.program_objects(&service, &slice, on);
    }

    /// Programs a Service and its EndpointSlice, and host ports of pods.
    pub fn program_objects(
        &mut self,
        service: &Service,
        slice: &EndpointSlice,
        on: &[PublishedPort],
    ) {
        let mut table = table(&ports([service], [slice], "here"), &Harness::settings());
        publish(&mut table, on);
        self.apply(table);
    }

    /// Applies the whole table the first time, and afterwards the differences.
    pub fn apply(&mut self, table: Table) {
        let done = match &self.programmed {
            Some(before) => self.kernel.change(&changes(before, &table)),
            None => self.kernel.replace(&table).map(drop),
        };
        done.unwrap();
        self.programmed = Some(table);
    }

    /// Programs one Service with the endpoints (address, node).
    pub fn program(&mut self, spec: Value, endpoints: &[(&str, &str)]) {
        self.program_with(spec, endpoints, &[]);
    }
}

/// findings A9: the maximum duration of a poll of the proxy.
const POLL_MAX: Duration = Duration::from_millis(50);

/// Fails the test if the proxy had a slow poll.
pub struct NoSlowPolls(Arc<SlowPolls>);

impl NoSlowPolls {
    pub fn new() -> NoSlowPolls {
        NoSlowPolls(SlowPolls::new(POLL_MAX))
    }

    /// The component of the program in which the proxy runs.
    pub fn component(&self, shutdown: CancellationToken) -> Component {
        Health::watched_by(self.0.clone()).component("service proxy", shutdown)
    }
}

impl Drop for NoSlowPolls {
    fn drop(&mut self) {
        let slow_polls = self.0.recorded();
        assert!(
            slow_polls.is_empty() || std::thread::panicking(),
            "{slow_polls:?}"
        );
    }
}

/// The configuration of the host's proxy.
pub fn config(host_ports: watch::Receiver<Vec<PublishedPort>>) -> Config {
    Config {
        instance_id: "a1b2c3".to_owned(),
        node_name: "here".to_owned(),
        pod_cidr: Harness::settings().pod_range,
        cluster_cidr: Harness::settings().cluster_range,
        service_cidr: Harness::settings().service_range,
        further_ranges: watch::Sender::default().subscribe(),
        unmanaged: Harness::settings().unmanaged,
        pod_link_prefix: pod_network::link_prefix("a1b2c3"),
        encrypted_link: None,
        switch: None,
        tunnel: watch::Sender::default().subscribe(),
        host_ports,
        listening: watch::Sender::default().subscribe(),
        pods: None,
        remove_on_shutdown: watch::Sender::new(true).subscribe(),
    }
}

/// A resourceVersion that no other state of an object has.
pub fn next_version() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    (LAST.fetch_add(1, Ordering::Relaxed) + 1).to_string()
}

/// A Service with ready endpoints (address, node).
pub fn objects(spec: Value, endpoints: &[(&str, &str)]) -> (Service, EndpointSlice) {
    let endpoint = |(ip, node): &(&str, &str)| json!({ "addresses": [ip], "nodeName": node });
    (service(spec), slice(endpoints.iter().map(endpoint)))
}

/// The Service `web`, at [`SERVICE`].
pub fn service(spec: Value) -> Service {
    let mut service = json!({ "metadata": {
        "name": "web", "namespace": "default", "uid": "web", "resourceVersion": next_version() } });
    service["spec"] = json!({
        "clusterIP": SERVICE.to_string(),
        "ports": [{ "name": "http", "port": 80, "nodePort": 30080 }],
    });
    for (key, value) in spec.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    json_tree::from_value(service).unwrap()
}

/// An EndpointSlice of the Service `web` with these endpoints.
pub fn slice(endpoints: impl Iterator<Item = Value>) -> EndpointSlice {
    let slice = json!({
        "metadata": {
            "name": "web-1", "namespace": "default", "uid": "web-1", "resourceVersion": next_version(),
            "labels": { "kubernetes.io/service-name": "web" },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints.collect::<Vec<_>>(),
    });
    json_tree::from_value(slice).unwrap()
}

/// The endpoints of both pods, on this node.
pub const BOTH: [(&str, &str); 2] = [("10.244.0.2", "here"), ("10.244.0.3", "here")];

pub fn to(ip: impl Into<Ipv4Addr>, port: u16) -> SocketAddr {
    (ip.into(), port).into()
}

/// Connects many times and counts the responses of each endpoint.
pub fn count(from: &Namespace, to: SocketAddr, times: usize) -> BTreeMap<String, usize> {
    let mut responses = BTreeMap::new();
    for _ in 0..times {
        *responses.entry(from.ask(to).unwrap().0).or_default() += 1;
    }
    responses
}

/// Checks that a connection is refused, and not dropped.
#[track_caller]
pub fn refused(from: &Namespace, to: SocketAddr) {
    let error = from.ask(to).unwrap_err();
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "{error}, {to}"
    );
}
