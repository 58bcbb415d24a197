//! Directories of an NFS server as volumes, with the kernel's own server.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::{Kubectl, wait_for, wait_for_text};
use serde_json::{Value, json};

use super::{
    event, exec, loads, manifest, of_claim, pod, ready, server_address, wait_until_empty,
    with_busybox,
};

/// The exported directory of the examples.
pub(super) const EXPORT: &str = "/srv/nfs";

#[test]
fn a_class_of_an_export_makes_a_directory_for_each_claim() {
    on_a_server(with_server);
    // With the module the mount would wait for a server.
    if server_address().is_none() && !loads("nfs") {
        without_module();
    }
}

/// Runs a test with a server and its address in the virtual machine, and skips the test on other machines: there, the
/// test of classes covers the event of a kernel without NFS.
pub(super) fn on_a_server(test: impl FnOnce(&str)) {
    if let Some(address) = server_address() {
        assert!(loads("nfs"), "the kernel of the virtual machine has no nfs");
        start_server();
        test(&address);
    }
}

/// The root of the server, on the machine's disk, because the machine's root is an overlay and cannot be exported. In
/// version 4 the exported directory is below this root.
pub(super) const ROOT: &str = "/tmp/nfs-root";

/// The server's directory behind the export.
pub(super) fn exported() -> PathBuf {
    PathBuf::from(format!("{ROOT}{EXPORT}"))
}

/// Runs a command that may leave a process behind, which would keep a pipe open.
#[track_caller]
fn start(command: &[&str]) {
    let status = Command::new(command[0]).args(&command[1..]).status();
    assert!(status.is_ok_and(|status| status.success()), "{command:?}");
}

/// The kernel's server.
fn start_server() {
    for directory in [exported(), exported().join("shared")] {
        fs::create_dir_all(&directory).expect("make a directory");
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(&directory, open).expect("open a directory");
    }
    assert!(
        loads("nfsd"),
        "the kernel of the virtual machine has no nfsd"
    );
    for directory in ["/run/rpcbind", "/run/sendsigs.omit.d"] {
        fs::create_dir_all(directory).expect("make a directory");
    }
    if !Path::new("/proc/fs/nfsd/threads").exists() {
        start(&["mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd"]);
        // Another test program may have started these daemons.
        start(&["rpcbind", "-w"]);
        start(&["rpc.mountd"]);
    }
    let options = "rw,no_root_squash,insecure,no_subtree_check,fsid=0";
    start(&["exportfs", "-o", options, &format!("*:{ROOT}")]);
    serve(true);
}

/// Starts or stops the responses of the server.
pub(super) fn serve(responds: bool) {
    let threads = if responds { "4" } else { "0" };
    start(&["rpc.nfsd", "-G", "10", "-L", "10", threads]);
}

fn without_module() {
    let (_registry, instance) = with_busybox();
    let kubectl = instance.kubectl();
    let volume = json!({"nfs": {"server": "127.0.0.1", "path": EXPORT}});
    kubectl.apply(&pod("lost", volume));
    let text = "the kernel of this node has no file system \"nfs\": its module \"nfs\" is missing";
    event(&kubectl, "lost", text);
    kubectl.ok(&["delete", "pod", "lost"]);
}

/// The directories of claims in the export.
pub(super) fn directories() -> Vec<String> {
    let entries = fs::read_dir(exported()).expect("list the export");
    let names = entries.map(|entry| entry.expect("list the export").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name != "shared").collect()
}

fn with_server(address: &str) {
    let (_registry, instance) = with_busybox();
    let kubectl = instance.kubectl();
    let manifest = |name: &str| manifest("nfs", name, address);
    kubectl.apply(&manifest("class.yaml"));
    kubectl.apply(&manifest("shared.yaml"));
    kubectl.ok(&["rollout", "status", "deployment/shared", "--timeout=900s"]);
    // Each pod writes a file with its name, and reads the files of the other pods.
    let pods = kubectl.ok(&["get", "pods", "-l", "app=shared", "-o", "name"]);
    let pods: BTreeSet<&str> = pods.lines().map(|pod| &pod["pod/".len()..]).collect();
    assert_eq!(pods.len(), 3, "{pods:?}");
    for pod in &pods {
        wait_for("the files of all pods", 120, || {
            let files = exec(&kubectl, pod, "ls /files");
            match files.lines().collect::<BTreeSet<&str>>() == pods {
                true => Ok(()),
                false => Err(files),
            }
        });
    }
    assert_eq!(directories().len(), 1);

    // After the server was stopped and started, the requests from the time in between are executed.
    serve(false);
    kubectl.apply(&pod("late", of_claim("shared-files")));
    event(&kubectl, "late", "does not answer on port 2049");
    serve(true);
    ready(&kubectl, "late");
    let count = exec(&kubectl, "late", "ls /data | wc -l");
    assert_eq!(count.trim(), "3");
    kubectl.ok(&["delete", "pod", "late"]);
    kubectl.ok(&["delete", "deployment", "shared"]);
    kubectl.ok(&["delete", "pvc", "shared-files"]);
    wait_until_empty("the directory to be removed", directories);

    // By default the files are retained with another name.
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "kept"}, "provisioner": "mainstay.dev/nfs",
        "parameters": {"server": address, "path": EXPORT}});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "kept"}, "spec": {"storageClassName": "kept",
            "accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Mi"}}}});
    kubectl.apply(&class.to_string());
    kubectl.apply(&claim.to_string());
    kubectl.apply(&pod("keeper", of_claim("kept")));
    ready(&kubectl, "keeper");
    exec(&kubectl, "keeper", "echo kept > /data/file");
    kubectl.ok(&["delete", "pod", "keeper"]);
    kubectl.ok(&["delete", "pvc", "kept"]);
    wait_for("the directory to be archived", 120, || {
        let remaining = directories();
        let archived = remaining
            .iter()
            .find(|name| name.starts_with("archived-default-kept-"));
        let file = archived.map(|name| exported().join(name).join("file"));
        match file.map(fs::read_to_string) {
            Some(Ok(text)) if text == "kept\n" => Ok(()),
            _ => Err(remaining),
        }
    });

    retained_directories(&kubectl, address);

    // The volume of the page, created by a user.
    kubectl.apply(&manifest("pv.yaml"));
    kubectl.apply(&pod("reader", of_claim("shared")));
    ready(&kubectl, "reader");
    exec(&kubectl, "reader", "echo by hand > /data/note");
    let written = fs::read_to_string(exported().join("shared/note")).expect("read the export");
    assert_eq!(written, "by hand\n");
    kubectl.ok(&["delete", "pod", "reader"]);
}

/// A directory that its class retains, and a directory whose volume is retained. Its user, a group and a subdirectory
/// do not change the permissions of others on the server.
fn retained_directories(kubectl: &Kubectl, address: &str) {
    for (name, parameter, policy) in [
        ("of-class", json!({"onDelete": "retain"}), "Delete"),
        ("of-volume", json!({"archiveOnDelete": "false"}), "Retain"),
    ] {
        let mut class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": name}, "provisioner": "mainstay.dev/nfs", "reclaimPolicy": policy,
            "parameters": parameter});
        class["parameters"]["server"] = json!(address);
        class["parameters"]["path"] = json!(EXPORT);
        class["parameters"]["pathPattern"] = json!("${.PVC.namespace}-${.PVC.name}");
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name}, "spec": {"storageClassName": name,
                "accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Mi"}}}});
        kubectl.apply(&class.to_string());
        kubectl.apply(&claim.to_string());
        let mut writer: Value = serde_json::from_str(&pod(name, of_claim(name))).expect("JSON");
        writer["spec"]["securityContext"] =
            json!({"runAsUser": 1234, "runAsGroup": 1234, "fsGroup": 4321});
        writer["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data",
            "mountPath": "/data", "subPathExpr": "of/$(POD)"}]);
        writer["spec"]["containers"][0]["env"] = json!([{"name": "POD",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
        kubectl.apply(&writer.to_string());
        ready(kubectl, name);
        let groups = exec(kubectl, name, "echo kept > /data/file; id -G");
        assert_eq!(groups.trim(), "1234 4321");
        kubectl.ok(&["delete", "pod", name]);
        let volume = kubectl.ok(&["get", "pvc", name, "-o", "jsonpath={.spec.volumeName}"]);
        kubectl.ok(&["delete", "pvc", name]);
        if policy == "Retain" {
            wait_for_text("Released", 120, || {
                kubectl.ok(&["get", "pv", &volume, "-o", "jsonpath={.status.phase}"])
            });
            kubectl.ok(&["delete", "pv", &volume]);
        }
        wait_until_empty("the volume to be deleted", || {
            let left = kubectl.ok(&["get", "pv", "-o", "name"]);
            left.lines().map(str::to_owned).collect()
        });
        let directory = exported().join(format!("default-{name}"));
        let file = directory.join("of").join(name).join("file");
        assert_eq!(
            fs::read_to_string(&file).expect("read the export"),
            "kept\n"
        );
        let owner = |path: &Path| fs::metadata(path).map(|result| (result.uid(), result.gid()));
        assert_eq!(owner(&file).expect("look at the file"), (1234, 1234));
        assert_eq!(owner(&directory).expect("look at the directory"), (0, 0));
        fs::remove_dir_all(&directory).expect("remove the directory");
    }
}
