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
    let places = ["local", "local-cow", "empty-dir"];
    for place in places {
        start(&kubectl, place);
    }
    let mut seen: Vec<(&str, Vec<Value>)> = vec![("bare disk", Vec::new())];
    seen.extend(places.map(|place| (place, Vec::new())));
    // The measurements alternate in rounds, so that other work of the machine affects all of them.
    let rounds = sized(5, 1);
    for _ in 0..rounds {
        for (place, figures) in &mut seen {
            figures.push(match *place {
                "bare disk" => on_host(&instance),
                place => in_pod(&kubectl, place),
            });
        }
    }
    println!("median of {rounds} rounds (from to)");
    for (place, figures) in &seen {
        let cells = FIGURES.map(|figure| shown(figures, figure));
        println!("{place}: {}", cells.join("; "));
    }
}

fn start(kubectl: &Kubectl, place: &str) {
    let mut volume = json!({"name": "data", "emptyDir": {}});
    if place != "empty-dir" {
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": place}, "spec": {"storageClassName": place,
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}});
        kubectl.apply(&claim.to_string());
        volume = json!({"name": "data", "persistentVolumeClaim": {"claimName": place}});
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": place}, "spec": {
        "volumes": [volume],
        "containers": [{"name": "c", "image": "mainstay/hello",
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}});
    kubectl.apply(&pod.to_string());
    kubectl.wait_pods_ready(&[&format!("pod/{place}")]);
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

fn shown(figures: &[Value], name: &str) -> String {
    let mut sample = Sample::new("");
    for round in figures {
        sample.push(round[name].as_f64().expect("a figure"));
    }
    format!("{name} {sample}")
}
