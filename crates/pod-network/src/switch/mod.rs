//! A switch for several nodes on one machine: each additional node has a network namespace, and all nodes
//! and the machine are on one link.
//!
//! The bridge is in a separate namespace, so that the machine's firewall and the rules of other instances
//! do not process its packets (`bridge-nf-call-iptables`).

mod pinned;

use std::io::Error as IoError;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use futures::FutureExt;
use futures::future::BoxFuture;
use host_kernel::durable_file::{self, Durability};
use host_kernel::{blocking, blocking_value};
use object_model::cidr::Cidr;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::addresses::create_private;
use crate::error::{Error, file, kernel};
use crate::host::{Host, LOOPBACK_INDEX};
use crate::links::{delete_link, get_link};
use crate::names::switch_link;
use crate::namespace;
use crate::neighbours::Neighbours;
use crate::ranges::{self, UsedRange};
use pinned::{pin, unpin};

/// The name of a node's link to the switch.
const NODE_LINK: &str = "eth0";
/// The name of the bridge, and of the file of its namespace.
const BRIDGE: &str = "switch";
/// The name of the file with the range.
const RANGE: &str = "range";
/// The setting that passes packets of bridges through the machine's firewall, if the module is loaded.
const BRIDGE_FIREWALL: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// The options of the virtual switch between nodes on one machine.
#[derive(Clone, Debug)]
pub struct SwitchOptions {
    /// Six hexadecimal digits that distinguish this instance from other instances on the machine.
    pub instance_id: String,
    /// Directory of the namespaces' files. No other module writes to it.
    pub state_dir: PathBuf,
    /// The configured addresses: the first address is the machine's, the others are the nodes'. If the
    /// range is in use, the next free range of this size is used.
    pub range: Cidr,
    /// Ranges that this instance uses for other purposes.
    pub own_ranges: Vec<Cidr>,
    /// The range file of this instance, with its path in the list of all instances.
    pub ranges: PathBuf,
    /// The list of all instances of the machine, by default [`INSTANCES`](crate::INSTANCES). Their ranges
    /// are avoided while other ranges are free, because the ranges of an instance that is just starting are
    /// not in the kernel yet.
    pub instances: PathBuf,
    /// The names of the nodes with a separate namespace. The first of these nodes has the second address.
    pub nodes: Vec<String>,
}

/// A node on the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchedNode {
    pub name: String,
    pub namespace: PathBuf,
    pub address: Ipv4Addr,
}

/// The switch of one instance.
///
/// *Guarantees*: a repeated open adopts the namespaces of a former process with their links.
#[derive(Debug)]
pub struct NodeSwitch {
    range: Cidr,
    address: Ipv4Addr,
    nodes: Vec<SwitchedNode>,
}

impl NodeSwitch {
    /// Creates the namespaces, the bridge and the links, or adopts them.
    ///
    /// # Errors
    /// The range is too small, or an operation on a file or in the kernel fails (root is required).
    pub fn open(options: SwitchOptions) -> BoxFuture<'static, Result<Self, Error>> {
        async move {
            let host = Host::connect(&options.instance_id)?;
            let directory = options.state_dir.clone();
            blocking_on_file("create directory", &options.state_dir, move || {
                create_private(&directory)
            })
            .await?;
            // The lock is held until the range is visible in the kernel, because of instances that start
            // concurrently.
            let lock = ranges::lock().await?;
            let range = choose_range(&host, &options).await?;
            let address = |index: usize| {
                let index = u32::try_from(index).ok();
                let address = index.and_then(|index| range.nth(index));
                let usable = address.filter(|address| *address != range.last());
                usable.ok_or(Error::RangeTooSmall { range })
            };
            let bridge = Bridge::open(&options.state_dir).await?;
            let machine_namespace =
                blocking_on_file("open", Path::new(OWN_NAMESPACE), own_namespace).await?;
            let machine = Port {
                name: switch_link(&options.instance_id),
                address: address(1)?,
                prefix: range.prefix(),
                gateway: None,
            };
            bridge
                .plug(&host.handle, "machine", &machine_namespace, &machine)
                .await?;
            drop(lock);
            let mut nodes = Vec::new();
            for (index, name) in options.nodes.into_iter().enumerate() {
                let label = format!("node-{}", index + 2);
                let namespace = options.state_dir.join(&label);
                let pinned = namespace.clone();
                blocking_on_file("mount a network namespace on", &namespace, move || {
                    pin(&pinned)
                })
                .await?;
                let port = Port {
                    name: NODE_LINK.to_owned(),
                    address: address(index + 2)?,
                    prefix: range.prefix(),
                    gateway: Some(machine.address),
                };
                let (inside, file) = namespace::connect(&namespace).await?;
                bridge.plug(&inside, &label, &file, &port).await?;
                nodes.push(SwitchedNode {
                    name,
                    namespace,
                    address: port.address,
                });
            }
            Ok(Self {
                range,
                address: machine.address,
                nodes,
            })
        }
        .boxed()
    }

    pub fn range(&self) -> Cidr {
        self.range
    }

    /// The machine's address on the switch.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The nodes with a separate namespace.
    pub fn nodes(&self) -> &[SwitchedNode] {
        &self.nodes
    }

    /// Removes the switch of an instance and the files of its namespaces. The kernel removes a namespace
    /// when its last process has exited.
    ///
    /// # Errors
    /// An operation on a file or in the kernel fails; the remaining objects stay.
    pub async fn remove(instance_id: &str, state_dir: &Path) -> Result<(), Error> {
        let host = Host::connect(instance_id)?;
        if let Some(link) = get_link(&host.handle, &switch_link(instance_id)).await? {
            delete_link(&host, link.header.index).await?;
        }
        let state_dir = state_dir.to_owned();
        let removed = blocking_value(move || unpin_all(&state_dir)).await;
        removed.map_err(|error| file("remove", "network namespaces")(error.into()))?
    }
}

/// The range of a former process if its link exists, else a free range.
async fn choose_range(host: &Host, options: &SwitchOptions) -> Result<Cidr, Error> {
    let path = options.state_dir.join(RANGE);
    let read = path.clone();
    let stored = blocking_on_file("read", &path, move || stored(&read)).await?;
    let link = get_link(&host.handle, &switch_link(&options.instance_id)).await?;
    if let (Some(range), Some(_)) = (stored, link) {
        return Ok(range);
    }
    let mut used = host.used_ranges().await?;
    used.extend(options.own_ranges.iter().map(|range| UsedRange {
        range: *range,
        by: "this instance".to_owned(),
    }));
    let (instances, local) = (options.instances.clone(), options.ranges.clone());
    let neighbours = blocking_on_file("read", &options.instances, move || {
        Ok(Neighbours::read(&instances, &local).ranges())
    });
    let (recorded, desired) = (neighbours.await?, stored.unwrap_or(options.range));
    let range = ranges::choose("node", &used, &recorded, desired, false)?;
    let file = path.clone();
    blocking_on_file("write", &path, move || store(&file, range)).await?;
    Ok(range)
}

/// Runs work that waits for the disk or the kernel on a thread for blocking work.
async fn blocking_on_file<T: Send + 'static>(
    doing: &'static str,
    path: &Path,
    work: impl FnOnce() -> Result<T, IoError> + Send + 'static,
) -> Result<T, Error> {
    blocking(work).await.map_err(file(doing, path))
}

fn store(path: &Path, range: Cidr) -> Result<(), IoError> {
    durable_file::replace(
        path,
        range.to_string().as_bytes(),
        0o644,
        Durability::PageCache,
    )
}

fn stored(path: &Path) -> Result<Option<Cidr>, IoError> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        text => Ok(text?.trim().parse().ok()),
    }
}

fn unpin_all(state_dir: &Path) -> Result<(), Error> {
    let files = match std::fs::read_dir(state_dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        files => files.map_err(file("read", state_dir))?,
    };
    for entry in files {
        let path = entry.map_err(file("read", state_dir))?.path();
        unpin(&path).map_err(file("remove", &path))?;
    }
    std::fs::remove_dir(state_dir).map_err(file("remove", state_dir))
}

/// The namespace of this program.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

fn own_namespace() -> Result<std::fs::File, IoError> {
    std::fs::File::open(OWN_NAMESPACE)
}

/// The user's end of a link to the switch.
struct Port {
    name: String,
    address: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
}

/// The bridge in its namespace.
struct Bridge {
    handle: Handle,
    index: u32,
}

impl Bridge {
    async fn open(state_dir: &Path) -> Result<Self, Error> {
        let namespace = state_dir.join(BRIDGE);
        let pinned = namespace.clone();
        let pin = move || pin(&pinned);
        blocking_on_file("mount a network namespace on", &namespace, pin).await?;
        let (handle, _) = namespace::connect(&namespace).await?;
        namespace::inside(&namespace, keep_firewall_out).await?;
        let index = match get_link(&handle, BRIDGE).await? {
            Some(link) => link.header.index,
            None => {
                let bridge = LinkBridge::new(BRIDGE).up().build();
                let result = handle.link().add(bridge).execute().await;
                result.map_err(kernel("create the bridge"))?;
                index_of(&handle, BRIDGE).await?
            }
        };
        Ok(Self { handle, index })
    }

    /// Connects a namespace, unless it is connected. The link in the namespace has the name of the port;
    /// the bridge's end has the name `label`.
    async fn plug(
        &self,
        inside: &Handle,
        label: &str,
        namespace: &std::fs::File,
        port: &Port,
    ) -> Result<(), Error> {
        if get_link(inside, &port.name).await?.is_none() {
            let peer = LinkUnspec::new_with_name(&port.name)
                .setns_by_fd(namespace.as_raw_fd())
                .build();
            let pair = LinkVeth::new(label, &port.name)
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                .build();
            let result = self.handle.link().add(pair).execute().await;
            result.map_err(kernel(format!("create link {label}")))?;
        }
        let index = index_of(&self.handle, label).await?;
        let joined = LinkUnspec::new_with_index(index)
            .controller(self.index)
            .up()
            .build();
        let joined = self.handle.link().set(joined).execute().await;
        joined.map_err(kernel(format!("add link {label} to the bridge")))?;
        configure(inside, port).await
    }
}

async fn configure(inside: &Handle, port: &Port) -> Result<(), Error> {
    let failed = |doing: &str| kernel(format!("{doing} of {}", port.address));
    let index = index_of(inside, &port.name).await?;
    for index in [LOOPBACK_INDEX, index] {
        let up = LinkUnspec::new_with_index(index).up().build();
        let up = inside.link().set(up).execute().await;
        up.map_err(failed("enable the link"))?;
    }
    let address = inside
        .address()
        .add(index, port.address.into(), port.prefix)
        .replace();
    address.execute().await.map_err(failed("add the address"))?;
    if let Some(gateway) = port.gateway {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .build();
        let added = inside.route().add(route).replace().execute().await;
        added.map_err(failed("add the default route"))?;
    }
    Ok(())
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, Error> {
    let link = get_link(handle, name).await?;
    let link = link.ok_or_else(|| Error::LinkVanished {
        name: name.to_owned(),
    })?;
    Ok(link.header.index)
}

fn keep_firewall_out() -> Result<(), IoError> {
    match std::fs::write(BRIDGE_FIREWALL, "0") {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
