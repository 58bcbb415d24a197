//! The pod network with the real kernel, in separate namespaces.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;

use pod_network::{
    Cidr, Error, PodAddress, PodNetwork, PodNetworkOptions, RequestedRanges, reserve_ranges,
};

#[allow(dead_code, reason = "other tests share the module and use the rest")]
mod namespaces;

use namespaces::{Namespace, connect};

const INSTANCE: &str = "a1b2c3";

fn options(dir: &Path) -> PodNetworkOptions {
    PodNetworkOptions {
        instance_id: INSTANCE.to_owned(),
        state_dir: dir.to_owned(),
        pod_cidr: "10.244.0.0/24".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        encryption: None,
    }
}

fn attach(host: &Namespace, dir: &Path, uid: &str, pod: &Namespace) -> PodAddress {
    host.block_on(|| async {
        let network = PodNetwork::open(options(dir)).await.unwrap();
        network.attach(uid, pod.path()).await.unwrap()
    })
}

fn uids(uids: &[&str]) -> BTreeSet<String> {
    uids.iter().map(|uid| (*uid).to_owned()).collect()
}

#[test]
fn pods_reach_each_other_and_the_host_and_the_host_reaches_them() {
    let (host, a, b) = (Namespace::new(), Namespace::new(), Namespace::new());
    let dir = tempfile::tempdir().unwrap();
    let at_a = attach(&host, dir.path(), "pod-a", &a);
    let at_b = attach(&host, dir.path(), "pod-b", &b);
    assert_eq!(at_a.gateway, Ipv4Addr::new(10, 244, 0, 1));
    assert_eq!(at_a.ip, Ipv4Addr::new(10, 244, 0, 2));
    assert_eq!(at_b.ip, Ipv4Addr::new(10, 244, 0, 3));
    host.serve(80, "host");
    a.serve(80, "a");
    b.serve(80, "b");
    let response = |name: &str, client: Ipv4Addr| (name.to_owned(), client.to_string());
    assert_eq!(
        host.ask((at_a.ip, 80)).unwrap(),
        response("a", at_a.gateway)
    );
    assert_eq!(a.ask((at_b.ip, 80)).unwrap(), response("b", at_a.ip));
    assert_eq!(b.ask((at_a.ip, 80)).unwrap(), response("a", at_b.ip));
    assert_eq!(
        a.ask((at_a.gateway, 80)).unwrap(),
        response("host", at_a.ip)
    );
    assert_eq!(
        a.ask((Ipv4Addr::LOCALHOST, 80)).unwrap(),
        response("a", Ipv4Addr::LOCALHOST)
    );
}

#[test]
fn pods_wait_for_the_filters_of_their_connections() {
    let (host, pod) = (Namespace::new(), Namespace::new());
    let dir = tempfile::tempdir().unwrap();
    host.block_on(|| async {
        let network = PodNetwork::open(options(dir.path())).await.unwrap();
        let address = network.attach("pod-a", pod.path()).await.unwrap().ip;
        network.wait_guarded("pod-a").await.unwrap();
        let guarded = network.guard();
        let mut connected = network.connected();
        let pods = connected.borrow_and_update().clone();
        assert_eq!(pods, BTreeMap::from([("pod-a".to_owned(), address)]));
        let report = |address: Ipv4Addr| {
            let pods = BTreeMap::from([("pod-a".to_owned(), address)]);
            guarded.send_replace(Some(pods));
        };
        // Filters for another address do not count.
        report(Ipv4Addr::new(10, 244, 0, 99));
        let wait = network.wait_guarded("pod-a");
        let mut wait = std::pin::pin!(wait);
        assert!(futures::poll!(&mut wait).is_pending());
        report(address);
        wait.await.unwrap();
        guarded.send_replace(None);
        network.wait_guarded("pod-b").await.unwrap();
        network.detach("pod-a").await.unwrap();
        connected.changed().await.unwrap();
        assert!(connected.borrow().is_empty());
    });
}

/// KEP-1880
#[test]
fn the_node_has_a_route_to_each_range_of_services() {
    let host = Namespace::new();
    let dir = tempfile::tempdir().unwrap();
    host.ip("addr add 192.0.2.7/32 dev lo");
    let routes = || {
        let text = host.ip("-4 route show dev lo");
        let destination = |line: &str| line.split_whitespace().next().unwrap().to_owned();
        text.lines().map(destination).collect::<Vec<_>>()
    };
    host.block_on(|| async {
        let network = PodNetwork::open(options(dir.path())).await.unwrap();
        assert_eq!(routes(), ["10.96.0.0/16"]);
        let further = |texts: &[&str]| -> Vec<Cidr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        // Another program of the machine uses addresses of the last range.
        let ranges = further(&["10.97.0.0/24", "10.98.0.0/24", "192.0.2.0/25"]);
        for _ in 0..2 {
            network.route_services(&ranges).await.unwrap();
            assert_eq!(routes(), ["10.96.0.0/16", "10.97.0.0/24", "10.98.0.0/24"]);
        }
        network
            .route_services(&further(&["10.98.0.0/24"]))
            .await
            .unwrap();
        assert_eq!(routes(), ["10.96.0.0/16", "10.98.0.0/24"]);
        network.close(true).await.unwrap();
    });
    assert_eq!(routes(), [""; 0]);
}

#[test]
fn attach_is_idempotent_and_survives_a_crash_and_a_new_sandbox() {
    let (host, first) = (Namespace::new(), Namespace::new());
    let dir = tempfile::tempdir().unwrap();
    let before = attach(&host, dir.path(), "pod-a", &first);
    // Compares only the names of links, because their state changes a little later.
    let names = |text: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect()
    };
    let links = names(&host.ip("-br link"));
    assert_eq!(attach(&host, dir.path(), "pod-a", &first), before);
    assert_eq!(
        names(&host.ip("-br link")),
        links,
        "a second attach changes nothing"
    );
    let second = Namespace::new();
    assert_eq!(
        attach(&host, dir.path(), "pod-a", &second),
        before,
        "the address stays the pod's"
    );
    second.serve(80, "second");
    assert_eq!(host.ask((before.ip, 80)).unwrap().0, "second");
    assert!(
        !first.ip("-br link").contains("eth0"),
        "the former sandbox is disconnected"
    );
}

#[test]
fn what_attach_left_half_done_is_completed() {
    let (host, pod) = (Namespace::new(), Namespace::new());
    let dir = tempfile::tempdir().unwrap();
    let at = attach(&host, dir.path(), "pod-a", &pod);
    host.ip(&format!("route del {}/32", at.ip));
    pod.ip("route del default");
    pod.ip("link set lo down");
    attach(&host, dir.path(), "pod-a", &pod);
    pod.serve(80, "a");
    assert_eq!(host.ask((at.ip, 80)).unwrap().0, "a");
    assert!(pod.ip("-br link show lo").contains("UP"));
}

#[test]
fn recover_keeps_the_living_and_removes_the_rest() {
    let host = Namespace::new();
    let pods = [Namespace::new(), Namespace::new(), Namespace::new()];
    let dir = tempfile::tempdir().unwrap();
    let names = ["pod-a", "pod-b", "pod-c"];
    let at: Vec<_> = names
        .iter()
        .zip(&pods)
        .map(|(n, p)| attach(&host, dir.path(), n, p))
        .collect();
    std::fs::remove_file(dir.path().join("pods/pod-c")).unwrap();
    let deleted = host.block_on(|| async {
        let network = PodNetwork::open(options(dir.path())).await.unwrap();
        network.recover(&uids(&["pod-a"])).await.unwrap()
    });
    assert_eq!(deleted, uids(&["pod-b", "pod-c"]));
    pods[0].serve(80, "a");
    assert_eq!(host.ask((at[0].ip, 80)).unwrap().0, "a");
    assert!(!host.ip("-4 route").contains(&at[1].ip.to_string()));
    assert!(!host.ip("-4 route").contains(&at[2].ip.to_string()));
}

#[test]
fn close_leaves_nothing_in_the_kernel() {
    let (host, a, b) = (Namespace::new(), Namespace::new(), Namespace::new());
    let dir = tempfile::tempdir().unwrap();
    let before = host.kernel_state();
    let forwarding = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    assert_eq!(host.run(forwarding).trim(), "0");
    host.block_on(|| async {
        let network = PodNetwork::open(options(dir.path())).await.unwrap();
        network.attach("pod-a", a.path()).await.unwrap();
        network.attach("pod-b", b.path()).await.unwrap();
        network.detach("pod-b").await.unwrap();
        network.detach("pod-b").await.unwrap();
        assert_eq!(forwarding().trim(), "1");
        assert!(network.address("pod-b").await.is_none());
        network.close(true).await.unwrap();
    });
    assert_eq!(host.kernel_state(), before);
    assert_eq!(host.run(forwarding).trim(), "0");
    assert_eq!(
        std::fs::read_dir(dir.path().join("pods")).unwrap().count(),
        0
    );
}

#[test]
fn a_pod_without_a_namespace_is_refused_and_keeps_its_address() {
    let host = Namespace::new();
    let dir = tempfile::tempdir().unwrap();
    host.block_on(|| async {
        let network = PodNetwork::open(options(dir.path())).await.unwrap();
        let error = network
            .attach("pod-a", Path::new("/run/netns/not-there"))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Namespace { .. }), "{error}");
        assert!(network.address("pod-a").await.is_some());
    });
}

#[test]
fn two_instances_get_ranges_apart_and_keep_them() {
    let (host, outside) = (Namespace::new(), Namespace::new());
    connect(&host, &outside);
    host.ip("route add 10.96.0.0/16 via 198.51.100.2");
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let list = dirs[0].path().join("instances");
    let reserve = |instance: &'static str, dir: &Path| {
        let (dir, list) = (dir.to_owned(), list.clone());
        host.block_on(|| async move {
            reserve_ranges(instance, &dir, &RequestedRanges::default(), &list).await
        })
    };
    let first = reserve("111111", dirs[0].path()).unwrap();
    let second = reserve("222222", dirs[1].path()).unwrap();
    let text = |ranges: pod_network::Ranges| format!("{} {}", ranges.pod, ranges.service);
    assert_eq!(text(first), "10.244.0.0/24 10.97.0.0/16");
    assert_eq!(text(second), "10.244.1.0/24 10.98.0.0/16");
    assert_eq!(
        reserve("111111", dirs[0].path()).unwrap(),
        first,
        "own marks are not in the way"
    );
    host.ip("addr add 10.98.7.7/32 dev uplink");
    let error = reserve("222222", dirs[1].path()).unwrap_err();
    assert!(matches!(error, Error::ServiceRangeTaken { .. }), "{error}");
}

#[test]
fn connections_to_namespaces_are_closed() {
    let (host, pod) = (Namespace::new(), Namespace::new());
    let dir = tempfile::tempdir().unwrap();
    host.block_on(|| async {
        let network = PodNetwork::open(options(dir.path())).await.unwrap();
        network.attach("pod-a", pod.path()).await.unwrap();
        tokio::task::yield_now().await;
        let netlink = || std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
        let inside = || pod.run(netlink).lines().count();
        let idle = inside();
        for _ in 0..5 {
            network.attach("pod-a", pod.path()).await.unwrap();
        }
        for _ in 0..6000 {
            if inside() <= idle {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!(
            "{} sockets instead of {idle} are open in the namespace",
            inside()
        );
    });
}

// findings S11, S12
#[test]
fn what_listens_on_the_host_is_known() {
    let (host, pod) = (Namespace::new(), Namespace::new());
    let dir = tempfile::tempdir().unwrap();
    host.serve(8022, "host");
    let (_tcp, _udp) = host.run(|| {
        let tcp = std::net::TcpListener::bind("127.0.0.1:6443").unwrap();
        (tcp, std::net::UdpSocket::bind("[::]:53").unwrap())
    });
    pod.serve(8080, "pod");
    host.block_on(|| async {
        let network = PodNetwork::open(options(dir.path())).await.unwrap();
        let listening: Vec<String> = network
            .listening()
            .borrow()
            .places()
            .map(|socket| format!("{} {:?} {}", socket.transport, socket.address, socket.port))
            .collect();
        let expected = ["TCP None 8022", "TCP Some(127.0.0.1) 6443", "UDP None 53"];
        assert_eq!(listening, expected);
        let node = Some(Ipv4Addr::new(198, 51, 100, 1));
        for (port, in_use) in [
            ("tcp *:8022 80", true),
            ("tcp 127.0.0.1:6443 80", true),
            ("tcp *:6443 80", false),
            ("udp *:53 53", true),
            ("tcp *:8080 80", false),
            ("tcp *:9999 80", false),
        ] {
            let requested = [port.parse().unwrap()];
            let used = network.port_in_use(&requested, node).await.unwrap();
            assert_eq!(used.is_some(), in_use, "{port}");
        }
        let late = std::net::TcpListener::bind("0.0.0.0:9999").unwrap();
        let requested = ["tcp *:9999 80".parse().unwrap()];
        assert!(
            network
                .port_in_use(&requested, node)
                .await
                .unwrap()
                .is_some()
        );
        drop(late);
        assert!(
            network
                .port_in_use(&requested, node)
                .await
                .unwrap()
                .is_none()
        );
    });
}
