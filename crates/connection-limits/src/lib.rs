//! Connection limits of a listener: the number of connections of each address, and the order in which connections are
//! closed when a limit is reached.
//!
//! Connections without valid credentials are closed first: connections in a TLS handshake, then the oldest connection
//! of the address with the most such connections. A connection that has sent valid credentials is never closed.
//!
//! Nodes have a separate share. A node is identified by its client certificate. Its connections count for the node and
//! not for the address, which may belong to a load balancer or be shared with pods. When an address has reached its
//! limit, further connections from it may complete the TLS handshake, and stay if they belong to a node.

mod shares;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use shares::{Share, ShareBounds, Shares};
use tokio_util::sync::CancellationToken;

/// The progress of a connection: 0 during the TLS handshake, then one of the constants below.
#[derive(Clone, Debug, Default)]
pub struct ConnectionStage(Arc<AtomicU8>);

/// No valid credentials so far.
const UNAUTHENTICATED: u8 = 1;
/// A request with valid credentials has arrived.
const AUTHENTICATED: u8 = 2;

impl ConnectionStage {
    /// Records that a request on the connection had valid credentials.
    pub fn is_known(&self) {
        self.reaches(AUTHENTICATED);
    }

    fn reaches(&self, stage: u8) {
        // Each request reports the stage again. It is written only once, because all requests of the connection read
        // it.
        if self.now() < stage {
            self.0.fetch_max(stage, Ordering::Relaxed);
        }
    }

    fn now(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct TrackedConnection {
    address: IpAddr,
    stage: ConnectionStage,
    close: CancellationToken,
    /// The connection is beyond the limit of its address. It may stay only if it belongs to a node.
    is_reserved: bool,
    /// The node in the client certificate of the connection.
    node: Option<String>,
}

impl TrackedConnection {
    fn is_evictable(&self) -> bool {
        self.node.is_none() && self.stage.now() < AUTHENTICATED
    }
}

/// All connections of a listener.
#[derive(Debug, Default)]
pub struct Connections(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The connections in the order of their arrival.
    connections: BTreeMap<u64, TrackedConnection>,
    next: u64,
}

/// The maximum numbers of connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// The limit for all addresses together.
    pub all: usize,
    /// The limit for each address.
    pub per_address: usize,
    /// The limit for each node, in addition to the limit of its address.
    pub per_node: usize,
    /// The handshakes of each address beyond the other limits, for connections that may belong to a node; 0 allows
    /// none.
    pub handshakes: usize,
}

impl ConnectionLimits {
    /// Limits for a listener without connections of nodes.
    pub const fn without_nodes(all: usize, per_address: usize) -> Self {
        Self {
            all,
            per_address,
            per_node: 0,
            handshakes: 0,
        }
    }
}

/// A connection's permit, which is released on drop.
#[derive(Debug)]
pub struct ConnectionSlot {
    connections: Arc<Connections>,
    id: u64,
    stage: ConnectionStage,
    replaces_another: bool,
    /// The connection may stay only if it belongs to a node.
    is_reserved: bool,
    /// The limit of connections for each node.
    per_node: usize,
}

impl Connections {
    /// Registers a connection from an address; `close` ends the connection. If the address is at its limit, the new
    /// connection replaces a connection of the address without valid credentials. If there is no such connection, the
    /// new connection is admitted for its handshake only, or is refused (`None`) where nodes have no share. If the
    /// listener is at its limit, the new connection replaces a connection of any address without valid credentials, or
    /// is admitted beyond the limit.
    pub fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        close: CancellationToken,
        max: ConnectionLimits,
    ) -> Option<ConnectionSlot> {
        let address = address.to_canonical();
        let mut state = self.lock();
        let is_of_address = |reserved: bool| {
            move |one: &TrackedConnection| one.address == address && one.is_reserved == reserved
        };
        let (mut is_reserved, mut replaces_another) = (false, false);
        if state.count(is_of_address(false)) >= max.per_address {
            replaces_another = state.evict(is_of_address(false));
            is_reserved = !replaces_another;
        }
        if is_reserved && max.handshakes == 0 {
            cov_mark::hit!(findings_2_s40);
            return None;
        }
        if is_reserved && state.count(is_of_address(true)) >= max.handshakes {
            replaces_another |= state.evict(is_of_address(true));
        }
        if !is_reserved && state.count(|one| !one.is_reserved) >= max.all {
            replaces_another |= state.evict(|_| true);
            if !replaces_another {
                tracing::debug!("all connections are in use");
            }
        }
        let id = state.next;
        state.next += 1;
        let stage = ConnectionStage::default();
        let connection = TrackedConnection {
            address,
            stage: stage.clone(),
            close,
            is_reserved,
            node: None,
        };
        state.connections.insert(id, connection);
        Some(ConnectionSlot {
            connections: self.clone(),
            id,
            stage,
            replaces_another,
            is_reserved,
            per_node: max.per_node,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The number of connections that match `among` and do not belong to a node.
    fn count(&self, among: impl Fn(&TrackedConnection) -> bool) -> usize {
        let connections = self.connections.values();
        connections
            .filter(|one| one.node.is_none() && among(one))
            .count()
    }

    /// Closes one of the connections that match `among`, in the order of the module's documentation. Returns `false` if
    /// no connection may be closed.
    fn evict(&mut self, among: impl Fn(&TrackedConnection) -> bool) -> bool {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for connection in self.connections.values() {
            *counts.entry(connection.address).or_default() += 1;
        }
        let dispensable = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_evictable() && among(connection));
        let first = dispensable.min_by_key(|(id, connection)| {
            let of_address = counts.get(&connection.address).copied().unwrap_or(0);
            (connection.stage.now(), Reverse(of_address), **id)
        });
        let Some(id) = first.map(|(id, _)| *id) else {
            return false;
        };
        if let Some(connection) = self.connections.remove(&id) {
            cov_mark::hit!(findings_s24);
            connection.close.cancel();
        }
        true
    }
}

impl ConnectionSlot {
    /// Records the end of the TLS handshake, and the node in the client certificate. Returns whether the connection may
    /// stay.
    pub fn shook_hands(&self, node: Option<&str>) -> bool {
        self.stage.reaches(UNAUTHENTICATED);
        let Some(node) = node else {
            return !self.is_reserved;
        };
        let mut state = self.connections.lock();
        let of_node = |one: &&TrackedConnection| one.node.as_deref() == Some(node);
        if state.connections.values().filter(of_node).count() >= self.per_node {
            return false;
        }
        if let Some(connection) = state.connections.get_mut(&self.id) {
            cov_mark::hit!(findings_2_s39);
            connection.node = Some(node.to_owned());
            connection.is_reserved = false;
        }
        true
    }

    /// Whether another connection was closed in favour of this one.
    pub fn replaces_another(&self) -> bool {
        self.replaces_another
    }

    /// The stage of the connection, shared with its requests.
    pub fn stage(&self) -> ConnectionStage {
        self.stage.clone()
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.connections.lock().connections.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn enter(
        connections: &Arc<Connections>,
        address: IpAddr,
    ) -> (ConnectionSlot, CancellationToken) {
        let close = CancellationToken::new();
        let slot = connections.enter(address, close.clone(), MAX);
        (slot.unwrap(), close)
    }

    const MAX: ConnectionLimits = ConnectionLimits {
        all: 4,
        per_address: 3,
        per_node: 2,
        handshakes: 2,
    };

    fn is_known(slot: &ConnectionSlot) {
        assert!(slot.shook_hands(None));
        slot.stage().is_known();
    }

    /// findings S24: an address has its share; in a full share, the connection with the least progress is closed first.
    #[test]
    fn one_address_has_its_share_and_pushes_out_its_own() {
        cov_mark::check!(findings_s24);
        let connections = Arc::new(Connections::default());
        let (first, stays) = enter(&connections, ONE);
        is_known(&first);
        let (stranger, goes_second) = enter(&connections, ONE);
        assert!(stranger.shook_hands(None));
        let (_shaking, goes_first) = enter(&connections, ONE);
        let (_elsewhere, others) = enter(&connections, OTHER);
        let fourth = enter(&connections, ONE);
        assert!(goes_first.is_cancelled() && !goes_second.is_cancelled());
        is_known(&fourth.0);
        let fifth = enter(&connections, ONE);
        assert!(goes_second.is_cancelled());
        is_known(&fifth.0);
        let sixth = enter(&connections, ONE).0;
        assert!(!sixth.shook_hands(None), "all three are known");
        drop((first, sixth));
        let seventh = enter(&connections, ONE).0;
        assert!(seventh.shook_hands(None));
        assert!(!stays.is_cancelled() && !others.is_cancelled());
    }

    /// findings S24: if all connections of the listener are in use, connections without valid credentials are closed
    /// first, from the address with the most such connections.
    #[test]
    fn room_is_made_by_those_who_have_most_and_have_shown_nothing() {
        let third = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 3));
        let connections = Arc::new(Connections::default());
        let (_alone, lone) = enter(&connections, OTHER);
        let crowd: Vec<_> = (0..3).map(|_| enter(&connections, ONE)).collect();
        let newcomer = enter(&connections, third);
        assert!(crowd[0].1.is_cancelled() && !lone.is_cancelled());
        newcomer.0.stage().is_known();
        assert!(crowd[1].0.shook_hands(None) && crowd[2].0.shook_hands(None));
        let another = enter(&connections, third);
        assert!(lone.is_cancelled(), "a handshake goes before strangers");
        another.0.stage().is_known();
        crowd[1].0.stage().is_known();
        crowd[2].0.stage().is_known();
        let waits = enter(&connections, OTHER);
        assert!(!waits.1.is_cancelled() && !crowd[1].1.is_cancelled());
    }

    /// findings-2 S39: connections of the address, of pods or of a load balancer do not use the share of a node.
    #[test]
    fn a_node_has_a_share_of_its_own() {
        cov_mark::check!(findings_2_s39);
        let connections = Arc::new(Connections::default());
        let others: Vec<_> = (0..3).map(|_| enter(&connections, ONE).0).collect();
        others.iter().for_each(is_known);
        let lease = enter(&connections, ONE);
        assert!(lease.0.shook_hands(Some("a")));
        let watches = enter(&connections, ONE);
        assert!(watches.0.shook_hands(Some("a")));
        let third = enter(&connections, ONE);
        assert!(!third.0.shook_hands(Some("a")), "the node has its share");
        let other = enter(&connections, ONE);
        assert!(other.0.shook_hands(Some("b")));
        // Connections of nodes do not use the limits of other connections, and are not closed for them.
        drop((others, third));
        let others: Vec<_> = (0..3).map(|_| enter(&connections, ONE).0).collect();
        others.iter().for_each(is_known);
        for (_, close) in [&lease, &watches, &other] {
            assert!(!close.is_cancelled());
        }
    }

    /// findings-2 S40: without a share for nodes, an address whose connections are all in use is refused.
    #[test]
    fn an_address_with_too_many_connections_is_refused_where_nodes_have_no_share() {
        cov_mark::check!(findings_2_s40);
        let max = ConnectionLimits::without_nodes(4, 1);
        let connections = Arc::new(Connections::default());
        let enter = |address| connections.enter(address, CancellationToken::new(), max);
        let first = enter(ONE).unwrap();
        assert!(!first.replaces_another());
        first.stage().is_known();
        assert!(enter(ONE).is_none());
        let stranger = enter(OTHER).unwrap();
        assert!(enter(OTHER).unwrap().replaces_another());
        drop((first, stranger));
        assert!(enter(ONE).is_some());
    }

    /// findings-2 S39
    #[test]
    fn handshakes_beyond_the_limit_are_bounded_and_replace_each_other() {
        let connections = Arc::new(Connections::default());
        let others: Vec<_> = (0..3).map(|_| enter(&connections, ONE).0).collect();
        others.iter().for_each(is_known);
        let beyond: Vec<_> = (0..3).map(|_| enter(&connections, ONE)).collect();
        let closed: Vec<_> = beyond
            .iter()
            .map(|(_, close)| close.is_cancelled())
            .collect();
        assert_eq!(closed, [true, false, false], "it has shown nothing");
        assert!(beyond[1].0.shook_hands(Some("a")));
        assert!(!beyond[2].0.shook_hands(None));
    }
}
