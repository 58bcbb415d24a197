//! The connections of a node to its server: their number, and the silent failure of a machine. For the
//! failure, the link between two network namespaces is cut without a notification of either end. The tests
//! need root.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::convert::Infallible;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use certificates::{Authority, SubjectAltNames};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube_api_client::{Api, Event, PostParams, WatchConfig};
use kube_api_server::{ApiServer, Config, TlsMaterial, UserInfo};
use mvcc_store::embedded::EmbeddedStore;
use nix::sched::{CloneFlags, setns, unshare};
use node_identity::{Identity, Servers, renewed_client};
use rpc_channel::{Channel, ChannelOptions, KeepAlive};
use service_protocols::etcdserverpb::{WatchRequest, watch::WATCH};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Time limit in which each path detects the failure, on a busy machine.
const NOTICED: Duration = Duration::from_secs(15 + 15);
const PATIENCE: Duration = Duration::from_secs(240);

/// A network namespace that exists until the value is dropped.
struct Namespace {
    file: File,
    /// The thread that holds the namespace.
    thread: nix::unistd::Pid,
    _alive: mpsc::Sender<()>,
}

impl Namespace {
    fn new() -> Self {
        let (send, receive) = mpsc::channel();
        let (alive, wait) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            let result = unshare(CloneFlags::CLONE_NEWNET);
            send.send(result.map(|()| nix::unistd::gettid())).unwrap();
            wait.recv().unwrap_err();
        });
        let thread = receive.recv().unwrap().expect("root makes a namespace");
        let path = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
        let file = File::open(&path).unwrap();
        let namespace = Self {
            file,
            thread,
            _alive: alive,
        };
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs work in the namespace. Threads that it starts stay in the namespace.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// A runtime whose threads are in the namespace.
    fn runtime(&self) -> tokio::runtime::Runtime {
        self.run(|| {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(2).enable_all().build().unwrap()
        })
    }

    fn ip(&self, arguments: &str) {
        let run = || {
            let arguments = arguments.split_whitespace();
            Command::new("/usr/sbin/ip").args(arguments).output()
        };
        let output = self.run(run).unwrap();
        assert!(output.status.success(), "ip {arguments}: {output:?}");
    }
}

/// Runs work on a thread of a runtime, because the caller's thread is in another namespace.
fn on<T: Send + 'static>(
    runtime: &tokio::runtime::Runtime,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    runtime.block_on(runtime.spawn(work)).unwrap()
}

/// Two machines and the link between them.
struct Machines {
    server: Namespace,
    client: Namespace,
}

impl Machines {
    fn new() -> Self {
        let (server, client) = (Namespace::new(), Namespace::new());
        let pid = server.thread;
        client.ip(&format!("link add c type veth peer name s netns {pid}"));
        for (namespace, name, address) in [(&client, "c", 1), (&server, "s", 2)] {
            namespace.ip(&format!("addr add 198.51.100.{address}/24 dev {name}"));
            namespace.ip(&format!("link set {name} up"));
        }
        Self { server, client }
    }

    /// Cuts the link without a notification of either end.
    fn cut(&self) {
        self.server.ip("link set s down");
    }

    fn mend(&self) {
        self.server.ip("link set s up");
    }
}

/// A server, the CA certificate, and a client certificate.
async fn serve(address: Ipv4Addr) -> (SocketAddr, String, Identity, ServerEnd) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path()).unwrap();
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let names = SubjectAltNames::api_server("localhost", [address.ip()]);
    let identity = authority.server(&names).unwrap();
    let config = Config {
        tls: Some(TlsMaterial {
            certificate_pem: identity.certificate_pem().to_owned(),
            key_pem: identity.key_pem().to_owned(),
            client_ca_pem: authority.ca_pem().to_owned(),
        }),
        ..Config::in_process(EmbeddedStore::in_memory())
    };
    let server = ApiServer::new(config).await.unwrap();
    let end = CancellationToken::new();
    let (serving, stop) = (server.clone(), end.clone());
    tokio::spawn(async move { serving.serve(listener, stop).await });
    let client = authority.client("admin", &["system:masters"]).unwrap();
    let identity = Identity {
        certificate_pem: client.certificate_pem().to_owned(),
        key_pem: client.key_pem().to_owned(),
    };
    let ca_pem = authority.ca_pem().to_owned();
    let admin = server.local(UserInfo::new("admin", ["system:masters"]));
    let admin = kube_api_client::Client::new(admin, "default");
    (
        address,
        ca_pem,
        identity,
        ServerEnd {
            admin,
            end,
            _dir: dir,
        },
    )
}

/// A server that stops when the value is dropped.
struct ServerEnd {
    admin: kube_api_client::Client,
    end: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// findings-2 R26: the watches of a failed server end, and start again when the server is back.
#[test]
fn every_watch_notices_a_server_that_vanishes() {
    let machines = Machines::new();
    let (there, here) = (machines.server.runtime(), machines.client.runtime());
    let (address, ca_pem, identity, server) = on(&there, serve(SERVER));
    let servers = Servers::one(format!("https://{address}").parse().unwrap());
    let identity = watch::Sender::new(identity);
    let client = renewed_client(&servers, &ca_pem, identity.subscribe());
    let nodes: Api<Node> = Api::all(client);
    let mut watchers: Vec<_> = (0..20)
        .map(|_| nodes.watcher(WatchConfig::default()))
        .collect();
    let mut watchers = on(&here, async move {
        for events in &mut watchers {
            while !matches!(events.next().await.unwrap(), Event::InitDone) {}
        }
        // The watches are established, and no events follow.
        for events in &mut watchers {
            let begun = tokio::time::timeout(Duration::from_millis(300), events.next());
            assert!(begun.await.is_err());
        }
        watchers
    });
    machines.cut();
    let cut = Instant::now();
    let mut watchers = on(&here, async move {
        for events in &mut watchers {
            let ended = tokio::time::timeout(PATIENCE, events.next()).await;
            assert!(ended.unwrap().is_err());
        }
        watchers
    });
    let noticed = cut.elapsed();
    println!("noticed after {noticed:?}");
    assert!(noticed < NOTICED, "{noticed:?}");
    machines.mend();
    let all: Api<Node> = Api::all(server.admin.clone());
    on(&there, async move {
        let object = serde_json::json!({"metadata": {"name": "a"}});
        let object: Node = serde_json::from_value(object).unwrap();
        all.create(&PostParams::default(), &object).await.unwrap();
    });
    on(&here, async move {
        for events in &mut watchers {
            let again = async {
                while !matches!(events.next().await, Ok(Event::Apply(_))) {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            tokio::time::timeout(PATIENCE, again).await.unwrap();
        }
    });
}

/// findings-2 R26: both ends of a tunnel detect the failure of the other end.
#[test]
fn both_ends_of_a_tunnel_notice_that_the_other_vanishes() {
    let machines = Machines::new();
    let (there, here) = (machines.server.runtime(), machines.client.runtime());
    let listener = on(&there, async {
        TcpListener::bind((SERVER, 0)).await.unwrap()
    });
    let address = listener.local_addr().unwrap();
    let (opened, is_open) = tokio::sync::oneshot::channel();
    let server = there.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (tunnel, running) = node_tunnel::open(TokioIo::new(stream)).await.unwrap();
        opened.send(tunnel).unwrap();
        let _ended = running.await;
        Instant::now()
    });
    let node = here.spawn(async move {
        let stream = TcpStream::connect(address).await.unwrap();
        let _ended = node_tunnel::serve(TokioIo::new(stream), address).await;
        Instant::now()
    });
    let tunnel = here.block_on(is_open).unwrap();
    assert!(tunnel.is_open());
    machines.cut();
    let cut = Instant::now();
    for end in [
        there.block_on(server).unwrap(),
        here.block_on(node).unwrap(),
    ] {
        let noticed = end - cut;
        println!("noticed after {noticed:?}");
        assert!(noticed < NOTICED, "{noticed:?}");
    }
    drop(tunnel);
}

/// findings-2 R26: a gRPC stream, such as a watch of etcd, ends.
#[test]
fn a_stream_of_grpc_notices_a_server_that_vanishes() {
    let machines = Machines::new();
    let (there, here) = (machines.server.runtime(), machines.client.runtime());
    let listener = on(&there, async {
        TcpListener::bind((SERVER, 0)).await.unwrap()
    });
    let address = listener.local_addr().unwrap();
    there.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(|_: Request<Incoming>| async {
            let silent = futures::stream::pending::<Result<Frame<Bytes>, Infallible>>();
            Ok::<_, Infallible>(Response::new(StreamBody::new(silent)))
        });
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ended = http.serve_connection(TokioIo::new(stream), service).await;
    });
    let options = ChannelOptions {
        keep_alive: Some(KeepAlive {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
        }),
        headers: &[],
        message_bytes_max: 1024,
    };
    let (base, limit) = (format!("http://{address}"), PATIENCE);
    let mut stream = on(&here, async move {
        let stream = TcpStream::connect(address).await.unwrap();
        let channel = Channel::over(stream, base, options).await.unwrap();
        let request = WatchRequest::default();
        channel.stream(WATCH, &request, limit).await.unwrap()
    });
    machines.cut();
    let cut = Instant::now();
    let ended = on(&here, async move {
        tokio::time::timeout(PATIENCE, stream.next()).await
    });
    assert!(ended.unwrap().is_err());
    let noticed = cut.elapsed();
    println!("noticed after {noticed:?}");
    assert!(noticed < NOTICED, "{noticed:?}");
}

/// An address that forwards to the server, and the number of connections through it so far.
async fn counted(server: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut onward = TcpStream::connect(server).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut client, &mut onward).await;
            });
        }
    });
    (address, count)
}

/// findings-2 S39: the limits of the client and of the server together.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_watches_share_connections_and_the_lease_has_its_own() {
    let (address, ca_pem, identity, server) = serve(Ipv4Addr::LOCALHOST).await;
    let (address, connections) = counted(address).await;
    let servers = Servers::one(format!("https://{address}").parse().unwrap());
    let identity = watch::Sender::new(identity);
    let client = renewed_client(&servers, &ca_pem, identity.subscribe());
    let (listed, mut lists) = tokio::sync::mpsc::unbounded_channel();
    let mut watching = tokio::task::JoinSet::new();
    for number in 0..700 {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let mut events =
            maps.watcher(WatchConfig::default().fields(&format!("metadata.name=m{number}")));
        let listed = listed.clone();
        watching.spawn(async move {
            while !matches!(events.next().await.unwrap(), Event::InitDone) {}
            listed.send(number).unwrap();
            assert!(matches!(events.next().await.unwrap(), Event::Apply(_)));
            events
        });
    }
    // An event shows that its watch is open.
    let maps: Api<ConfigMap> = Api::namespaced(server.admin.clone(), "default");
    let all_open = async {
        for _ in 0..700 {
            let number = lists.recv().await.unwrap();
            let map = serde_json::json!({"metadata": {"name": format!("m{number}")}});
            let map: ConfigMap = serde_json::from_value(map).unwrap();
            maps.create(&PostParams::default(), &map).await.unwrap();
        }
        watching.join_all().await
    };
    let events = tokio::time::timeout(PATIENCE, all_open).await.unwrap();
    let of_watches = connections.load(Ordering::Relaxed);
    println!("{of_watches} connections");
    assert!((7..=20).contains(&of_watches), "{of_watches} connections");
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    client.get::<serde_json::Value>(lease).await.unwrap();
    assert_eq!(connections.load(Ordering::Relaxed), of_watches + 1);
    client.get::<serde_json::Value>(lease).await.unwrap();
    assert_eq!(connections.load(Ordering::Relaxed), of_watches + 1);
    drop(events);
}
