//! Clean-up after the last container: the sandbox, the volumes and the API object are removed.

use super::action::LifecycleAction;
use super::planner::{Planner, PodEndReason};
use crate::limits::STOP_FAILURES_MAX;
use crate::record::{Removal, Sandbox, Volumes, backoff};

/// Cleans up after a pod whose containers have all ended.
pub(crate) fn clear_away(planner: &mut Planner<'_>, ending: PodEndReason) {
    let record = planner.input.record;
    let node_stops = planner.input.node_stops.is_some();
    let gives_up = |failures: u32| node_stops && failures >= STOP_FAILURES_MAX;
    match &record.sandbox {
        Sandbox::Ready | Sandbox::Gone => return planner.act(LifecycleAction::DestroySandbox),
        Sandbox::Failed { .. } if gives_up(record.sandbox_failures) => {}
        Sandbox::Failed { at, .. } => {
            let due = backoff::retry_at(*at, record.sandbox_failures);
            if due <= planner.now.instant {
                return planner.act(LifecycleAction::DestroySandbox);
            }
            planner.wake(due);
            return planner.wait("", "sandbox");
        }
        Sandbox::Creating | Sandbox::Destroying => return planner.wait("", "sandbox"),
        Sandbox::None => {}
    }
    let release = LifecycleAction::ReleaseVolumes {
        comes_back: ending == PodEndReason::NodeStops,
    };
    match &record.volumes {
        Volumes::Ready | Volumes::Unknown => planner.act(release),
        Volumes::Failed { .. } if gives_up(record.volume_failures) => planner.plan.finished = true,
        Volumes::Failed { at, .. } => {
            let due = backoff::retry_at(*at, record.volume_failures);
            if due <= planner.now.instant {
                planner.act(release);
            } else {
                planner.wake(due);
                planner.wait("", "volumes");
            }
        }
        Volumes::Preparing | Volumes::Releasing => planner.wait("", "volumes"),
        Volumes::None if ending == PodEndReason::Deleted => remove_object(planner),
        Volumes::None => planner.plan.finished = node_stops,
    }
}

fn remove_object(planner: &mut Planner<'_>) {
    if planner.input.is_removed() {
        planner.plan.finished = true;
        return;
    }
    match &planner.input.record.removal {
        Removal::None => planner.act(LifecycleAction::RemoveObject),
        Removal::Asked => planner.wait("", "removal of the object"),
        // The API object stays; the next agent removes it.
        Removal::Failed { .. } if planner.input.node_stops.is_some() => {
            planner.plan.finished = true
        }
        Removal::Failed { at, failures } => {
            let due = backoff::retry_at(*at, *failures);
            if due <= planner.now.instant {
                planner.act(LifecycleAction::RemoveObject);
            } else {
                planner.wake(due);
                planner.wait("", "removal of the object");
            }
        }
        Removal::Done => planner.plan.finished = true,
    }
}
