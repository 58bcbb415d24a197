//! The start of pods with a present image: one by one and fifty at once; compared with `runc run` of the image's root
//! in the same run.
//!
//! Run the benchmark on an idle machine with `cargo xtask bench pods`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use end_to_end::applications::busybox;
use end_to_end::runc::Bundle;
use end_to_end::samples::{Sample, sized};
use end_to_end::{Api, Kubectl, text, wait_for_text, with_registry_of};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const TIMEOUT: Duration = Duration::from_secs(300);

pub(crate) fn bench() {
    let image = busybox();
    let (_registry, instance) = with_registry_of(&[("library/busybox", "1", &image)]);
    let kubectl = instance.kubectl();
    let api = Api::new(&instance);
    let bundle = Bundle::new(&image, &["/bin/true"]);
    // The first pod pulls the image.
    start_together(&api, "first", 1);
    remove_all(&kubectl);
    one_by_one(&kubectl, &api, &bundle, sized(15, 3));
    deletions(&kubectl, &api, sized(15, 3));
    at_once(&kubectl, &api, &bundle, sized(50, 5), sized(3, 1));
}

fn one_by_one(kubectl: &Kubectl, api: &Api, bundle: &Bundle, rounds: usize) {
    let [mut runs, mut pods, mut typed] = [(); 3].map(|()| Sample::new("ms"));
    for round in 0..rounds {
        runs.push_time(bundle.time_run(&round.to_string()));
        let started = start_together(api, &format!("api-{round}"), 1);
        pods.push_time(started[0]);
        typed.push_time(start_typed(kubectl, &format!("typed-{round}")));
        remove_all(kubectl);
    }
    println!("one after the other, {rounds} rounds");
    println!("  runc run of the same root, to its removal: {runs}");
    println!("  creation by the API to Running: {pods}");
    println!("    against runc: {}", pods.against(&runs));
    println!("  kubectl create to Running: {typed}");
    println!("    against runc: {}", typed.against(&runs));
}

/// The time from the request for a deletion until the pod is deleted; the process exits on SIGTERM.
fn deletions(kubectl: &Kubectl, api: &Api, rounds: usize) {
    let mut times = Sample::new("ms");
    for round in 0..rounds {
        let name = format!("exits-{round}");
        let command = [
            "sh",
            "-c",
            "trap 'exit 0' TERM; echo ready; sleep 100000 & wait",
        ];
        let mut pod = pod(&name);
        pod["spec"]["terminationGracePeriodSeconds"] = json!(30);
        pod["spec"]["containers"][0]["command"] = json!(command);
        api.create_all(PODS, &[pod]);
        wait_for_text("ready", 60, || kubectl.run(&["logs", &name]).stdout);
        let deletions = api.watch_deletions(PODS);
        let started = Instant::now();
        api.delete(&format!("{PODS}/{name}"));
        let (at, _) = deletions.recv_timeout(TIMEOUT).expect("a deleted pod");
        times.push_time(at - started);
    }
    println!("from a deletion to the end of the pod, {rounds} rounds: {times}");
}

fn at_once(kubectl: &Kubectl, api: &Api, bundle: &Bundle, count: usize, rounds: usize) {
    let [mut runs, mut last, mut median] = [(); 3].map(|()| Sample::new("ms"));
    for round in 0..rounds {
        runs.push_time(run_together(bundle, count));
        let times = start_together(api, &format!("many-{round}"), count);
        last.push_time(times.iter().max().copied().unwrap_or_default());
        median.push(Sample::of_times(times).median());
        remove_all(kubectl);
    }
    println!("{count} at once, {rounds} rounds");
    println!("  runc run, as many at a time as there are processors: {runs}");
    println!("  from the first request until all are Running: {last}");
    println!("    against runc: {}", last.against(&runs));
    println!("    until half of them are: {median}");
    let per_second = count as f64 * 1000.0 / last.median();
    println!("  pods per second: {per_second:.1}");
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "busybox:1", "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "100000"]}]}})
}

/// Creates pods at once; returns the time from the first request until each pod is Running.
fn start_together(api: &Api, prefix: &str, count: usize) -> Vec<Duration> {
    let pods: Vec<Value> = (0..count)
        .map(|number| pod(&format!("{prefix}-{number}")))
        .collect();
    let events = api.watch(PODS);
    let started = Instant::now();
    api.create_all(PODS, &pods);
    let mut running: BTreeMap<String, Duration> = BTreeMap::new();
    while running.len() < count {
        let (at, pod) = events.recv_timeout(TIMEOUT).expect("pods that run");
        let name = text(&pod, "/metadata/name");
        if name.starts_with(prefix) && pod["status"]["phase"] == "Running" {
            running.entry(name.to_owned()).or_insert(at - started);
        }
    }
    running.into_values().collect()
}

/// The time of a start by a user with `kubectl`, until another `kubectl` reports the pod as Running.
fn start_typed(kubectl: &Kubectl, name: &str) -> Duration {
    let selector = format!("metadata.name={name}");
    let phases = "jsonpath={.status.phase}{\"\\n\"}";
    let watch = ["get", "pods", "--watch-only", "--field-selector", &selector];
    let mut watch = kubectl
        .command(&[&watch[..], &["-o", phases]].concat())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the watch");
    // The watch does not report its own start.
    std::thread::sleep(Duration::from_millis(500));
    let started = Instant::now();
    kubectl.ok_with_input(&["create", "-f", "-"], &pod(name).to_string());
    let output = watch.stdout.take().expect("the output");
    let running = BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .any(|line| line == "Running");
    let elapsed = started.elapsed();
    watch.kill().expect("stop the watch");
    watch.wait().expect("reap the watch");
    assert!(running, "the watch ended before the pod ran");
    elapsed
}

fn remove_all(kubectl: &Kubectl) {
    kubectl.ok(&["delete", "pods", "--all", "--now"]);
}

/// Runs containers until they exit, on all processors.
fn run_together(bundle: &Bundle, count: usize) -> Duration {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..workers {
            scope.spawn(move || {
                for number in (worker..count).step_by(workers) {
                    bundle.time_run(&format!("many-{number}"));
                }
            });
        }
    });
    started.elapsed()
}
