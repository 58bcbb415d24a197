//! Pods that send queries without end, to names for which they serve the responses themselves.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use end_to_end::{Instance, Kubectl, Network, Registry, mounts, wait_for, with_images};
use nix::mount::{MsFlags, mount};

use super::Scene;

/// A name that does not exist, with the maximum length.
fn outside_name(number: usize) -> String {
    let label = "x".repeat(60);
    format!("n{number}.{label}.{label}.{label}.attack.example")
}

/// A query for the address of a name.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    // The flag "recursion desired", and one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// A truncated response to a query, after which the query is repeated by TCP.
fn truncated(question: &[u8]) -> Vec<u8> {
    let mut bytes = question[..end_of_name(question) + 4].to_vec();
    bytes[2..12].copy_from_slice(&[0x83, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// A response with as many addresses as fit into a message.
fn addresses(question: &[u8]) -> Vec<u8> {
    let capacity = usize::from(u16::MAX) - question.len();
    of_records(question, capacity / 16, |number| {
        let [.., high, low] = number.to_be_bytes();
        vec![0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 9, high, low]
    })
}

/// A response with some texts, each of the maximum length.
fn texts(question: &[u8]) -> Vec<u8> {
    of_records(question, 60, |_| {
        let mut record = vec![0, 16, 0, 1, 0, 0, 0, 30, 4, 0];
        record.extend([[255; 256]; 4].concat());
        record
    })
}

/// A response with records that have the name of the query.
fn of_records(question: &[u8], count: usize, record: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let mut bytes = truncated(question);
    let [high, low] = u16::try_from(count).unwrap().to_be_bytes();
    bytes[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, high, low, 0, 0, 0, 0]);
    for number in 0..count {
        bytes.extend([0xc0, 12]);
        bytes.extend(record(number));
    }
    bytes
}

fn end_of_name(question: &[u8]) -> usize {
    let mut at = 12;
    while question[at] != 0 {
        at += usize::from(question[at]) + 1;
    }
    at + 1
}

/// A server whose machine uses this upstream DNS server, and two pods, "greedy" and "modest".
fn scene(upstream: IpAddr) -> (Registry, Scene, Kubectl, SocketAddr) {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("resolv.conf");
    fs::write(&list, format!("nameserver {upstream}\n")).unwrap();
    // The processes that this thread starts read this file.
    let start = || -> (Registry, Instance) {
        mounts::separate();
        let none = None::<&str>;
        mount(
            Some(&list),
            "/etc/resolv.conf",
            none,
            MsFlags::MS_BIND,
            none,
        )
        .unwrap();
        with_images()
    };
    let (registry, instance) = thread::scope(|scope| scope.spawn(start).join().unwrap());
    let kubectl = instance.kubectl();
    for pod in ["greedy", "modest"] {
        let run = ["run", pod, "--image=busybox:1", "--", "sleep", "1000"];
        kubectl.ok(&run);
    }
    kubectl.wait_pods_ready(&["pod/greedy", "pod/modest"]);
    let list = kubectl.ok(&["exec", "greedy", "--", "cat", "/etc/resolv.conf"]);
    let mut servers = list
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver "));
    let server: IpAddr = servers.next().unwrap().trim().parse().unwrap();
    let scene = Scene::on(instance, 0);
    (registry, scene, kubectl, (server, 53).into())
}

/// Names of the cluster are resolved for another pod until the attack, which runs concurrently, has ended.
fn while_another_pod_resolves_names(
    (kubectl, server): (&Kubectl, SocketAddr),
    attack: impl FnOnce() + Send,
) {
    let [greedy, modest] = ["greedy", "modest"].map(|pod| Network::of_pod(kubectl, pod, "sleep"));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let attacking = scope.spawn(|| {
            greedy.run(attack);
            is_over.store(true, Ordering::Relaxed);
        });
        modest.run(|| {
            let name = "kubernetes.default.svc.cluster.local";
            let mut responses = 0;
            while responses == 0 || !(is_over.load(Ordering::Relaxed) || attacking.is_finished()) {
                let what = format!("response {responses} to another pod");
                wait_for(&what, 30, || addresses_of(name, server));
                responses += 1;
                thread::sleep(Duration::from_millis(100));
            }
        });
        attacking.join().unwrap();
    });
}

/// The response to a query by UDP, if it has addresses.
fn addresses_of(name: &str, server: SocketAddr) -> Result<Vec<u8>, String> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    socket.send_to(&question(7, name), server).unwrap();
    let mut response = vec![0; 4096];
    let length = socket
        .recv(&mut response)
        .map_err(|error| error.to_string())?;
    response.truncate(length);
    let (code, addresses) = (response[3] & 15, response[7]);
    match code == 0 && addresses > 0 {
        true => Ok(response),
        false => Err(format!("code {code}, {addresses} addresses")),
    }
}

/// Queries for different names without end, to which the upstream server does not respond, and many incomplete queries
/// by TCP.
// findings-2 S38
#[test]
fn questions_that_nobody_answers() {
    // No other test uses this address.
    let upstream = IpAddr::from([127, 0, 0, 77]);
    let _silent = UdpSocket::bind((upstream, 53)).unwrap();
    let (_registry, mut scene, kubectl, server) = scene(upstream);
    let mut open = Vec::new();
    while_another_pod_resolves_names((&kubectl, server), || {
        let sockets: Vec<UdpSocket> = (0..20)
            .map(|_| UdpSocket::bind("0.0.0.0:0").unwrap())
            .collect();
        for round in 0..40 {
            for number in 0..100 {
                for (index, socket) in sockets.iter().enumerate() {
                    let name = outside_name((round * 100 + number) * sockets.len() + index);
                    // A full queue drops queries.
                    drop(socket.send_to(&question(9, &name), server));
                }
                thread::sleep(Duration::from_millis(2));
            }
            for _ in 0..10 {
                open.push(half_a_question(server));
            }
        }
    });
    scene.wait_until_stable();
    scene.assert_withstood("questions that nobody answers");
    assert!(scene.refusals("dns_questions") > 0);
    assert!(scene.refusals("dns_connections") > 0);
}

/// A connection with the largest part of a query of the maximum length.
fn half_a_question(server: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(server).unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let mut bytes = u16::MAX.to_be_bytes().to_vec();
    bytes.extend(question(9, &outside_name(0)));
    bytes.resize(60_000, 0);
    // The server may have closed the connection in favour of newer connections.
    drop(stream.write_all(&bytes));
    stream
}

/// Responses of the maximum length, to more queries than the cache of the server has entries.
// findings-2 S38
#[test]
fn large_answers() {
    let upstream = IpAddr::from([127, 0, 0, 78]);
    let udp = UdpSocket::bind((upstream, 53)).unwrap();
    let tcp = TcpListener::bind((upstream, 53)).unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut bytes) {
            drop(udp.send_to(&truncated(&bytes[..length]), from));
        }
    });
    thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            thread::spawn(move || respond_by_tcp(stream));
        }
    });
    let (_registry, mut scene, kubectl, server) = scene(upstream);
    while_another_pod_resolves_names((&kubectl, server), || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let mut responses = 0;
        for round in 0..150 {
            for number in 0..10 {
                let name = outside_name(round * 10 + number);
                socket.send_to(&question(9, &name), server).unwrap();
            }
            let mut response = [0; 4096];
            responses += (0..10)
                .filter(|_| socket.recv(&mut response).is_ok())
                .count();
        }
        assert!(responses > 1000, "{responses}");
    });
    scene.wait_until_stable();
    scene.assert_withstood("large answers");
}

/// Responds to one query of a connection.
fn respond_by_tcp(mut stream: TcpStream) -> Option<()> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).ok()?;
    // The choice depends on the ID of the query, which is random.
    let response = match bytes[1] % 2 {
        0 => addresses(&bytes),
        _ => texts(&bytes),
    };
    let length = u16::try_from(response.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], &response].concat()).ok()
}
