//! `RestartAllContainers`: a container's exit restarts all containers of its pod (KEP-5532).

use crate::harness::Harness;
use json_tree::{Value, json};
use pod_lifecycle::LifecycleAction;

/// A pod with the policy `Never` that restarts all its containers when a container exits with code 42.
fn pod(containers: Value) -> Value {
    let mut pod = json!({"restartPolicy": "Never", "initContainers": [
        {"name": "first", "image": "x"},
        {"name": "side", "image": "x", "restartPolicy": "Always"}]});
    pod["containers"] = containers;
    pod
}

fn asking(name: &str) -> Value {
    json!({"name": name, "image": "x", "restartPolicy": "Never", "restartPolicyRules": [
        {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]})
}

fn started(mut harness: Harness) -> Harness {
    harness.pass(0);
    harness.exit("first", 0);
    harness.pass(0);
    harness.log.clear();
    harness
}

#[test]
fn all_containers_end_at_once_and_begin_as_in_a_new_pod() {
    // statefulset.md 12.4
    let hooked = json!({"name": "b", "image": "x",
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}});
    let mut harness = started(Harness::new(pod(json!([asking("a"), hooked]))));
    let ip = harness.status.pod_ip.clone();
    harness.exit("a", 42);
    // The status has the condition before any container has exited.
    let plan = harness.plan();
    assert_eq!(plan.status.phase.as_deref(), Some("Running"));
    harness.pass(0);
    assert_eq!(
        harness.lines(),
        [
            "0 exit a 42",
            "0 restart all for a",
            "0 Stopping container side",
            "0 Stopping container b",
            "0 KILL side",
            "0 exit side 137",
            "0 KILL b",
            "0 exit b 137",
            "0 start first",
        ]
    );
    assert_eq!(harness.status.phase.as_deref(), Some("Pending"));
    assert_eq!(harness.status.pod_ip, ip);
    assert_eq!(
        harness.condition("AllContainersRestarting"),
        "False ContainerExited Container a exited with code 42, triggering pod restart"
    );
    assert_eq!(harness.condition("Initialized"), "True");
    assert!(
        harness
            .condition("Ready")
            .starts_with("False ContainersNotReady")
    );
    assert_eq!(harness.state("first"), "running, ready false, restarts 1");
    harness.log.clear();
    harness.exit("first", 0);
    harness.pass(0);
    assert_eq!(
        harness.lines(),
        ["0 exit first 0", "0 start side", "0 start a", "0 start b"]
    );
    assert_eq!(harness.status.phase.as_deref(), Some("Running"));
    for container in ["side", "a", "b"] {
        assert_eq!(harness.state(container), "running, ready true, restarts 1");
    }
    // From now on, the pod behaves like a new pod.
    harness.exit("b", 0);
    harness.exit("a", 1);
    harness.pass(0);
    assert_eq!(harness.status.phase.as_deref(), Some("Failed"));
}

#[test]
fn while_they_end_the_pod_says_so_and_a_new_agent_goes_on() {
    // statefulset.md 12.4
    let mut harness = started(Harness::new(pod(json!([asking("a"), asking("b")]))));
    harness.exit("a", 42);
    let [LifecycleAction::RestartAll(restart)] = &harness.plan().actions[..] else {
        panic!("{:?}", harness.plan().actions)
    };
    harness.record.restart_all = Some(restart.clone());
    let plan = harness.plan();
    assert_eq!(plan.status.phase.as_deref(), Some("Pending"));
    let lines = plan.status.conditions.unwrap();
    let lines = lines.iter().find(|c| c.type_ == "AllContainersRestarting");
    assert_eq!(lines.unwrap().status, "True");
    harness.record = harness.record.clone().without_work_in_flight();
    harness.pass(0);
    assert_eq!(harness.lines().last().unwrap(), "0 start first");
}

#[test]
fn who_has_ended_for_good_runs_again_and_may_fail_the_pod() {
    // statefulset.md 12.4
    let done = json!({"name": "done", "image": "x"});
    let mut harness = started(Harness::new(pod(json!([done, asking("a")]))));
    harness.exit("done", 0);
    harness.pass(0);
    assert_eq!(harness.status.phase.as_deref(), Some("Running"));
    harness.exit("a", 42);
    harness.pass(0);
    harness.exit("first", 1);
    harness.pass(0);
    assert_eq!(harness.status.phase.as_deref(), Some("Failed"));
    let mut harness = started(Harness::new(pod(json!([
        json!({"name": "done", "image": "x"}),
        asking("a")
    ]))));
    harness.exit("done", 0);
    harness.exit("a", 42);
    harness.pass(0);
    harness.exit("first", 0);
    harness.pass(0);
    assert_eq!(harness.state("done"), "running, ready true, restarts 1");
}

#[test]
fn who_asks_again_and_again_is_delayed() {
    // statefulset.md 12.4
    let mut harness = Harness::new(json!({"restartPolicy": "Never", "containers": [asking("a")]}));
    harness.pass(0);
    harness.exit("a", 42);
    harness.pass(0);
    harness.exit("a", 42);
    harness.pass(0);
    assert_eq!(
        harness.state("a"),
        "waiting CrashLoopBackOff, ready false, restarts 1"
    );
    assert_eq!(harness.status.phase.as_deref(), Some("Running"));
    harness.pass(10);
    assert_eq!(harness.state("a"), "running, ready true, restarts 2");
}

#[test]
fn sidecars_and_init_containers_may_ask_too() {
    // statefulset.md 12.4
    let rules = asking("x")["restartPolicyRules"].clone();
    let mut spec = pod(json!([{"name": "a", "image": "x"}]));
    for index in 0..2 {
        spec["initContainers"][index]["restartPolicyRules"] = rules.clone();
    }
    let mut harness = Harness::new(spec);
    harness.pass(0);
    harness.exit("first", 42);
    harness.pass(0);
    assert_eq!(harness.state("first"), "running, ready false, restarts 1");
    harness.exit("first", 0);
    harness.pass(0);
    harness.exit("side", 42);
    harness.pass(0);
    assert_eq!(
        harness.state("a"),
        "waiting PodInitializing, ready false, restarts 0"
    );
    // Other exits restart only the sidecar.
    harness.pass(20);
    harness.exit("first", 0);
    harness.pass(20);
    harness.exit("side", 1);
    harness.pass(60);
    assert_eq!(harness.state("a"), "running, ready true, restarts 1");
}
