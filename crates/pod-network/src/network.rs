//! The pod network of one node: attach, detach, recover, close.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use host_kernel::blocking_value;
use object_model::cidr::Cidr;
use object_model::listening::{Listening, Transport};
use service_routing::{HostPort, Protocol, PublishedPort, TunnelGuard};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use crate::addresses::Addresses;
use crate::error::{Error, file};
use crate::host::Host;
use crate::links::{self, PodLink};
use crate::listening::Sockets;
use crate::peers::{self, Encrypting, Peer, PeerSettings, UnreachedPeer};
use crate::ranges::{Ranges, dns_address};
use crate::wireguard::kernel::Device;
use crate::wireguard::{EncryptionOptions, PrivateKey, TunnelEnd, WIREGUARD_BYTES};
use crate::{forwarding, names};

/// Interval at which the host's listening sockets are read. During one interval, a new listener may share
/// its port with a Service.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum time that a pod waits for its filters.
const GUARD_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct PodNetworkOptions {
    /// Six hexadecimal digits that distinguish this instance from other instances on the machine.
    pub instance_id: String,
    /// Directory for the addresses in use. No other crate writes to it.
    pub state_dir: PathBuf,
    /// The range of this node's pods. The first address is the node's address for its pods.
    pub pod_cidr: Cidr,
    /// Addresses of Services (`clusterIP`).
    pub service_cidr: Cidr,
    /// The encryption of the traffic to other nodes; `None` for plain traffic.
    pub encryption: Option<EncryptionOptions>,
}

/// The file of the private key, in the state directory.
const PRIVATE_KEY: &str = "wireguard-private-key";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodAddress {
    pub ip: Ipv4Addr,
    /// The node's address for its pods, which is the gateway of the pod's default route.
    pub gateway: Ipv4Addr,
}

/// The pod network of one node.
///
/// *Guarantees*: a pod keeps its address from the first `attach` to `detach`, even if the process crashes.
/// Every method may be repeated.
pub struct PodNetwork {
    host: Host,
    state_dir: PathBuf,
    gateway: Ipv4Addr,
    service: Cidr,
    uplink_mtu: u32,
    pod_mtu: AtomicU32,
    /// The range of this node. The lock is held while the routes to peers change.
    range: Mutex<Cidr>,
    /// The encrypted tunnel and the range of all pods; `None` if the node does not encrypt.
    encrypted: Option<(Device, Cidr)>,
    namespaces: Mutex<BTreeMap<String, PathBuf>>,
    addresses: Arc<Mutex<Addresses>>,
    published: watch::Sender<Vec<PublishedPort>>,
    connected: watch::Sender<BTreeMap<String, Ipv4Addr>>,
    guarded: watch::Sender<Option<BTreeMap<String, Ipv4Addr>>>,
    deletions: Mutex<JoinSet<()>>,
    sockets: Arc<std::sync::Mutex<Sockets>>,
    listening: watch::Sender<Listening>,
    tunnel: watch::Sender<Option<TunnelGuard>>,
}

impl PodNetwork {
    /// Sets up the objects that all pods share: the node's addresses on `lo`, the Service route, and
    /// forwarding. Adopts the state of a former process of this instance.
    ///
    /// # Errors
    /// The range is too small, or an operation on a file or in the kernel fails (root is required).
    pub fn open(options: PodNetworkOptions) -> BoxFuture<'static, Result<PodNetwork, Error>> {
        async move {
            let ranges = Ranges {
                pod: options.pod_cidr,
                service: options.service_cidr,
            };
            let host = Host::connect(&options.instance_id)?;
            let addresses = Addresses::open(&options.state_dir.join("pods"), ranges.pod)?;
            host.claim(&ranges).await?;
            forwarding::enable(&options.state_dir)?;
            let gateway = ranges.node_address()?;
            let uplink_mtu = host.uplink_mtu().await?;
            let encrypted = match options.encryption {
                Some(encryption) => {
                    let device = encrypt(&host, &options.state_dir, gateway, encryption).await?;
                    Some((device, encryption.cluster_range))
                }
                None => {
                    peers::kernel::remove_encrypted_tunnel(&host).await?;
                    None
                }
            };
            let pod_mtu = match encrypted {
                Some(_) => uplink_mtu.saturating_sub(WIREGUARD_BYTES),
                None => uplink_mtu,
            };
            let mut sockets = Sockets::open()?;
            let listening = sockets.read()?;
            Ok(PodNetwork {
                host,
                state_dir: options.state_dir,
                gateway,
                service: ranges.service,
                uplink_mtu,
                pod_mtu: AtomicU32::new(pod_mtu),
                range: Mutex::new(ranges.pod),
                encrypted,
                namespaces: Mutex::new(BTreeMap::new()),
                published: watch::Sender::new(addresses.published()),
                connected: watch::Sender::new(addresses.by_uid()),
                guarded: watch::Sender::new(None),
                addresses: Arc::new(Mutex::new(addresses)),
                deletions: Mutex::new(JoinSet::new()),
                sockets: Arc::new(std::sync::Mutex::new(sockets)),
                listening: watch::Sender::new(listening),
                tunnel: watch::Sender::new(None),
            })
        }
        .boxed()
    }

    /// The node's address for its pods: the first address of the pod range, on `lo`.
    pub fn node_address(&self) -> Ipv4Addr {
        self.gateway
    }

    /// This node's end of the encrypted tunnel; `None` if the node does not encrypt.
    pub fn tunnel_end(&self) -> Option<TunnelEnd> {
        self.encrypted.as_ref().map(|(device, _)| device.end())
    }

    /// The name of the link that receives encrypted packets; `None` if the node does not encrypt.
    pub fn encrypted_link(&self) -> Option<String> {
        let name = || names::encrypted_tunnel_name(&self.host.instance_id);
        self.encrypted.as_ref().map(|_| name())
    }

    /// A receiver of the unencrypted tunnel to other nodes.
    pub fn tunnel(&self) -> watch::Receiver<Option<TunnelGuard>> {
        self.tunnel.subscribe()
    }

    /// The address on `lo` for the cluster's DNS server.
    pub fn dns_address(&self) -> Option<Ipv4Addr> {
        dns_address(self.service)
    }

    /// Gives the node a route to each further range of Services, and removes those to former ones. A range that another
    /// program of the machine uses gets none.
    ///
    /// # Errors
    /// The kernel rejects a change.
    pub async fn route_services(&self, further: &[Cidr]) -> Result<(), Error> {
        self.host
            .route_services(self.service, further, self.gateway)
            .await
    }

    /// Connects the pod's network namespace and returns the pod's address.
    ///
    /// # Errors
    /// No address is free, the namespace does not exist, or the kernel rejects a change.
    pub async fn attach(&self, pod_uid: &str, netns_path: &Path) -> Result<PodAddress, Error> {
        let (uid, gateway) = (pod_uid.to_owned(), self.gateway);
        let mut namespaces = self.namespaces.lock().await;
        namespaces.insert(uid.clone(), netns_path.to_owned());
        drop(namespaces);
        let mtu = self.pod_mtu.load(Ordering::Acquire);
        let owner = uid.clone();
        let ip = self
            .change(move |addresses| addresses.assign(&owner))
            .await?;
        links::attach(
            &self.host,
            &PodLink {
                uid,
                ip,
                gateway,
                mtu,
            },
            netns_path,
        )
        .await?;
        Ok(PodAddress { ip, gateway })
    }

    /// Replaces the host ports of an attached pod. The ports stay until the pod is detached.
    ///
    /// # Errors
    /// An operation on a file fails.
    pub async fn publish(&self, pod_uid: &str, ports: Vec<HostPort>) -> Result<(), Error> {
        let uid = pod_uid.to_owned();
        self.change(move |addresses| addresses.publish(&uid, ports))
            .await
    }

    /// A receiver of the pods' host ports. This crate only stores the ports; the service proxy serves them.
    pub fn published(&self) -> watch::Receiver<Vec<PublishedPort>> {
        self.published.subscribe()
    }

    /// A receiver of the addresses of connected pods, by the UIDs of the pods.
    pub fn connected(&self) -> watch::Receiver<BTreeMap<String, Ipv4Addr>> {
        self.connected.subscribe()
    }

    /// Makes later pods wait until their connections are filtered. Returns the sender with which the
    /// service proxy reports the filtered pods, by UID and address; the value `None` means that pods do not
    /// wait.
    pub fn guard(&self) -> watch::Sender<Option<BTreeMap<String, Ipv4Addr>>> {
        self.guarded.send_replace(Some(BTreeMap::new()));
        self.guarded.clone()
    }

    /// Waits until the connections of an attached pod are filtered.
    ///
    /// # Errors
    /// The time limit has passed: the pod must not start.
    pub async fn wait_guarded(&self, pod_uid: &str) -> Result<(), Error> {
        let ip = self.addresses.lock().await.assigned_to(pod_uid);
        let mut guarded = self.guarded.subscribe();
        let has_filters = guarded.wait_for(|guarded| {
            let guarded = guarded.as_ref();
            guarded.is_none_or(|guarded| guarded.get(pod_uid).copied() == ip)
        });
        match tokio::time::timeout(GUARD_TIMEOUT, has_filters).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::NotGuarded {
                seconds: GUARD_TIMEOUT.as_secs(),
            }),
        }
    }

    /// A receiver of the listening sockets of the host's programs. The value changes while
    /// [`PodNetwork::follow_listening`] runs.
    pub fn listening(&self) -> watch::Receiver<Listening> {
        self.listening.subscribe()
    }

    /// Reads the listening sockets of the host's programs at an interval. Never returns.
    pub async fn follow_listening(&self) {
        let mut tick = tokio::time::interval(READ_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.read_listening().await {
                tracing::warn!(%error, "the listening ports of the machine cannot be read");
            }
        }
    }

    async fn read_listening(&self) -> Result<(), Error> {
        let sockets = Arc::clone(&self.sockets);
        let read = move || {
            let mut sockets = sockets.lock().unwrap_or_else(PoisonError::into_inner);
            sockets.read()
        };
        let listening = blocking_value(read).await;
        let listening =
            listening.map_err(|error| file("read", "/proc/net sockets")(error.into()))??;
        replace(&self.listening, listening);
        Ok(())
    }

    /// The first of the ports that a program of the host already uses, at the address of the port. Without
    /// an address, `node` is checked, which is the host's address for other machines.
    ///
    /// # Errors
    /// The listening sockets cannot be read.
    pub async fn port_in_use(
        &self,
        ports: &[HostPort],
        node: Option<Ipv4Addr>,
    ) -> Result<Option<HostPort>, Error> {
        if ports.is_empty() {
            return Ok(None);
        }
        self.read_listening().await?;
        let listening = self.listening.borrow();
        let in_use = |port: &&HostPort| {
            let transport = match port.protocol {
                Protocol::Tcp => Transport::Tcp,
                Protocol::Udp => Transport::Udp,
                Protocol::Sctp => return false,
            };
            match port.address.or(node) {
                Some(address) => listening.holds(transport, address, port.port),
                None => listening.holds_everywhere(transport, port.port),
            }
        };
        Ok(ports.iter().find(in_use).copied())
    }

    /// Changes the addresses in use, on a thread for blocking work, because the change waits for the disk.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Addresses) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let mut addresses = Arc::clone(&self.addresses).lock_owned().await;
        let work = move || {
            let result = change(&mut addresses);
            (addresses, result)
        };
        let worked = blocking_value(work).await;
        let (addresses, result) =
            worked.map_err(|error| file("change", "the pods' addresses")(error.into()))?;
        self.publish_addresses(&addresses);
        result
    }

    fn publish_addresses(&self, addresses: &Addresses) {
        replace(&self.published, addresses.published());
        replace(&self.connected, addresses.by_uid());
    }

    /// The network configuration of an attached pod.
    pub async fn address(&self, pod_uid: &str) -> Option<PodAddress> {
        let ip = self.addresses.lock().await.assigned_to(pod_uid)?;
        Some(PodAddress {
            ip,
            gateway: self.gateway,
        })
    }

    /// Disconnects the pod and frees its address. The link is deleted in the background (the kernel takes
    /// tens of milliseconds), or with its namespace.
    ///
    /// # Errors
    /// An operation on a file or in the kernel fails; the pod keeps its address.
    pub async fn detach(&self, pod_uid: &str) -> Result<(), Error> {
        let Some(ip) = self.addresses.lock().await.assigned_to(pod_uid) else {
            return Ok(());
        };
        if let Some(index) = links::unroute(&self.host, pod_uid, ip).await? {
            self.delete_in_background(index).await;
        }
        self.namespaces.lock().await.remove(pod_uid);
        let uid = pod_uid.to_owned();
        self.change(move |addresses| addresses.release(&uid)).await
    }

    /// Creates routes to the pods of `peers`, removes the routes to all other nodes, and returns the peers
    /// without a route. New pods get the largest MTU that all paths support. The MTU of existing pods is
    /// lowered if it is larger, except inside pods that an earlier process connected: these pods get ICMP
    /// messages of the kernel.
    ///
    /// # Errors
    /// An operation in the kernel fails; the call can be repeated.
    pub async fn connect_peers(
        &self,
        settings: &PeerSettings,
        peers: &[Peer],
    ) -> Result<Vec<UnreachedPeer>, Error> {
        let range = self.range.lock().await;
        let links = peers::kernel::links(&self.host).await?;
        let encrypting = self.encrypted.as_ref();
        let encrypting = encrypting.map(|(device, cluster_range)| Encrypting {
            end: device.end(),
            cluster_range: *cluster_range,
        });
        let plan = peers::plan(*range, encrypting, settings, &links, peers);
        let mtu = plan.mtu.unwrap_or(self.uplink_mtu).min(self.uplink_mtu);
        if mtu < self.pod_mtu.swap(mtu, Ordering::AcqRel) {
            self.lower_mtu(mtu).await?;
        }
        // The tunnel is guarded before it exists.
        replace(&self.tunnel, plan.guard());
        let device = self.encrypted.as_ref().map(|(device, _)| device);
        let applied = peers::kernel::apply(&self.host, self.gateway, device, &plan);
        let refused = applied.await?;
        let mut unreached = plan.unreached;
        let is_reached = |peer: &&Peer| unreached.iter().all(|entry| entry.name != peer.name);
        let refused = peers.iter().filter(is_reached).filter_map(|peer| {
            Some(UnreachedPeer {
                name: peer.name.clone(),
                cause: refused.get(&peer.range)?.clone(),
            })
        });
        let refused: Vec<UnreachedPeer> = refused.collect();
        unreached.extend(refused);
        Ok(unreached)
    }

    async fn lower_mtu(&self, mtu: u32) -> Result<(), Error> {
        let namespaces = self.namespaces.lock().await.clone();
        for (uid, index) in links::pods_with_links(&self.host).await? {
            let netns = namespaces.get(&uid).map(PathBuf::as_path);
            let lowered = links::lower_mtu(&self.host, index, netns, mtu).await;
            if let Err(error) = lowered {
                // The sandbox is removed, or is being removed.
                tracing::warn!(uid, %error, "a pod keeps its MTU");
            }
        }
        Ok(())
    }

    async fn delete_in_background(&self, index: u32) {
        let host = self.host.clone();
        let mut deletions = self.deletions.lock().await;
        while deletions.try_join_next().is_some() {}
        deletions.spawn(async move {
            if let Err(error) = links::delete_link(&host, index).await {
                tracing::warn!(index, %error, "link of a pod that is gone stays behind");
            }
        });
    }

    /// Disconnects the pods of a former process that are not in `live`, and returns their UIDs.
    ///
    /// # Errors
    /// An operation on a file or in the kernel fails.
    pub async fn recover(&self, live: &BTreeSet<String>) -> Result<BTreeSet<String>, Error> {
        let mut deleted = BTreeSet::new();
        for (uid, index) in links::pods_with_links(&self.host).await? {
            if !live.contains(&uid) {
                links::delete_link(&self.host, index).await?;
                deleted.insert(uid);
            }
        }
        let live = live.clone();
        self.change(move |addresses| {
            deleted.extend(addresses.uids().difference(&live).cloned());
            deleted.iter().try_for_each(|uid| addresses.release(uid))?;
            Ok(deleted)
        })
        .await
    }

    /// Closes the network. With `remove_everything`, all kernel objects of this instance are removed;
    /// otherwise pods keep their connections and the next `open` adopts them.
    ///
    /// # Errors
    /// An operation on a file or in the kernel fails; the remaining objects stay.
    pub fn close(&self, remove_everything: bool) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let mut deletions = std::mem::take(&mut *self.deletions.lock().await);
            while deletions.join_next().await.is_some() {}
            if !remove_everything {
                return Ok(());
            }
            self.recover(&BTreeSet::new()).await?;
            peers::kernel::remove(&self.host).await?;
            self.host.release().await?;
            forwarding::restore(&self.host, &self.state_dir).await?;
            tracing::debug!(
                marks = names::alias_prefix(&self.host.instance_id),
                "pod network removed"
            );
            Ok(())
        }
        .boxed()
    }
}

/// Creates the encrypted tunnel, and removes all unencrypted routes to pods of other nodes.
async fn encrypt(
    host: &Host,
    state_dir: &Path,
    gateway: Ipv4Addr,
    encryption: EncryptionOptions,
) -> Result<Device, Error> {
    let path = state_dir.join(PRIVATE_KEY);
    let key = blocking_value(move || PrivateKey::keep(&path)).await;
    let key = key.map_err(|error| file("read", PRIVATE_KEY)(error.into()))??;
    let device = Device::open(host, &key, encryption.port, gateway).await?;
    peers::kernel::forbid_plain(host, gateway, &device, encryption.cluster_range).await?;
    Ok(device)
}

/// Sends a value to all receivers, if it has changed.
fn replace<T: PartialEq>(sender: &watch::Sender<T>, now: T) {
    sender.send_if_modified(|current| {
        let differs = *current != now;
        *current = now;
        differs
    });
}

/// Removes the kernel objects of a killed process of the instance. Pods keep their addresses until the next
/// [`PodNetwork::open`] detects that the pods do not exist.
///
/// # Errors
/// An operation on a file or in the kernel fails; the remaining objects stay.
pub async fn remove(instance_id: &str, state_dir: &Path) -> Result<(), Error> {
    let host = Host::connect(instance_id)?;
    for (_, index) in links::pods_with_links(&host).await? {
        links::delete_link(&host, index).await?;
    }
    peers::kernel::remove(&host).await?;
    host.release().await?;
    forwarding::restore(&host, state_dir).await
}
