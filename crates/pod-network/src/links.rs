//! The veth pair of a pod: its creation, the addresses and routes of both ends, and its removal.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::Path;

use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{Error as NetlinkError, Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::error::{Error, kernel};
use crate::host::{Host, LOOPBACK_INDEX, link_alias};
use crate::{names, namespace};

/// Name of the pod's end, as containers expect it.
const POD_LINK: &str = "eth0";

/// Maximum number of names that are tried for a link, because another pod's link may have the first name.
const NAME_ATTEMPTS_MAX: u32 = 16;

const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const ESRCH: i32 = 3;

/// The settings of a pod's veth pair.
#[derive(Clone, Debug)]
pub(crate) struct PodLink {
    pub(crate) uid: String,
    pub(crate) ip: Ipv4Addr,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) mtu: u32,
}

impl PodLink {
    /// The hardware address, computed from the pod's address. So both ends know the address before the pair
    /// exists, and it depends only on the pod's address.
    fn pod_mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.ip.octets();
        [0x0a, 0x58, a, b, c, d]
    }

    fn host_mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.ip.octets();
        [0x0e, 0x58, a, b, c, d]
    }
}

/// Connects the namespace to the host. Idempotent, so it can be repeated after a crash at any point. A pair
/// to another namespace is replaced, because the sandbox was recreated.
pub(crate) async fn attach(host: &Host, pod: &PodLink, netns: &Path) -> Result<(), Error> {
    let (inside, netns) = namespace::connect(netns).await?;
    let host_link = find_host_link(host, &pod.uid).await?;
    let pod_link = find_pod_link(&inside, pod).await?;
    let (host_index, pod_index) = match (host_link, pod_link) {
        (Some(host_index), Some(pod_index)) => (host_index, pod_index),
        (stale, _) => {
            if let Some(index) = stale {
                delete_link(host, index).await?;
            }
            create_pair(host, pod, netns.as_raw_fd(), &inside).await?
        }
    };
    configure_pod(&inside, pod, pod_index).await?;
    configure_host(host, pod, host_index).await
}

async fn find_host_link(host: &Host, uid: &str) -> Result<Option<u32>, Error> {
    let alias = names::link_alias(&host.instance_id, uid);
    for attempt in 0..NAME_ATTEMPTS_MAX {
        let name = names::link_name(&host.instance_id, uid, attempt);
        match get_link(&host.handle, &name).await? {
            Some(link) if link_alias(&link) == Some(&alias) => return Ok(Some(link.header.index)),
            Some(_) => {}
            None => break,
        }
    }
    Ok(None)
}

/// The pod's end of the pair; `None` if it is missing or its hardware address does not match the pod's
/// address.
async fn find_pod_link(inside: &Handle, pod: &PodLink) -> Result<Option<u32>, Error> {
    let mac = LinkAttribute::Address(pod.pod_mac().to_vec());
    let link = get_link(inside, POD_LINK).await?;
    Ok(link
        .filter(|link| link.attributes.contains(&mac))
        .map(|link| link.header.index))
}

pub(crate) async fn get_link(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, Error> {
    use futures::TryStreamExt;
    let mut links = std::pin::pin!(handle.link().get().match_name(name).execute());
    match links.try_next().await {
        Err(error) if is(&error, ENODEV) => Ok(None),
        result => result.map_err(kernel(format!("find link {name}"))),
    }
}

/// Creates the pair, with the pod's end directly in its namespace. Returns both indexes.
async fn create_pair(
    host: &Host,
    pod: &PodLink,
    netns: i32,
    inside: &Handle,
) -> Result<(u32, u32), Error> {
    let mut name = String::new();
    for attempt in 0..NAME_ATTEMPTS_MAX {
        name = names::link_name(&host.instance_id, &pod.uid, attempt);
        let peer = LinkUnspec::new_with_name(POD_LINK)
            .address(pod.pod_mac().to_vec())
            .mtu(pod.mtu)
            .setns_by_fd(netns)
            .build();
        let pair = LinkVeth::new(&name, POD_LINK)
            .address(pod.host_mac().to_vec())
            .mtu(pod.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        match host.handle.link().add(pair).execute().await {
            Ok(()) => break,
            Err(error) if is(&error, EEXIST) && attempt + 1 < NAME_ATTEMPTS_MAX => {}
            Err(error) => return Err(kernel(format!("create link {name}"))(error)),
        }
    }
    let index = |link: Option<LinkMessage>| link.map(|link| link.header.index);
    let host_index = index(get_link(&host.handle, &name).await?);
    let pod_index = find_pod_link(inside, pod).await?;
    match (host_index, pod_index) {
        (Some(host_index), Some(pod_index)) => {
            mark(host, pod, host_index, &name).await?;
            Ok((host_index, pod_index))
        }
        _ => Err(Error::LinkVanished { name }),
    }
}

/// Settings of the host's end of a pod's link.
const SWITCHES: [(&str, &str); 6] = [
    // Pods have no IPv6 yet, so IPv6 addresses of the link would only cause useless traffic.
    ("ipv6/conf/{name}/disable_ipv6", "1"),
    // Node ports also work on the host's localhost. The service rules prevent pods from reaching the host's
    // loopback this way.
    ("ipv4/conf/{name}/route_localnet", "1"),
    // A pod must send from its address, over the host's route. The service rules check the source address,
    // too, for machines on which this check is disabled for all links. If a machine sends redirects on all
    // links, pods receive redirects, too.
    ("ipv4/conf/{name}/rp_filter", "1"),
    ("ipv4/conf/{name}/accept_source_route", "0"),
    ("ipv4/conf/{name}/accept_redirects", "0"),
    ("ipv4/conf/{name}/send_redirects", "0"),
];

fn set_switches(name: &str) {
    for (switch, value) in SWITCHES {
        let path = format!("/proc/sys/net/{}", switch.replace("{name}", name));
        match std::fs::write(&path, value) {
            Ok(()) => {}
            // The kernel has no IPv6 support.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path, value, %error, "switch of a pod's link not set"),
        }
    }
}

/// Sets the alias of a link, in a separate message, because the kernel does not accept an alias at
/// creation. A crash in between leaves a link without an alias, which is removed with its namespace.
async fn mark(host: &Host, pod: &PodLink, index: u32, name: &str) -> Result<(), Error> {
    set_switches(name);
    let alias = names::link_alias(&host.instance_id, &pod.uid);
    let set = LinkUnspec::new_with_index(index).alias(alias).up().build();
    host.handle
        .link()
        .set(set)
        .execute()
        .await
        .map_err(kernel(format!("set up link {name}")))
}

async fn configure_pod(inside: &Handle, pod: &PodLink, index: u32) -> Result<(), Error> {
    let failed = |action: &str| kernel(format!("{action} in the pod with address {}", pod.ip));
    let lo_up = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
    inside
        .link()
        .set(lo_up)
        .execute()
        .await
        .map_err(failed("set lo up"))?;
    let up = LinkUnspec::new_with_index(index).up().build();
    inside
        .link()
        .set(up)
        .execute()
        .await
        .map_err(failed("set eth0 up"))?;
    let address = inside
        .address()
        .add(index, pod.ip.into(), 32)
        .replace()
        .execute()
        .await;
    address.map_err(failed("add address"))?;
    let mac = pod.host_mac();
    let neighbour = inside.neighbours().add(index, pod.gateway.into()).replace();
    let neighbour = neighbour.link_layer_address(&mac).execute().await;
    neighbour.map_err(failed("add neighbour"))?;
    let gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(pod.gateway, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    add_route(inside, gateway)
        .await
        .map_err(failed("add route to the gateway"))?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .output_interface(index)
        .gateway(pod.gateway)
        .build();
    add_route(inside, default)
        .await
        .map_err(failed("add default route"))
}

async fn configure_host(host: &Host, pod: &PodLink, index: u32) -> Result<(), Error> {
    let failed = |action: &str| kernel(format!("{action} for the pod with address {}", pod.ip));
    let neighbour = host.handle.neighbours().add(index, pod.ip.into()).replace();
    let neighbour = neighbour.link_layer_address(&pod.pod_mac()).execute().await;
    neighbour.map_err(failed("add neighbour"))?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(pod.ip, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .pref_source(pod.gateway)
        .build();
    add_route(&host.handle, route)
        .await
        .map_err(failed("add route"))
}

async fn add_route(handle: &Handle, route: RouteMessage) -> Result<(), NetlinkError> {
    handle.route().add(route).replace().execute().await
}

/// Removes the pod's host route at once, so that the pod's address can be assigned to another pod. Returns
/// the index of the link, which is still to be deleted.
pub(crate) async fn unroute(host: &Host, uid: &str, ip: Ipv4Addr) -> Result<Option<u32>, Error> {
    let Some(index) = find_host_link(host, uid).await? else {
        return Ok(None);
    };
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(ip, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    match host.handle.route().del(route).execute().await {
        Err(error) if !is(&error, ESRCH) && !is(&error, ENODEV) => {
            Err(kernel(format!("remove route to {ip}"))(error))
        }
        _ => Ok(Some(index)),
    }
}

/// Deletes a link. A missing link is no error.
pub(crate) async fn delete_link(host: &Host, index: u32) -> Result<(), Error> {
    match host.handle.link().del(index).execute().await {
        Err(error) if !is(&error, ENODEV) => Err(kernel(format!("delete link {index}"))(error)),
        _ => Ok(()),
    }
}

/// Lowers the MTU of a pod's link on the host and, if the namespace is known, in the pod. Otherwise packets
/// of the pod that are too large for a path to another node would be lost.
pub(crate) async fn lower_mtu(
    host: &Host,
    index: u32,
    netns: Option<&Path>,
    mtu: u32,
) -> Result<(), Error> {
    let failed = |target: &str| kernel(format!("set MTU {mtu} {target}"));
    if let Some(netns) = netns {
        let (inside, _netns) = namespace::connect(netns).await?;
        if let Some(link) = get_link(&inside, POD_LINK).await? {
            let set = LinkUnspec::new_with_index(link.header.index).mtu(mtu);
            let set = inside.link().set(set.build()).execute().await;
            set.map_err(failed("in a pod"))?;
        }
    }
    let set = LinkUnspec::new_with_index(index).mtu(mtu).build();
    match host.handle.link().set(set).execute().await {
        Err(error) if !is(&error, ENODEV) => Err(failed("of a pod's link")(error)),
        _ => Ok(()),
    }
}

/// The pods of this instance that have a link: UID and link index.
pub(crate) async fn pods_with_links(host: &Host) -> Result<Vec<(String, u32)>, Error> {
    let prefix = names::alias_prefix(&host.instance_id);
    let links = host.links().await?;
    let pod = |link: &LinkMessage| {
        let uid = link_alias(link)?.strip_prefix(&prefix)?.to_owned();
        Some((uid, link.header.index))
    };
    Ok(links.iter().filter_map(pod).collect())
}

fn is(error: &NetlinkError, errno: i32) -> bool {
    matches!(error, NetlinkError::NetlinkError(message) if message.raw_code() == -errno)
}
