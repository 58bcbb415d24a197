//! Operators, scrapers and clusters that other projects wrote for Kubernetes, as `docs/ecosystem.md` lists them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::applications::{busybox, victoria_metrics};
use end_to_end::{Instance, Kubectl, Registry, tool, wait_for, with_registry_of};
use serde_json::Value;

use crate::clients::run_client;

fn file(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ecosystem");
    directory.join(name)
}

fn python(program: &str) -> Command {
    Command::new(tool("python").join("bin").join(program))
}

/// An operator with finalizers, status, events and owned objects, which pauses for an operator of a higher priority.
#[test]
fn operators_with_kopf_follow_their_peering() {
    let instance = Instance::start(&[]);
    let kubeconfig = instance.data().join("kubeconfig");
    run_client(python("python").arg(file("operators.py")).arg(kubeconfig));
}

/// findings-2 K3.
#[test]
fn kr8s_forwards_without_a_subprotocol() {
    let instance = Instance::start(&[]);
    let kubeconfig = instance.data().join("kubeconfig");
    run_client(python("python").arg(file("forward.py")).arg(kubeconfig));
}

/// The collection `kubernetes.core`; findings-2 K1: a copied file is complete.
#[test]
fn a_playbook_with_the_collection_of_ansible() {
    let (_registry, instance) = with_registry_of(&[("library/busybox", "1", &busybox())]);
    let folder = tempfile::tempdir().expect("make a directory");
    let variable = |name: &str, path: &Path| format!("{name}={}", path.display());
    let variables = [
        variable("kubeconfig", &instance.data().join("kubeconfig")),
        variable("folder", folder.path()),
        variable(
            "ansible_python_interpreter",
            &tool("python").join("bin/python"),
        ),
    ];
    let mut playbook = python("ansible-playbook");
    playbook
        .env("ANSIBLE_COLLECTIONS_PATH", tool("ansible-collections"))
        .env("ANSIBLE_HOME", folder.path())
        .env("ANSIBLE_LOCALHOST_WARNING", "false")
        .args(["--inventory", "localhost,"])
        .args(
            variables
                .iter()
                .flat_map(|variable| ["--extra-vars", variable]),
        )
        .arg(file("garden.yml"));
    run_client(&mut playbook);
}

/// The output of a command in a container, or its error.
fn exec(kubectl: &Kubectl, pod: &str, command: &[&str]) -> Result<String, String> {
    let output = kubectl.run(&[&["exec", pod, "--"], command].concat());
    let printed = output.success().map(|text| text.trim_end().to_owned());
    printed.map_err(|output| output.stderr)
}

/// Service discovery by nodes, pods, Services, Endpoints, EndpointSlices and Ingresses.
#[test]
fn a_scraper_discovers_every_role() {
    let registry = Registry::start();
    registry.push("library/victoria-metrics", "1", &victoria_metrics());
    let mirrors = registry.mirrors(&["docker.io"]);
    // The scraper reads the port of the kubelet's API from the Node; other tests use the usual port.
    let instance = Instance::start_prepared(&["--kubelet-port=0"], |data| {
        fs::write(data.join("registries.yaml"), mirrors).expect("write");
    });
    let kubectl = instance.kubectl();
    kubectl.apply(include_str!("scraper.yaml"));
    kubectl.wait_ready("scraper", 1);
    let expected = "apiserver cadvisor endpoints endpointslice ingress node pod service".split(' ');
    let expected: Vec<&str> = expected.collect();
    let read = [
        "wget",
        "-q",
        "-O",
        "-",
        "http://127.0.0.1:8428/api/v1/targets",
    ];
    wait_for("a scraped target of each role", 120, || {
        let text = exec(&kubectl, "scraper-0", &read)?;
        let targets: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let targets = targets["data"]["activeTargets"].as_array();
        let healthy = targets
            .into_iter()
            .flatten()
            .filter(|one| one["health"] == "up");
        let jobs: Vec<&str> = healthy
            .filter_map(|one| one["labels"]["job"].as_str())
            .collect();
        match expected.iter().all(|job| jobs.contains(job)) {
            true => Ok(()),
            false => Err(text),
        }
    });
}
