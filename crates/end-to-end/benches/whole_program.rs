//! Speed and size of the whole program: from process start to `ready`, memory with three pods,
//! from `kubectl create` of a pod to Running against `runc run` of the same root.
//!
//! Prints medians; run it on an idle machine with `cargo xtask bench startup`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use end_to_end::applications::busybox;
use end_to_end::{Instance, Kubectl, Registry, binary, example};

const RUNS: usize = 7;

fn main() {
    start_to_ready();
    memory_with_three_pods();
    pod_against_runc();
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn report(what: &str, times: &[Duration]) {
    let (least, most) = (times.iter().min(), times.iter().max());
    if let (Some(least), Some(most)) = (least, most) {
        println!(
            "{what}: median {:.0?}, from {least:.0?} to {most:.0?}",
            median(times.to_vec())
        );
    }
}

/// The first start on an empty data directory, and later starts on a used one.
fn start_to_ready() {
    let mut first = Vec::new();
    let mut later = Vec::new();
    for _ in 0..RUNS {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        first.push(time_to_ready(&data));
        later.push(time_to_ready(&data));
    }
    report("process start to ready, empty data directory", &first);
    report("process start to ready, used data directory", &later);
}

fn time_to_ready(data: &Path) -> Duration {
    let started = Instant::now();
    let mut child = Command::new(binary())
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start mainstay");
    let output = child.stdout.take().expect("the output");
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let ready = lines.any(|line| line.starts_with("mainstay: ready"));
    let elapsed = started.elapsed();
    assert!(ready, "the server ended before it was ready");
    interrupt(&mut child);
    // The output must be read to its end, or the server could not write its last words.
    lines.for_each(drop);
    child.wait().expect("reap the server");
    elapsed
}

fn interrupt(child: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("send SIGINT");
}

/// Resident memory of the server, and what each shim has for itself.
fn memory_with_three_pods() {
    let manifest = example("web.yaml");
    let instance = Instance::start(&["-f", manifest.to_str().expect("a path in UTF-8")]);
    instance.kubectl().wait_ready("web", 3);
    std::thread::sleep(Duration::from_secs(5));
    let main = figure(instance.pid(), "status", "VmRSS:");
    println!(
        "resident memory of the server with three pods: {:.1} MiB",
        mib(main)
    );
    for pid in shims(&instance.data()) {
        let own = figure(pid, "smaps_rollup", "Private_Dirty:")
            + figure(pid, "smaps_rollup", "Private_Clean:");
        let shared = figure(pid, "smaps_rollup", "Pss:");
        println!(
            "shim: {:.1} MiB of its own, {:.1} MiB proportional",
            mib(own),
            mib(shared)
        );
    }
}

fn mib(kib: u64) -> f64 {
    // Far below 2^52, so nothing is lost.
    kib as f64 / 1024.0
}

fn figure(pid: i32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).expect("a running process");
    let line = text
        .lines()
        .find(|line| line.starts_with(name))
        .expect("the figure");
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

fn shims(data: &Path) -> Vec<i32> {
    let data = data.to_string_lossy().into_owned();
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .expect("read /proc")
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
            let words: Vec<&str> = line.split('\0').collect();
            (words.get(1) == Some(&"shim") && line.contains(&data)).then_some(pid)
        })
        .collect();
    pids.sort_unstable();
    pids
}

/// A pod of an image that is present, against `runc run` of the same root file system.
fn pod_against_runc() {
    let registry = Registry::start();
    registry.push("library/busybox", "1", &busybox());
    let instance = Instance::start_prepared(&[], |data| {
        fs::write(data.join("registries.yaml"), registry.registries_yaml()).expect("write");
    });
    let kubectl = instance.kubectl();
    time_pod(&kubectl, 0);
    let bundle = bundle();
    let mut pods = Vec::new();
    let mut runs = Vec::new();
    for round in 1..=RUNS {
        runs.push(time_runc(bundle.path(), round));
        pods.push(time_pod(&kubectl, round));
    }
    report("kubectl create of a pod to Running", &pods);
    report("runc run of the same root", &runs);
    let ratio = median(pods).as_secs_f64() / median(runs).as_secs_f64();
    println!("ratio of the medians: {ratio:.1}");
}

fn time_pod(kubectl: &Kubectl, round: usize) -> Duration {
    let name = format!("bench-{round}");
    let selector = format!("metadata.name={name}");
    let phases = "jsonpath={.status.phase}{\"\\n\"}";
    let mut watch = kubectl
        .command(&[
            "get",
            "pods",
            "--watch-only",
            "--field-selector",
            &selector,
            "-o",
            phases,
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the watch");
    std::thread::sleep(Duration::from_millis(500));
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: 'busybox:1', \
         imagePullPolicy: IfNotPresent, command: [sleep, '1000']}}]\n"
    );
    let started = Instant::now();
    kubectl.ok_with_input(&["create", "-f", "-"], &manifest);
    let output = watch.stdout.take().expect("the output");
    let running = BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .any(|line| line == "Running");
    let elapsed = started.elapsed();
    assert!(running, "the watch ended before the pod ran");
    watch.kill().expect("stop the watch");
    watch.wait().expect("reap the watch");
    kubectl.ok(&["delete", "pod", &name, "--now"]);
    elapsed
}

/// A bundle for runc: the same root, and runc's own default settings.
fn bundle() -> tempfile::TempDir {
    let bundle = tempfile::tempdir().expect("a directory");
    let root = bundle.path().join("rootfs");
    fs::create_dir(&root).expect("make the root");
    busybox().unpack(&root);
    let made = Command::new("runc")
        .args(["spec", "--bundle"])
        .arg(bundle.path())
        .status();
    assert!(made.is_ok_and(|status| status.success()), "runc spec");
    let file = bundle.path().join("config.json");
    let text = fs::read_to_string(&file).expect("read config.json");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    config["process"]["args"] = serde_json::json!(["/bin/true"]);
    config["process"]["terminal"] = serde_json::json!(false);
    fs::write(&file, config.to_string()).expect("write config.json");
    bundle
}

fn time_runc(bundle: &Path, round: usize) -> Duration {
    let id = format!("mainstay-bench-{}-{round}", std::process::id());
    let started = Instant::now();
    let output = Command::new("runc")
        .args(["run", "--bundle"])
        .arg(bundle)
        .arg(&id)
        .stdin(Stdio::null())
        .output()
        .expect("start runc");
    let elapsed = started.elapsed();
    assert!(output.status.success(), "{output:?}");
    elapsed
}
