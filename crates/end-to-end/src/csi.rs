//! The CSI driver of the tests (`csi-test-driver`) with replacements for its sidecars, installed by manifests like
//! those of a chart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::applications::busybox;
use crate::cluster::is_ready;
use crate::image::{Image, Settings};
use crate::program::{ok, text as path_text};
use crate::{Instance, Kubectl, text, wait_for};

/// The name of the driver.
pub const DRIVER: &str = "disks.test.example.com";
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/images/csi-driver.yaml");

/// An instance with the driver, and the driver's state.
pub struct CsiDriver {
    /// The server.
    pub instance: Instance,
    /// The client.
    pub kubectl: Kubectl,
    /// The directory of the driver's state.
    pub state: PathBuf,
    /// Dropped after the instance.
    _directory: tempfile::TempDir,
}

impl CsiDriver {
    /// Starts the nodes, and the driver, with this limit of volumes on each node.
    ///
    /// # Panics
    ///
    /// A node or the driver does not become ready.
    #[track_caller]
    pub fn start(nodes: usize, limit: u32, flags: &[&str]) -> Self {
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

    /// Waits until the driver is registered on that number of nodes.
    ///
    /// # Panics
    ///
    /// The wait takes too long.
    #[track_caller]
    pub fn wait_registered(&self, nodes: usize) {
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

    /// Orders a failure of the driver, with a unique name.
    ///
    /// # Panics
    ///
    /// The file cannot be written.
    pub fn order(&self, name: &str, fault: &Value) {
        let file = self.state.join(format!("faults/{name}.json"));
        fs::write(&file, fault.to_string()).expect("order a failure");
    }

    /// The lines of the journal.
    pub fn journal(&self) -> Vec<Value> {
        let journal = fs::read_to_string(self.state.join("journal")).unwrap_or_default();
        let lines = journal
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.collect()
    }
}

/// The name of the node of the server, which is the shortest name, once all nodes are ready.
///
/// # Errors
///
/// Fewer nodes are ready.
pub fn first_node(kubectl: &Kubectl, nodes: usize) -> Result<String, String> {
    let list = kubectl.get(&["nodes"])?;
    let items = list["items"].as_array().into_iter().flatten();
    let ready = items.filter(|node| is_ready(node));
    let mut names: Vec<&str> = ready.map(|node| text(node, "/metadata/name")).collect();
    names.sort_by_key(|name| name.len());
    match names.len() == nodes {
        true => Ok(names[0].to_owned()),
        false => Err(format!("{names:?}")),
    }
}

/// Names in a directory.
pub fn entries(directory: &Path) -> Vec<String> {
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
    let driver = crate::csi_test_driver();
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
pub fn set(name: &str, replicas: u32, class: &str, more: Value) -> Value {
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

/// The spec of a pod that does nothing, with the volume `data`.
pub fn pod_spec() -> Value {
    json!({"terminationGracePeriodSeconds": 1, "containers": [{
        "name": "shell", "image": "mainstay/debug", "command": ["sleep", "infinity"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]})
}

/// A pod with a claim.
pub fn pod(name: &str, claim: &str) -> Value {
    let mut spec = pod_spec();
    spec["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

/// A claim of the driver's class `disks`, with additional fields.
pub fn claim(name: &str, more: Value) -> Value {
    let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "disks",
            "resources": {"requests": {"storage": "1Mi"}}}});
    merge(&mut claim, &more);
    claim
}

/// Merges the fields of an object into another object.
pub fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}
