//! postStart and preStop hooks, and the stop signal.

use image_store::ImageConfig;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::Pod;
use node_agent::{LeftPods, OnShutdown};
use std::time::Instant;

use crate::images;
use crate::spec::shell;
use crate::trace::{Trace, holds, traced};
use crate::world::{World, is_ready, layer, phase, state};

/// Whether the only container runs, but does not count as started yet.
fn runs_unstarted(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().unwrap().container_statuses.as_ref();
    let status = statuses.and_then(|all| all.first());
    status.is_some_and(|status| status.started == Some(false)) && state(pod, "c").0 == "running"
}

pub async fn hooks_ask_wait_and_hold_back_what_follows() {
    // statefulset.md 12.6, 12.7
    let world = World::started("hooks").await;
    let trace = Trace::new(&world);
    // The server has no page to serve, but any response is a success, as with kubelet.
    let sink = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["busybox", "httpd", "-f", "-vv", "-p", "80", "-h", "/tmp"],
            "readinessProbe": {"tcpSocket": {"port": 80}}}]});
    world.pod("sink", sink).await;
    let address = world.ready("sink").await.status.unwrap().pod_ip.unwrap();
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
    world.pod("asks", of(asks)).await;
    world.ready("asks").await;
    holds("it hears signals", || trace.0.join("c").exists()).await;
    world.logged("sink", "c", "/started").await;
    let log = world.logs("sink", "c").await;
    assert!(!log.contains("/stopping"), "{log}");
    world.delete("asks").await;
    world.wait_deleted("asks").await;
    world.logged("sink", "c", "/stopping").await;
    assert_eq!(trace.written("order"), "c ends\n");
    let events = world.events("asks").await;
    assert!(
        !events.iter().any(|event| event.contains("Hook")),
        "{events:#?}"
    );

    // A container whose hook still runs does not count as started.
    let waits = "until test -e /trace/go -a -e /tmp/hears; do sleep 0.05; done";
    let lifecycle = json!({"postStart": {"exec": {"command": shell(waits)}},
        "preStop": {"exec": {"command": shell("echo hook >> /trace/order")}}});
    world.pod("held", of(lifecycle)).await;
    let pod = world.until("held", "held", runs_unstarted).await;
    assert!(!is_ready(&pod));
    trace.make("go");
    world.ready("held").await;
    world.delete("held").await;
    world.wait_deleted("held").await;
    assert_eq!(trace.written("order"), "c ends\nhook\nc ends\n");

    let sleeps =
        json!({"postStart": {"sleep": {"seconds": 1}}, "preStop": {"sleep": {"seconds": 1}}});
    let begun = Instant::now();
    world.pod("sleeps", of(sleeps)).await;
    world.ready("sleeps").await;
    assert!(begun.elapsed().as_secs_f32() >= 1.0, "postStart");
    let begun = Instant::now();
    world.delete("sleeps").await;
    world.wait_deleted("sleeps").await;
    assert!(begun.elapsed().as_secs_f32() >= 1.0, "preStop");
    world.end().await;
}

pub async fn a_hook_by_https_is_heard_by_who_speaks_no_tls() {
    // statefulset.md 12.6
    let world = World::started("hookshttp").await;
    let sink = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["busybox", "httpd", "-f", "-vv", "-p", "80", "-h", "/tmp"],
            "readinessProbe": {"tcpSocket": {"port": 80}}}]});
    world.pod("sink", sink).await;
    let address = world.ready("sink").await.status.unwrap().pod_ip.unwrap();
    let asks = |path: &str| json!({"httpGet": {"host": address, "port": 80, "path": path, "scheme": "HTTPS"}});
    let spec = json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "command": shell("sleep 1000"),
            "lifecycle": {"postStart": asks("/started"), "preStop": asks("/stopping")}}]});
    world.pod("asks", spec).await;
    world.ready("asks").await;
    world.logged("sink", "c", "/started").await;
    let event = "Warning LifecycleHTTPFallback request to HTTPS lifecycle hook got HTTP response, \
                retry with HTTP succeeded";
    world.event("asks", event).await;
    world.delete("asks").await;
    world.wait_deleted("asks").await;
    world.logged("sink", "c", "/stopping").await;
    let events = world.events("asks").await;
    let failed = events.iter().any(|event| event.contains("Failed"));
    assert!(!failed, "{events:#?}");
    world.end().await;
}

pub async fn hooks_that_fail_are_told_without_what_they_printed() {
    // statefulset.md 12.6
    let world = World::started("hooksfail").await;
    let trace = Trace::new(&world);
    let of = |policy: &str, lifecycle: Value| {
        json!({"restartPolicy": policy, "containers": [{"name": "c", "command": traced("c"),
            "lifecycle": lifecycle, "volumeMounts": [Trace::mount()]}],
            "volumes": [trace.volume()]})
    };
    let fails = "until test -e /tmp/hears; do sleep 0.05; done; echo password; exit 3";
    let fails = json!({"exec": {"command": ["sh", "-c", fails]}});
    world
        .pod("first", of("Always", json!({"postStart": fails})))
        .await;
    let has_failed = |pod: &Pod| state(pod, "c").0 == "PostStartHookError";
    let pod = world.until("first", "told", has_failed).await;
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
    world.until("first", "backing off", waits).await;
    world
        .event("first", "Normal Killing FailedPostStartHook")
        .await;
    let events = world.events("first").await;
    let event = "Warning FailedPostStartHook PostStartHook failed".to_owned();
    assert!(events.contains(&event), "{events:#?}");
    // The container was restarted without a delay. A later start may have followed by now.
    let order = trace.written("order");
    assert!(order.starts_with("c ends\nc ends\n"), "{order}");
    world.delete("first").await;
    world.wait_deleted("first").await;

    // No connection is opened: kubelet does not support this hook, although the API accepts it.
    let none = json!({"postStart": {"tcpSocket": {"port": 80}}});
    let mut spec = of("Never", none);
    spec["terminationGracePeriodSeconds"] = json!(1);
    world.pod("never", spec).await;
    let ended = |pod: &Pod| matches!(phase(pod), "Failed" | "Succeeded");
    world.until("never", "ended", ended).await;
    world
        .event("never", "Warning FailedPostStartHook PostStartHook failed")
        .await;

    // A failing `preStop` hook does not delay the termination.
    let fails = "until test -e /tmp/hears; do sleep 0.05; done; echo password; exit 4";
    let fails = json!({"preStop": {"exec": {"command": shell(fails)}}});
    std::fs::remove_file(trace.0.join("order")).unwrap();
    world.pod("last", of("Always", fails)).await;
    world.ready("last").await;
    world.delete("last").await;
    world.wait_deleted("last").await;
    world.event("last", "Warning FailedPreStopHook").await;
    let events = world.events("last").await;
    let event = "Warning FailedPreStopHook PreStopHook failed".to_owned();
    assert!(events.contains(&event), "{events:#?}");
    assert_eq!(trace.written("order"), "c ends\n");
    world.end().await;
}

pub async fn containers_get_the_signal_that_they_ask_for() {
    // statefulset.md 12.6, 12.7
    let world = World::started("signals").await;
    let trace = Trace::new(&world);
    let image = "test/quits:1";
    let put = |signal: &str| {
        let config = ImageConfig {
            stop_signal: Some(signal.to_owned()),
            ..ImageConfig::default()
        };
        images::put(&world, image, &layer(), config);
    };
    put("SIGQUIT");
    let container = |name: &str, image: &str, signal: Option<&str>| {
        let heard = |signal: &str| format!("trap 'echo {signal} > /trace/{name}; exit 0' {signal}");
        let traps: Vec<String> = ["TERM", "QUIT", "USR1", "INT"].map(heard).into();
        let script = format!(
            "{}; echo up; while true; do sleep 0.05; done",
            traps.join("; ")
        );
        let lifecycle = signal.map(|signal| json!({"stopSignal": signal}));
        json!({"name": name, "image": image, "command": shell(&script), "lifecycle": lifecycle,
            "volumeMounts": [Trace::mount()]})
    };
    let usual = crate::world::IMAGE;
    let spec = json!({"os": {"name": "linux"}, "volumes": [trace.volume()], "containers": [
        container("plain", usual, None), container("image", image, None),
        container("own", usual, Some("SIGUSR1")), container("both", image, Some("SIGINT"))]});
    world.pod("p", spec).await;
    world.ready("p").await;
    for name in ["plain", "image", "own", "both"] {
        world.logged("p", name, "up").await;
    }
    // The image name refers to another image by now, which does not matter.
    put("SIGUSR1");
    world.delete("p").await;
    world.wait_deleted("p").await;
    for (name, signal) in [
        ("plain", "TERM"),
        ("image", "QUIT"),
        ("own", "USR1"),
        ("both", "INT"),
    ] {
        assert_eq!(trace.written(name), format!("{signal}\n"), "{name}");
    }
    world.end().await;
}

/// findings R7: pods that a killed agent has left are terminated as their specifications say, without an
/// agent.
pub async fn what_an_agent_has_left_ends_as_its_pods_say() {
    // statefulset.md 12.6, 12.7
    let mut world = World::new("left").await;
    world.start(OnShutdown::LeavePods).await;
    let trace = Trace::new(&world);
    let image = "test/quits:1";
    let config = ImageConfig {
        stop_signal: Some("SIGQUIT".to_owned()),
        ..ImageConfig::default()
    };
    images::put(&world, image, &layer(), config);
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
    world.pod("p", spec).await;
    let unknown = json!({"volumes": [trace.volume()], "containers": [
        {"name": "unknown", "command": traced("unknown"), "volumeMounts": mounts}]});
    world.pod("unknown", unknown).await;
    world.ready("p").await;
    let unknown = world.ready("unknown").await.metadata.uid.unwrap();
    holds("all hear", || {
        ["c", "sidecar", "unknown"]
            .iter()
            .all(|name| trace.0.join(name).exists())
    })
    .await;
    world.stop().await;
    let object = format!("pods/default_unknown_{unknown}/.state/pod.json");
    std::fs::remove_file(world.dir.join(object)).unwrap();

    let left = LeftPods::read(&world.dir).unwrap();
    let mut notes = Vec::new();
    for sandbox in world.runtime.sandboxes().await.unwrap() {
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
    world.start(OnShutdown::StopPods).await;
    for name in ["p", "unknown"] {
        world.delete(name).await;
        world.wait_deleted(name).await;
    }
    world.end().await;
}

/// findings R7: the next agent runs a hook again that was interrupted when the agent was killed. The agent
/// does not wait for the end of the grace period.
pub async fn a_hook_that_was_cut_off_runs_again() {
    // statefulset.md 12.6
    let mut world = World::new("again").await;
    world.start(OnShutdown::LeavePods).await;
    let trace = Trace::new(&world);
    let hook = "echo hook >> /trace/order; while [ ! -e /trace/go ]; do sleep 0.05; done";
    let spec = json!({"volumes": [trace.volume()], "terminationGracePeriodSeconds": 3600,
        "containers": [{"name": "c", "command": traced("c"), "volumeMounts": [Trace::mount()],
            "lifecycle": {"preStop": {"exec": {"command": shell(hook)}}}}]});
    world.pod("p", spec).await;
    world.ready("p").await;
    holds("it hears", || trace.0.join("c").exists()).await;
    world.delete("p").await;
    holds("the hook runs", || trace.written("order") == "hook\n").await;
    world.stop().await;
    trace.make("go");
    world.start(OnShutdown::StopPods).await;
    world.wait_deleted("p").await;
    assert_eq!(trace.written("order"), "hook\nhook\nc ends\n");
    world.end().await;
}
