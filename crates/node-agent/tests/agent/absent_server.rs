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

use crate::leases::pod;
use crate::node::until_some;
use crate::pods::SLEEP;
use crate::restarts::container_id;
use crate::world::{World, is_ready, state};

/// Stops the agent but not its pods, and starts another agent without an API server.
async fn start_alone(world: &mut World) {
    world.stop().await;
    world.away.store(true, Ordering::Relaxed);
    world.start(OnShutdown::StopPods).await;
}

fn comes_back(world: &World) {
    world.away.store(false, Ordering::Relaxed);
}

async fn sandbox(world: &World, pod: &Pod) -> Sandbox {
    let uid = pod.metadata.uid.as_deref().unwrap();
    world.runtime.sandbox(uid).await.unwrap().unwrap()
}

/// Kills the process of a pod's container, and waits until the next instance runs.
async fn crash(world: &World, pod: &Pod, number: u32) {
    let sandbox = sandbox(world, pod).await;
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
    let mut world = World::new("alone").await;
    world.start(OnShutdown::LeavePods).await;
    let service = json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}});
    world.create::<Service>(service).await;
    let script = format!("echo \"$DB_SERVICE_PORT\"; {SLEEP}");
    let container = json!({"name": "c", "command": ["sh", "-c", script],
        "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp"]}, "periodSeconds": 1}});
    // The agent may observe the Service later than a pod.
    world.pod("first", json!({"containers": [container]})).await;
    world.ready("first").await;
    for name in ["kept", "crashes"] {
        world.pod(name, json!({"containers": [container]})).await;
    }
    let running = world.ready("kept").await;
    let crashes = world.ready("crashes").await;
    start_alone(&mut world).await;
    crash(&world, &crashes, 0).await;
    // Logs are available without an API server.
    let log = world.logged("crashes", "c", "5432").await;
    assert_eq!(log, "5432\n");
    let stored = world.ready("crashes").await;
    assert_eq!(state(&stored, "c").1, 0, "nobody has told it");
    comes_back(&world);
    let again = |pod: &Pod| is_ready(pod) && state(pod, "c") == ("running".to_owned(), 1);
    let after = world.until("crashes", "started again", again).await;
    assert_eq!(after.metadata.uid, crashes.metadata.uid);
    let now = world.ready("kept").await;
    assert_eq!(container_id(&now), container_id(&running));
    assert_eq!(now.status, running.status);
    // After the restart of the server, the agent manages the pods as before.
    world.delete("kept").await;
    world.wait_deleted("kept").await;
    world.end().await;
}

/// While no API server responds, an agent restarts a container that it has started, with the stored
/// ConfigMaps and Secrets.
pub async fn a_container_keeps_its_environment_while_the_server_is_away() {
    let mut world = World::new("aloneenv").await;
    world.start(OnShutdown::StopPods).await;
    let map = json!({"metadata": {"name": "settings"}, "data": {"mode": "fast"}});
    world.create::<ConfigMap>(map).await;
    let secret = json!({"metadata": {"name": "password"}, "stringData": {"word": "open"}});
    world.create::<Secret>(secret).await;
    let script = format!("echo \"$mode $WORD\"; {SLEEP}");
    let word = json!({"secretKeyRef": {"name": "password", "key": "word"}});
    let container = json!({"name": "c", "command": ["sh", "-c", script],
        "envFrom": [{"configMapRef": {"name": "settings"}}],
        "env": [{"name": "WORD", "valueFrom": word}]});
    world.pod("p", json!({"containers": [container]})).await;
    let pod = world.ready("p").await;
    world.away.store(true, Ordering::Relaxed);
    crash(&world, &pod, 0).await;
    assert_eq!(world.logged("p", "c", "open").await, "fast open\n");
    comes_back(&world);
    let again = |pod: &Pod| is_ready(pod) && state(pod, "c") == ("running".to_owned(), 1);
    world.until("p", "started again", again).await;
    world.end().await;
}

/// Two pods with one name never run concurrently: a running pod whose object is deleted ends before the
/// next pod of its name starts.
pub async fn what_was_deleted_meanwhile_ends_before_its_successor() {
    // statefulset.md 3.32
    let mut world = World::new("alonegone").await;
    world.start(OnShutdown::LeavePods).await;
    let spec = json!({"containers": [{"name": "c", "command": ["sh", "-c", SLEEP]}]});
    let first = world.pod("p", spec.clone()).await;
    world.ready("p").await;
    start_alone(&mut world).await;
    crash(&world, &first, 0).await;
    let at_once = DeleteParams::default().grace_period(0);
    world.api::<Pod>().delete("p", &at_once).await.unwrap();
    world.wait_deleted("p").await;
    let second = world.pod("p", spec).await;
    let bodies = async || {
        let sandboxes = world.runtime.sandboxes().await.unwrap();
        let ids = sandboxes.iter().map(|one| one.id().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(bodies().await, [first.metadata.uid.clone().unwrap()]);
    comes_back(&world);
    until_some("the second pod", async || {
        let bodies = bodies().await;
        assert!(bodies.len() <= 1, "{bodies:?}");
        let pod = world.api::<Pod>().get("p").await.unwrap();
        is_ready(&pod).then_some(())
    })
    .await;
    assert_eq!(bodies().await, [second.metadata.uid.unwrap()]);
    world.end().await;
}

/// After a reboot, all processes are gone. An administrator may have confirmed that the machine was off, so
/// the pods may run on other nodes. The agent starts no pod before the API confirms the pod.
pub async fn a_machine_that_was_off_starts_nothing() {
    // statefulset.md 3.32
    let mut world = World::new("aloneoff").await;
    world.start(OnShutdown::LeavePods).await;
    world.create::<Pod>(pod("fails-over", true)).await;
    world.create::<Pod>(pod("waits", false)).await;
    world.create::<Pod>(pod("lives", false)).await;
    let fails_over = world.ready("fails-over").await;
    let waits = world.ready("waits").await;
    let lives = world.ready("lives").await;
    world.stop().await;
    for pod in [&fails_over, &waits] {
        sandbox(&world, pod).await.destroy().await.unwrap();
    }
    start_alone(&mut world).await;
    // The agent works: it delays the second restart.
    crash(&world, &lives, 0).await;
    crash(&world, &lives, 1).await;
    let sandboxes = world.runtime.sandboxes().await.unwrap();
    let ids: Vec<&str> = sandboxes.iter().map(Sandbox::id).collect();
    assert_eq!(ids, [lives.metadata.uid.as_deref().unwrap()]);
    comes_back(&world);
    for before in [&fails_over, &waits] {
        let name = before.metadata.name.as_deref().unwrap();
        let again = |pod: &Pod| is_ready(pod) && state(pod, "c").1 == 1;
        let after = world.until(name, "started again", again).await;
        assert_eq!(after.metadata.uid, before.metadata.uid);
    }
    world.end().await;
}

/// The bound in docs/node-failure.md: an agent without a server never moves the deadline of pods that stop
/// with the node's Lease. The pods stop at the deadline, and start again only after the Lease is renewed.
pub async fn the_deadline_of_pods_is_not_moved() {
    let mut world = World::new("alonelease").await;
    world.lease_length = LeaseLength::MIN;
    world.start(OnShutdown::LeavePods).await;
    world.create::<Pod>(pod("ends", true)).await;
    world.create::<Pod>(pod("lives", false)).await;
    let ends = world.ready("ends").await;
    let lives = world.ready("lives").await;
    world.stop().await;
    let deadline = deadline(&world);
    start_alone(&mut world).await;
    crash(&world, &lives, 0).await;
    until_some("the pod ends with the lease", async || {
        assert_eq!(self::deadline(&world), deadline);
        let uid = ends.metadata.uid.as_deref().unwrap();
        let Some(sandbox) = world.runtime.sandbox(uid).await.unwrap() else {
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
    crash(&world, &lives, 1).await;
    assert_eq!(self::deadline(&world), deadline);
    let sandbox = sandbox(&world, &lives).await;
    assert!(sandbox.spec().lease.is_none());
    comes_back(&world);
    let again = |pod: &Pod| is_ready(pod) && state(pod, "c").1 >= 1;
    world.until("ends", "started again", again).await;
    assert!(self::deadline(&world) > deadline);
    world.end().await;
}

/// The deadline in the page of this boot.
fn deadline(world: &World) -> Duration {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let page = format!("node-lease/deadline-{}", boot.trim());
    let bytes = fs::read(world.dir.join(page)).unwrap();
    Duration::from_nanos(u64::from_ne_bytes(bytes[..8].try_into().unwrap()))
}
