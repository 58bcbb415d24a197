//! Diagnoses of pods without a node.

use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::pod_condition;

use super::pod::Diagnosis;
use super::reason::Reason;
use super::text;

/// The cause why the pod has no node yet.
pub(super) fn without_node(pod: &PodView) -> Diagnosis {
    let scheduled = pod.condition(pod_condition::SCHEDULED);
    let since = text::changed_at(scheduled);
    let gates = pod.spec.scheduling_gates.as_deref().unwrap_or_default();
    if !gates.is_empty() {
        let gates: Vec<&str> = gates.iter().map(|gate| gate.name.as_str()).collect();
        let gates = gates.join(", ");
        return Diagnosis::new(
            Reason::SchedulingGated,
            format!("scheduling gates hold it back: {gates}"),
            format!("the owner of the scheduling gates {gates} has to remove them"),
        )
        .since(since);
    }
    if let Some(node) = &pod.nominated {
        return Diagnosis::new(
            Reason::Unschedulable,
            format!("pods of lower priority make room for it on node {node}"),
            "nothing to do: it starts there when they have ended".to_owned(),
        )
        .since(since);
    }
    let message = scheduled.and_then(|condition| condition.message());
    let message = message.unwrap_or_default();
    // The result of the preemption is not a separate cause.
    let (message, _) = message.split_once(" preemption: ").unwrap_or((message, ""));
    let message = text::line(message);
    if message.is_empty() {
        return not_looked_at(pod);
    }
    if is_about_claims(&message) && !is_held_by_another(&message) {
        return about_claims(pod, message).since(since);
    }
    let remedy = format!(
        "free resources on a node or request less; {} shows the nodes' resources",
        "kubectl describe nodes"
    );
    Diagnosis::new(
        Reason::Unschedulable,
        format!("no node fits: {message}"),
        remedy,
    )
    .since(since)
}

/// Whether the scheduler's message is about a ReadWriteOncePod claim in use.
fn is_held_by_another(message: &str) -> bool {
    text::between(message, "ReadWriteOncePod", "mode").is_some()
}

fn not_looked_at(pod: &PodView) -> Diagnosis {
    let scheduler = pod.spec.scheduler_name.as_deref();
    let scheduler = scheduler.unwrap_or("default-scheduler");
    Diagnosis::new(
        Reason::NotScheduled,
        format!("scheduler {scheduler} has not tried to schedule it yet"),
        format!("nothing to do if scheduler {scheduler} runs; otherwise start it"),
    )
    .since(pod.created)
}

/// Whether the scheduler's text is about the pod's claims (`statefulset.md` 11.15).
fn is_about_claims(message: &str) -> bool {
    let message = message.to_lowercase();
    [
        "persistentvolumeclaim",
        "persistent volumes to bind",
        "binding volumes",
    ]
    .iter()
    .any(|words| message.contains(words))
}

fn about_claims(pod: &PodView, message: String) -> Diagnosis {
    let mut claims = claim_names(pod);
    // If the message names claims, only these claims are the cause.
    let named: Vec<String> = claims
        .iter()
        .filter(|claim| message.contains(&format!("\"{claim}\"")))
        .cloned()
        .collect();
    if !named.is_empty() {
        claims = named;
    }
    let list = claims.join(", ");
    let first = claims.first().map(String::as_str).unwrap_or_default();
    let describe = text::kubectl(&pod.namespace, &format!("describe pvc {first}"));
    let mut diagnosis = Diagnosis::new(
        Reason::WaitingForClaim,
        format!("no node until its claims are usable ({list}): {message}"),
        format!("its claims must be bound; {describe} shows why they wait"),
    );
    diagnosis.claims = claims;
    diagnosis
}

/// Names of the claims in a pod's volumes.
pub fn claim_names(pod: &PodView) -> Vec<String> {
    let names = pod.claims.iter().map(|claim| claim.name.to_string());
    names.collect()
}
