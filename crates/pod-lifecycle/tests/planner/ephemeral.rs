//! Ephemeral containers (kubectl.md 5.8).

use json_tree::{Value, json};

use crate::harness::Harness;

fn pod(restart_policy: &str, more: Value) -> Value {
    let mut spec = json!({"restartPolicy": restart_policy,
        "containers": [{"name": "c", "image": "i"}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

fn add(harness: &mut Harness, name: &str) {
    let mut pod = json_tree::to_value(&harness.pod).unwrap();
    let one = json!({"name": name, "image": "debug", "targetContainerName": "c"});
    match pod["spec"]["ephemeralContainers"].as_array_mut() {
        Some(list) => list.push(one),
        None => pod["spec"]["ephemeralContainers"] = json!([one]),
    }
    harness.pod = json_tree::from_value(pod).unwrap();
}

fn debugged(restart_policy: &str, more: Value) -> Harness {
    let mut harness = Harness::new(pod(restart_policy, more));
    harness.pass(1);
    add(&mut harness, "debugger");
    harness.pass(1);
    harness
}

#[test]
fn it_starts_in_the_running_pod_and_never_again() {
    let mut harness = debugged("Always", json!({}));
    assert_eq!(
        harness.state("debugger"),
        "running, ready false, restarts 0"
    );
    assert_eq!(harness.condition("Ready"), "True");
    let status = &harness
        .status
        .ephemeral_container_statuses
        .as_ref()
        .unwrap()[0];
    assert_eq!(status.started, None);
    harness.exit("debugger", 3);
    harness.pass(700);
    assert_eq!(
        harness.state("debugger"),
        "Error 3, ready false, restarts 0"
    );
    assert_eq!(harness.status.phase.as_deref(), Some("Running"));
    let lines = harness.lines();
    assert_eq!(
        lines
            .iter()
            .filter(|line| line.contains("start debugger"))
            .count(),
        1,
        "{lines:?}"
    );
    add(&mut harness, "second");
    harness.pass(1);
    assert_eq!(harness.state("second"), "running, ready false, restarts 0");
}

#[test]
fn it_does_not_wait_for_init_containers() {
    let init = json!({"initContainers": [{"name": "init", "image": "i"}]});
    let mut harness = debugged("Always", init);
    assert_eq!(
        harness.state("debugger"),
        "running, ready false, restarts 0"
    );
    assert_eq!(
        harness.state("c"),
        "waiting PodInitializing, ready false, restarts 0"
    );
    harness.exit("init", 0);
    harness.pass(1);
    assert_eq!(harness.state("c"), "running, ready true, restarts 0");
}

#[test]
fn a_new_sandbox_does_not_bring_it_back() {
    let mut harness = debugged("Always", json!({}));
    harness.record.sandbox_lost(harness.now);
    harness.pass(30);
    assert_eq!(harness.state("c"), "running, ready true, restarts 1");
    assert_eq!(
        harness.state("debugger"),
        "Unknown 255, ready false, restarts 0"
    );
}

#[test]
fn it_ends_with_the_pod() {
    let mut harness = debugged("Never", json!({}));
    harness.exit("c", 0);
    harness.pass(2);
    assert_eq!(harness.status.phase.as_deref(), Some("Succeeded"));
    assert!(!harness.record.anything_runs(), "{:?}", harness.lines());

    let mut harness = debugged("Always", json!({}));
    harness.delete(5);
    harness.pass(10);
    assert!(harness.plan.finished, "{:?}", harness.lines());
    let lines = harness.lines();
    for line in ["2 TERM c", "2 TERM debugger"] {
        assert!(lines.iter().any(|entry| entry == line), "{lines:?}");
    }
}

#[test]
fn an_image_that_is_not_to_be_had_is_tried_again() {
    let mut harness = Harness::new(pod("Always", json!({})));
    harness.pass(1);
    harness
        .behaviour
        .bad_images
        .insert("debugger", ("ErrImagePull", "not found"));
    add(&mut harness, "debugger");
    harness.pass(5);
    assert_eq!(
        harness.state("debugger"),
        "waiting ImagePullBackOff, ready false, restarts 0"
    );
    harness.behaviour.bad_images.clear();
    harness.pass(30);
    assert_eq!(
        harness.state("debugger"),
        "running, ready false, restarts 0"
    );
}
