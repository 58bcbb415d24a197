//! Queries over real sockets on loopback addresses.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cluster_dns::{Config, Server, limits};
use controller_framework::Cache;
use futures::channel::mpsc;
use futures::stream::{self, StreamExt};
use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_api_client::Event;
use process_telemetry::{Health, SlowPolls};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

fn service(name: &str, spec: Value) -> Service {
    let metadata =
        json!({ "name": name, "namespace": "default", "uid": name, "resourceVersion": "1" });
    serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
}

/// The slice of the headless Service `nginx` with `count` endpoints `web-<n>`.
fn nginx(count: u8) -> EndpointSlice {
    let endpoint = |n: u8| json!({ "addresses": [format!("10.244.0.{}", n + 10)], "hostname": format!("web-{n}") });
    serde_json::from_value(json!({
        "metadata": {
            "name": "nginx-1", "namespace": "default", "uid": "nginx-1", "resourceVersion": count.to_string(),
            "labels": { "kubernetes.io/service-name": "nginx" },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 80 }],
        "endpoints": (0..count).map(endpoint).collect::<Vec<_>>(),
    }))
    .unwrap()
}

/// A running server, and its input.
struct Harness {
    address: SocketAddr,
    slices: mpsc::UnboundedSender<Event<EndpointSlice>>,
    shutdown: CancellationToken,
    done: tokio::task::JoinHandle<()>,
    _slow_polls: NoSlowPolls,
}

/// findings A9: maximum duration of a poll of the server.
const POLL_MAX: Duration = Duration::from_millis(50);

/// Fails the test if there was a slow poll.
struct NoSlowPolls(Arc<SlowPolls>);

impl Drop for NoSlowPolls {
    fn drop(&mut self) {
        let slow = self.0.recorded();
        assert!(slow.is_empty() || std::thread::panicking(), "{slow:?}");
    }
}

impl Harness {
    async fn new(upstreams: Vec<SocketAddr>) -> Harness {
        let harness = Harness::unsynced(upstreams).await;
        for event in [Event::Init, Event::InitApply(nginx(2)), Event::InitDone] {
            harness.slices.unbounded_send(event).unwrap();
        }
        harness
            .until(
                "web-0.nginx.default.svc.cluster.local",
                ResponseCode::NoError,
            )
            .await;
        harness
    }

    async fn unsynced(upstreams: Vec<SocketAddr>) -> Harness {
        let config = Config {
            domain: "cluster.local".to_owned(),
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            addresses: vec!["10.96.0.10".parse().unwrap()],
            ranges: vec![
                "10.244.0.0/24".parse().unwrap(),
                "10.96.0.0/16".parse().unwrap(),
            ],
            upstreams: Some(upstreams),
            clients: Vec::new(),
            resolv_conf: "/does/not/exist".into(),
            zone_file: None,
        };
        let server = Server::bind(config).await.unwrap();
        let address = server.addresses()[0];
        let all = [
            service("nginx", json!({ "clusterIP": "None" })),
            service(
                "web",
                json!({ "clusterIP": "10.96.0.5", "ports": [{ "port": 80 }] }),
            ),
            service(
                "away",
                json!({ "type": "ExternalName", "externalName": "example.com" }),
            ),
            service(
                "near",
                json!({
                    "type": "ExternalName", "externalName": "web.default.svc.cluster.local",
                }),
            ),
            service(
                "loop",
                json!({
                    "type": "ExternalName", "externalName": "loop.default.svc.cluster.local",
                }),
            ),
        ];
        let events = [Event::Init].into_iter().chain(all.map(Event::InitApply));
        let services = stream::iter(events.chain([Event::InitDone])).chain(stream::pending());
        let namespaces = stream::iter([Event::Init, Event::InitDone]).chain(stream::pending());
        let (slices, receive) = mpsc::unbounded();
        let shutdown = CancellationToken::new();
        let slow_polls = SlowPolls::new(POLL_MAX);
        let serving = server.serve(
            Cache::from_events(namespaces),
            Cache::from_events(services),
            Cache::from_events(receive),
            Health::watched_by(slow_polls.clone()).component("DNS server", shutdown.clone()),
        );
        Harness {
            _slow_polls: NoSlowPolls(slow_polls),
            address,
            slices,
            shutdown,
            done: tokio::spawn(serving),
        }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.send(&question(name, kind)).await
    }

    async fn send(&self, question: &Message) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket
            .send_to(&question.to_vec().unwrap(), self.address)
            .await
            .unwrap();
        let mut buffer = vec![0; 65_535];
        let received = tokio::time::timeout(Duration::from_secs(240), socket.recv(&mut buffer));
        let length = received.await.expect("an answer").unwrap();
        let response = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(response.metadata.id, question.metadata.id);
        response
    }

    async fn until(&self, name: &str, code: ResponseCode) {
        for _ in 0..120_000 {
            if self.ask(name, RecordType::A).await.metadata.response_code == code {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("{name} never was {code}");
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.done.await.unwrap();
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(
        Name::from_ascii(format!("{name}.")).unwrap(),
        kind,
    ));
    message
}

fn addresses(message: &Message) -> Vec<String> {
    let address = |record: &Record| match &record.data {
        RData::A(A(ip)) => ip.to_string(),
        other => other.to_string(),
    };
    message.answers.iter().map(address).collect()
}

/// An upstream server that resolves `example.com` and counts its queries.
async fn upstream() -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let query_count = Arc::new(AtomicUsize::new(0));
    let counter = query_count.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let mut reply = Message::response(question.metadata.id, OpCode::Query);
            reply.queries = question.queries.clone();
            let name = question.queries[0].name.clone();
            if name.to_ascii().to_lowercase() == "example.com." {
                let data = RData::A(A([192, 0, 2, 80].into()));
                reply.add_answer(Record::from_rdata(name, 60, data));
            } else {
                reply.metadata.response_code = ResponseCode::NXDomain;
            }
            socket
                .send_to(&reply.to_vec().unwrap(), client)
                .await
                .unwrap();
        }
    });
    (address, query_count)
}

#[tokio::test]
async fn names_of_the_cluster_are_answered_and_follow_changes() {
    let harness = Harness::new(vec![]).await;
    let response = harness
        .ask("WEB-0.nginx.default.svc.Cluster.Local", RecordType::A)
        .await;
    assert_eq!(addresses(&response), ["10.244.0.10"]);
    assert!(response.metadata.authoritative && response.metadata.recursion_available);
    assert_eq!(response.answers[0].ttl, 5);
    let name = response.queries[0].name.to_ascii();
    assert_eq!(
        name, "WEB-0.nginx.default.svc.Cluster.Local.",
        "the case is kept"
    );
    let nothing = harness
        .ask("web-0.nginx.default.svc.cluster.local", RecordType::AAAA)
        .await;
    assert_eq!(nothing.metadata.response_code, ResponseCode::NoError);
    assert_eq!(nothing.authorities[0].record_type(), RecordType::SOA);
    let missing = harness
        .ask("web-7.nginx.default.svc.cluster.local", RecordType::A)
        .await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(
        missing.authorities[0].ttl, 1,
        "no one may keep a missing peer for long"
    );
    // kubectl.md 9.5: older clients print the names of addresses.
    let pointer = harness
        .ask("11.0.244.10.in-addr.arpa", RecordType::PTR)
        .await;
    assert_eq!(
        addresses(&pointer),
        ["web-1.nginx.default.svc.cluster.local."]
    );
    let started = Instant::now();
    harness
        .slices
        .unbounded_send(Event::Apply(nginx(3)))
        .unwrap();
    harness
        .until(
            "web-2.nginx.default.svc.cluster.local",
            ResponseCode::NoError,
        )
        .await;
    println!("a new endpoint was in DNS after {:?}", started.elapsed());
    harness
        .slices
        .unbounded_send(Event::Delete(nginx(3)))
        .unwrap();
    harness
        .until(
            "web-2.nginx.default.svc.cluster.local",
            ResponseCode::NXDomain,
        )
        .await;
    harness.stop().await;
}

#[tokio::test]
async fn addresses_of_a_headless_service_come_in_turn() {
    let harness = Harness::new(vec![]).await;
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let response = harness
            .ask("nginx.default.svc.cluster.local", RecordType::A)
            .await;
        assert_eq!(response.answers.len(), 2);
        first.insert(addresses(&response)[0].clone());
    }
    assert_eq!(first.len(), 2);
}

#[tokio::test]
async fn before_anything_is_known_no_name_is_denied() {
    let harness = Harness::unsynced(vec![]).await;
    let response = harness
        .ask("web.default.svc.cluster.local", RecordType::A)
        .await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn other_names_are_asked_elsewhere_and_kept_a_while() {
    let (address, query_count) = upstream().await;
    let harness = Harness::new(vec![address]).await;
    for _ in 0..3 {
        let response = harness.ask("Example.com", RecordType::A).await;
        assert_eq!(addresses(&response), ["192.0.2.80"]);
        assert!(!response.metadata.authoritative);
        assert!(response.answers[0].ttl <= 60 && response.answers[0].ttl > 0);
    }
    assert_eq!(query_count.load(Ordering::SeqCst), 1);
    let unknown = harness.ask("unknown.example", RecordType::A).await;
    assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
    let alias = harness
        .ask("away.default.svc.cluster.local", RecordType::A)
        .await;
    assert_eq!(addresses(&alias), ["example.com.", "192.0.2.80"]);
    let alias = harness
        .ask("near.default.svc.cluster.local", RecordType::A)
        .await;
    assert_eq!(
        addresses(&alias),
        ["web.default.svc.cluster.local.", "10.96.0.5"]
    );
    let alias = harness
        .ask("loop.default.svc.cluster.local", RecordType::A)
        .await;
    assert!(
        alias.answers.len() <= limits::ALIASES_MAX,
        "an alias of itself comes to an end"
    );
}

#[tokio::test]
async fn without_servers_elsewhere_other_names_do_not_exist() {
    let harness = Harness::new(vec![]).await;
    let response = harness.ask("example.com", RecordType::A).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
    let local = harness.ask("localhost", RecordType::A).await;
    assert_eq!(addresses(&local), ["127.0.0.1"]);
}

#[tokio::test]
async fn a_dead_server_elsewhere_is_left_alone_after_two_failures() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let harness = Harness::new(vec![silent.local_addr().unwrap()]).await;
    let mut begun = Instant::now();
    for is_asked in [true, true, false, false] {
        if is_asked {
            begun = Instant::now();
        }
        let response = harness.ask("example.com", RecordType::A).await;
        assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
        let received = silent.try_recv(&mut [0; 512]).is_ok();
        while silent.try_recv(&mut [0; 512]).is_ok() {}
        let may_be_over = begun.elapsed() >= limits::UPSTREAM_PAUSE;
        assert!(received == is_asked || may_be_over, "asked: {received}");
    }
}

/// Redis Sentinel blocks while it resolves a name, and does nothing for 30 s after it was blocked for 2 s.
#[tokio::test]
async fn a_dead_server_elsewhere_does_not_delay_names_of_absent_pods() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let harness = Harness::new(vec![silent.local_addr().unwrap()]).await;
    for kind in [RecordType::A, RecordType::AAAA] {
        let response = harness.ask("web-9.nginx", kind).await;
        assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
    }
    // Each pause ends with a trial. A requester that waited for the end of the trial would get no response before.
    let mut trials = 0;
    loop {
        while silent.try_recv(&mut [0; 512]).is_ok() {}
        let begun = Instant::now();
        let response = harness.ask("web-9.nginx", RecordType::A).await;
        assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
        if silent.try_recv(&mut [0; 512]).is_ok() {
            if begun.elapsed() < limits::UPSTREAM_TIMEOUT {
                break;
            }
            trials += 1;
            assert!(trials < 24, "requesters wait for the end of a trial");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A server that responds later than the timeout of a trial is still detected as healthy.
#[tokio::test]
async fn a_slow_server_elsewhere_comes_back_after_a_pause() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let harness = Harness::new(vec![server.local_addr().unwrap()]).await;
    for _ in 0..limits::UPSTREAM_FAILURES_MAX {
        let lookup = harness.ask("example.com", RecordType::A).await;
        assert_eq!(lookup.metadata.response_code, ResponseCode::ServFail);
    }
    while server.try_recv(&mut [0; 512]).is_ok() {}
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, client) = server.recv_from(&mut buffer).await.unwrap();
            tokio::time::sleep(2 * limits::UPSTREAM_TRIAL).await;
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let mut lookup = Message::response(question.metadata.id, OpCode::Query);
            lookup.queries = question.queries.clone();
            let name = question.queries[0].name.clone();
            let data = RData::A(A([192, 0, 2, 80].into()));
            lookup.add_answer(Record::from_rdata(name, 60, data));
            let lookup = lookup.to_vec().unwrap();
            server.send_to(&lookup, client).await.unwrap();
        }
    });
    harness.until("example.com", ResponseCode::NoError).await;
}

#[tokio::test]
async fn a_question_that_comes_back_does_not_go_round() {
    let relay = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let harness = Harness::new(vec![relay.local_addr().unwrap()]).await;
    let (address, query_count) = (harness.address, Arc::new(AtomicUsize::new(0)));
    let counter = query_count.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, _) = relay.recv_from(&mut buffer).await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            back.send_to(&buffer[..length], address).await.unwrap();
        }
    });
    let response = harness.ask("example.com", RecordType::A).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(query_count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn large_answers_are_cut_by_udp_and_whole_by_tcp() {
    let harness = Harness::new(vec![]).await;
    harness
        .slices
        .unbounded_send(Event::Apply(nginx(200)))
        .unwrap();
    harness
        .until(
            "web-199.nginx.default.svc.cluster.local",
            ResponseCode::NoError,
        )
        .await;
    let name = "nginx.default.svc.cluster.local";
    let small = harness.ask(name, RecordType::A).await;
    assert!(
        small.metadata.truncation && small.answers.len() > 20,
        "{}",
        small.answers.len()
    );
    let mut message = question(name, RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    let larger = harness.send(&message).await;
    assert!(larger.metadata.truncation && larger.answers.len() > small.answers.len());
    assert!(larger.edns.is_some());
    let mut stream = TcpStream::connect(harness.address).await.unwrap();
    for kind in [RecordType::A, RecordType::SRV] {
        let bytes = question(name, kind).to_vec().unwrap();
        stream
            .write_u16(u16::try_from(bytes.len()).unwrap())
            .await
            .unwrap();
        stream.write_all(&bytes).await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut buffer = vec![0; usize::from(length)];
        stream.read_exact(&mut buffer).await.unwrap();
        let whole = Message::from_vec(&buffer).unwrap();
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 200);
    }
}

#[tokio::test]
async fn bad_packets_and_idle_connections_do_no_harm() {
    let harness = Harness::new(vec![]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in 0..80 {
        socket
            .send_to(&vec![0x5a; length], harness.address)
            .await
            .unwrap();
        socket
            .send_to(&vec![0; length], harness.address)
            .await
            .unwrap();
    }
    let mut idle = Vec::new();
    for _ in 0..limits::TCP_CONNECTIONS_MAX + 20 {
        idle.push(TcpStream::connect(harness.address).await.unwrap());
    }
    let response = harness
        .ask("web.default.svc.cluster.local", RecordType::A)
        .await;
    assert_eq!(addresses(&response), ["10.96.0.5"]);
    harness.stop().await;
}

/// findings-2 S40: if a client opens too many connections, only connections of this client are closed.
#[tokio::test]
async fn a_client_with_too_many_connections_closes_its_own() {
    let harness = Harness::new(vec![]).await;
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = other.connect(harness.address).await.unwrap();
    let mut many = Vec::new();
    for _ in 0..limits::TCP_CONNECTIONS_MAX {
        many.push(TcpStream::connect(harness.address).await.unwrap());
    }
    let closed = many[0].read(&mut [0]).await.unwrap();
    assert_eq!(closed, 0, "the oldest one is closed");
    let question = question("web.default.svc.cluster.local", RecordType::A);
    let question = question.to_vec().unwrap();
    let length = u16::try_from(question.len()).unwrap();
    other.write_u16(length).await.unwrap();
    other.write_all(&question).await.unwrap();
    assert!(
        other.read_u16().await.unwrap() > 0,
        "the other one is answered"
    );
    harness.stop().await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_says_so() {
    // An address that no other program uses: its port is free for TCP.
    let other_socket = UdpSocket::bind("127.35.4.6:0").await.unwrap();
    let config = Config {
        domain: "cluster.local".to_owned(),
        listen: vec![other_socket.local_addr().unwrap()],
        addresses: vec![],
        ranges: vec![],
        upstreams: None,
        clients: Vec::new(),
        resolv_conf: "/etc/resolv.conf".into(),
        zone_file: None,
    };
    let error = Server::bind(config).await.err().unwrap();
    assert!(error.to_string().ends_with("(udp)"), "{error}");
}
