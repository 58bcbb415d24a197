//! The host's objects that all pods share: the node's addresses on `lo` and the Service route.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use object_model::cidr::Cidr;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use crate::error::{Error, file, kernel};
use crate::names;
use crate::ranges::{Ranges, UsedRange, dns_address, user_of};

/// `lo` is the first link of every network namespace.
pub(crate) const LOOPBACK_INDEX: u32 = 1;

/// The routing table with the addresses of this machine, which the kernel manages.
pub(crate) const RT_TABLE_LOCAL: u8 = 255;

/// The MTU of pods if the host's uplink is unknown.
const MTU_DEFAULT: u32 = 1500;

/// A connection to the kernel in the host's network namespace, for one instance.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) handle: Handle,
    pub(crate) instance_id: String,
}

impl Host {
    /// Opens the connection, which closes when the last clone is dropped.
    pub(crate) fn connect(instance_id: &str) -> Result<Host, Error> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(file("open", "rtnetlink socket"))?;
        tokio::spawn(connection);
        Ok(Host {
            handle,
            instance_id: instance_id.to_owned(),
        })
    }

    /// The ranges that other programs of this machine use: addresses, routes and name servers.
    pub(crate) async fn used_ranges(&self) -> Result<Vec<UsedRange>, Error> {
        let names = self.link_names().await?;
        let local_addresses: Vec<Ipv4Addr> = self
            .host_addresses()
            .await?
            .iter()
            .filter_map(local)
            .collect();
        let mut used = Vec::new();
        for address in self.addresses().await? {
            if let Some(ip) = local(&address).filter(|ip| !local_addresses.contains(ip)) {
                let range = Cidr::new(ip, address.header.prefix_len);
                used.push(UsedRange {
                    range,
                    by: format!("address {ip}"),
                });
            }
        }
        for route in self.routes().await? {
            let name = output(&route).and_then(|index| names.get(&index));
            let is_local = source(&route).is_some_and(|source| local_addresses.contains(&source));
            let local_table = route.header.table == RT_TABLE_LOCAL;
            if let Some(range) = destination(&route).filter(|_| !is_local && !local_table) {
                let by = name.map_or_else(
                    || "a route".to_owned(),
                    |name| format!("a route via {name}"),
                );
                used.push(UsedRange { range, by });
            }
        }
        let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        for server in name_servers(&resolv_conf) {
            used.push(UsedRange {
                range: Cidr::new(server, 32),
                by: format!("name server {server}"),
            });
        }
        Ok(used)
    }

    /// Adds the node's address and the DNS address to `lo`, and creates the Service route. Existing objects
    /// stay; addresses of former ranges of the instance are removed.
    pub(crate) async fn claim(&self, ranges: &Ranges) -> Result<(), Error> {
        let node = ranges.node_address()?;
        let dns = dns_address(ranges.service);
        let dns = dns.ok_or(Error::RangeTooSmall {
            range: ranges.service,
        })?;
        let addresses = [node, dns];
        for stale in self.host_addresses().await? {
            if !local(&stale).is_some_and(|ip| addresses.contains(&ip)) {
                self.remove_address(stale).await?;
            }
        }
        let up = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
        self.handle
            .link()
            .set(up)
            .execute()
            .await
            .map_err(kernel("set lo up"))?;
        for ip in addresses {
            let mut add = self
                .handle
                .address()
                .add(LOOPBACK_INDEX, ip.into(), 32)
                .replace();
            let label = names::address_label(&self.instance_id);
            add.message_mut()
                .attributes
                .push(AddressAttribute::Label(label));
            add.execute()
                .await
                .map_err(kernel(format!("add address {ip} to lo")))?;
        }
        self.add_service_route(ranges.service, node).await
    }

    /// Makes the Service routes those of `service` and of the further ranges. A range that another program of the machine uses
    /// gets none.
    pub(crate) async fn route_services(
        &self,
        service: Cidr,
        further: &[Cidr],
        node: Ipv4Addr,
    ) -> Result<(), Error> {
        let used = self.used_ranges().await?;
        let mut desired = Vec::new();
        for range in further {
            match user_of(&used, *range) {
                None => desired.push(*range),
                Some(by) => tracing::warn!(%range, %by, "a ServiceCIDR gets no route on this node"),
            }
        }
        for route in self.routes().await? {
            let is_own = output(&route) == Some(LOOPBACK_INDEX)
                && route.header.table != RT_TABLE_LOCAL
                && source(&route) == Some(node);
            let Some(range) = destination(&route).filter(|_| is_own) else {
                continue;
            };
            if desired.contains(&range) {
                desired.retain(|other| *other != range);
            } else if range != service {
                let delete = self.handle.route().del(route).execute().await;
                delete.map_err(kernel(format!("remove route to services {range}")))?;
            }
        }
        for range in desired {
            self.add_service_route(range, node).await?;
        }
        Ok(())
    }

    /// Adds a Service route. A connection of the node to a Service needs a route, before the kernel
    /// applies the Service rules. The route sets the source address, so that pods can respond.
    async fn add_service_route(&self, service: Cidr, node: Ipv4Addr) -> Result<(), Error> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(service.network(), service.prefix())
            .output_interface(LOOPBACK_INDEX)
            .scope(RouteScope::Link)
            .pref_source(node)
            .build();
        let add = self.handle.route().add(route).replace().execute().await;
        add.map_err(kernel(format!("add route to services {service}")))
    }

    /// Removes the addresses of this instance. The kernel also removes the routes with these source
    /// addresses.
    pub(crate) async fn release(&self) -> Result<(), Error> {
        for address in self.host_addresses().await? {
            self.remove_address(address).await?;
        }
        Ok(())
    }

    async fn remove_address(&self, address: AddressMessage) -> Result<(), Error> {
        let doing = format!("remove address {:?} from lo", local(&address));
        self.handle
            .address()
            .del(address)
            .execute()
            .await
            .map_err(kernel(doing))
    }

    pub(crate) async fn host_addresses(&self) -> Result<Vec<AddressMessage>, Error> {
        let label = AddressAttribute::Label(names::address_label(&self.instance_id));
        let mut addresses = self.addresses().await?;
        addresses.retain(|address| address.attributes.contains(&label));
        Ok(addresses)
    }

    /// Whether any instance has addresses on `lo`.
    pub(crate) async fn has_instances(&self) -> Result<bool, Error> {
        let addresses = self.addresses().await?;
        let is_instance = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Label(label) => label.starts_with(&names::address_label("")),
            _ => false,
        };
        Ok(addresses
            .iter()
            .flat_map(|address| &address.attributes)
            .any(is_instance))
    }

    pub(crate) async fn addresses(&self) -> Result<Vec<AddressMessage>, Error> {
        let all: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(kernel("list addresses"))?;
        Ok(all
            .into_iter()
            .filter(|address| local(address).is_some())
            .collect())
    }

    pub(crate) async fn routes(&self) -> Result<Vec<RouteMessage>, Error> {
        let mut query = RouteMessage::default();
        query.header.address_family = AddressFamily::Inet;
        self.handle
            .route()
            .get(query)
            .execute()
            .try_collect()
            .await
            .map_err(kernel("list routes"))
    }

    pub(crate) async fn links(&self) -> Result<Vec<LinkMessage>, Error> {
        self.handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(kernel("list links"))
    }

    async fn link_names(&self) -> Result<BTreeMap<u32, String>, Error> {
        let name = |link: LinkMessage| Some((link.header.index, link_name(&link)?));
        Ok(self.links().await?.into_iter().filter_map(name).collect())
    }

    /// The MTU of the link of the default route, so that pods do not send larger packets.
    pub(crate) async fn uplink_mtu(&self) -> Result<u32, Error> {
        let routes = self.routes().await?;
        let is_default = |route: &&RouteMessage| route.header.destination_prefix_length == 0;
        let Some(uplink) = routes.iter().find(is_default).and_then(output) else {
            return Ok(MTU_DEFAULT);
        };
        let links = self.links().await?;
        let link = links.iter().find(|link| link.header.index == uplink);
        let mtu = link.and_then(|link| {
            link.attributes
                .iter()
                .find_map(|attribute| match attribute {
                    LinkAttribute::Mtu(mtu) => Some(*mtu),
                    _ => None,
                })
        });
        Ok(mtu.unwrap_or(MTU_DEFAULT))
    }
}

pub(crate) fn link_name(link: &LinkMessage) -> Option<String> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })
}

pub(crate) fn link_alias(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfAlias(alias) => Some(alias.as_str()),
            _ => None,
        })
}

pub(crate) fn local(address: &AddressMessage) -> Option<Ipv4Addr> {
    address
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(ip)) => Some(*ip),
            _ => None,
        })
}

pub(crate) fn destination(route: &RouteMessage) -> Option<Cidr> {
    let prefix = route.header.destination_prefix_length;
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(Cidr::new(*ip, prefix)),
            _ => None,
        })
}

pub(crate) fn source(route: &RouteMessage) -> Option<Ipv4Addr> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some(*ip),
            _ => None,
        })
}

pub(crate) fn output(route: &RouteMessage) -> Option<u32> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
}

fn name_servers(resolv_conf: &str) -> impl Iterator<Item = Ipv4Addr> + '_ {
    resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let server = words.next() == Some("nameserver");
        words.next().filter(|_| server)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::name_servers;

    #[test]
    fn name_servers_are_read_from_resolv_conf() {
        let text = "# nameserver 1.1.1.1\nnameserver 10.0.0.2\nsearch x\nnameserver fd00::1\n";
        assert_eq!(
            name_servers(text).collect::<Vec<_>>(),
            ["10.0.0.2".parse::<std::net::Ipv4Addr>().unwrap()]
        );
    }
}
