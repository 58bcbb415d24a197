//! Endpoints as data of a map.
//!
//! When a rule or a verdict with a chain is added, the kernel checks every chain that a packet can reach
//! (`nft_table_validate`), and the check takes longer with more chains. A change of the members of a set, or of a map
//! that holds data, is not checked. Most Services therefore have no chains: a map has their endpoints by number, and
//! sets have the Services of each class, which is the number of endpoints and the treatment of clients. The chains of
//! all classes exist from the start.
//!
//! The class is determined by a lookup in one set after the other. A map from a Service to the number of its class, and
//! a second map from the number to a chain, would need two lookups, but `nft list` stops with a failed assertion when
//! it reads such a rule (1.0.6).

use std::fmt;

use object_model::cidr::Cidr;

use crate::endpoints::Endpoint;
use crate::model::{Chain, MapName, Match, Rule, RuleAction};

/// The largest number of endpoints of a class. Services with more endpoints have separate chains.
pub const BALANCED_ENDPOINTS_MAX: usize = 32;

/// The clients whose connections are masqueraded, so that replies return through this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Masquerade {
    /// Clients outside of the cluster.
    FromOutside,
    /// All clients.
    Always,
}

/// A random choice among endpoints, each with an equal probability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The clients whose addresses are replaced.
    pub masquerade: Masquerade,
    /// The endpoints, at least one, at most [`BALANCED_ENDPOINTS_MAX`].
    pub endpoints: Vec<Endpoint>,
}

impl Balance {
    /// A choice among these endpoints; `None` if there is no class for their number.
    pub fn among(endpoints: &[Endpoint], masquerade: Masquerade) -> Option<Balance> {
        let has_class = (1..=BALANCED_ENDPOINTS_MAX).contains(&endpoints.len());
        has_class.then(|| Balance {
            masquerade,
            endpoints: endpoints.to_vec(),
        })
    }

    /// The sets that contain the Service.
    pub fn sets(&self) -> [ServiceSet; 2] {
        let class = Class {
            masquerade: self.masquerade,
            endpoints: self.endpoints.len(),
        };
        [
            ServiceSet::Balanced(self.masquerade),
            ServiceSet::OfClass(class),
        ]
    }
}

/// The choices that share a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    masquerade: Masquerade,
    endpoints: usize,
}

/// A set of Services, of a map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceSet {
    /// Services whose endpoints are data.
    Balanced(Masquerade),
    /// Services of a class.
    OfClass(Class),
}

impl ServiceSet {
    /// All sets of a map.
    pub fn all(map: MapName) -> impl Iterator<Item = ServiceSet> {
        masquerades(map).flat_map(|masquerade| {
            let classes = Class::all(masquerade).map(ServiceSet::OfClass);
            std::iter::once(ServiceSet::Balanced(masquerade)).chain(classes)
        })
    }

    /// The name of the set in the kernel.
    pub fn name(self, map: MapName) -> String {
        let (masquerade, count) = match self {
            ServiceSet::Balanced(masquerade) => (masquerade, String::new()),
            ServiceSet::OfClass(class) => (class.masquerade, format!("-{}", class.endpoints)),
        };
        format!("{}-{}{count}", map.as_str(), clients(masquerade))
    }
}

impl Class {
    fn all(masquerade: Masquerade) -> impl Iterator<Item = Class> {
        (1..=BALANCED_ENDPOINTS_MAX).map(move |endpoints| Class {
            masquerade,
            endpoints,
        })
    }

    fn chain(self, map: MapName) -> String {
        let clients = clients(self.masquerade);
        format!("{}/{clients}/{}", map.as_str(), self.endpoints)
    }
}

/// The treatments of clients that a map supports. The clients of node ports are never known to be inside of the
/// cluster.
fn masquerades(map: MapName) -> impl Iterator<Item = Masquerade> {
    let inside = map.by_address().then_some(Masquerade::FromOutside);
    inside.into_iter().chain([Masquerade::Always])
}

fn clients(masquerade: Masquerade) -> &'static str {
    match masquerade {
        Masquerade::FromOutside => "internal",
        Masquerade::Always => "external",
    }
}

/// The name of the chain that determines the class of a Service.
fn balancing(map: MapName, masquerade: Masquerade) -> String {
    format!("{}/{}", map.as_str(), clients(masquerade))
}

/// The rules that send the connections to Services of a map, whose endpoints are data, to their chains.
pub(crate) fn entrances(map: MapName) -> impl Iterator<Item = Rule> {
    masquerades(map).map(move |masquerade| {
        let listed = Match::Listed(map, Some(ServiceSet::Balanced(masquerade)));
        let local = (!map.by_address()).then_some(Match::DestinationIsLocal(true));
        let matches = local.into_iter().chain([listed]);
        Rule::when(matches, RuleAction::Goto(balancing(map, masquerade)))
    })
}

/// The chains for the Services of a map whose endpoints are data.
///
/// During a change a packet may be matched against the sets before the change and the endpoints after it, or the
/// reverse. If its Service is in no set then, or the chosen endpoint was removed, the first endpoint gets the
/// connection.
pub(crate) fn chains(map: MapName, cluster_range: Cidr) -> impl Iterator<Item = (String, Chain)> {
    masquerades(map).flat_map(move |masquerade| {
        let finding = (balancing(map, masquerade), finding(map, masquerade));
        let choosing = Class::all(masquerade)
            .map(move |class| (class.chain(map), choosing(map, class, cluster_range)));
        std::iter::once(finding).chain(choosing)
    })
}

/// The chain that determines the class of a Service.
fn finding(map: MapName, masquerade: Masquerade) -> Chain {
    let to_class = Class::all(masquerade).map(|class| {
        let listed = Match::Listed(map, Some(ServiceSet::OfClass(class)));
        Rule::when([listed], RuleAction::Goto(class.chain(map)))
    });
    let first = Rule::always(RuleAction::Balance(map, 1));
    let rules = to_class.chain([first]).collect();
    Chain { hook: None, rules }
}

/// The chain that chooses an endpoint for a Service of the class.
fn choosing(map: MapName, class: Class, cluster_range: Cidr) -> Chain {
    let clients = match class.masquerade {
        Masquerade::Always => None,
        Masquerade::FromOutside => Some(Match::Source(cluster_range, false)),
    };
    let chosen = Rule::always(RuleAction::Balance(map, class.endpoints));
    let first = (class.endpoints > 1).then(|| Rule::always(RuleAction::Balance(map, 1)));
    let rules = [Rule::when(clients, RuleAction::Mark), chosen];
    let rules = rules.into_iter().chain(first).collect();
    Chain { hook: None, rules }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.masquerade == Masquerade::Always {
            write!(f, "mark ")?;
        }
        write!(f, "random")?;
        for endpoint in &self.endpoints {
            write!(f, " {}:{}", endpoint.ip, endpoint.port)?;
        }
        Ok(())
    }
}
