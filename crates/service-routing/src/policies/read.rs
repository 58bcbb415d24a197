//! NetworkPolicies and pods, parsed into plain values.

use std::net::Ipv4Addr;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as ApiSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use object_model::LabelSelector;
use object_model::cidr::Cidr;
use resource_kinds::pod_view::{Labels, PodView, Text};

use crate::host_ports::container_ports;
use crate::model::{Direction, Protocol};

/// Maximum length of the name of a pod's port; a longer name in a policy matches no port.
const PORT_NAME_BYTES_MAX: usize = 15;

/// A NetworkPolicy, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Namespace of the policy, whose pods it selects.
    pub namespace: String,
    /// Name of the policy.
    pub name: String,
    /// The UID of the policy; part of the names of its chains and sets.
    pub uid: String,
    pods: LabelSelector,
    ingress: Option<Vec<PolicyRule>>,
    egress: Option<Vec<PolicyRule>>,
}

/// A rule of a policy: a connection passes if one of the peers and one of the ports match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PolicyRule {
    /// The other ends; `None` for all.
    pub(super) peers: Option<Vec<Peer>>,
    /// The destination ports; `None` for all, of all protocols.
    pub(super) ports: Option<Vec<Port>>,
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Pods {
        /// Their namespaces; `None` for the namespace of the policy.
        namespaces: Option<LabelSelector>,
        /// Their labels.
        pods: LabelSelector,
    },
    /// Addresses.
    Block {
        range: Cidr,
        /// The excluded parts of the range.
        except: Vec<Cidr>,
    },
}

/// The destination ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// All ports of a protocol.
    All(Protocol),
    /// The ports from the first to the last.
    Range(Protocol, u16, u16),
    /// The ports to which the destination pod gives the name.
    Named(Protocol, String),
}

impl Policy {
    /// Parses a policy. An invalid part matches nothing, so that no connection passes by mistake.
    pub fn of(policy: &NetworkPolicy) -> Policy {
        let spec = policy.spec.clone().unwrap_or_default();
        let types = spec.policy_types.unwrap_or_default();
        let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
        let concerns = |direction: &str, by_default: bool| match types.is_empty() {
            true => by_default,
            false => types.iter().any(|kind| kind == direction),
        };
        let ingress = spec.ingress.unwrap_or_default().into_iter();
        let ingress = ingress.map(|rule| PolicyRule::new(rule.from, rule.ports));
        let egress = spec.egress.unwrap_or_default().into_iter();
        let egress = egress.map(|rule| PolicyRule::new(rule.to, rule.ports));
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Policy {
            namespace: text(&policy.metadata.namespace),
            name: text(&policy.metadata.name),
            uid: text(&policy.metadata.uid),
            pods: match &spec.pod_selector {
                Some(pods) => selector(pods),
                None => LabelSelector::everything(),
            },
            ingress: concerns("Ingress", true).then(|| ingress.collect()),
            egress: concerns("Egress", has_egress).then(|| egress.collect()),
        }
    }

    /// Whether the policy selects the pod.
    pub fn selects(&self, pod: &PolicyPod) -> bool {
        *pod.namespace == *self.namespace && pod.matches(&self.pods)
    }

    /// The rules for a direction; `None` if the policy does not restrict the direction.
    pub(super) fn rules(&self, direction: Direction) -> Option<&[PolicyRule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

impl PolicyRule {
    /// An empty list matches everything, as an absent list does.
    fn new(
        peers: Option<Vec<NetworkPolicyPeer>>,
        ports: Option<Vec<NetworkPolicyPort>>,
    ) -> PolicyRule {
        let peers = peers.filter(|peers| !peers.is_empty());
        let ports = ports.filter(|ports| !ports.is_empty());
        PolicyRule {
            peers: peers.map(|peers| peers.iter().filter_map(Peer::from_spec).collect()),
            ports: ports.map(|ports| ports.iter().filter_map(Port::from_spec).collect()),
        }
    }
}

impl Peer {
    fn from_spec(peer: &NetworkPolicyPeer) -> Option<Peer> {
        if let Some(block) = &peer.ip_block {
            return Peer::block(block);
        }
        let namespaces = peer.namespace_selector.as_ref().map(selector);
        let pods = peer.pod_selector.as_ref().map(selector);
        if namespaces.is_none() && pods.is_none() {
            return None;
        }
        Some(Peer::Pods {
            namespaces,
            pods: pods.unwrap_or_else(LabelSelector::everything),
        })
    }

    /// An exception of the other address family excludes nothing; an invalid exception excludes the whole block.
    fn block(block: &IPBlock) -> Option<Peer> {
        let except = block.except.iter().flatten();
        let except = except.filter(|text| !text.contains(':'));
        Some(Peer::Block {
            range: range(&block.cidr)?,
            except: except.map(|text| range(text)).collect::<Option<_>>()?,
        })
    }
}

impl Port {
    fn from_spec(port: &NetworkPolicyPort) -> Option<Port> {
        let protocol = Protocol::of(port.protocol.as_deref())?;
        let number = |number: i32| u16::try_from(number).ok().filter(|number| *number != 0);
        match &port.port {
            None => Some(Port::All(protocol)),
            Some(IntOrString::Int(first)) => {
                let first = number(*first)?;
                let last = port.end_port.map_or(Some(first), number)?;
                (first <= last).then_some(Port::Range(protocol, first, last))
            }
            Some(IntOrString::String(name)) => {
                (name.len() <= PORT_NAME_BYTES_MAX).then(|| Port::Named(protocol, name.clone()))
            }
        }
    }
}

/// An invalid selector selects nothing.
fn selector(selector: &ApiSelector) -> LabelSelector {
    LabelSelector::of(selector).unwrap_or_else(LabelSelector::nothing)
}

/// A range in the form that the API accepts: bits after the prefix are ignored.
fn range(text: &str) -> Option<Cidr> {
    let (address, prefix) = text.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
    Some(Cidr::new(address.parse().ok()?, prefix))
}

/// The properties of a pod that policies read. The pod has an address that no other pod shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPod {
    /// Namespace of the pod.
    pub namespace: Text,
    /// The pod's IPv4 address.
    pub address: Ipv4Addr,
    /// Whether the pod is connected to this node, which then filters its connections.
    pub is_local: bool,
    labels: Labels,
    ports: Vec<NamedPort>,
}

/// A port of a pod that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedPort {
    pub(super) protocol: Protocol,
    pub(super) name: String,
    pub(super) port: u16,
}

impl PolicyPod {
    /// Parses a pod. `local` is the address that this node assigned to the pod; pods of other nodes have an address in
    /// their status. `None` for a pod without an address, an ended pod, and a pod on its node's network: no selector
    /// matches such a pod.
    pub fn of(pod: &PodView, local: Option<Ipv4Addr>) -> Option<PolicyPod> {
        let stored = || pod.addresses.iter().find_map(|text| text.parse().ok());
        if pod.spec.host_network == Some(true) || (pod.has_ended() && local.is_none()) {
            return None;
        }
        Some(PolicyPod {
            namespace: pod.namespace.clone(),
            address: local.or_else(stored)?,
            is_local: local.is_some(),
            labels: pod.labels.clone(),
            ports: container_ports(&pod.spec)
                .filter_map(|port| {
                    Some(NamedPort {
                        protocol: Protocol::of(port.protocol.as_deref())?,
                        name: port.name.clone()?,
                        port: u16::try_from(port.container_port).ok()?,
                    })
                })
                .collect(),
        })
    }

    pub(super) fn matches(&self, selector: &LabelSelector) -> bool {
        selector.matches_by(|key| self.labels.get(key))
    }

    /// The ports that have the name.
    pub(super) fn ports_named(
        &self,
        protocol: Protocol,
        name: &str,
    ) -> impl Iterator<Item = u16> + '_ {
        let has_name = |port: &&NamedPort| port.protocol == protocol && port.name == name;
        let named: Vec<u16> = self
            .ports
            .iter()
            .filter(has_name)
            .map(|port| port.port)
            .collect();
        named.into_iter()
    }
}
