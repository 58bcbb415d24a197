//! `nfs` volumes with a real server, on a kernel with NFS (`cargo xtask virtual-machine-test`). On other
//! kernels, the test checks the event about the missing support.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use host_kernel::mount_table;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube_api_client::{Api, Patch, PatchParams, PostParams};
use node_agent::OnShutdown;

use crate::harness::Harness;
use crate::pods::SLEEP;
use crate::spec::shell;

/// The kernel's NFS server with one export.
struct Server {
    export: PathBuf,
}

impl Server {
    /// Starts the server; `None` if the kernel has no NFS. If the kernel has NFS, the server must start.
    fn start(export: PathBuf) -> Option<Self> {
        let loads = |module: &str| {
            let mut modprobe = Command::new("modprobe");
            let done = modprobe.arg(module).stderr(Stdio::null()).status();
            done.is_ok_and(|status| status.success())
        };
        if !loads("nfs") || !loads("nfsd") {
            return None;
        }
        fs::create_dir_all(export.join("sub")).unwrap();
        for directory in [&export, &export.join("sub")] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
        }
        fs::create_dir_all("/run/rpcbind").unwrap();
        fs::create_dir_all("/run/sendsigs.omit.d").unwrap();
        if !Path::new("/proc/fs/nfsd/threads").exists() {
            run("mount", &["-t", "nfsd", "nfsd", "/proc/fs/nfsd"]);
        }
        run("rpcbind", &["-w"]);
        run("rpc.mountd", &[]);
        let exported = format!("*:{}", export.display());
        // The root of NFS version 4 is set, because the root file system of the machine may not be
        // exportable.
        let options = "rw,no_root_squash,insecure,no_subtree_check,fsid=0";
        run("exportfs", &["-o", options, &exported]);
        let server = Self { export };
        server.serve(true);
        Some(server)
    }

    /// Opens or closes the ports of the server.
    fn serve(&self, is_open: bool) {
        let threads = if is_open { "4" } else { "0" };
        run("rpc.nfsd", &["-G", "10", "-L", "10", threads]);
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

fn volume(export: &Path, more: Value) -> Value {
    let mut source = json!({"server": "127.0.0.1", "path": export});
    for (key, value) in more.as_object().unwrap() {
        source[key] = value.clone();
    }
    source
}

fn spec(script: &str, mount: Value, volume: Value) -> Value {
    let mut mount = mount;
    mount["name"] = json!("files");
    let mut volume = volume;
    volume["name"] = json!("files");
    json!({
        "securityContext": {"fsGroup": 4000}, "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "command": shell(&format!("{script}; {SLEEP}")),
            "volumeMounts": [mount]}],
        "volumes": [volume]})
}

/// Creates a claim that is bound to a volume of the export.
async fn bound(harness: &Harness, name: &str, source: Value, options: &[&str]) {
    let claim: PersistentVolumeClaim = harness
        .create(
            json!({"metadata": {"name": name}, "spec": {"volumeName": name,
            "storageClassName": "", "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Mi"}}}}),
        )
        .await;
    let volume = json!({"metadata": {"name": name}, "spec": {
        "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteMany"], "nfs": source,
        "mountOptions": options,
        "claimRef": {"namespace": "default", "name": name, "uid": claim.metadata.uid}}});
    let volume: PersistentVolume = json_tree::from_value(volume).unwrap();
    let volumes: Api<PersistentVolume> = Api::all(harness.client.clone());
    let how = PostParams::default();
    volumes.create(&how, &volume).await.unwrap();
    let phase = Patch::Merge(json!({"status": {"phase": "Bound"}}));
    let claims = harness.api::<PersistentVolumeClaim>();
    let how = PatchParams::default();
    claims.patch_status(name, &how, &phase).await.unwrap();
}

/// The options of the NFS mounts of all pods. The runtime has an additional mount for each subPath.
fn mounts(harness: &Harness) -> Vec<String> {
    let (table, pods) = (mount_table::read().unwrap(), harness.dir.join("pods"));
    let ours = table
        .into_iter()
        .filter(|mount| mount.path.starts_with(&pods) && mount.file_system.starts_with("nfs"));
    ours.map(|mount| mount.super_options).collect()
}

pub async fn an_export_is_shared_by_pods_and_its_server_may_go_away() {
    let mut harness = Harness::new("nfs").await;
    harness.start(OnShutdown::LeavePods).await;
    let export = harness.dir.join("export");
    options_that_escape_are_refused(&harness, &export).await;
    let Some(server) = Server::start(export.clone()) else {
        check_kernel_without_nfs(&harness, &export).await;
        harness.end().await;
        return;
    };
    let of_pod = json!({"nfs": volume(Path::new("/"), json!({}))});
    share_export(&harness, &export, &of_pod).await;
    refuse_writes_and_missing_directories(&harness, &export).await;
    // Three mounts exist, which a restarted agent adopts.
    assert_eq!(mounts(&harness).len(), 3);
    harness.stop().await;
    harness.start(OnShutdown::LeavePods).await;
    harness.delete("third").await;
    harness.wait_deleted("third").await;
    assert_eq!(mounts(&harness).len(), 2);
    stop_and_start_server(&harness, &server, of_pod).await;
    server.serve(false);
    run("exportfs", &["-ua"]);
    harness.end().await;
}

async fn check_kernel_without_nfs(harness: &Harness, export: &Path) {
    let volume = json!({"nfs": volume(export, json!({}))});
    let pod = spec("true", json!({"mountPath": "/files"}), volume);
    harness.pod("first", pod).await;
    let text = "Warning FailedMount MountVolume.SetUp failed for volume \"files\" : the kernel of \
        this node has no file system \"nfs\"";
    harness.event("first", text).await;
    harness.delete("first").await;
    harness.wait_deleted("first").await;
}

/// A pod with an inline volume and a pod with a claim share the files.
async fn share_export(harness: &Harness, export: &Path, of_pod: &Value) {
    let files = json!({"mountPath": "/files"});
    let script = "echo one > /files/sub/a; until cat /files/sub/b; do sleep 0.1; done";
    harness
        .pod("first", spec(script, files, of_pod.clone()))
        .await;
    harness.ready("first").await;
    let options = mounts(harness);
    assert!(options[0].contains("vers=4.2"), "{options:?}");
    let source = volume(export, json!({}));
    bound(
        harness,
        "old",
        source,
        &["nfsvers=3", "nolock,soft", "timeo=20"],
    )
    .await;
    let claim = json!({"persistentVolumeClaim": {"claimName": "old"}});
    let script = "cat /files/a; echo two > /files/b";
    let below = json!({"mountPath": "/files", "subPath": "sub"});
    harness.pod("second", spec(script, below, claim)).await;
    harness.ready("second").await;
    harness.logged("second", "c", "one").await;
    harness.logged("first", "c", "two").await;
    let old = |options: &String| options.contains("vers=3") && options.contains("soft");
    assert!(mounts(harness).iter().any(old), "{:?}", mounts(harness));
}

async fn refuse_writes_and_missing_directories(harness: &Harness, export: &Path) {
    let files = json!({"mountPath": "/files"});
    let read_only = json!({"nfs": volume(Path::new("/"), json!({"readOnly": true}))});
    let script = "echo no > /files/sub/c || echo refused";
    harness
        .pod("third", spec(script, files.clone(), read_only))
        .await;
    harness.ready("third").await;
    harness.logged("third", "c", "refused").await;
    // An fsGroup does not change the group of the files, because others use them, too (as kubelet, for NFS
    // volumes).
    let group = std::os::unix::fs::MetadataExt::gid(&fs::metadata(export).unwrap());
    assert_eq!(group, 0);

    let missing = json!({"nfs": volume(&export.join("none"), json!({}))});
    harness.pod("lost", spec("true", files, missing)).await;
    harness.event("lost", "no such directory").await;
    harness.delete("lost").await;
    harness.wait_deleted("lost").await;
}

async fn stop_and_start_server(harness: &Harness, server: &Server, of_pod: Value) {
    let files = json!({"mountPath": "/files"});
    server.serve(false);
    harness
        .pod("late", spec("cat /files/sub/b", files, of_pod))
        .await;
    harness.event("late", "does not answer on port 2049").await;
    // A volume can be released while its server does not respond.
    harness.delete("second").await;
    harness.wait_deleted("second").await;
    assert_eq!(mounts(harness).len(), 1);
    server.serve(true);
    harness.ready("late").await;
    harness.logged("late", "c", "two").await;
    for pod in ["late", "first"] {
        harness.delete(pod).await;
        harness.wait_deleted(pod).await;
    }
    assert_eq!(mounts(harness), Vec::<String>::new());
    assert_eq!(
        fs::read_to_string(server.export.join("sub/b")).unwrap(),
        "two\n"
    );
}

/// These options are rejected before the mount, so the test runs on every kernel. The table of options is
/// in `host_kernel::mount_options`.
async fn options_that_escape_are_refused(harness: &Harness, export: &Path) {
    let long = "o".repeat(300);
    let rows = [
        (
            "bind",
            "hard,bind",
            "mount option \"bind\" is not for a volume",
        ),
        (
            "line",
            "a\nbind",
            "mount option \"a\\nbind\" has a control character",
        ),
        ("long", &long, "…\" has 300 bytes, more than 255"),
    ];
    for (name, option, words) in rows {
        let source = volume(export, json!({}));
        bound(harness, name, source, &[option]).await;
        let claim = json!({"persistentVolumeClaim": {"claimName": name}});
        let pod = spec("true", json!({"mountPath": "/files"}), claim);
        harness.pod(name, pod).await;
        harness.event(name, words).await;
    }
    for (name, ..) in rows {
        harness.delete(name).await;
        harness.wait_deleted(name).await;
    }
    assert_eq!(mounts(harness), Vec::<String>::new());
}
