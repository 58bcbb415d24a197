//! Termination of a pod or a container: hooks, signals, grace periods and their order.
//!
//! statefulset.md §12.7: the hooks of all containers start at once. Then each container gets the stop
//! signal, and has the rest of the grace period, at least 2 s. Then the container is killed. A sidecar gets
//! its signal only after the main containers and all later sidecars have ended, or after the grace period.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Container;

use super::action::LifecycleAction;
use super::cleanup::clear_away;
use super::planner::{Planner, PodEndReason};
use super::probing::ask;
use crate::limits::{KILL_AGAIN, NODE_STOP_GRACE_MAX_SECONDS, STOP_MIN};
use crate::messages;
use crate::monotonic::Instant;
use crate::record::{Hook, Instance, Running, Stop, StopCause};
use crate::spec::{
    Kind, ProbeKind, containers, grace_seconds, has_no_grace, init_containers, init_kind,
};

/// Plans a pod that is ending.
pub(crate) fn end_pod(planner: &mut Planner<'_>, ending: PodEndReason) {
    let spec = planner.spec;
    let mut is_running = false;
    let ephemeral = planner.ephemeral.iter().map(|c| (Kind::Ephemeral, c));
    for (kind, container) in containers(spec).chain(ephemeral) {
        let Some(record) = planner.input.record.containers.get(&container.name) else {
            continue;
        };
        match &record.instance {
            Instance::Running(running) => {
                is_running = true;
                end_container(planner, (kind, container), running, ending);
            }
            Instance::Starting { .. } => {
                is_running = true;
                planner.wait(&container.name, "start");
            }
            Instance::Absent | Instance::Refused(_) | Instance::Exited(_) => {}
        }
    }
    if !is_running {
        clear_away(planner, ending);
    }
}

fn end_container(
    planner: &mut Planner<'_>,
    (kind, container): (Kind, &Container),
    running: &Running,
    ending: PodEndReason,
) {
    if running.stop.is_none() {
        let cause = match ending {
            PodEndReason::NodeStops => StopCause::NodeStops,
            _ => StopCause::PodEnds,
        };
        let grace = pod_grace(planner);
        return begin(planner, container, cause, grace);
    }
    let may_terminate = kind != Kind::Sidecar || later_ones_ended(planner, &container.name);
    advance_stop(planner, container, running, may_terminate);
    if kind != Kind::Init {
        ask(planner, container, running, ProbeKind::Readiness);
    }
}

/// The grace period of the deletion or, without a deletion, of the pod. A failure or a node shutdown limits
/// it.
fn pod_grace(planner: &Planner<'_>) -> i64 {
    let requested = planner.input.pod.metadata.deletion_grace_period_seconds;
    let seconds = if planner.input.is_removed() && planner.input.node_stops.is_some() {
        // Only the node waits for this second.
        1
    } else if has_no_grace(planner.spec) && requested.unwrap_or(0) <= 1 {
        cov_mark::hit!(findings_c26);
        0
    } else {
        requested
            .unwrap_or_else(|| grace_seconds(planner.spec))
            .max(1)
    };
    let failure = planner.input.record.failure.as_ref();
    let limits = [
        failure.and_then(|failure| failure.grace_seconds),
        node_grace(planner),
    ];
    limits.into_iter().flatten().fold(seconds, i64::min)
}

/// The limit of a node shutdown: the administrator's limit, and at most [`NODE_STOP_GRACE_MAX_SECONDS`].
fn node_grace(planner: &Planner<'_>) -> Option<i64> {
    let stop = planner.input.node_stops?;
    cov_mark::hit!(findings_s33);
    Some(stop.grace_seconds.unwrap_or(NODE_STOP_GRACE_MAX_SECONDS))
}

/// Whether all containers that depend on a sidecar have exited.
fn later_ones_ended(planner: &Planner<'_>, sidecar: &str) -> bool {
    let spec = planner.spec;
    let ended = |container: &Container| {
        let record = planner.input.record.containers.get(&container.name);
        !record
            .is_some_and(|r| matches!(r.instance, Instance::Running(_) | Instance::Starting { .. }))
    };
    let mut later = init_containers(spec)
        .iter()
        .skip_while(|c| c.name != sidecar)
        .skip(1);
    spec.containers.iter().all(ended) && later.all(|c| init_kind(c) != Kind::Sidecar || ended(c))
}

/// Starts the termination of a container: its `preStop` hook, then the stop signal.
pub(crate) fn begin(
    planner: &mut Planner<'_>,
    container: &Container,
    cause: StopCause,
    grace_seconds: i64,
) {
    let lifecycle = container.lifecycle.as_ref();
    let again = planner.spec.restart_policy.as_deref() != Some("Never");
    planner.act(LifecycleAction::BeginStop {
        container: container.name.clone(),
        message: messages::killing(&container.name, &cause, again),
        cause,
        grace_seconds,
        pre_stop: grace_seconds > 0 && lifecycle.is_some_and(|l| l.pre_stop.is_some()),
    });
}

/// Starts a container's termination without a grace period.
pub(crate) fn begin_at_once(planner: &mut Planner<'_>, container: &Container, cause: StopCause) {
    planner.act(LifecycleAction::BeginStop {
        container: container.name.clone(),
        message: messages::killing(&container.name, &cause, true),
        cause,
        grace_seconds: 0,
        pre_stop: false,
    });
}

/// Plans the next step of a container's termination. `turn` is true if the container may get its stop
/// signal.
pub(crate) fn advance_stop(
    planner: &mut Planner<'_>,
    container: &Container,
    running: &Running,
    may_terminate: bool,
) {
    let Some(stop) = &running.stop else { return };
    let name = &container.name;
    let now = planner.now.instant;
    let grace_end = grace_end(planner, stop);
    let Some(signalled) = stop.signalled_at else {
        let hook_over = stop.pre_stop != Hook::Running;
        if (hook_over && may_terminate) || grace_end <= now {
            planner.act(LifecycleAction::Terminate {
                container: name.clone(),
            });
        } else {
            planner.wake(grace_end);
            let awaited = if hook_over {
                "the containers it serves"
            } else {
                "preStop hook"
            };
            planner.wait(name, awaited);
        }
        return;
    };
    let kill_at = match stop.killed_at {
        None if stop.grace_seconds == 0 && has_no_grace(planner.spec) => grace_end,
        None => grace_end.max(signalled + STOP_MIN),
        Some(killed) => killed + KILL_AGAIN,
    };
    if kill_at <= now {
        planner.act(LifecycleAction::Kill {
            container: name.clone(),
        });
    } else {
        planner.wake(kill_at);
        planner.wait(name, "its process to end");
    }
}

/// The end of the grace period. A later deletion can only shorten the grace period.
fn grace_end(planner: &Planner<'_>, stop: &Stop) -> Instant {
    let ending =
        planner.input.is_removed() || planner.input.pod.metadata.deletion_timestamp.is_some();
    // In a node shutdown, too, a user can shorten the grace period by a forced deletion.
    let sooner = ending && matches!(stop.cause, StopCause::PodEnds | StopCause::NodeStops);
    let seconds = if sooner || node_grace(planner).is_some() {
        stop.grace_seconds.min(pod_grace(planner))
    } else {
        stop.grace_seconds
    };
    stop.since + SignedDuration::from_secs(seconds.clamp(0, i64::from(i32::MAX)))
}
