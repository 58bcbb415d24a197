//! Pods that are being deleted, and pods that have ended.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, Node};
use resource_kinds::node_conditions::{self, is_lost, is_out_of_service};
use resource_kinds::pod_view::{Phase, PodView};
use resource_kinds::reasons::taint;

use super::pod::{Diagnosis, PodContext};
use super::reason::Reason;
use super::remedy::Remedy;
use super::{exit, text};

/// The cause why a terminating pod still exists.
pub(super) fn terminating(pod: &PodView, around: &PodContext<'_>) -> Diagnosis {
    let grace = pod.deletion.map_or(0, |deletion| deletion.grace);
    let deadline = pod.deletion.map(|deletion| deletion.deadline);
    let asked_at =
        deadline.and_then(|at| at.checked_sub(jiff::SignedDuration::from_secs(grace)).ok());
    let finalizers = text::finalizers(&pod.finalizers);
    let stopped = grace == 0 || pod.node.as_deref().is_none() || pod.has_ended();
    if !finalizers.is_empty() && stopped {
        return blocked_by_finalizers(pod, &finalizers).since(asked_at);
    }
    if let Some(node) = around.node.filter(|node| is_lost(node)) {
        return on_lost_node(pod, node).since(node_lost_since(node).or(asked_at));
    }
    let overdue = match (around.now, deadline) {
        (Some(now), Some(deadline)) => now > deadline,
        _ => false,
    };
    let node = pod.node.as_deref().unwrap_or("its node");
    let message = if overdue {
        format!("being deleted: its grace of {grace}s is over and {node} has not confirmed its end")
    } else {
        format!("being deleted: its containers have {grace}s to stop")
    };
    let force = force(pod);
    let remedy = if overdue {
        format!("if the machine behind {node} is off permanently: {force}")
    } else {
        "nothing to do; it is removed when its containers have stopped".to_owned()
    };
    Diagnosis::new(Reason::Terminating, message, remedy).since(asked_at)
}

fn blocked_by_finalizers(pod: &PodView, finalizers: &[&str]) -> Diagnosis {
    let list = finalizers.join(", ");
    let patch = format!(
        "patch pod {} --type merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'",
        &pod.name
    );
    Diagnosis::new(
        Reason::HeldByFinalizer,
        format!("being deleted: finalizers hold it: {list}"),
        Remedy::new(format!(
            "the owner of {list} must finish and remove it; to force the removal"
        ))
        .with(text::kubectl(&pod.namespace, &patch)),
    )
}

/// The containers of a pod on a lost node may still run, so the pod's name stays in use
/// (`statefulset.md` 3.31).
fn on_lost_node(pod: &PodView, node: &Node) -> Diagnosis {
    let name = text::name(&node.metadata);
    if is_out_of_service(node) {
        return declared_off(pod, name);
    }
    if pod.ends_with_lease() {
        return fails_over(pod, name);
    }
    let force = force(pod);
    Diagnosis::new(
        Reason::NodeLost,
        format!("being deleted, but node {name} does not answer: its containers may still run"),
        format!(
            "node {name} has to come back; if its machine is off permanently: kubectl taint node \
             {name} {}=nodeshutdown:NoExecute, or {force}",
            taint::OUT_OF_SERVICE
        ),
    )
}

/// A pod that is not ready because its node is lost.
pub(super) fn node_lost(pod: &PodView, around: &PodContext<'_>) -> Option<Diagnosis> {
    let name = pod.node.as_deref()?;
    let since = match around.node {
        Some(node) if is_lost(node) => node_lost_since(node),
        _ if pod.reason.as_deref() == Some("NodeLost") => None,
        _ => return None,
    };
    let diagnosis = if around.node.is_some_and(is_out_of_service) {
        declared_off(pod, name)
    } else {
        unheard(pod, name)
    };
    Some(diagnosis.since(since))
}

/// The diagnosis of a pod on a lost node with the out-of-service taint: the pod is evicted at once. Pod
/// garbage collection deletes the pod after its period at the latest.
fn declared_off(pod: &PodView, node: &str) -> Diagnosis {
    let next = match pod.controller.as_deref() {
        Some(owner) => format!("{} {} replaces it", owner.kind, owner.name),
        None => "no controller replaces it: create it again".to_owned(),
    };
    Diagnosis::new(
        Reason::NodeLost,
        format!(
            "node {node} does not respond, and its taint {} says that its machine is off: the pod is \
             removed",
            taint::OUT_OF_SERVICE
        ),
        format!("nothing to do for 20s: the pod is removed within that time; {next}"),
    )
}

/// The diagnosis of a pod that stops with the Lease of its node.
fn fails_over(pod: &PodView, node: &str) -> Diagnosis {
    let force = force(pod);
    Diagnosis::new(
        Reason::NodeLost,
        format!(
            "node {node} does not respond: its containers end with the node's lease, and its set replaces \
             it on another node"
        ),
        format!(
            "nothing to do for 60s; after that an event StaysWithNode of the pod names what keeps it, \
             such as a volume that lives on {node}: then {node} has to come back; if its machine is off \
             permanently: kubectl taint node {node} {}=nodeshutdown:NoExecute, or {force}",
            taint::OUT_OF_SERVICE
        ),
    )
}

/// The diagnosis of a pod on a lost node, from the pod's status alone.
pub(super) fn unheard(pod: &PodView, node: &str) -> Diagnosis {
    if pod.ends_with_lease() {
        return fails_over(pod, node);
    }
    let force = force(pod);
    Diagnosis::new(
        Reason::NodeLost,
        format!("node {node} does not respond: its containers may still run"),
        format!(
            "node {node} has to come back; kubectl describe node {node} says since when it is \
             silent; if its machine is off permanently: kubectl taint node {node} \
             {}=nodeshutdown:NoExecute replaces its pods within 20s, or {force} this one at once",
            taint::OUT_OF_SERVICE
        ),
    )
}

fn force(pod: &PodView) -> String {
    let command = format!("delete pod {} --force --grace-period=0", &pod.name);
    text::kubectl(&pod.namespace, &command)
}

fn node_lost_since(node: &Node) -> Option<jiff::Timestamp> {
    let ready = node_conditions::ready(node)?;
    Some(ready.last_transition_time.as_ref()?.0)
}

pub(super) fn ended(pod: &PodView) -> Diagnosis {
    let cause = text::line(pod.reason.as_deref().unwrap_or_default());
    let detail = text::then(": ", pod.message.as_deref().unwrap_or_default());
    let (reason, how) = match (pod.phase, cause.as_str()) {
        (Phase::Succeeded, _) => (
            Reason::Completed,
            "ended, all containers with exit code 0".to_owned(),
        ),
        (_, "Evicted") => (Reason::Evicted, "was evicted from its node".to_owned()),
        (_, "") => (Reason::Failed, format!("failed{}", failure(pod))),
        (_, cause) => (Reason::Failed, format!("failed ({cause})")),
    };
    let remedy = match pod.controller.as_deref() {
        Some(owner) => format!("nothing to do; {} {} replaces it", owner.kind, owner.name),
        None => {
            let command = format!("delete pod {}", &pod.name);
            format!(
                "create it again, after {}",
                text::kubectl(&pod.namespace, &command)
            )
        }
    };
    let mut diagnosis = Diagnosis::new(reason, format!("{how}{detail}"), remedy)
        .since(text::changed_at(pod.condition("Ready")));
    if reason == Reason::Failed {
        diagnosis.container = failed(pod).map(|(name, _)| name.to_owned());
    }
    diagnosis
}

/// The first failed container.
fn failed(pod: &PodView) -> Option<(&str, &ContainerStateTerminated)> {
    let mut all = pod.init_containers.iter().chain(&pod.containers);
    all.find_map(|status| {
        let end = status.end().filter(|end| end.exit_code != 0)?;
        Some((&*status.name, end))
    })
}

fn failure(pod: &PodView) -> String {
    failed(pod).map_or(String::new(), |(name, end)| {
        let mut specs = pod.spec.containers.iter();
        let spec = specs.find(|container| container.name == name);
        format!(": container {name}: {}", exit::describe(end, spec))
    })
}
