//! Volumes that are limited by project quotas, from the claim to the removal. Runs on the file systems
//! whose project quotas the kernel supports.

use std::path::{Path, PathBuf};
use std::process::Command;

use controllers::volume_provisioning::{self, ProvisionerConfig};
use host_kernel::loop_device::LoopDevice;
use host_kernel::project_quota;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube_api_client::{Api, DeleteParams, Patch, PatchParams, PostParams};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio_util::sync::CancellationToken;
use volume_storage::Storage;

use crate::harness::Harness;
use crate::pods::SLEEP;
use crate::spec::shell;

const CLASS: &str = "quota";
const DRIVER: &str = "mainstay.dev/local";

/// A mounted file system whose device is a file.
struct FileSystem {
    /// Whether the kernel enforces project quotas in the file system.
    counts: bool,
    kind: &'static str,
    root: PathBuf,
}

impl FileSystem {
    /// `more` are formatting options for projects.
    fn make(harness: &Harness, kind: &'static str, format: &[&str], more: &[&str]) -> Self {
        let (image, root) = (
            harness.dir.join(format!("{kind}.img")),
            harness.dir.join(kind),
        );
        std::fs::create_dir(&root).unwrap();
        let mounted = |more: &[&str], options: Option<&str>| {
            let file = std::fs::File::create(&image).unwrap();
            file.set_len(512 << 20).unwrap();
            let (program, arguments) = format.split_first().unwrap();
            let mut command = Command::new(program);
            let output = command.args(arguments).args(more).arg(&image).output();
            let output = output.unwrap();
            assert!(output.status.success(), "{output:?}");
            let device = LoopDevice::over(&image).unwrap();
            let flags = MsFlags::empty();
            mount(Some(device.path()), &root, Some(kind), flags, options)
        };
        let counts = mounted(more, Some("prjquota")).is_ok();
        println!("{kind}: limited by projects: {counts}");
        if !counts {
            mounted(&[], None).unwrap();
        }
        Self { counts, kind, root }
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        umount2(&self.root, MntFlags::MNT_DETACH).ok();
    }
}

/// A world with a provisioner.
struct Disks<'a> {
    harness: &'a Harness,
    volumes: Api<PersistentVolume>,
    claims: Api<PersistentVolumeClaim>,
}

impl Disks<'_> {
    async fn patch_claim(&self, name: &str, patch: Value) {
        let patch = Patch::Merge(patch);
        let params = PatchParams::default();
        self.claims.patch(name, &params, &patch).await.unwrap();
    }

    async fn patch_claim_status(&self, name: &str, status: Value) {
        let patch = Patch::Merge(json!({ "status": status }));
        let params = PatchParams::default();
        let done = self.claims.patch_status(name, &params, &patch).await;
        done.unwrap();
    }

    async fn volume_phase(&self, volume: &str, phase: &str) {
        let patch = Patch::Merge(json!({"status": {"phase": phase}}));
        let params = PatchParams::default();
        let done = self.volumes.patch_status(volume, &params, &patch).await;
        done.unwrap();
    }

    /// Does the work of the scheduler and the binder. Returns the name and the directory of the volume.
    async fn bound_claim(&self, name: &str, size: &str) -> (String, PathBuf) {
        let claim: PersistentVolumeClaim = self
            .harness
            .create(json!({"metadata": {"name": name, "annotations": {
                "volume.kubernetes.io/selected-node": "node-a",
                "volume.kubernetes.io/storage-provisioner": DRIVER}},
                "spec": {"storageClassName": CLASS, "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": size}}}}))
            .await;
        let volume = format!("pvc-{}", claim.metadata.uid.unwrap());
        let path = until("the volume", || async {
            let object = self.volumes.get_opt(&volume).await.unwrap()?;
            Some(PathBuf::from(object.spec?.local?.path))
        })
        .await;
        self.patch_claim(name, json!({"spec": {"volumeName": volume}}))
            .await;
        let bound = json!({"phase": "Bound", "capacity": {"storage": size}});
        self.patch_claim_status(name, bound).await;
        self.volume_phase(&volume, "Bound").await;
        (volume, path)
    }

    /// Deletes a claim, and removes the finalizer of claims that pods use, because no controller runs that
    /// would remove it.
    async fn delete_claim(&self, name: &str) {
        let none = json!({"metadata": {"finalizers": null}});
        self.patch_claim(name, none).await;
        let deleted = self.claims.delete(name, &DeleteParams::default()).await;
        deleted.unwrap();
    }

    async fn capacity(&self, claim: &str) -> Option<String> {
        let claim = self.claims.get(claim).await.unwrap();
        Some(claim.status?.capacity?.get("storage")?.0.clone())
    }
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, read: impl Fn() -> F) -> T {
    for _ in 0..24_000 {
        if let Some(value) = read().await {
            return value;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{what} did not come");
}

/// A pod with the claim at `/data`, and the programs of the machine.
fn with_claim(claim: &str, script: &str) -> Value {
    let programs = [
        ("bin", "/usr/bin", "/usr/bin"),
        ("lib", "/usr/lib", "/lib"),
        ("lib64", "/usr/lib64", "/lib64"),
    ];
    let mut mounts = vec![json!({"name": "data", "mountPath": "/data"})];
    let mut volumes = vec![json!({"name": "data", "persistentVolumeClaim": {"claimName": claim}})];
    for (name, from, to) in programs {
        mounts.push(json!({"name": name, "mountPath": to, "readOnly": true}));
        volumes.push(json!({"name": name, "hostPath": {"path": from}}));
    }
    json!({"containers": [{"name": "c", "command": shell(&format!("{script}; {SLEEP}")),
        "volumeMounts": mounts}], "volumes": volumes})
}

/// Writes twice the size of the volume, prints the reported size, and then tries to leave the project.
const SCRIPT: &str = "exec 2>&1; export PATH=/bin:/usr/bin; cd /data; mkdir sub; touch sub/f; \
    busybox dd if=/dev/zero of=sub/big bs=1048576 count=128 conv=fsync | grep -v records; \
    busybox df -m /data | busybox awk 'END {print \"size\", $2}'; \
    chattr +d sub/f && echo flagged; chattr -p 0 sub/f && echo left; \
    chattr -P sub; busybox rm sub/big; echo done";

async fn on(harness: &Harness, file_system: FileSystem) {
    let kind = file_system.kind;
    let data = file_system.root.join("data");
    std::fs::create_dir(&data).unwrap();
    let end = CancellationToken::new();
    let storage = Storage::open(&data).await.unwrap();
    let config = ProvisionerConfig::new("node-a", storage);
    let provisioner = tokio::spawn(volume_provisioning::run(
        harness.client.clone(),
        config,
        end.clone().into(),
    ));
    let disks = Disks {
        harness,
        volumes: Api::all(harness.client.clone()),
        claims: harness.api(),
    };
    let (claim, other) = (format!("data-{kind}"), format!("other-{kind}"));
    let (volume, path) = disks.bound_claim(&claim, "64Mi").await;
    let (_, other_path) = disks.bound_claim(&other, "64Mi").await;
    let project = |path: &Path| project_quota::project(path).unwrap();
    let projects = (project(&path), project(&other_path));

    harness.pod(kind, with_claim(&claim, SCRIPT)).await;
    harness.ready(kind).await;
    let log = harness.logged(kind, "c", "done").await;
    if file_system.counts {
        assert!(projects.0.is_some() && projects.0 != projects.1);
        assert!(
            log.contains("No space left") || log.contains("quota exceeded"),
            "{log}"
        );
        assert!(log.contains("size 64\n"), "{log}");
        assert!(!log.contains("flagged") && !log.contains("left\n"), "{log}");
        assert_eq!(log.matches("Operation not supported").count(), 3, "{log}");
        assert_eq!(
            project(&path.join("sub/f")),
            projects.0,
            "all is in one project"
        );
        let counted = project_quota::count(&path, projects.0.unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(counted.limit, Some(64 << 20));
        std::fs::write(other_path.join("file"), vec![7; 32 << 20]).unwrap();
    } else {
        assert_eq!(projects, (None, None));
        assert!(
            !log.contains("No space left") && log.contains("flagged"),
            "{log}"
        );
    }

    // The volume grows while the pod uses it.
    let more = json!({"spec": {"resources": {"requests": {"storage": "96Mi"}}}});
    disks.patch_claim(&claim, more).await;
    until("the larger size", || async {
        (disks.capacity(&claim).await.as_deref() == Some("96Mi")).then_some(())
    })
    .await;
    let grown = std::fs::write(path.join("more"), vec![7; 80 << 20]);
    grown.unwrap();
    harness.delete(kind).await;
    harness.wait_deleted(kind).await;

    // The project of a removed volume can be used again.
    disks.delete_claim(&claim).await;
    disks.volume_phase(&volume, "Released").await;
    until("the end of the volume", || async {
        (!path.exists()).then_some(())
    })
    .await;
    if let Some(project) = projects.0 {
        until("the end of the project", || async {
            let count = project_quota::count(&data, project).unwrap().unwrap();
            (count == project_quota::Count::default()).then_some(())
        })
        .await;
    }
    end.cancel();
    provisioner.await.unwrap().unwrap();
    disks.delete_claim(&other).await;
}

pub async fn a_volume_with_a_project_is_limited_and_stays_in_it() {
    let harness = Harness::started("quota").await;
    let class: StorageClass = json_tree::from_value(json!({"metadata": {"name": CLASS},
        "provisioner": DRIVER, "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true}))
    .unwrap();
    let classes: Api<StorageClass> = Api::all(harness.client.clone());
    classes
        .create(&PostParams::default(), &class)
        .await
        .unwrap();
    let ext4 = ["/usr/sbin/mke2fs", "-q", "-t", "ext4"];
    let projects = ["-O", "quota,project", "-E", "quotatype=prjquota"];
    on(
        &harness,
        FileSystem::make(&harness, "ext4", &ext4, &projects),
    )
    .await;
    let xfs = ["/usr/sbin/mkfs.xfs", "-q"];
    on(&harness, FileSystem::make(&harness, "xfs", &xfs, &[])).await;
    harness.end().await;
}
