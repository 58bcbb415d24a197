//! Connection limits of a listener: the number of connections of each address, and the order in which they are
//! closed when there is no room for more.
//!
//! Connections without valid credentials are closed first: those in a TLS handshake, then the oldest one of
//! the address with the most such connections. A connection that has sent valid credentials is never closed.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// How far a connection has got: 0 in its TLS handshake, then one of the constants below.
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
        // Each request says it again. It is written only once, because all requests of the connection read it.
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
}

/// All connections of a listener.
#[derive(Debug, Default)]
pub struct Connections(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By the order of arrival.
    connections: BTreeMap<u64, TrackedConnection>,
    next: u64,
}

/// The maximum numbers of connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Of all addresses together.
    pub all: usize,
    /// Of each address.
    pub per_address: usize,
}

/// A connection's place; released on drop.
#[derive(Debug)]
pub struct ConnectionSlot {
    connections: Arc<Connections>,
    id: u64,
    stage: ConnectionStage,
    replaces_another: bool,
}

impl Connections {
    /// Takes a place for a connection from an address; `close` ends the connection. If the address has too
    /// many, the new connection replaces one of the address without valid credentials, or is refused
    /// (`None`). If the server has too many, it replaces one of any address without valid credentials, or is
    /// admitted beyond the limit.
    pub fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        close: CancellationToken,
        max: ConnectionLimits,
    ) -> Option<ConnectionSlot> {
        let address = address.to_canonical();
        let mut state = self.lock();
        let own = |connection: &TrackedConnection| connection.address == address;
        let mut replaces_another = false;
        if state
            .connections
            .values()
            .filter(|connection| own(connection))
            .count()
            >= max.per_address
        {
            state.evict(own).then_some(())?;
            replaces_another = true;
        }
        if state.connections.len() >= max.all {
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
        };
        state.connections.insert(id, connection);
        Some(ConnectionSlot {
            connections: self.clone(),
            id,
            stage,
            replaces_another,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Ends the first to go of those that `among` holds for.
    fn evict(&mut self, among: impl Fn(&TrackedConnection) -> bool) -> bool {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for connection in self.connections.values() {
            *counts.entry(connection.address).or_default() += 1;
        }
        let dispensable = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.stage.now() < AUTHENTICATED && among(connection));
        let first = dispensable.min_by_key(|(id, connection)| {
            let of_address = counts.get(&connection.address).copied().unwrap_or(0);
            (connection.stage.now(), Reverse(of_address), **id)
        });
        let Some(id) = first.map(|(id, _)| *id) else {
            return false;
        };
        if let Some(connection) = self.connections.remove(&id) {
            connection.close.cancel();
        }
        true
    }
}

impl ConnectionSlot {
    /// Records that the TLS handshake is over.
    pub fn shook_hands(&self) {
        self.stage.reaches(UNAUTHENTICATED);
    }

    /// Whether another connection was closed for this one.
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
    ) -> Option<(ConnectionSlot, CancellationToken)> {
        let close = CancellationToken::new();
        let max = ConnectionLimits {
            all: 4,
            per_address: 3,
        };
        let place = connections.enter(address, close.clone(), max)?;
        Some((place, close))
    }

    /// findings S24: an address has its share, and what has got least far in it goes first.
    #[test]
    fn one_address_has_its_share_and_pushes_out_its_own() {
        let connections = Arc::new(Connections::default());
        let (known, stays) = enter(&connections, ONE).unwrap();
        known.stage().is_known();
        let (stranger, goes_second) = enter(&connections, ONE).unwrap();
        stranger.shook_hands();
        let (_shaking, goes_first) = enter(&connections, ONE).unwrap();
        let (_elsewhere, others) = enter(&connections, OTHER).unwrap();
        let fourth = enter(&connections, ONE).unwrap();
        assert!(goes_first.is_cancelled() && !goes_second.is_cancelled());
        fourth.0.stage().is_known();
        let fifth = enter(&connections, ONE).unwrap();
        assert!(goes_second.is_cancelled());
        fifth.0.stage().is_known();
        assert!(enter(&connections, ONE).is_none(), "all three are known");
        drop(known);
        assert!(enter(&connections, ONE).is_some());
        assert!(!stays.is_cancelled() && !others.is_cancelled());
    }

    /// findings S24: with all places taken, those go that have shown nothing, of the address that
    /// has most.
    #[test]
    fn room_is_made_by_those_who_have_most_and_have_shown_nothing() {
        let third = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 3));
        let connections = Arc::new(Connections::default());
        let (_alone, lone) = enter(&connections, OTHER).unwrap();
        let crowd: Vec<_> = (0..3).map(|_| enter(&connections, ONE).unwrap()).collect();
        let newcomer = enter(&connections, third).unwrap();
        assert!(crowd[0].1.is_cancelled() && !lone.is_cancelled());
        newcomer.0.stage().is_known();
        crowd[1].0.shook_hands();
        crowd[2].0.shook_hands();
        let another = enter(&connections, third).unwrap();
        assert!(lone.is_cancelled(), "a handshake goes before strangers");
        another.0.stage().is_known();
        crowd[1].0.stage().is_known();
        crowd[2].0.stage().is_known();
        let waits = enter(&connections, OTHER).unwrap();
        assert!(!waits.1.is_cancelled() && !crowd[1].1.is_cancelled());
    }
}
