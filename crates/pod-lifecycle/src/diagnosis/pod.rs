//! The diagnosis of one pod.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::pod_condition;

use super::reason::Reason;
use super::remedy::Remedy;
use super::{container, ending, scheduling, text};

/// The cause why a pod is not Ready, or still exists.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnosis {
    /// Reason for programs: one word in CamelCase.
    pub reason: Reason,
    /// Message in one line, which follows the pod's name and a colon. The message changes only with the
    /// cause.
    pub message: String,
    /// The steps that would resolve the cause.
    pub remedy: Remedy,
    /// The container that is the cause; `None` if no container is.
    pub container: Option<String>,
    /// The claims that are the cause; empty if no claim is.
    pub claims: Vec<String>,
    /// The time since when the cause exists, from the pod's status.
    pub since: Option<Timestamp>,
}

impl Diagnosis {
    /// A cause without a container, claims or a time.
    pub fn new(reason: Reason, message: String, remedy: impl Into<Remedy>) -> Self {
        Self {
            reason,
            message,
            remedy: remedy.into(),
            container: None,
            claims: Vec::new(),
            since: None,
        }
    }

    /// Sets the time since when the cause exists.
    pub fn since(mut self, since: Option<Timestamp>) -> Self {
        self.since = since.or(self.since);
        self
    }

    /// Sets the container that is the cause.
    pub fn of_container(mut self, name: &str) -> Self {
        self.container = Some(name.to_owned());
        self
    }
}

/// Objects apart from the pod that make a diagnosis more exact.
#[derive(Clone, Copy, Debug, Default)]
pub struct PodContext<'a> {
    /// The pod's node; `None` if it was not read.
    pub node: Option<&'a Node>,
    /// The present time. With it, the diagnosis may change without an event when a grace period ends.
    pub now: Option<Timestamp>,
}

/// The cause why the pod is not Ready, or is being deleted; `None` for a Ready pod.
pub fn pod(pod: &PodView) -> Option<Diagnosis> {
    pod_in(pod, &PodContext::default())
}

/// The cause why the pod is not Ready. The context has the pod's node and the time.
pub fn pod_in(pod: &PodView, around: &PodContext<'_>) -> Option<Diagnosis> {
    if pod.is_deleting() {
        return Some(ending::terminating(pod, around));
    }
    if pod.has_ended() {
        return Some(ending::ended(pod));
    }
    let ready = pod.condition(pod_condition::READY);
    if ready.is_some_and(|ready| ready.holds()) {
        return None;
    }
    let Some(node) = pod.node.as_deref() else {
        return Some(scheduling::without_node(pod));
    };
    let diagnosis = ending::node_lost(pod, around)
        .or_else(|| container::trouble(pod))
        .or_else(|| closed_gates(pod))
        .or_else(|| forsaken(pod, node));
    Some(diagnosis.unwrap_or_else(|| {
        let detail = ready.and_then(|ready| ready.message());
        let detail = text::then(": ", detail.unwrap_or_default());
        let message = format!("not ready, and its status does not say why{detail}");
        let describe = format!("describe pod {}", &pod.name);
        let remedy = format!("see {}", text::kubectl(&pod.namespace, &describe));
        Diagnosis::new(Reason::Unknown, message, remedy).since(text::changed_at(ready))
    }))
}

/// The messages are kubelet's (`statefulset.md` 3.34).
fn closed_gates(pod: &PodView) -> Option<Diagnosis> {
    let gates = pod.spec.readiness_gates.iter().flatten();
    let mut closed = Vec::new();
    let mut names = Vec::new();
    for gate in gates {
        let name = gate.condition_type.as_str();
        closed.push(match pod.condition(name) {
            Some(condition) if condition.holds() => continue,
            Some(condition) => format!(
                "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                condition.status()
            ),
            None => {
                format!("corresponding condition of pod readiness gate \"{name}\" does not exist.")
            }
        });
        names.push(name);
    }
    let names = names.join(", ");
    let since = text::changed_at(pod.condition(pod_condition::READY));
    (!closed.is_empty()).then(|| {
        Diagnosis::new(
            Reason::ReadinessGate,
            closed.join(", "),
            format!("the controller of the pod's condition {names} has to set it to True"),
        )
        .since(since)
    })
}

/// A pod that is marked as not ready although its node reports it: the node lifecycle controller marks the
/// pods of a lost node.
fn forsaken(pod: &PodView, node: &str) -> Option<Diagnosis> {
    let ready = pod.condition(pod_condition::READY)?;
    let containers = pod.condition(pod_condition::CONTAINERS_READY)?;
    let silent = containers.holds() && ready.reason().is_none();
    silent.then(|| ending::unheard(pod, node).since(text::changed_at(Some(ready))))
}
