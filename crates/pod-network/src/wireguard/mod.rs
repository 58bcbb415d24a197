//! The encrypted tunnel to other nodes: a WireGuard device of the kernel, whose peers are the nodes.
//!
//! [`steps`] decides, from plain data. `message` encodes the steps, and `kernel` executes them.

pub(crate) mod kernel;
mod key;
mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use object_model::cidr::Cidr;

pub use kernel::require;
pub(crate) use key::PrivateKey;
pub use key::{InvalidKey, PublicKey};

/// Maximum bytes that WireGuard adds to a packet: the headers of IPv6, UDP and WireGuard, and the tag. Over
/// IPv4, it adds 20 bytes fewer; `wg-quick` subtracts 80 bytes, too.
pub(crate) const WIREGUARD_BYTES: u32 = 80;

/// The settings of a node that encrypts the traffic of pods to other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncryptionOptions {
    /// The range of all pods: packets to this range leave the machine encrypted, or not at all.
    pub cluster_range: Cidr,
    /// The UDP port of the tunnel.
    pub port: u16,
}

impl EncryptionOptions {
    /// Settings with the usual port of WireGuard.
    pub fn new(cluster_range: Cidr) -> Self {
        Self {
            cluster_range,
            port: 51820,
        }
    }
}

/// A node's end of the encrypted tunnel, as other nodes need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelEnd {
    pub key: PublicKey,
    /// The UDP port at the node's address.
    pub port: u16,
}

/// The encryption of another node, from its Node object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEncryption {
    /// The node sends and accepts plain packets.
    Off,
    /// The node accepts packets only at this end.
    On(TunnelEnd),
    /// The node encrypts, but its key or port cannot be read, for this reason.
    Unreadable(String),
}

/// A peer of the device, without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TunnelPeer {
    pub(crate) endpoint: SocketAddrV4,
    /// Allowed sources of packets from the peer, which are also the destinations of packets to the peer.
    pub(crate) allowed: BTreeSet<Cidr>,
}

/// A change of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PeerStep {
    /// Removes the peer and its ranges.
    Remove(PublicKey),
    /// Creates the peer or changes it: sets the endpoint, and exactly these ranges.
    Set(PublicKey, TunnelPeer),
}

/// The steps from the peers of the device to the desired peers. Unchanged peers keep their sessions.
pub(crate) fn steps(
    existing: &BTreeMap<PublicKey, TunnelPeer>,
    desired: &BTreeMap<PublicKey, TunnelPeer>,
) -> Vec<PeerStep> {
    let removed = existing.keys().filter(|key| !desired.contains_key(key));
    let changed = desired.iter();
    let changed = changed.filter(|(key, peer)| existing.get(key) != Some(peer));
    removed
        .map(|key| PeerStep::Remove(*key))
        .chain(changed.map(|(key, peer)| PeerStep::Set(*key, peer.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Executes a step as the kernel does: a range belongs to the last peer to which it was assigned.
    fn carry_out(peers: &mut BTreeMap<PublicKey, TunnelPeer>, step: &PeerStep) {
        match step {
            PeerStep::Remove(key) => {
                peers.remove(key);
            }
            PeerStep::Set(key, new) => {
                for peer in peers.values_mut() {
                    peer.allowed = &peer.allowed - &new.allowed;
                }
                peers.insert(*key, new.clone());
            }
        }
    }

    prop_compose! {
        /// Any subset of six peers; a range belongs to at most one peer.
        fn device()(owners in prop::collection::vec(0_u8..8, 5), port in 1_u16..4)
            -> BTreeMap<PublicKey, TunnelPeer> {
            let mut peers = BTreeMap::new();
            for (number, owner) in (0_u8..).zip(owners).filter(|(_, owner)| *owner < 6) {
                let peer = peers.entry(PublicKey([owner; 32])).or_insert_with(|| TunnelPeer {
                    endpoint: SocketAddrV4::new([192, 0, 2, owner].into(), port),
                    allowed: BTreeSet::new(),
                });
                peer.allowed.insert(Cidr::new([10, 244, number, 0].into(), 24));
            }
            peers
        }
    }

    proptest! {
        #[test]
        fn the_steps_lead_to_the_desired_peers(before in device(), desired in device()) {
            let mut peers = before.clone();
            let all = steps(&before, &desired);
            for step in &all {
                carry_out(&mut peers, step);
            }
            prop_assert_eq!(&peers, &desired);
            prop_assert!(steps(&peers, &desired).is_empty());
            for step in all {
                if let PeerStep::Set(key, peer) = step {
                    prop_assert_ne!(before.get(&key), Some(&peer));
                }
            }
        }
    }
}
