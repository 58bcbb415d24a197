//! A CSI driver with its sidecars, installed by manifests as a chart has them, and used through sets
//! (docs/storage.md). The driver and the stand-ins for the sidecars are the project's own (`csi-test-driver`).

mod kills;
mod loss;
mod sets;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::applications::busybox;
use end_to_end::image::{Image, Settings};
use end_to_end::program::{ok, text as path_text};
use end_to_end::{Instance, Kubectl, text, wait_for};
use serde_json::{Value, json};

const DRIVER: &str = "disks.test.example.com";
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/csi/driver.yaml");

/// An instance with the driver, and the driver's state.
struct World {
    instance: Instance,
    kubectl: Kubectl,
    state: PathBuf,
    /// It goes after the instance.
    _directory: tempfile::TempDir,
}

impl World {
    /// Starts the nodes, and the driver, which takes so many volumes on each.
    fn start(nodes: usize, limit: u32, flags: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("mainstay-csi-").tempdir();
        let directory = directory.expect("make a directory");
        let image = directory.path().join("image.tar");
        driver_image().write_archive(&image, "docker.io/library/csi-test-driver:1");
        let count = nodes.to_string();
        let of_nodes: &[&str] = if nodes > 1 { &["--nodes", &count] } else { &[] };
        let instance = Instance::start(&[of_nodes, flags].concat());
        let data = instance.data();
        let further = (2..=nodes).map(|number| data.join("nodes").join(number.to_string()));
        for data in std::iter::once(data.clone()).chain(further) {
            let data = path_text(&data);
            ok(&["image", "--data-dir", data, "import", path_text(&image)]);
        }
        let kubectl = instance.kubectl();
        let state = directory.path().join("state");
        let first = wait_for("the nodes", 60, || first_node(&kubectl, nodes));
        let manifests = fs::read_to_string(MANIFESTS).expect("read the manifests");
        let manifests = manifests
            .replace("NODE}", &format!("{first}}}"))
            .replace("STATE", path_text(&state))
            .replace("LIMIT", &limit.to_string());
        kubectl.ok_with_input(&["apply", "-n", "csi", "-f", "-"], &manifests);
        let world = Self {
            instance,
            kubectl,
            state,
            _directory: directory,
        };
        world.wait_registered(nodes);
        world
    }

    /// Waits until the driver is known on that many nodes.
    #[track_caller]
    fn wait_registered(&self, nodes: usize) {
        wait_for("the driver on each node", 120, || {
            let list = self.kubectl.get(&["csinodes"])?;
            let items = list["items"].as_array().into_iter().flatten();
            let with_driver =
                items.filter(|node| node["spec"]["drivers"].to_string().contains(DRIVER));
            match with_driver.count() == nodes {
                true => Ok(()),
                false => Err(format!(
                    "{list} {}",
                    self.kubectl.run(&["get", "pods", "-A"]).stdout
                )),
            }
        });
    }

    /// Orders a failure of the driver.
    fn order(&self, fault: &Value) {
        let file = self.state.join("faults/order.json");
        fs::write(&file, fault.to_string()).expect("order a failure");
    }

    /// The lines of the journal.
    fn journal(&self) -> Vec<Value> {
        let journal = fs::read_to_string(self.state.join("journal")).unwrap_or_default();
        let lines = journal
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.collect()
    }

    /// No volume was attached to two nodes, or mounted twice at one place, at any instant.
    #[track_caller]
    fn check_journal(&self) -> Uses {
        let mut uses = Uses::default();
        for line in self.journal() {
            uses.take(&line);
        }
        uses
    }

    /// Waits until the driver has no volumes, and checks that nothing is left of them.
    #[track_caller]
    fn wait_gone(&self) {
        let volumes = || {
            let left = entries(&self.state.join("volumes"));
            if left.is_empty() { Ok(()) } else { Err(left) }
        };
        let tell = || {
            let all = ["get", "pods,pvc,pv,volumeattachments,events", "-A"];
            self.kubectl.run(&all).stdout
        };
        end_to_end::wait_for_or_tell("the volumes to go", 120, volumes, tell);
        for kind in ["uses", "data", "snapshots"] {
            assert_eq!(entries(&self.state.join(kind)), [""; 0], "{kind}");
        }
        let uses = self.check_journal();
        assert!(
            uses.attached.is_empty() && uses.mounted.is_empty(),
            "{uses:?}"
        );
        let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
        let state = path_text(&self.state);
        assert!(!mounts.contains(state), "{mounts}");
    }
}

/// The uses of volumes, from the journal.
#[derive(Debug, Default)]
struct Uses {
    /// The node of each attached volume.
    attached: BTreeMap<String, String>,
    /// The volume at each path of a node.
    mounted: BTreeMap<(String, String), String>,
}

impl Uses {
    #[track_caller]
    fn take(&mut self, line: &Value) {
        let at = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        let (volume, node, place) = (at("volume"), at("node"), at("at"));
        match line["event"].as_str() {
            Some("attached") => {
                let before = self.attached.insert(volume.clone(), node.clone());
                let is_same = before.as_ref().is_none_or(|before| *before == node);
                assert!(is_same, "{volume} is attached to {before:?} and {node}");
            }
            Some("detached") => drop(self.attached.remove(&volume)),
            Some("mounted") => {
                let before = self
                    .mounted
                    .insert((node.clone(), place.clone()), volume.clone());
                assert_eq!(
                    before, None,
                    "{volume} is mounted again at {place} of {node}"
                );
            }
            Some("unmounted") => drop(self.mounted.remove(&(node, place))),
            _ => {}
        }
    }
}

/// The name of the node of the server, which is the shortest, once all nodes are ready.
fn first_node(kubectl: &Kubectl, nodes: usize) -> Result<String, String> {
    let list = kubectl.get(&["nodes"])?;
    let items = list["items"].as_array().into_iter().flatten();
    let ready = items.filter(|node| end_to_end::cluster::is_ready(node));
    let mut names: Vec<&str> = ready.map(|node| text(node, "/metadata/name")).collect();
    names.sort_by_key(|name| name.len());
    match names.len() == nodes {
        true => Ok(names[0].to_owned()),
        false => Err(format!("{names:?}")),
    }
}

/// Names in a directory.
fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// busybox, and the driver and losetup with their libraries.
fn driver_image() -> Image {
    let root = tempfile::tempdir().expect("a directory");
    busybox().unpack(root.path());
    let driver = end_to_end::csi_test_driver();
    copy_into(root.path(), &driver, "usr/local/bin/csi-test-driver");
    let losetup = Path::new("/sbin/losetup");
    copy_into(root.path(), losetup, "usr/local/sbin/losetup");
    for program in [&driver, losetup] {
        let listed = Command::new("ldd").arg(program).output().expect("run ldd");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        for file in listed
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            copy_into(root.path(), Path::new(file), file.trim_start_matches('/'));
        }
    }
    let settings = Settings {
        entrypoint: &["/usr/local/bin/csi-test-driver"],
        ..Settings::default()
    };
    Image::of_directory(root.path(), &settings)
}

fn copy_into(root: &Path, file: &Path, inside: &str) {
    let inside = root.join(inside);
    fs::create_dir_all(inside.parent().expect("a parent")).expect("make a directory");
    fs::copy(file, inside).expect("copy a file of the machine");
}

/// A set whose pods have a claim `data` of a class.
fn set(name: &str, replicas: u32, class: &str, more: Value) -> Value {
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {
            "serviceName": name, "replicas": replicas, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec()},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": class,
                "resources": {"requests": {"storage": "1Mi"}}}}]}});
    merge(&mut set, &more);
    set
}

/// A pod that does nothing, with the volume `data`.
fn pod_spec() -> Value {
    json!({"terminationGracePeriodSeconds": 1, "containers": [{
        "name": "shell", "image": "mainstay/debug", "command": ["sleep", "infinity"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]})
}

/// A pod with a claim.
fn pod(name: &str, claim: &str) -> Value {
    let mut spec = pod_spec();
    spec["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

fn claim(name: &str, more: Value) -> Value {
    let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "disks",
            "resources": {"requests": {"storage": "1Mi"}}}});
    merge(&mut claim, &more);
    claim
}

/// Puts the fields of an object into another.
fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}
