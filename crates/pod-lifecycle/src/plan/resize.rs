//! In-place resize: the node allocates the requested resources, then applies them to each container.

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};

use super::action::LifecycleAction;
use super::planner::Planner;
use crate::limits::RESIZE_RETRY;
use crate::monotonic::Instant;
use crate::record::resize::{PendingReason, PendingResize, ResourceUpdate};
use crate::record::{Instance, PodRecord, Running, Sandbox};
use crate::resources::amounts::{lack, requests};
use crate::resources::resize::requested_allocation;
use crate::restart_policy;
use crate::spec::{Kind, containers};

/// Allocates the requested resources, or records why they cannot be allocated. Returns `false` if the
/// result must be recorded first.
pub(crate) fn allocate(planner: &mut Planner<'_>) -> bool {
    let resize = &planner.input.record.resize;
    let requested = requested_allocation(planner.spec);
    let generation = planner.input.pod.metadata.generation.unwrap_or(0);
    let Some(allocated) = &resize.allocated else {
        planner.act(LifecycleAction::Allocate {
            resources: requested,
        });
        return false;
    };
    if *allocated == requested {
        if resize.pending.is_some() {
            planner.act(LifecycleAction::PostponeResize(None));
            return false;
        }
        if resize.progress.is_some() && is_applied(planner.spec, planner.input.record) {
            planner.act(LifecycleAction::CompleteResize);
            return false;
        }
        return true;
    }
    if resize.pod.update == ResourceUpdate::InFlight {
        // Only one resize is in progress at a time.
        return true;
    }
    let Some((reason, message)) = lack(requests(planner.spec), &planner.input.node_resources)
    else {
        planner.act(LifecycleAction::StartResize {
            resources: requested,
            generation,
        });
        return false;
    };
    if reason == PendingReason::Deferred {
        planner.wake(planner.now.instant + RESIZE_RETRY);
    }
    planner.wait("", format!("resources: {message}"));
    let pending = resize.pending.as_ref();
    // The message about the usage of other pods may change often, so one event is enough.
    if pending.is_some_and(|pending| pending.reason == reason && pending.generation == generation) {
        return true;
    }
    planner.act(LifecycleAction::PostponeResize(Some(PendingResize {
        reason,
        message,
        generation,
    })));
    false
}

/// Whether the pod and all containers have the allocated resources, except containers that have exited and
/// will not be restarted. A container that has not started yet needs the new limits of the pod.
fn is_applied(spec: &PodSpec, record: &PodRecord) -> bool {
    let lasting = containers(spec).filter(|(kind, _)| *kind != Kind::Init);
    let applied = |(kind, container): (Kind, &Container)| {
        let container_record = record.containers.get(&container.name);
        match container_record.map(|container_record| &container_record.instance) {
            Some(Instance::Running(running)) => has_allocated(record, container, running),
            Some(Instance::Exited(exit)) => {
                !restart_policy::wants_restart(spec, kind, container, exit)
            }
            Some(Instance::Starting { .. } | Instance::Refused(_) | Instance::Absent) | None => {
                false
            }
        }
    };
    !record.resize.pod_differs() && lasting.into_iter().all(applied)
}

/// Whether a running container has the allocated resources.
fn has_allocated(record: &PodRecord, container: &Container, running: &Running) -> bool {
    difference(record, container, running).is_none() && !inherits_anew(record, container, running)
}

/// Applies the allocated limits to the pod after all containers have their new limits: meanwhile,
/// containers start and change within the wider of the old and the new limits of the pod.
pub(crate) fn settle_pod(planner: &mut Planner<'_>) {
    let record = planner.input.record;
    if record.sandbox != Sandbox::Ready || !record.resize.pod_differs() {
        return;
    }
    planner.wait("", "the pod's new resources");
    let acts = planner.plan.actions.iter();
    let mut starts = acts.filter(|action| matches!(action, LifecycleAction::StartContainer { .. }));
    let mut container_records = record.containers.values();
    if starts.next().is_some()
        || container_records
            .any(|container_record| matches!(container_record.instance, Instance::Starting { .. }))
    {
        return;
    }
    let settled = |(kind, container): (Kind, &Container)| {
        let container_record = record.containers.get(&container.name);
        match container_record.map(|container_record| &container_record.instance) {
            Some(Instance::Running(running)) => {
                kind == Kind::Init || has_allocated(record, container, running)
            }
            _ => true,
        }
    };
    if !containers(planner.spec).into_iter().all(settled) {
        return;
    }
    match due(record.resize.pod.update, planner.now.instant) {
        ResizeStep::Update => planner.act(LifecycleAction::UpdatePodResources),
        ResizeStep::Wait(Some(at)) => planner.wake(at),
        ResizeStep::Wait(None) | ResizeStep::Restart | ResizeStep::None => {}
    }
}

/// The new resources of a running container; `None` if they do not differ.
fn difference<'r>(
    record: &'r PodRecord,
    container: &Container,
    running: &Running,
) -> Option<&'r ResourceRequirements> {
    let allocated = record.resize.allocated.as_ref()?.get(&container.name)?;
    let applied = running.resources.as_ref()?;
    (**applied != *allocated).then_some(allocated)
}

/// The next step to apply allocated resources to a running container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResizeStep {
    /// No step is needed.
    None,
    /// The container has to be restarted.
    Restart,
    /// The limits of the running container have to be changed.
    Update,
    /// The change is in progress, or is retried at this time.
    Wait(Option<Instant>),
}

/// The next step for a running container.
pub(crate) fn step(
    record: &PodRecord,
    container: &Container,
    running: &Running,
    now: Instant,
) -> ResizeStep {
    if inherits_anew(record, container, running) {
        return ResizeStep::Restart;
    }
    let (Some(desired), Some(applied)) = (
        difference(record, container, running),
        running.resources.as_deref(),
    ) else {
        return ResizeStep::None;
    };
    if restarts(container, applied, desired) {
        return ResizeStep::Restart;
    }
    due(running.update, now)
}

/// The next step of a needed change.
fn due(update: ResourceUpdate, now: Instant) -> ResizeStep {
    match update {
        ResourceUpdate::None => ResizeStep::Update,
        ResourceUpdate::InFlight => ResizeStep::Wait(None),
        ResourceUpdate::Failed { at } if at + RESIZE_RETRY <= now => ResizeStep::Update,
        ResourceUpdate::Failed { at } => ResizeStep::Wait(Some(at + RESIZE_RETRY)),
    }
}

/// Whether the change includes a resource whose resize policy requires a restart.
fn restarts(
    container: &Container,
    applied: &ResourceRequirements,
    desired: &ResourceRequirements,
) -> bool {
    taken_at_start(container).any(|name| {
        let amounts = |resources: &ResourceRequirements| {
            [&resources.requests, &resources.limits].map(|list| list.as_ref()?.get(name).cloned())
        };
        amounts(applied) != amounts(desired)
    })
}

/// Whether a pod-level limit changes that the container inherits and can apply only at its start.
fn inherits_anew(record: &PodRecord, container: &Container, running: &Running) -> bool {
    let (Some(allocated), Some(before)) = (&record.resize.allocated, running.of_pod.as_deref())
    else {
        return false;
    };
    let limit = |resources: Option<&ResourceRequirements>, name: &str| {
        resources?.limits.as_ref()?.get(name).cloned()
    };
    let container_resources = allocated.get(&container.name);
    taken_at_start(container)
        .filter(|name| limit(container_resources, name).is_none())
        .any(|name| limit(Some(before), name) != limit(record.resize.of_pod(), name))
}

/// The resources whose resize policy is `RestartContainer`.
fn taken_at_start(container: &Container) -> impl Iterator<Item = &str> {
    let policies = container.resize_policy.iter().flatten();
    policies
        .filter(|policy| policy.restart_policy == "RestartContainer")
        .map(|policy| policy.resource_name.as_str())
}
