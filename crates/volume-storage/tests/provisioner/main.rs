//! Local volumes from the claim to the removal, against the real API server, binder and
//! scheduler, with directories on a real disk.

#![expect(clippy::unwrap_used, reason = "a test")]

mod copies;
mod usage;

use std::fmt::Debug;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use controllers::volume_provisioning::{self, ProvisionerConfig};
use host_kernel::disk_usage::VolumeUsages;
use host_kernel::loop_device::LoopDevice;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{
    Event, Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube_api_client::{Api, Client, DeleteParams, Patch, PatchParams, PostParams};
use kube_api_server::{ApiServer, UserInfo};
use mvcc_store::embedded::EmbeddedStore;
use nix::mount::{MntFlags, umount2};
use resource_kinds::{NODE_NAME_EXTRA, NodeAccount};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use volume_storage::Storage;

const NODE: &str = "n1";

struct Cluster {
    client: Client,
    server: Arc<ApiServer>,
    shutdown: CancellationToken,
    disk: tempfile::TempDir,
    _end: DropGuard,
}

fn typed<K: k8s_openapi::serde::de::DeserializeOwned>(object: Value) -> K {
    json_tree::from_value(object).unwrap()
}

impl Cluster {
    /// A server with controllers, scheduler and one node; its provisioner is started by the test.
    async fn new() -> Self {
        let mut config = kube_api_server::Config::in_process(EmbeddedStore::in_memory());
        let snapshots = resource_kinds::snapshot::definitions();
        config.default_objects.extend(snapshots);
        let server = ApiServer::new(config).await.unwrap();
        let shutdown = CancellationToken::new();
        let admin = UserInfo::new("admin", ["system:masters"]);
        let cluster = Self {
            client: Client::new(server.local(admin), "default"),
            server,
            disk: tempfile::tempdir().unwrap(),
            _end: shutdown.clone().drop_guard(),
            shutdown,
        };
        cluster.add_node().await;
        let client = cluster.client_of("system:kube-scheduler", "system:authenticated");
        tokio::spawn(pod_scheduler::run(
            client,
            pod_scheduler::Config::default(),
            cluster.shutdown.clone(),
        ));
        let client = cluster.client_of("system:kube-controller-manager", "system:authenticated");
        let config = controllers::Config::default();
        tokio::spawn(controllers::run_all(
            client,
            config,
            cluster.shutdown.clone(),
        ));
        let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "default");
        let there = || async { accounts.get_opt("default").await.unwrap().is_some() };
        eventually(true, there).await;
        cluster
    }

    fn client_of(&self, user: &str, group: &str) -> Client {
        let user = UserInfo::new(user, ["system:authenticated", group]);
        Client::new(self.server.local(user), "default")
    }

    async fn add_node(&self) {
        let node: Node = typed(json!({
            "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}},
        }));
        let api: Api<Node> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &node).await.unwrap();
        let capacity = json!({"cpu": "2", "memory": "4Gi", "pods": "10"});
        let status = json!({"status": {"capacity": capacity, "allocatable": capacity,
            "conditions": [{"type": "Ready", "status": "True"}]}});
        api.patch_status(NODE, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
        let taints = json!({"spec": {"taints": null}});
        api.patch(NODE, &PatchParams::default(), &Patch::Merge(taints))
            .await
            .unwrap();
    }

    fn volumes_dir(&self) -> PathBuf {
        self.disk.path().join("volumes")
    }

    /// Starts the provisioner; it ends when the returned guard is dropped.
    fn start_provisioner(&self) -> DropGuard {
        self.start_measuring().0
    }

    /// The same, with the usages that it measures.
    fn start_measuring(&self) -> (DropGuard, oneshot::Receiver<watch::Receiver<VolumeUsages>>) {
        let shutdown = self.shutdown.child_token();
        // As on a node of another machine, where admission restricts the provisioner to its node.
        let account = UserInfo {
            extra: [(NODE_NAME_EXTRA.to_owned(), vec![NODE.to_owned()])].into(),
            ..UserInfo::new(
                NodeAccount::Provisioner.user(),
                ["system:authenticated", "system:serviceaccounts"],
            )
        };
        let client = Client::new(self.server.local(account), "default");
        let (dir, end) = (self.disk.path().to_owned(), shutdown.clone());
        let (sender, usages) = oneshot::channel();
        tokio::spawn(async move {
            let storage = Storage::open(&dir).await.unwrap();
            let mut config = ProvisionerConfig::new(NODE, storage);
            config.usage_interval = Duration::from_millis(20);
            // Most tests do not look at them.
            sender.send(config.usages()).ok();
            volume_provisioning::run(client, config, end.into()).await
        });
        (shutdown.drop_guard(), usages)
    }

    fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), "default")
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn create_claim(&self, name: &str, class: &str, more: Value) {
        let mut spec = json!({"storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let claim = typed(json!({"metadata": {"name": name}, "spec": spec}));
        self.claims()
            .create(&PostParams::default(), &claim)
            .await
            .unwrap();
    }

    async fn delete_claim(&self, name: &str) {
        let params = DeleteParams::default();
        self.claims().delete(name, &params).await.unwrap();
    }

    /// Makes the claim `data`, which is bound at once; the name and directory of its volume.
    async fn immediate_volume(&self) -> (String, PathBuf) {
        self.create_immediate_class().await;
        self.create_claim("data", "standard", json!({})).await;
        eventually("Bound".to_owned(), || self.phase("data")).await;
        self.volume_of("data").await
    }

    async fn create_immediate_class(&self) {
        self.create_class_of("standard", "k8s.io/minikube-hostpath")
            .await;
    }

    /// Makes a class whose claims are bound at once.
    async fn create_class_of(&self, name: &str, provisioner: &str) {
        let class = json!({"metadata": {"name": name},
            "provisioner": provisioner, "volumeBindingMode": "Immediate"});
        self.create_class(class).await;
    }

    async fn create_class(&self, class: Value) {
        let api: Api<StorageClass> = Api::all(self.client.clone());
        let class = typed(class);
        api.create(&PostParams::default(), &class).await.unwrap();
    }

    async fn phase(&self, claim: &str) -> String {
        let claim = self.claims().get(claim).await.unwrap();
        claim
            .status
            .and_then(|status| status.phase)
            .unwrap_or_default()
    }

    /// The condition of a bound claim about the size of its volume.
    async fn size_is_enforced(&self, claim: &str) -> bool {
        let status = || async {
            let status = self.claims().get(claim).await.unwrap().status.unwrap();
            let mut conditions = status.conditions.into_iter().flatten();
            let condition =
                conditions.find(|condition| condition.type_ == "mainstay.dev/SizeEnforced");
            condition.map(|condition| condition.status)
        };
        eventually(true, || async { status().await.is_some() }).await;
        status().await.as_deref() == Some("True")
    }

    /// The bound volume's name and directory.
    async fn volume_of(&self, claim: &str) -> (String, PathBuf) {
        let claim = self.claims().get(claim).await.unwrap();
        let name = claim.spec.unwrap().volume_name.unwrap();
        let volume = self.volumes().get(&name).await.unwrap();
        (
            name,
            PathBuf::from(volume.spec.unwrap().local.unwrap().path),
        )
    }

    async fn is_gone(&self, volume: &str, path: &Path) -> bool {
        self.volumes().get_opt(volume).await.unwrap().is_none() && !path.exists()
    }

    async fn was_told(&self, about: &str, reason: &str) -> bool {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let listed = events.list(&Default::default()).await.unwrap();
        listed.items.iter().any(|event| {
            event.involved_object.name.as_deref() == Some(about)
                && event.reason.as_deref() == Some(reason)
        })
    }
}

impl Drop for Cluster {
    /// The pool of `local-cow`, where a test has made one.
    fn drop(&mut self) {
        umount2(&self.disk.path().join("pool/mount"), MntFlags::MNT_DETACH).ok();
    }
}

async fn eventually<T: PartialEq + Debug, F: Future<Output = T>>(
    expected: T,
    mut read: impl FnMut() -> F,
) {
    let start = Instant::now();
    loop {
        let observed = read().await;
        if observed == expected {
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(240),
            "wanted {expected:?}, saw {observed:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// statefulset.md §11.6 to 11.8 and 11.10.
#[tokio::test]
async fn a_volume_lives_as_long_as_its_claim() {
    let cluster = Cluster::new().await;
    let _provisioner = cluster.start_provisioner();
    cluster.create_claim("data", "local", json!({})).await;
    let pod = typed(json!({"metadata": {"name": "web-0"}, "spec": {
        "containers": [{"name": "a", "image": "a"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}}));
    cluster
        .pods()
        .create(&PostParams::default(), &pod)
        .await
        .unwrap();
    let node = || async {
        cluster
            .pods()
            .get("web-0")
            .await
            .unwrap()
            .spec
            .unwrap()
            .node_name
            .unwrap_or_default()
    };
    eventually(NODE.to_owned(), node).await;
    eventually("Bound".to_owned(), || cluster.phase("data")).await;
    eventually(true, || cluster.was_told("data", "ProvisioningSucceeded")).await;
    let (name, path) = cluster.volume_of("data").await;
    assert_eq!(path, cluster.volumes_dir().join(&name));
    std::fs::write(path.join("file"), "data").unwrap();

    cluster
        .volumes()
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    cluster.delete_claim("data").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(path.join("file").exists(), "a pod uses it");
    let now = DeleteParams::default().grace_period(0);
    cluster.pods().delete("web-0", &now).await.unwrap();
    eventually(true, || cluster.is_gone(&name, &path)).await;
}

/// The annotations in manifests for minikube.
#[tokio::test]
async fn an_immediate_claim_is_served_without_a_pod() {
    let cluster = Cluster::new().await;
    let _provisioner = cluster.start_provisioner();
    let (name, path) = cluster.immediate_volume().await;
    cluster.delete_claim("data").await;
    eventually(true, || cluster.is_gone(&name, &path)).await;
}

/// statefulset.md §11.8.
#[tokio::test]
async fn a_retained_volume_keeps_its_data() {
    let cluster = Cluster::new().await;
    let _provisioner = cluster.start_provisioner();
    let (name, path) = cluster.immediate_volume().await;
    std::fs::write(path.join("file"), "data").unwrap();
    let retain = Patch::Merge(json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}));
    cluster
        .volumes()
        .patch(&name, &PatchParams::default(), &retain)
        .await
        .unwrap();
    cluster.delete_claim("data").await;
    let phase = || async {
        let volume = cluster.volumes().get(&name).await.unwrap();
        volume
            .status
            .and_then(|status| status.phase)
            .unwrap_or_default()
    };
    eventually("Released".to_owned(), phase).await;
    cluster
        .volumes()
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    let is_deleted = || async { cluster.volumes().get_opt(&name).await.unwrap().is_none() };
    eventually(true, is_deleted).await;
    assert!(path.join("file").exists());
}

/// T49 and its like on disk: what a killed provisioner left is finished by the next.
#[tokio::test]
async fn what_was_cut_off_is_finished() {
    let cluster = Cluster::new().await;
    cluster.create_immediate_class().await;
    cluster.create_claim("data", "standard", json!({})).await;
    let uid = cluster
        .claims()
        .get("data")
        .await
        .unwrap()
        .metadata
        .uid
        .unwrap();
    // Killed after the directory was made, before the volume was.
    let path = cluster.volumes_dir().join(format!("pvc-{uid}"));
    std::fs::create_dir_all(&path).unwrap();
    let provisioner = cluster.start_provisioner();
    eventually("Bound".to_owned(), || cluster.phase("data")).await;
    let (name, bound_path) = cluster.volume_of("data").await;
    assert_eq!(bound_path, path);
    assert_eq!(
        cluster
            .volumes()
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .len(),
        1
    );
    drop(provisioner);

    // Killed after the directory was moved away, before it was removed.
    cluster.delete_claim("data").await;
    let is_deleted = || async { cluster.claims().get_opt("data").await.unwrap().is_none() };
    eventually(true, is_deleted).await;
    let moved = cluster.volumes_dir().join(format!(".removed-{name}"));
    std::fs::rename(&path, &moved).unwrap();
    std::fs::write(moved.join("rest"), "data").unwrap();
    let _provisioner = cluster.start_provisioner();
    eventually(true, || cluster.is_gone(&name, &path)).await;
    assert!(!moved.exists());
}

#[tokio::test]
async fn a_volume_object_cannot_lead_the_removal_elsewhere() {
    let cluster = Cluster::new().await;
    let outside = cluster.disk.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "data").unwrap();
    let volume = typed(json!({
        "metadata": {"name": "evil", "annotations":
            {"pv.kubernetes.io/provisioned-by": "mainstay.dev/local"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Delete", "local": {"path": outside},
            "claimRef": {"namespace": "default", "name": "gone", "uid": "c0"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]}]}}}}));
    cluster
        .volumes()
        .create(&PostParams::default(), &volume)
        .await
        .unwrap();
    let _provisioner = cluster.start_provisioner();
    let failed = || async {
        let volume = cluster.volumes().get("evil").await.unwrap();
        let status = volume.status.unwrap_or_default();
        (
            status.phase.unwrap_or_default(),
            status.reason.unwrap_or_default(),
        )
    };
    eventually(
        ("Failed".to_owned(), "VolumeFailedDelete".to_owned()),
        failed,
    )
    .await;
    assert!(outside.join("file").exists());
}

/// statefulset.md §11.7, 11.13.
#[tokio::test]
async fn a_block_device_is_an_image_that_grows_while_it_is_used() {
    let cluster = Cluster::new().await;
    let _provisioner = cluster.start_provisioner();
    let class = json!({"metadata": {"name": "raw"},
        "provisioner": "mainstay.dev/local", "allowVolumeExpansion": true});
    cluster.create_class(class).await;
    cluster
        .create_claim("raw", "raw", json!({"volumeMode": "Block"}))
        .await;
    eventually("Bound".to_owned(), || cluster.phase("raw")).await;
    let (name, image) = cluster.volume_of("raw").await;
    let volume = cluster.volumes().get(&name).await.unwrap();
    assert_eq!(volume.spec.unwrap().volume_mode.as_deref(), Some("Block"));
    let metadata = std::fs::metadata(&image).unwrap();
    assert_eq!(
        (metadata.len(), metadata.blocks()),
        (1 << 30, 0),
        "it takes no room yet"
    );

    assert!(cluster.size_is_enforced("raw").await);

    let device = LoopDevice::persistent_over(&image).unwrap();
    let node = device.path().file_name().unwrap().to_owned();
    drop(device);
    let sectors = || std::fs::read_to_string(Path::new("/sys/block").join(&node).join("size"));
    assert_eq!(sectors().unwrap().trim(), "2097152");
    let more = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    cluster
        .claims()
        .patch("raw", &PatchParams::default(), &Patch::Merge(more))
        .await
        .unwrap();
    let size = || async { sectors().unwrap().trim().to_owned() };
    eventually("4194304".to_owned(), size).await;
    eventually(true, || cluster.was_told("raw", "VolumeResizeSuccessful")).await;

    cluster.delete_claim("raw").await;
    eventually(true, || cluster.is_gone(&name, &image)).await;
    let backing = Path::new("/sys/block")
        .join(&node)
        .join("loop/backing_file");
    // Tests of other processes open every device for a moment, and it is detached after that.
    let is_over_image = || async {
        let file = std::fs::read_to_string(&backing);
        file.is_ok_and(|file| file.contains(&name))
    };
    eventually(false, is_over_image).await;
}

/// statefulset.md §11.7.
#[tokio::test]
async fn what_cannot_be_made_is_said() {
    let cluster = Cluster::new().await;
    let _provisioner = cluster.start_provisioner();
    let class = json!({"metadata": {"name": "pooled"},
        "provisioner": "mainstay.dev/local-cow"});
    cluster.create_class(class).await;
    cluster
        .create_claim("raw", "pooled", json!({"volumeMode": "Block"}))
        .await;
    let attributes = json!({"volumeAttributesClassName": "gold"});
    cluster.create_immediate_class().await;
    cluster.create_claim("fast", "standard", attributes).await;
    for claim in ["raw", "fast"] {
        eventually(true, || cluster.was_told(claim, "ProvisioningFailed")).await;
        assert_eq!(cluster.phase(claim).await, "Pending");
    }
}
