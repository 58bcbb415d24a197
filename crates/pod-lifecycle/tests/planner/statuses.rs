//! Fields of container statuses apart from their states.

use json_tree::json;
use pod_lifecycle::record::Hook;

use crate::harness::Harness;

#[test]
fn a_running_container_has_its_user_and_its_mounts() {
    // statefulset.md 12.1
    let mount = |name: &str, extra: json_tree::Value| {
        let mut whole = json!({"name": name, "mountPath": format!("/{name}")});
        for (key, value) in extra.as_object().unwrap() {
            whole[key] = value.clone();
        }
        whole
    };
    let mut harness = Harness::new(
        json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [
        mount("data", json!({})),
        mount("conf", json!({"readOnly": true})),
        mount("deep", json!({"readOnly": true, "recursiveReadOnly": "IfPossible"}))]}]}),
    );
    harness.pass(0);
    let statuses = harness.status.container_statuses.clone().unwrap();
    let status = json_tree::to_value(&statuses[0]).unwrap();
    assert_eq!(
        status["user"],
        json!({"linux": {"uid": 1000, "gid": 2000, "supplementalGroups": [2000]}})
    );
    assert_eq!(
        status["volumeMounts"],
        json!([
            {"name": "data", "mountPath": "/data"},
            {"name": "conf", "mountPath": "/conf", "readOnly": true,
                "recursiveReadOnly": "Disabled"},
            {"name": "deep", "mountPath": "/deep", "readOnly": true,
                "recursiveReadOnly": "Enabled"}])
    );
}

#[test]
fn while_an_image_is_pulled_again_its_trouble_is_shown() {
    // statefulset.md 12.9
    let mut harness = Harness::new(json!({"containers": [{"name": "c", "image": "img"}]}));
    let trouble = ("ErrImagePull", "not found");
    harness.behaviour.bad_images.insert("c", trouble);
    harness.pass(3);
    harness.record.container("c").image.ensure();
    harness.pass(1);
    assert_eq!(
        harness.state("c"),
        "waiting ImagePullBackOff, ready false, restarts 0"
    );
}

/// A pod whose first init container has exited and whose second one runs. Then its sandbox is lost.
fn sandbox_lost_while_initialising(policy: &str) -> Harness {
    let mut harness = Harness::new(json!({"restartPolicy": policy,
        "initContainers": [{"name": "i", "image": "x"}, {"name": "j", "image": "x"}],
        "containers": [{"name": "c", "image": "x"}]}));
    harness.pass(1);
    harness.exit("i", 0);
    harness.pass(1);
    assert_eq!(harness.state("j"), "running, ready false, restarts 0");
    let now = harness.now;
    harness.record.sandbox_lost(now);
    harness.pass(1);
    harness
}

#[test]
fn an_init_container_that_ended_well_is_shown_so_while_it_runs_once_more() {
    // statefulset.md 12.2
    let mut harness = sandbox_lost_while_initialising("OnFailure");
    assert!(harness.running("i").is_some(), "it runs in the new sandbox");
    assert_eq!(harness.state("i"), "Completed 0, ready true, restarts 0");
    harness.exit("i", 0);
    harness.pass(1);
    assert_eq!(harness.state("i"), "Completed 0, ready true, restarts 1");
    assert_eq!(harness.state("j"), "running, ready false, restarts 1");
    // With `Always`, the status may report the container as running.
    let mut harness = sandbox_lost_while_initialising("Always");
    assert_eq!(harness.state("i"), "running, ready false, restarts 1");
    harness.exit("i", 1);
    harness.pass(11);
    assert_eq!(harness.state("i"), "running, ready false, restarts 2");
}

#[test]
fn a_record_that_lags_takes_nothing_back() {
    // statefulset.md 12.2
    for policy in ["Always", "OnFailure", "Never"] {
        let mut harness = Harness::new(json!({"restartPolicy": policy,
            "initContainers": [{"name": "i", "image": "x"}],
            "containers": [{"name": "c", "image": "x"}]}));
        harness.pass(1);
        let earlier = harness.record.clone();
        harness.exit("i", 0);
        harness.pass(1);
        // The agent was restarted. Its record is from before the exit, or is missing.
        harness.record = earlier.without_work_in_flight();
        let plan = harness.plan();
        let exit_code = |plan: pod_lifecycle::PodPlan| {
            let status = plan.status.init_container_statuses.unwrap().remove(0);
            status
                .state
                .unwrap()
                .terminated
                .map(|ended| ended.exit_code)
        };
        assert_eq!(exit_code(plan), Some(0), "{policy}");
        harness.record.containers.clear();
        let exit_code = exit_code(harness.plan());
        assert_eq!(exit_code, (policy != "Always").then_some(0), "{policy}");
    }
}

#[test]
fn a_failed_post_start_is_shown_before_the_back_off() {
    // statefulset.md 12.6, 12.9
    let mut harness = Harness::new(json!({"containers": [{"name": "c", "image": "img"}]}));
    harness.pass(0);
    for _ in 0..2 {
        harness.running("c").unwrap().post_start = Hook::Failed("it said no".to_owned());
        harness.exit("c", 0);
        harness.pass(0);
    }
    assert_eq!(
        harness.state("c"),
        "waiting PostStartHookError, ready false, restarts 1"
    );
    harness.pass(3);
    assert_eq!(
        harness.state("c"),
        "waiting CrashLoopBackOff, ready false, restarts 1"
    );
}
