//! New resources for running containers (kubectl.md 6.7; statefulset.md §12.1, §12.10).
//!
//! What a pod asks for is not at once what it has: first the node *allocates* it, if all its pods
//! together still fit; then it is *applied* to each container, as the container's `resizePolicy`
//! wants: to the running process, or by a restart. Until it is allocated the pod has the condition
//! `PodResizePending`, until it is applied `PodResizeInProgress`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use object_model::quantity::Quantity;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::limits::RESIZE_RETRY;
use crate::plan::{Action, Planner};
use crate::record::{Instance, PodRecord, Running};
use crate::restart;
use crate::spec::{Kind, containers};

/// Resources of a pod's containers by name.
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
        at: Timestamp,
    },
}

/// Processor time and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a processor.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
}

impl Resize {
    /// Allocates other resources.
    pub fn start(&mut self, resources: Allocation, generation: i64) {
        self.allocated = Some(resources);
        self.pending = None;
        self.progress = Some(Progress {
            generation,
            error: None,
        });
    }
}

impl Amounts {
    /// Both together.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_add(more.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_add(more.memory_bytes),
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.max(other.cpu_milli),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
        }
    }
}

/// What the node can give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// All of it.
    pub capacity: Amounts,
    /// What its other pods have.
    pub others: Amounts,
}

/// What a pod's specification asks for, container by container.
pub fn asked(spec: &PodSpec) -> Allocation {
    containers(spec)
        .map(|(_, c)| (c.name.clone(), c.resources.clone().unwrap_or_default()))
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
    spec
}

/// What a pod has of the node.
pub fn held(spec: &PodSpec, record: &PodRecord) -> Amounts {
    let allocated = record.resize.allocated.as_ref();
    together(spec, |container| {
        let own = allocated.and_then(|allocated| allocated.get(&container.name));
        own.or(container.resources.as_ref())
    })
}

/// What a pod with this specification asks for.
fn requests(spec: &PodSpec) -> Amounts {
    together(spec, |container| container.resources.as_ref())
}

/// What a pod whose containers have these resources has, with its overhead.
fn together<'a>(
    spec: &'a PodSpec,
    resources: impl Fn(&'a Container) -> Option<&'a ResourceRequirements>,
) -> Amounts {
    let overhead = |name: &str| amount(spec.overhead.as_ref(), name).unwrap_or_default();
    of_containers(spec, resources).plus(Amounts {
        cpu_milli: overhead("cpu").milli_value(),
        memory_bytes: overhead("memory").value(),
    })
}

fn of_containers<'a>(
    spec: &'a PodSpec,
    resources: impl Fn(&'a Container) -> Option<&'a ResourceRequirements>,
) -> Amounts {
    if let Some(of_pod) = &spec.resources {
        return requested(of_pod);
    }
    let mut sum = Amounts::default();
    let mut peak = Amounts::default();
    for (kind, container) in containers(spec) {
        let own = resources(container).map(requested).unwrap_or_default();
        match kind {
            // Runs before the main ones, beside the sidecars before it.
            Kind::Init => peak = peak.max(sum.plus(own)),
            _ => sum = sum.plus(own),
        }
    }
    sum.max(peak)
}

fn requested(resources: &ResourceRequirements) -> Amounts {
    let of = |name: &str| {
        let request = amount(resources.requests.as_ref(), name);
        let amount = request.or_else(|| amount(resources.limits.as_ref(), name));
        amount.unwrap_or_default()
    };
    Amounts {
        cpu_milli: of("cpu").milli_value(),
        memory_bytes: of("memory").value(),
    }
}

fn amount(list: Option<&BTreeMap<String, ApiQuantity>>, name: &str) -> Option<Quantity> {
    list?.get(name)?.0.parse().ok()
}

/// Whether the node can allocate what the pod asks for.
pub fn fits(spec: &PodSpec, room: &Room) -> bool {
    lack(requests(spec), room).is_none()
}

/// Why the node cannot allocate that much; `None` when it can.
fn lack(wanted: Amounts, room: &Room) -> Option<(PendingReason, String)> {
    let of = |part: fn(&Amounts) -> i64| (part(&wanted), part(&room.others), part(&room.capacity));
    let each = [
        ("cpu", of(|amounts| amounts.cpu_milli)),
        ("memory", of(|amounts| amounts.memory_bytes)),
    ];
    let never = each
        .iter()
        .find(|(_, (wanted, _, capacity))| wanted > capacity);
    if let Some((name, (wanted, _, capacity))) = never {
        let message = format!(
            "Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {capacity}"
        );
        return Some((PendingReason::Infeasible, message));
    }
    let now = each
        .iter()
        .find(|(_, (wanted, used, capacity))| wanted.saturating_add(*used) > *capacity);
    now.map(|(name, (wanted, used, capacity))| {
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, \
             capacity: {capacity}"
        );
        (PendingReason::Deferred, message)
    })
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
    let Some((reason, message)) = lack(requests(planner.spec), &planner.input.room) else {
        planner.act(Action::StartResize {
            resources: asked,
            generation,
        });
        return false;
    };
    if reason == PendingReason::Deferred {
        planner.wake(planner.now + RESIZE_RETRY);
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

/// Whether all containers have what is allocated, but for those that have ended for good: one that
/// is yet to start needs the pod's limits to be the new ones.
fn is_applied(spec: &PodSpec, record: &PodRecord) -> bool {
    let lasting = containers(spec).filter(|(kind, _)| *kind != Kind::Init);
    let applied = |(kind, container): (Kind, &Container)| {
        let known = record.containers.get(&container.name);
        match known.map(|known| &known.instance) {
            Some(Instance::Running(running)) => difference(record, container, running).is_none(),
            Some(Instance::Exited(exit)) => !restart::wanted(spec, kind, container, exit),
            Some(Instance::Starting { .. } | Instance::Refused(_) | Instance::Absent) | None => {
                false
            }
        }
    };
    lasting.into_iter().all(applied)
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
    Wait(Option<Timestamp>),
}

/// The next step for a running container.
pub(crate) fn step(
    record: &PodRecord,
    container: &Container,
    running: &Running,
    now: Timestamp,
) -> Step {
    let (Some(wanted), Some(applied)) = (
        difference(record, container, running),
        running.resources.as_deref(),
    ) else {
        return Step::None;
    };
    if restarts(container, applied, wanted) {
        return Step::Restart;
    }
    match running.update {
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
    let policies = container.resize_policy.iter().flatten();
    policies
        .filter(|policy| policy.restart_policy == "RestartContainer")
        .any(|policy| {
            let of = |resources: &ResourceRequirements| {
                [&resources.requests, &resources.limits]
                    .map(|list| list.as_ref()?.get(&policy.resource_name).cloned())
            };
            of(applied) != of(wanted)
        })
}

/// The words of an event about new resources: what is asked for, by which generation, and what is
/// wrong with it.
pub fn event(what: &str, pod: &Pod, generation: i64, error: Option<&str>) -> String {
    #[derive(Serialize)]
    struct Said<'a> {
        containers: Vec<serde_json::Value>,
        generation: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    }
    let spec = pod.spec.iter();
    let main = spec.flat_map(|spec| &spec.containers);
    let said = Said {
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

    fn spec(containers: serde_json::Value) -> PodSpec {
        serde_json::from_value(json!({"containers": containers})).unwrap()
    }

    #[test]
    fn a_pod_has_what_its_containers_have_together() {
        let mut pod = spec(json!([
            {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "1Mi"}}},
            {"name": "b", "resources": {"limits": {"cpu": "1"}}}]));
        let both = Amounts {
            cpu_milli: 1100,
            memory_bytes: 1 << 20,
        };
        assert_eq!(requests(&pod), both);
        pod.init_containers = serde_json::from_value(json!([
            {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
            {"name": "i", "resources": {"requests": {"cpu": "2", "memory": "4Mi"}}}]))
        .unwrap();
        let peak = Amounts {
            cpu_milli: 3000,
            memory_bytes: 4 << 20,
        };
        assert_eq!(requests(&pod), peak);
        pod.overhead = serde_json::from_value(json!({"cpu": "250m"})).unwrap();
        assert_eq!(requests(&pod).cpu_milli, 3250);
    }

    #[test]
    fn too_much_is_never_or_not_now() {
        // statefulset.md 12.1
        let amounts = |cpu_milli, memory_bytes| Amounts {
            cpu_milli,
            memory_bytes,
        };
        let room = Room {
            capacity: amounts(4000, 100),
            others: amounts(3000, 50),
        };
        assert_eq!(lack(amounts(1000, 50), &room), None);
        assert_eq!(
            lack(amounts(1500, 50), &room),
            Some((
                PendingReason::Deferred,
                "Node didn't have enough resource: cpu, requested: 1500, used: 3000, capacity: 4000"
                    .to_owned()
            ))
        );
        assert_eq!(
            lack(amounts(1500, 101), &room),
            Some((
                PendingReason::Infeasible,
                "Node didn't have enough capacity: memory, requested: 101, capacity: 100"
                    .to_owned()
            ))
        );
    }

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
