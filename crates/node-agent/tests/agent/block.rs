//! Claims that are block devices, and the classes of runtimes.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use host_kernel::loop_device::LoopDevice;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube_api_client::{Api, Patch, PatchParams, PostParams};
use node_agent::OnShutdown;

use crate::harness::{Harness, is_ready, phase, state};
use crate::pods::SLEEP;
use crate::spec::shell;
use crate::trace::holds;

/// A loop device that belongs to the test.
pub struct Disk(Option<LoopDevice>);

impl Disk {
    pub fn over(image: &Path) -> Self {
        Self(Some(LoopDevice::persistent_over(image).unwrap()))
    }

    pub fn path(&self) -> &Path {
        self.0.as_ref().unwrap().path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(device) = self.0.take() {
            device.detach().ok();
        }
    }
}

pub fn image(harness: &Harness, name: &str) -> PathBuf {
    let path = harness.dir.join(name);
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    path
}

/// A claim that is bound to a volume at `path`, with the volume mode `mode`; with or without a provisioner.
pub async fn claim(
    harness: &Harness,
    name: &str,
    path: &Path,
    mode: &str,
    provisioner: Option<&str>,
) {
    let claim = ask(harness, name, mode).await;
    bind(harness, &claim, path, mode, provisioner).await;
}

/// A claim with the volume mode `mode`.
pub async fn ask(harness: &Harness, name: &str, mode: &str) -> PersistentVolumeClaim {
    harness
        .create(
            json!({"metadata": {"name": name}, "spec": {"volumeName": format!("pv-{name}"),
            "storageClassName": "", "accessModes": ["ReadWriteOnce"], "volumeMode": mode,
            "resources": {"requests": {"storage": "1Mi"}}}}),
        )
        .await
}

/// Creates the volume for a claim, and binds both.
pub async fn bind(
    harness: &Harness,
    claim: &PersistentVolumeClaim,
    path: &Path,
    mode: &str,
    provisioner: Option<&str>,
) {
    let name = claim.metadata.name.as_deref().unwrap();
    let volume = format!("pv-{name}");
    let annotations = match provisioner {
        Some(provisioner) => json!({"pv.kubernetes.io/provisioned-by": provisioner}),
        None => json!({}),
    };
    let volume = json!({"metadata": {"name": volume, "annotations": annotations}, "spec": {
        "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "volumeMode": mode,
        "local": {"path": path},
        "claimRef": {"namespace": "default", "name": name, "uid": claim.metadata.uid},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-a"]}]}]}}}});
    let volume: PersistentVolume = json_tree::from_value(volume).unwrap();
    let volumes: Api<PersistentVolume> = Api::all(harness.client.clone());
    volumes
        .create(&PostParams::default(), &volume)
        .await
        .unwrap();
    let bound = Patch::Merge(json!({"status": {"phase": "Bound"}}));
    harness
        .api::<PersistentVolumeClaim>()
        .patch_status(name, &PatchParams::default(), &bound)
        .await
        .unwrap();
}

/// A pod that runs a script with the claim's device at `/dev/raw`.
pub fn with_device(claim: &str, read_only: bool, script: &str) -> Value {
    json!({
        "securityContext": {"runAsUser": 1000, "fsGroup": 2000},
        "containers": [{"name": "c", "command": shell(&format!("{script}; {SLEEP}")),
            "volumeDevices": [{"name": "raw", "devicePath": "/dev/raw"}]}],
        "volumes": [{"name": "raw",
            "persistentVolumeClaim": {"claimName": claim, "readOnly": read_only}}]})
}

pub const WRITE: &str = "echo mark | busybox dd of=/dev/raw conv=fsync 2>/dev/null && \
    head -c 4 /dev/raw && echo && busybox stat -c '%u %g' /dev/raw";

async fn end(harness: &Harness, pod: &str) {
    harness.delete(pod).await;
    harness.wait_deleted(pod).await;
}

pub async fn a_device_of_the_node_is_one_of_the_pods() {
    let harness = Harness::started("block").await;
    let (image, path) = (image(&harness, "image"), harness.dir.join("disk"));
    std::fs::write(&path, "").unwrap();
    claim(&harness, "raw", &path, "Block", None).await;
    harness
        .pod("writer", with_device("raw", false, WRITE))
        .await;
    let refused = "Warning FailedMapVolume MapVolume.MapBlockVolume failed for volume \"raw\" : ";
    harness.event("writer", refused).await;
    harness.event("writer", "is not a block device").await;
    let disk = Disk::over(&image);
    std::fs::remove_file(&path).unwrap();
    symlink(disk.path(), &path).unwrap();
    harness.ready("writer").await;
    let log = harness.logged("writer", "c", "2000").await;
    assert_eq!(log, "mark\n1000 2000\n");
    end(&harness, "writer").await;

    let script = "head -c 4 /dev/raw; echo; echo lost > /dev/raw || echo refused";
    harness
        .pod("reader", with_device("raw", true, script))
        .await;
    harness.ready("reader").await;
    let log = harness.logged("reader", "c", "refused").await;
    assert!(log.contains("mark\n"), "{log}");
    end(&harness, "reader").await;
    assert_eq!(
        LoopDevice::find(&image).unwrap().unwrap().path(),
        disk.path(),
        "a device of the node is nobody's to detach"
    );

    let mut mounted = with_device("raw", false, "true");
    mounted["containers"][0]["volumeDevices"] = json!([]);
    mounted["containers"][0]["volumeMounts"] = json!([{"name": "raw", "mountPath": "/raw"}]);
    harness.pod("mounted", mounted).await;
    let text = "volume raw has volumeMode Block, but is specified in volumeMounts";
    harness.event("mounted", text).await;
    end(&harness, "mounted").await;
    harness.end().await;
}

pub async fn an_image_is_a_device_while_pods_use_it() {
    let mut harness = Harness::new("image").await;
    harness.start(OnShutdown::LeavePods).await;
    let image = image(&harness, "device.img");
    claim(&harness, "raw", &image, "Block", Some("mainstay.dev/local")).await;
    let device = || LoopDevice::find(&image).unwrap();
    harness.pod("first", with_device("raw", false, WRITE)).await;
    harness.ready("first").await;
    harness.logged("first", "c", "mark").await;
    let script = "head -c 4 /dev/raw; echo";
    harness
        .pod("second", with_device("raw", false, script))
        .await;
    harness.ready("second").await;
    harness.logged("second", "c", "mark").await;
    end(&harness, "second").await;
    assert!(device().is_some(), "the other still uses it");

    // As after a reboot: no processes and no devices are left.
    harness.stop().await;
    for sandbox in harness.runtime.sandboxes().await.unwrap() {
        sandbox.destroy().await.unwrap();
    }
    device().unwrap().detach().unwrap();
    holds("it is detached", || device().is_none()).await;
    harness.start(OnShutdown::StopPods).await;
    let again = |pod: &_| is_ready(pod) && state(pod, "c").1 == 1;
    harness.until("first", "back", again).await;
    harness.logged("first", "c", "mark").await;
    assert!(device().is_some());
    end(&harness, "first").await;
    holds("nobody uses it", || device().is_none()).await;
    assert!(std::fs::read(&image).unwrap().starts_with(b"mark"));
    harness.end().await;
}

pub async fn the_built_in_runtime_is_the_only_one() {
    let harness = Harness::started("runtimes").await;
    let classes: Api<RuntimeClass> = Api::all(harness.client.clone());
    for (name, handler) in [("plain", "runc"), ("other", "vm")] {
        let class = json!({"metadata": {"name": name}, "handler": handler,
            "overhead": {"podFixed": {"memory": "1Mi"}}});
        let class = json_tree::from_value(class).unwrap();
        classes
            .create(&PostParams::default(), &class)
            .await
            .unwrap();
    }
    let spec = |class: &str| {
        json!({"runtimeClassName": class,
            "containers": [{"name": "c", "command": shell(SLEEP)}]})
    };
    harness.pod("plain", spec("plain")).await;
    let plain = harness.ready("plain").await.spec.unwrap();
    assert_eq!(plain.overhead.unwrap()["memory"].0, "1Mi");
    harness.pod("other", spec("other")).await;
    let text = "Warning FailedCreatePodSandBox Failed to create pod sandbox: failed to get \
                sandbox runtime: no runtime for \"vm\" is configured";
    harness.event("other", text).await;
    let waits = |pod: &_| state(pod, "c").0 == "ContainerCreating";
    let other = harness.until("other", "waiting", waits).await;
    assert_eq!(phase(&other), "Pending");
    for pod in ["plain", "other"] {
        end(&harness, pod).await;
    }
    harness.end().await;
}
