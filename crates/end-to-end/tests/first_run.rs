//! The README's first command, and the events that its set must survive: pods are deleted, the program is stopped, the
//! program is killed.

use std::fs;
use std::path::Path;

use end_to_end::registry::curl;
use end_to_end::{Instance, Kubectl, example, text, wait_for};
use serde_json::Value;

const PODS: [&str; 3] = ["web-0", "web-1", "web-2"];

/// The page of `mainstay/hello` as JSON.
fn hello(kubectl: &Kubectl, pod: &str) -> Value {
    let url = format!("http://{}/", kubectl.pod_ip(pod));
    let page = wait_for(&format!("{pod} to respond"), 60, || {
        curl(&["--fail", "-H", "Accept: application/json", &url])
    });
    serde_json::from_str(&page).expect("hello responds with JSON")
}

fn visits(kubectl: &Kubectl) -> Vec<u64> {
    PODS.map(|pod| hello(kubectl, pod)["visits"].as_u64().expect("a number"))
        .to_vec()
}

fn each(kubectl: &Kubectl, pointer: &str, pods: &[&str]) -> Vec<String> {
    pods.iter()
        .map(|pod| text(&kubectl.pod(pod), pointer).to_owned())
        .collect()
}

fn restarts(kubectl: &Kubectl) -> Vec<Value> {
    PODS.map(|pod| kubectl.pod(pod)["status"]["containerStatuses"][0]["restartCount"].clone())
        .to_vec()
}

#[test]
fn the_example_runs_and_survives() {
    let manifest = example("web.yaml");
    let mut instance = Instance::start(&["-f", manifest.to_str().expect("a path in UTF-8")]);
    let kubectl = instance.kubectl();
    kubectl.wait_ready("web", 3);

    shows_progress_and_hints(&instance);
    each_pod_shows_who_it_is(&kubectl);
    deleted_pods_come_back(&kubectl);
    killed_and_started_again(&mut instance);
    interrupted_and_started_again(&mut instance);

    let instance_data = instance.data();
    let status = instance.interrupt();
    assert!(status.success(), "{status}: {}", instance.output());
    nothing_is_left(&instance_data);
}

/// The pods are created one after the other, and the output has commands to inspect them.
fn shows_progress_and_hints(instance: &Instance) {
    let output = wait_for("the hints", 60, || {
        let output = instance.output();
        if output.contains("curl http://") {
            Ok(output)
        } else {
            Err(output)
        }
    });
    let line_of = |start: &str| {
        output
            .lines()
            .position(|line| line.contains(start))
            .unwrap_or_else(|| {
                panic!("no line with {start:?} in:\n{output}");
            })
    };
    assert!(
        line_of("web-0: 1/1 Running") < line_of("web-1: 0/1 "),
        "{output}"
    );
    assert!(
        line_of("web-1: 1/1 Running") < line_of("web-2: 0/1 "),
        "{output}"
    );
    assert!(output.contains("kubeconfig"), "{output}");
}

/// Name, ordinal, peers by DNS, a separate counter.
fn each_pod_shows_who_it_is(kubectl: &Kubectl) {
    for (ordinal, pod) in PODS.iter().enumerate() {
        let page = wait_for("all peers in DNS", 60, || {
            let page = hello(kubectl, pod);
            let peers = page["peers"].as_array().map_or(0, Vec::len);
            if peers == 3 { Ok(page) } else { Err(page) }
        });
        assert_eq!(page["pod"], *pod);
        assert_eq!(page["ordinal"], ordinal);
        assert_eq!(page["set"], "web");
        assert_eq!(page["visitsKept"], true);
        let names: Vec<&Value> = page["peers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|peer| &peer["name"])
            .collect();
        assert_eq!(names, PODS);
    }
}

/// Names, DNS names, claims and counters do not change, but the UIDs do (statefulset.md §3.16, T3).
fn deleted_pods_come_back(kubectl: &Kubectl) {
    let before = visits(kubectl);
    let uids = each(kubectl, "/metadata/uid", &PODS);
    let claims = kubectl.ok(&["get", "pvc", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let deleted = kubectl.ok(&["delete", "pod", "-l", "app=web"]);
    assert!(
        deleted.contains("pod \"web-0\" deleted from default namespace"),
        "{deleted}"
    );
    kubectl.wait_ready("web", 3);
    let new_uids = each(kubectl, "/metadata/uid", &PODS);
    assert!(
        uids.iter().all(|uid| !new_uids.contains(uid)),
        "{uids:?} {new_uids:?}"
    );
    assert_eq!(each(kubectl, "/spec/hostname", &PODS), PODS);
    assert_eq!(
        kubectl.ok(&["get", "pvc", "-o", "jsonpath={.items[*].metadata.uid}"]),
        claims
    );
    let started = each(kubectl, "/metadata/creationTimestamp", &PODS);
    assert!(started.is_sorted(), "created in order: {started:?}");
    let after = visits(kubectl);
    assert!(
        before.iter().zip(&after).all(|(old, new)| new > old),
        "{before:?} {after:?}"
    );
}

/// After `kill -9` the containers continue; the next start adopts all of them and restarts none.
fn killed_and_started_again(instance: &mut Instance) {
    let kubectl = instance.kubectl();
    let ids = each(&kubectl, "/status/containerStatuses/0/containerID", &PODS);
    let counted = visits(&kubectl);
    let restarted = restarts(&kubectl);
    let address = kubectl.pod_ip("web-0");
    kubectl.ok(&["create", "configmap", "acknowledged", "--from-literal=a=b"]);
    instance.kill();
    let page = curl(&["--fail", &format!("http://{address}/")]).expect("the container goes on");
    assert!(page.contains("Hello from web-0"), "{page}");
    instance.start_again();
    wait_for("the manifests to be applied again", 60, || {
        let output = instance.output();
        let unchanged = ["service/web unchanged", "statefulset.apps/web unchanged"];
        let all = unchanged.iter().all(|line| output.contains(line));
        if all { Ok(()) } else { Err(output) }
    });
    let kubectl = instance.kubectl();
    kubectl.wait_ready("web", 3);
    assert_eq!(
        kubectl.ok(&["get", "cm", "acknowledged", "-o", "jsonpath={.data.a}"]),
        "b"
    );
    assert_eq!(
        each(&kubectl, "/status/containerStatuses/0/containerID", &PODS),
        ids
    );
    assert_eq!(restarts(&kubectl), restarted);
    let after = visits(&kubectl);
    assert!(
        counted.iter().zip(&after).all(|(old, new)| new > old),
        "{counted:?} {after:?}"
    );
}

/// After Ctrl-C and another start, the identities and the data have not changed.
fn interrupted_and_started_again(instance: &mut Instance) {
    let kubectl = instance.kubectl();
    let counted = visits(&kubectl);
    let claims = kubectl.ok(&["get", "pvc", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let status = instance.interrupt();
    assert!(status.success(), "{status}: {}", instance.output());
    nothing_is_left(&instance.data());
    instance.start_again();
    let kubectl = instance.kubectl();
    wait_for("the pods to run again", 60, || {
        let ready = kubectl.run(&[
            "wait",
            "--for=condition=Ready",
            "pod",
            "-l",
            "app=web",
            "--timeout=5s",
        ]);
        if ready.code == 0 {
            visits_or_error(&kubectl)
        } else {
            Err(format!("{ready:?}"))
        }
    });
    kubectl.wait_ready("web", 3);
    assert_eq!(
        kubectl.ok(&["get", "pvc", "-o", "jsonpath={.items[*].metadata.uid}"]),
        claims
    );
    let after = visits(&kubectl);
    assert!(
        counted.iter().zip(&after).all(|(old, new)| new > old),
        "{counted:?} {after:?}"
    );
}

fn visits_or_error(kubectl: &Kubectl) -> Result<(), String> {
    for pod in PODS {
        let address = kubectl.pod(pod)["status"]["podIP"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        curl(&["--fail", &format!("http://{address}/healthz")])?;
    }
    Ok(())
}

/// No mounts, no processes, no links of the instance, as docs/upgrade.md says.
fn nothing_is_left(data: &Path) {
    let data = data.to_str().expect("a path in UTF-8");
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
    let left: Vec<&str> = mounts.lines().filter(|line| line.contains(data)).collect();
    assert!(left.is_empty(), "mounts are left: {left:#?}");
    let processes: Vec<String> = fs::read_dir("/proc")
        .expect("read /proc")
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("cmdline")).ok())
        .filter(|line| line.contains(data) && line.contains("shim"))
        .collect();
    assert!(processes.is_empty(), "processes are left: {processes:#?}");
}
