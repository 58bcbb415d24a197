//! The switch for nodes on one machine with the real kernel, in separate namespaces.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use pod_network::{NodeSwitch, SwitchOptions};

#[allow(dead_code, reason = "other tests share the module and use the rest")]
mod namespaces;

use namespaces::Namespace;

const INSTANCE: &str = "a1b2c3";

fn options(dir: &Path) -> SwitchOptions {
    SwitchOptions {
        instance_id: INSTANCE.to_owned(),
        state_dir: dir.join("namespaces"),
        range: "10.245.0.0/24".parse().unwrap(),
        own_ranges: Vec::new(),
        ranges: dir.join("network/cluster-ranges.json"),
        instances: dir.join("instances"),
        nodes: vec!["b".to_owned(), "c".to_owned()],
    }
}

/// Removes the mounts, even if the test fails.
struct Removed<'a>(&'a Namespace, &'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        let dir = self.1.join("namespaces");
        let removed = self.0.block_on(|| NodeSwitch::remove(INSTANCE, &dir));
        removed.expect("the switch can be removed");
    }
}

fn within<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    Namespace::at(namespace).run(work)
}

/// The source address of a connection from one namespace to an address of another namespace.
fn source(listener: &TcpListener, from: &Path) -> Ipv4Addr {
    let to = listener.local_addr().unwrap();
    let client = within(from, || {
        let mut client = TcpStream::connect_timeout(&to, Duration::from_secs(60)).unwrap();
        client.write_all(b"x").unwrap();
        client
    });
    let (mut server, peer) = listener.accept().unwrap();
    let mut byte = [0];
    server.read_exact(&mut byte).unwrap();
    drop(client);
    match peer {
        SocketAddr::V4(peer) => *peer.ip(),
        SocketAddr::V6(_) => panic!("an IPv6 address"),
    }
}

#[test]
fn nodes_reach_each_other_and_the_machine() {
    let host = Namespace::new();
    let dir = tempfile::tempdir().unwrap();
    let before = host.kernel_state();
    let removed = Removed(&host, dir.path());
    let open = || {
        host.block_on(|| NodeSwitch::open(options(dir.path())))
            .unwrap()
    };
    let switch = open();
    assert_eq!(switch.address(), Ipv4Addr::new(10, 245, 0, 1));
    let [b, c] = switch.nodes() else {
        panic!("{switch:?}")
    };
    assert_eq!((b.name.as_str(), c.name.as_str()), ("b", "c"));
    assert_eq!(b.address, Ipv4Addr::new(10, 245, 0, 2));
    let at_machine = host.run(|| TcpListener::bind((switch.address(), 0)).unwrap());
    let at_b = within(&b.namespace, || TcpListener::bind((b.address, 0)).unwrap());
    assert_eq!(source(&at_b, &c.namespace), c.address);
    assert_eq!(source(&at_b, host.path()), switch.address());
    assert_eq!(source(&at_machine, &c.namespace), c.address);
    // A second process adopts the namespaces with their links, and connections continue.
    let again = open();
    assert_eq!(again.nodes(), switch.nodes());
    assert_eq!(source(&at_b, &c.namespace), c.address);
    drop(removed);
    assert!(!dir.path().join("namespaces").exists());
    assert_eq!(host.kernel_state(), before);
}

#[test]
fn a_range_in_use_is_avoided() {
    let host = Namespace::new();
    host.ip("addr add 10.245.0.7/24 dev lo");
    let dir = tempfile::tempdir().unwrap();
    let removed = Removed(&host, dir.path());
    let beside_own = SwitchOptions {
        own_ranges: vec!["10.245.1.0/24".parse().unwrap()],
        ..options(dir.path())
    };
    let switch = host.block_on(|| NodeSwitch::open(beside_own)).unwrap();
    assert_eq!(switch.range().to_string(), "10.245.2.0/24");
    assert_eq!(switch.address(), Ipv4Addr::new(10, 245, 2, 1));
    // The instance's own link does not count as another user of the range.
    let again = host.block_on(|| NodeSwitch::open(options(dir.path())));
    assert_eq!(again.unwrap().range(), switch.range());
    drop(removed);
}

/// Clusters that start concurrently: the pod ranges of the other cluster are not in the kernel yet.
#[test]
fn the_ranges_of_a_cluster_that_starts_are_avoided() {
    let host = Namespace::new();
    let dir = tempfile::tempdir().unwrap();
    let removed = Removed(&host, dir.path());
    let other = dir.path().join("other/network/cluster-ranges.json");
    std::fs::create_dir_all(other.parent().unwrap()).unwrap();
    std::fs::write(
        &other,
        r#"{"pod":"10.245.0.0/16","service":"10.96.0.0/16"}"#,
    )
    .unwrap();
    std::fs::write(dir.path().join("instances"), other.to_str().unwrap()).unwrap();
    let switch = host.block_on(|| NodeSwitch::open(options(dir.path())));
    assert_eq!(switch.unwrap().range().to_string(), "10.246.0.0/24");
    drop(removed);
}

#[test]
fn a_range_without_room_is_refused() {
    let host = Namespace::new();
    let dir = tempfile::tempdir().unwrap();
    let removed = Removed(&host, dir.path());
    let small = SwitchOptions {
        range: "10.245.0.0/30".parse().unwrap(),
        ..options(dir.path())
    };
    let refused = host.block_on(|| NodeSwitch::open(small)).unwrap_err();
    assert!(refused.to_string().contains("10.245.0.0/30"), "{refused}");
    drop(removed);
}
