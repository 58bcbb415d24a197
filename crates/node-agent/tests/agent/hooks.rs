//! postStart and preStop hooks, and the stop signal.

use image_store::ImageConfig;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::Pod;
use node_agent::{LeftPods, OnShutdown};
use std::time::Instant;

use crate::harness::{Harness, is_ready, layer, phase, state};
use crate::images;
use crate::spec::shell;
use crate::trace::{Trace, holds, traced};

/// Whether the only container runs, but does not count as started yet.
fn runs_unstarted(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().unwrap().container_statuses.as_ref();
    let status = statuses.and_then(|all| all.first());
    status.is_some_and(|status| status.started == Some(false)) && state(pod, "c").0 == "running"
}

pub async fn hooks_ask_wait_and_hold_back_what_follows() {
    // statefulset.md 12.6, 12.7
    let harness = Harness::started("hooks").await;
    let trace = Trace::new(&harness);
    // The server has no page to serve, but any response is a success, as with kubelet.
    let sink = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["busybox", "httpd", "-f", "-vv", "-p", "80", "-h", "/tmp"],
            "readinessProbe": {"tcpSocket": {"port": 80}}}]});
    harness.pod("sink", sink).await;
    let address = harness.ready("sink").await.status.unwrap().pod_ip.unwrap();
    let get = |path: &str| {
        json!({"httpGet": {"host": address, "port": "web", "path": path,
            "httpHeaders": [{"name": "X-Asks", "value": "hook"}]}})
    };
    let of = |lifecycle: Value| {
        json!({"containers": [{"name": "c", "command": traced("c"), "lifecycle": lifecycle,
            "volumeMounts": [Trace::mount()], "ports": [{"name": "web", "containerPort": 80}]}],
            "volumes": [trace.volume()]})
    };
    let asks = json!({"postStart": get("/started"), "preStop": get("/stopping")});
    harness.pod("asks", of(asks)).await;
    harness.ready("asks").await;
    holds("it hears signals", || trace.0.join("c").exists()).await;
    harness.logged("sink", "c", "/started").await;
    let log = harness.logs("sink", "c").await;
    assert!(!log.contains("/stopping"), "{log}");
    harness.delete("asks").await;
    harness.wait_deleted("asks").await;
    harness.logged("sink", "c", "/stopping").await;
    assert_eq!(trace.written("order"), "c ends\n");
    let events = harness.events("asks").await;
    assert!(
        !events.iter().any(|event| event.contains("Hook")),
        "{events:#?}"
    );

    // A container whose hook still runs does not count as started.
    let waits = "until test -e /trace/go -a -e /tmp/hears; do sleep 0.05; done";
    let lifecycle = json!({"postStart": {"exec": {"command": shell(waits)}},
        "preStop": {"exec": {"command": shell("echo hook >> /trace/order")}}});
    harness.pod("held", of(lifecycle)).await;
    let pod = harness.until("held", "held", runs_unstarted).await;
    assert!(!is_ready(&pod));
    trace.make("go");
    harness.ready("held").await;
    harness.delete("held").await;
    harness.wait_deleted("held").await;
    assert_eq!(trace.written("order"), "c ends\nhook\nc ends\n");

    let sleeps =
        json!({"postStart": {"sleep": {"seconds": 1}}, "preStop": {"sleep": {"seconds": 1}}});
    let begun = Instant::now();
    harness.pod("sleeps", of(sleeps)).await;
    harness.ready("sleeps").await;
    assert!(begun.elapsed().as_secs_f32() >= 1.0, "postStart");
    let begun = Instant::now();
    harness.delete("sleeps").await;
    harness.wait_deleted("sleeps").await;
    assert!(begun.elapsed().as_secs_f32() >= 1.0, "preStop");
    harness.end().await;
}

pub async fn a_hook_by_https_is_heard_by_who_speaks_no_tls() {
    // statefulset.md 12.6
    let harness = Harness::started("hookshttp").await;
    let sink = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["busybox", "httpd", "-f", "-vv", "-p", "80", "-h", "/tmp"],
            "readinessProbe": {"tcpSocket": {"port": 80}}}]});
    harness.pod("sink", sink).await;
    let address = harness.ready("sink").await.status.unwrap().pod_ip.unwrap();
    let asks = |path: &str| json!({"httpGet": {"host": address, "port": 80, "path": path, "scheme": "HTTPS"}});
    let spec = json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "command": shell("sleep 1000"),
            "lifecycle": {"postStart": asks("/started"), "preStop": asks("/stopping")}}]});
    harness.pod("asks", spec).await;
    harness.ready("asks").await;
    harness.logged("sink", "c", "/started").await;
    let event = "Warning LifecycleHTTPFallback request to HTTPS lifecycle hook got HTTP response, \
                retry with HTTP succeeded";
    harness.event("asks", event).await;
    harness.delete("asks").await;
    harness.wait_deleted("asks").await;
    harness.logged("sink", "c", "/stopping").await;
    let events = harness.events("asks").await;
    let failed = events.iter().any(|event| event.contains("Failed"));
    assert!(!failed, "{events:#?}");
    harness.end().await;
}

pub async fn hooks_that_fail_are_told_without_what_they_printed() {
    // statefulset.md 12.6
    let harness = Harness::started("hooksfail").await;
    let trace = Trace::new(&harness);
    let of = |policy: &str, lifecycle: Value| {
        json!({"restartPolicy": policy, "containers": [{"name": "c", "command": traced("c"),
            "lifecycle": lifecycle, "volumeMounts": [Trace::mount()]}],
            "volumes": [trace.volume()]})
    };
    let fails = "until test -e /tmp/hears; do sleep 0.05; done; echo password; exit 3";
    let fails = json!({"exec": {"command": ["sh", "-c", fails]}});
    harness
        .pod("first", of("Always", json!({"postStart": fails})))
        .await;
    let has_failed = |pod: &Pod| state(pod, "c").0 == "PostStartHookError";
    let pod = harness.until("first", "told", has_failed).await;
    let status = pod.status.unwrap().container_statuses.unwrap().remove(0);
    let message = status.state.unwrap().waiting.unwrap().message.unwrap();
    assert!(
        message.contains("failed - error: command 'sh -c until"),
        "{message}"
    );
    assert!(
        message.contains("exited with 3: , message: \"password\\n\""),
        "{message}"
    );
    // The container received the termination signal and exited.
    let ended = status.last_state.unwrap().terminated.unwrap();
    assert_eq!(ended.exit_code, 0);
    let waits = |pod: &Pod| state(pod, "c").0 == "CrashLoopBackOff";
    harness.until("first", "backing off", waits).await;
    harness
        .event("first", "Normal Killing FailedPostStartHook")
        .await;
    let events = harness.events("first").await;
    let event = "Warning FailedPostStartHook PostStartHook failed".to_owned();
    assert!(events.contains(&event), "{events:#?}");
    // The container was restarted without a delay. A later start may have followed by now.
    let order = trace.written("order");
    assert!(order.starts_with("c ends\nc ends\n"), "{order}");
    harness.delete("first").await;
    harness.wait_deleted("first").await;

    // No connection is opened: kubelet does not support this hook, although the API accepts it.
    let none = json!({"postStart": {"tcpSocket": {"port": 80}}});
    let mut spec = of("Never", none);
    spec["terminationGracePeriodSeconds"] = json!(1);
    harness.pod("never", spec).await;
    let ended = |pod: &Pod| matches!(phase(pod), "Failed" | "Succeeded");
    harness.until("never", "ended", ended).await;
    harness
        .event("never", "Warning FailedPostStartHook PostStartHook failed")
        .await;

    // A failing `preStop` hook does not delay the termination.
    let fails = "until test -e /tmp/hears; do sleep 0.05; done; echo password; exit 4";
    let fails = json!({"preStop": {"exec": {"command": shell(fails)}}});
    std::fs::remove_file(trace.0.join("order")).unwrap();
    harness.pod("last", of("Always", fails)).await;
    harness.ready("last").await;
    harness.delete("last").await;
    harness.wait_deleted("last").await;
    harness.event("last", "Warning FailedPreStopHook").await;
    let events = harness.events("last").await;
    let event = "Warning FailedPreStopHook PreStopHook failed".to_owned();
    assert!(events.contains(&event), "{events:#?}");
    assert_eq!(trace.written("order"), "c ends\n");
    harness.end().await;
}

pub async fn containers_get_the_signal_that_they_ask_for() {
    // statefulset.md 12.6, 12.7
    let harness = Harness::started("signals").await;
    let trace = Trace::new(&harness);
    let image = "test/quits:1";
    let put = |signal: &str| {
        let config = ImageConfig {
            stop_signal: Some(signal.to_owned()),
            ..ImageConfig::default()
        };
        images::put(&harness, image, &layer(), config);
    };
    put("SIGQUIT");
    let container = |name: &str, image: &str, signal: Option<&str>| {
        let received =
            |signal: &str| format!("trap 'echo {signal} > /trace/{name}; exit 0' {signal}");
        let traps: Vec<String> = ["TERM", "QUIT", "USR1", "INT"].map(received).into();
        let script = format!(
            "{}; echo up; while true; do sleep 0.05; done",
            traps.join("; ")
        );
        let lifecycle = signal.map(|signal| json!({"stopSignal": signal}));
        json!({"name": name, "image": image, "command": shell(&script), "lifecycle": lifecycle,
            "volumeMounts": [Trace::mount()]})
    };
    let usual = crate::harness::IMAGE;
    let spec = json!({"os": {"name": "linux"}, "volumes": [trace.volume()], "containers": [
        container("plain", usual, None), container("image", image, None),
        container("own", usual, Some("SIGUSR1")), container("both", image, Some("SIGINT"))]});
    harness.pod("p", spec).await;
    harness.ready("p").await;
    for name in ["plain", "image", "own", "both"] {
        harness.logged("p", name, "up").await;
    }
    // The image name refers to another image by now, which does not matter.
    put("SIGUSR1");
    harness.delete("p").await;
    harness.wait_deleted("p").await;
    for (name, signal) in [
        ("plain", "TERM"),
        ("image", "QUIT"),
        ("own", "USR1"),
        ("both", "INT"),
    ] {
        assert_eq!(trace.written(name), format!("{signal}\n"), "{name}");
    }
    harness.end().await;
}

/// findings R7: pods that a killed agent has left are terminated as their specifications say, without an
/// agent.
pub async fn what_an_agent_has_left_ends_as_its_pods_say() {
    // statefulset.md 12.6, 12.7
    let mut harness = Harness::new("left").await;
    harness.start(OnShutdown::LeavePods).await;
    let trace = Trace::new(&harness);
    let image = "test/quits:1";
    let config = ImageConfig {
        stop_signal: Some("SIGQUIT".to_owned()),
        ..ImageConfig::default()
    };
    images::put(&harness, image, &layer(), config);
    let script = "trap 'echo c quits >> /trace/order; exit 0' QUIT; touch /trace/c; \
        while true; do sleep 0.05; done";
    let hook = |script: &str| json!({"preStop": {"exec": {"command": shell(script)}}});
    let mounts = json!([Trace::mount()]);
    let spec = json!({"volumes": [trace.volume()],
        "initContainers": [{"name": "sidecar", "restartPolicy": "Always",
            "command": traced("sidecar"), "volumeMounts": mounts}],
        "containers": [
            {"name": "c", "image": image, "command": shell(script), "volumeMounts": mounts,
                "lifecycle": hook("sleep 0.3; echo hook >> /trace/order")},
            {"name": "bad", "command": shell("trap 'exit 0' TERM; sleep 1000000 & wait"),
                "lifecycle": hook("exit 4")}]});
    harness.pod("p", spec).await;
    let unknown = json!({"volumes": [trace.volume()], "containers": [
        {"name": "unknown", "command": traced("unknown"), "volumeMounts": mounts}]});
    harness.pod("unknown", unknown).await;
    harness.ready("p").await;
    let unknown = harness.ready("unknown").await.metadata.uid.unwrap();
    holds("all hear", || {
        ["c", "sidecar", "unknown"]
            .iter()
            .all(|name| trace.0.join(name).exists())
    })
    .await;
    harness.stop().await;
    let object = format!("pods/default_unknown_{unknown}/.state/pod.json");
    std::fs::remove_file(harness.dir.join(object)).unwrap();

    let left = LeftPods::read(&harness.dir).unwrap();
    let mut notes = Vec::new();
    for sandbox in harness.runtime.sandboxes().await.unwrap() {
        let is_unknown = sandbox.id() == unknown;
        let messages = left.end(&sandbox).await.unwrap();
        assert_eq!(messages.len(), 1, "{messages:?}");
        notes.push((is_unknown, messages.concat()));
        if !is_unknown {
            let order = trace.written("order").replace("unknown ends\n", "");
            assert_eq!(order, "hook\nc quits\nsidecar ends\n");
        }
    }
    notes.sort();
    assert!(notes[0].1.contains("a preStop hook failed"), "{notes:?}");
    assert!(
        notes[1].1.contains("its object is not on disk"),
        "{notes:?}"
    );
    assert!(trace.written("order").contains("unknown ends\n"));
    harness.start(OnShutdown::StopPods).await;
    for name in ["p", "unknown"] {
        harness.delete(name).await;
        harness.wait_deleted(name).await;
    }
    harness.end().await;
}

/// findings R7: the next agent runs a hook again that was interrupted when the agent was killed. The agent
/// does not wait for the end of the grace period.
pub async fn a_hook_that_was_cut_off_runs_again() {
    // statefulset.md 12.6
    let mut harness = Harness::new("again").await;
    harness.start(OnShutdown::LeavePods).await;
    let trace = Trace::new(&harness);
    let hook = "echo hook >> /trace/order; while [ ! -e /trace/go ]; do sleep 0.05; done";
    let spec = json!({"volumes": [trace.volume()], "terminationGracePeriodSeconds": 3600,
        "containers": [{"name": "c", "command": traced("c"), "volumeMounts": [Trace::mount()],
            "lifecycle": {"preStop": {"exec": {"command": shell(hook)}}}}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;
    holds("it hears", || trace.0.join("c").exists()).await;
    harness.delete("p").await;
    holds("the hook runs", || trace.written("order") == "hook\n").await;
    harness.stop().await;
    trace.make("go");
    harness.start(OnShutdown::StopPods).await;
    harness.wait_deleted("p").await;
    assert_eq!(trace.written("order"), "hook\nhook\nc ends\n");
    harness.end().await;
}
