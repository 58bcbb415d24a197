//! Ephemeral containers (kubectl.md 5.8).

use json_tree::{Value, json};

use crate::world::World;

fn pod(restart_policy: &str, more: Value) -> Value {
    let mut spec = json!({"restartPolicy": restart_policy,
        "containers": [{"name": "c", "image": "i"}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

fn add(world: &mut World, name: &str) {
    let mut pod = json_tree::to_value(&world.pod).unwrap();
    let one = json!({"name": name, "image": "debug", "targetContainerName": "c"});
    match pod["spec"]["ephemeralContainers"].as_array_mut() {
        Some(list) => list.push(one),
        None => pod["spec"]["ephemeralContainers"] = json!([one]),
    }
    world.pod = json_tree::from_value(pod).unwrap();
}

fn debugged(restart_policy: &str, more: Value) -> World {
    let mut world = World::new(pod(restart_policy, more));
    world.pass(1);
    add(&mut world, "debugger");
    world.pass(1);
    world
}

#[test]
fn it_starts_in_the_running_pod_and_never_again() {
    let mut world = debugged("Always", json!({}));
    assert_eq!(world.state("debugger"), "running, ready false, restarts 0");
    assert_eq!(world.condition("Ready"), "True");
    let status = &world.status.ephemeral_container_statuses.as_ref().unwrap()[0];
    assert_eq!(status.started, None);
    world.exit("debugger", 3);
    world.pass(700);
    assert_eq!(world.state("debugger"), "Error 3, ready false, restarts 0");
    assert_eq!(world.status.phase.as_deref(), Some("Running"));
    let lines = world.lines();
    assert_eq!(
        lines
            .iter()
            .filter(|line| line.contains("start debugger"))
            .count(),
        1,
        "{lines:?}"
    );
    add(&mut world, "second");
    world.pass(1);
    assert_eq!(world.state("second"), "running, ready false, restarts 0");
}

#[test]
fn it_does_not_wait_for_init_containers() {
    let init = json!({"initContainers": [{"name": "init", "image": "i"}]});
    let mut world = debugged("Always", init);
    assert_eq!(world.state("debugger"), "running, ready false, restarts 0");
    assert_eq!(
        world.state("c"),
        "waiting PodInitializing, ready false, restarts 0"
    );
    world.exit("init", 0);
    world.pass(1);
    assert_eq!(world.state("c"), "running, ready true, restarts 0");
}

#[test]
fn a_new_sandbox_does_not_bring_it_back() {
    let mut world = debugged("Always", json!({}));
    world.record.sandbox_lost(world.now);
    world.pass(30);
    assert_eq!(world.state("c"), "running, ready true, restarts 1");
    assert_eq!(
        world.state("debugger"),
        "Unknown 255, ready false, restarts 0"
    );
}

#[test]
fn it_ends_with_the_pod() {
    let mut world = debugged("Never", json!({}));
    world.exit("c", 0);
    world.pass(2);
    assert_eq!(world.status.phase.as_deref(), Some("Succeeded"));
    assert!(!world.record.anything_runs(), "{:?}", world.lines());

    let mut world = debugged("Always", json!({}));
    world.delete(5);
    world.pass(10);
    assert!(world.plan.finished, "{:?}", world.lines());
    let lines = world.lines();
    for line in ["2 TERM c", "2 TERM debugger"] {
        assert!(lines.iter().any(|entry| entry == line), "{lines:?}");
    }
}

#[test]
fn an_image_that_is_not_to_be_had_is_tried_again() {
    let mut world = World::new(pod("Always", json!({})));
    world.pass(1);
    world
        .behaviour
        .bad_images
        .insert("debugger", ("ErrImagePull", "not found"));
    add(&mut world, "debugger");
    world.pass(5);
    assert_eq!(
        world.state("debugger"),
        "waiting ImagePullBackOff, ready false, restarts 0"
    );
    world.behaviour.bad_images.clear();
    world.pass(30);
    assert_eq!(world.state("debugger"), "running, ready false, restarts 0");
}
