//! The state of a pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, PodCondition, PodSpec, PodStatus,
    ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use object_model::Quantity;

use super::{Condition, ConditionTexts, Container, Phase, PodView, RunState, Sharing, Text};

pub(super) fn fill(view: &mut PodView, sharing: &mut Sharing, status: PodStatus) {
    view.phase = match status.phase.as_deref() {
        None | Some("") => Phase::Unset,
        Some("Pending") => Phase::Pending,
        Some("Running") => Phase::Running,
        Some("Succeeded") => Phase::Succeeded,
        Some("Failed") => Phase::Failed,
        Some(_) => Phase::Unknown,
    };
    view.reason = status.reason.map(|reason| sharing.text(&reason));
    view.message = status.message.map(|message| sharing.text(&message));
    let nominated = status.nominated_node_name.filter(|node| !node.is_empty());
    view.nominated = nominated.map(|node| sharing.text(&node));
    view.started = status.start_time.map(|time| time.0);
    let conditions = status.conditions.unwrap_or_default().into_iter();
    view.conditions = conditions.map(|one| condition(sharing, one)).collect();
    let statuses = status.resource_claim_statuses.into_iter().flatten();
    let claims: BTreeMap<Text, Text> = statuses
        .filter_map(|claim| Some((claim.name.into(), claim.resource_claim_name?.into())))
        .collect();
    view.device_claims = (!claims.is_empty()).then(|| Box::new(claims));
    let spec = view.spec.clone();
    let resources = spec.resources.as_ref();
    view.allocated = resources.and_then(|requests_of_pod| {
        let (allocated, applied) = (&status.allocated_resources, &status.resources);
        counted_resources(Some(requests_of_pod), allocated.as_ref(), applied.as_ref()).map(Box::new)
    });
    let mut containers = |all: Option<Vec<ContainerStatus>>| {
        let all = all.unwrap_or_default().into_iter();
        all.map(|one| container(sharing, &spec, one)).collect()
    };
    view.init_containers = containers(status.init_container_statuses);
    view.containers = containers(status.container_statuses);
    let all = status.pod_ips.into_iter().flatten().map(|one| one.ip);
    let mut addresses: Vec<Text> = all.map(Text::from).collect();
    if let Some(first) = status.pod_ip.map(Text::from)
        && !addresses.contains(&first)
    {
        addresses.push(first);
    }
    view.addresses = addresses.into();
}

fn condition(sharing: &mut Sharing, condition: PodCondition) -> Condition {
    let mut text = |text: Option<String>| text.map(|text| sharing.text(&text));
    let (reason, message) = (text(condition.reason), text(condition.message));
    let texts = ConditionTexts {
        kind: sharing.text(&condition.type_),
        status: sharing.text(&condition.status),
        reason,
        message,
    };
    Condition {
        condition_texts: sharing.condition_texts(texts),
        since: condition.last_transition_time.map(|time| time.0),
    }
}

fn container(sharing: &mut Sharing, spec: &PodSpec, status: ContainerStatus) -> Container {
    Container {
        allocated: container_resources(spec, &status).map(Box::new),
        name: sharing.text(&status.name),
        ready: status.ready,
        started: status.started.unwrap_or_default(),
        restarts: status.restart_count,
        state: status
            .state
            .map_or(RunState::Unset, |one| state(sharing, one)),
        last_end: status.last_state.and_then(|last| last.terminated).map(end),
    }
}

fn container_resources(
    spec: &PodSpec,
    status: &ContainerStatus,
) -> Option<BTreeMap<String, Quantity>> {
    let mut all = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let resources = all.find(|one| one.name == status.name)?.resources.as_ref();
    let allocated = status.allocated_resources.as_ref();
    counted_resources(resources, allocated, status.resources.as_ref())
}

/// The resources of a container or pod that count during a resize: the larger of the allocated and the applied
/// amounts.
fn counted_resources(
    requirements: Option<&ResourceRequirements>,
    allocated: Option<&BTreeMap<String, Amount>>,
    applied: Option<&ResourceRequirements>,
) -> Option<BTreeMap<String, Quantity>> {
    let requests = requirements.and_then(|requirements| requirements.requests.as_ref());
    let applied = applied.and_then(|applied| applied.requests.as_ref());
    let mut larger = BTreeMap::new();
    for (name, amount) in [allocated, applied].into_iter().flatten().flatten() {
        let amount: Quantity = amount.0.parse().ok()?;
        let entry: &mut Quantity = larger.entry(name.clone()).or_default();
        *entry = (*entry).max(amount);
    }
    let is_requested = |(name, amount): (&String, &Quantity)| {
        let requested =
            requests.and_then(|requests| requests.get(name)?.0.parse::<Quantity>().ok());
        requested == Some(*amount)
    };
    (!larger.iter().all(is_requested)).then_some(larger)
}

fn state(sharing: &mut Sharing, state: ContainerState) -> RunState {
    if let Some(waiting) = state.waiting {
        let mut text = |text: Option<String>| sharing.text(text.as_deref().unwrap_or_default());
        RunState::Waiting {
            reason: text(waiting.reason),
            message: text(waiting.message),
        }
    } else if let Some(ended) = state.terminated {
        RunState::Ended(end(ended))
    } else if let Some(running) = state.running {
        RunState::Running(running.started_at.map(|time| time.0))
    } else {
        RunState::Unset
    }
}

fn end(end: ContainerStateTerminated) -> Box<ContainerStateTerminated> {
    Box::new(ContainerStateTerminated {
        container_id: None,
        ..end
    })
}
