//! Inspection of running containers: `kubectl debug` (kubectl.md 5.8) and `kubectl top` (kubectl.md 6.1), on real
//! containers.

use end_to_end::{Kubectl, wait_for, with_images};
use serde_json::Value;

const BUSY: &str = "trap 'exit 0' TERM; while true; do :; done";

fn set(kubectl: &Kubectl) {
    kubectl.apply(&format!(
        r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: web}}
spec:
  serviceName: web
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: busybox:1
        command: [sh, -c, "{BUSY}"]
        resources: {{limits: {{cpu: 100m, memory: 64Mi}}}}
"#
    ));
    kubectl.ok(&["rollout", "status", "sts/web", "--timeout=300s"]);
}

fn ephemeral(kubectl: &Kubectl, pod: &str, name: &str) -> Value {
    let pod = kubectl.pod(pod);
    let statuses = pod["status"]["ephemeralContainerStatuses"].as_array();
    let mut statuses = statuses.into_iter().flatten();
    let status_of_name = statuses.find(|status| status["name"] == name);
    status_of_name.cloned().unwrap_or_default()
}

/// A debug container lists the processes of another container, runs once, and changes nothing else.
#[test]
fn a_running_pod_is_debugged() {
    let (_registry, mut instance) = with_images();
    let kubectl = instance.kubectl();
    set(&kubectl);
    let arguments = ["--image=busybox:1", "--target=c", "-c", "dbg", "--", "sh"];
    let output = kubectl.on_terminal(
        &[&["debug", "-it", "web-0"], &arguments[..]].concat(),
        "tr '\\0' ' ' < /proc/1/cmdline; echo pid-$((6*7)); exit 3\n",
    );
    assert!(output.stdout.contains("trap 'exit 0' TERM"), "{output:#?}");
    assert!(output.stdout.contains("pid-42"), "{output:#?}");
    let status = wait_for("the end of the shell", 60, || {
        let status = ephemeral(&kubectl, "web-0", "dbg");
        match status["state"]["terminated"]["exitCode"].as_i64() {
            Some(3) => Ok(status),
            _ => Err(status),
        }
    });
    assert_eq!(status["restartCount"], 0);
    let logs = kubectl.ok(&["logs", "web-0", "-c", "dbg"]);
    assert!(logs.contains("pid-42"), "{logs}");
    let described = kubectl.ok(&["describe", "pod", "web-0"]);
    assert!(described.contains("Ephemeral Containers:"), "{described}");
    let pod = kubectl.pod("web-0");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);

    // A debug container that continues survives a kill of the agent, and ends with its pod.
    kubectl.ok(&[
        "debug",
        "web-1",
        "--image=busybox:1",
        "--profile=sysadmin",
        "-c",
        "stays",
        "--",
        "sleep",
        "1000",
    ]);
    let running = || {
        let status = ephemeral(&kubectl, "web-1", "stays");
        match status["state"]["running"]["startedAt"].as_str() {
            Some(since) => Ok(since.to_owned()),
            None => Err(status),
        }
    };
    let since = wait_for("the second shell", 60, running);
    instance.kill();
    instance.start_again();
    let caps = [
        "exec",
        "web-1",
        "-c",
        "stays",
        "--",
        "grep",
        "CapEff",
        "/proc/self/status",
    ];
    let caps = wait_for("the second shell after the kill", 60, || {
        kubectl.run(&caps).success()
    });
    assert!(!caps.contains("a80425fb"), "{caps}");
    assert_eq!(wait_for("its status", 60, running), since);
    kubectl.ok(&["delete", "pod", "web-1", "--timeout=300s"]);
}

/// Copies of pods, and pods that inspect the node.
#[test]
fn a_copy_and_a_node_are_debugged() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    set(&kubectl);
    kubectl.ok(&[
        "debug",
        "web-0",
        "--copy-to=copy",
        "--share-processes",
        "--image=busybox:1",
        "-c",
        "dbg",
        "--",
        "sleep",
        "1000",
    ]);
    kubectl.wait_pods_ready(&["pod/copy"]);
    let processes = kubectl.ok(&["exec", "copy", "-c", "dbg", "--", "ps"]);
    assert!(processes.contains("trap 'exit 0' TERM"), "{processes}");

    let target = format!("node/{}", kubectl.node_name());
    kubectl.ok(&["debug", &target, "--image=busybox:1", "--", "sleep", "1000"]);
    let pods = kubectl.ok(&["get", "pods", "-o", "name"]);
    let debugger = pods.lines().find(|name| name.contains("node-debugger-"));
    let debugger = debugger.expect("a pod for the node");
    kubectl.wait_pods_ready(&[debugger]);
    let host = kubectl.ok(&[
        "exec",
        debugger,
        "--",
        "sh",
        "-c",
        "ls /host/proc; hostname",
    ]);
    assert!(host.contains("cmdline"), "{host}");
}

/// Rows of a table as words.
fn rows(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip(1);
    lines
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

/// The usage of nodes and pods is reported after a while.
#[test]
fn the_top_shows_who_uses_what() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    assert!(
        kubectl
            .fails(&["top", "pod", "absent"])
            .contains("not found")
    );
    set(&kubectl);
    let table = wait_for("figures of both pods", 60, || {
        let output = kubectl.run(&["top", "pod", "--containers", "-l", "app=web"]);
        match rows(&output.stdout) {
            rows if rows.len() == 2 => Ok(rows),
            _ => Err(output),
        }
    });
    for (row, pod) in table.iter().zip(["web-0", "web-1"]) {
        let [name, container, cpu, memory] = &row[..] else {
            panic!("{row:?}");
        };
        assert_eq!((name.as_str(), container.as_str()), (pod, "c"));
        let milli: u32 = cpu
            .strip_suffix('m')
            .and_then(|m| m.parse().ok())
            .unwrap_or(0);
        assert!((1..=200).contains(&milli), "{cpu}");
        assert!(memory.ends_with("Mi"), "{memory}");
    }
    let sorted = kubectl.ok(&["top", "pods", "-A", "--sort-by=memory"]);
    assert!(
        sorted.contains("default") && sorted.contains("web-1"),
        "{sorted}"
    );
    assert!(
        kubectl
            .run(&["top", "pod", "-l", "app=none"])
            .stdout
            .is_empty()
    );
    let node = wait_for("figures of the node", 60, || {
        let output = kubectl.run(&["top", "node"]);
        match rows(&output.stdout).pop() {
            Some(row) if output.code == 0 => Ok(row),
            _ => Err(output),
        }
    });
    assert_eq!(node.len(), 5, "{node:?}");
    assert!(node[2].ends_with('%') && node[4].ends_with('%'), "{node:?}");
    let listed = kubectl.ok(&["get", "pods.metrics.k8s.io"]);
    assert!(
        listed.starts_with("NAME") && listed.contains("WINDOW"),
        "{listed}"
    );
    let listed = kubectl.ok(&["api-resources", "--api-group=metrics.k8s.io"]);
    assert!(
        listed.contains("PodMetrics") && listed.contains("NodeMetrics"),
        "{listed}"
    );
    // The usage in the format of Prometheus, through the node's proxy.
    let name = kubectl.node_name();
    let path = format!("/api/v1/nodes/{name}/proxy/metrics/resource");
    let metrics = kubectl.ok(&["get", "--raw", &path]);
    assert!(
        metrics.contains("node_cpu_usage_seconds_total"),
        "{metrics}"
    );
}
