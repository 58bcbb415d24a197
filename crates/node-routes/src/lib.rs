//! Keeps the routes to the pods of other nodes equal to the Node objects: each node with an address and a
//! pod range is a peer of [`PodNetwork::connect_peers`].

mod peers;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use controller_framework::{
    Cache, Controller, EventType, Queue, ReconcileResult, Recorder, run_controller,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube_api_client::Client;
pub use peers::annotations;
use pod_network::{Cidr, Peer, PeerSettings, PeerTransport, PodNetwork, UnreachedPeer};
use process_telemetry::Component;
use tokio::sync::{Mutex, watch};

/// Changes within this time are processed together.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// The interval of the checks of the kernel, because other programs may change links and routes.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// The reason of the event about a node without a route.
const UNREACHED: &str = "PodsOfNodeUnreachable";
/// The delay before another attempt after the kernel has rejected a change.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The settings of the routes.
#[derive(Clone)]
pub struct Config {
    /// The name of this node's object.
    pub node_name: String,
    /// The pod network of this node.
    pub network: Arc<PodNetwork>,
    /// The addresses of the pods of all nodes.
    pub cluster_cidr: Cidr,
    /// A receiver of this node's address.
    pub node_ip: watch::Receiver<IpAddr>,
    /// How packets reach other nodes: directly or in a tunnel.
    pub transport: PeerTransport,
}

/// Keeps the routes up to date until the component is shut down. A node without a route is no error: the
/// log and an event of this node contain its name.
pub fn run(client: Client, config: Config, component: Component) -> BoxFuture<'static, ()> {
    async move {
        let shutdown = component.shutdown.clone();
        let controller = NodeRoutes {
            nodes: Cache::<Node>::spawn_all(&client, &component),
            recorder: Recorder::spawn(client, "mainstay-routes", shutdown.clone()),
            config,
            connections: Mutex::default(),
        };
        let queue = Queue::of(&component, "node_routes");
        let work = run_controller(Arc::new(controller), queue, shutdown);
        component.watched("the ways to other nodes", work).await;
    }
    .boxed()
}

/// The controller of the kernel's routes to other nodes.
struct NodeRoutes {
    nodes: Cache<Node>,
    recorder: Recorder,
    config: Config,
    connections: Mutex<Connections>,
}

/// The result of the last reconciliation.
#[derive(Default)]
struct Connections {
    /// The peers that the kernel has; `None` before the first time and after a rejected change.
    connected: Option<Option<DesiredPeers>>,
    unreached: Vec<UnreachedPeer>,
}

/// The cause of a reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Cause {
    /// Node objects have changed.
    Nodes,
    /// The interval has passed, or this node's address has changed: the kernel is checked, too.
    Interval,
}

impl Controller for NodeRoutes {
    type Key = Cause;
    type Error = std::convert::Infallible;

    const WORKERS: usize = 1;

    async fn wait_synced(&self) -> bool {
        self.nodes.wait_synced().await
    }

    async fn feed(&self, queue: &Queue<Cause>) {
        let mut changes = self.nodes.subscribe();
        let mut node_ip = self.config.node_ip.clone();
        queue.add(Cause::Interval);
        loop {
            let cause = tokio::select! {
                change = changes.next() => match change {
                    Some(_) => Cause::Nodes,
                    None => return,
                },
                Ok(()) = node_ip.changed() => Cause::Interval,
            };
            queue.add_after(cause, DEBOUNCE);
        }
    }

    async fn reconcile(&self, cause: &Cause) -> Result<ReconcileResult, Self::Error> {
        let desired = desired_peers(&self.nodes, &self.config);
        let mut connections = self.connections.lock().await;
        if *cause == Cause::Nodes && connections.connected.as_ref() == Some(&desired) {
            return Ok(ReconcileResult::Done);
        }
        let unreached = match connect(&self.config.network, desired.as_ref()).await {
            Ok(unreached) => unreached,
            Err(error) => {
                warn(&error);
                connections.connected = None;
                return Ok(ReconcileResult::RequeueAfter(RETRY_DELAY));
            }
        };
        let node = &self.config.node_name;
        report(&connections.unreached, &unreached, &self.recorder, node);
        *connections = Connections {
            connected: Some(desired),
            unreached,
        };
        Ok(match cause {
            Cause::Nodes => ReconcileResult::Done,
            Cause::Interval => ReconcileResult::RequeueAfter(CHECK_INTERVAL),
        })
    }
}

/// The settings and the peers of this node.
#[derive(Clone, Debug, PartialEq)]
struct DesiredPeers {
    settings: PeerSettings,
    peers: Vec<Peer>,
}

/// `None` while the node has no IPv4 address.
fn desired_peers(nodes: &Cache<Node>, config: &Config) -> Option<DesiredPeers> {
    let IpAddr::V4(node_ip) = *config.node_ip.borrow() else {
        return None;
    };
    let nodes = nodes.list();
    let peers = peers::peers(nodes.iter().map(Arc::as_ref), &config.node_name);
    let settings = PeerSettings {
        transport: config.transport,
        ..PeerSettings::new(node_ip, config.cluster_cidr)
    };
    Some(DesiredPeers { settings, peers })
}

async fn connect(
    network: &PodNetwork,
    desired: Option<&DesiredPeers>,
) -> Result<Vec<UnreachedPeer>, pod_network::Error> {
    match desired {
        Some(DesiredPeers { settings, peers }) => network.connect_peers(settings, peers).await,
        None => Ok(Vec::new()),
    }
}

fn warn(cause: &(dyn std::error::Error + 'static)) {
    tracing::warn!(cause, "the routes to other nodes are not set");
}

/// Reports the nodes that have lost their route, or whose route is missing for another reason than before.
fn report(
    former: &[UnreachedPeer],
    current: &[UnreachedPeer],
    recorder: &Recorder,
    local_node: &str,
) {
    for peer in current.iter().filter(|peer| !former.contains(peer)) {
        let (node, cause) = (&peer.name, &peer.cause);
        tracing::warn!(node, cause, "no route to the pods of a node");
        let message = format!("Node {local_node} has no route to the pods of node {node}: {cause}");
        recorder.event(
            reference(local_node),
            EventType::Warning,
            UNREACHED,
            message,
        );
    }
}

/// The reference to a node in events: as in kubelet, its UID is the node's name.
fn reference(node: &str) -> ObjectReference {
    let mut object = Node::default();
    object.metadata.name = Some(node.to_owned());
    object.metadata.uid = Some(node.to_owned());
    controller_framework::reference(&object)
}
