//! The choice of the connection to a node's API: directly over the network, or through the tunnel that the node has
//! opened. Pure.
//!
//! The direct connection is tried first. After it fails, requests use the tunnel at once, until the next direct
//! attempt is due. Without a tunnel only the direct connection is tried.

use std::time::Duration;

use tokio::time::Instant;

use super::NodeApiAddress;
use crate::http::limits::{
    DIRECT_RETRY_DELAY, PROXY_CONNECT_TIMEOUT, SHORT_CONNECT_TIMEOUT, TUNNEL_CONNECT_TIMEOUT,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeConnection {
    /// The address in the Node object.
    Direct,
    /// The tunnel that the node has opened.
    Tunnel,
}

/// The last direct connection attempt to the address in a Node object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LastDirectDial {
    pub(super) address: NodeApiAddress,
    pub(super) at: Instant,
    pub(super) has_reached: bool,
}

/// A connection attempt and its time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) connection: NodeConnection,
    pub(super) limit: Duration,
}

/// The connection attempts for a node, in order; the first connection is used.
pub(super) fn attempts(
    address: &NodeApiAddress,
    last: Option<&LastDirectDial>,
    has_tunnel: bool,
    now: Instant,
) -> Vec<Attempt> {
    let attempt = |connection, limit| Attempt { connection, limit };
    let direct = attempt(NodeConnection::Direct, PROXY_CONNECT_TIMEOUT);
    if !has_tunnel {
        return vec![direct];
    }
    let tunnel = attempt(NodeConnection::Tunnel, TUNNEL_CONNECT_TIMEOUT);
    let is_unreachable = last.is_some_and(|last| {
        last.address == *address
            && !last.has_reached
            && now.saturating_duration_since(last.at) < DIRECT_RETRY_DELAY
    });
    match is_unreachable {
        true => vec![tunnel, direct],
        false => vec![
            attempt(NodeConnection::Direct, SHORT_CONNECT_TIMEOUT),
            tunnel,
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address_of(host: &str) -> NodeApiAddress {
        NodeApiAddress {
            host: host.to_owned(),
            port: 10250,
        }
    }

    fn connections(last: Option<(bool, Duration)>, has_tunnel: bool) -> Vec<NodeConnection> {
        let start = Instant::now();
        let last = last.map(|(has_reached, ago)| (has_reached, start, start + ago));
        let now = last.map_or(start, |(_, _, now)| now);
        let last = last.map(|(has_reached, at, _)| LastDirectDial {
            address: address_of("10.0.0.1"),
            at,
            has_reached,
        });
        let planned = attempts(&address_of("10.0.0.1"), last.as_ref(), has_tunnel, now);
        planned.iter().map(|attempt| attempt.connection).collect()
    }

    /// docs/many-machines.md: the server chooses a tunnel for nodes that cannot be reached directly.
    #[test]
    fn the_network_comes_first_unless_it_has_just_failed() {
        use NodeConnection::{Direct, Tunnel};
        let (soon, later) = (Duration::from_secs(1), DIRECT_RETRY_DELAY);
        let cases = [
            (None, true, vec![Direct, Tunnel]),
            (Some((true, soon)), true, vec![Direct, Tunnel]),
            (Some((true, later)), true, vec![Direct, Tunnel]),
            (Some((false, soon)), true, vec![Tunnel, Direct]),
            (Some((false, later)), true, vec![Direct, Tunnel]),
            (None, false, vec![Direct]),
            (Some((true, soon)), false, vec![Direct]),
            (Some((false, soon)), false, vec![Direct]),
        ];
        for (last, has_tunnel, expected) in cases {
            assert_eq!(
                connections(last, has_tunnel),
                expected,
                "{last:?} {has_tunnel}"
            );
        }
    }

    #[test]
    fn another_address_is_tried_at_once() {
        let now = Instant::now();
        let last = LastDirectDial {
            address: address_of("10.0.0.1"),
            at: now,
            has_reached: false,
        };
        let planned = attempts(&address_of("10.0.0.2"), Some(&last), true, now);
        assert_eq!(planned[0].connection, NodeConnection::Direct);
    }

    /// A second attempt shortens the time limit of the first attempt; a single attempt has the whole time.
    #[test]
    fn the_last_way_has_the_longest_time() {
        let now = Instant::now();
        let with = attempts(&address_of("a"), None, true, now);
        let without = attempts(&address_of("a"), None, false, now);
        assert!(with[0].limit < without[0].limit);
        let last = LastDirectDial {
            address: address_of("a"),
            at: now,
            has_reached: false,
        };
        let after = attempts(&address_of("a"), Some(&last), true, now);
        assert_eq!(after[1].limit, without[0].limit);
    }
}
