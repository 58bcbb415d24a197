//! Situations in a pod's life and the resulting actions, in the order of the specification.

use crate::harness::Harness;
use json_tree::{Value, json};
use pod_lifecycle::node::shutdown::NodeStop;
use pod_lifecycle::record::Sandbox;
use pod_lifecycle::record::probes::ProbeOutcome;
use pod_lifecycle::spec::ProbeKind;

fn one(extra: Value) -> Value {
    let mut container = json!({"name": "c", "image": "img"});
    for (key, part) in extra.as_object().unwrap() {
        container[key] = part.clone();
    }
    json!({"containers": [container]})
}

fn with(mut spec: Value, key: &str, value: Value) -> Value {
    spec[key] = value;
    spec
}

fn failure() -> ProbeOutcome {
    ProbeOutcome::Failure("HTTP probe failed with statuscode: 500".to_owned())
}

#[test]
fn simple_pod_runs_at_once() {
    // statefulset.md 12.1, 3.34
    let mut harness = Harness::new(one(json!({})));
    let first = harness.plan();
    assert_eq!(first.status.phase.as_deref(), Some("Pending"));
    harness.pass(0);
    assert_eq!(harness.lines(), ["0 sandbox", "0 start c"]);
    assert_eq!(harness.status.phase.as_deref(), Some("Running"));
    assert_eq!(harness.state("c"), "running, ready true, restarts 0");
    assert_eq!(harness.condition("Ready"), "True");
    assert_eq!(harness.status.pod_ip.as_deref(), Some("10.244.0.5"));
    let types: Vec<_> = harness
        .status
        .conditions
        .iter()
        .flatten()
        .map(|c| c.type_.clone())
        .collect();
    let expected = [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ];
    assert_eq!(types, expected);
}

#[test]
fn transition_times_stay_while_nothing_changes() {
    // statefulset.md 12.1
    let mut harness = Harness::new(one(json!({})));
    harness.pass(0);
    let before = harness.status.clone();
    harness.pass(60);
    assert_eq!(harness.status, before);
    assert!(harness.plan.next_at.is_none() && harness.plan.actions.is_empty());
}

#[test]
fn unready_containers_are_named() {
    // statefulset.md 3.34
    let probe = json!({"readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 5}});
    let mut harness = Harness::new(one(probe));
    harness
        .behaviour
        .probes
        .insert(("c", ProbeKind::Readiness), [failure()].into());
    harness.pass(1);
    let message = "False ContainersNotReady containers with unready status: [c]";
    assert_eq!(harness.condition("Ready"), message);
    assert_eq!(harness.condition("ContainersReady"), message);
    assert_eq!(harness.status.phase.as_deref(), Some("Running"));
    harness
        .behaviour
        .probes
        .insert(("c", ProbeKind::Readiness), [ProbeOutcome::Success].into());
    harness.pass(5);
    assert_eq!(harness.condition("Ready"), "True");
}

#[test]
fn readiness_gates_hold_ready_back_but_not_containers_ready() {
    // statefulset.md 3.34
    let spec = with(
        one(json!({})),
        "readinessGates",
        json!([{"conditionType": "x"}]),
    );
    let mut harness = Harness::new(spec);
    harness.pass(0);
    assert_eq!(
        harness.condition("Ready"),
        "False ReadinessGatesNotReady \
         corresponding condition of pod readiness gate \"x\" does not exist."
    );
    assert_eq!(harness.condition("ContainersReady"), "True");
    for (status, expected) in [
        (
            "False",
            "False ReadinessGatesNotReady \
             the status of pod readiness gate \"x\" is not \"True\", but False",
        ),
        ("True", "True"),
    ] {
        let gate = json!({"conditions": [{"type": "x", "status": status}]});
        harness.pod.status = Some(json_tree::from_value(gate).unwrap());
        harness.pass(0);
        assert_eq!(harness.condition("Ready"), expected);
    }
}

#[test]
fn init_containers_run_one_after_another() {
    // statefulset.md 12.2, 3.34
    let init = json!([{"name": "i0", "image": "img"}, {"name": "i1", "image": "img"}]);
    let mut harness = Harness::new(with(one(json!({})), "initContainers", init));
    harness.pass(0);
    assert_eq!(harness.state("i0"), "running, ready false, restarts 0");
    assert_eq!(
        harness.state("i1"),
        "waiting PodInitializing, ready false, restarts 0"
    );
    assert_eq!(
        harness.state("c"),
        "waiting PodInitializing, ready false, restarts 0"
    );
    assert_eq!(
        harness.condition("Initialized"),
        "False ContainersNotInitialized containers with incomplete status: [i0 i1]"
    );
    assert_eq!(harness.status.phase.as_deref(), Some("Pending"));
    harness.exit("i0", 0);
    harness.pass(1);
    harness.exit("i1", 0);
    harness.pass(1);
    assert_eq!(
        harness.lines()[1..],
        [
            "0 start i0",
            "0 exit i0 0",
            "0 start i1",
            "1 exit i1 0",
            "1 start c"
        ]
    );
    assert_eq!(harness.condition("Initialized"), "True");
    assert_eq!(harness.status.phase.as_deref(), Some("Running"));
}

#[test]
fn failed_init_container_is_retried_or_fails_the_pod() {
    // statefulset.md 12.2
    let init = json!([{"name": "i0", "image": "img"}]);
    let mut harness = Harness::new(with(one(json!({})), "initContainers", init.clone()));
    harness.pass(0);
    harness.exit("i0", 1);
    harness.pass(0);
    harness.exit("i0", 1);
    harness.pass(0);
    assert_eq!(
        harness.state("i0"),
        "waiting CrashLoopBackOff, ready false, restarts 1"
    );
    assert_eq!(harness.status.phase.as_deref(), Some("Pending"));

    let never = with(one(json!({})), "restartPolicy", json!("Never"));
    let mut harness = Harness::new(with(never, "initContainers", init));
    harness.pass(0);
    harness.exit("i0", 1);
    harness.pass(0);
    assert_eq!(harness.status.phase.as_deref(), Some("Failed"));
    assert_eq!(
        harness.state("c"),
        "waiting PodInitializing, ready false, restarts 0"
    );
    assert_eq!(harness.lines().last().unwrap(), "0 no sandbox");
}

#[test]
fn sidecar_must_have_started_before_the_next_and_ends_last() {
    // statefulset.md 12.3
    let init = json!([
        {"name": "s", "image": "img", "restartPolicy": "Always",
         "startupProbe": {"exec": {"command": ["x"]}, "periodSeconds": 1}},
        {"name": "i", "image": "img"}]);
    let mut harness = Harness::new(with(one(json!({})), "initContainers", init));
    harness
        .behaviour
        .probes
        .insert(("s", ProbeKind::Startup), [failure()].into());
    harness.pass(1);
    assert_eq!(harness.lines(), ["0 sandbox", "0 start s"]);
    harness
        .behaviour
        .probes
        .insert(("s", ProbeKind::Startup), [ProbeOutcome::Success].into());
    harness.pass(1);
    harness.exit("i", 0);
    harness.pass(0);
    assert_eq!(harness.state("c"), "running, ready true, restarts 0");
    // An exited sidecar is restarted and blocks no other container.
    harness.exit("s", 0);
    harness.pass(0);
    assert_eq!(harness.status.phase.as_deref(), Some("Running"));
    harness.log.clear();
    harness.delete(30);
    harness.pass(0);
    let order: Vec<String> = harness.lines().iter().map(|l| l[2..].to_owned()).collect();
    assert_eq!(
        order,
        [
            "Stopping container s",
            "Stopping container c",
            "TERM c",
            "exit c 143",
            "TERM s",
            "exit s 143",
            "no sandbox",
            "removed"
        ]
    );
}

#[test]
fn sidecars_end_when_the_main_containers_are_done() {
    // statefulset.md 12.3
    let init = json!([{"name": "s", "image": "img", "restartPolicy": "Always"}]);
    let spec = with(one(json!({})), "restartPolicy", json!("Never"));
    let mut harness = Harness::new(with(spec, "initContainers", init));
    harness.pass(0);
    harness.exit("c", 0);
    harness.pass(0);
    assert_eq!(harness.status.phase.as_deref(), Some("Succeeded"));
    assert_eq!(harness.condition("Ready"), "False PodCompleted");
    assert_eq!(harness.condition("Initialized"), "True PodCompleted");
    assert_eq!(harness.record.sandbox, Sandbox::None);
}

#[test]
fn crash_loop_backs_off_and_says_so() {
    // statefulset.md 12.9
    let mut harness = Harness::new(one(json!({})));
    harness.pass(0);
    harness.exit("c", 1);
    harness.pass(0);
    assert_eq!(harness.state("c"), "running, ready true, restarts 1");
    harness.exit("c", 1);
    harness.pass(0);
    assert_eq!(
        harness.state("c"),
        "waiting CrashLoopBackOff, ready false, restarts 1"
    );
    let status = &harness.status.container_statuses.as_ref().unwrap()[0];
    let waiting = status.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(
        waiting.message.as_deref(),
        Some("back-off 10s restarting failed container=c pod=web-0_default(u-1)")
    );
    let last = status
        .last_state
        .as_ref()
        .unwrap()
        .terminated
        .as_ref()
        .unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (1, Some("Error")));
    assert_eq!(harness.status.phase.as_deref(), Some("Running"));
    harness.pass(10);
    assert_eq!(harness.lines().last().unwrap(), "10 start c");
    assert_eq!(harness.state("c"), "running, ready true, restarts 2");
}

#[test]
fn missing_image_is_an_error_first_then_backed_off_from() {
    // statefulset.md 12.9
    let mut harness = Harness::new(one(json!({})));
    harness
        .behaviour
        .bad_images
        .insert("c", ("ErrImagePull", "not found"));
    harness.pass(0);
    assert_eq!(
        harness.state("c"),
        "waiting ErrImagePull, ready false, restarts 0"
    );
    harness.pass(3);
    assert_eq!(
        harness.state("c"),
        "waiting ImagePullBackOff, ready false, restarts 0"
    );
    harness.pass(40);
    assert_eq!(
        harness.lines()[1..],
        [
            "0 pull c",
            "2 BackOff image c",
            "10 pull c",
            "12 BackOff image c",
            "30 pull c",
            "32 BackOff image c"
        ]
        .map(str::to_owned)
    );
    harness.behaviour.bad_images.clear();
    harness.pass(60);
    assert_eq!(harness.state("c"), "running, ready true, restarts 0");
}

#[test]
fn never_pull_stays_what_it_is() {
    // statefulset.md 12.9
    let mut harness = Harness::new(one(json!({"imagePullPolicy": "Never"})));
    harness
        .behaviour
        .bad_images
        .insert("c", ("ErrImageNeverPull", "not present"));
    harness.pass(5);
    assert_eq!(
        harness.state("c"),
        "waiting ErrImageNeverPull, ready false, restarts 0"
    );
}

#[test]
fn command_that_does_not_exist_is_told_and_backed_off_from() {
    // kubectl.md 1.9
    let mut harness = Harness::new(one(json!({})));
    harness.behaviour.bad_commands.push("c");
    harness.pass(0);
    assert_eq!(
        harness.state("c"),
        "waiting RunContainerError, ready false, restarts 1"
    );
    harness.pass(3);
    assert_eq!(
        harness.state("c"),
        "waiting CrashLoopBackOff, ready false, restarts 1"
    );
    let never = with(one(json!({})), "restartPolicy", json!("Never"));
    let mut harness = Harness::new(never);
    harness.behaviour.bad_commands.push("c");
    harness.pass(0);
    assert_eq!(harness.status.phase.as_deref(), Some("Failed"));
    assert_eq!(
        harness.state("c"),
        "StartError 128, ready false, restarts 0"
    );
}

#[test]
fn liveness_failure_restarts_the_container_only() {
    // statefulset.md 12.5
    let probe = json!({"livenessProbe":
        {"httpGet": {"port": 80}, "periodSeconds": 10, "failureThreshold": 2}});
    let mut harness = Harness::new(one(probe));
    let success = || ProbeOutcome::Success;
    let outcomes = [success(), failure(), failure(), success()];
    harness
        .behaviour
        .probes
        .insert(("c", ProbeKind::Liveness), outcomes.into());
    harness.pass(25);
    assert_eq!(
        harness.lines()[2..],
        [
            "20 Container c failed liveness probe, will be restarted",
            "20 TERM c",
            "20 exit c 143",
            "20 start c"
        ]
    );
    assert_eq!(harness.state("c"), "running, ready true, restarts 1");
}

#[test]
fn startup_probe_holds_back_the_others() {
    // statefulset.md 12.5
    let probe = json!({
        "startupProbe": {"exec": {}, "periodSeconds": 1, "failureThreshold": 3},
        "livenessProbe": {"exec": {}, "failureThreshold": 1}});
    let mut harness = Harness::new(one(probe));
    harness
        .behaviour
        .probes
        .insert(("c", ProbeKind::Startup), [failure()].into());
    harness
        .behaviour
        .probes
        .insert(("c", ProbeKind::Liveness), [failure()].into());
    harness.pass(2);
    assert_eq!(harness.state("c"), "running, ready false, restarts 0");
    harness.pass(3);
    let expected = "Container c failed startup probe, will be restarted";
    assert!(
        harness.lines().iter().any(|line| line.ends_with(expected)),
        "{:?}",
        harness.lines()
    );
}

#[test]
fn pre_stop_time_counts_against_the_grace() {
    // statefulset.md 12.7, T40
    let hook = json!({"lifecycle": {"preStop": {"sleep": {"seconds": 10}}}});
    let mut harness = Harness::new(one(hook));
    harness.behaviour.deaf.push("c");
    harness.behaviour.slow_hooks.push("c");
    harness.pass(0);
    harness.delete(30);
    harness.pass(10);
    harness
        .running("c")
        .unwrap()
        .stop
        .as_mut()
        .unwrap()
        .pre_stop = pod_lifecycle::record::Hook::Done;
    harness.pass(60);
    assert_eq!(
        harness.lines()[2..],
        [
            "0 Stopping container c",
            "0 preStop c",
            "10 TERM c",
            "30 KILL c",
            "30 exit c 137",
            "30 no sandbox",
            "30 removed"
        ]
    );
    assert_eq!(harness.status.phase.as_deref(), Some("Failed"));
    assert!(harness.plan.finished);
}

#[test]
fn kill_comes_no_sooner_than_two_seconds_after_term() {
    // statefulset.md 12.7
    let hook = json!({"lifecycle": {"preStop": {"exec": {}}}});
    let mut harness = Harness::new(one(hook));
    harness.behaviour.deaf.push("c");
    harness.behaviour.slow_hooks.push("c");
    harness.pass(0);
    harness.delete(5);
    harness.pass(20);
    assert_eq!(harness.lines()[4..6], ["5 TERM c", "7 KILL c"]);
}

#[test]
fn shorter_second_deletion_shortens_the_grace() {
    // statefulset.md 12.7
    let mut harness = Harness::new(one(json!({})));
    harness.behaviour.deaf.push("c");
    harness.pass(0);
    harness.delete(600);
    harness.pass(3);
    harness.delete(5);
    harness.pass(10);
    assert!(
        harness.lines().contains(&"5 KILL c".to_owned()),
        "{:?}",
        harness.lines()
    );
}

#[test]
fn sidecar_hooks_run_beside_the_main_ones() {
    // statefulset.md 12.3, T51
    let hook = json!({"preStop": {"sleep": {"seconds": 3}}});
    let init = json!([{"name": "s", "image": "img", "restartPolicy": "Always", "lifecycle": hook}]);
    let spec = with(one(json!({"lifecycle": hook})), "initContainers", init);
    let mut harness = Harness::new(spec);
    harness.behaviour.deaf.push("c");
    harness.pass(0);
    harness.delete(20);
    harness.pass(60);
    let log = harness.lines();
    let at = |what: &str| {
        log.iter()
            .position(|line| line == what)
            .unwrap_or(usize::MAX)
    };
    assert!(at("0 preStop s") < at("0 TERM c"));
    assert!(at("0 preStop c") < at("0 TERM c"));
    // After the grace period, the sidecar gets its signal when the main container is killed.
    assert!(
        at("20 KILL c") != usize::MAX && at("20 TERM s") != usize::MAX,
        "{log:?}"
    );
}

#[test]
fn deleted_pod_that_never_ran_goes_at_once() {
    // statefulset.md 12.7
    let mut harness = Harness::new(one(json!({})));
    harness.delete(30);
    harness.pass(0);
    assert_eq!(harness.lines(), ["0 removed"]);
    assert_eq!(harness.status.phase.as_deref(), Some("Failed"));
    assert!(harness.plan.finished);
}

#[test]
fn pod_gone_from_the_api_is_stopped_and_not_removed_again() {
    // statefulset.md 12.7
    let mut harness = Harness::new(one(json!({})));
    harness.pass(0);
    harness.confirmation = pod_lifecycle::PodConfirmation::Removed;
    harness.pass(0);
    assert_eq!(harness.lines().last().unwrap(), "0 no sandbox");
    assert!(harness.plan.finished);
}

#[test]
fn nothing_starts_while_the_former_pod_is_here() {
    // statefulset.md 3.32
    let mut harness = Harness::new(one(json!({})));
    harness.predecessor = true;
    harness.pass(5);
    assert!(harness.log.is_empty());
    assert_eq!(
        harness.plan.waiting[0].reason,
        "the former pod of this name is still on the node"
    );
    harness.predecessor = false;
    harness.pass(0);
    assert_eq!(harness.state("c"), "running, ready true, restarts 0");
}

#[test]
fn deadline_fails_the_pod() {
    // statefulset.md 12.10
    let mut harness = Harness::new(with(one(json!({})), "activeDeadlineSeconds", json!(7)));
    harness.behaviour.deaf.push("c");
    harness.pass(20);
    // The pod's name is in use while any of its containers runs.
    assert_eq!(harness.status.phase.as_deref(), Some("Running"));
    harness.pass(30);
    assert_eq!(harness.status.phase.as_deref(), Some("Failed"));
    assert_eq!(harness.status.reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(harness.condition("Ready"), "False PodFailed");
    assert!(harness.lines().contains(&"7 TERM c".to_owned()));
}

#[test]
fn lost_sandbox_is_made_again_with_its_containers() {
    // statefulset.md 12.17: the node has rebooted
    let mut harness = Harness::new(one(json!({})));
    harness.pass(0);
    let now = harness.now;
    harness.record.sandbox_lost(now);
    harness.pass(1);
    assert_eq!(
        harness.lines()[2..],
        ["0 no sandbox", "0 sandbox", "0 start c"]
    );
    assert_eq!(harness.state("c"), "running, ready true, restarts 1");
}

#[test]
fn node_that_stops_keeps_the_pod() {
    let mut harness = Harness::new(one(json!({})));
    harness.pass(0);
    harness.node_stops = Some(NodeStop::default());
    harness.pass(0);
    assert!(harness.plan.finished);
    assert!(harness.lines().contains(&"0 keep volumes".to_owned()));
    assert_eq!(harness.status.phase.as_deref(), Some("Running"));
    assert!(
        harness
            .condition("Ready")
            .starts_with("False ContainersNotReady")
    );
    // The next agent reads the record and continues.
    harness.node_stops = None;
    harness.pass(0);
    assert_eq!(harness.state("c"), "running, ready true, restarts 1");
}

#[test]
fn post_start_holds_started_back() {
    // statefulset.md 12.6
    let mut harness = Harness::new(one(json!({"lifecycle": {"postStart": {"exec": {}}}})));
    harness.pass(0);
    assert_eq!(harness.lines()[1..], ["0 start c", "0 postStart c"]);
    assert_eq!(harness.state("c"), "running, ready true, restarts 0");
}
