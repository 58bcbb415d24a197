//! The kernel's routes to other nodes, which are read, compared and changed by rtnetlink.
//!
//! A route of this instance has a specific protocol number, and the node's address as its source. So routes
//! of other programs are never changed. When the node's address is removed, the kernel removes these
//! routes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use object_model::cidr::Cidr;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::{LinkUnspec, LinkVxlan, RouteMessageBuilder};

use super::{Link, PeerRoute, PeersPlan, Tunnel, tunnel_mac};
use crate::error::{Error, cause, kernel};
use crate::host::{Host, LOOPBACK_INDEX, RT_TABLE_LOCAL, destination, local, output, source};
use crate::links::{delete_link, get_link};
use crate::names;
use crate::wireguard::kernel::Device;

/// The protocol number of this program's routes; iproute2 has no name for the number.
const PROTOCOL: u8 = 109;

/// The links of the machine with IPv4 addresses, without `lo`.
pub(crate) async fn links(host: &Host) -> Result<Vec<Link>, Error> {
    let mut addresses: BTreeMap<u32, Vec<(Ipv4Addr, u8)>> = BTreeMap::new();
    for address in host.addresses().await? {
        if let Some(ip) = local(&address) {
            let link = addresses.entry(address.header.index).or_default();
            link.push((ip, address.header.prefix_len));
        }
    }
    let links = host.links().await?.into_iter();
    let used = links.filter(|link| link.header.index != LOOPBACK_INDEX);
    let links = used.filter_map(|link| {
        let mtu = link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Mtu(mtu) => Some(*mtu),
                _ => None,
            })?;
        Some(Link {
            index: link.header.index,
            mtu,
            addresses: addresses.remove(&link.header.index)?,
        })
    });
    Ok(links.collect())
}

/// The indexes of the existing tunnels.
#[derive(Clone, Copy)]
struct Tunnels {
    plain: Option<u32>,
    encrypted: Option<u32>,
}

/// Changes the kernel's routes to the routes of the plan. Returns the ranges without a route, with the reason: another
/// program has a route to the range, or the kernel rejects a part. A failure does not affect other ranges. `gateway` is
/// the node's address for its pods.
pub(crate) async fn apply(
    host: &Host,
    gateway: Ipv4Addr,
    device: Option<&Device>,
    plan: &PeersPlan,
) -> Result<BTreeMap<Cidr, String>, Error> {
    let mut refused = BTreeMap::new();
    if let (Some(device), Some(tunnel)) = (device, &plan.encrypted) {
        device.set_mtu(host, tunnel.mtu).await?;
        refused.extend(device.connect(&tunnel.peers)?);
    }
    let tunnel = match &plan.tunnel {
        Some(tunnel) => match ensure_tunnel(host, tunnel).await {
            Ok(index) => Some(index),
            // Peers on a shared link need no tunnel.
            Err(error) => {
                let cause = cause(&error);
                let ranges = plan.tunnelled().map(|(range, _)| (range, cause.clone()));
                refused.extend(ranges);
                None
            }
        },
        None => None,
    };
    let tunnels = Tunnels {
        plain: tunnel,
        encrypted: device.map(Device::index),
    };
    let desired: BTreeMap<Cidr, RouteMessage> = plan
        .routes
        .iter()
        .filter_map(|(range, peer_route)| {
            Some((*range, route(gateway, *range, *peer_route, tunnels)?))
        })
        .collect();
    let mut unchanged = Vec::new();
    for existing in host.routes().await? {
        let Some(range) =
            destination(&existing).filter(|_| existing.header.table != RT_TABLE_LOCAL)
        else {
            continue;
        };
        let is_managed = is_local(&existing, &[gateway]);
        match desired.get(&range) {
            Some(new) if is_managed && same(new, &existing) => unchanged.push(range),
            _ if is_managed => {
                if let Err(error) = delete_route(host, existing, range).await {
                    refused.insert(range, cause(&error));
                }
            }
            Some(_) => {
                let cause = format!("another program has a route to its range {range}");
                refused.insert(range, cause);
            }
            None => {}
        }
    }
    if let Some(index) = tunnel {
        refused.extend(ensure_ends(host, index, plan).await?);
    } else if plan.tunnel.is_none() {
        remove_tunnel(host).await?;
    }
    for (range, route) in desired {
        if unchanged.contains(&range) || refused.contains_key(&range) {
            continue;
        }
        let add = host.handle.route().add(route).replace().execute().await;
        let added = add.map_err(kernel(format!("add route to the pods in {range}")));
        if let Err(error) = added {
            refused.insert(range, cause(&error));
        }
    }
    Ok(refused)
}

/// Prevents unencrypted packets to pods before any pod sends: removes the routes of a former process, and
/// adds an unreachable route, which has priority over the machine's default route.
pub(crate) async fn forbid_plain(
    host: &Host,
    gateway: Ipv4Addr,
    device: &Device,
    cluster_range: Cidr,
) -> Result<(), Error> {
    let tunnels = Tunnels {
        plain: None,
        encrypted: Some(device.index()),
    };
    if let Some(nowhere) = route(gateway, cluster_range, PeerRoute::Unreachable, tunnels) {
        let add = host.handle.route().add(nowhere).replace().execute().await;
        add.map_err(kernel(format!("forbid plain packets to {cluster_range}")))?;
    }
    for (existing, range) in local_routes(host, &[gateway]).await? {
        let stays = existing.header.kind == RouteType::Unreachable
            || output(&existing) == tunnels.encrypted;
        if !stays {
            delete_route(host, existing, range).await?;
        }
    }
    Ok(())
}

/// Removes the unreachable routes. The kernel does not remove them with their source address.
pub(crate) async fn remove_unreachable(host: &Host) -> Result<(), Error> {
    let addresses = host.host_addresses().await?;
    let addresses: Vec<Ipv4Addr> = addresses.iter().filter_map(local).collect();
    for (existing, range) in local_routes(host, &addresses).await? {
        if existing.header.kind == RouteType::Unreachable {
            delete_route(host, existing, range).await?;
        }
    }
    Ok(())
}

async fn local_routes(
    host: &Host,
    addresses: &[Ipv4Addr],
) -> Result<Vec<(RouteMessage, Cidr)>, Error> {
    let routes = host.routes().await?.into_iter();
    let routes = routes.filter(|route| is_local(route, addresses));
    Ok(routes
        .filter_map(|route| destination(&route).map(|range| (route, range)))
        .collect())
}

fn is_local(route: &RouteMessage, addresses: &[Ipv4Addr]) -> bool {
    route.header.protocol == RouteProtocol::Other(PROTOCOL)
        && source(route).is_some_and(|source| addresses.contains(&source))
}

fn route(
    gateway: Ipv4Addr,
    range: Cidr,
    peer_route: PeerRoute,
    tunnels: Tunnels,
) -> Option<RouteMessage> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(range.network(), range.prefix())
        .protocol(RouteProtocol::Other(PROTOCOL))
        .pref_source(gateway);
    let route = match peer_route {
        PeerRoute::Link { via, index } => route.output_interface(index).gateway(via),
        PeerRoute::Tunnel { .. } => route
            .output_interface(tunnels.plain?)
            .gateway(range.network())
            .onlink(),
        PeerRoute::Encrypted => route.output_interface(tunnels.encrypted?),
        PeerRoute::Unreachable => route.kind(RouteType::Unreachable),
    };
    Some(route.build())
}

/// Whether two routes to one range have equal next hops.
fn same(desired: &RouteMessage, existing: &RouteMessage) -> bool {
    let gateway = |route: &RouteMessage| {
        route
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                RouteAttribute::Gateway(address) => Some(address.clone()),
                _ => None,
            })
    };
    desired.header.kind == existing.header.kind
        && output(desired) == output(existing)
        && gateway(desired) == gateway(existing)
}

async fn delete_route(host: &Host, route: RouteMessage, range: Cidr) -> Result<(), Error> {
    let done = host.handle.route().del(route).execute().await;
    done.map_err(kernel(format!("remove route to the pods in {range}")))
}

/// Creates the tunnel device, or adopts the device of a former process. Returns its index.
async fn ensure_tunnel(host: &Host, desired: &Tunnel) -> Result<u32, Error> {
    let name = names::tunnel_name(&host.instance_id);
    let existing = get_link(&host.handle, &name).await?;
    let index = match existing {
        Some(link) if is_tunnel(&link, desired) => link.header.index,
        existing => {
            if let Some(stale) = existing {
                delete_link(host, stale.header.index).await?;
            }
            let device = LinkVxlan::new(&name, desired.vni)
                .local(desired.local)
                .port(desired.port)
                .learning(false)
                .address(desired.mac.to_vec())
                .build();
            let result = host.handle.link().add(device).execute().await;
            result.map_err(kernel(format!(
                "create the tunnel {name} (VNI {}, UDP port {}; another program may have this pair)",
                desired.vni, desired.port
            )))?;
            let link = get_link(&host.handle, &name).await?;
            let vanished = || Error::LinkVanished { name: name.clone() };
            link.ok_or_else(vanished)?.header.index
        }
    };
    let up = LinkUnspec::new_with_index(index).mtu(desired.mtu).up();
    let set = host.handle.link().set(up.build()).execute().await;
    set.map_err(kernel(format!("set up the tunnel {name}")))?;
    Ok(index)
}

fn is_tunnel(link: &LinkMessage, desired: &Tunnel) -> bool {
    let has_address = link
        .attributes
        .contains(&LinkAttribute::Address(desired.mac.to_vec()));
    let needed = [
        InfoVxlan::Id(desired.vni),
        InfoVxlan::Local(desired.local),
        InfoVxlan::Port(desired.port),
        InfoVxlan::Learning(false),
    ];
    let mut infos = link
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        });
    let is_vxlan = infos.any(|infos| {
        infos.iter().any(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(data)) => {
                needed.iter().all(|info_data| data.contains(info_data))
            }
            _ => false,
        })
    });
    has_address && is_vxlan
}

/// Updates the entries of the tunnel. Each peer's next hop has a hardware address, and the entry maps it to
/// the peer's address. Entries of other peers are removed.
async fn ensure_ends(
    host: &Host,
    index: u32,
    plan: &PeersPlan,
) -> Result<Vec<(Cidr, String)>, Error> {
    let ends: Vec<(Cidr, Ipv4Addr)> = plan.tunnelled().collect();
    let mut refused = Vec::new();
    for (family, entry) in entries(host, index).await? {
        let stays = ends.iter().any(|(range, end)| {
            let mac = tunnel_mac(*range);
            match family {
                AddressFamily::Bridge => entry.mac == mac && entry.address == Some(*end),
                _ => entry.mac == mac && entry.address == Some(range.network()),
            }
        });
        if !stays {
            let done = host.handle.neighbours().del(entry.message).execute().await;
            done.map_err(kernel("remove an entry of the tunnel"))?;
        }
    }
    for (range, end) in ends {
        if let Err(error) = add_end(host, index, range, end).await {
            refused.push((range, cause(&error)));
        }
    }
    Ok(refused)
}

async fn add_end(host: &Host, index: u32, range: Cidr, end: Ipv4Addr) -> Result<(), Error> {
    let mac = tunnel_mac(range);
    let failed = || kernel(format!("add the end {end} of the tunnel"));
    let neighbours = host.handle.neighbours();
    let hop = neighbours.add(index, range.network().into()).replace();
    let hop = hop.link_layer_address(&mac).execute().await;
    hop.map_err(failed())?;
    let entry = neighbours.add_bridge(index, &mac).replace();
    let entry = entry
        .destination(IpAddr::V4(end))
        .flags(NeighbourFlags::Own);
    entry.execute().await.map_err(failed())
}

/// An entry of the tunnel for a hardware address.
struct Entry {
    mac: Vec<u8>,
    address: Option<Ipv4Addr>,
    message: NeighbourMessage,
}

async fn entries(host: &Host, index: u32) -> Result<Vec<(AddressFamily, Entry)>, Error> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Bridge] {
        let get = host.handle.neighbours().get().set_address_family(family);
        let messages: Vec<NeighbourMessage> = get
            .execute()
            .try_collect()
            .await
            .map_err(kernel("list the entries of the tunnel"))?;
        for message in messages {
            let mac = message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    NeighbourAttribute::LinkLayerAddress(mac) => Some(mac.clone()),
                    _ => None,
                });
            if let Some(mac) = mac.filter(|_| message.header.ifindex == index) {
                let address = message.attributes.iter().find_map(address);
                let entry = Entry {
                    mac,
                    address,
                    message,
                };
                all.push((family, entry));
            }
        }
    }
    Ok(all)
}

fn address(attribute: &NeighbourAttribute) -> Option<Ipv4Addr> {
    match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Into::into)
        }
        _ => None,
    }
}

/// Removes all routes and tunnels to other nodes. The node's addresses must still exist.
pub(crate) async fn remove(host: &Host) -> Result<(), Error> {
    remove_tunnel(host).await?;
    remove_unreachable(host).await?;
    remove_encrypted_tunnel(host).await
}

/// Removes the tunnel. The kernel removes its routes and entries, too.
async fn remove_tunnel(host: &Host) -> Result<(), Error> {
    remove_link(host, &names::tunnel_name(&host.instance_id)).await
}

/// Removes the encrypted tunnel of a former process. The kernel removes its routes and peers, too.
pub(crate) async fn remove_encrypted_tunnel(host: &Host) -> Result<(), Error> {
    remove_link(host, &names::encrypted_tunnel_name(&host.instance_id)).await
}

async fn remove_link(host: &Host, name: &str) -> Result<(), Error> {
    match get_link(&host.handle, name).await? {
        Some(link) => delete_link(host, link.header.index).await,
        None => Ok(()),
    }
}
