//! The properties of nodes on which the rules of a node depend: the zone of this node, and the addresses of
//! all nodes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use controller_framework::Cache;
use k8s_openapi::api::core::v1::Node;
use kube_api_client::Client;
use process_telemetry::Component;
use tokio::sync::watch;

use crate::follow::follow;

/// The label with the zone of a node.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The properties of the nodes, for the rules of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    /// The zone of this node.
    pub(crate) zone: Option<String>,
    /// The addresses of this node.
    pub(crate) local: BTreeSet<Ipv4Addr>,
    /// The addresses of the other nodes.
    pub(crate) others: BTreeSet<Ipv4Addr>,
}

/// A receiver of the properties; `None` until the list of nodes is complete.
pub(crate) type NodeReceiver = watch::Receiver<Option<NodeFacts>>;

/// A single node without a zone, which never changes.
pub(crate) fn none() -> NodeReceiver {
    watch::Sender::new(Some(NodeFacts::default())).subscribe()
}

/// The properties for the node with this name.
pub(crate) fn watch(client: &Client, node_name: &str, component: &Component) -> NodeReceiver {
    let nodes: Cache<Node> = Cache::spawn_all(client, component);
    facts(nodes, node_name, component)
}

/// The properties from the Node objects of a cache.
pub(crate) fn facts(nodes: Cache<Node>, node_name: &str, component: &Component) -> NodeReceiver {
    let node_name = node_name.to_owned();
    follow(nodes, component, move |nodes| Some(read(&node_name, nodes)))
}

fn read(node_name: &str, nodes: &Cache<Node>) -> NodeFacts {
    let mut facts = NodeFacts::default();
    for node in nodes.list() {
        if node.metadata.name.as_deref() == Some(node_name) {
            let labels = node.metadata.labels.as_ref();
            facts.zone = labels.and_then(|labels| labels.get(ZONE).cloned());
            facts.local.extend(addresses(&node));
        } else {
            facts.others.extend(addresses(&node));
        }
    }
    facts
}

fn addresses(node: &Node) -> impl Iterator<Item = Ipv4Addr> {
    let status = node.status.iter();
    let all = status.flat_map(|status| status.addresses.iter().flatten());
    all.filter_map(|entry| entry.address.parse().ok())
}
