//! Lifetimes of pods and containers, their readiness, and their termination messages.

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::Pod;
use kube_api_client::{Patch, PatchParams};

use crate::harness::{Harness, condition, is_ready, phase, state};
use crate::pods::SLEEP;
use crate::spec::shell;
use crate::trace::{Trace, holds, traced};

pub async fn sidecars_end_last_and_in_reverse() {
    // statefulset.md 12.3, T51
    let harness = Harness::started("sidecars").await;
    let trace = Trace::new(&harness);
    let of = |name: &str, command: Value, sidecar: bool, hook: Option<&str>| {
        let lifecycle = hook.map(|script| json!({"preStop": {"exec": {"command": shell(script)}}}));
        json!({"name": name, "command": command, "volumeMounts": [Trace::mount()],
            "lifecycle": lifecycle, "restartPolicy": sidecar.then_some("Always")})
    };
    let sidecars = |hook: Option<&str>| {
        json!([
            of("a", traced("a"), true, hook),
            of("b", traced("b"), true, None)
        ])
    };
    // The main container needs some time to stop, and waits for the hook of the sidecar, which stops last.
    let main = "trap 'until busybox grep -q hook /trace/order; do sleep 0.05; done; sleep 0.3; \
        echo main ends >> /trace/order; exit 0' TERM; touch /trace/main; \
        while true; do sleep 0.05; done";
    harness
        .pod(
            "deleted",
            json!({"initContainers": sidecars(Some("echo hook of a >> /trace/order")),
                "terminationGracePeriodSeconds": 600,
                "containers": [of("main", shell(main), false, None)],
                "volumes": [trace.volume()]}),
        )
        .await;
    harness.ready("deleted").await;
    let all_hear = || {
        ["a", "b", "main"]
            .iter()
            .all(|name| trace.0.join(name).exists())
    };
    holds("all hear signals", all_hear).await;
    harness.delete("deleted").await;
    harness.wait_deleted("deleted").await;
    assert_eq!(
        trace.written("order"),
        "hook of a\nmain ends\nb ends\na ends\n"
    );

    for name in ["a", "b", "order"] {
        std::fs::remove_file(trace.0.join(name)).unwrap();
    }
    let main = "until test -e /trace/a -a -e /trace/b; do sleep 0.05; done; \
        echo main ends >> /trace/order";
    harness
        .pod(
            "done",
            json!({"restartPolicy": "Never", "initContainers": sidecars(None),
                "containers": [of("main", shell(main), false, None)],
                "volumes": [trace.volume()]}),
        )
        .await;
    let done = |pod: &Pod| phase(pod) == "Succeeded";
    let pod = harness.until("done", "done", done).await;
    assert_eq!(trace.written("order"), "main ends\nb ends\na ends\n");
    for name in ["a", "b", "main"] {
        assert_eq!(state(&pod, name), ("Completed 0".to_owned(), 0), "{name}");
    }
    harness.end().await;
}

pub async fn time_is_limited_and_readiness_may_need_others() {
    // statefulset.md 12.1, 12.10
    let harness = Harness::started("deadline").await;
    let trace = Trace::new(&harness);
    let late = json!({"volumes": [trace.volume()], "containers": [
        {"name": "c", "command": traced("late"), "volumeMounts": [Trace::mount()]}]});
    let late = harness.pod("late", late).await;
    holds("it hears signals", || trace.0.join("late").exists()).await;
    let deadline = Patch::Merge(json!({"spec": {"activeDeadlineSeconds": 2}}));
    let pods = harness.api::<Pod>();
    let params = PatchParams::default();
    pods.patch("late", &params, &deadline).await.unwrap();
    let gate = "example.org/checked";
    let gated = json!({"readinessGates": [{"conditionType": gate}],
        "containers": [{"name": "c", "command": shell(SLEEP)}]});
    harness.pod("gated", gated).await;

    let containers_are = |pod: &Pod| condition(pod, "ContainersReady") == "True";
    let pod = harness
        .until("gated", "up but for its gate", containers_are)
        .await;
    let message = format!("corresponding condition of pod readiness gate \"{gate}\"");
    let expected = format!("False ReadinessGatesNotReady {message} does not exist.");
    assert_eq!(condition(&pod, "Ready"), expected);
    let say = async |status: &str| {
        let conditions = json!([{"type": gate, "status": status}]);
        let patch = Patch::Strategic(json!({"status": {"conditions": conditions}}));
        let pods = harness.api::<Pod>();
        let params = PatchParams::default();
        pods.patch_status("gated", &params, &patch).await.unwrap();
    };
    say("True").await;
    harness.ready("gated").await;
    say("False").await;
    let pod = harness
        .until("gated", "held back", |pod| !is_ready(pod))
        .await;
    // The text is kubelet's.
    let expected =
        "the status of pod readiness gate \"example.org/checked\" is not \"True\", but False";
    assert_eq!(
        condition(&pod, "Ready"),
        format!("False ReadinessGatesNotReady {expected}")
    );

    let over = |pod: &Pod| phase(pod) == "Failed";
    let pod = harness.until("late", "over", over).await;
    assert_eq!(state(&pod, "c").0, "Completed 0");
    let status = pod.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    let message = "Pod was active on the node longer than the specified deadline";
    assert_eq!(status.message.as_deref(), Some(message));
    assert_eq!(trace.written("order"), "late ends\n");
    harness
        .event("late", "Normal DeadlineExceeded Pod was active")
        .await;
    let uid = late.metadata.uid.unwrap();
    while harness.runtime.sandbox(&uid).await.unwrap().is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    harness.end().await;
}

pub async fn last_words_are_kept() {
    // statefulset.md 12.1
    let harness = Harness::started("words").await;
    let of = |name: &str, script: &str, more: Value| {
        let mut container = json!({"name": name, "command": shell(script)});
        for (field, value) in more.as_object().unwrap() {
            container[field] = value.clone();
        }
        container
    };
    let fallback = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    let long = "i=0; while test $i -lt 1000; do echo line $i; i=$((i+1)); done \
        > /dev/termination-log";
    let spec = json!({"restartPolicy": "Never", "containers": [
        of("usual", "echo noise; echo bye > /dev/termination-log", json!({})),
        of("own", "echo here > /tmp/last; exit 2", json!({"terminationMessagePath": "/tmp/last"})),
        of("silent", "echo noise; exit 3", json!({})),
        of("log", "echo noise; echo oops >&2; exit 4", fallback.clone()),
        of("fine", "echo noise", fallback.clone()),
        of("both", "echo noise; echo word > /dev/termination-log; exit 5", fallback),
        of("long", long, json!({}))]});
    harness.pod("p", spec).await;
    let pod = harness
        .until("p", "over", |pod| phase(pod) == "Failed")
        .await;
    let statuses = pod.status.unwrap().container_statuses.unwrap();
    let ended = |name: &str| {
        let status = statuses.iter().find(|status| status.name == name).unwrap();
        let ended = status.state.clone().unwrap().terminated.unwrap();
        (ended.exit_code, ended.message)
    };
    for (name, code, message) in [
        ("usual", 0, Some("bye\n")),
        ("own", 2, Some("here\n")),
        ("silent", 3, None),
        ("log", 4, Some("noise\noops\n")),
        ("fine", 0, None),
        ("both", 5, Some("word\n")),
    ] {
        assert_eq!(ended(name), (code, message.map(str::to_owned)), "{name}");
    }
    // Only the end of a message that is too long is stored.
    let (_, message) = ended("long");
    let message = message.unwrap();
    assert_eq!(message.len(), 4096);
    assert!(message.ends_with("line 998\nline 999\n"), "{message}");
    harness.end().await;
}
