//! Ceph images as volumes, with a real cluster (seeds.md M7).

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use end_to_end::applications::{busybox, nginx};
use end_to_end::{
    Instance, Kubectl, Shell, example, wait_for, wait_for_text, with_registry_of, words,
};
use serde_json::json;

use super::{
    event, exec, loads, manifest, of_claim, pod, ready, run, server_address, wait_until_empty,
    with_busybox,
};

fn start_cluster(address: &str) {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/network_storage/cluster.sh"
    );
    let status = Command::new("sh")
        .args([script, "/tmp/ceph", address])
        .status();
    assert!(
        status.expect("run sh").success(),
        "the cluster does not start"
    );
}

/// The images that this machine's kernel has mapped.
fn mapped() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/bus/rbd/devices") else {
        return Vec::new();
    };
    let names = entries.map(|entry| {
        let name = fs::read_to_string(entry.expect("list devices").path().join("name"));
        name.unwrap_or_default().trim().to_owned()
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn images() -> Vec<String> {
    let listed = run(&["rbd", "ls", "kube"]);
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn images_of_ceph_are_volumes_of_pods() {
    match (server_address(), loads("rbd")) {
        (Some(address), has_module) => {
            assert!(has_module, "the kernel of the virtual machine has no rbd");
            start_cluster(&address);
            with_cluster(&address);
        }
        // With the module the kernel would wait for monitors.
        (None, true) => {}
        (None, false) => without_module(),
    }
}

/// One event names the module, and the pod can be deleted.
fn without_module() {
    let (_registry, instance) = with_busybox();
    let kubectl = instance.kubectl();
    let volume = json!({"rbd": {"monitors": ["127.0.0.1:6789"], "pool": "kube", "image": "foo"}});
    kubectl.apply(&pod("lost", volume));
    let text = "MountVolume.SetUp failed for volume \"data\" : the kernel of this node has no block \
        devices of Ceph: its module \"rbd\" is missing or cannot be loaded";
    event(&kubectl, "lost", text);
    kubectl.ok(&["delete", "pod", "lost"]);
}

fn with_cluster(address: &str) {
    let (_registry, mut instance) = with_registry_of(&[
        ("library/busybox", "1", &busybox()),
        ("library/nginx", "latest", &nginx("1.9.1")),
    ]);
    let kubectl = instance.kubectl();
    let manifest = |name: &str| manifest("ceph", name, address);
    kubectl.apply(&manifest("class.yaml"));
    kubectl.apply(&manifest("statefulset.yaml"));
    event(&kubectl, "data-notes-0", "ceph-admin\": not found");
    secrets(&kubectl);
    kubectl.wait_ready("notes", 2);
    assert_eq!((images().len(), mapped()), (2, images()));

    // The contents outlive the pod; the group is that of the pod.
    exec(&kubectl, "notes-0", "echo first > /data/note; sync");
    assert_eq!(exec(&kubectl, "notes-0", "stat -c %g /data"), "2000\n");
    kubectl.ok(&["delete", "pod", "notes-0"]);
    kubectl.wait_ready("notes", 2);
    assert_eq!(exec(&kubectl, "notes-0", "cat /data/note"), "first\n");

    // A new agent detects the image that the killed agent mapped.
    instance.kill();
    instance.start_again();
    let kubectl = instance.kubectl();
    assert_eq!(exec(&kubectl, "notes-0", "cat /data/note"), "first\n");
    kubectl.ok(&["delete", "pod", "notes-0"]);
    kubectl.wait_ready("notes", 2);
    assert_eq!(exec(&kubectl, "notes-0", "cat /data/note"), "first\n");
    assert_eq!(mapped(), images());
    a_file_system_grows(&kubectl);

    kubectl.ok(&["delete", "statefulset", "notes"]);
    wait_until_empty("the images to be unmapped", mapped);
    kubectl.ok(&["delete", "pvc", "data-notes-0", "data-notes-1"]);
    wait_until_empty("the images to be removed", images);
    wait_until_empty("the volumes to be deleted", || {
        let left = kubectl.ok(&["get", "pv", "-o", "name"]);
        left.lines().map(str::to_owned).collect()
    });
    by_hand(&kubectl, &manifest("pv-volume.yaml"), address);
    of_the_article(&instance, &kubectl, address);
    a_device(&kubectl, &instance);
}

fn grow(kubectl: &Kubectl, claim: &str, size: &str) {
    let spec = json!({"spec": {"resources": {"requests": {"storage": size}}}});
    kubectl.ok(&["patch", "pvc", claim, "-p", &spec.to_string()]);
}

fn wait_for_capacity(kubectl: &Kubectl, claim: &str, size: &str) {
    wait_for_text(size, 600, || {
        let path = "jsonpath={.status.capacity.storage}";
        kubectl.ok(&["get", "pvc", claim, "-o", path])
    });
}

/// The claims grow: a claim in use, and a claim that its pod uses later.
fn a_file_system_grows(kubectl: &Kubectl) {
    let blocks = "df -k /data | tail -n 1 | awk '{print $2}'";
    let size = || -> u64 {
        let printed = exec(kubectl, "notes-0", blocks);
        printed.trim().parse().expect("a number of blocks")
    };
    let before = size();
    grow(kubectl, "data-notes-0", "160Mi");
    wait_for_capacity(kubectl, "data-notes-0", "160Mi");
    assert!(size() > 2 * before, "{before} and {}", size());
    assert_eq!(exec(kubectl, "notes-0", "cat /data/note"), "first\n");
    kubectl.ok(&["scale", "statefulset", "notes", "--replicas=1"]);
    wait_for("the pod to be deleted", 300, || {
        match kubectl.ok(&["get", "pods", "-o", "name"]) {
            pods if pods.contains("notes-1") => Err(pods),
            _ => Ok(()),
        }
    });
    grow(kubectl, "data-notes-1", "160Mi");
    wait_for_text("FileSystemResizePending", 300, || {
        kubectl.ok(&[
            "get",
            "pvc",
            "data-notes-1",
            "-o",
            "jsonpath={.status.conditions[*].type}",
        ])
    });
    kubectl.ok(&["scale", "statefulset", "notes", "--replicas=2"]);
    wait_for_capacity(kubectl, "data-notes-1", "160Mi");
}

/// The Secrets of the page.
fn secrets(kubectl: &Kubectl) {
    for (name, user, namespace) in [
        ("ceph-admin", "client.admin", "kube-system"),
        ("ceph-user", "client.kube", "default"),
    ] {
        let key = run(&["ceph-authtool", "-p", "-n", user, "/etc/ceph/keyring"]);
        let key = format!("--from-literal=key={}", key.trim());
        kubectl.ok(&[
            "create",
            "secret",
            "generic",
            name,
            "--type=kubernetes.io/rbd",
            &key,
            "--namespace",
            namespace,
        ]);
    }
}

/// A client of the image that is not this node's client.
struct Watcher(Child);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The volume of the articles: by keyring, with one writer, then read-only.
fn by_hand(kubectl: &Kubectl, volume: &str, address: &str) {
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "by-hand"}, "spec": {"storageClassName": "by-hand",
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}});
    kubectl.apply(volume);
    kubectl.apply(&claim.to_string());
    kubectl.apply(&pod("writer", of_claim("by-hand")));
    event(kubectl, "writer", "no such pool or image");
    // The pod would use the image before the watcher does.
    kubectl.ok(&["delete", "pod", "writer"]);
    run(&[
        "rbd",
        "create",
        "kube/foo",
        "--size",
        "64",
        "--image-feature",
        "layering",
    ]);
    let watch = Command::new("rbd")
        .args(["watch", "kube/foo"])
        // The watcher exits at the end of its input.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    let watcher = Watcher(watch.expect("start rbd"));
    wait_for_text("watcher=", 120, || run(&["rbd", "status", "kube/foo"]));
    kubectl.apply(&pod("writer", of_claim("by-hand")));
    event(kubectl, "writer", "rbd image kube/foo is still being used");
    // Each attempt maps the image for a moment.
    wait_until_empty("the image to be unmapped", mapped);
    drop(watcher);
    ready(kubectl, "writer");
    let write = "echo kept > /data/note; echo hello from Ceph > /data/index.html; sync";
    exec(kubectl, "writer", write);
    assert_eq!(mapped(), ["foo"]);
    kubectl.ok(&["delete", "pod", "writer"]);
    wait_until_empty("the image to be unmapped", mapped);

    let monitors = json!([format!("{address}:6789")]);
    let source = json!({"rbd": {"monitors": monitors, "pool": "kube", "image": "foo",
        "user": "kube", "secretRef": {"name": "ceph-user"}, "readOnly": true}});
    kubectl.apply(&pod("reader", source));
    ready(kubectl, "reader");
    let read = exec(
        kubectl,
        "reader",
        "cat /data/note; touch /data/no || echo refused",
    );
    assert_eq!(read, "kept\nrefused\n");
    kubectl.ok(&["delete", "pod", "reader"]);
    wait_until_empty("the image to be unmapped", mapped);
    // With the policy Retain the image stays.
    kubectl.ok(&["delete", "pvc", "by-hand"]);
    kubectl.ok(&["delete", "pv", "pv-volume"]);
    assert_eq!(images(), ["foo"]);
}

/// The article's claim, pod and volume, which is read-only; one of its three monitors responds. Unlike the article's,
/// this volume has access modes, and lacks the two fields that the API does not have (`articles.rs`; seeds.md M5, M6,
/// M7).
fn of_the_article(instance: &Instance, kubectl: &Kubectl, address: &str) {
    let no_default = "storageclass.kubernetes.io/is-default-class-";
    kubectl.ok(&["annotate", "storageclass", "local", no_default]);
    let shell = Shell::new(instance, example("nginx"));
    shell.ok("kubectl create -f pv-claim.yaml");
    shell.ok("kubectl create -f pv-pod.yaml");
    let volume = fs::read_to_string(example("nginx/pv-volume.yaml")).expect("read an example");
    let lines = volume
        .lines()
        .filter(|line| !line.contains("image"))
        .collect::<Vec<_>>();
    let volume = lines.join("\n").replace("10.16.154.78", address).replace(
        "  rbd:",
        "  accessModes: [ReadWriteOnce]\n  rbd:\n    image: foo",
    );
    kubectl.apply(&volume);
    ready(kubectl, "pv-pod");
    let claims = shell.ok("kubectl get pvc pv-claim");
    let row = ["pv-claim", "Bound", "pv-volume", "10Gi", "RWO"];
    assert_eq!(words(&claims)[1][..5], row, "{claims}");
    let page = shell.ok(&format!("curl -s {}", kubectl.pod_ip("pv-pod")));
    assert_eq!(page, "hello from Ceph\n");
    let touch = "touch /usr/share/nginx/html/no || echo refused";
    assert_eq!(exec(kubectl, "pv-pod", touch), "refused\n");
    shell.ok("kubectl delete -f pv-pod.yaml -f pv-claim.yaml --timeout=300s");
    wait_until_empty("the image to be unmapped", mapped);
    kubectl.ok(&["delete", "pv", "pv-volume"]);
}

/// A claim of a block device, on an instance that is stopped.
fn a_device(kubectl: &Kubectl, instance: &Instance) {
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "raw"}, "spec": {"storageClassName": "ceph", "volumeMode": "Block",
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Mi"}}}});
    kubectl.apply(&claim.to_string());
    let container = json!({"name": "c", "image": "busybox:1", "command": ["sh", "-c",
        "echo raw > /dev/raw; sync; trap 'exit 0' TERM; while true; do sleep 0.2; done"],
        "volumeDevices": [{"name": "data", "devicePath": "/dev/raw"}]});
    let mut volume = of_claim("raw");
    volume["name"] = json!("data");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "raw"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container],
            "volumes": [volume]}});
    kubectl.apply(&pod.to_string());
    ready(kubectl, "raw");
    assert_eq!(exec(kubectl, "raw", "head -c 4 /dev/raw"), "raw\n");
    grow(kubectl, "raw", "16Mi");
    wait_for_capacity(kubectl, "raw", "16Mi");
    wait_for_text("16777216", 120, || {
        exec(kubectl, "raw", "blockdev --getsize64 /dev/raw")
    });
    kubectl.ok(&["delete", "pod", "raw"]);
    wait_until_empty("the device to be unmapped", mapped);
    kubectl.ok(&["delete", "pvc", "raw"]);
    wait_until_empty("its image to be removed", || {
        images()
            .into_iter()
            .filter(|image| image != "foo")
            .collect()
    });
    let left = Path::new("/sys/bus/rbd/devices").exists();
    assert!(left && instance.data().exists());
}
