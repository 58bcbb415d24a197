//! The adoption of a pod after a restart of the agent: its record is updated from the real state of its sandbox.

use container_runtime::spec::{ContainerState, ContainerStatus, SandboxState, SandboxStatus};
use container_runtime::{Events, Sandbox};
use k8s_openapi::api::core::v1::{Container, Pod};
use pod_lifecycle::record::{self, Exit, Hook, Instance, Running};
use pod_lifecycle::spec;
use pod_lifecycle::{Moment, PodIdentity, PodRecord};

use super::recovery::StoredPod;
use crate::containers::instance::{exit_of, public_id, termination_message, user_of};
use crate::limits::{SHIM_CHECK_INTERVAL, SHIM_SETTLES_MAX};
use crate::paths::{PodDir, runtime_id};

/// The state of a sandbox, and a subscription to its events; a dead sandbox has no events. A start that the
/// former agent requested is finished by then. Containers that were created and not started are removed,
/// because their configuration may have changed.
pub async fn reconnect(
    sandbox: &Sandbox,
) -> container_runtime::Result<(SandboxState, Option<Events>)> {
    let events = sandbox.events().await.ok();
    let mut state = settled(sandbox).await?;
    if state.status == SandboxStatus::Ready {
        for id in unstarted(&state) {
            match sandbox.remove(&id).await {
                Ok(()) => drop(state.containers.remove(&id)),
                Err(error) => {
                    tracing::warn!(sandbox = sandbox.id(), id, %error, "instance not removed");
                }
            }
        }
    }
    Ok((state, events))
}

/// The sandbox's state after its shim has finished its requests, or after a timeout.
async fn settled(sandbox: &Sandbox) -> container_runtime::Result<SandboxState> {
    let deadline = tokio::time::Instant::now() + SHIM_SETTLES_MAX;
    loop {
        let state = sandbox.state().await?;
        let busy = state.containers.values().any(|container| container.busy);
        if !busy || tokio::time::Instant::now() >= deadline {
            return Ok(state);
        }
        tokio::time::sleep(SHIM_CHECK_INTERVAL).await;
    }
}

fn unstarted(state: &SandboxState) -> Vec<String> {
    let containers = state.containers.iter();
    containers
        .filter(|(_, container)| container.status == ContainerStatus::Created && !container.busy)
        .map(|(id, _)| id.clone())
        .collect()
}

/// The pod whose record is updated from the real state of its sandbox.
pub struct RecoveredPod<'a> {
    pub identity: &'a PodIdentity,
    pub pod: &'a Pod,
    pub dir: &'a PodDir,
    /// The id of an image for the pod's status.
    pub image_id: &'a dyn Fn(&str) -> Option<String>,
    pub now: Moment,
}

/// Updates a record from the real state of the sandbox. Reads files.
pub fn adopt(stored: StoredPod, pod: &RecoveredPod<'_>, state: Option<&SandboxState>) -> StoredPod {
    let mut record = stored.record.without_work_in_flight();
    let mut volumes = stored.volumes;
    if let Some(state) = state {
        if record.sandboxes_made == 0 {
            record.sandboxes_made = 1;
        }
        adopt_containers(&mut record, pod, state);
        let alive = state.status == SandboxStatus::Ready;
        // An unfinished sandbox is created again.
        record.sandbox = match record.sandbox {
            record::Sandbox::Ready if alive => record::Sandbox::Ready,
            _ if alive && record.anything_runs() => record::Sandbox::Ready,
            _ => record::Sandbox::Gone,
        };
    } else if record.sandbox != record::Sandbox::None {
        record.sandbox = record::Sandbox::Gone;
    }
    if record.sandbox != record::Sandbox::Ready {
        let sandbox = record.sandbox.clone();
        record.sandbox_lost(pod.now);
        record.sandbox = sandbox;
        // The machine may have been rebooted since the record was written.
        if record.volumes == record::Volumes::Ready {
            record.volumes = record::Volumes::Unknown;
        }
    }
    if record.volumes == record::Volumes::None {
        volumes.clear();
    }
    StoredPod { record, volumes }
}

/// Updates the containers of a record from the real state. Reads files.
pub fn adopt_containers(record: &mut PodRecord, pod: &RecoveredPod<'_>, state: &SandboxState) {
    let sandbox = record.sandboxes_made;
    let spec = pod.pod.spec.clone().unwrap_or_default();
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let names: Vec<String> = spec::containers(&spec)
        .map(|(_, container)| container.name.clone())
        .chain(ephemeral.map(|container| container.name.clone()))
        .collect();
    for name in names {
        let Some((_, container)) = spec::find(&spec, &name) else {
            continue;
        };
        let record = record.container(&name);
        let Some(newest) = newest_instance(state, &name) else {
            continue;
        };
        let restart_count = newest.restart_count;
        let is_current = matches!(&record.instance, Instance::Running(_))
            && runtime_id(&name, record.restart_count) == newest.state.id;
        if !is_current && !is_new(record, restart_count, sandbox) {
            continue;
        }
        if !is_current {
            let Some(mut running) = running(pod, &container, &newest, sandbox) else {
                continue;
            };
            running.image_id = (pod.image_id)(&running.image).unwrap_or_default();
            record.started(running);
            record.restart_count = restart_count;
        }
        if let (ContainerStatus::Exited(exit), Instance::Running(running)) =
            (&newest.state.status, &record.instance)
        {
            let message = termination_message(pod.dir, &container, restart_count, exit.code);
            let exit: Exit = exit_of(running, exit, message, pod.now);
            record.exited(exit);
        }
    }
}

/// Whether the record does not have the start of this instance yet.
fn is_new(record: &record::ContainerRecord, restart_count: u32, sandbox: u32) -> bool {
    match &record.instance {
        Instance::Absent => true,
        Instance::Exited(exit) => restart_count > record.restart_count || exit.sandbox != sandbox,
        Instance::Refused(_) | Instance::Starting { .. } => {
            restart_count >= record.next_restart_count()
        }
        Instance::Running(_) => restart_count > record.restart_count,
    }
}

/// An instance of a container in the sandbox.
struct SandboxInstance<'a> {
    restart_count: u32,
    state: &'a ContainerState,
}

fn newest_instance<'a>(state: &'a SandboxState, name: &str) -> Option<SandboxInstance<'a>> {
    let containers = state.containers.values();
    let of_name = containers.filter(|container| container.name == name);
    let instances = of_name.filter_map(|state| {
        let annotation = "io.kubernetes.container.restartCount";
        let restart_count = state.annotations.get(annotation)?.parse().ok()?;
        Some(SandboxInstance {
            restart_count,
            state,
        })
    });
    instances.max_by_key(|instance| instance.restart_count)
}

/// The record of an instance that the former agent did not record; `None` if the instance has not started.
fn running(
    pod: &RecoveredPod<'_>,
    container: &Container,
    instance: &SandboxInstance<'_>,
    sandbox: u32,
) -> Option<Running> {
    let started_at = match &instance.state.status {
        ContainerStatus::Created => return None,
        ContainerStatus::Running { started_at, .. } => *started_at,
        ContainerStatus::Exited(exit) => exit.started_at.unwrap_or(exit.finished_at),
    };
    Some(Running {
        id: public_id(&pod.identity.uid, &container.name, instance.restart_count),
        sandbox,
        image: container.image.clone().unwrap_or_default(),
        image_id: String::new(),
        user: Some(user_of(&instance.state.user)),
        started_at: pod.now.past(started_at),
        // The hook may have run already. It runs again, because each instance must run the hook at least
        // once.
        post_start: Hook::post_start(container),
        startup: Default::default(),
        liveness: Default::default(),
        readiness: Default::default(),
        checks: Default::default(),
        stop: None,
        resources: None,
        update: Default::default(),
        of_pod: None,
        stop_signal: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::PreparedVolumes;
    use container_runtime::spec::{Exit as RuntimeExit, ResolvedUser, SandboxSpec};
    use jiff::Timestamp;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn moment() -> Moment {
        Moment::aligned(now())
    }

    fn pod() -> Pod {
        json_tree::from_value(json_tree::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}))
        .unwrap()
    }

    fn state(number: u32, status: ContainerStatus, alive: bool) -> SandboxState {
        let container = ContainerState {
            id: runtime_id("c", number),
            name: "c".to_owned(),
            created_at: now(),
            status,
            log_path: None,
            annotations: [(
                "io.kubernetes.container.restartCount".to_owned(),
                number.to_string(),
            )]
            .into(),
            user: ResolvedUser::default(),
            busy: false,
        };
        SandboxState {
            spec: SandboxSpec::default(),
            status: if alive {
                SandboxStatus::Ready
            } else {
                SandboxStatus::Dead
            },
            pid: 1,
            created_at: now(),
            containers: [(container.id.clone(), container)].into(),
        }
    }

    fn identity() -> PodIdentity {
        PodIdentity::read(&pod()).unwrap()
    }

    fn running_status() -> ContainerStatus {
        ContainerStatus::Running {
            pid: 7,
            started_at: now(),
        }
    }

    fn stored_pod(number: u32) -> StoredPod {
        let mut record = PodRecord {
            sandbox: record::Sandbox::Ready,
            sandboxes_made: 1,
            ..PodRecord::default()
        };
        let state = state(number, running_status(), true);
        let pod = pod();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let instance = newest_instance(&state, "c").unwrap();
        let (identity, dir) = (identity(), PodDir::at("/nonexistent".into()));
        let recovered = RecoveredPod {
            identity: &identity,
            pod: &pod,
            dir: &dir,
            image_id: &|_| None,
            now: moment(),
        };
        let running = running(&recovered, container, &instance, 1).unwrap();
        record.container("c").started(running);
        record.container("c").restart_count = number;
        StoredPod {
            record,
            volumes: PreparedVolumes::new(),
        }
    }

    fn adopted(stored: StoredPod, state: Option<SandboxState>) -> PodRecord {
        adopted_as(stored, state, &pod())
    }

    fn adopted_as(stored: StoredPod, state: Option<SandboxState>, pod: &Pod) -> PodRecord {
        let (identity, dir) = (identity(), PodDir::at("/nonexistent".into()));
        let recovered = RecoveredPod {
            identity: &identity,
            pod,
            dir: &dir,
            image_id: &|name| Some(format!("{name}@sha256:1")),
            now: moment(),
        };
        adopt(stored, &recovered, state.as_ref()).record
    }

    #[test]
    fn running_containers_are_taken_over_as_they_are() {
        let stored = stored_pod(3);
        let record = adopted(stored.clone(), Some(state(3, running_status(), true)));
        assert_eq!(record, stored.record);
    }

    #[test]
    fn an_exit_that_nobody_heard_of_is_noted() {
        let exit = RuntimeExit {
            code: 3,
            signal: None,
            oom_killed: false,
            started_at: Some(now()),
            finished_at: now(),
            start_error: None,
        };
        let record = adopted(
            stored_pod(0),
            Some(state(0, ContainerStatus::Exited(exit), true)),
        );
        let ended = record.containers["c"].ended().unwrap();
        assert_eq!((ended.code, ended.reason.as_str()), (3, "Error"));
    }

    #[test]
    fn a_start_that_nobody_noted_is_found() {
        let mut stored = stored_pod(0);
        stored.record.containers.clear();
        let record = adopted(stored, Some(state(0, running_status(), true)));
        let Instance::Running(running) = &record.containers["c"].instance else {
            panic!("{record:?}");
        };
        assert_eq!(running.image_id, "i@sha256:1");
        assert_eq!(running.post_start, Hook::Done);
        assert_eq!(record.containers["c"].restart_count, 0);
    }

    #[test]
    fn who_started_unnoted_has_the_hook_to_come() {
        let mut pod = pod();
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        container.lifecycle = json_tree::from_value(json_tree::json!({
            "postStart": {"sleep": {"seconds": 1}}}))
        .unwrap();
        let mut stored = stored_pod(0);
        let recorded = adopted_as(stored.clone(), Some(state(0, running_status(), true)), &pod);
        stored.record.containers.clear();
        let unrecorded = adopted_as(stored, Some(state(0, running_status(), true)), &pod);
        let hook = |record: &PodRecord| match &record.containers["c"].instance {
            Instance::Running(running) => running.post_start.clone(),
            instance => panic!("{instance:?}"),
        };
        assert_eq!(
            (hook(&recorded), hook(&unrecorded)),
            (Hook::Done, Hook::Pending)
        );
    }

    #[test]
    fn only_what_was_created_and_is_left_alone_is_unstarted() {
        let mut created = state(0, ContainerStatus::Created, true);
        assert_eq!(unstarted(&created), ["c-0"]);
        created.containers.get_mut("c-0").unwrap().busy = true;
        assert_eq!(unstarted(&created), [""; 0]);
        assert_eq!(unstarted(&state(0, running_status(), true)), [""; 0]);
    }

    #[test]
    fn a_dead_or_missing_sandbox_takes_its_containers_along() {
        for state in [None, Some(state(0, running_status(), false))] {
            let record = adopted(stored_pod(0), state);
            assert_eq!(record.sandbox, record::Sandbox::Gone);
            assert_eq!(record.containers["c"].ended().unwrap().code, 255);
            assert_eq!(record.containers["c"].next_restart_count(), 1);
        }
    }

    #[test]
    fn volumes_without_a_sandbox_are_looked_at_again() {
        let mut stored = stored_pod(0);
        stored.record.volumes = record::Volumes::Ready;
        let alive = adopted(stored.clone(), Some(state(0, running_status(), true)));
        assert_eq!(alive.volumes, record::Volumes::Ready);
        for state in [None, Some(state(0, running_status(), false))] {
            let record = adopted(stored.clone(), state);
            assert_eq!(record.volumes, record::Volumes::Unknown);
        }
    }
}
