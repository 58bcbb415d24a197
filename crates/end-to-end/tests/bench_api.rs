//! `mainstay-bench` on a running server, with few pods: it prints figures, and leaves no objects behind.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use end_to_end::{Instance, load_generator, text, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn bench(kubeconfig: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(load_generator());
    command
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(arguments)
        .stdin(Stdio::null());
    command
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().expect("run mainstay-bench");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    output
}

#[test]
fn every_request_succeeds_and_nothing_stays() {
    let instance = Instance::start(&[]);
    let report = measured(&instance, &[]);
    let memory = &report["memory"];
    assert!(memory["jsonBytes"].as_u64() > Some(1000), "{memory}");
    assert!(memory["residentAfter"].as_u64() > Some(0), "{memory}");
    let report = measured(&instance, &["--config-maps"]);
    assert_eq!(text(&report, "/kind"), "ConfigMap");
    assert!(report["memory"].is_null());

    let namespaces = instance.kubectl().ok(&["get", "namespaces", "-o", "name"]);
    assert!(!namespaces.contains("mainstay-bench"), "{namespaces}");
}

/// The report of all measurements, which must all succeed.
fn measured(instance: &Instance, more: &[&str]) -> Value {
    let kubeconfig = instance.data().join("kubeconfig");
    let pid = instance.pid().to_string();
    let arguments = [
        "--objects",
        "24",
        "--clients",
        "1,4",
        "--watchers",
        "1,8",
        "--server-pid",
        &pid,
        "-o",
        "json",
    ];
    let output = succeed(&mut bench(&kubeconfig, &[&arguments[..], more].concat()));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");

    let rows = report["requests"].as_array().expect("requests");
    let names: Vec<&str> = rows.iter().map(|row| text(row, "/operation")).collect();
    let round = [
        "create",
        "get",
        "list",
        "list in protobuf",
        "list in pages",
        "update",
        "patch",
        "apply",
        "delete",
    ];
    assert_eq!(names, [round, round].concat());
    for row in rows {
        assert_eq!(row["failures"], 0, "{row}");
        let lists = text(row, "/operation").starts_with("list");
        assert_eq!(row["requests"], if lists { 20 } else { 24 }, "{row}");
        let [median, p99] = ["medianMilliseconds", "p99Milliseconds"].map(|name| &row[name]);
        assert!(median.as_f64() > Some(0.0), "{row}");
        assert!(p99.as_f64() >= median.as_f64(), "{row}");
        assert!(row["serverMicroseconds"].is_u64(), "{row}");
    }
    let watch = report["watch"].as_array().expect("watches");
    let watchers: Vec<&Value> = watch.iter().map(|row| &row["watchers"]).collect();
    assert_eq!(watchers, [1, 8]);
    for row in watch {
        let median = row["medianWatcher"]["medianMilliseconds"].as_f64();
        let last = row["lastWatcher"]["medianMilliseconds"].as_f64();
        assert!(median > Some(0.0) && last >= median, "{row}");
        assert!(row["bytesPerWatcher"].is_u64(), "{row}");
    }
    report
}

#[test]
fn an_interrupted_run_cleans_up_too() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    let kubeconfig = instance.data().join("kubeconfig");
    let only = ["--only", "get", "--clients", "1", "--objects", "20000"];
    let mut running = bench(&kubeconfig, &only)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("run mainstay-bench");
    let ours = [
        "get",
        "pods",
        "-A",
        "--no-headers",
        "-l",
        "app.kubernetes.io/name=bench",
    ];
    let pods = wait_for("pods", 60, || {
        let remaining = kubectl.ok(&ours);
        if remaining.is_empty() {
            Err(remaining)
        } else {
            Ok(remaining)
        }
    });
    // No scheduler binds the pods.
    assert!(pods.lines().all(|pod| pod.contains("Pending")), "{pods}");
    let labelled = [
        "get",
        "ns",
        "-l",
        "app.kubernetes.io/managed-by=mainstay-bench",
    ];
    assert!(kubectl.ok(&labelled).contains("mainstay-bench-"));

    let pid = i32::try_from(running.id()).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGINT).expect("send SIGINT");
    let status = running.wait().expect("the end of mainstay-bench");
    assert_eq!(status.code(), Some(1));
    assert_eq!(kubectl.ok(&labelled), "");
}

#[test]
fn heartbeats_are_measured_and_no_node_stays() {
    let instance = Instance::start(&[]);
    let kubeconfig = instance.data().join("kubeconfig");
    let pid = instance.pid().to_string();
    let arguments = ["--nodes", "3", "--seconds", "15", "--server-pid", &pid];
    let output = succeed(bench(&kubeconfig, &arguments).args(["-o", "json"]));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let idle = &report["idleNodes"];
    assert_eq!(idle["nodes"], 3, "{idle}");
    assert!(idle["renewals"].as_u64() >= Some(3), "{idle}");
    assert!(idle["processorShare"].as_f64() >= Some(0.0), "{idle}");
    assert!(idle["residentAfter"].as_u64() > Some(0), "{idle}");
    let nodes = instance.kubectl().ok(&["get", "nodes", "-o", "name"]);
    assert!(!nodes.contains("mainstay-bench"), "{nodes}");
    wait_for("the Leases to go with their nodes", 120, || {
        let leases = ["get", "leases", "-n", "kube-node-lease", "-o", "name"];
        let left = instance.kubectl().ok(&leases);
        match left.contains("mainstay-bench") {
            true => Err(left),
            false => Ok(()),
        }
    });
}
