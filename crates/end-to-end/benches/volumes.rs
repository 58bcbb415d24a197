//! The cost of a volume of each class for a database, compared with the plain disk: `mainstay bench disk` in pods, and
//! in the data directory.
//!
//! Run the benchmark on an idle machine with `cargo xtask bench volumes`.

use std::process::Command;

use end_to_end::samples::{Sample, sized};
use end_to_end::{Instance, Kubectl, binary};
use serde_json::{Value, json};

const FIGURES: [&str; 5] = [
    "durableMedianMs",
    "durable99Ms",
    "sequentialMiBPerSecond",
    "randomPerSecond",
    "randomDurablePerSecond",
];

pub(crate) fn bench() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    let volume_kinds = ["local", "local-cow", "empty-dir"];
    for volume_kind in volume_kinds {
        start(&kubectl, volume_kind);
    }
    let mut samples: Vec<(&str, Vec<Value>)> = vec![("bare disk", Vec::new())];
    samples.extend(volume_kinds.map(|volume_kind| (volume_kind, Vec::new())));
    // The measurements alternate in rounds, so that other work of the machine affects all of them.
    let rounds = sized(5, 1);
    for _ in 0..rounds {
        for (volume_kind, figures) in &mut samples {
            figures.push(match *volume_kind {
                "bare disk" => on_host(&instance),
                volume_kind => in_pod(&kubectl, volume_kind),
            });
        }
    }
    println!("median of {rounds} rounds (from to)");
    for (volume_kind, figures) in &samples {
        let cells = FIGURES.map(|figure| cell(figures, figure));
        println!("{volume_kind}: {}", cells.join("; "));
    }
}

fn start(kubectl: &Kubectl, volume_kind: &str) {
    let mut volume = json!({"name": "data", "emptyDir": {}});
    if volume_kind != "empty-dir" {
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": volume_kind}, "spec": {"storageClassName": volume_kind,
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}});
        kubectl.apply(&claim.to_string());
        volume = json!({"name": "data", "persistentVolumeClaim": {"claimName": volume_kind}});
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": volume_kind}, "spec": {
        "volumes": [volume],
        "containers": [{"name": "c", "image": "mainstay/hello",
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}});
    kubectl.apply(&pod.to_string());
    kubectl.wait_pods_ready(&[&format!("pod/{volume_kind}")]);
}

/// The arguments for one round.
fn arguments() -> [&'static str; 6] {
    let [pages, size] = sized(["1000", "128"], ["20", "4"]);
    ["--pages", pages, "--size", size, "-o", "json"]
}

fn in_pod(kubectl: &Kubectl, pod: &str) -> Value {
    let mut line = vec!["exec", pod, "--", "/mainstay", "bench", "disk", "/data"];
    line.extend(arguments());
    parsed(&kubectl.ok(&line))
}

fn on_host(instance: &Instance) -> Value {
    let done = Command::new(binary())
        .args(["bench", "disk"])
        .arg(instance.data())
        .args(arguments())
        .output()
        .expect("run mainstay bench disk");
    assert!(done.status.success(), "{done:?}");
    parsed(&String::from_utf8_lossy(&done.stdout))
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text.trim()).expect("figures as JSON")
}

fn cell(figures: &[Value], name: &str) -> String {
    let mut sample = Sample::new("");
    for round in figures {
        sample.push(round[name].as_f64().expect("a figure"));
    }
    format!("{name} {sample}")
}
