//! The status of a pod: phase, conditions, containers, addresses.
//!
//! Conditions and their reasons are kubelet's (statefulset.md §3.34, §12.1). An unchanged condition keeps
//! the transition time of the previous status, so that an unchanged pod has an equal status. Conditions of
//! other programs (readiness gates, disruption) are copied.

pub(crate) mod container_status;
pub(crate) mod phase;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use resource_kinds::reasons::pod_condition::{HEALTHY, HOOK_DONE, RECOVERED};
use resource_kinds::stateful_set_policy::CheckKind;

use crate::input::PodInput;
use crate::monotonic::Moment;
use crate::record::probes::ProbeVerdict;
use crate::record::{Instance, PodRecord, Sandbox};
use crate::resources::qos::qos_class;
use crate::spec::{
    Kind, check_run, ephemeral_containers, guard_check, init_containers, init_kind,
    uses_host_network,
};
use container_status::{StatusInput, container_status};
use phase::{FinalStatus, PhaseInput};

/// Condition types that the node agent sets.
pub const OWN_CONDITIONS: [&str; 11] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    PENDING,
    IN_PROGRESS,
    RESTARTING,
    HEALTHY,
    RECOVERED,
    HOOK_DONE,
];

/// The condition of a pod whose requested resources the node cannot allocate now.
const PENDING: &str = "PodResizePending";

/// The condition of a pod whose allocated resources are not applied yet.
const IN_PROGRESS: &str = "PodResizeInProgress";

/// The condition of a pod whose containers are all being restarted.
const RESTARTING: &str = "AllContainersRestarting";

/// The reason of a [`DISRUPTION_TARGET`] that the node set.
pub const BY_NODE: &str = "TerminationByKubelet";

/// The condition of a pod that is disrupted.
const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// Computes the pod's status from its record.
pub(crate) fn pod_status(
    input: &PodInput<'_>,
    spec: &PodSpec,
    last: FinalStatus,
    now: Moment,
) -> PodStatus {
    let record = input.record;
    let initialized = phase::main_begun(spec, record);
    let deleted = last == FinalStatus::Deleted;
    let ended = is_terminal(input.previous) || phase::is_complete(spec, record);
    let failed_by_node = record.failure.is_some();
    let starts = !(ended || failed_by_node || input.node_stops.is_some() || is_deleting(input));
    let view = StatusInput {
        input,
        starts,
        lost: deleted && initialized,
        now: now.instant,
    };
    let now = now.wall;
    let before = input.previous;
    let before_init = before.init_container_statuses.as_deref();
    let init: Vec<ContainerStatus> = init_containers(spec)
        .iter()
        .map(|c| container_status(&view, init_kind(c), c, before_init))
        .collect();
    let before_main = before.container_statuses.as_deref();
    let main: Vec<ContainerStatus> = spec
        .containers
        .iter()
        .map(|c| container_status(&view, Kind::Main, c, before_main))
        .collect();
    let before_ephemeral = before.ephemeral_container_statuses.as_deref();
    let ephemeral: Vec<ContainerStatus> = ephemeral_containers(spec)
        .iter()
        .map(|c| container_status(&view, Kind::Ephemeral, c, before_ephemeral))
        .collect();
    let facts = PhaseInput {
        spec,
        init: &init,
        main: &main,
        terminal: deleted || last == FinalStatus::FailedByNode,
        initialized,
        record,
    };
    let mut status = PodStatus {
        start_time: record.started_at.map(|at| Time(at.wall)),
        ..PodStatus::default()
    };
    decide_phase(&mut status, input, phase::phase(&facts), last);
    let all: Vec<&ContainerStatus> = init.iter().chain(&main).collect();
    status.conditions = Some(conditions(input, spec, &all, status.phase.as_deref(), now));
    set_addresses(&mut status, input, spec);
    status.qos_class = Some(known_qos(input.pod).unwrap_or_else(|| qos_class(spec).to_owned()));
    status.observed_generation = input.pod.metadata.generation;
    status.init_container_statuses = (!init.is_empty()).then_some(init);
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    // The status of a rejected pod has no container statuses.
    let is_admitted = !failed_by_node || record.sandboxes_made > 0;
    status.container_statuses = is_admitted.then_some(main);
    set_resources(&mut status, record);
    status
}

/// Sets the applied and the allocated pod-level resources (KEP-5419); absent if the pod has no pod-level
/// resources.
fn set_resources(status: &mut PodStatus, record: &PodRecord) {
    let Some(allocated) = record.resize.of_pod() else {
        return;
    };
    status.allocated_resources = allocated.requests.clone();
    status.resources = match record.sandbox {
        Sandbox::Ready => record.resize.pod.applied.clone(),
        _ => Some(allocated.clone()),
    };
}

fn is_deleting(input: &PodInput<'_>) -> bool {
    input.is_removed() || input.pod.metadata.deletion_timestamp.is_some()
}

fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

fn known_qos(pod: &Pod) -> Option<String> {
    pod.status
        .as_ref()?
        .qos_class
        .clone()
        .filter(|class| !class.is_empty())
}

/// Sets the phase. A pod never leaves a final phase; its reason and message stay, too.
fn decide_phase(status: &mut PodStatus, input: &PodInput<'_>, computed: &str, last: FinalStatus) {
    let api = input.pod.status.as_ref();
    let before = [Some(input.previous), api]
        .into_iter()
        .flatten()
        .find(|s| is_terminal(s));
    if let Some(before) = before {
        status.phase = before.phase.clone();
        status.reason = before.reason.clone();
        status.message = before.message.clone();
        return;
    }
    let phase = match last {
        FinalStatus::FailedByNode => "Failed",
        FinalStatus::Deleted if computed != "Succeeded" => "Failed",
        _ => computed,
    };
    status.phase = Some(phase.to_owned());
    match &input.record.failure {
        Some(failure) if last == FinalStatus::FailedByNode => {
            status.reason = Some(failure.reason.clone());
            status.message = Some(failure.message.clone());
        }
        _ if input.previous.phase.as_deref() == Some(phase) => {
            status.reason = input.previous.reason.clone();
            status.message = input.previous.message.clone();
        }
        _ => {}
    }
}

fn set_addresses(status: &mut PodStatus, input: &PodInput<'_>, spec: &PodSpec) {
    status.host_ip = input.host_ips.first().cloned();
    let host_ips: Vec<HostIP> = input
        .host_ips
        .iter()
        .map(|ip| HostIP { ip: ip.clone() })
        .collect();
    status.host_ips = (!host_ips.is_empty()).then_some(host_ips);
    let addresses = if uses_host_network(spec) {
        input.host_ips
    } else {
        &input.record.pod_ips
    };
    status.pod_ip = addresses.first().cloned();
    let pod_ips: Vec<PodIP> = addresses
        .iter()
        .map(|ip| PodIP { ip: ip.clone() })
        .collect();
    status.pod_ips = (!pod_ips.is_empty()).then_some(pod_ips);
}

/// A condition's status, reason and message.
struct Finding {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Finding {
    fn holds() -> Self {
        Self {
            holds: true,
            reason: None,
            message: None,
        }
    }

    fn fails(reason: &'static str, message: Option<String>) -> Self {
        Self {
            holds: false,
            reason: Some(reason),
            message,
        }
    }
}

fn conditions(
    input: &PodInput<'_>,
    spec: &PodSpec,
    containers: &[&ContainerStatus],
    phase: Option<&str>,
    now: Timestamp,
) -> Vec<PodCondition> {
    let api = input
        .pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let foreign = api
        .into_iter()
        .flatten()
        .filter(|c| !OWN_CONDITIONS.contains(&&*c.type_));
    let mut conditions: Vec<PodCondition> = foreign.cloned().collect();
    let ready = containers_ready(spec, containers, phase);
    let gated = pod_ready(spec, &conditions, &ready);
    let sandbox = Finding {
        holds: input.record.sandbox == Sandbox::Ready,
        reason: None,
        message: None,
    };
    let findings = [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized(input, spec, containers, phase)),
        ("Ready", gated),
        ("ContainersReady", ready),
        ("PodScheduled", Finding::holds()),
    ];
    for (type_, finding) in findings {
        conditions.push(condition(input, type_, finding, now));
    }
    conditions.extend(resize_conditions(input, now));
    conditions.extend(restarting(input, now));
    conditions.extend(guard_conditions(input, spec, now));
    let failure = input.record.failure.as_ref();
    if let Some(failure) = failure.filter(|failure| failure.disrupts) {
        conditions.retain(|condition| condition.type_ != DISRUPTION_TARGET);
        let finding = Finding {
            holds: true,
            reason: Some(BY_NODE),
            message: Some(failure.message.clone()),
        };
        conditions.push(condition(input, DISRUPTION_TARGET, finding, now));
    }
    conditions
}

/// The conditions of a resize, which exist only while they are true.
fn resize_conditions(input: &PodInput<'_>, now: Timestamp) -> Vec<PodCondition> {
    let resize = &input.record.resize;
    let pending = resize.pending.as_ref().map(|pending| {
        let finding = Finding {
            holds: true,
            reason: Some(pending.reason.word()),
            message: Some(pending.message.clone()),
        };
        (PENDING, finding, pending.generation)
    });
    let progress = resize.progress.as_ref().map(|progress| {
        let finding = Finding {
            holds: true,
            reason: progress.error.as_ref().map(|_| "Error"),
            message: progress.error.clone(),
        };
        (IN_PROGRESS, finding, progress.generation)
    });
    [pending, progress]
        .into_iter()
        .flatten()
        .map(|(type_, finding, generation)| PodCondition {
            observed_generation: Some(generation),
            ..condition(input, type_, finding, now)
        })
        .collect()
}

/// The results of the checks of a guard; none for a pod without checks.
fn guard_conditions(input: &PodInput<'_>, spec: &PodSpec, now: Timestamp) -> Vec<PodCondition> {
    let result = |kind: CheckKind| {
        let check = guard_check(input.pod, kind)?;
        let mut containers = spec.containers.iter().map(|container| &container.name);
        let name = containers.find(|name| check.runs_in(name, &spec.containers));
        let record = name.and_then(|name| input.record.containers.get(name));
        let verdict = match record.map(|record| &record.instance) {
            Some(Instance::Running(running)) => running.check_verdict(input.pod, kind),
            _ => ProbeVerdict::Unknown,
        };
        let run = check_run(input.pod, kind);
        let finding = match verdict {
            ProbeVerdict::Success if !run.is_empty() => Finding {
                message: Some(run),
                ..Finding::holds()
            },
            ProbeVerdict::Success => Finding::holds(),
            ProbeVerdict::Failure => Finding::fails("CheckFailed", None),
            ProbeVerdict::Unknown if name.is_none() => Finding::fails("NoContainer", None),
            ProbeVerdict::Unknown => Finding::fails("CheckPending", None),
        };
        Some(condition(input, kind.condition(), finding, now))
    };
    CheckKind::ALL.into_iter().filter_map(result).collect()
}

/// The condition whether all containers are being restarted; `None` for a pod that has never restarted
/// them.
fn restarting(input: &PodInput<'_>, now: Timestamp) -> Option<PodCondition> {
    let finding = match &input.record.restart_all {
        Some(cause) => Finding {
            holds: true,
            reason: Some("ContainerExited"),
            message: Some(cause.message()),
        },
        None => Finding {
            holds: false,
            reason: Some("ContainerExited"),
            message: former(input, RESTARTING)?.message,
        },
    };
    Some(condition(input, RESTARTING, finding, now))
}

/// The condition of this type in the previous status.
fn former(input: &PodInput<'_>, type_: &str) -> Option<PodCondition> {
    let before = |status: &PodStatus| -> Option<PodCondition> {
        status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == type_)
            .cloned()
    };
    before(input.previous).or_else(|| input.pod.status.as_ref().and_then(before))
}

fn condition(input: &PodInput<'_>, type_: &str, finding: Finding, now: Timestamp) -> PodCondition {
    let status = if finding.holds { "True" } else { "False" };
    let since = former(input, type_)
        .filter(|c| c.status == status)
        .and_then(|c| c.last_transition_time);
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: finding.reason.map(str::to_owned),
        message: finding.message,
        last_probe_time: None,
        last_transition_time: Some(since.unwrap_or(Time(now))),
        observed_generation: input.pod.metadata.generation,
    }
}

/// Names as Go prints a list: `[a b]`.
fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn containers_ready(spec: &PodSpec, statuses: &[&ContainerStatus], phase: Option<&str>) -> Finding {
    match phase {
        Some("Succeeded") => return Finding::fails("PodCompleted", None),
        Some("Failed") => return Finding::fails("PodFailed", None),
        _ => {}
    }
    let sidecars = init_containers(spec)
        .iter()
        .filter(|c| init_kind(c) == Kind::Sidecar);
    let unready: Vec<&str> = sidecars
        .chain(&spec.containers)
        .filter(|c| {
            !statuses
                .iter()
                .any(|status| status.name == c.name && status.ready)
        })
        .map(|c| c.name.as_str())
        .collect();
    if unready.is_empty() {
        return Finding::holds();
    }
    let message = format!("containers with unready status: {}", list(&unready));
    Finding::fails("ContainersNotReady", Some(message))
}

fn pod_ready(spec: &PodSpec, conditions: &[PodCondition], containers: &Finding) -> Finding {
    if !containers.holds {
        let message = containers.message.clone();
        return Finding {
            holds: false,
            reason: containers.reason,
            message,
        };
    }
    let gates = spec.readiness_gates.iter().flatten();
    let closed: Vec<String> = gates
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match conditions.iter().find(|c| c.type_ == *name) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate \"{name}\" does not exist."
                )),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if closed.is_empty() {
        return Finding::holds();
    }
    Finding::fails("ReadinessGatesNotReady", Some(closed.join(", ")))
}

fn initialized(
    input: &PodInput<'_>,
    spec: &PodSpec,
    statuses: &[&ContainerStatus],
    phase: Option<&str>,
) -> Finding {
    if phase == Some("Succeeded") {
        return Finding {
            holds: true,
            reason: Some("PodCompleted"),
            message: None,
        };
    }
    let ran = |name: &str| {
        let record = input.record.containers.get(name);
        record.is_some_and(|r| {
            matches!(r.instance, Instance::Running(_) | Instance::Exited(_))
                || r.last_exit.is_some()
        })
    };
    if spec.containers.iter().any(|container| ran(&container.name)) {
        return Finding::holds();
    }
    let incomplete: Vec<&str> = init_containers(spec)
        .iter()
        .filter(|container| {
            let status = statuses.iter().find(|status| status.name == container.name);
            !status.is_some_and(|status| match init_kind(container) {
                Kind::Sidecar => status.started == Some(true),
                _ => status.ready,
            })
        })
        .map(|container| container.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return Finding::holds();
    }
    let message = format!("containers with incomplete status: {}", list(&incomplete));
    Finding::fails("ContainersNotInitialized", Some(message))
}
