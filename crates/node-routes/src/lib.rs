//! Keeps the ways to the pods of other nodes in step with the Node objects: each node with an address and
//! a range of pods is a peer of [`PodNetwork::connect_peers`].

mod peers;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api_client::Client;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
pub use peers::annotations;
use pod_network::{Cidr, Peer, PeerSettings, PeerTransport, PodNetwork, UnreachedPeer};
use reconcile::{Cache, Component, EventType, Recorder};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Changes that come together are carried out together.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// The time between two looks at the kernel, whose links and routes others may change.
const LOOK: Duration = Duration::from_secs(30);
/// The reason of the event about a node without a way.
const UNREACHED: &str = "PodsOfNodeUnreachable";
/// The time before another attempt after a refusal by the kernel.
const RETRY: Duration = Duration::from_secs(1);

/// The settings of the ways.
#[derive(Clone)]
pub struct Config {
    /// The name of this node's object.
    pub node_name: String,
    /// The pods' network of this node.
    pub network: Arc<PodNetwork>,
    /// The addresses of the pods of all nodes.
    pub cluster_cidr: Cidr,
    /// The address of this node, now and from now on.
    pub node_ip: watch::Receiver<IpAddr>,
    /// The transport to them.
    pub transport: PeerTransport,
}

/// Keeps the ways until the end of its part. A node without a way is no error: the log and an event of this
/// node name it.
pub fn run(client: Client, config: Config, component: Component) -> BoxFuture<'static, ()> {
    async move {
        let nodes = Cache::<Node>::spawn_all(&client, &component);
        let shutdown = component.shutdown.clone();
        let recorder = Recorder::spawn(client, "mainstay-routes", shutdown.clone());
        let work = async move {
            let keeping = keep(nodes, config, &recorder);
            shutdown.run_until_cancelled(keeping).await;
        };
        component.watched("the ways to other nodes", work).await;
    }
    .boxed()
}

async fn keep(nodes: Cache<Node>, mut config: Config, recorder: &Recorder) {
    if !nodes.wait_synced().await {
        return;
    }
    let mut changes = nodes.subscribe();
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut connected, mut unreached) = (None, Vec::new());
    loop {
        let is_look = tokio::select! {
            change = changes.next() => match change {
                Some(_) => false,
                None => return,
            },
            Ok(()) = config.node_ip.changed() => true,
            _ = tick.tick() => true,
        };
        sleep(DEBOUNCE).await;
        let wanted = wanted(&nodes, &config);
        if !is_look && connected.as_ref() == Some(&wanted) {
            continue;
        }
        let now = connect(&config.network, &wanted).await;
        report(&unreached, &now, recorder, &config.node_name);
        (connected, unreached) = (Some(wanted), now);
    }
}

/// The settings and the peers of this node; none while it has no IPv4 address.
type Wanted = Option<(PeerSettings, Vec<Peer>)>;

fn wanted(nodes: &Cache<Node>, config: &Config) -> Wanted {
    let IpAddr::V4(own) = *config.node_ip.borrow() else {
        return None;
    };
    let nodes = nodes.list();
    let others = nodes.iter().map(Arc::as_ref);
    let peers = peers::of(others, &config.node_name);
    let settings = PeerSettings {
        transport: config.transport,
        ..PeerSettings::new(own, config.cluster_cidr)
    };
    Some((settings, peers))
}

async fn connect(network: &PodNetwork, wanted: &Wanted) -> Vec<UnreachedPeer> {
    let Some((settings, peers)) = wanted else {
        return Vec::new();
    };
    loop {
        match network.connect_peers(settings, peers).await {
            Ok(unreached) => return unreached,
            Err(error) => {
                warn(&error);
                sleep(RETRY).await;
            }
        }
    }
}

fn warn(cause: &(dyn std::error::Error + 'static)) {
    tracing::warn!(cause, "the ways to other nodes are not made");
}

/// Names the nodes that have lost their way, or have another reason for that.
fn report(before: &[UnreachedPeer], now: &[UnreachedPeer], recorder: &Recorder, own: &str) {
    for peer in now.iter().filter(|peer| !before.contains(peer)) {
        let (node, cause) = (&peer.name, &peer.cause);
        tracing::warn!(node, cause, "no way to the pods of a node");
        let message = format!("Node {own} has no way to the pods of node {node}: {cause}");
        recorder.event(reference(own), EventType::Warning, UNREACHED, message);
    }
}

/// The node as events name it: its name stands for its uid, as in kubelet's.
fn reference(node: &str) -> ObjectReference {
    let mut object = Node::default();
    object.metadata.name = Some(node.to_owned());
    object.metadata.uid = Some(node.to_owned());
    reconcile::reference(&object)
}
