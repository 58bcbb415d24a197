//! A node whose agent restarts while its server is absent (docs/many-machines.md, docs/node-failure.md): the containers
//! continue, containers that exit are restarted, and pods that end with the node's lease do not run longer than the
//! lease.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use end_to_end::lan::{Lan, Role};
use end_to_end::{Kubectl, text, wait_for, wait_for_text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Three pods: one continues, one is killed in the meantime, and one ends with the lease of its node.
const SETS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: kept}
spec: {clusterIP: None, selector: {app: kept}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: kept}
spec:
  serviceName: kept
  replicas: 2
  selector: {matchLabels: {app: kept}}
  template:
    metadata: {labels: {app: kept}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: hello
        image: mainstay/hello
        readinessProbe: {httpGet: {path: /healthz, port: 80}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: ends
  annotations: {mainstay.dev/node-failure: Failover}
spec:
  serviceName: ends
  selector: {matchLabels: {app: ends}}
  template:
    metadata: {labels: {app: ends}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: hello, image: mainstay/hello}]
";

/// The identity of a pod's container in the API: UID, container ID, start of the container, restarts.
fn body(kubectl: &Kubectl, pod: &str) -> (String, Value, Value, u64) {
    let pod = kubectl.pod(pod);
    let status = &pod["status"]["containerStatuses"][0];
    let started = &status["state"]["running"]["startedAt"];
    (
        text(&pod, "/metadata/uid").to_owned(),
        status["containerID"].clone(),
        started.clone(),
        status["restartCount"].as_u64().unwrap_or_default(),
    )
}

/// The start time of the process, since the boot (proc_pid_stat(5), the 22nd field).
fn begun(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(") ")?.1;
    after_name.split(' ').nth(19).map(str::to_owned)
}

/// The processes of the container in a pod's sandbox.
fn processes(uid: &str) -> Vec<Pid> {
    let all = fs::read_dir("/proc").expect("read /proc");
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let of_pod = pids.filter(|pid| {
        let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        read("cmdline").contains("hello") && read("cgroup").contains(uid)
    });
    of_pod.map(Pid::from_raw).collect()
}

/// Runs a command of the image in the namespaces of a pod, without an API server.
fn as_pod(pid: Pid, line: &str) -> Output {
    let mut command = Command::new("nsenter");
    command.args(["--mount", "--net", "--target", &pid.to_string(), "--"]);
    command.args(["/bin/sh", "-c", line]);
    command.output().expect("run nsenter")
}

fn wait_for_names(names: &Path) {
    wait_for("the names to be recorded", 120, || {
        let text = fs::read_to_string(names).unwrap_or_default();
        match ["kept-0", "kept-1"].iter().all(|name| text.contains(name)) {
            true => Ok(()),
            false => Err(text),
        }
    });
}

#[test]
fn an_agent_starts_again_without_its_server() {
    let directory = tempfile::Builder::new()
        .prefix("mainstay-test-")
        .tempdir()
        .expect("make a directory");
    let mut lan = Lan::default();
    let mut role = |name| Role::new(&mut lan, name, directory.path());
    let (mut server, mut node) = (role("server"), role("n1"));
    server.start(&["server"]);
    let (url, token) = (server.url(), server.token(&[]));
    let short = ["--node-name", "n1", "--node-lease-duration", "12s"];
    node.start(&[&["node", "--server", &url, "--token", &token], &short[..]].concat());
    let kubectl = server.kubectl();
    let (survivor, killed, expiring) = server.network.run(|| {
        kubectl.apply(SETS);
        kubectl.wait_ready("kept", 2);
        kubectl.wait_ready("ends", 1);
        let of = |pod| body(&kubectl, pod);
        (of("kept-0"), of("kept-1"), of("ends-0"))
    });
    let pids = [&survivor, &killed].map(|body| {
        let all = processes(&body.0);
        assert_eq!(all.len(), 1, "{all:?}");
        all[0]
    });
    let begun_before = begun(pids[0]).expect("the process");
    let names = Path::new(&node.data()).join("node/names.json");
    wait_for_names(&names);

    server.kill();
    node.kill();
    node.spawn(&["node", "--node-lease-duration", "12s"]);
    wait_for_text("no server answers", 120, || node.output());
    kill(pids[1], Signal::SIGKILL).expect("send SIGKILL");
    wait_for("the killed container to run again", 120, || {
        let now = processes(&killed.0);
        let is_again = now.iter().any(|pid| *pid != pids[1]);
        if is_again { Ok(()) } else { Err(now) }
    });
    wait_for("the pod to end with the lease", 120, || {
        let now = processes(&expiring.0);
        if now.is_empty() { Ok(()) } else { Err(now) }
    });
    assert_eq!(processes(&survivor.0), [pids[0]]);
    // A pod resolves the names of other pods.
    wait_for("a pod to reach another one", 120, || {
        let output = as_pod(pids[0], "wget -qO- -T 5 http://kept-1.kept/healthz");
        match output.stdout.trim_ascii() == b"ok" {
            true => Ok(()),
            false => Err(output),
        }
    });
    assert_eq!(begun(pids[0]), Some(begun_before.clone()));

    server.start(&["server"]);
    wait_for_text("mainstay: ready", 120, || node.output());
    server.network.run(|| {
        wait_for("the restart to be reported", 120, || {
            let now = body(&kubectl, "kept-1");
            let is_reported = now.0 == killed.0 && now.3 == 1 && now.1 != killed.1;
            if is_reported {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            }
        });
        kubectl.wait_ready("kept", 2);
        kubectl.wait_ready("ends", 1);
        assert_eq!(body(&kubectl, "kept-0"), survivor);
        assert_eq!(body(&kubectl, "ends-0").0, expiring.0);
        // The node serves again, and executes requests.
        wait_for("the agent to serve", 120, || {
            let output = kubectl.run(&["exec", "kept-0", "--", "hostname"]);
            let is_there = output.stdout.trim() == "kept-0";
            if is_there { Ok(()) } else { Err(output) }
        });
        kubectl.ok(&["delete", "statefulset", "kept", "ends", "--timeout=240s"]);
        wait_for("the pods to end", 120, || {
            let left = kubectl.ok(&["get", "pods", "-o", "name"]);
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    });
    assert_eq!(processes(&survivor.0), []);
    assert_eq!(begun(pids[0]).filter(|now| *now == begun_before), None);
    node.interrupt();
    server.interrupt();
}
