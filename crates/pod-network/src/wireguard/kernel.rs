//! The WireGuard device in the kernel, which is created by rtnetlink. Its keys and peers are set by generic
//! netlink.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use object_model::cidr::Cidr;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};
use rtnetlink::{LinkUnspec, LinkWireguard};

use super::key::{PrivateKey, PublicKey};
use super::message::{self, KernelReply};
use super::{PeerStep, TunnelEnd, TunnelPeer, steps};
use crate::error::{Error, cause, kernel};
use crate::host::{Host, local};
use crate::links::{delete_link, get_link};
use crate::names;

/// Checks that the kernel has WireGuard, and loads its module if it can. Changes nothing else.
///
/// # Errors
/// The kernel has no WireGuard.
pub fn require() -> Result<(), Error> {
    let socket = open().map_err(failed("ask the kernel for WireGuard"))?;
    family(&socket).map(|_| ())
}

/// The WireGuard device of this instance.
pub(crate) struct Device {
    index: u32,
    end: TunnelEnd,
    family: u16,
    /// A socket in the network namespace in which it was opened.
    socket: Mutex<Socket>,
}

impl Device {
    /// Creates the device, or adopts the device of a former process with its peers. The device has the
    /// node's address for pods, because the kernel uses it as the source of masqueraded packets.
    ///
    /// # Errors
    /// The kernel has no WireGuard, or rejects a change.
    pub(crate) async fn open(
        host: &Host,
        key: &PrivateKey,
        port: u16,
        gateway: Ipv4Addr,
    ) -> Result<Self, Error> {
        let socket = open().map_err(failed("ask the kernel for WireGuard"))?;
        let family = family(&socket)?;
        let name = names::encrypted_tunnel_name(&host.instance_id);
        let index = ensure_link(host, &name).await?;
        ensure_address(host, index, gateway).await?;
        let doing = format!("set the key and the UDP port {port} of the tunnel {name}");
        ask(&socket, &message::set_device(family, index, key, port)).map_err(failed(doing))?;
        let up = LinkUnspec::new_with_index(index).up().build();
        let up = host.handle.link().set(up).execute().await;
        up.map_err(kernel(format!(
            "set up the tunnel {name} (UDP port {port}; another program may have it)"
        )))?;
        let parts = read(&socket, family, index)?;
        let key = parts.iter().find_map(|part| message::public_key(part));
        let key = key.ok_or(Error::LinkVanished { name })?;
        Ok(Self {
            index,
            end: TunnelEnd { key, port },
            family,
            socket: Mutex::new(socket),
        })
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// This node's end of the tunnel.
    pub(crate) fn end(&self) -> TunnelEnd {
        self.end
    }

    pub(crate) async fn set_mtu(&self, host: &Host, mtu: u32) -> Result<(), Error> {
        let set = LinkUnspec::new_with_index(self.index).mtu(mtu).build();
        let set = host.handle.link().set(set).execute().await;
        set.map_err(kernel(format!("set the MTU {mtu} of the encrypted tunnel")))
    }

    /// Sets exactly these peers. Returns the ranges of the peers that the kernel rejects, with the reason.
    pub(crate) fn connect(
        &self,
        desired: &BTreeMap<PublicKey, TunnelPeer>,
    ) -> Result<Vec<(Cidr, String)>, Error> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let mut existing = BTreeMap::new();
        for part in read(&socket, self.family, self.index)? {
            message::add_peers(&part, &mut existing);
        }
        let mut refused = Vec::new();
        for step in steps(&existing, desired) {
            let change = message::change_peer(self.family, self.index, &step);
            let done =
                ask(&socket, &change).map_err(failed("change a peer of the encrypted tunnel"));
            match (done, step) {
                (Ok(_), _) => {}
                // A failure does not affect other peers. The change is tried again with the next update.
                (Err(error), PeerStep::Set(_, peer)) => {
                    let cause = cause(&error);
                    refused.extend(peer.allowed.into_iter().map(|range| (range, cause.clone())));
                }
                // If a former peer cannot be removed, its packets would still be accepted.
                (Err(error), PeerStep::Remove(_)) => return Err(error),
            }
        }
        Ok(refused)
    }
}

async fn ensure_link(host: &Host, name: &str) -> Result<u32, Error> {
    let existing = get_link(&host.handle, name).await?;
    if let Some(link) = existing.as_ref().filter(|link| is_wireguard(link)) {
        return Ok(link.header.index);
    }
    if let Some(stale) = existing {
        delete_link(host, stale.header.index).await?;
    }
    let device = LinkWireguard::new(name).build();
    let result = host.handle.link().add(device).execute().await;
    result.map_err(kernel(format!("create the tunnel {name}")))?;
    let vanished = || Error::LinkVanished {
        name: name.to_owned(),
    };
    let link = get_link(&host.handle, name).await?;
    Ok(link.ok_or_else(vanished)?.header.index)
}

fn is_wireguard(link: &LinkMessage) -> bool {
    let kind = LinkInfo::Kind(InfoKind::Wireguard);
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&kind),
        _ => false,
    })
}

/// Sets exactly this address.
async fn ensure_address(host: &Host, index: u32, desired: Ipv4Addr) -> Result<(), Error> {
    for existing in host.addresses().await? {
        if existing.header.index == index && local(&existing) != Some(desired) {
            let done = host.handle.address().del(existing).execute().await;
            done.map_err(kernel("remove an address of the encrypted tunnel"))?;
        }
    }
    let add = host.handle.address().add(index, desired.into(), 32);
    let added = add.replace().execute().await;
    added.map_err(kernel(format!("add {desired} to the encrypted tunnel")))
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// The number of the netlink family `wireguard`.
fn family(socket: &Socket) -> Result<u16, Error> {
    let parts = match ask(socket, &message::ask_family()) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {
            return Err(Error::NoWireGuard);
        }
        answered => answered.map_err(failed("ask the kernel for WireGuard"))?,
    };
    let mut parts = parts.iter();
    let family = parts.find_map(|part| message::family(part));
    family.ok_or(Error::NoWireGuard)
}

fn read(socket: &Socket, family: u16, index: u32) -> Result<Vec<Vec<u8>>, Error> {
    let doing = "read the peers of the encrypted tunnel";
    ask(socket, &message::get_device(family, index)).map_err(failed(doing))
}

/// Sends a message and reads the complete response. The kernel responds within the send call, and returns
/// the next part of a dump with each receive call, so no call waits.
fn ask(socket: &Socket, message: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    socket.send(message, 0)?;
    let mut parts = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for reply in message::replies(&datagram) {
            match reply {
                KernelReply::Part(attributes) => parts.push(attributes.to_vec()),
                KernelReply::End(0) => return Ok(parts),
                KernelReply::End(code) => return Err(io::Error::from_raw_os_error(code)),
            }
        }
    }
}

fn failed(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let doing = doing.into();
    move |source| Error::WireGuard { doing, source }
}
