//! Volumes of a CSI driver. The driver of the tests checks each call strictly, and has real mounts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use csi_test_driver::{Failure, NodeDriver, Settings, TestDriver, serve_registration};
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, VolumeAttachment};
use kube_api_client::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube_api_server::UserInfo;
use node_agent::OnShutdown;
use sha2::{Digest, Sha256};

use crate::ephemeral::get_text;
use crate::harness::{Harness, NODE};
use crate::pods::SLEEP;
use crate::spec::shell;

pub const DRIVER: &str = "test.csi.example.com";
pub const CONFIGURED: &str = "/var/lib/kubelet";

/// The agent has only the rights of a node.
pub fn node_user() -> UserInfo {
    UserInfo::new(format!("system:node:{NODE}"), ["system:nodes"])
}

pub async fn started(name: &str) -> Harness {
    let mut harness = Harness::new(name).await;
    harness.user = node_user();
    harness.start(OnShutdown::StopPods).await;
    harness
}

/// A CSI driver, registered or not.
pub struct Disks {
    pub node: Arc<NodeDriver>,
    pub kubelet: PathBuf,
    pub volumes: PathBuf,
    serving: Vec<TestDriver>,
}

impl Disks {
    pub fn new(harness: &Harness) -> Self {
        Self::with_volumes_max(harness, 7)
    }

    /// A driver that supports `volumes_max` volumes on the node.
    pub fn with_volumes_max(harness: &Harness, volumes_max: u64) -> Self {
        let (kubelet, volumes) = (harness.dir.join("kubelet"), harness.dir.join("disks"));
        for dir in ["plugins/t", "plugins_registry"] {
            std::fs::create_dir_all(kubelet.join(dir)).unwrap();
        }
        let topology = [("topology.example.com/zone".to_owned(), "z".to_owned())];
        let settings = Settings {
            name: DRIVER.to_owned(),
            node_id: "id-of-a".to_owned(),
            stages: true,
            expands: true,
            measures: true,
            volumes_max,
            topology: topology.into(),
            volumes: volumes.clone(),
            root: (PathBuf::from(CONFIGURED), kubelet.clone()),
        };
        Self {
            node: Arc::new(NodeDriver::new(settings)),
            kubelet,
            volumes,
            serving: Vec::new(),
        }
    }

    /// A registered driver with a CSIDriver object, and a volume for the claim `v`.
    pub async fn with_claim(harness: &Harness, spec: Value) -> Self {
        let mut disks = Self::new(harness);
        key(harness).await;
        disks.driver_object(harness, spec).await;
        disks.claim(harness, "v").await;
        disks.start();
        disks
    }

    pub fn start(&mut self) {
        let socket = self.kubelet.join("plugins/t/csi.sock");
        let endpoint = Path::new(CONFIGURED).join("plugins/t/csi.sock");
        let register = self.kubelet.join("plugins_registry/t-reg.sock");
        self.serving = vec![
            TestDriver::serve(&socket, self.node.clone()).unwrap(),
            serve_registration(&register, DRIVER, &endpoint, |_| ()).unwrap(),
        ];
    }

    pub fn stop(&mut self) {
        self.serving.clear();
        std::fs::remove_file(self.kubelet.join("plugins_registry/t-reg.sock")).unwrap();
    }

    /// Stops the driver and ends the test. The driver stops first, because an open socket in the kubelet's
    /// directory keeps the mount busy. A driver in a pod also stops before the unmount.
    pub async fn end(mut self, harness: Harness) {
        self.stop();
        let directory = self.kubelet.display().to_string();
        until("the sockets are closed", || async {
            let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
            (!sockets.contains(&directory)).then_some(())
        })
        .await;
        harness.end().await;
    }

    /// The method names of a volume's calls, without their services.
    pub fn calls(&self, volume: &str) -> Vec<String> {
        let calls = self.node.calls();
        let of_volume = calls.iter().filter(|call| call.volume == volume);
        of_volume
            .map(|call| call.method.replace("Node", "").replace("Volume", ""))
            .collect()
    }

    /// Waits until no stage and no publication of a volume is left.
    pub async fn free(&self, volume: &str) {
        until("the volume's mounts end", || async {
            let records = self.kubelet.join("plugins/kubernetes.io/csi").join(DRIVER);
            let is_empty = !records.exists();
            (self.node.mounts_of(volume) == 0 && is_empty).then_some(())
        })
        .await;
    }

    pub async fn driver_object(&self, harness: &Harness, spec: Value) {
        let object = json!({"metadata": {"name": DRIVER}, "spec": spec});
        let api: Api<CSIDriver> = Api::all(harness.client.clone());
        let object = json_tree::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    /// A claim that is bound to a volume of the driver.
    pub async fn claim(&self, harness: &Harness, name: &str) {
        std::fs::create_dir_all(self.volumes.join(name)).unwrap();
        let modes = ("Filesystem", "ReadWriteOnce");
        self.claim_of(harness, name, modes).await;
    }

    /// A claim with a volume mode and an access mode, and its volume.
    pub async fn claim_of(&self, harness: &Harness, name: &str, (mode, access): (&str, &str)) {
        let claim: PersistentVolumeClaim = harness
            .create(
                json!({"metadata": {"name": name}, "spec": {"volumeName": format!("pv-{name}"),
                "storageClassName": "", "accessModes": [access], "volumeMode": mode,
                "resources": {"requests": {"storage": "1Mi"}}}}),
            )
            .await;
        let volume = json!({"metadata": {"name": format!("pv-{name}")}, "spec": {
            "capacity": {"storage": "1Mi"}, "accessModes": [access], "volumeMode": mode,
            "claimRef": {"namespace": "default", "name": name, "uid": claim.metadata.uid},
            "csi": {"driver": DRIVER, "volumeHandle": name, "fsType": "ext4",
                "volumeAttributes": {"pool": "p"},
                "nodeStageSecretRef": {"namespace": "default", "name": "key"},
                "nodeExpandSecretRef": {"namespace": "default", "name": "key"}}}});
        let volumes: Api<PersistentVolume> = Api::all(harness.client.clone());
        let volume = json_tree::from_value(volume).unwrap();
        volumes
            .create(&PostParams::default(), &volume)
            .await
            .unwrap();
        let bound = json!({"phase": "Bound", "capacity": {"storage": "1Mi"}});
        claim_status(harness, name, bound).await;
    }

    /// Does the resizer's part of an expansion: the storage has grown.
    pub async fn grown(&self, harness: &Harness, name: &str, size: &str) {
        let volumes: Api<PersistentVolume> = Api::all(harness.client.clone());
        let capacity = json!({"spec": {"capacity": {"storage": size}}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(capacity));
        let volume = format!("pv-{name}");
        volumes.patch(&volume, &params, &patch).await.unwrap();
        let status = json!({
            "allocatedResources": {"storage": size},
            "allocatedResourceStatuses": {"storage": "NodeResizePending"},
            "conditions": [{"type": "FileSystemResizePending", "status": "True"}]});
        claim_status(harness, name, status).await;
    }
}

async fn claim_status(harness: &Harness, name: &str, status: Value) {
    let patch = Patch::Merge(json!({ "status": status }));
    harness
        .api::<PersistentVolumeClaim>()
        .patch_status(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

/// Waits until the claim has this capacity, and no field about the expansion is left.
pub async fn has_grown(harness: &Harness, name: &str, size: &str) {
    let claims = harness.api::<PersistentVolumeClaim>();
    until("the claim has grown", || async {
        let status = claims.get(name).await.unwrap().status.unwrap();
        let capacity = &status.capacity.unwrap()["storage"];
        let states = status.allocated_resource_statuses.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        (capacity.0 == size && states.is_empty() && conditions.is_empty()).then_some(())
    })
    .await;
}

pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, read: impl Fn() -> F) -> T {
    for _ in 0..24_000 {
        if let Some(value) = read().await {
            return value;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("not seen: {what}");
}

pub async fn key(harness: &Harness) {
    let secret = json!({"metadata": {"name": "key"}, "stringData": {"user": "u"}});
    harness.create::<Secret>(secret).await;
}

pub fn with(source: Value, script: &str) -> Value {
    let mut volume = source;
    volume["name"] = json!("data");
    json!({"securityContext": {"fsGroup": 3000}, "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "command": shell(&format!("{script}; {SLEEP}")),
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [volume]})
}

pub fn claim(name: &str) -> Value {
    json!({"persistentVolumeClaim": {"claimName": name}})
}

pub async fn a_volume_is_staged_once_and_published_for_each_pod() {
    let harness = started("csi").await;
    let mut disks = Disks::new(&harness);
    key(&harness).await;
    let spec = json!({"attachRequired": false, "podInfoOnMount": true, "fsGroupPolicy": "File"});
    disks.driver_object(&harness, spec).await;
    disks.claim(&harness, "v").await;
    harness
        .pod("first", with(claim("v"), "echo kept > /data/file"))
        .await;
    let unknown = "not found in the list of registered CSI drivers";
    harness.event("first", unknown).await;
    // The driver does the work but sends no response, and the next attempt fails with another error.
    disks.node.fail_next("NodeStageVolume", Failure::DiesAfter);
    disks
        .node
        .fail_next("NodePublishVolume", Failure::After(13));
    disks.start();
    harness.ready("first").await;
    assert_eq!(
        disks.calls("v"),
        ["Stage", "Stage", "Publish", "Stage", "Publish"]
    );
    let nodes: Api<CSINode> = Api::all(harness.client.clone());
    let listed = nodes.get(NODE).await.unwrap().spec.drivers;
    assert_eq!((listed.len(), listed[0].node_id.as_str()), (1, "id-of-a"));
    let count = listed[0].allocatable.as_ref().and_then(|all| all.count);
    assert_eq!(count, Some(7));
    let nodes: Api<Node> = Api::all(harness.client.clone());
    let labels = nodes.get(NODE).await.unwrap().metadata.labels.unwrap();
    assert_eq!(labels["topology.example.com/zone"], "z");
    let calls = disks.node.calls();
    assert_eq!(calls[0].secrets["user"], "u");
    assert_eq!(calls[2].context["pool"], "p");
    assert_eq!(calls[2].context["csi.storage.k8s.io/pod.name"], "first");

    harness
        .pod(
            "second",
            with(claim("v"), "cat /data/file; busybox stat -c %g /data/file"),
        )
        .await;
    harness.ready("second").await;
    harness.logged("second", "c", "kept\n3000").await;
    assert_eq!(disks.node.mounts_of("v"), 3);
    harness.delete("first").await;
    harness.wait_deleted("first").await;
    assert_eq!(disks.node.mounts_of("v"), 2);
    // A call to a busy driver is repeated.
    disks
        .node
        .fail_next("NodeUnpublishVolume", Failure::Before(10));
    harness.delete("second").await;
    harness.wait_deleted("second").await;
    disks.free("v").await;
    let last = disks.calls("v").split_off(7);
    assert_eq!(last, ["Unpublish", "Unpublish", "Unstage"]);
    assert!(disks.volumes.join("v/file").exists());
    assert!(!disks.kubelet.join("pods").read_dir().unwrap().any(|_| true));

    // The driver's socket is deleted, so the driver is unregistered.
    disks.stop();
    let nodes: Api<CSINode> = Api::all(harness.client.clone());
    until("no driver is listed", || async {
        let listed = nodes.get(NODE).await.unwrap().spec.drivers;
        listed.is_empty().then_some(())
    })
    .await;
    harness.end().await;
}

pub async fn a_pod_s_own_volume_lives_with_it_and_drivers_see_the_kubelet_s_directory() {
    let harness = started("csi-inline").await;
    let mut disks = Disks::new(&harness);
    let modes = json!({"volumeLifecycleModes": ["Ephemeral"], "podInfoOnMount": true});
    disks.driver_object(&harness, modes).await;
    disks.start();
    let source = json!({"csi": {"driver": DRIVER, "volumeAttributes": {"size": "1"}}});
    harness
        .pod(
            "inline",
            with(source, "echo x > /data/file && cat /data/file"),
        )
        .await;
    harness.ready("inline").await;
    let volumes: Vec<_> = disks.volumes.read_dir().unwrap().collect();
    let handle = volumes[0]
        .as_ref()
        .unwrap()
        .file_name()
        .into_string()
        .unwrap();
    assert_eq!(disks.calls(&handle), ["Publish"]);
    let path = json!({"hostPath": {"path": "/var/lib/kubelet/plugins", "type": "Directory"}});
    harness.pod("driver", with(path, "ls /data/t")).await;
    harness.logged("driver", "c", "csi.sock").await;
    for pod in ["inline", "driver"] {
        harness.delete(pod).await;
        harness.wait_deleted(pod).await;
    }
    assert_eq!(disks.calls(&handle), ["Publish", "Unpublish"]);
    assert_eq!(disks.node.mounts_of(&handle), 0);
    harness.end().await;
}

pub async fn an_agent_and_a_driver_that_were_away_leave_nothing_mounted() {
    let mut harness = Harness::new("csi-away").await;
    harness.user = node_user();
    let mut disks = Disks::new(&harness);
    key(&harness).await;
    let spec = json!({"attachRequired": false});
    disks.driver_object(&harness, spec).await;
    disks.claim(&harness, "v").await;
    disks.start();
    harness.start(OnShutdown::LeavePods).await;
    harness.pod("p", with(claim("v"), "true")).await;
    harness.ready("p").await;
    harness.stop().await;
    disks.stop();
    assert_eq!(disks.node.mounts_of("v"), 2);
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    harness.api::<Pod>().delete("p", &now).await.unwrap();
    harness.start(OnShutdown::StopPods).await;
    until("the sandbox is gone", || async {
        harness
            .runtime
            .sandboxes()
            .await
            .unwrap()
            .is_empty()
            .then_some(())
    })
    .await;
    assert_eq!(disks.node.mounts_of("v"), 2);
    disks.start();
    disks.free("v").await;
    disks.end(harness).await;
}

pub async fn a_volume_grows_in_use_and_at_the_next_mount() {
    let harness = started("csi-grow").await;
    let disks = Disks::with_claim(&harness, json!({"attachRequired": false})).await;
    harness.pod("p", with(claim("v"), "true")).await;
    harness.ready("p").await;
    assert_eq!(disks.calls("v"), ["Stage", "Publish"]);

    // The volume is in use. The driver does the work but sends no response, and the call is repeated.
    disks.node.fail_next("NodeExpandVolume", Failure::DiesAfter);
    disks.grown(&harness, "v", "2Mi").await;
    has_grown(&harness, "v", "2Mi").await;
    assert_eq!(disks.node.size_of("v"), 2 << 20);
    assert_eq!(disks.calls("v")[2..], ["Expand", "Expand"]);
    let calls = disks.node.calls();
    let last = calls.last().unwrap();
    assert_eq!(last.secrets["user"], "u");
    assert!(last.path.ends_with("/pv-v/mount"), "{}", last.path);
    let failed = "Warning VolumeResizeFailed NodeExpandVolume.NodeExpandVolume failed";
    harness.event("p", failed).await;
    for object in ["p", "v"] {
        let done = "Normal FileSystemResizeSuccessful MountVolume.NodeExpandVolume succeeded \
            for volume \"pv-v\" node-a";
        harness.event(object, done).await;
    }

    // The expansion is infeasible: the node reports it for the resizer, and does not retry.
    disks
        .node
        .fail_next("NodeExpandVolume", Failure::Before(11));
    disks.grown(&harness, "v", "3Mi").await;
    let claims = harness.api::<PersistentVolumeClaim>();
    let status = until("the expansion is infeasible", || async {
        let status = claims.get("v").await.unwrap().status.unwrap();
        let states = status.allocated_resource_statuses.clone();
        let state = states.unwrap_or_default().remove("storage");
        (state.as_deref() == Some("NodeResizeInfeasible")).then_some(status)
    })
    .await;
    let conditions = status.conditions.unwrap();
    assert_eq!(conditions[1].type_, "NodeResizeError");
    let message = conditions[1].message.as_deref().unwrap();
    assert!(message.contains("on purpose"), "{message}");
    assert_eq!(status.capacity.unwrap()["storage"].0, "2Mi");

    // The volume grows at the next mount.
    harness.delete("p").await;
    harness.wait_deleted("p").await;
    disks.free("v").await;
    let before = disks.calls("v").len();
    disks.grown(&harness, "v", "4Mi").await;
    harness.pod("next", with(claim("v"), "true")).await;
    harness.ready("next").await;
    has_grown(&harness, "v", "4Mi").await;
    assert_eq!(disks.calls("v")[before..], ["Stage", "Publish", "Expand"]);
    assert_eq!(disks.node.size_of("v"), 4 << 20);
    harness.delete("next").await;
    harness.wait_deleted("next").await;
    disks.free("v").await;
    harness.end().await;
}

pub async fn figures_are_the_driver_s_and_volumes_are_published_again() {
    let harness = started("csi-care").await;
    let tokens = json!([{"audience": "vault"}]);
    let spec = json!({"attachRequired": false, "requiresRepublish": true, "tokenRequests": tokens});
    let disks = Disks::with_claim(&harness, spec).await;
    harness.pod("p", with(claim("v"), "true")).await;
    harness.ready("p").await;
    std::fs::write(disks.volumes.join("v/broken"), "").unwrap();
    let of_claim = "{namespace=\"default\",persistentvolumeclaim=\"v\"}";
    let metrics = until("the volume has figures", || async {
        let text = get_text(&harness, "/metrics").await;
        text.contains(of_claim).then_some(text)
    })
    .await;
    for (name, value) in [
        ("capacity_bytes", 1000),
        ("used_bytes", 400),
        ("inodes_free", 5),
        ("health_status_abnormal", 1),
    ] {
        let line = format!("kubelet_volume_stats_{name}{of_claim} {value}\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
    let volume = until("the summary has the volume's figures", || async {
        let summary: Value =
            serde_json::from_str(&get_text(&harness, "/stats/summary").await).unwrap();
        let volumes = summary["pods"][0]["volume"].as_array().cloned();
        let mut volumes = volumes.unwrap_or_default().into_iter();
        volumes.find(|volume| volume["pvcRef"]["name"] == "v")
    })
    .await;
    assert_eq!(
        (&volume["availableBytes"], &volume["name"]),
        (&json!(600), &json!("data"))
    );

    // The failure of a driver is reported, and the call is repeated.
    disks
        .node
        .fail_next("NodePublishVolume", Failure::Before(13));
    let failed = "Warning FailedMount MountVolume.SetUp failed for volume \"pv-v\"";
    harness.event("p", failed).await;
    let publications = |calls: Vec<String>| calls.iter().filter(|call| *call == "Publish").count();
    let before = publications(disks.calls("v"));
    until("the volume is published again", || async {
        (publications(disks.calls("v")) > before).then_some(())
    })
    .await;
    let calls = disks.node.calls();
    let last = calls
        .iter()
        .rfind(|call| call.method == "NodePublishVolume");
    let tokens = &last.unwrap().context["csi.storage.k8s.io/serviceAccount.tokens"];
    let tokens: Value = serde_json::from_str(tokens).unwrap();
    assert!(tokens["vault"]["token"].is_string(), "{tokens}");
    assert_eq!(disks.node.mounts_of("v"), 2);
    harness.delete("p").await;
    harness.wait_deleted("p").await;
    disks.free("v").await;
    harness.end().await;
}

/// For each of the methods, kills the agent during a call that does not return, and starts the agent again.
async fn killed_in(harness: &mut Harness, disks: &Disks, methods: &[&str], failure: Failure) {
    for method in methods {
        disks.node.fail_next(method, failure);
    }
    let before = disks.node.hanging();
    for (number, method) in methods.iter().enumerate() {
        until(method, || async {
            (disks.node.hanging() > before + number).then_some(())
        })
        .await;
        harness.stop().await;
        harness.start(OnShutdown::LeavePods).await;
    }
}

pub async fn an_agent_that_is_killed_in_any_call_mounts_nothing_twice_and_loses_nothing() {
    let mut harness = Harness::new("csi-kill").await;
    harness.user = node_user();
    let disks = Disks::with_claim(&harness, json!({"attachRequired": false})).await;
    harness.start(OnShutdown::LeavePods).await;
    for (failure, size) in [(Failure::HangsBefore, "2Mi"), (Failure::HangsAfter, "3Mi")] {
        harness
            .pod("p", with(claim("v"), "echo kept >> /data/file"))
            .await;
        let steps = ["NodeStageVolume", "NodePublishVolume"];
        killed_in(&mut harness, &disks, &steps, failure).await;
        harness.ready("p").await;
        assert_eq!(disks.node.mounts_of("v"), 2);
        disks.grown(&harness, "v", size).await;
        killed_in(&mut harness, &disks, &["NodeExpandVolume"], failure).await;
        has_grown(&harness, "v", size).await;
        assert_eq!(disks.node.mounts_of("v"), 2);
        harness.delete("p").await;
        let steps = ["NodeUnpublishVolume", "NodeUnstageVolume"];
        killed_in(&mut harness, &disks, &steps, failure).await;
        harness.wait_deleted("p").await;
        disks.free("v").await;
        assert!(!disks.kubelet.join("pods").read_dir().unwrap().any(|_| true));
    }
    let content = std::fs::read_to_string(disks.volumes.join("v/file")).unwrap();
    assert_eq!(content, "kept\nkept\n");
    assert_eq!(disks.node.size_of("v"), 3 << 20);
    // Only an agent that stops its pods removes the mount of the directory.
    harness.stop().await;
    harness.start(OnShutdown::StopPods).await;
    disks.end(harness).await;
}

pub async fn a_volume_waits_for_its_attachment_and_is_in_use_before() {
    let harness = started("csi-attach").await;
    let mut disks = Disks::new(&harness);
    key(&harness).await;
    disks
        .driver_object(&harness, json!({"attachRequired": true}))
        .await;
    disks.claim(&harness, "v").await;
    disks.start();
    harness.pod("p", with(claim("v"), "true")).await;
    let nodes: Api<Node> = Api::all(harness.client.clone());
    let name = format!("kubernetes.io/csi/{DRIVER}^v");
    let in_use = || async {
        let status = nodes.get(NODE).await.unwrap().status.unwrap();
        status.volumes_in_use.unwrap_or_default()
    };
    until("the volume is in use", || async {
        (in_use().await == [name.clone()]).then_some(())
    })
    .await;
    assert!(disks.calls("v").is_empty());
    let hash = Sha256::digest(format!("v{DRIVER}{NODE}"));
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let attachment = json!({"metadata": {"name": format!("csi-{hash}")}, "spec": {
        "attacher": DRIVER, "nodeName": NODE, "source": {"persistentVolumeName": "pv-v"}}});
    let attachments: Api<VolumeAttachment> = Api::all(harness.client.clone());
    let attachment: VolumeAttachment = json_tree::from_value(attachment).unwrap();
    let params = PostParams::default();
    attachments.create(&params, &attachment).await.unwrap();
    let status = json!({"status": {"attached": true, "attachmentMetadata": {"device": "sdb"}}});
    let (merge, name_of_attachment) = (PatchParams::default(), format!("csi-{hash}"));
    let patch = Patch::Merge(status);
    let patched = attachments.patch_status(&name_of_attachment, &merge, &patch);
    patched.await.unwrap();
    let attached = json!({"status": {"volumesAttached": [{"name": name, "devicePath": ""}]}});
    nodes
        .patch_status(NODE, &PatchParams::default(), &Patch::Merge(attached))
        .await
        .unwrap();
    harness.ready("p").await;
    assert_eq!(disks.node.calls()[0].publish_context["device"], "sdb");
    harness.delete("p").await;
    harness.wait_deleted("p").await;
    disks.free("v").await;
    until("the volume is no longer in use", || async {
        in_use().await.is_empty().then_some(())
    })
    .await;
    harness.end().await;
}
