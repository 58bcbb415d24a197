//! The Node object and its Lease: registration, heartbeat, conditions.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use controller_framework::{Cache, EventType, Recorder};
use host_kernel::block_in_place;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus, NodeSystemInfo,
    ObjectReference,
};
use kube_api_client::guarded_writes::{WriteRefusal, chain, refusal};
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams};
use pod_lifecycle::resources::eviction::Condition;
use process_telemetry::backoff;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::image_list::status_images;
use super::lease::{LeaseError, NodeLease};
use super::new_node::NewNode;
use super::node_status::{ExtendedResources, address_of, conditions, extended, part_of_node};
use crate::api::is_away;
use crate::api::objects::in_time;
use crate::api::stored_status::StoredStatus;
use crate::clock::Clock;
use crate::config::Config;
use crate::devices::plugins::ReportedDevices;
use crate::error::Error;
use crate::limits::{NODE_CHECK_PERIOD, NODE_RETRY, NODE_STATUS_PERIOD, REGISTRATION_PATIENCE};
use crate::machine::machine_info::{MachineInfo, architecture};
use crate::machine::pressure::Monitor;

/// Keeps the Node object and its Lease up to date.
pub struct NodeKeeper {
    client: Client,
    config: Config,
    machine: MachineInfo,
    monitor: Arc<Monitor>,
    clock: Clock,
    /// The UID of the Node object; `None` until the node is registered.
    uid: watch::Sender<Option<String>>,
    is_registered: bool,
    lease: NodeLease,
    reports: NodeReports,
    stored: StoredStatus<NodeStatus>,
    reported: NodeObservation,
    /// The node's part of the stored status after the last write.
    last_written: Option<Value>,
}

/// Parts of the node's status that other parts of the agent report.
#[derive(Clone)]
pub struct NodeReports {
    pub volumes_in_use: watch::Receiver<BTreeSet<String>>,
    /// The devices of plugins.
    pub devices: watch::Receiver<ReportedDevices>,
}

/// The observed state that the node's status reports.
#[derive(Clone, Debug, Default, PartialEq)]
struct NodeObservation {
    pressure: BTreeSet<Condition>,
    /// The reason why no pod can be started.
    fault: Option<String>,
    images: Vec<ContainerImage>,
    address: Option<IpAddr>,
    extended: ExtendedResources,
    devices: ReportedDevices,
    volumes_in_use: BTreeSet<String>,
}

/// The reference for events about the node: as in kubelet, its UID is the node's name.
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
    /// Registers the node, or adopts the existing Node object. If no API server responds,
    /// [`NodeKeeper::keep`] retries, so that the pods of a former agent do not wait for the registration.
    pub async fn register(
        client: Client,
        config: Config,
        machine: MachineInfo,
        monitor: Arc<Monitor>,
        clock: Clock,
        lease: NodeLease,
        reports: NodeReports,
    ) -> Result<Self, Error> {
        let mut keeper = Self {
            lease,
            reports,
            client,
            config,
            machine,
            monitor,
            clock,
            uid: watch::Sender::default(),
            is_registered: false,
            stored: StoredStatus::new(NodeStatus::default()),
            reported: NodeObservation::default(),
            last_written: None,
        };
        match timeout(REGISTRATION_PATIENCE, keeper.create_or_adopt()).await {
            // The Lease is renewed before any pod is started: after a fence, pods of an earlier epoch are
            // stopped first.
            Ok(Ok(())) => keeper.renew_lease().await,
            Ok(Err(source)) if !is_away(&source) => {
                return Err(Error::Register {
                    node: keeper.config.node_name.clone(),
                    source: Box::new(source),
                });
            }
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "the node is not registered yet");
            }
            Err(_) => tracing::warn!("the node is not registered yet: no server answers"),
        }
        Ok(keeper)
    }

    /// Whether the node is registered.
    pub fn is_registered(&self) -> bool {
        self.is_registered
    }

    /// A receiver of the UID of the Node object.
    pub fn uid_changes(&self) -> watch::Receiver<Option<String>> {
        self.uid.subscribe()
    }

    fn record_uid(&self, node: &Node) {
        let uid = &node.metadata.uid;
        self.uid
            .send_if_modified(|before| std::mem::replace(before, uid.clone()) != *uid);
    }

    /// Creates the Node object, or adopts the existing one, and writes the status.
    async fn create_or_adopt(&mut self) -> Result<(), kube_api_client::Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut object = self.object();
        // A new object has `volumesInUse` from its first version on, so that no volume is detached in
        // between.
        let in_use = self
            .reports
            .volumes_in_use
            .borrow()
            .iter()
            .cloned()
            .collect();
        object.status.get_or_insert_default().volumes_in_use = Some(in_use);
        let node = match api.create(&PostParams::default(), &object).await {
            Ok(node) => {
                self.record_uid(&node);
                // An epoch begins before the first pods are bound to the node, because these pods belong to
                // the epoch.
                self.renew_lease().await;
                node
            }
            Err(error) if refusal(&error) == WriteRefusal::AlreadyExists => {
                let metadata = json!({"metadata": {
                    "labels": object.metadata.labels,
                    "annotations": self.config.annotations,
                }});
                let patch = Patch::Strategic(metadata);
                api.patch(&self.config.node_name, &PatchParams::default(), &patch)
                    .await?
            }
            Err(error) => return Err(error),
        };
        self.record_uid(&node);
        let status = node.status.clone().unwrap_or_default();
        let former = address_of(&status);
        self.stored.record_response(&node, status);
        let observation = self.observe();
        self.write_status(&observation).await?;
        self.reported = NodeObservation {
            address: former.or(observation.address),
            ..observation
        };
        self.is_registered = true;
        Ok(())
    }

    fn observe(&self) -> NodeObservation {
        let devices = self.reports.devices.borrow().clone();
        let images = block_in_place(|| self.config.images.list()).unwrap_or_else(|error| {
            tracing::warn!(%error, "images not listed");
            Vec::new()
        });
        NodeObservation {
            pressure: self.monitor.conditions(),
            fault: block_in_place(|| self.monitor.fault()),
            images: status_images(images),
            address: Some(self.config.node_ip()),
            extended: extended(
                self.stored.get(),
                &self.machine.capacity(self.config.pods_max),
                &devices,
            ),
            devices,
            volumes_in_use: self.reports.volumes_in_use.borrow().clone(),
        }
    }

    /// Renews the Lease and the status until `shutdown`; `nodes` has only this node's object.
    pub async fn keep(
        mut self,
        recorder: Recorder,
        nodes: Cache<Node>,
        shutdown: CancellationToken,
    ) {
        let mut lease_tick = interval(self.config.lease_length.renewal_period());
        lease_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut check_tick = interval(NODE_CHECK_PERIOD);
        check_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut conditions = self.monitor.changes();
        let mut record_errors = self.monitor.record_errors();
        let mut group_errors = self.monitor.group_errors();
        let mut address = self.config.node_ip.clone();
        let mut reports = self.reports.clone();
        let mut changes = nodes.subscribe();
        let mut written = Instant::now();
        let mut retry = (!self.is_registered).then(Instant::now);
        self.announce(&recorder, &BTreeSet::new(), &self.reported.pressure);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return block_in_place(|| self.store_clock()),
                _ = lease_tick.tick() => {
                    if self.is_registered {
                        self.renew_lease().await;
                    }
                    continue;
                }
                _ = check_tick.tick() => {}
                () = due(retry) => {}
                Ok(()) = conditions.changed() => {}
                Ok(()) = record_errors.changed() => {}
                Ok(()) = group_errors.changed() => {}
                Ok(()) = address.changed() => {}
                Ok(()) = reports.volumes_in_use.changed() => {}
                Ok(()) = reports.devices.changed() => {}
                Some(_) = changes.next() => {}
            }
            retry = None;
            // Requests have a time limit: a request without a response must not delay the renewals of the Lease.
            let node = nodes.get("", &self.config.node_name);
            if let Some(node) = node.as_ref().filter(|_| self.is_registered) {
                self.record_uid(node);
            }
            let result = match node {
                _ if !self.is_registered => {
                    let result = in_time(self.create_or_adopt()).await;
                    if result.is_ok() {
                        lease_tick.reset_immediately();
                    }
                    result
                }
                None if nodes.is_synced() => {
                    let result = in_time(self.register_again(&recorder)).await;
                    if result.is_ok() {
                        lease_tick.reset_immediately();
                    }
                    result
                }
                None => continue,
                Some(node) if !self.has_configured_annotations(&node) => {
                    in_time(self.create_or_adopt()).await
                }
                Some(node) => {
                    let status = node.status.clone().unwrap_or_default();
                    self.stored.record_watched(&*node, status);
                    let observation = self.observe();
                    let is_reported = observation == self.reported && self.is_as_last_written();
                    if is_reported && written.elapsed() < NODE_STATUS_PERIOD {
                        continue;
                    }
                    in_time(self.report(&recorder, observation)).await
                }
            };
            match result {
                Ok(()) => {
                    written = Instant::now();
                    block_in_place(|| self.store_clock());
                }
                Err(error) => {
                    tracing::warn!(%error, "node status not written");
                    retry = Some(Instant::now() + backoff::jittered(NODE_RETRY));
                }
            }
        }
    }

    fn store_clock(&self) {
        let stored = self
            .clock
            .store(&self.config.data_dir, &self.machine.boot_id);
        if let Err(error) = stored {
            tracing::warn!(%error, "the node's clock is not stored");
        }
    }

    /// Writes the observed status, and sends events about changes.
    async fn report(
        &mut self,
        recorder: &Recorder,
        observation: NodeObservation,
    ) -> Result<(), kube_api_client::Error> {
        self.write_status(&observation).await?;
        self.announce(recorder, &self.reported.pressure, &observation.pressure);
        self.announce_readiness(recorder, &self.reported, &observation);
        self.announce_address(recorder, self.reported.address, observation.address);
        self.reported = observation;
        Ok(())
    }

    /// Creates the deleted Node object again, before the control plane treats the node's pods as pods of a
    /// deleted node.
    async fn register_again(&mut self, recorder: &Recorder) -> Result<(), kube_api_client::Error> {
        tracing::warn!(node = self.config.node_name, "the node's object is gone");
        let result = self.create_or_adopt().await;
        // A possible reason: another node has the pod range of this node now.
        if let Err(error) = &result
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
        result
    }

    /// Whether the node's annotations have the values that the node wrote. An administrator may have
    /// changed them.
    fn has_configured_annotations(&self, node: &Node) -> bool {
        let stored = node.metadata.annotations.as_ref();
        let mut annotations = self.config.annotations.iter();
        annotations
            .all(|(name, value)| stored.and_then(|stored| stored.get(name)) == value.as_ref())
    }

    /// Whether the stored status equals the status of the last write. Other programs write the status, too:
    /// the node lifecycle controller marks a silent node as lost.
    fn is_as_last_written(&self) -> bool {
        self.last_written.as_ref() == Some(&part_of_node(self.stored.get()))
    }

    /// Sends events about changed conditions.
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

    fn announce_readiness(
        &self,
        recorder: &Recorder,
        before: &NodeObservation,
        now: &NodeObservation,
    ) {
        let name = &self.config.node_name;
        let word = match (&before.fault, &now.fault) {
            (None, Some(_)) => "NodeNotReady",
            (Some(_), None) => "NodeReady",
            _ => return,
        };
        let message = format!("Node {name} status is now: {word}");
        recorder.event(event_reference(name), EventType::Normal, word, message);
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
            annotations: self.config.annotations.clone(),
            taints: self.config.taints.clone(),
            pod_cidr: self.config.pod_cidr.clone(),
        };
        new.object()
    }

    async fn write_status(
        &mut self,
        observation: &NodeObservation,
    ) -> Result<(), kube_api_client::Error> {
        let before = self.stored.get().conditions.as_deref().unwrap_or_default();
        let conditions = conditions(
            before,
            &observation.pressure,
            observation.fault.as_deref(),
            self.clock.now().wall,
        );
        let mut status = json!(self.status(conditions, observation.images.clone()));
        let in_use = Some(&observation.volumes_in_use).filter(|names| !names.is_empty());
        status["volumesInUse"] = json!(in_use);
        for (name, quantity) in &observation.extended {
            status["allocatable"][name] = json!(quantity);
        }
        for (name, amounts) in &observation.devices {
            status["capacity"][name] = json!(amounts.capacity.to_string());
            status["allocatable"][name] = json!(amounts.allocatable.to_string());
        }
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Strategic(json!({"status": status}));
        let name = &self.config.node_name;
        let node = api
            .patch_status(name, &PatchParams::default(), &patch)
            .await?;
        let status = node.status.clone().unwrap_or_default();
        self.last_written = Some(part_of_node(&status));
        self.stored.record_response(&node, status);
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
                // The empty name is the default handler.
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
        let uid = self.uid.borrow().clone();
        if let Err(error) = self.lease.renew(uid.as_deref(), now).await {
            if let LeaseError::Deadline(error) | LeaseError::Epoch(error) = &error {
                self.monitor.record_not_stored(error);
            }
            let error = chain(&error);
            tracing::warn!(error, "node lease not renewed");
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
