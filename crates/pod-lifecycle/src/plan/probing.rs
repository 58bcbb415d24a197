//! Scheduling of a running container's probes.

use k8s_openapi::api::core::v1::Container;
use resource_kinds::stateful_set_policy::CheckKind;

use super::action::LifecycleAction;
use super::planner::Planner;
use crate::record::Running;
use crate::record::probes::ProbeVerdict;
use crate::spec::{ProbeKind, probe};

/// Runs a probe that is due, or requests a plan for the time when it is due.
pub(crate) fn ask(
    planner: &mut Planner<'_>,
    container: &Container,
    running: &Running,
    kind: ProbeKind,
) {
    let Some(probe) = probe(planner.input.pod, container, kind) else {
        return;
    };
    let record = running.probe(kind);
    if record.in_flight {
        return;
    }
    let due = match kind {
        ProbeKind::Guard(check) if !running.is_of_run(planner.input.pod, check) => {
            planner.now.instant
        }
        // A hook runs until it succeeds.
        ProbeKind::Guard(CheckKind::Hook) if record.verdict == ProbeVerdict::Success => return,
        _ => record.due(kind, &probe, running.started_at.instant),
    };
    if due <= planner.now.instant {
        planner.act(LifecycleAction::Probe {
            container: container.name.clone(),
            kind,
        });
    } else {
        planner.wake(due);
    }
}
