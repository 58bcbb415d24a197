//! The Node object and its lease: registration, heartbeat, conditions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api_client::{Api, Client, Patch, PatchParams, PostParams};
use container_runtime::beside;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus, NodeSystemInfo,
    ObjectReference,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pod_lifecycle::resources::eviction::Condition;
use reconcile::execute::{Refusal, chain, refusal};
use reconcile::{Cache, EventType, Recorder};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::image_list::status_images;
use super::lease::NodeLease;
use super::new_node::NewNode;
use crate::api::known_status::KnownStatus;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::Error;
use crate::limits::{NODE_CHECK_PERIOD, NODE_RETRY, NODE_STATUS_PERIOD, REQUEST_TIMEOUT};
use crate::machine::machine_info::{MachineInfo, architecture};
use crate::machine::pressure::Monitor;

/// The conditions that the node decides.
const OWN_CONDITIONS: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

/// Keeps the Node object and its lease up to date.
pub struct NodeKeeper {
    client: Client,
    config: Config,
    machine: MachineInfo,
    monitor: Arc<Monitor>,
    clock: Clock,
    uid: Option<String>,
    lease: NodeLease,
    /// The attached volumes in use.
    volumes_in_use: watch::Receiver<BTreeSet<String>>,
    stored: KnownStatus<NodeStatus>,
    told: Seen,
    /// The node's own part of the status that the last write left in the store.
    left: Option<Value>,
}

/// The variable part of the node's status.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    pressure: BTreeSet<Condition>,
    images: Vec<ContainerImage>,
    address: Option<IpAddr>,
    extended: Extended,
    volumes_in_use: BTreeSet<String>,
}

/// Extended resources from other writers, as allocatable resources; `None` for those that were
/// removed.
type Extended = BTreeMap<String, Option<Quantity>>;

/// The node as events about it name it: kubelet has no other uid for it than its name.
pub fn event_reference(node: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(node.to_owned()),
        uid: Some(node.to_owned()),
        ..ObjectReference::default()
    }
}

impl NodeKeeper {
    /// Registers the node, or takes over the object that is there.
    pub async fn register(
        client: Client,
        config: Config,
        machine: MachineInfo,
        monitor: Arc<Monitor>,
        clock: Clock,
        lease: NodeLease,
        volumes_in_use: watch::Receiver<BTreeSet<String>>,
    ) -> Result<Self, Error> {
        let mut keeper = Self {
            lease,
            volumes_in_use,
            client,
            config,
            machine,
            monitor,
            clock,
            uid: None,
            stored: KnownStatus::new(NodeStatus::default()),
            told: Seen::default(),
            left: None,
        };
        let registered = keeper.make_or_take_over().await;
        registered.map_err(|source| Error::Register {
            node: keeper.config.node_name.clone(),
            source: Box::new(source),
        })?;
        // Before any pod is started: after a fence, those of an earlier epoch end first.
        keeper.renew_lease().await;
        Ok(keeper)
    }

    /// Creates the Node object, or adopts the existing one, and writes the status.
    async fn make_or_take_over(&mut self) -> Result<(), api_client::Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let wanted = self.object();
        let node = match api.create(&PostParams::default(), &wanted).await {
            Ok(node) => node,
            Err(error) if refusal(&error) == Refusal::AlreadyExists => {
                let labels = json!({"metadata": {"labels": wanted.metadata.labels}});
                let patch = Patch::Strategic(labels);
                api.patch(&self.config.node_name, &PatchParams::default(), &patch)
                    .await?
            }
            Err(error) => return Err(error),
        };
        self.uid.clone_from(&node.metadata.uid);
        let status = node.status.clone().unwrap_or_default();
        let former = address_of(&status);
        self.stored.answered(&node, status);
        let seen = self.look();
        self.write_status(&seen).await?;
        self.told = Seen {
            address: former.or(seen.address),
            ..seen
        };
        Ok(())
    }

    fn look(&self) -> Seen {
        let images = beside(|| self.config.images.list()).unwrap_or_else(|error| {
            tracing::warn!(%error, "images not listed");
            Vec::new()
        });
        Seen {
            pressure: self.monitor.conditions(),
            images: status_images(images),
            address: Some(self.config.node_ip()),
            extended: extended(
                self.stored.get(),
                &self.machine.capacity(self.config.pods_max),
            ),
            volumes_in_use: self.volumes_in_use.borrow().clone(),
        }
    }

    /// Renews lease and status until `shutdown`; `own` has the node's object.
    pub async fn keep(mut self, recorder: Recorder, own: Cache<Node>, shutdown: CancellationToken) {
        let mut lease_tick = interval(self.config.lease_length.renewal_period());
        lease_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut check_tick = interval(NODE_CHECK_PERIOD);
        check_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut conditions = self.monitor.changes();
        let mut address = self.config.node_ip.clone();
        let mut volumes_in_use = self.volumes_in_use.clone();
        let mut changes = own.subscribe();
        let mut written = Instant::now();
        let mut retry = None;
        self.announce(&recorder, &BTreeSet::new(), &self.told.pressure);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return self.keep_clock(),
                _ = lease_tick.tick() => {
                    self.renew_lease().await;
                    continue;
                }
                _ = check_tick.tick() => {}
                () = due(retry) => {}
                Ok(()) = conditions.changed() => {}
                Ok(()) = address.changed() => {}
                Ok(()) = volumes_in_use.changed() => {}
                Some(_) = changes.next() => {}
            }
            retry = None;
            let node = own.get("", &self.config.node_name);
            let done = match node {
                None if own.is_synced() => {
                    let done = in_time(self.register_again(&recorder)).await;
                    if done.is_ok() {
                        lease_tick.reset_immediately();
                    }
                    done
                }
                None => continue,
                Some(node) => {
                    let status = node.status.clone().unwrap_or_default();
                    self.stored.watched(&*node, status);
                    let seen = self.look();
                    let as_told = seen == self.told && self.is_as_left();
                    if as_told && written.elapsed() < NODE_STATUS_PERIOD {
                        continue;
                    }
                    in_time(self.tell(&recorder, seen)).await
                }
            };
            match done {
                Ok(()) => {
                    written = Instant::now();
                    self.keep_clock();
                }
                Err(error) => {
                    tracing::warn!(error, "node status not written");
                    retry = Some(Instant::now() + NODE_RETRY);
                }
            }
        }
    }

    fn keep_clock(&self) {
        let kept = self
            .clock
            .keep(&self.config.data_dir, &self.machine.boot_id);
        if let Err(error) = kept {
            tracing::warn!(%error, "the node's clock is not stored");
        }
    }

    /// Writes the observed status, and emits events about changes.
    async fn tell(&mut self, recorder: &Recorder, seen: Seen) -> Result<(), api_client::Error> {
        self.write_status(&seen).await?;
        self.announce(recorder, &self.told.pressure, &seen.pressure);
        self.announce_address(recorder, self.told.address, seen.address);
        self.told = seen;
        Ok(())
    }

    /// The Node object was deleted: it is created again, before its pods count as those of a
    /// deleted node.
    async fn register_again(&mut self, recorder: &Recorder) -> Result<(), api_client::Error> {
        tracing::warn!(node = self.config.node_name, "the node's object is gone");
        let registered = self.make_or_take_over().await;
        // For example because another node has got the addresses of this node's pods.
        if let Err(error) = &registered
            && error.code().is_some_and(|code| (400..500).contains(&code))
        {
            let name = &self.config.node_name;
            let message = format!(
                "Node {name} was deleted and cannot be registered again: {}",
                chain(error)
            );
            let reason = "NodeNotRegistered";
            recorder.event(event_reference(name), EventType::Warning, reason, message);
        }
        registered
    }

    /// Whether the stored status is that of the last write: others write it too, above all the node
    /// lifecycle controller, which marks a silent node as lost.
    fn is_as_left(&self) -> bool {
        self.left.as_ref() == Some(&own_part(self.stored.get()))
    }

    /// Emits events about changed conditions.
    fn announce(
        &self,
        recorder: &Recorder,
        before: &BTreeSet<Condition>,
        now: &BTreeSet<Condition>,
    ) {
        let name = &self.config.node_name;
        for condition in before.symmetric_difference(now) {
            let word = match (condition, now.contains(condition)) {
                (Condition::MemoryPressure, true) => "NodeHasInsufficientMemory",
                (Condition::MemoryPressure, false) => "NodeHasSufficientMemory",
                (Condition::DiskPressure, true) => "NodeHasDiskPressure",
                (Condition::DiskPressure, false) => "NodeHasNoDiskPressure",
            };
            let message = format!("Node {name} status is now: {word}");
            recorder.event(event_reference(name), EventType::Normal, word, message);
        }
    }

    fn announce_address(&self, recorder: &Recorder, before: Option<IpAddr>, now: Option<IpAddr>) {
        if let (Some(before), Some(now)) = (before, now)
            && before != now
        {
            let name = &self.config.node_name;
            let message = format!("Node {name} has the address {now}; it was {before}");
            tracing::warn!(node = name, %before, %now, "the node has another address");
            let reason = "NodeAddressChanged";
            recorder.event(event_reference(name), EventType::Normal, reason, message);
        }
    }

    fn object(&self) -> Node {
        let new = NewNode {
            name: self.config.node_name.clone(),
            labels: self.config.labels.clone(),
            taints: self.config.taints.clone(),
            pod_cidr: self.config.pod_cidr.clone(),
        };
        new.object()
    }

    async fn write_status(&mut self, seen: &Seen) -> Result<(), api_client::Error> {
        let before = self.stored.get().conditions.as_deref().unwrap_or_default();
        let conditions = conditions(before, &seen.pressure, self.clock.now().wall);
        let mut status = json!(self.status(conditions, seen.images.clone()));
        let in_use = Some(&seen.volumes_in_use).filter(|names| !names.is_empty());
        status["volumesInUse"] = json!(in_use);
        for (name, quantity) in &seen.extended {
            status["allocatable"][name] = json!(quantity);
        }
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Strategic(json!({"status": status}));
        let name = &self.config.node_name;
        let node = api
            .patch_status(name, &PatchParams::default(), &patch)
            .await?;
        let status = node.status.clone().unwrap_or_default();
        self.left = Some(own_part(&status));
        self.stored.answered(&node, status);
        Ok(())
    }

    fn status(&self, conditions: Vec<NodeCondition>, images: Vec<ContainerImage>) -> NodeStatus {
        let machine = &self.machine;
        let capacity = machine.capacity(self.config.pods_max);
        let address = |type_: &str, address: String| NodeAddress {
            type_: type_.to_owned(),
            address,
        };
        let port = self.config.kubelet_api.as_ref();
        let port = port.map(|api| i32::from(api.listen.port()));
        NodeStatus {
            addresses: Some(vec![
                address("InternalIP", self.config.node_ip().to_string()),
                address("Hostname", self.config.node_name.clone()),
            ]),
            allocatable: Some(machine.allocatable(self.config.pods_max)),
            capacity: Some(capacity),
            conditions: Some(conditions),
            images: Some(images),
            features: Some(NodeFeatures {
                supplemental_groups_policy: Some(true),
            }),
            runtime_handlers: Some(vec![NodeRuntimeHandler {
                // The default handler.
                name: Some(String::new()),
                features: Some(NodeRuntimeHandlerFeatures {
                    recursive_read_only_mounts: Some(true),
                    user_namespaces: Some(machine.user_namespaces),
                }),
            }]),
            daemon_endpoints: port.map(|port| NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port }),
            }),
            node_info: Some(NodeSystemInfo {
                architecture: architecture().to_owned(),
                boot_id: machine.boot_id.clone(),
                container_runtime_version: format!("mainstay://{}", env!("CARGO_PKG_VERSION")),
                kernel_version: machine.kernel.clone(),
                kube_proxy_version: String::new(),
                kubelet_version: self.config.kubelet_version.clone(),
                machine_id: machine.machine_id.clone(),
                operating_system: "linux".to_owned(),
                os_image: machine.os_image.clone(),
                swap: None,
                system_uuid: machine.system_uuid.clone(),
            }),
            ..NodeStatus::default()
        }
    }

    async fn renew_lease(&mut self) {
        let now = self.clock.now().wall;
        if let Err(error) = self.lease.renew(self.uid.as_deref(), now).await {
            let error = chain(&error);
            tracing::warn!(error, "node lease not renewed");
        }
    }
}

/// The extended resources in a status. Operators write them into the capacity; as with kubelet, all
/// of it is allocatable.
fn extended(status: &NodeStatus, own: &BTreeMap<String, Quantity>) -> Extended {
    let foreign = |of: &Option<BTreeMap<String, Quantity>>| {
        let all = of.clone().into_iter().flatten();
        all.filter(|(name, _)| name.contains('/') && !own.contains_key(name))
    };
    let gone = foreign(&status.allocatable).map(|(name, _)| (name, None));
    let there = foreign(&status.capacity).map(|(name, quantity)| (name, Some(quantity)));
    gone.chain(there).collect()
}

/// The address in a status.
fn address_of(status: &NodeStatus) -> Option<IpAddr> {
    let mut addresses = status.addresses.iter().flatten();
    let own = addresses.find(|address| address.type_ == "InternalIP")?;
    own.address.parse().ok()
}

/// The node's own part of a status, without times.
fn own_part(status: &NodeStatus) -> Value {
    let conditions = status.conditions.iter().flatten();
    let own = conditions.filter(|condition| OWN_CONDITIONS.contains(&condition.type_.as_str()));
    let own: BTreeMap<_, _> = own
        .map(|c| (c.type_.clone(), json!([c.status, c.reason, c.message])))
        .collect();
    json!([
        own,
        status.addresses,
        status.allocatable,
        status.capacity,
        status.daemon_endpoints,
        status.features,
        status.images,
        status.node_info,
        status
            .volumes_in_use
            .iter()
            .flatten()
            .collect::<BTreeSet<_>>(),
        status.runtime_handlers,
    ])
}

/// A request without an answer must not hold up the renewals of the lease.
async fn in_time(
    request: impl Future<Output = Result<(), api_client::Error>>,
) -> Result<(), String> {
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(done) => done.map_err(|error| chain(&error)),
        Err(_) => Err("the API server did not answer in time".to_owned()),
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The node's conditions, based on the stored ones: a transition time changes only with its status,
/// and never goes back.
fn conditions(
    before: &[NodeCondition],
    seen: &BTreeSet<Condition>,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let lacks_memory = seen.contains(&Condition::MemoryPressure);
    let lacks_disk = seen.contains(&Condition::DiskPressure);
    let one = |type_: &str, holds: bool, reason: &str, message: &str| {
        let status = if holds { "True" } else { "False" };
        let former = before.iter().find(|c| c.type_ == type_);
        let changed = former.and_then(|c| c.last_transition_time.as_ref());
        let since = match (former, changed) {
            (Some(former), Some(changed)) if former.status == status => changed.0,
            (_, Some(changed)) => changed.0.max(now),
            (_, None) => now,
        };
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(Time(since)),
        }
    };
    let memory = if lacks_memory {
        (
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
        )
    } else {
        (
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        )
    };
    let disk = if lacks_disk {
        ("KubeletHasDiskPressure", "kubelet has disk pressure")
    } else {
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure")
    };
    vec![
        one("MemoryPressure", lacks_memory, memory.0, memory.1),
        one("DiskPressure", lacks_disk, disk.0, disk.1),
        one(
            "PIDPressure",
            false,
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        one(
            "Ready",
            true,
            "KubeletReady",
            "kubelet is posting ready status",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_of_the_node_can_be_used() {
        let amounts = |list: &[(&str, &str)]| {
            let amounts = list.iter();
            let amounts = amounts.map(|(name, n)| ((*name).to_owned(), Quantity((*n).to_owned())));
            amounts.collect::<BTreeMap<_, _>>()
        };
        let own = amounts(&[("cpu", "2"), ("memory", "1Gi")]);
        let status = NodeStatus {
            capacity: Some(amounts(&[("cpu", "2"), ("example.com/a", "3")])),
            allocatable: Some(amounts(&[("cpu", "2"), ("example.com/b", "1")])),
            ..NodeStatus::default()
        };
        let wanted = [
            ("example.com/a".to_owned(), Some(Quantity("3".to_owned()))),
            ("example.com/b".to_owned(), None),
        ];
        assert_eq!(extended(&status, &own), BTreeMap::from(wanted));
        assert!(extended(&NodeStatus::default(), &own).is_empty());
    }

    #[test]
    fn conditions_keep_their_transition_time() {
        let first = Timestamp::from_second(1000).unwrap();
        let later = Timestamp::from_second(2000).unwrap();
        let before = conditions(&[], &BTreeSet::new(), first);
        let seen = BTreeSet::from([Condition::MemoryPressure]);
        let after = conditions(&before, &seen, later);
        let since = |type_: &str| {
            let found = after.iter().find(|c| c.type_ == type_).unwrap();
            (
                found.status.clone(),
                found.last_transition_time.clone().unwrap().0,
            )
        };
        assert_eq!(since("Ready"), ("True".to_owned(), first));
        assert_eq!(since("MemoryPressure"), ("True".to_owned(), later));
    }

    // findings R2
    #[test]
    fn a_transition_that_others_told_is_not_taken_back_in_time() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut lost = conditions(&[], &BTreeSet::new(), at(1000));
        for condition in &mut lost {
            condition.status = "Unknown".to_owned();
            condition.last_transition_time = Some(Time(at(2000)));
        }
        // The second time the clock was set back meanwhile.
        for (now, expected) in [(2010, 2010), (1500, 2000)] {
            let after = conditions(&lost, &BTreeSet::new(), at(now));
            let since = after
                .iter()
                .map(|c| c.last_transition_time.clone().unwrap().0);
            assert_eq!(since.collect::<Vec<_>>(), [at(expected); 4]);
        }
    }

    // findings R2
    #[test]
    fn what_others_wrote_over_the_nodes_own_word_is_seen() {
        let now = Timestamp::from_second(1000).unwrap();
        let status = |conditions| NodeStatus {
            conditions: Some(conditions),
            ..NodeStatus::default()
        };
        let told = conditions(&[], &BTreeSet::new(), now);
        let mut foreign = told.clone();
        foreign.push(NodeCondition {
            type_: "example.com/Fan".to_owned(),
            ..NodeCondition::default()
        });
        foreign[0].last_heartbeat_time = None;
        let mut lost = told.clone();
        lost[3].status = "Unknown".to_owned();
        let own = own_part(&status(told));
        assert_eq!(own, own_part(&status(foreign)));
        assert_ne!(own, own_part(&status(lost)));
    }
}
