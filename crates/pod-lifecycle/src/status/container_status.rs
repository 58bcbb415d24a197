//! The status of each container in a pod's status.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, LinuxContainerUser,
    ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::input::PodInput;
use crate::limits::FRESH_ERROR;
use crate::messages;
use crate::monotonic::Instant;
use crate::record::probes::ProbeVerdict;
use crate::record::{ContainerRecord, Exit, Hook, Image, Instance, Running, User};
use crate::restart_policy;
use crate::spec::{Kind, init_containers};

/// Prefix of container ids in statuses.
pub const RUNTIME_NAME: &str = "mainstay";

/// The input of container statuses, in addition to the containers.
pub(crate) struct StatusInput<'a> {
    pub input: &'a PodInput<'a>,
    /// Whether containers of this pod may still start.
    pub starts: bool,
    /// Whether a container without a recorded exit counts as lost.
    pub lost: bool,
    pub now: Instant,
}

/// Whether the container counts as started: its hook and its startup probe have succeeded.
pub(crate) fn is_started(running: &Running, container: &Container) -> bool {
    let hook = running.post_start == Hook::Done;
    let probe =
        container.startup_probe.is_none() || running.startup.verdict == ProbeVerdict::Success;
    hook && probe
}

fn is_ready(running: &Running, container: &Container) -> bool {
    let probe =
        container.readiness_probe.is_none() || running.readiness.verdict == ProbeVerdict::Success;
    is_started(running, container) && probe
}

/// The status of one container; `before` has the previous statuses.
pub(crate) fn container_status(
    view: &StatusInput<'_>,
    kind: Kind,
    container: &Container,
    before: Option<&[ContainerStatus]>,
) -> ContainerStatus {
    let status = current_status(view, kind, container);
    let mut before = before.into_iter().flatten();
    match before.find(|before| before.name == container.name) {
        Some(before) if takes_back(view, kind, container, before, &status) => before.clone(),
        _ => status,
    }
}

/// Whether a status would revert the exit of a container. A container must not run again, but does: in a
/// new sandbox, or because its record was lost. Its status stays terminated until the container exits
/// again. A single instance exits only once.
fn takes_back(
    view: &StatusInput<'_>,
    kind: Kind,
    container: &Container,
    before: &ContainerStatus,
    after: &ContainerStatus,
) -> bool {
    let terminated = |status: &ContainerStatus| status.state.clone()?.terminated;
    let (Some(ended), None) = (terminated(before), terminated(after)) else {
        return false;
    };
    let runs = after.state.as_ref().is_some_and(|s| s.running.is_some());
    let spec = view.input.pod.spec.as_ref();
    let may =
        spec.is_some_and(|spec| restart_policy::may_go_on(spec, kind, container, ended.exit_code));
    !may || runs && after.container_id == before.container_id
}

/// The status of one container from its record alone.
fn current_status(view: &StatusInput<'_>, kind: Kind, container: &Container) -> ContainerStatus {
    let fresh = ContainerRecord::default();
    let record = view
        .input
        .record
        .containers
        .get(&container.name)
        .unwrap_or(&fresh);
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        restart_count: i32::try_from(record.restart_count).unwrap_or(i32::MAX),
        started: Some(false),
        ..ContainerStatus::default()
    };
    let (state, last) = states(view, kind, container, record);
    status.state = Some(state);
    status.last_state = Some(last.map_or_else(ContainerState::default, terminated));
    match &record.instance {
        Instance::Running(running) => {
            status.started = Some(is_started(running, container));
            status.ready =
                matches!(kind, Kind::Sidecar | Kind::Main) && is_ready(running, container);
            identify(&mut status, &running.id, &running.image, &running.image_id);
            status.user = running.user.as_ref().map(user_status);
            status.volume_mounts = volume_mounts(container);
        }
        _ => {
            let ended = record.ended().or(record.last_exit.as_ref());
            if let Some(exit) = ended {
                identify(&mut status, &exit.id, &exit.image, &exit.image_id);
            }
        }
    }
    if kind == Kind::Ephemeral {
        // Other containers do not wait for this container.
        status.started = None;
    } else {
        set_resources(&mut status, view, container, record);
    }
    if kind == Kind::Init {
        let ended = status
            .state
            .as_ref()
            .and_then(|state| state.terminated.as_ref());
        status.ready = ended.is_some_and(|ended| ended.exit_code == 0);
    }
    status
}

/// Sets the applied and the allocated resources of the container; absent if the container requests no
/// resources.
fn set_resources(
    status: &mut ContainerStatus,
    view: &StatusInput<'_>,
    container: &Container,
    record: &ContainerRecord,
) {
    let allocated = view.input.record.resize.allocated.as_ref();
    let allocated = allocated.and_then(|allocated| allocated.get(&container.name));
    let Some(allocated) = allocated.filter(|all| **all != ResourceRequirements::default()) else {
        return;
    };
    let applied = match &record.instance {
        Instance::Running(running) => running.resources.as_deref(),
        _ => None,
    };
    status.resources = Some(applied.unwrap_or(allocated).clone());
    status.allocated_resources = allocated.requests.clone();
}

fn user_status(user: &User) -> ContainerUser {
    ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: Some(user.groups.iter().map(|gid| i64::from(*gid)).collect()),
        }),
    }
}

/// The statuses of the container's mounts. Recursive read-only mounts have the requested mode.
fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let statuses = container.volume_mounts.as_ref()?.iter().map(|mount| {
        let read_only = mount.read_only == Some(true);
        let requested = mount.recursive_read_only.as_deref();
        let recursive = match requested {
            Some("Enabled" | "IfPossible") => "Enabled",
            _ => "Disabled",
        };
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only.then(|| recursive.to_owned()),
            ..VolumeMountStatus::default()
        }
    });
    Some(statuses.collect())
}

fn identify(status: &mut ContainerStatus, id: &str, image: &str, image_id: &str) {
    status.container_id = Some(container_id(id));
    status.image = image.to_owned();
    status.image_id = image_id.to_owned();
}

fn container_id(id: &str) -> String {
    format!("{RUNTIME_NAME}://{id}")
}

/// The container's state, and the exit for `lastState`.
fn states<'a>(
    view: &StatusInput<'_>,
    kind: Kind,
    container: &Container,
    record: &'a ContainerRecord,
) -> (ContainerState, Option<&'a Exit>) {
    let last = record.last_exit.as_ref();
    match &record.instance {
        Instance::Running(running) => {
            let started_at = Some(Time(running.started_at.wall));
            let state = ContainerStateRunning { started_at };
            (
                ContainerState {
                    running: Some(state),
                    ..ContainerState::default()
                },
                last,
            )
        }
        Instance::Exited(exit) => match delayed(view, kind, container, record, exit) {
            Some((reason, message)) => (waiting(&reason, message), Some(exit)),
            None if record.anew && view.starts => (unstarted(view, container, record), Some(exit)),
            None => (terminated(exit), last),
        },
        Instance::Starting {
            previous: Some(exit),
        } if record.anew => (unstarted(view, container, record), Some(exit)),
        Instance::Starting {
            previous: Some(exit),
        } => (terminated(exit), last),
        Instance::Refused(refusal) if view.starts => {
            let state = waiting(&refusal.reason, Some(refusal.message.clone()));
            (state, refusal.previous.as_ref())
        }
        Instance::Starting { previous: None } | Instance::Absent | Instance::Refused(_) => {
            (unstarted(view, container, record), last)
        }
    }
}

fn unstarted(
    view: &StatusInput<'_>,
    container: &Container,
    record: &ContainerRecord,
) -> ContainerState {
    if view.lost {
        return ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".to_owned()),
                message: Some(
                    "The container could not be located when the pod was terminated".to_owned(),
                ),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        };
    }
    match image_trouble(view, container, record) {
        Some((reason, message)) => waiting(&reason, message),
        None => {
            let spec = view.input.pod.spec.as_ref();
            let init = spec.is_some_and(|spec| !init_containers(spec).is_empty());
            waiting(
                if init {
                    "PodInitializing"
                } else {
                    "ContainerCreating"
                },
                None,
            )
        }
    }
}

/// Reason and message of a waiting container.
pub(crate) type WaitingReason = (String, Option<String>);

/// The reason why an exited container is not restarted yet.
fn delayed(
    view: &StatusInput<'_>,
    kind: Kind,
    container: &Container,
    record: &ContainerRecord,
    exit: &Exit,
) -> Option<WaitingReason> {
    let spec = view.input.pod.spec.as_ref()?;
    if !view.starts || !(record.anew || restart_policy::wants_restart(spec, kind, container, exit))
    {
        return None;
    }
    if let Some(trouble) = image_trouble(view, container, record) {
        return Some(trouble);
    }
    if exit.by_node || exit.sandbox != view.input.record.sandboxes_made {
        return None;
    }
    let fresh = view.now < exit.finished_at.instant + FRESH_ERROR;
    if let Some(trouble) = start_trouble(exit).filter(|_| fresh) {
        return Some(trouble);
    }
    let delay = record.backoff.delay(exit.finished_at.instant)?;
    let over = exit.finished_at.instant + delay <= view.now || delay <= SignedDuration::ZERO;
    let message = messages::crash_loop(view.input.pod, &container.name, delay);
    (!over).then(|| (messages::CRASH_LOOP_BACK_OFF.to_owned(), Some(message)))
}

/// The reason and message of a container that could not be started, or whose hook failed.
pub(crate) fn start_trouble(exit: &Exit) -> Option<WaitingReason> {
    if exit.reason == messages::START_ERROR {
        let reason = messages::RUN_CONTAINER_ERROR.to_owned();
        return Some((reason, exit.message.clone()));
    }
    let message = exit.hook_failure.clone()?;
    Some((messages::POST_START_HOOK_ERROR.to_owned(), Some(message)))
}

/// The reason why the container's image is absent.
fn image_trouble(
    view: &StatusInput<'_>,
    container: &Container,
    record: &ContainerRecord,
) -> Option<WaitingReason> {
    let (reason, message, old) = match &record.image {
        Image::Missing {
            reason,
            message,
            at,
            ..
        } => (reason, message, *at + FRESH_ERROR <= view.now),
        Image::EnsuringAgain { reason, message } => (reason, message, true),
        Image::Unknown | Image::Ensuring | Image::Present => return None,
    };
    if !(old && messages::is_backed_off(reason)) {
        return Some((reason.clone(), Some(message.clone())));
    }
    let image = container.image.as_deref().unwrap_or_default();
    let message = messages::pull_back_off_state(image, reason, message);
    Some((messages::IMAGE_PULL_BACK_OFF.to_owned(), Some(message)))
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message,
        }),
        ..ContainerState::default()
    }
}

fn terminated(exit: &Exit) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(container_id(&exit.id)),
            exit_code: exit.code,
            finished_at: Some(Time(exit.finished_at.wall)),
            message: exit.message.clone(),
            reason: Some(exit.reason.clone()),
            signal: None,
            started_at: Some(Time(exit.started_at.unwrap_or(exit.finished_at.wall))),
        }),
        ..ContainerState::default()
    }
}
