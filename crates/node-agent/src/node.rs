//! The Node object and its lease: registration, heartbeat, conditions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus,
    NodeSystemInfo, ObjectReference,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use pod_lifecycle::eviction::Condition;
use reconcile::execute::{Refusal, refusal};
use reconcile::{Cache, EventType, Recorder};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::config::Config;
use crate::facts::{Machine, architecture};
use crate::limits::{LEASE_RENEW, LEASE_SECONDS, NODE_CHECK_PERIOD, NODE_STATUS_PERIOD};
use crate::node_images::status_images;
use crate::pressure::Monitor;

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Keeps the Node object and its lease up to date.
pub struct NodeKeeper {
    client: Client,
    config: Config,
    machine: Machine,
    monitor: Arc<Monitor>,
    uid: Option<String>,
    conditions: Vec<NodeCondition>,
    told: Seen,
}

/// What is said of the node besides what never changes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    pressure: BTreeSet<Condition>,
    images: Vec<ContainerImage>,
    address: Option<IpAddr>,
    extended: Extended,
}

/// What others say that the node has (extended resources), as pods may use it; none of what they no
/// longer say.
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
        machine: Machine,
        monitor: Arc<Monitor>,
    ) -> Result<Self, Error> {
        let mut keeper = Self {
            client,
            config,
            machine,
            monitor,
            uid: None,
            conditions: Vec::new(),
            told: Seen::default(),
        };
        let api: Api<Node> = Api::all(keeper.client.clone());
        let name = keeper.config.node_name.clone();
        let failed = |source: kube::Error| Error::Register {
            node: name.clone(),
            source: Box::new(source),
        };
        let wanted = keeper.object();
        let node = match api.create(&PostParams::default(), &wanted).await {
            Ok(node) => node,
            Err(error) if refusal(&error) == Refusal::AlreadyExists => {
                let labels = serde_json::json!({"metadata": {"labels": wanted.metadata.labels}});
                let patch = Patch::Strategic(labels);
                api.patch(&name, &PatchParams::default(), &patch)
                    .await
                    .map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        keeper.uid = node.metadata.uid;
        let status = node.status.unwrap_or_default();
        let former = address_of(&status);
        let seen = keeper.look(Some(&status));
        keeper.conditions = status.conditions.unwrap_or_default();
        keeper.write_status(&seen).await.map_err(failed)?;
        keeper.told = Seen {
            address: former.or(seen.address),
            ..seen
        };
        Ok(keeper)
    }

    fn look(&self, status: Option<&NodeStatus>) -> Seen {
        let images = self.config.images.list().unwrap_or_else(|error| {
            tracing::warn!(%error, "images not listed");
            Vec::new()
        });
        Seen {
            pressure: self.monitor.conditions(),
            images: status_images(images),
            address: Some(self.config.node_ip()),
            extended: status.map_or_else(Extended::new, |status| {
                extended(status, &self.machine.capacity(self.config.pods_max))
            }),
        }
    }

    /// Renews lease and status until `shutdown`; `own` has the node's object.
    pub async fn keep(mut self, recorder: Recorder, own: Cache<Node>, shutdown: CancellationToken) {
        let mut lease_tick = interval(LEASE_RENEW);
        lease_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut check_tick = interval(NODE_CHECK_PERIOD);
        check_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut conditions = self.monitor.changes();
        let mut address = self.config.node_ip.clone();
        let mut changes = own.subscribe();
        let mut written = Instant::now();
        let mut renewed = Timestamp::now();
        let mut is_missed = false;
        self.announce(&recorder, &BTreeSet::new(), &self.told.pressure);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = lease_tick.tick() => {
                    match self.renew_lease().await {
                        Ok(()) => {
                            let now = Timestamp::now();
                            is_missed |= may_be_missed(renewed, now);
                            renewed = now;
                        }
                        Err(error) => tracing::warn!(error = %error, "node lease not renewed"),
                    }
                    continue;
                }
                _ = check_tick.tick() => {}
                Ok(()) = conditions.changed() => {}
                Ok(()) = address.changed() => {}
                Some(_) = changes.next() => {}
            }
            let node = own.get("", &self.config.node_name);
            let seen = self.look(node.as_ref().and_then(|node| node.status.as_ref()));
            if seen == self.told && !is_missed && written.elapsed() < NODE_STATUS_PERIOD {
                continue;
            }
            match self.write_status(&seen).await {
                Ok(()) => {
                    self.announce(&recorder, &self.told.pressure, &seen.pressure);
                    self.announce_address(&recorder, self.told.address, seen.address);
                    (self.told, written) = (seen, Instant::now());
                    is_missed = false;
                }
                Err(error) => tracing::warn!(error = %error, "node status not written"),
            }
        }
    }

    /// Tells users which conditions have come and gone.
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
        let mut labels = self.config.labels.clone();
        let name = self.config.node_name.clone();
        for (key, value) in [
            ("kubernetes.io/hostname", name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", architecture()),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        Node {
            metadata: ObjectMeta {
                name: Some(name),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                pod_cidr: self.config.pod_cidr.clone(),
                pod_cidrs: self.config.pod_cidr.clone().map(|cidr| vec![cidr]),
                ..NodeSpec::default()
            }),
            status: None,
        }
    }

    async fn write_status(&mut self, seen: &Seen) -> Result<(), kube::Error> {
        self.conditions = conditions(&self.conditions, &seen.pressure, Timestamp::now());
        let mut status = serde_json::json!(self.status(seen.images.clone()));
        for (name, quantity) in &seen.extended {
            status["allocatable"][name] = serde_json::json!(quantity);
        }
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Strategic(serde_json::json!({"status": status}));
        let name = &self.config.node_name;
        api.patch_status(name, &PatchParams::default(), &patch)
            .await
            .map(|_| ())
    }

    fn status(&self, images: Vec<ContainerImage>) -> NodeStatus {
        let machine = &self.machine;
        let capacity = machine.capacity(self.config.pods_max);
        let address = |type_: &str, address: String| NodeAddress {
            type_: type_.to_owned(),
            address,
        };
        let port = i32::from(self.config.kubelet_port);
        NodeStatus {
            addresses: Some(vec![
                address("InternalIP", self.config.node_ip().to_string()),
                address("Hostname", self.config.node_name.clone()),
            ]),
            allocatable: Some(machine.allocatable(self.config.pods_max)),
            capacity: Some(capacity),
            conditions: Some(self.conditions.clone()),
            images: Some(images),
            features: Some(NodeFeatures {
                supplemental_groups_policy: Some(true),
            }),
            runtime_handlers: Some(vec![NodeRuntimeHandler {
                // The one that pods get which ask for none.
                name: Some(String::new()),
                features: Some(NodeRuntimeHandlerFeatures {
                    recursive_read_only_mounts: Some(true),
                    user_namespaces: Some(machine.user_namespaces),
                }),
            }]),
            daemon_endpoints: (port > 0).then_some(NodeDaemonEndpoints {
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

    async fn renew_lease(&self) -> Result<(), kube::Error> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), LEASE_NAMESPACE);
        let name = &self.config.node_name;
        let now = MicroTime(Timestamp::now());
        let patch = serde_json::json!({"spec": {
            "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}});
        let done = api
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        match done {
            Err(error) if refusal(&error) == Refusal::NotFound => api
                .create(&PostParams::default(), &self.lease(now))
                .await
                .map(|_| ()),
            other => other.map(|_| ()),
        }
    }

    fn lease(&self, now: MicroTime) -> Lease {
        let name = self.config.node_name.clone();
        let owner = self.uid.clone().map(|uid| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.clone(),
            uid,
            ..OwnerReference::default()
        });
        Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(LEASE_NAMESPACE.to_owned()),
                owner_references: owner.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// What of a status is not among the node's `own` resources. Operators write it into the capacity;
/// as with kubelet, pods may use all of it.
fn extended(status: &NodeStatus, own: &BTreeMap<String, Quantity>) -> Extended {
    let foreign = |of: &Option<BTreeMap<String, Quantity>>| {
        let all = of.clone().into_iter().flatten();
        all.filter(|(name, _)| name.contains('/') && !own.contains_key(name))
    };
    let gone = foreign(&status.allocatable).map(|(name, _)| (name, None));
    let there = foreign(&status.capacity).map(|(name, quantity)| (name, Some(quantity)));
    gone.chain(there).collect()
}

/// The address that a status tells.
fn address_of(status: &NodeStatus) -> Option<IpAddr> {
    let mut addresses = status.addresses.iter().flatten();
    let own = addresses.find(|address| address.type_ == "InternalIP")?;
    own.address.parse().ok()
}

/// Whether the lease was not renewed for so long that others may have said the node is lost. Only
/// the node's own status takes that back.
fn may_be_missed(renewed: Timestamp, now: Timestamp) -> bool {
    now.duration_since(renewed).as_secs() > i64::from(LEASE_SECONDS) / 2
}

/// The node's conditions; times of transition stay while nothing changes.
fn conditions(
    before: &[NodeCondition],
    seen: &BTreeSet<Condition>,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let lacks_memory = seen.contains(&Condition::MemoryPressure);
    let lacks_disk = seen.contains(&Condition::DiskPressure);
    let one = |type_: &str, holds: bool, reason: &str, message: &str| {
        let status = if holds { "True" } else { "False" };
        let same = before
            .iter()
            .find(|c| c.type_ == type_ && c.status == status);
        let since = same.and_then(|c| c.last_transition_time.clone());
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(since.unwrap_or(Time(now))),
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
    fn after_a_long_silence_the_status_is_said_again() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(!may_be_missed(at(0), at(11)));
        assert!(may_be_missed(at(0), at(41)));
    }

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
}
