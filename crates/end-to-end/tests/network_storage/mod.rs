//! Volumes on real network servers, in the virtual machine, whose kernel has their file systems and devices (`cargo
//! xtask virtual-machine-test storage`); on other kernels the event that names the missing part (docs/storage.md).

mod articles;
mod ceph;
mod nfs;
mod nfs_nodes;

use std::fs;
use std::process::{Command, Stdio};

use end_to_end::applications::busybox;
use end_to_end::{Instance, Kubectl, Registry, example, wait_for, wait_for_text, with_registry_of};
use serde_json::{Value, json};

/// The variable with the address of the servers, on a machine that is deleted after the tests, because the servers
/// write to `/etc`.
const ADDRESS: &str = "MAINSTAY_TEST_STORAGE_ADDRESS";

/// The address in the examples.
const IN_EXAMPLES: &str = "192.168.10.208";

fn server_address() -> Option<String> {
    std::env::var(ADDRESS).ok()
}

/// Whether the kernel has a module, which is loaded.
fn loads(module: &str) -> bool {
    let mut modprobe = Command::new("modprobe");
    let modprobe = modprobe.arg(module).stderr(Stdio::null());
    modprobe.status().is_ok_and(|status| status.success())
}

/// A server with only one image, because other images take minutes to build on an emulated processor.
fn with_busybox() -> (Registry, Instance) {
    with_registry_of(&[("library/busybox", "1", &busybox())])
}

/// A file of an example, with the address of the test's server.
fn manifest(directory: &str, name: &str, address: &str) -> String {
    let text = fs::read_to_string(example(directory).join(name)).expect("read an example");
    text.replace(IN_EXAMPLES, address)
}

/// Runs a command of the machine; returns its output.
#[track_caller]
fn run(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(output.status.success(), "{command:?}: {stdout}{stderr}");
    stdout
}

#[track_caller]
fn event(kubectl: &Kubectl, object: &str, text: &str) {
    let of = format!("involvedObject.name={object}");
    wait_for_text(text, 120, || {
        kubectl.ok(&["get", "events", "--field-selector", &of])
    });
}

fn pod(name: &str, volume: Value) -> String {
    let mut volume = volume;
    volume["name"] = json!("data");
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "busybox:1",
            "command": ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.2; done"],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [volume]}})
    .to_string()
}

fn of_claim(claim: &str) -> Value {
    json!({"persistentVolumeClaim": {"claimName": claim}})
}

fn exec(kubectl: &Kubectl, pod: &str, script: &str) -> String {
    kubectl.ok(&["exec", pod, "--", "sh", "-c", script])
}

#[track_caller]
fn ready(kubectl: &Kubectl, pod: &str) {
    let pod = format!("pod/{pod}");
    kubectl.ok(&["wait", "--for=condition=Ready", &pod, "--timeout=600s"]);
}

#[track_caller]
fn wait_until_empty(what: &str, mut left: impl FnMut() -> Vec<String>) {
    wait_for(what, 120, || match left() {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}
