//! The Node objects that decide about requests of nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use resource_kinds::certificates::{Request, signer};

const USER: &str = "system:node:";

/// The names and addresses of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names in lower case.
    pub dns: BTreeSet<String>,
    /// IP addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// The facts beside a request that decide about it.
#[derive(Clone, Copy, Debug)]
pub struct NodeCertificateContext<'a> {
    /// The Node objects.
    pub nodes: &'a [Arc<Node>],
    /// The last heartbeat of the node that the request names, if it is known.
    pub heartbeat: Option<Timestamp>,
    /// The names of the API server, which no node may have.
    pub server: &'a Names,
}

/// The node that an undecided request of a node's signer names by its user; `None` for other requests.
pub fn asks_for_node(request: &CertificateSigningRequest) -> Option<String> {
    let spec = &request.spec;
    let conditions = request
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    if conditions.is_some_and(|all| !all.is_empty()) {
        return None;
    }
    match spec.signer_name.as_str() {
        signer::NODE_CLIENT | signer::NODE_SERVING => {
            let asked = Request::parse(&spec.request.0).ok()?;
            asked.common_name.strip_prefix(USER).map(str::to_owned)
        }
        _ => None,
    }
}

impl NodeCertificateContext<'_> {
    fn node(&self, name: &str) -> Option<&Node> {
        let mut nodes = self.nodes.iter();
        let found = nodes.find(|node| node.metadata.name.as_deref() == Some(name));
        found.map(AsRef::as_ref)
    }

    /// Says that a user's node exists and is alive, with its last heartbeat.
    pub(super) fn alive(&self, user: &str) -> Option<String> {
        let name = user.strip_prefix(USER)?;
        let status = self.node(name)?.status.as_ref()?;
        let mut conditions = status.conditions.iter().flatten();
        let ready = conditions.find(|condition| condition.type_ == "Ready")?;
        if ready.status == "Unknown" {
            return None;
        }
        let heard = ready.last_heartbeat_time.as_ref().map(|time| time.0);
        let heard = self.heartbeat.or(heard);
        let heard = heard.map_or_else(String::new, |at| {
            format!("; its last heartbeat was at {at}")
        });
        Some(format!(
            "a node of the name {name} is alive{heard}. Delete the Node if its machine is gone, or \
             choose another name"
        ))
    }

    /// Whether the names and addresses of a server certificate are those of the node: its name, and
    /// the addresses of its Node object that neither another Node nor the API server has.
    pub(super) fn serving_names_fit(&self, asked: &Request) -> bool {
        let Some(name) = asked.common_name.strip_prefix(USER) else {
            return false;
        };
        let Some(node) = self.node(name) else {
            return false;
        };
        let own: BTreeSet<IpAddr> = addresses(node).collect();
        let others = self
            .nodes
            .iter()
            .filter(|other| other.metadata.name != node.metadata.name);
        let others: BTreeSet<IpAddr> = others.flat_map(|other| addresses(other)).collect();
        let of_server = |dns: &str| self.server.dns.contains(&dns.to_ascii_lowercase());
        let is_own = |address: &IpAddr| {
            own.contains(address)
                && !address.is_loopback()
                && !others.contains(address)
                && !self.server.addresses.contains(address)
        };
        asked.dns.iter().all(|dns| dns == name && !of_server(dns))
            && asked.addresses.iter().all(is_own)
    }
}

/// The addresses in a Node's status.
fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let status = node.status.iter();
    let listed = status.flat_map(|status| status.addresses.iter().flatten());
    let addresses = listed.filter(|one| matches!(one.type_.as_str(), "InternalIP" | "ExternalIP"));
    addresses.filter_map(|one| one.address.parse().ok())
}
