//! The encrypted tunnel to other nodes: a WireGuard device of the kernel, whose peers are the nodes.
//!
//! The decision is [`steps`], over plain data; `message` has the bytes and `kernel` carries them out.

pub(crate) mod kernel;
mod key;
mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use object_model::cidr::Cidr;

pub use kernel::require;
pub(crate) use key::PrivateKey;
pub use key::{InvalidKey, PublicKey};

/// Bytes that WireGuard adds to a packet at most: IPv6, UDP, its own header and the tag. Over IPv4 it
/// adds 20 fewer; `wg-quick` leaves the same room.
pub(crate) const WIREGUARD_BYTES: u32 = 80;

/// The settings of a node that encrypts the traffic of pods to other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncryptionOptions {
    /// The range of all pods: packets to it leave this machine encrypted, or not at all.
    pub cluster_range: Cidr,
    /// The UDP port of the tunnel.
    pub port: u16,
}

impl EncryptionOptions {
    /// Settings with the port that is usual for WireGuard.
    pub fn new(cluster_range: Cidr) -> Self {
        Self {
            cluster_range,
            port: 51820,
        }
    }
}

/// The end of an encrypted tunnel at a node, as other nodes need to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelEnd {
    /// The public key of the node.
    pub key: PublicKey,
    /// The UDP port, at the node's address.
    pub port: u16,
}

/// The encryption of another node, by its Node object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEncryption {
    /// It sends and takes plain packets.
    Off,
    /// It takes packets at this end alone.
    On(TunnelEnd),
    /// It encrypts, but its key or port cannot be read, for this reason.
    Unreadable(String),
}

/// A peer of the device, without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TunnelPeer {
    pub(crate) endpoint: SocketAddrV4,
    /// Packets from the peer have these sources, packets to these destinations are for it.
    pub(crate) allowed: BTreeSet<Cidr>,
}

/// A change of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PeerStep {
    /// The peer is removed, with its ranges.
    Remove(PublicKey),
    /// The peer is made, or gets this endpoint, and these ranges alone.
    Set(PublicKey, TunnelPeer),
}

/// The steps from the peers of the device to the wanted ones. Peers that stay as they are keep their
/// sessions.
pub(crate) fn steps(
    found: &BTreeMap<PublicKey, TunnelPeer>,
    wanted: &BTreeMap<PublicKey, TunnelPeer>,
) -> Vec<PeerStep> {
    let gone = found.keys().filter(|key| !wanted.contains_key(key));
    let changed = wanted.iter();
    let changed = changed.filter(|(key, peer)| found.get(key) != Some(peer));
    gone.map(|key| PeerStep::Remove(*key))
        .chain(changed.map(|(key, peer)| PeerStep::Set(*key, peer.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The kernel's rule: a range belongs to the peer that it was given to last.
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
        /// Some of six peers; a range belongs to one of them at most.
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
        fn the_steps_lead_to_the_wanted_peers(before in device(), wanted in device()) {
            let mut peers = before.clone();
            let all = steps(&before, &wanted);
            for step in &all {
                carry_out(&mut peers, step);
            }
            prop_assert_eq!(&peers, &wanted);
            prop_assert!(steps(&peers, &wanted).is_empty());
            for step in all {
                if let PeerStep::Set(key, peer) = step {
                    prop_assert_ne!(before.get(&key), Some(&peer));
                }
            }
        }
    }
}
