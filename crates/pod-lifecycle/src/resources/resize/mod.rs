//! New resources for running containers (kubectl.md 6.7; statefulset.md §12.1, §12.10).
//!
//! What a pod asks for is not at once what it has: first the node *allocates* it, if all its pods
//! together still fit; then it is *applied* to each container, as the container's `resizePolicy`
//! wants: to the running process, or by a restart. Until it is allocated the pod has the condition
//! `PodResizePending`, until it is applied `PodResizeInProgress`. Resources of the pod as a whole
//! (KEP-5419) go the same way: while containers change, the pod has the wider of its old and its new
//! limits, and the new ones alone last.

mod amounts;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::limits::RESIZE_RETRY;
use crate::monotonic::Instant;
use crate::plan::{Action, Planner};
use crate::record::{Instance, PodRecord, Running, Sandbox};
use crate::restart_policy;
use crate::spec::{Kind, containers};

pub use amounts::{Amounts, Room, fits, held};
use amounts::{lack, requests};

/// The name by which an [`Allocation`] has the resources of the pod as a whole: no container's.
pub const POD: &str = "";

/// Resources of a pod's containers by name, and by [`POD`] those of the pod as a whole, where it has
/// some.
pub type Allocation = BTreeMap<String, ResourceRequirements>;

/// How far new resources have come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    /// What the node has allocated; `None` for a pod that it has just taken.
    pub allocated: Option<Allocation>,
    /// Why what the pod asks for is not allocated.
    pub pending: Option<Pending>,
    /// What is allocated and not yet applied everywhere.
    pub progress: Option<Progress>,
    /// The resources of the pod as a whole.
    #[serde(default)]
    pub pod: OfPod,
}

/// How far new resources of the pod as a whole have come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OfPod {
    /// Those that its sandbox has; `None` where it has what its containers have together.
    pub applied: Option<ResourceRequirements>,
    /// Those that were allocated since, and no longer are: containers may still have as much.
    #[serde(default)]
    pub superseded: Vec<ResourceRequirements>,
    /// How their change gets on.
    pub update: Update,
}

/// Resources that the node does not allocate now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Whether, and when, they can be had.
    pub reason: PendingReason,
    /// What they lack, as the user reads it.
    pub message: String,
    /// The pod's generation that asks for them.
    pub generation: i64,
}

/// Whether resources that are not allocated can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PendingReason {
    /// Once other pods have gone.
    Deferred,
    /// Never on this node.
    Infeasible,
}

impl PendingReason {
    /// The condition's reason.
    pub fn word(self) -> &'static str {
        match self {
            Self::Deferred => "Deferred",
            Self::Infeasible => "Infeasible",
        }
    }
}

/// Resources that are being applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The pod's generation that asked for them.
    pub generation: i64,
    /// Why they could not be applied, the last time.
    pub error: Option<String>,
}

/// The application of new resources to one running container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Update {
    /// Nothing is under way.
    #[default]
    None,
    /// It is under way.
    InFlight,
    /// It has failed.
    Failed {
        /// When.
        at: Instant,
    },
}

impl Resize {
    /// Allocates other resources.
    pub fn start(&mut self, resources: Allocation, generation: i64) {
        if let Some(before) = self.of_pod().filter(|_| self.pod_differs()).cloned()
            && !self.pod.superseded.contains(&before)
        {
            self.pod.superseded.push(before);
        }
        self.allocated = Some(resources);
        self.pending = None;
        self.progress = Some(Progress {
            generation,
            error: None,
        });
        if matches!(self.pod.update, Update::Failed { .. }) {
            self.pod.update = Update::None;
        }
    }

    /// A sandbox is made, with what is allocated.
    pub fn sandbox_begins(&mut self) {
        self.pod = OfPod {
            applied: self.of_pod().cloned(),
            ..OfPod::default()
        };
    }

    /// What is allocated for the pod as a whole.
    pub fn of_pod(&self) -> Option<&ResourceRequirements> {
        self.allocated.as_ref()?.get(POD)
    }

    /// Whether the pod as a whole has, or may have, other resources than are allocated.
    pub fn pod_differs(&self) -> bool {
        let others = !self.pod.superseded.is_empty();
        self.allocated.is_some() && (others || self.of_pod() != self.pod.applied.as_ref())
    }
}

/// What a pod's specification asks for.
pub fn asked(spec: &PodSpec) -> Allocation {
    let of_pod = spec.resources.iter();
    let of_pod = of_pod.filter(|own| **own != ResourceRequirements::default());
    containers(spec)
        .map(|(_, c)| (c.name.clone(), c.resources.clone().unwrap_or_default()))
        .chain(of_pod.map(|own| (POD.to_owned(), own.clone())))
        .collect()
}

/// Whether the pod asks for other resources than the node has allocated.
pub fn is_wanted(spec: &PodSpec, record: &PodRecord) -> bool {
    let allocated = record.resize.allocated.as_ref();
    allocated.is_some_and(|allocated| *allocated != asked(spec))
}

/// The specification with the resources that the node has allocated.
pub fn allocated_spec(spec: &PodSpec, record: &PodRecord) -> PodSpec {
    with(spec, record.resize.allocated.as_ref())
}

/// The specification with other resources.
pub fn with(spec: &PodSpec, resources: Option<&Allocation>) -> PodSpec {
    let mut spec = spec.clone();
    let Some(resources) = resources else {
        return spec;
    };
    let init = spec.init_containers.iter_mut().flatten();
    for container in init.chain(&mut spec.containers) {
        if let Some(own) = resources.get(&container.name) {
            container.resources = Some(own.clone());
        }
    }
    spec.resources = resources.get(POD).cloned();
    spec
}

/// Allocates what the pod asks for, or says why not; `false` when that has to be noted first.
pub(crate) fn allocate(planner: &mut Planner<'_>) -> bool {
    let resize = &planner.input.record.resize;
    let asked = asked(planner.spec);
    let generation = planner.input.pod.metadata.generation.unwrap_or(0);
    let Some(allocated) = &resize.allocated else {
        planner.act(Action::Allocate { resources: asked });
        return false;
    };
    if *allocated == asked {
        if resize.pending.is_some() {
            planner.act(Action::PostponeResize(None));
            return false;
        }
        if resize.progress.is_some() && is_applied(planner.spec, planner.input.record) {
            planner.act(Action::CompleteResize);
            return false;
        }
        return true;
    }
    if resize.pod.update == Update::InFlight {
        // One change after the other.
        return true;
    }
    let Some((reason, message)) = lack(requests(planner.spec), &planner.input.room) else {
        planner.act(Action::StartResize {
            resources: asked,
            generation,
        });
        return false;
    };
    if reason == PendingReason::Deferred {
        planner.wake(planner.now.instant + RESIZE_RETRY);
    }
    planner.wait("", format!("resources: {message}"));
    let known = resize.pending.as_ref();
    // What others use may change all the time: one word of it is enough.
    if known.is_some_and(|known| known.reason == reason && known.generation == generation) {
        return true;
    }
    planner.act(Action::PostponeResize(Some(Pending {
        reason,
        message,
        generation,
    })));
    false
}

/// Whether the pod and all containers have what is allocated, but for those that have ended for
/// good: one that is yet to start needs the pod's limits to be the new ones.
fn is_applied(spec: &PodSpec, record: &PodRecord) -> bool {
    let lasting = containers(spec).filter(|(kind, _)| *kind != Kind::Init);
    let applied = |(kind, container): (Kind, &Container)| {
        let known = record.containers.get(&container.name);
        match known.map(|known| &known.instance) {
            Some(Instance::Running(running)) => has_allocated(record, container, running),
            Some(Instance::Exited(exit)) => !restart_policy::wanted(spec, kind, container, exit),
            Some(Instance::Starting { .. } | Instance::Refused(_) | Instance::Absent) | None => {
                false
            }
        }
    };
    !record.resize.pod_differs() && lasting.into_iter().all(applied)
}

/// Whether a running container has what is allocated.
fn has_allocated(record: &PodRecord, container: &Container, running: &Running) -> bool {
    difference(record, container, running).is_none() && !inherits_anew(record, container, running)
}

/// Brings the pod as a whole to what is allocated, once no container has anything else: containers
/// start and change within the wider of its old and its new limits.
pub(crate) fn settle_pod(planner: &mut Planner<'_>) {
    let record = planner.input.record;
    if record.sandbox != Sandbox::Ready || !record.resize.pod_differs() {
        return;
    }
    planner.wait("", "the pod's new resources");
    let acts = planner.plan.actions.iter();
    let mut starts = acts.filter(|action| matches!(action, Action::StartContainer { .. }));
    let mut known = record.containers.values();
    if starts.next().is_some() || known.any(|one| matches!(one.instance, Instance::Starting { .. }))
    {
        return;
    }
    let settled = |(kind, container): (Kind, &Container)| {
        let known = record.containers.get(&container.name);
        match known.map(|known| &known.instance) {
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
        Step::Update => planner.act(Action::UpdatePodResources),
        Step::Wait(Some(at)) => planner.wake(at),
        Step::Wait(None) | Step::Restart | Step::None => {}
    }
}

/// The resources that a running container is to have instead of what it has.
fn difference<'r>(
    record: &'r PodRecord,
    container: &Container,
    running: &Running,
) -> Option<&'r ResourceRequirements> {
    let allocated = record.resize.allocated.as_ref()?.get(&container.name)?;
    let applied = running.resources.as_ref()?;
    (**applied != *allocated).then_some(allocated)
}

/// What is to be done so that a running container has what is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    None,
    /// It has to be restarted.
    Restart,
    /// Its limits have to be changed.
    Update,
    /// That is under way, or will be tried again then.
    Wait(Option<Instant>),
}

/// The next step for a running container.
pub(crate) fn step(
    record: &PodRecord,
    container: &Container,
    running: &Running,
    now: Instant,
) -> Step {
    if inherits_anew(record, container, running) {
        return Step::Restart;
    }
    let (Some(wanted), Some(applied)) = (
        difference(record, container, running),
        running.resources.as_deref(),
    ) else {
        return Step::None;
    };
    if restarts(container, applied, wanted) {
        return Step::Restart;
    }
    due(running.update, now)
}

/// The next step of a change that is to be made.
fn due(update: Update, now: Instant) -> Step {
    match update {
        Update::None => Step::Update,
        Update::InFlight => Step::Wait(None),
        Update::Failed { at } if at + RESIZE_RETRY <= now => Step::Update,
        Update::Failed { at } => Step::Wait(Some(at + RESIZE_RETRY)),
    }
}

/// Whether a resource is changed that the container takes at its start only.
fn restarts(
    container: &Container,
    applied: &ResourceRequirements,
    wanted: &ResourceRequirements,
) -> bool {
    taken_at_start(container).any(|name| {
        let of = |resources: &ResourceRequirements| {
            [&resources.requests, &resources.limits].map(|list| list.as_ref()?.get(name).cloned())
        };
        of(applied) != of(wanted)
    })
}

/// Whether a limit of the pod as a whole is changed that the container, which has none itself, takes
/// at its start only.
fn inherits_anew(record: &PodRecord, container: &Container, running: &Running) -> bool {
    let (Some(allocated), Some(before)) = (&record.resize.allocated, running.of_pod.as_deref())
    else {
        return false;
    };
    let limit = |resources: Option<&ResourceRequirements>, name: &str| {
        resources?.limits.as_ref()?.get(name).cloned()
    };
    let own = allocated.get(&container.name);
    taken_at_start(container)
        .filter(|name| limit(own, name).is_none())
        .any(|name| limit(Some(before), name) != limit(record.resize.of_pod(), name))
}

/// The resources whose change the container wants to be restarted for.
fn taken_at_start(container: &Container) -> impl Iterator<Item = &str> {
    let policies = container.resize_policy.iter().flatten();
    policies
        .filter(|policy| policy.restart_policy == "RestartContainer")
        .map(|policy| policy.resource_name.as_str())
}

/// The words of an event about new resources: what is asked for, by which generation, and what is
/// wrong with it.
pub fn event(what: &str, pod: &Pod, generation: i64, error: Option<&str>) -> String {
    #[derive(Serialize)]
    struct Said<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        resources: Option<&'a ResourceRequirements>,
        containers: Vec<serde_json::Value>,
        generation: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    }
    let spec = pod.spec.as_ref();
    let main = spec.into_iter().flat_map(|spec| &spec.containers);
    let said = Said {
        resources: spec.and_then(|spec| spec.resources.as_ref()),
        containers: main
            .map(|c| json!({"name": c.name, "resources": c.resources}))
            .collect(),
        generation,
        error,
    };
    let said = serde_json::to_string(&said).unwrap_or_default();
    format!("Pod resize {what}: {said}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_say_what_is_asked_for() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [
            {"name": "c1", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}}))
        .unwrap();
        assert_eq!(
            event("started", &pod, 1, None),
            "Pod resize started: {\"containers\":[{\"name\":\"c1\",\"resources\":{\"requests\":\
             {\"cpu\":\"1\",\"memory\":\"1Gi\"}}}],\"generation\":1}"
        );
        assert!(
            event("Infeasible", &pod, 2, Some("no"))
                .ends_with("\"generation\":2,\"error\":\"no\"}")
        );
    }
}
