//! A simulated node: an ordinary client of the API that has instances instead of containers.
//!
//! The node has the guarantees of a node agent: no instance of an identity is started while another instance runs on
//! the node, and a pod's object is removed only after its instance has ended. Instances survive the agent. The node
//! also provisions volumes for claims.

mod lease;
mod volumes;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use controller_framework::{Cache, Queue, ReconcileResult, WatchConfig, object_key, run_workers};
use jiff::{SignedDuration, Timestamp};
use json_tree::{Value, json};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube_api_client::guarded_writes::{Delete, WriteRefusal, delete, refusal, unless_outrun};
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams, Result};
use node_lease::{LeaseKeeper, LeaseLength};
use object_model::ObjectKey;
use pod_lifecycle::node::lease::ends_with_it;
use resource_kinds::namespaces::NODE_LEASES;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::instances::{Identity, Instance, Instances};
use crate::{random, trace};
pub use lease::{LeaseFlaw, MachineLease};
use lease::{Machine, may_start};

/// The time without a write after which another program may have changed the status. The interval is that of the node
/// agent.
const MISSED_AFTER: Duration = Duration::from_secs(20);
const REPEAT_AFTER: Duration = Duration::from_secs(300);
/// Interval of the checks of pods without a change.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The user that creates volumes.
pub const PROVISIONER: &str = "system:serviceaccount:kube-system:mainstay-provisioner";
pub const PROVISIONER_GROUPS: [&str; 3] = [
    "system:authenticated",
    "system:serviceaccounts",
    "system:serviceaccounts:kube-system",
];

/// The clients of a node.
pub struct Clients {
    /// For the node's pods.
    pub agent: Client,
    /// For the volumes that the node provisions.
    pub provisioner: Client,
}

/// The settings of a node.
#[derive(Clone, Debug)]
pub struct Settings {
    pub name: String,
    /// The time for an instance to become ready, in milliseconds.
    pub startup_millis: (u64, u64),
    /// The time for an instance to end, in milliseconds, within its grace period.
    pub shutdown_millis: (u64, u64),
    pub clock: WallClock,
    /// Maximum number of pods that are processed concurrently.
    pub workers: usize,
    /// For a mutation: the node reports the end of an instance that still runs.
    pub hasty: bool,
    /// The lease with which failover pods end; without it, the node is never fenced.
    pub lease: Option<MachineLease>,
}

impl Settings {
    /// A node on which instances become ready, and end, at once.
    pub fn instant(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            startup_millis: (0, 0),
            shutdown_millis: (0, 0),
            clock: WallClock::default(),
            workers: 16,
            hasty: false,
            lease: None,
        }
    }
}

/// The wall clock of a machine, which may be wrong. Clones share the clock.
#[derive(Clone, Debug, Default)]
pub struct WallClock(Arc<AtomicI64>);

impl WallClock {
    /// A clock with that error.
    pub fn off_by(error: SignedDuration) -> Self {
        let clock = Self::default();
        clock.set_error(error);
        clock
    }

    /// Sets the clock, to a time with that error.
    pub fn set_error(&self, error: SignedDuration) {
        let millis = i64::try_from(error.as_millis()).unwrap_or_default();
        self.0.store(millis, Ordering::Relaxed);
    }

    fn error(&self) -> SignedDuration {
        SignedDuration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// Simulates a node until `shutdown` is cancelled: registers the node, renews its lease, runs its pods. Refused
/// requests and lost connections are retried.
pub async fn run(
    settings: Settings,
    instances: Instances,
    clients: Clients,
    shutdown: CancellationToken,
) {
    let (client, provisioner) = (clients.agent, clients.provisioner);
    let on_node = WatchConfig::default().fields(&format!("spec.nodeName={}", settings.name));
    let this_node = WatchConfig::default().fields(&format!("metadata.name={}", settings.name));
    let node = settings.lease.as_ref().map(|_| {
        let nodes = Api::all(client.clone());
        Cache::spawn(nodes, this_node, shutdown.clone())
    });
    let agent = Arc::new(Agent {
        node,
        pods: Cache::spawn(Api::all(client.clone()), on_node, shutdown.clone()),
        claims: cache(&provisioner, &shutdown),
        volumes: cache(&provisioner, &shutdown),
        settings,
        instances,
        client,
        provisioner,
        written: Mutex::default(),
    });
    let stopped = shutdown.clone();
    let life = async {
        agent.register().await;
        if !agent.pods.wait_synced().await {
            return;
        }
        tokio::join!(
            agent.renew_and_report(),
            agent.clone().manage_pods(shutdown.clone()),
            agent.clone().manage_volumes(shutdown),
        );
    };
    tokio::select! {
        biased;
        () = stopped.cancelled() => {}
        () = life => {}
    }
}

/// A cache of all objects of a kind, until `shutdown`.
pub fn cache<K>(client: &Client, shutdown: &CancellationToken) -> Cache<K>
where
    K: controller_framework::Object,
    K::DynamicType: Default,
{
    let all = Api::all(client.clone());
    Cache::spawn(all, WatchConfig::default(), shutdown.clone())
}

struct Agent {
    settings: Settings,
    instances: Instances,
    client: Client,
    provisioner: Client,
    /// The Node object, if it may be deleted while the agent runs.
    node: Option<Cache<Node>>,
    pods: Cache<Pod>,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    /// The last written status of each pod, by UID.
    written: Mutex<BTreeMap<String, ReportedStatus>>,
}

/// The reported parts of a pod's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReportedStatus {
    phase: &'static str,
    ready: bool,
}

impl Agent {
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        let wall_time = now.checked_add(self.settings.clock.error()).unwrap_or(now);
        Timestamp::from_second(wall_time.as_second()).unwrap_or(wall_time)
    }

    async fn register(&self) {
        while self.create_node().await.is_err() {
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Creates the Node object, if it does not exist.
    async fn create_node(&self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let name = &self.settings.name;
        let labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), name.clone())]);
        let mut node = Node::default();
        node.metadata.name = Some(name.clone());
        node.metadata.labels = Some(labels);
        match nodes.create(&PostParams::default(), &node).await {
            Err(error) if refusal(&error) != WriteRefusal::AlreadyExists => Err(error),
            _created => Ok(()),
        }
    }

    /// The UID of the Node object; `None` if it was deleted, or is not in the cache yet.
    fn node_uid(&self) -> Option<String> {
        let node = self.node.as_ref()?.get("", &self.settings.name)?;
        node.metadata.uid.clone()
    }

    /// Waits until the Node object is deleted.
    async fn is_deleted(&self) {
        match &self.node {
            Some(node) => {
                node.wait_until(|| node.is_synced() && node.is_empty())
                    .await;
            }
            None => std::future::pending().await,
        }
    }

    async fn report_ready(&self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let capacity = json!({"cpu": "64", "memory": "256Gi", "pods": "1000"});
        let status = json!({"status": {"capacity": capacity, "allocatable": capacity, "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady",
            "lastHeartbeatTime": self.now(), "lastTransitionTime": self.now()}]}});
        let patch = Patch::Strategic(status);
        let params = PatchParams::default();
        let written = nodes
            .patch_status(&self.settings.name, &params, &patch)
            .await;
        written.map(drop)
    }

    /// Renews the lease like an agent whose pods do not end with the lease; returns whether the lease exists.
    async fn renew(&self) -> bool {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NODE_LEASES);
        let name = &self.settings.name;
        let now = MicroTime(self.now());
        let spec = json!({"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now});
        let patch = Patch::Merge(json!({ "spec": spec }));
        match leases.patch(name, &PatchParams::default(), &patch).await {
            Err(error) if refusal(&error) == WriteRefusal::NotFound => {
                let lease = json!({"metadata": {"name": name}, "spec": spec});
                if let Ok(lease) = json_tree::from_value(lease) {
                    let _retried_next_time = leases.create(&PostParams::default(), &lease).await;
                }
                false
            }
            renewed => renewed.is_ok(),
        }
    }

    async fn renew_and_report(&self) {
        let mut keeper = self.settings.lease.clone().map(|lease| {
            let node = self.settings.name.clone();
            let machine = Machine {
                node: node.clone(),
                instances: self.instances.clone(),
                lease,
            };
            LeaseKeeper::new(self.client.clone(), node, LeaseLength::DEFAULT, machine)
        });
        let mut renewed = Instant::now();
        // The lease is renewed first: pods that are bound to a ready node belong to its epoch.
        let mut last_written = None;
        loop {
            let is_renewed = match &mut keeper {
                Some(keeper) => {
                    let uid = self.node_uid();
                    keeper.renew(uid.as_deref(), self.now()).await.is_ok()
                }
                None => self.renew().await,
            };
            if is_renewed {
                // A controller may have marked the node as lost in the meantime.
                if renewed.elapsed() > MISSED_AFTER {
                    last_written = None;
                }
                renewed = Instant::now();
            }
            let is_due = last_written.is_none_or(|at: Instant| at.elapsed() > REPEAT_AFTER);
            if is_due && self.report_ready().await.is_ok() {
                last_written = Some(Instant::now());
            }
            let soon = Duration::from_secs(1);
            let period = LeaseLength::DEFAULT.renewal_period();
            let pause = sleep(if last_written.is_some() { period } else { soon });
            tokio::select! {
                biased;
                () = pause => {}
                () = self.is_deleted() => {
                    trace!("{} registers again", self.settings.name);
                    last_written = None;
                    if self.create_node().await.is_err() {
                        sleep(soon).await;
                    }
                }
            }
        }
    }

    async fn manage_pods(self: Arc<Self>, shutdown: CancellationToken) {
        let queue = Queue::new();
        let feed = async {
            let mut changes = self.pods.subscribe();
            while let Some(change) = changes.next().await {
                queue.add(object_key(&**change.object()));
            }
        };
        let housekeeping = async {
            loop {
                for (namespace, name) in self.instances.on(&self.settings.name) {
                    queue.add(ObjectKey::new(namespace, name));
                }
                for pod in self.pods.list() {
                    queue.add(object_key(&*pod));
                }
                sleep(CHECK_INTERVAL).await;
            }
        };
        let agent = self.clone();
        let work = run_workers(
            queue.clone(),
            self.settings.workers,
            shutdown,
            move |key: ObjectKey| {
                let agent = agent.clone();
                async move { agent.sync(&key).await }
            },
        );
        tokio::join!(feed, housekeeping, work);
    }

    /// Executes the next step for the pod of that name.
    async fn sync(&self, key: &ObjectKey) -> Result<ReconcileResult> {
        let identity: Identity = (key.namespace.to_string(), key.name.to_string());
        let pod = self.pods.get_key(key);
        let uid = pod.as_ref().and_then(|pod| pod.metadata.uid.clone());
        let uid = uid.unwrap_or_default();
        // An instance whose object was deleted must end, and no instance is started before.
        let mut others = self.instances.running(&self.settings.name, &identity);
        others.retain(|instance| instance.uid != uid);
        if let Some(other) = others.first() {
            let at = self.terminate(other, Duration::from_secs(30));
            return Ok(requeue_at(at));
        }
        match pod {
            None => Ok(ReconcileResult::Done),
            Some(pod) if pod.metadata.deletion_timestamp.is_some() => {
                self.finish(&pod, &identity, &uid).await
            }
            Some(pod) => self.run_pod(&pod, &identity, &uid).await,
        }
    }

    /// Starts the termination of an instance, unless the instance terminates already; returns the time of its end.
    fn terminate(&self, instance: &Instance, grace: Duration) -> Instant {
        if let Some(at) = instance.ends_at {
            return at;
        }
        let (from, to) = self.settings.shutdown_millis;
        let at = Instant::now() + random::millis(from, to).min(grace);
        let name = &self.settings.name;
        self.instances
            .change(name, &instance.uid, |instance| instance.ends_at = Some(at));
        at
    }

    async fn finish(&self, pod: &Pod, identity: &Identity, uid: &str) -> Result<ReconcileResult> {
        let name = &self.settings.name;
        if let Some(instance) = self.instances.of(name, identity, uid) {
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
            let grace = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
            let at = self.terminate(&instance, grace);
            if Instant::now() < at && !self.settings.hasty {
                return Ok(requeue_at(at));
            }
        }
        // As the node agent. The order matters if the object remains: a claim is protected while a pod may use the
        // claim, and a pod that is deleted in the foreground waits for its claims.
        if pod.metadata.finalizers.is_some() {
            let ended = ReportedStatus {
                phase: "Failed",
                ready: false,
            };
            self.report_status(pod, uid, ended).await?;
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &identity.0);
        delete(&api, &identity.1, Delete::of_uid(uid.parse()?).at_once()).await?;
        if !self.settings.hasty {
            self.instances.remove_ended(name, identity, uid);
        }
        self.written().remove(uid);
        Ok(ReconcileResult::Done)
    }

    async fn run_pod(&self, pod: &Pod, identity: &Identity, uid: &str) -> Result<ReconcileResult> {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Failed" | "Succeeded")) {
            return Ok(ReconcileResult::Done);
        }
        let name = &self.settings.name;
        let image = image_of(pod);
        let now = Instant::now();
        if image.starts_with("bad") {
            let pending = ReportedStatus {
                phase: "Pending",
                ready: false,
            };
            self.report_status(pod, uid, pending).await?;
            return Ok(ReconcileResult::Done);
        }
        let instance = self.instances.of(name, identity, uid);
        let Some(instance) = instance.filter(|instance| !instance.has_lapsed(now)) else {
            return self.start_instance(pod, identity, uid).await;
        };
        let reported = match instance.ends_at {
            // The instance ended without a request: the node evicted the pod.
            Some(at) if at <= now => ReportedStatus {
                phase: "Failed",
                ready: false,
            },
            Some(at) => return Ok(requeue_at(at)),
            None if image.starts_with("sick") => ReportedStatus {
                phase: "Running",
                ready: false,
            },
            None if instance.ready_at <= now => ReportedStatus {
                phase: "Running",
                ready: true,
            },
            None => {
                let last_reported = self.last_reported(pod, uid);
                let started = last_reported.is_some_and(|reported| reported.phase == "Running");
                let phase = if started { "Running" } else { "Pending" };
                self.report_status(
                    pod,
                    uid,
                    ReportedStatus {
                        phase,
                        ready: false,
                    },
                )
                .await?;
                return Ok(requeue_at(instance.ready_at));
            }
        };
        self.report_status(pod, uid, reported).await?;
        Ok(ReconcileResult::Done)
    }

    /// Starts the instance of a pod. An instance that has ended with the lease is started again, as an agent restarts
    /// containers.
    async fn start_instance(
        &self,
        pod: &Pod,
        identity: &Identity,
        uid: &str,
    ) -> Result<ReconcileResult> {
        let name = &self.settings.name;
        let lease = self.settings.lease.as_ref().filter(|_| ends_with_it(pod));
        if let Some(lease) = lease
            && !may_start(lease, &self.client, name, pod).await?
        {
            return Ok(ReconcileResult::RequeueAfter(CHECK_INTERVAL));
        }
        let now = Instant::now();
        let (from, to) = self.settings.startup_millis;
        let ready_at = now + random::millis(from, to);
        let instance = Instance {
            node: name.clone(),
            uid: uid.to_owned(),
            ready_at,
            ends_at: None,
            lease: lease.cloned(),
        };
        self.instances.start(identity, instance);
        let ready = ready_at <= now;
        let phase = if ready { "Running" } else { "Pending" };
        self.report_status(pod, uid, ReportedStatus { phase, ready })
            .await?;
        Ok(match ready {
            true => ReconcileResult::Done,
            false => requeue_at(ready_at),
        })
    }

    fn written(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, ReportedStatus>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status that this agent reported last, or the status in its cache.
    fn last_reported(&self, pod: &Pod, uid: &str) -> Option<ReportedStatus> {
        if let Some(reported) = self.written().get(uid) {
            return Some(*reported);
        }
        let status = pod.status.as_ref()?;
        let conditions = status.conditions.iter().flatten();
        let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
        let phase = match status.phase.as_deref()? {
            "Running" => "Running",
            "Failed" => "Failed",
            _ => "Pending",
        };
        let ready = ready.next()?.status == "True";
        Some(ReportedStatus { phase, ready })
    }

    async fn report_status(&self, pod: &Pod, uid: &str, reported: ReportedStatus) -> Result<()> {
        let last_reported = self.last_reported(pod, uid);
        // After the loss of a node a controller may have written that the pod is not ready.
        let is_overwritten = reported.ready && !is_ready(pod) && last_reported == Some(reported);
        if last_reported == Some(reported) && !is_overwritten {
            return Ok(());
        }
        let now = self.now();
        let address = format!("10.1.{}.{}", random::below(250), random::below(250));
        let condition = |kind| {
            let status = if reported.ready { "True" } else { "False" };
            json!({"type": kind, "status": status, "lastTransitionTime": now})
        };
        let conditions = ["ContainersReady", "Ready"].map(condition);
        let mut status = json!({"phase": reported.phase, "conditions": conditions});
        if pod
            .status
            .as_ref()
            .is_none_or(|status| status.start_time.is_none())
        {
            status["startTime"] = json!(now);
            status["podIP"] = json!(address);
            status["podIPs"] = json!([{ "ip": address }]);
        }
        self.write(pod, uid, &status).await?;
        self.written().insert(uid.to_owned(), reported);
        Ok(())
    }

    async fn write(&self, pod: &Pod, uid: &str, status: &Value) -> Result<()> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let patch = json!({"metadata": {"uid": uid}, "status": status});
        let patch = Patch::Strategic(patch);
        let written = api
            .patch_status(name, &PatchParams::default(), &patch)
            .await;
        unless_outrun(written).map(drop)
    }
}

fn requeue_at(at: Instant) -> ReconcileResult {
    let wait = at.saturating_duration_since(Instant::now());
    ReconcileResult::RequeueAfter(wait.max(Duration::from_millis(1)))
}

fn image_of(pod: &Pod) -> &str {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    container
        .and_then(|container| container.image.as_deref())
        .unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let mut conditions = status
        .into_iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
