//! `RestartAllContainers`: a container's exit restarts all containers of its pod (KEP-5532).

use crate::world::World;
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

fn started(mut world: World) -> World {
    world.pass(0);
    world.exit("first", 0);
    world.pass(0);
    world.log.clear();
    world
}

#[test]
fn all_containers_end_at_once_and_begin_as_in_a_new_pod() {
    // statefulset.md 12.4
    let hooked = json!({"name": "b", "image": "x",
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}});
    let mut world = started(World::new(pod(json!([asking("a"), hooked]))));
    let ip = world.status.pod_ip.clone();
    world.exit("a", 42);
    // The status has the condition before any container has exited.
    let plan = world.plan();
    assert_eq!(plan.status.phase.as_deref(), Some("Running"));
    world.pass(0);
    assert_eq!(
        world.lines(),
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
    assert_eq!(world.status.phase.as_deref(), Some("Pending"));
    assert_eq!(world.status.pod_ip, ip);
    assert_eq!(
        world.condition("AllContainersRestarting"),
        "False ContainerExited Container a exited with code 42, triggering pod restart"
    );
    assert_eq!(world.condition("Initialized"), "True");
    assert!(
        world
            .condition("Ready")
            .starts_with("False ContainersNotReady")
    );
    assert_eq!(world.state("first"), "running, ready false, restarts 1");
    world.log.clear();
    world.exit("first", 0);
    world.pass(0);
    assert_eq!(
        world.lines(),
        ["0 exit first 0", "0 start side", "0 start a", "0 start b"]
    );
    assert_eq!(world.status.phase.as_deref(), Some("Running"));
    for container in ["side", "a", "b"] {
        assert_eq!(world.state(container), "running, ready true, restarts 1");
    }
    // From now on, the pod behaves like a new pod.
    world.exit("b", 0);
    world.exit("a", 1);
    world.pass(0);
    assert_eq!(world.status.phase.as_deref(), Some("Failed"));
}

#[test]
fn while_they_end_the_pod_says_so_and_a_new_agent_goes_on() {
    // statefulset.md 12.4
    let mut world = started(World::new(pod(json!([asking("a"), asking("b")]))));
    world.exit("a", 42);
    let [LifecycleAction::RestartAll(restart)] = &world.plan().actions[..] else {
        panic!("{:?}", world.plan().actions)
    };
    world.record.restart_all = Some(restart.clone());
    let plan = world.plan();
    assert_eq!(plan.status.phase.as_deref(), Some("Pending"));
    let lines = plan.status.conditions.unwrap();
    let lines = lines.iter().find(|c| c.type_ == "AllContainersRestarting");
    assert_eq!(lines.unwrap().status, "True");
    world.record = world.record.clone().without_work_in_flight();
    world.pass(0);
    assert_eq!(world.lines().last().unwrap(), "0 start first");
}

#[test]
fn who_has_ended_for_good_runs_again_and_may_fail_the_pod() {
    // statefulset.md 12.4
    let done = json!({"name": "done", "image": "x"});
    let mut world = started(World::new(pod(json!([done, asking("a")]))));
    world.exit("done", 0);
    world.pass(0);
    assert_eq!(world.status.phase.as_deref(), Some("Running"));
    world.exit("a", 42);
    world.pass(0);
    world.exit("first", 1);
    world.pass(0);
    assert_eq!(world.status.phase.as_deref(), Some("Failed"));
    let mut world = started(World::new(pod(json!([
        json!({"name": "done", "image": "x"}),
        asking("a")
    ]))));
    world.exit("done", 0);
    world.exit("a", 42);
    world.pass(0);
    world.exit("first", 0);
    world.pass(0);
    assert_eq!(world.state("done"), "running, ready true, restarts 1");
}

#[test]
fn who_asks_again_and_again_is_delayed() {
    // statefulset.md 12.4
    let mut world = World::new(json!({"restartPolicy": "Never", "containers": [asking("a")]}));
    world.pass(0);
    world.exit("a", 42);
    world.pass(0);
    world.exit("a", 42);
    world.pass(0);
    assert_eq!(
        world.state("a"),
        "waiting CrashLoopBackOff, ready false, restarts 1"
    );
    assert_eq!(world.status.phase.as_deref(), Some("Running"));
    world.pass(10);
    assert_eq!(world.state("a"), "running, ready true, restarts 2");
}

#[test]
fn sidecars_and_init_containers_may_ask_too() {
    // statefulset.md 12.4
    let rules = asking("x")["restartPolicyRules"].clone();
    let mut spec = pod(json!([{"name": "a", "image": "x"}]));
    for index in 0..2 {
        spec["initContainers"][index]["restartPolicyRules"] = rules.clone();
    }
    let mut world = World::new(spec);
    world.pass(0);
    world.exit("first", 42);
    world.pass(0);
    assert_eq!(world.state("first"), "running, ready false, restarts 1");
    world.exit("first", 0);
    world.pass(0);
    world.exit("side", 42);
    world.pass(0);
    assert_eq!(
        world.state("a"),
        "waiting PodInitializing, ready false, restarts 0"
    );
    // Other exits restart only the sidecar.
    world.pass(20);
    world.exit("first", 0);
    world.pass(20);
    world.exit("side", 1);
    world.pass(60);
    assert_eq!(world.state("a"), "running, ready true, restarts 1");
}
