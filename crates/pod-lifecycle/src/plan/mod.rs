//! `plan_pod`: the next actions for a pod, from its specification and its record.
//!
//! **Goal.** Containers run in the order and under the policies of the pod's specification; the status is
//! correct; a pod is cleaned up completely before its object is removed. **Rely.** The agent performs each
//! action once, records its start and its result in the [`PodRecord`], and plans again after each change
//! and at `next_at`. **Guarantee.** Total and deterministic. No container of a pod starts while an older
//! pod with the pod's name is on the node. A pod that the API has not confirmed gets no new sandbox. No
//! container starts in a pod that is ending. The object is removed only after containers, sandbox and
//! volumes. If there is no action, `waiting` has the reason.

mod action;
mod cleanup;
mod planner;
mod probing;
mod resize;
mod restart_all;
mod starting;
mod stopping;

use k8s_openapi::api::core::v1::{PodSpec, PodStatus};

use crate::input::PodInput;
use crate::messages;
use crate::monotonic::Moment;
use crate::spec;
use crate::status::{self, phase};
pub use action::LifecycleAction;
use planner::{Planner, PodEndReason, deadline};
pub use planner::{PodPlan, Waiting};

/// Plans the actions for a pod.
pub fn plan_pod(input: &PodInput<'_>, now: Moment) -> PodPlan {
    let empty = PodSpec::default();
    let spec = input.pod.spec.as_ref().unwrap_or(&empty);
    let ephemeral = spec::ephemeral_containers(spec);
    let mut planner = Planner {
        input: *input,
        spec,
        ephemeral: &ephemeral,
        now,
        plan: PodPlan::default(),
    };
    let ending = ending(input, spec);
    match ending {
        Some(ending) => stopping::end_pod(&mut planner, ending),
        // The next plan uses the record with the failure.
        None if deadline(input, spec).is_some_and(|at| at <= now.instant) => {
            planner.act(LifecycleAction::FailPod(messages::deadline_exceeded()));
        }
        None => starting::run_pod(&mut planner),
    }
    let final_status = match ending {
        Some(PodEndReason::Deleted) if !planner.input.record.anything_runs() => {
            phase::FinalStatus::Deleted
        }
        Some(PodEndReason::FailedByNode) if !planner.input.record.anything_runs() => {
            phase::FinalStatus::FailedByNode
        }
        _ => phase::FinalStatus::No,
    };
    planner.plan.status = status::pod_status(input, spec, final_status, now);
    planner.plan
}

/// The reason why the pod ends; `None` if it does not end.
fn ending(input: &PodInput<'_>, spec: &PodSpec) -> Option<PodEndReason> {
    if input.is_removed() || input.pod.metadata.deletion_timestamp.is_some() {
        return Some(PodEndReason::Deleted);
    }
    let has_ended =
        |status: &PodStatus| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if has_ended(input.previous) || input.pod.status.as_ref().is_some_and(has_ended) {
        return Some(PodEndReason::Complete);
    }
    if input.record.failure.is_some() {
        return Some(PodEndReason::FailedByNode);
    }
    if input.node_stops.is_some() {
        return Some(PodEndReason::NodeStops);
    }
    phase::is_complete(spec, input.record).then_some(PodEndReason::Complete)
}
