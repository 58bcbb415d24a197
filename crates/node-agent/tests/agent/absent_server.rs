//! Agents that start while no API server responds.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use container_runtime::Sandbox;
use container_runtime::spec::{ContainerStatus, SandboxStatus};
use json_tree::json;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube_api_client::DeleteParams;
use node_agent::{LeaseLength, OnShutdown};

use crate::harness::{Harness, is_ready, state};
use crate::leases::pod;
use crate::node::until_some;
use crate::pods::SLEEP;
use crate::restarts::container_id;

/// Stops the agent but not its pods, and starts another agent without an API server.
async fn start_alone(harness: &mut Harness) {
    harness.stop().await;
    harness.away.store(true, Ordering::Relaxed);
    harness.start(OnShutdown::StopPods).await;
}

fn comes_back(harness: &Harness) {
    harness.away.store(false, Ordering::Relaxed);
}

async fn sandbox(harness: &Harness, pod: &Pod) -> Sandbox {
    let uid = pod.metadata.uid.as_deref().unwrap();
    harness.runtime.sandbox(uid).await.unwrap().unwrap()
}

/// Waits until the agent has stored the pod as the API server has it: an agent without an API server
/// continues from the stored pod.
async fn stored(harness: &Harness, pod: &Pod) {
    let name = pod.metadata.name.as_deref().unwrap();
    let uid = pod.metadata.uid.as_deref().unwrap();
    let file = harness
        .dir
        .join(format!("pods/default_{name}_{uid}/.state/pod.json"));
    until_some("the agent has stored the pod", async || {
        let stored: Pod = serde_json::from_slice(&fs::read(&file).ok()?).unwrap();
        (stored.status == pod.status).then_some(())
    })
    .await;
}

/// Kills the process of a pod's container, and waits until the next instance runs.
async fn crash(harness: &Harness, pod: &Pod, number: u32) {
    let sandbox = sandbox(harness, pod).await;
    sandbox.signal(&format!("c-{number}"), 9).await.unwrap();
    let next = format!("c-{}", number + 1);
    until_some("the container runs again", async || {
        let state = sandbox.state().await.ok()?;
        let status = &state.containers.get(&next)?.status;
        matches!(status, ContainerStatus::Running { .. }).then_some(())
    })
    .await;
}

/// Without an API server, containers keep their processes. Containers that exit are restarted with their
/// former environment. The status is written when the server responds again.
pub async fn containers_go_on_and_are_started_again() {
    // statefulset.md 12.5
    let mut harness = Harness::new("alone").await;
    harness.start(OnShutdown::LeavePods).await;
    let service = json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}});
    harness.create::<Service>(service).await;
    let script = format!("echo \"$DB_SERVICE_PORT\"; {SLEEP}");
    let container = json!({"name": "c", "command": ["sh", "-c", script],
        "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp"]}, "periodSeconds": 1}});
    // The agent may observe the Service later than a pod.
    harness
        .pod("first", json!({"containers": [container]}))
        .await;
    harness.ready("first").await;
    for name in ["kept", "crashes"] {
        harness.pod(name, json!({"containers": [container]})).await;
    }
    let running = harness.ready("kept").await;
    let crashes = harness.ready("crashes").await;
    stored(&harness, &running).await;
    start_alone(&mut harness).await;
    crash(&harness, &crashes, 0).await;
    // Logs are available without an API server.
    let log = harness.logged("crashes", "c", "5432").await;
    assert_eq!(log, "5432\n");
    let stored = harness.ready("crashes").await;
    assert_eq!(state(&stored, "c").1, 0, "nobody has told it");
    comes_back(&harness);
    let again = |pod: &Pod| is_ready(pod) && state(pod, "c") == ("running".to_owned(), 1);
    let after = harness.until("crashes", "started again", again).await;
    assert_eq!(after.metadata.uid, crashes.metadata.uid);
    let now = harness.ready("kept").await;
    assert_eq!(container_id(&now), container_id(&running));
    assert_eq!(now.status, running.status);
    // After the restart of the server, the agent manages the pods as before.
    harness.delete("kept").await;
    harness.wait_deleted("kept").await;
    harness.end().await;
}

/// While no API server responds, an agent restarts a container that it has started, with the stored
/// ConfigMaps and Secrets.
pub async fn a_container_keeps_its_environment_while_the_server_is_away() {
    let mut harness = Harness::new("aloneenv").await;
    harness.start(OnShutdown::StopPods).await;
    let map = json!({"metadata": {"name": "settings"}, "data": {"mode": "fast"}});
    harness.create::<ConfigMap>(map).await;
    let secret = json!({"metadata": {"name": "password"}, "stringData": {"word": "open"}});
    harness.create::<Secret>(secret).await;
    let script = format!("echo \"$mode $WORD\"; {SLEEP}");
    let word = json!({"secretKeyRef": {"name": "password", "key": "word"}});
    let container = json!({"name": "c", "command": ["sh", "-c", script],
        "envFrom": [{"configMapRef": {"name": "settings"}}],
        "env": [{"name": "WORD", "valueFrom": word}]});
    harness.pod("p", json!({"containers": [container]})).await;
    let pod = harness.ready("p").await;
    harness.away.store(true, Ordering::Relaxed);
    crash(&harness, &pod, 0).await;
    assert_eq!(harness.logged("p", "c", "open").await, "fast open\n");
    comes_back(&harness);
    let again = |pod: &Pod| is_ready(pod) && state(pod, "c") == ("running".to_owned(), 1);
    harness.until("p", "started again", again).await;
    harness.end().await;
}

/// Two pods with one name never run concurrently: a running pod whose object is deleted ends before the
/// next pod of its name starts.
pub async fn what_was_deleted_meanwhile_ends_before_its_successor() {
    // statefulset.md 3.32
    let mut harness = Harness::new("alonegone").await;
    harness.start(OnShutdown::LeavePods).await;
    let spec = json!({"containers": [{"name": "c", "command": ["sh", "-c", SLEEP]}]});
    let first = harness.pod("p", spec.clone()).await;
    harness.ready("p").await;
    start_alone(&mut harness).await;
    crash(&harness, &first, 0).await;
    let at_once = DeleteParams::default().grace_period(0);
    harness.api::<Pod>().delete("p", &at_once).await.unwrap();
    harness.wait_deleted("p").await;
    let second = harness.pod("p", spec).await;
    let bodies = async || {
        let sandboxes = harness.runtime.sandboxes().await.unwrap();
        let ids = sandboxes.iter().map(|one| one.id().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(bodies().await, [first.metadata.uid.clone().unwrap()]);
    comes_back(&harness);
    until_some("the second pod", async || {
        let bodies = bodies().await;
        assert!(bodies.len() <= 1, "{bodies:?}");
        let pod = harness.api::<Pod>().get("p").await.unwrap();
        is_ready(&pod).then_some(())
    })
    .await;
    assert_eq!(bodies().await, [second.metadata.uid.unwrap()]);
    harness.end().await;
}

/// After a reboot, all processes are gone. An administrator may have confirmed that the machine was off, so
/// the pods may run on other nodes. The agent starts no pod before the API confirms the pod.
pub async fn a_machine_that_was_off_starts_nothing() {
    // statefulset.md 3.32
    let mut harness = Harness::new("aloneoff").await;
    harness.start(OnShutdown::LeavePods).await;
    harness.create::<Pod>(pod("fails-over", true)).await;
    harness.create::<Pod>(pod("waits", false)).await;
    harness.create::<Pod>(pod("lives", false)).await;
    let fails_over = harness.ready("fails-over").await;
    let waits = harness.ready("waits").await;
    let lives = harness.ready("lives").await;
    harness.stop().await;
    for pod in [&fails_over, &waits] {
        sandbox(&harness, pod).await.destroy().await.unwrap();
    }
    start_alone(&mut harness).await;
    // The agent works: it delays the second restart.
    crash(&harness, &lives, 0).await;
    crash(&harness, &lives, 1).await;
    let sandboxes = harness.runtime.sandboxes().await.unwrap();
    let ids: Vec<&str> = sandboxes.iter().map(Sandbox::id).collect();
    assert_eq!(ids, [lives.metadata.uid.as_deref().unwrap()]);
    comes_back(&harness);
    for before in [&fails_over, &waits] {
        let name = before.metadata.name.as_deref().unwrap();
        let again = |pod: &Pod| is_ready(pod) && state(pod, "c").1 == 1;
        let after = harness.until(name, "started again", again).await;
        assert_eq!(after.metadata.uid, before.metadata.uid);
    }
    harness.end().await;
}

/// The bound in docs/node-failure.md: an agent without a server never moves the deadline of pods that stop
/// with the node's Lease. The pods stop at the deadline, and start again only after the Lease is renewed.
pub async fn the_deadline_of_pods_is_not_moved() {
    let mut harness = Harness::new("alonelease").await;
    harness.lease_length = LeaseLength::MIN;
    harness.start(OnShutdown::LeavePods).await;
    harness.create::<Pod>(pod("ends", true)).await;
    harness.create::<Pod>(pod("lives", false)).await;
    let ends = harness.ready("ends").await;
    let lives = harness.ready("lives").await;
    harness.stop().await;
    let deadline = deadline(&harness);
    start_alone(&mut harness).await;
    crash(&harness, &lives, 0).await;
    until_some("the pod ends with the lease", async || {
        assert_eq!(self::deadline(&harness), deadline);
        let uid = ends.metadata.uid.as_deref().unwrap();
        let Some(sandbox) = harness.runtime.sandbox(uid).await.unwrap() else {
            return Some(());
        };
        let is_dead = match sandbox.state().await {
            Ok(state) => state.status == SandboxStatus::Dead,
            Err(_) => true,
        };
        is_dead.then_some(())
    })
    .await;
    assert!(host_kernel::deadline::now() >= deadline);
    // The agent has observed the exit, and continues.
    crash(&harness, &lives, 1).await;
    assert_eq!(self::deadline(&harness), deadline);
    let sandbox = sandbox(&harness, &lives).await;
    assert!(sandbox.spec().lease.is_none());
    comes_back(&harness);
    let again = |pod: &Pod| is_ready(pod) && state(pod, "c").1 >= 1;
    harness.until("ends", "started again", again).await;
    assert!(self::deadline(&harness) > deadline);
    harness.end().await;
}

/// The deadline in the page of this boot.
fn deadline(harness: &Harness) -> Duration {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let page = format!("node-lease/deadline-{}", boot.trim());
    let bytes = fs::read(harness.dir.join(page)).unwrap();
    Duration::from_nanos(u64::from_ne_bytes(bytes[..8].try_into().unwrap()))
}
