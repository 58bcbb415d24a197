//! Removal of connection tracking entries: UDP flows to former endpoints, and connections that
//! policies deny.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use service_routing::{Connection, Endpoint, Protocol, UdpFlow};

use crate::kernel::{Kernel, KernelError};
use crate::message::{FAMILY_IPV4, find, single};

const SUBSYSTEM_CONNTRACK: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM_CONNTRACK | 1;
const DELETE: u16 = SUBSYSTEM_CONNTRACK | 2;

/// The client's direction of a connection.
const TUPLE_ORIGINAL: u16 = 1;
/// The reply direction.
const TUPLE_REPLY: u16 = 2;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const ZONE: u16 = 18;
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// The flow ended after it was listed and before it was removed.
const ENOENT: i32 = 2;

/// Removes the UDP flows whose indexes in the list are chosen. Returns their number.
///
/// # Errors
/// The kernel rejects the removal.
pub fn forget(
    kernel: &mut Kernel,
    choose: impl FnOnce(&[UdpFlow]) -> Vec<usize>,
) -> Result<usize, KernelError> {
    remove(kernel, flow, choose)
}

/// Removes the connections whose indexes in the list are chosen. Returns their number.
///
/// # Errors
/// The kernel rejects the removal.
pub fn cut(
    kernel: &mut Kernel,
    choose: impl FnOnce(&[Connection]) -> Vec<usize>,
) -> Result<usize, KernelError> {
    remove(kernel, connection, choose)
}

fn remove<F>(
    kernel: &mut Kernel,
    read: fn(&[u8]) -> Option<F>,
    choose: impl FnOnce(&[F]) -> Vec<usize>,
) -> Result<usize, KernelError> {
    let (mut flows, mut names) = (Vec::new(), Vec::new());
    let each = |_, attributes: &[u8]| {
        if let Some(flow) = read(attributes) {
            flows.push(flow);
            names.push(name(attributes));
        }
    };
    kernel.list(FAMILY_IPV4, GET, |_| {}, each)?;
    let stale = choose(&flows);
    for index in &stale {
        let (tuple, zone) = &names[*index];
        let message = single(FAMILY_IPV4, DELETE, 0, |a| {
            a.nested(TUPLE_ORIGINAL, |inner| inner.raw(tuple));
            if let Some(zone) = zone {
                a.bytes(ZONE, zone);
            }
        });
        match kernel.transact(&message) {
            Ok(()) | Err(KernelError::Refused { errno: ENOENT, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(stale.len())
}

/// The seconds for which the kernel retains a connection whose client has closed its end and whose server
/// has not.
const CLOSE_WAIT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";
/// One hour, as in kube-proxy.
const CLOSE_WAIT_SECONDS_MIN: u64 = 3600;

/// Makes the kernel retain a half-closed connection for one hour after its client has sent everything. With
/// the kernel's default of 60 s, a server that works for minutes before it responds, such as a dump through
/// a pipe, would lose the connection. A longer configured time stays.
///
/// # Errors
/// The setting cannot be read or written.
pub fn keep_half_closed() -> std::io::Result<()> {
    let set = std::fs::read_to_string(CLOSE_WAIT)?;
    let is_longer = set
        .trim()
        .parse()
        .is_ok_and(|seconds: u64| seconds >= CLOSE_WAIT_SECONDS_MIN);
    match is_longer {
        true => Ok(()),
        false => std::fs::write(CLOSE_WAIT, CLOSE_WAIT_SECONDS_MIN.to_string()),
    }
}

/// The addresses of this machine.
pub fn local_addresses() -> BTreeSet<Ipv4Addr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let v4 = |address: nix::sys::socket::SockaddrStorage| Some(address.as_sockaddr_in()?.ip());
    interfaces
        .filter_map(|interface| v4(interface.address?))
        .collect()
}

/// The attributes that identify a flow in the kernel.
fn name(attributes: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let tuple = find(attributes, TUPLE_ORIGINAL).unwrap_or_default();
    (tuple.to_vec(), find(attributes, ZONE).map(<[u8]>::to_vec))
}

fn flow(attributes: &[u8]) -> Option<UdpFlow> {
    let original = find(attributes, TUPLE_ORIGINAL)?;
    let reply = find(attributes, TUPLE_REPLY)?;
    let is_udp = protocol(original) == Some(Protocol::Udp);
    let destination = address(original, 2)?;
    let endpoint = Endpoint {
        ip: address(reply, 1)?,
        port: port(reply, 2)?,
    };
    is_udp.then_some(UdpFlow {
        address: destination,
        port: port(original, 3)?,
        endpoint,
    })
}

/// The client and the server of a connection. The client is the source of the original direction. The
/// server is the source of the replies, which have the translated address.
fn connection(attributes: &[u8]) -> Option<Connection> {
    let original = find(attributes, TUPLE_ORIGINAL)?;
    let reply = find(attributes, TUPLE_REPLY)?;
    let port = protocol(original).and_then(|protocol| Some((protocol, port(reply, 2)?)));
    Some(Connection {
        source: address(original, 1)?,
        destination: address(reply, 1)?,
        port,
    })
}

fn protocol(tuple: &[u8]) -> Option<Protocol> {
    let number = find(find(tuple, TUPLE_PROTOCOL)?, 1)?;
    PROTOCOLS
        .into_iter()
        .find(|protocol| number == [protocol.number()])
}

fn address(tuple: &[u8], which: u16) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = find(find(tuple, TUPLE_ADDRESSES)?, which)?
        .try_into()
        .ok()?;
    Some(bytes.into())
}

fn port(tuple: &[u8], which: u16) -> Option<u16> {
    let bytes: [u8; 2] = find(find(tuple, TUPLE_PROTOCOL)?, which)?.try_into().ok()?;
    Some(u16::from_be_bytes(bytes))
}
