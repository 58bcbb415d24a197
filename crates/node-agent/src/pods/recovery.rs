//! Recovery after a restart of the agent: each pod's record on disk, and the running sandboxes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use container_runtime::spec::{ContainerState, ContainerStatus, SandboxState, SandboxStatus};
use container_runtime::{Events, Sandbox};
use host_kernel::durable_file::{self, Durability};
use host_kernel::tree;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pod_lifecycle::record::{self, Exit, Hook, Instance, Running};
use pod_lifecycle::spec;
use pod_lifecycle::{Moment, PodRecord};
use serde::{Deserialize, Serialize};

use crate::containers::instance::{exit_of, last_words, public_id, user_of};
use crate::limits::{SHIM_LOOK_INTERVAL, SHIM_SETTLES_MAX};
use crate::paths::{PodDir, pods_dir, runtime_id};
use crate::volumes::PreparedVolumes;

/// The stored state of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredPod {
    pub record: PodRecord,
    #[serde(default)]
    pub volumes: PreparedVolumes,
}

/// Stores a pod's record, and with `with_object` also its object.
pub fn store(dir: &PodDir, pod: &Pod, stored: &StoredPod, with_object: bool) -> io::Result<()> {
    fs::create_dir_all(dir.state())?;
    if with_object {
        replace(&dir.object(), &serde_json::to_vec(pod)?)?;
    }
    replace(&dir.record(), &serde_json::to_vec(stored)?)
}

/// Replaces a file atomically: after a power failure, the file has its old or its new content.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    durable_file::replace(path, bytes, 0o600, Durability::Content)
}

/// A pod that a former agent has left.
#[derive(Clone, Debug)]
pub struct FoundPod {
    /// The pod's object as the agent last read it.
    pub pod: Arc<Pod>,
    /// The stored record and volumes.
    pub stored: StoredPod,
    /// Whether the pod had a record. A pod that had just arrived, or that was about to be cleaned up, has
    /// no record.
    pub recorded: bool,
}

/// All pods of a former agent, by UID. An unreadable record is logged and renamed; the pod's state is then
/// read from its sandbox. Directories that belong to no pod are logged and ignored.
pub fn found(data_dir: &Path) -> io::Result<BTreeMap<String, FoundPod>> {
    let mut pods = BTreeMap::new();
    let root = pods_dir(data_dir);
    tree::make_private(&root)?;
    for entry in fs::read_dir(&root)? {
        let dir = PodDir::at(entry?.path());
        match find(&dir) {
            Ok(found) => {
                let uid = found.pod.metadata.uid.clone().unwrap_or_default();
                pods.insert(uid, found);
            }
            Err(error) => {
                tracing::warn!(dir = %dir.root().display(), %error, "pod record not read");
            }
        }
    }
    Ok(pods)
}

fn find(dir: &PodDir) -> io::Result<FoundPod> {
    let named = pod_of_name(dir).ok_or(io::ErrorKind::NotFound)?;
    let pod = read::<Pod>(&dir.object())?.unwrap_or(named);
    let stored = read::<StoredPod>(&dir.record())?;
    Ok(FoundPod {
        pod: Arc::new(pod),
        recorded: stored.is_some(),
        stored: stored.unwrap_or_else(|| {
            // Volumes may exist without a record, because their preparation begins before the record is
            // written.
            let volumes = record::Volumes::Unknown;
            StoredPod {
                record: PodRecord {
                    volumes,
                    ..PodRecord::default()
                },
                ..StoredPod::default()
            }
        }),
    })
}

/// The content of a file; `None` if the file does not exist or is malformed. A malformed file is renamed,
/// so that an administrator can read it.
fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            cov_mark::hit!(findings_a13);
            let aside = path.with_extension("unreadable");
            fs::rename(path, &aside)?;
            let (path, aside) = (path.display(), aside.display());
            tracing::error!(%path, %aside, %error, "the record of a pod cannot be read");
            Ok(None)
        }
    }
}

/// The pod of a directory without a readable object, from the name of the directory.
fn pod_of_name(dir: &PodDir) -> Option<Pod> {
    let mut parts = dir.root().file_name()?.to_str()?.split('_');
    let mut part = || {
        parts
            .next()
            .map(str::to_owned)
            .filter(|part| !part.is_empty())
    };
    let (namespace, name, uid) = (part()?, part()?, part()?);
    Some(Pod {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace),
            uid: Some(uid),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    })
}

/// The pod of a sandbox without a directory, from the labels of the sandbox.
pub fn pod_of_sandbox(sandbox: &Sandbox) -> Pod {
    let note = |key: &str| sandbox.spec().annotations.get(key).cloned();
    Pod {
        metadata: ObjectMeta {
            name: note("io.kubernetes.pod.name"),
            namespace: note("io.kubernetes.pod.namespace"),
            uid: Some(sandbox.id().to_owned()),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    }
}

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
        tokio::time::sleep(SHIM_LOOK_INTERVAL).await;
    }
}

fn unstarted(state: &SandboxState) -> Vec<String> {
    let containers = state.containers.iter();
    containers
        .filter(|(_, found)| found.status == ContainerStatus::Created && !found.busy)
        .map(|(id, _)| id.clone())
        .collect()
}

/// Updates a record from the real state of the sandbox. `image_id` returns the id of an image for the pod's
/// status.
pub fn adopt(
    stored: StoredPod,
    pod: &Pod,
    dir: &PodDir,
    state: Option<&SandboxState>,
    image_id: &dyn Fn(&str) -> Option<String>,
    now: Moment,
) -> StoredPod {
    let mut record = stored.record.without_work_in_flight();
    let mut volumes = stored.volumes;
    if let Some(state) = state {
        if record.sandboxes_made == 0 {
            record.sandboxes_made = 1;
        }
        adopt_containers(&mut record, pod, (dir, now), state, image_id);
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
        let was = record.sandbox.clone();
        record.sandbox_lost(now);
        record.sandbox = was;
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

/// Updates the containers of a record from the real state.
pub fn adopt_containers(
    record: &mut PodRecord,
    pod: &Pod,
    (dir, now): (&PodDir, Moment),
    state: &SandboxState,
    image_id: &dyn Fn(&str) -> Option<String>,
) {
    let sandbox = record.sandboxes_made;
    let spec = pod.spec.clone().unwrap_or_default();
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let names: Vec<String> = spec::containers(&spec)
        .map(|(_, container)| container.name.clone())
        .chain(ephemeral.map(|container| container.name.clone()))
        .collect();
    for name in names {
        let Some((_, container)) = spec::find(&spec, &name) else {
            continue;
        };
        let known = record.container(&name);
        let newest = newest_instance(state, &name);
        let Some((number, found)) = newest else {
            continue;
        };
        let is_current = matches!(&known.instance, Instance::Running(_))
            && runtime_id(&name, known.restart_count) == found.id;
        if !is_current && !starts_anew(known, number, sandbox) {
            continue;
        }
        if !is_current {
            let Some(mut running) = running_of(pod, &container, (number, sandbox), found, now)
            else {
                continue;
            };
            running.image_id = image_id(&running.image).unwrap_or_default();
            known.started(running);
            known.restart_count = number;
        }
        if let (ContainerStatus::Exited(exit), Instance::Running(running)) =
            (&found.status, &known.instance)
        {
            let said = last_words(dir, &container, number, exit.code);
            let ended: Exit = exit_of(running, exit, said, now);
            known.exited(ended);
        }
    }
}

/// Whether the record does not have the start of this instance yet.
fn starts_anew(known: &record::ContainerRecord, number: u32, sandbox: u32) -> bool {
    match &known.instance {
        Instance::Absent => true,
        Instance::Exited(exit) => number > known.restart_count || exit.sandbox != sandbox,
        Instance::Refused(_) | Instance::Starting { .. } => number >= known.next_restart_count(),
        Instance::Running(_) => number > known.restart_count,
    }
}

fn newest_instance<'a>(state: &'a SandboxState, name: &str) -> Option<(u32, &'a ContainerState)> {
    let of_name = state
        .containers
        .values()
        .filter(|container| container.name == name);
    let numbered = of_name.filter_map(|container| {
        let number = container
            .annotations
            .get("io.kubernetes.container.restartCount")?;
        Some((number.parse().ok()?, container))
    });
    numbered.max_by_key(|(number, _)| *number)
}

fn running_of(
    pod: &Pod,
    container: &k8s_openapi::api::core::v1::Container,
    (number, sandbox): (u32, u32),
    found: &ContainerState,
    now: Moment,
) -> Option<Running> {
    let started_at = match &found.status {
        ContainerStatus::Created => return None,
        ContainerStatus::Running { started_at, .. } => *started_at,
        ContainerStatus::Exited(exit) => exit.started_at.unwrap_or(exit.finished_at),
    };
    Some(Running {
        id: public_id(pod, &container.name, number),
        sandbox,
        image: container.image.clone().unwrap_or_default(),
        image_id: String::new(),
        user: Some(user_of(&found.user)),
        started_at: now.past(started_at),
        // The hook may have run already. It runs again, because each instance must run the hook at least
        // once.
        post_start: Hook::post_start(container),
        startup: Default::default(),
        liveness: Default::default(),
        readiness: Default::default(),
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

    fn running() -> ContainerStatus {
        ContainerStatus::Running {
            pid: 7,
            started_at: now(),
        }
    }

    fn known(number: u32) -> StoredPod {
        let mut record = PodRecord {
            sandbox: record::Sandbox::Ready,
            sandboxes_made: 1,
            ..PodRecord::default()
        };
        let state = state(number, running(), true);
        let pod = pod();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let found = state.containers.values().next().unwrap();
        let one = running_of(&pod, container, (number, 1), found, moment()).unwrap();
        record.container("c").started(one);
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
        let dir = PodDir::at("/nonexistent".into());
        let image_id = |name: &str| Some(format!("{name}@sha256:1"));
        adopt(stored, pod, &dir, state.as_ref(), &image_id, moment()).record
    }

    #[test]
    fn running_containers_are_taken_over_as_they_are() {
        let stored = known(3);
        let record = adopted(stored.clone(), Some(state(3, running(), true)));
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
            known(0),
            Some(state(0, ContainerStatus::Exited(exit), true)),
        );
        let ended = record.containers["c"].ended().unwrap();
        assert_eq!((ended.code, ended.reason.as_str()), (3, "Error"));
    }

    #[test]
    fn a_start_that_nobody_noted_is_found() {
        let mut stored = known(0);
        stored.record.containers.clear();
        let record = adopted(stored, Some(state(0, running(), true)));
        let Instance::Running(found) = &record.containers["c"].instance else {
            panic!("{record:?}");
        };
        assert_eq!(found.image_id, "i@sha256:1");
        assert_eq!(found.post_start, Hook::Done);
        assert_eq!(record.containers["c"].restart_count, 0);
    }

    #[test]
    fn who_started_unnoted_has_the_hook_to_come() {
        let mut pod = pod();
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        container.lifecycle = json_tree::from_value(json_tree::json!({
            "postStart": {"sleep": {"seconds": 1}}}))
        .unwrap();
        let mut stored = known(0);
        let noted = adopted_as(stored.clone(), Some(state(0, running(), true)), &pod);
        stored.record.containers.clear();
        let found = adopted_as(stored, Some(state(0, running(), true)), &pod);
        let hook = |record: &PodRecord| match &record.containers["c"].instance {
            Instance::Running(running) => running.post_start.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!((hook(&noted), hook(&found)), (Hook::Done, Hook::Pending));
    }

    #[test]
    fn only_what_was_created_and_is_left_alone_is_unstarted() {
        let mut created = state(0, ContainerStatus::Created, true);
        assert_eq!(unstarted(&created), ["c-0"]);
        created.containers.get_mut("c-0").unwrap().busy = true;
        assert_eq!(unstarted(&created), [""; 0]);
        assert_eq!(unstarted(&state(0, running(), true)), [""; 0]);
    }

    #[test]
    fn a_dead_or_missing_sandbox_takes_its_containers_along() {
        for found in [None, Some(state(0, running(), false))] {
            let record = adopted(known(0), found);
            assert_eq!(record.sandbox, record::Sandbox::Gone);
            assert_eq!(record.containers["c"].ended().unwrap().code, 255);
            assert_eq!(record.containers["c"].next_restart_count(), 1);
        }
    }

    #[test]
    fn volumes_without_a_sandbox_are_looked_at_again() {
        let mut stored = known(0);
        stored.record.volumes = record::Volumes::Ready;
        let alive = adopted(stored.clone(), Some(state(0, running(), true)));
        assert_eq!(alive.volumes, record::Volumes::Ready);
        for state in [None, Some(state(0, running(), false))] {
            let record = adopted(stored.clone(), state);
            assert_eq!(record.volumes, record::Volumes::Unknown);
        }
    }

    #[test]
    fn records_are_kept_and_found() {
        let temp = tempfile::tempdir().unwrap();
        let dir = PodDir::of(temp.path(), &pod());
        store(&dir, &pod(), &known(2), true).unwrap();
        let found = found(temp.path()).unwrap();
        assert_eq!(found["u"].stored, known(2));
        assert!(found["u"].recorded);
    }

    #[test]
    fn what_was_cut_off_before_or_after_its_record_is_found() {
        let temp = tempfile::tempdir().unwrap();
        let dir = PodDir::of(temp.path(), &pod());
        fs::create_dir_all(dir.logs("c")).unwrap();
        let by_name = found(temp.path()).unwrap().remove("u").unwrap();
        assert_eq!(by_name.pod.metadata.name.as_deref(), Some("p"));
        assert_eq!(by_name.pod.metadata.namespace.as_deref(), Some("n"));
        assert_eq!(by_name.stored.record.volumes, record::Volumes::Unknown);
        assert!(!by_name.recorded);
        store(&dir, &pod(), &known(2), true).unwrap();
        fs::remove_file(dir.object()).unwrap();
        assert_eq!(found(temp.path()).unwrap()["u"].stored, known(2));
        // A directory that belongs to no pod is left alone.
        let other = pods_dir(temp.path()).join("lost+found");
        fs::create_dir(&other).unwrap();
        assert_eq!(found(temp.path()).unwrap().len(), 1);
        assert!(other.is_dir());
    }

    /// findings A13
    #[test]
    fn records_that_cannot_be_read_are_kept_aside_and_their_pod_is_found() {
        cov_mark::check!(findings_a13);
        let temp = tempfile::tempdir().unwrap();
        let dir = PodDir::of(temp.path(), &pod());
        for file in [dir.record(), dir.object()] {
            store(&dir, &pod(), &known(2), true).unwrap();
            fs::write(&file, "{").unwrap();
            let found = found(temp.path()).unwrap().remove("u").unwrap();
            assert_eq!(found.pod.metadata.name.as_deref(), Some("p"));
            assert_eq!(found.recorded, file != dir.record());
            let aside = file.with_extension("unreadable");
            assert_eq!(fs::read_to_string(aside).unwrap(), "{");
            assert!(!file.exists());
        }
    }

    /// The record of version 0.1.0 for a running pod: the pod keeps running during an upgrade of
    /// the agent, and the new agent has to know its state.
    #[test]
    fn what_an_earlier_version_remembered_is_understood() {
        let record = include_str!("../../tests/formats/record.json");
        let stored: StoredPod = serde_json::from_str(record).unwrap();
        let containers = &stored.record.containers;
        assert_eq!(stored.record.sandbox, record::Sandbox::Ready);
        assert_eq!(containers["main"].restart_count, 2);
        assert_eq!(
            containers["main"].last_exit.as_ref().map(|exit| exit.code),
            Some(1)
        );
        assert!(matches!(containers["side"].instance, Instance::Running(_)));
        assert!(matches!(&containers["first"].instance, Instance::Exited(exit) if exit.code == 0));
        assert_eq!(stored.volumes.len(), 4);
    }
}
