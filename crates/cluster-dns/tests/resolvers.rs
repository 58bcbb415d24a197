//! The resolver of the C library against the server, as a pod would have it: name server and
//! search list in `resolv.conf`, `ndots:5`.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::process::Command;

use cluster_dns::{Config, Server};
use controller_framework::{Cache, Object};
use futures::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_api_client::{Event, PartialObjectMeta};
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
#[path = "../../pod-network/tests/namespaces/mod.rs"]
mod namespaces;

use namespaces::Namespace as NetworkNamespace;

fn cache<K: Object>(objects: Vec<K>) -> Cache<K> {
    let events = [Event::Init]
        .into_iter()
        .chain(objects.into_iter().map(Event::InitApply));
    let events: Vec<_> = events.chain([Event::InitDone]).collect();
    Cache::from_events(stream::iter(events).chain(stream::pending()))
}

fn objects() -> (Vec<Service>, Vec<EndpointSlice>) {
    let service = |name: &str, namespace: &str, ip: &str| {
        let metadata =
            json!({ "name": name, "namespace": namespace, "uid": name, "resourceVersion": "1" });
        let spec = json!({ "clusterIP": ip, "ports": [{ "name": "main", "port": 80 }] });
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
    };
    let slice = json!({
        "metadata": {
            "name": "nginx-1", "namespace": "default", "uid": "nginx-1", "resourceVersion": "1",
            "labels": { "kubernetes.io/service-name": "nginx" },
        },
        "addressType": "IPv4",
        "endpoints": [
            { "addresses": ["10.244.0.16"], "hostname": "web-0" },
            { "addresses": ["10.244.0.17"], "hostname": "web-1" },
        ],
    });
    let services = vec![
        service("nginx", "default", "None"),
        service("kubernetes", "default", "10.96.0.1"),
        service("kube-dns", "kube-system", "10.96.0.10"),
    ];
    (services, vec![serde_json::from_value(slice).unwrap()])
}

/// Runs a program with the pod's `resolv.conf` and returns its output.
fn in_pod(command: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("resolv.conf");
    let search = "default.svc.cluster.local svc.cluster.local cluster.local";
    let text = format!("nameserver 10.96.0.10\nsearch {search}\noptions ndots:5\n");
    std::fs::write(&file, text).unwrap();
    let target = std::fs::canonicalize("/etc/resolv.conf").unwrap();
    let script = format!(
        "mount --bind {} {} && {command}",
        file.display(),
        target.display()
    );
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    String::from_utf8_lossy(&output.stdout).into_owned() + &error
}

/// The server on its usual address, in a separate network namespace.
fn with_server(work: impl FnOnce() + Send + 'static) {
    let host = NetworkNamespace::new();
    host.ip("addr add 10.96.0.10/32 dev lo");
    host.block_on(|| async {
        let config = Config {
            domain: "cluster.local".to_owned(),
            listen: vec!["10.96.0.10:53".parse().unwrap()],
            addresses: vec!["10.96.0.10".parse().unwrap()],
            ranges: vec![
                "10.244.0.0/24".parse().unwrap(),
                "10.96.0.0/16".parse().unwrap(),
            ],
            upstreams: Some(vec!["192.0.2.1:53".parse().unwrap()]),
            clients: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            zone_file: None,
        };
        let server = Server::bind(config).await.unwrap();
        let (services, slices) = objects();
        // Simulates a server that may not watch namespaces.
        let namespaces: Cache<PartialObjectMeta<Namespace>> = Cache::from_events(stream::pending());
        let (services, slices) = (cache(services), cache(slices));
        let shutdown = CancellationToken::new();
        let serving = server.serve(namespaces, services, slices, shutdown.clone());
        let serving = tokio::spawn(serving);
        host_kernel::blocking_value(work).await.unwrap();
        shutdown.cancel();
        serving.await.unwrap();
    });
}

#[test]
fn the_c_library_finds_pods_and_services_by_short_names_and_their_names_by_address() {
    with_server(|| {
        for (lookup, expected) in [
            ("ahostsv4 web-0.nginx", "10.244.0.16"),
            ("ahostsv4 kubernetes", "10.96.0.1"),
            ("ahostsv4 kube-dns.kube-system", "10.96.0.10"),
            ("hosts 10.244.0.17", "web-1.nginx.default.svc.cluster.local"),
            ("hosts 10.96.0.10", "kube-dns.kube-system.svc.cluster.local"),
        ] {
            let printed = in_pod(&format!("getent {lookup}"));
            assert!(printed.contains(expected), "getent {lookup}: {printed}");
        }
        let printed = in_pod("getent ahosts web-9.nginx; getent ahosts example.com");
        assert_eq!(printed, "");
    });
}
