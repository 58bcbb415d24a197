//! The scheduler and the volume controllers against the real API server over a store in memory,
//! each with the rights that the default roles give it.

#![expect(clippy::unwrap_used, reason = "a test")]

mod devices;
mod drivers;
mod preemption;
mod resizing;
mod sidecars;
mod spreading;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{
    Event, Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use kube_api_client::{Api, Client, DeleteParams, Patch, PatchParams, PostParams, Resource};
use kube_api_server::{ApiServer, UserInfo};
use mvcc_store::embedded::EmbeddedStore;
use process_telemetry::{Health, SlowPolls};
use tokio_util::sync::{CancellationToken, DropGuard};

/// No poll of the scheduler or a controller takes longer than this, unoptimised.
const POLL_MAX: Duration = Duration::from_millis(250);

struct Cluster {
    server: Arc<ApiServer>,
    client: Client,
    slow_polls: Arc<SlowPolls>,
    _end: DropGuard,
}

/// findings A9: fails a test in which a task blocked its thread.
impl Drop for Cluster {
    fn drop(&mut self) {
        let slow = self.slow_polls.recorded();
        if !slow.is_empty() && !std::thread::panicking() {
            panic!("slow on the runtime's threads: {slow:?}");
        }
    }
}

fn typed<K: k8s_openapi::serde::de::DeserializeOwned>(object: Value) -> K {
    json_tree::from_value(object).unwrap()
}

impl Cluster {
    /// A server with controllers and scheduler and these nodes of two CPUs each.
    async fn new(nodes: &[&str]) -> Self {
        let mut config = kube_api_server::Config::in_process(EmbeddedStore::in_memory());
        let snapshots = resource_kinds::snapshot::definitions();
        config.default_objects.extend(snapshots);
        let server = ApiServer::new(config).await.unwrap();
        let shutdown = CancellationToken::new();
        let as_user = |user: UserInfo| Client::new(server.local(user), "default");
        let cluster = Self {
            server: server.clone(),
            client: as_user(UserInfo::new("admin", ["system:masters"])),
            slow_polls: SlowPolls::new(POLL_MAX),
            _end: shutdown.clone().drop_guard(),
        };
        let health = Health::watched_by(cluster.slow_polls.clone());
        for node in nodes {
            cluster.add_node(node).await;
        }
        let user = UserInfo::new("system:kube-scheduler", ["system:authenticated"]);
        let (client, config) = (as_user(user), pod_scheduler::Config::default());
        let component = health.component("scheduler", shutdown.clone());
        tokio::spawn(pod_scheduler::run(client, config, component));
        let user = UserInfo::new("system:kube-controller-manager", ["system:authenticated"]);
        let (client, config) = (as_user(user), controllers::Config::default());
        let component = health.component("controllers", shutdown);
        tokio::spawn(controllers::run_all(client, config, component));
        let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "default");
        let there = || async { accounts.get_opt("default").await.unwrap().is_some() };
        eventually(true, there).await;
        cluster
    }

    async fn add_node(&self, name: &str) {
        let capacity = json!({"cpu": "2", "memory": "4Gi", "pods": "10"});
        let node: Node = typed(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        }));
        let api: Api<Node> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &node).await.unwrap();
        let status = json!({"status": {"capacity": capacity, "allocatable": capacity,
            "conditions": [{"type": "Ready", "status": "True"}]}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
        let taints = json!({"spec": {"taints": null}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(taints))
            .await
            .unwrap();
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), "default")
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    async fn create_pod(&self, name: &str, spec: Value) {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([{"name": "a", "image": "a"}]);
        }
        let pod = typed(json!({"metadata": {"name": name}, "spec": spec}));
        self.pods()
            .create(&PostParams::default(), &pod)
            .await
            .unwrap();
    }

    async fn create_claim(&self, name: &str, class: &str) {
        let claim = typed(json!({"metadata": {"name": name}, "spec": {
            "storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}));
        self.claims()
            .create(&PostParams::default(), &claim)
            .await
            .unwrap();
    }

    /// The pod's node, or the reason why it has none.
    async fn node_or_reason(&self, pod: &str) -> String {
        let pod = self.pods().get(pod).await.unwrap();
        let node = pod.spec.as_ref().unwrap().node_name.clone();
        let conditions = pod
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        let why = conditions
            .into_iter()
            .find(|condition| condition.type_ == "PodScheduled");
        node.or_else(|| why.and_then(|why| why.message))
            .unwrap_or_default()
    }

    async fn events(&self, name: &str) -> String {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let listed = events.list(&Default::default()).await.unwrap();
        let about = listed
            .items
            .into_iter()
            .filter(|event| event.involved_object.name.as_deref() == Some(name));
        let mut printed: Vec<String> = about
            .map(|event| {
                let component = |text: Option<String>| text.unwrap_or_default();
                format!(
                    "{} {}: {}",
                    component(event.type_),
                    component(event.reason),
                    component(event.message)
                )
            })
            .collect();
        printed.sort();
        printed.join("\n")
    }
}

/// Waits until `read` returns the expected value.
async fn eventually<T: PartialEq + Debug, F: Future<Output = T>>(
    expected: T,
    mut read: impl FnMut() -> F,
) {
    let start = Instant::now();
    loop {
        let value = read().await;
        if value == expected {
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(240),
            "wanted {expected:?}, saw {value:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn claiming(claim: &str) -> Value {
    json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]})
}

fn asking(cpu: &str) -> Value {
    json!({"containers": [
        {"name": "a", "image": "a", "resources": {"requests": {"cpu": cpu}}}]})
}

fn phase_of(claim: &PersistentVolumeClaim) -> String {
    claim
        .status
        .as_ref()
        .and_then(|status| status.phase.clone())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_pod_is_bound_and_told_so() {
    let cluster = Cluster::new(&["n1"]).await;
    cluster.create_pod("web-0", json!({})).await;
    eventually("n1".to_owned(), || cluster.node_or_reason("web-0")).await;
    let event = "Normal Scheduled: Successfully assigned default/web-0 to n1";
    eventually(event.to_owned(), || cluster.events("web-0")).await;
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_is_placed_when_there_is_room() {
    let cluster = Cluster::new(&["n1"]).await;
    cluster.create_pod("large", asking("1500m")).await;
    eventually("n1".to_owned(), || cluster.node_or_reason("large")).await;
    cluster.create_pod("second", asking("1")).await;
    let nobody = "preemption: 0/1 nodes are available:";
    let full = format!(
        "0/1 nodes are available: 1 Insufficient cpu. {nobody} \
         1 No preemption victims found for incoming pod."
    );
    eventually(full.clone(), || cluster.node_or_reason("second")).await;
    let event = format!("Warning FailedScheduling: {full}");
    eventually(event, || cluster.events("second")).await;
    let now = DeleteParams::default().grace_period(0);
    cluster.pods().delete("large", &now).await.unwrap();
    eventually("n1".to_owned(), || cluster.node_or_reason("second")).await;
    cluster.create_pod("third", asking("2")).await;
    eventually(full, || cluster.node_or_reason("third")).await;
    cluster.add_node("n2").await;
    eventually("n2".to_owned(), || cluster.node_or_reason("third")).await;
}

/// statefulset.md §11.6, 11.15: the claim comes after the pod, its volume after both.
#[tokio::test]
async fn a_pod_waits_for_its_volume_and_is_bound_where_it_is() {
    let cluster = Cluster::new(&["n1", "n2"]).await;
    let mut spec = claiming("data");
    spec["nodeSelector"] = json!({"kubernetes.io/hostname": "n2"});
    cluster.create_pod("web-0", spec).await;
    let missing = "0/2 nodes are available: persistentvolumeclaim \"data\" not found. preemption: \
        0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    eventually(missing.to_owned(), || cluster.node_or_reason("web-0")).await;
    cluster.create_claim("data", "local").await;
    let annotation = |key: &'static str| {
        let claims = cluster.claims();
        move || {
            let claims = claims.clone();
            async move {
                let claim = claims.get("data").await.unwrap();
                claim
                    .metadata
                    .annotations
                    .and_then(|all| all.get(key).cloned())
                    .unwrap_or_default()
            }
        }
    };
    eventually(
        "n2".to_owned(),
        annotation("volume.kubernetes.io/selected-node"),
    )
    .await;
    let provisioner = annotation("volume.kubernetes.io/storage-provisioner");
    eventually("mainstay.dev/local".to_owned(), provisioner).await;
    let claim = cluster.claims().get("data").await.unwrap();
    let volume = typed(json!({"metadata": {"name": "made"}, "spec": {
        "storageClassName": "local", "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "1Gi"}, "local": {"path": "/data"},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "namespace": "default", "name": "data", "uid": claim.metadata.uid},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}]}]}}}}));
    cluster
        .volumes()
        .create(&PostParams::default(), &volume)
        .await
        .unwrap();
    eventually("n2".to_owned(), || cluster.node_or_reason("web-0")).await;
    let bound = || async { phase_of(&cluster.claims().get("data").await.unwrap()) };
    eventually("Bound".to_owned(), bound).await;
}

/// statefulset.md §11.3: volumes that an administrator made, for pods that are waited for.
#[tokio::test]
async fn two_pods_share_out_the_volumes_that_are_there() {
    let cluster = Cluster::new(&["n1", "n2"]).await;
    let api: Api<k8s_openapi::api::storage::v1::StorageClass> = Api::all(cluster.client.clone());
    let class = typed(json!({"metadata": {"name": "manual"},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer"}));
    api.create(&PostParams::default(), &class).await.unwrap();
    for node in ["n1", "n2"] {
        let volume = typed(json!({"metadata": {"name": format!("on-{node}")}, "spec": {
            "storageClassName": "manual", "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"}, "local": {"path": "/data"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}}));
        cluster
            .volumes()
            .create(&PostParams::default(), &volume)
            .await
            .unwrap();
    }
    for name in ["a", "b"] {
        cluster.create_claim(name, "manual").await;
        cluster.create_pod(name, claiming(name)).await;
    }
    let nodes = || async {
        let mut nodes = [
            cluster.node_or_reason("a").await,
            cluster.node_or_reason("b").await,
        ];
        nodes.sort();
        nodes
    };
    eventually(["n1".to_owned(), "n2".to_owned()], nodes).await;
    for name in ["a", "b"] {
        let claim = cluster.claims().get(name).await.unwrap();
        let volume = claim.spec.unwrap().volume_name.unwrap();
        assert_eq!(volume, format!("on-{}", cluster.node_or_reason(name).await));
    }
}

/// statefulset.md §11.4, 11.8 to 11.10: the visible states of claims and volumes, from the first to
/// the last write.
#[tokio::test]
async fn claims_and_volumes_are_bound_protected_and_released() {
    let cluster = Cluster::new(&["n1"]).await;
    let volume = typed(json!({"metadata": {"name": "v"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"},
        "hostPath": {"path": "/data"}, "persistentVolumeReclaimPolicy": "Retain"}}));
    cluster
        .volumes()
        .create(&PostParams::default(), &volume)
        .await
        .unwrap();
    cluster.create_claim("data", "").await;
    let claim = || async { phase_of(&cluster.claims().get("data").await.unwrap()) };
    eventually("Bound".to_owned(), claim).await;
    let bound = cluster.claims().get("data").await.unwrap();
    let capacity = bound.status.unwrap().capacity.unwrap();
    assert_eq!(capacity["storage"].0, "2Gi");
    cluster.create_pod("user", claiming("data")).await;
    eventually("n1".to_owned(), || cluster.node_or_reason("user")).await;

    cluster
        .claims()
        .delete("data", &DeleteParams::default())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let protected_claim = cluster.claims().get("data").await.unwrap();
    assert!(
        protected_claim.meta().deletion_timestamp.is_some(),
        "a pod uses it"
    );
    let now = DeleteParams::default().grace_period(0);
    cluster.pods().delete("user", &now).await.unwrap();
    let is_deleted = || async { cluster.claims().get_opt("data").await.unwrap().is_none() };
    eventually(true, is_deleted).await;
    let phase = || async {
        let volume = cluster.volumes().get("v").await.unwrap();
        volume
            .status
            .and_then(|status| status.phase)
            .unwrap_or_default()
    };
    eventually("Released".to_owned(), phase).await;
    cluster.create_claim("data", "").await;
    let event = "Normal FailedBinding: no persistent volumes available for this claim and no \
        storage class is set";
    let is_reported = || async {
        cluster
            .events("data")
            .await
            .lines()
            .any(|line| line == event)
    };
    eventually(true, is_reported).await;
    let free = Patch::Merge(json!({"spec": {"claimRef": null}}));
    cluster
        .volumes()
        .patch("v", &PatchParams::default(), &free)
        .await
        .unwrap();
    eventually("Bound".to_owned(), claim).await;
}

#[tokio::test]
async fn a_hundred_pods_are_bound_promptly() {
    let cluster = Cluster::new(&["n1"]).await;
    let api: Api<Node> = Api::all(cluster.client.clone());
    let capacity = Patch::Merge(json!({"status": {"allocatable": {"pods": "200"}}}));
    api.patch_status("n1", &PatchParams::default(), &capacity)
        .await
        .unwrap();
    cluster.create_pod("first", json!({})).await;
    eventually("n1".to_owned(), || cluster.node_or_reason("first")).await;
    let start = Instant::now();
    for index in 0..100 {
        cluster.create_pod(&format!("p{index}"), json!({})).await;
    }
    let bound = || async {
        let pods = cluster.pods().list(&Default::default()).await.unwrap();
        let has_node = |pod: &&Pod| {
            pod.spec
                .as_ref()
                .is_some_and(|spec| spec.node_name.is_some())
        };
        pods.items.iter().filter(has_node).count()
    };
    eventually(101, bound).await;
    println!("100 pods created and bound in {:?}", start.elapsed());
}
