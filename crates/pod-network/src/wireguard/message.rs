//! Messages of generic netlink to the family `wireguard`, as bytes. The numbers and their order are those
//! of the kernel's `include/uapi/linux/wireguard.h` and `genetlink.h`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use object_model::cidr::Cidr;
use rtnetlink::packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NlaBuffer, NlasIterator};

use super::key::{KEY_BYTES, PrivateKey, PublicKey};
use super::{PeerStep, TunnelPeer};

/// The family that returns the numbers of other families (`GENL_ID_CTRL`).
pub(crate) const CONTROL: u16 = 0x10;

const NETLINK_HEADER_BYTES: usize = 16;
const HEADER_BYTES: usize = NETLINK_HEADER_BYTES + 4;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;

const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const WG_CMD_GET_DEVICE: u8 = 0;
const WG_CMD_SET_DEVICE: u8 = 1;
const WGDEVICE_A_IFINDEX: u16 = 1;
const WGDEVICE_A_PRIVATE_KEY: u16 = 3;
const WGDEVICE_A_PUBLIC_KEY: u16 = 4;
const WGDEVICE_A_LISTEN_PORT: u16 = 6;
const WGDEVICE_A_PEERS: u16 = 8;
const WGPEER_A_PUBLIC_KEY: u16 = 1;
const WGPEER_A_FLAGS: u16 = 3;
const WGPEER_A_ENDPOINT: u16 = 4;
const WGPEER_A_ALLOWEDIPS: u16 = 9;
const WGPEER_F_REMOVE_ME: u32 = 1;
const WGPEER_F_REPLACE_ALLOWEDIPS: u32 = 2;
const WGALLOWEDIP_A_FAMILY: u16 = 1;
const WGALLOWEDIP_A_IPADDR: u16 = 2;
const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;
const AF_INET: u16 = 2;

/// The request for the number of the family `wireguard`. The kernel loads its module for this request.
pub(crate) fn ask_family() -> Vec<u8> {
    let name = DefaultNla::new(CTRL_ATTR_FAMILY_NAME, b"wireguard\0".to_vec());
    message(CONTROL, 0, CTRL_CMD_GETFAMILY, &[name])
}

/// The number of a family, from the response to [`ask_family`].
pub(crate) fn family(attributes: &[u8]) -> Option<u16> {
    let id = find(attributes, CTRL_ATTR_FAMILY_ID)?;
    Some(u16::from_ne_bytes(id.try_into().ok()?))
}

/// The request that sets the private key and the port of a device.
pub(crate) fn set_device(family: u16, index: u32, key: &PrivateKey, port: u16) -> Vec<u8> {
    let attributes = [
        number(WGDEVICE_A_IFINDEX, index),
        DefaultNla::new(WGDEVICE_A_PRIVATE_KEY, key.0.to_vec()),
        DefaultNla::new(WGDEVICE_A_LISTEN_PORT, port.to_ne_bytes().to_vec()),
    ];
    message(family, 0, WG_CMD_SET_DEVICE, &attributes)
}

/// The request that changes one peer of a device.
pub(crate) fn change_peer(family: u16, index: u32, step: &PeerStep) -> Vec<u8> {
    let attributes = match step {
        PeerStep::Remove(key) => vec![
            DefaultNla::new(WGPEER_A_PUBLIC_KEY, key.0.to_vec()),
            number(WGPEER_A_FLAGS, WGPEER_F_REMOVE_ME),
        ],
        PeerStep::Set(key, peer) => {
            let allowed: Vec<DefaultNla> = peer.allowed.iter().map(allowed).collect();
            vec![
                DefaultNla::new(WGPEER_A_PUBLIC_KEY, key.0.to_vec()),
                number(WGPEER_A_FLAGS, WGPEER_F_REPLACE_ALLOWEDIPS),
                DefaultNla::new(WGPEER_A_ENDPOINT, endpoint(peer.endpoint)),
                nested(WGPEER_A_ALLOWEDIPS, &allowed),
            ]
        }
    };
    let peers = nested(WGDEVICE_A_PEERS, &[nested(0, &attributes)]);
    let attributes = [number(WGDEVICE_A_IFINDEX, index), peers];
    message(family, 0, WG_CMD_SET_DEVICE, &attributes)
}

/// The request for a device with its peers.
pub(crate) fn get_device(family: u16, index: u32) -> Vec<u8> {
    let index = number(WGDEVICE_A_IFINDEX, index);
    message(family, DUMP, WG_CMD_GET_DEVICE, &[index])
}

/// The public key of a device, from a response to [`get_device`].
pub(crate) fn public_key(attributes: &[u8]) -> Option<PublicKey> {
    key(find(attributes, WGDEVICE_A_PUBLIC_KEY)?)
}

/// Adds the peers from a part of the response to [`get_device`]. A peer with many ranges may be in several
/// parts. An endpoint that is not an IPv4 address counts as 0.0.0.0:0.
pub(crate) fn add_peers(attributes: &[u8], peers: &mut BTreeMap<PublicKey, TunnelPeer>) {
    let list = find(attributes, WGDEVICE_A_PEERS).unwrap_or_default();
    for (_, inside) in each(list) {
        let Some(key) = find(inside, WGPEER_A_PUBLIC_KEY).and_then(key) else {
            continue;
        };
        let peer = peers.entry(key).or_insert_with(|| TunnelPeer {
            endpoint: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
            allowed: BTreeSet::new(),
        });
        if let Some(endpoint) = find(inside, WGPEER_A_ENDPOINT).and_then(read_endpoint) {
            peer.endpoint = endpoint;
        }
        let ranges = find(inside, WGPEER_A_ALLOWEDIPS).unwrap_or_default();
        let ranges = each(ranges).filter_map(|(_, range)| read_allowed(range));
        peer.allowed.extend(ranges);
    }
}

/// A message of the kernel's response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KernelReply<'a> {
    /// A part of the response: its attributes.
    Part(&'a [u8]),
    /// The end of the response, with the number of the error or 0.
    End(i32),
}

/// The messages in a datagram of the kernel.
pub(crate) fn replies(datagram: &[u8]) -> Vec<KernelReply<'_>> {
    let mut replies = Vec::new();
    let mut rest = datagram;
    while let Some((header, _)) = rest.split_first_chunk::<NETLINK_HEADER_BYTES>() {
        let [a, b, c, d, e, f, ..] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let Some(body) = rest.get(NETLINK_HEADER_BYTES..length) else {
            break;
        };
        replies.push(match u16::from_ne_bytes([e, f]) {
            ERROR | DONE => {
                let code = body.first_chunk().map(|code| i32::from_ne_bytes(*code));
                KernelReply::End(code.unwrap_or_default().saturating_neg())
            }
            _ => KernelReply::Part(
                body.get(HEADER_BYTES - NETLINK_HEADER_BYTES..)
                    .unwrap_or(&[]),
            ),
        });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    replies
}

/// A message with a netlink header (without sequence number and port) and a generic header of version 1.
fn message(family: u16, flags: u16, command: u8, attributes: &[DefaultNla]) -> Vec<u8> {
    let attributes = emitted(attributes);
    let length = u32::try_from(HEADER_BYTES + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(family.to_ne_bytes());
    bytes.extend((REQUEST | ACKNOWLEDGE | flags).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([command, 1, 0, 0]);
    bytes.extend(attributes);
    bytes
}

fn emitted(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

fn nested(kind: u16, inside: &[DefaultNla]) -> DefaultNla {
    DefaultNla::new(kind | NLA_F_NESTED, emitted(inside))
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().to_vec())
}

fn allowed(range: &Cidr) -> DefaultNla {
    let parts = [
        DefaultNla::new(WGALLOWEDIP_A_FAMILY, AF_INET.to_ne_bytes().to_vec()),
        DefaultNla::new(WGALLOWEDIP_A_IPADDR, range.network().octets().to_vec()),
        DefaultNla::new(WGALLOWEDIP_A_CIDR_MASK, vec![range.prefix()]),
    ];
    nested(0, &parts)
}

fn read_allowed(attributes: &[u8]) -> Option<Cidr> {
    let address: [u8; 4] = find(attributes, WGALLOWEDIP_A_IPADDR)?.try_into().ok()?;
    let [prefix] = find(attributes, WGALLOWEDIP_A_CIDR_MASK)?.try_into().ok()?;
    Some(Cidr::new(address.into(), prefix))
}

/// `struct sockaddr_in`.
fn endpoint(address: SocketAddrV4) -> Vec<u8> {
    let mut bytes = AF_INET.to_ne_bytes().to_vec();
    bytes.extend(address.port().to_be_bytes());
    bytes.extend(address.ip().octets());
    bytes.extend([0; 8]);
    bytes
}

fn read_endpoint(bytes: &[u8]) -> Option<SocketAddrV4> {
    let [f, g, p, q, a, b, c, d, ..] = *bytes.first_chunk::<16>()?;
    let is_ipv4 = u16::from_ne_bytes([f, g]) == AF_INET && bytes.len() == 16;
    let port = u16::from_be_bytes([p, q]);
    is_ipv4.then(|| SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port))
}

fn key(bytes: &[u8]) -> Option<PublicKey> {
    Some(PublicKey(<[u8; KEY_BYTES]>::try_from(bytes).ok()?))
}

fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    each(attributes).find_map(|(attribute, value)| (attribute == kind).then_some(value))
}

fn each(attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let all = NlasIterator::new(attributes).map_while(Result::ok);
    all.map(|attribute: NlaBuffer<&[u8]>| (attribute.kind(), value(attribute)))
}

fn value(attribute: NlaBuffer<&[u8]>) -> &[u8] {
    let length = usize::from(attribute.length());
    attribute.into_inner().get(4..length).unwrap_or(&[])
}

// The expected bytes are those of a little-endian machine.
#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    fn peer() -> TunnelPeer {
        TunnelPeer {
            endpoint: "192.0.2.7:51820".parse().unwrap(),
            allowed: ["10.244.1.0/24".parse().unwrap()].into(),
        }
    }

    /// The expected bytes are derived from `include/uapi/linux/wireguard.h`.
    #[test]
    fn a_peer_is_set_by_these_bytes() {
        let step = PeerStep::Set(PublicKey([7; 32]), peer());
        let mut expected = vec![
            132, 0, 0, 0, 0x1c, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, // nlmsghdr: REQUEST, ACK
            1, 1, 0, 0, // genlmsghdr: WG_CMD_SET_DEVICE, version 1
            8, 0, 1, 0, 5, 0, 0, 0, // WGDEVICE_A_IFINDEX 5
            104, 0, 8, 0x80, // WGDEVICE_A_PEERS, nested
            100, 0, 0, 0x80, // the first peer
            36, 0, 1, 0, // WGPEER_A_PUBLIC_KEY
        ];
        expected.extend([7; 32]);
        expected.extend([
            8, 0, 3, 0, 2, 0, 0, 0, // WGPEER_A_FLAGS: WGPEER_F_REPLACE_ALLOWEDIPS
            20, 0, 4, 0, // WGPEER_A_ENDPOINT
            2, 0, 0xca, 0x6c, 192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0, // sockaddr_in
            32, 0, 9, 0x80, // WGPEER_A_ALLOWEDIPS, nested
            28, 0, 0, 0x80, // the first range
            6, 0, 1, 0, 2, 0, 0, 0, // WGALLOWEDIP_A_FAMILY: AF_INET
            8, 0, 2, 0, 10, 244, 1, 0, // WGALLOWEDIP_A_IPADDR
            5, 0, 3, 0, 24, 0, 0, 0, // WGALLOWEDIP_A_CIDR_MASK
        ]);
        assert_eq!(change_peer(0x1c, 5, &step), expected);
    }

    #[test]
    fn a_peer_is_removed_and_a_device_set_by_these_bytes() {
        let removed = change_peer(0x1c, 5, &PeerStep::Remove(PublicKey([7; 32])));
        let mut expected = vec![
            80, 0, 0, 0, 0x1c, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, // headers
            8, 0, 1, 0, 5, 0, 0, 0, // WGDEVICE_A_IFINDEX 5
            52, 0, 8, 0x80, 48, 0, 0, 0x80, 36, 0, 1, 0,
        ];
        expected.extend([7; 32]);
        expected.extend([8, 0, 3, 0, 1, 0, 0, 0]); // WGPEER_A_FLAGS: WGPEER_F_REMOVE_ME
        assert_eq!(removed, expected);
        let set = set_device(0x1c, 5, &PrivateKey([9; 32]), 51820);
        let mut expected = vec![
            72, 0, 0, 0, 0x1c, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, // headers
            8, 0, 1, 0, 5, 0, 0, 0, // WGDEVICE_A_IFINDEX 5
            36, 0, 3, 0, // WGDEVICE_A_PRIVATE_KEY
        ];
        expected.extend([9; 32]);
        expected.extend([6, 0, 6, 0, 0x6c, 0xca, 0, 0]); // WGDEVICE_A_LISTEN_PORT 51820
        assert_eq!(set, expected);
        let expected = [
            28, 0, 0, 0, 0x1c, 0, 5, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, // a dump
            8, 0, 1, 0, 5, 0, 0, 0,
        ];
        assert_eq!(get_device(0x1c, 5), expected);
        let expected = [
            36, 0, 0, 0, 0x10, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0,
            0, // CTRL_CMD_GETFAMILY
            14, 0, 2, 0, b'w', b'i', b'r', b'e', b'g', b'u', b'a', b'r', b'd', 0, 0, 0,
        ];
        assert_eq!(ask_family(), expected);
    }

    #[test]
    fn a_device_is_read_from_several_parts() {
        let other = TunnelPeer {
            allowed: ["10.244.2.0/24".parse().unwrap()].into(),
            ..peer()
        };
        let parts = [peer(), other].map(|peer| {
            let step = PeerStep::Set(PublicKey([7; 32]), peer);
            change_peer(0x1c, 5, &step)
        });
        let mut datagram = parts.concat();
        datagram.extend([20, 0, 0, 0, 3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let replies = replies(&datagram);
        assert_eq!(replies.len(), 3);
        let mut peers = BTreeMap::new();
        for reply in &replies {
            match reply {
                KernelReply::Part(attributes) => add_peers(attributes, &mut peers),
                KernelReply::End(code) => assert_eq!(*code, 0),
            }
        }
        let mut expected = peer();
        expected.allowed.insert("10.244.2.0/24".parse().unwrap());
        assert_eq!(peers, [(PublicKey([7; 32]), expected)].into());
        let refused = [
            20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 254, 255, 255, 255,
        ];
        assert_eq!(super::replies(&refused), [KernelReply::End(2)]);
        for cut in 0..datagram.len() {
            for reply in super::replies(&datagram[..cut]) {
                if let KernelReply::Part(attributes) = reply {
                    add_peers(attributes, &mut peers);
                }
            }
        }
    }
}
