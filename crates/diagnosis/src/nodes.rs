//! Nodes: missing heartbeats, missing resources, and taints or cordons that keep pods away.

use controller_planners::node_lifecycle::fence::{NodeLease, wait};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Event, Node, NodeCondition};
use pod_lifecycle::diagnosis::{Remedy, text};
use resource_kinds::reasons::node_condition;

use super::chain_builder::ChainBuilder;
use super::deletion::blocked_deletion;
use super::explanation::{CauseChain, Explanation, Object, merged};
use super::observed::{self, ObservedNamespace};

/// The pressure conditions of a node, and the remedy for each.
const PRESSURES: [(&str, &str, &str); 3] = [
    (
        node_condition::DISK_PRESSURE,
        "is short of disk space: pods are evicted, and it takes no new ones",
        "free space on the file system of the data directory; mainstay image ls and rm show and \
         remove images",
    ),
    (
        node_condition::MEMORY_PRESSURE,
        "is short of memory: pods are evicted, and it takes no new ones of best effort",
        "run less on it, or give pods limits",
    ),
    (
        node_condition::PID_PRESSURE,
        "is short of process ids: pods are evicted, and it takes no new ones",
        "find the program that starts so many processes",
    ),
];
/// The age up to which an event of a node is reported.
const RECENT: SignedDuration = SignedDuration::from_mins(20);

pub(super) fn explain(observed: &ObservedNamespace, node: &Node, object: Object) -> Explanation {
    let mut explanation = Explanation::fine(object.clone(), "");
    let mut chains: Vec<CauseChain> = blocked_deletion(observed, &object, &node.metadata)
        .into_iter()
        .collect();
    chains.extend(not_ready(observed, node, &object));
    for (kind, message, remedy) in PRESSURES {
        let Some(condition) = condition(node, kind).filter(|one| one.status == "True") else {
            continue;
        };
        let since = condition.last_transition_time.as_ref().map(|time| time.0);
        let mut builder = ChainBuilder::of(observed);
        builder.link(object.clone(), kind, message, since);
        builder.remedy(Remedy::new(remedy).with(usage(&object.name)));
        chains.push(builder.chain());
    }
    chains.extend(cordoned(observed, node, &object));
    chains.extend(warning(observed, &object));
    let spec = node.spec.clone().unwrap_or_default();
    let is_node_taint = |key: &str| key.starts_with("node.kubernetes.io/");
    for taint in spec
        .taints
        .iter()
        .flatten()
        .filter(|taint| !is_node_taint(&taint.key))
    {
        let value = taint.value.as_deref().filter(|value| !value.is_empty());
        let value = value.map_or(String::new(), |value| format!("={value}"));
        explanation = explanation.note(format!(
            "only pods that tolerate it go there: {}{value}:{}; to remove it: kubectl taint \
             node {} {}:{}-",
            taint.key, taint.effect, object.name, taint.key, taint.effect
        ));
    }
    let silence = silence(observed, &object.name, false);
    explanation.summary = match (condition(node, node_condition::READY), chains.is_empty()) {
        (None, _) => "its node agent has not reported yet".to_owned(),
        (Some(ready), _) if ready.status != "True" => "not Ready".to_owned(),
        (_, true) if silence.is_some() => "Ready when it was last heard of".to_owned(),
        (_, true) => "Ready".to_owned(),
        (_, false) => "Ready, but not for everything".to_owned(),
    };
    if explanation.summary != "not Ready" {
        explanation.notes.extend(silence);
    }
    explanation.waits(merged(chains))
}

/// If the clocks of the node and of this machine differ by more than this time, the silence of the node is unknown.
const COMPARABLE: SignedDuration = SignedDuration::from_mins(10);

/// A note about a node that counts as Ready and does not renew its lease; the note distinguishes pods that end with the
/// lease from other pods.
///
/// The times are by the clocks of the node and of this machine, so a note with impossible times is left out. If the
/// node has been silent for longer than the time after which it counts as lost, the server itself was not running: the
/// server counts only the time for which it has run.
pub(super) fn silence(observed: &ObservedNamespace, node: &str, ends_pods: bool) -> Option<String> {
    let leases = observed.cluster.node_leases.as_ref()?;
    let lease = observed::named(leases, node)?;
    let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0;
    let silent = observed.now.duration_since(renewed);
    let NodeLease { length, fenced, .. } = NodeLease::from(&**lease);
    if fenced || silent < length / 2 || silent > COMPARABLE {
        return None;
    }
    let fenced = wait(length);
    if silent > fenced {
        let (silent, fenced) = (silent.as_secs(), fenced.as_secs_f64());
        let start = (length / 4).as_secs_f64();
        return Some(format!(
            "by its clock, node {node} has not renewed its lease for {silent}s, and does not count as lost yet: a server \
             that has started in between counts the {fenced}s without the time for which it did not run, and without the \
             first {start}s of each run"
        ));
    }
    let (silent, length, fenced) = (silent.as_secs(), length.as_secs(), fenced.as_secs_f64());
    let next = match ends_pods {
        true => format!(
            "the pod ends {length}s after the last renewal, and is replaced on another node {fenced}s after it"
        ),
        false => format!("it counts as lost {fenced}s after the last renewal"),
    };
    Some(format!(
        "node {node} has not renewed its lease for {silent}s: {next}"
    ))
}

fn usage(node: &str) -> String {
    format!("kubectl describe node {node}")
}

fn condition<'n>(node: &'n Node, kind: &str) -> Option<&'n NodeCondition> {
    let mut conditions = node.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind)
}

fn not_ready(observed: &ObservedNamespace, node: &Node, object: &Object) -> Option<CauseChain> {
    let ready = condition(node, node_condition::READY);
    let status = ready.map_or("Unknown", |ready| ready.status.as_str());
    if status == "True" {
        return None;
    }
    let since = ready.and_then(|ready| ready.last_transition_time.as_ref());
    let since = since.map(|time| time.0);
    let detail = ready.and_then(|ready| ready.message.as_deref());
    let detail = text::then(": ", detail.unwrap_or_default());
    let mut builder = ChainBuilder::of(observed);
    if status == "Unknown" {
        let message = format!("nothing is heard of it{detail}");
        builder.link(object.clone(), "NodeStatusUnknown", message, since);
        builder.remedy(
            Remedy::new(format!(
                "see that its machine and mainstay run there; if it is gone for good, its pods \
                 are given up with the node {}",
                object.name
            ))
            .with(format!("kubectl delete node {}", object.name)),
        );
    } else {
        let reason = ready.and_then(|ready| ready.reason.clone());
        let message = format!("is not Ready{detail}");
        builder.link(object.clone(), reason.unwrap_or_default(), message, since);
        builder.remedy(
            Remedy::new("correct the problem that the node reports").with(usage(&object.name)),
        );
    }
    Some(builder.chain())
}

fn cordoned(observed: &ObservedNamespace, node: &Node, object: &Object) -> Option<CauseChain> {
    let spec = node.spec.as_ref()?;
    (spec.unschedulable == Some(true)).then(|| {
        let mut taints = spec.taints.iter().flatten();
        let taint = taints.find(|taint| taint.key == resource_kinds::reasons::taint::UNSCHEDULABLE);
        let since = taint.and_then(|taint| taint.time_added.as_ref());
        let mut builder = ChainBuilder::of(observed);
        let message = "is cordoned: it takes no new pods";
        builder.link(
            object.clone(),
            "Cordoned",
            message,
            since.map(|time| time.0),
        );
        let uncordon = format!("kubectl uncordon {}", object.name);
        builder.remedy(Remedy::new("allow pods on it again").with(uncordon));
        builder.chain()
    })
}

/// A problem that a node reports by events and not by conditions: a full store, images.
fn warning(observed: &ObservedNamespace, object: &Object) -> Option<CauseChain> {
    let lasting = [
        "StoreFull",
        "ImageGCFailed",
        "FreeDiskSpaceFailed",
        "InvalidDiskCapacity",
    ];
    let is_warning = |event: &Event| {
        let reason = event.reason.as_deref().unwrap_or_default();
        let recent = observed::last_seen(event)
            .is_some_and(|last| observed.now.duration_since(last) <= RECENT);
        lasting.contains(&reason) && recent
    };
    let event = observed.newest_event("Node", &object.name, Some(&object.name), is_warning)?;
    if event.reason.as_deref() == Some("StoreFull") && !store_is_full(observed) {
        return None;
    }
    let mut builder = ChainBuilder::of(observed);
    builder.event(event, object.clone());
    builder.remedy(
        Remedy::new("free space on the file system of the data directory, or delete objects")
            .with(usage(&object.name)),
    );
    Some(builder.chain())
}

/// Whether the store refuses writes now, or its state is unknown.
fn store_is_full(observed: &ObservedNamespace) -> bool {
    let Some(components) = &observed.cluster.components else {
        return true;
    };
    components.iter().any(|component| {
        let healthy = component.conditions.iter().flatten();
        let unwell = healthy
            .filter(|condition| condition.status != "True")
            .count()
            > 0;
        text::name(&component.metadata) == "etcd-0" && unwell
    })
}

/// The explanation for a node that pods name and that does not exist.
pub(super) fn missing(observed: &ObservedNamespace, object: Object) -> Option<Explanation> {
    let name = object.name.clone();
    let on_it = |pod: &&std::sync::Arc<_>| {
        let pod: &resource_kinds::pod_view::PodView = pod;
        pod.node.as_deref() == Some(name.as_str())
    };
    let pods = observed.pods.iter().filter(on_it).map(|pod| &*pod.name);
    let pods = text::list(pods);
    (!pods.is_empty()).then(|| {
        let mut builder = ChainBuilder::of(observed);
        let message = format!("does not exist, and {pods} should run there");
        builder.link(object.clone(), "NotFound", message, None);
        builder.remedy(
            "start mainstay on its machine, if it does not run there: it makes the node again within \
             seconds; if the machine is gone, wait: its pods are removed 70s after the last renewal of \
             its lease",
        );
        Explanation::fine(object, "does not exist").waits([builder.chain()])
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use json_tree::json;
    use k8s_openapi::api::coordination::v1::Lease;

    use super::super::observed::ObservedCluster;
    use super::*;

    /// docs/node-failure.md: the note contains the consequence and its time before the node counts as lost.
    #[test]
    fn a_node_that_does_not_renew_its_lease_is_told_with_what_follows() {
        let lease: Lease = json_tree::from_value(json!({"metadata": {"name": "n1"}, "spec":
            {"leaseDurationSeconds": 38, "renewTime": "2026-01-01T12:00:00.000000Z"}}))
        .unwrap();
        let note = |node: &str, second: &str, ends_pods: bool| {
            let now: Timestamp = format!("2026-01-01T{second}Z").parse().unwrap();
            let cluster = ObservedCluster {
                node_leases: Some(vec![Arc::new(lease.clone())]),
                ..ObservedCluster::default()
            };
            let mut observed = ObservedNamespace::of("default", now);
            observed.cluster = Arc::new(cluster);
            silence(&observed, node, ends_pods).unwrap_or_default()
        };
        assert_eq!(note("n1", "12:00:12", true), "");
        assert_eq!(note("n2", "12:00:30", true), "");
        assert_eq!(
            note("n1", "12:00:30", true),
            "node n1 has not renewed its lease for 30s: the pod ends 38s after the last renewal, and is \
             replaced on another node 47.5s after it"
        );
        assert_eq!(
            note("n1", "12:00:30", false),
            "node n1 has not renewed its lease for 30s: it counts as lost 47.5s after the last renewal"
        );
        // findings-2 R36
        for ends_pods in [true, false] {
            assert_eq!(
                note("n1", "12:01:23", ends_pods),
                "by its clock, node n1 has not renewed its lease for 83s, and does not count as lost yet: a \
                 server that has started in between counts the 47.5s without the time for which it did not run, \
                 and without the first 9.5s of each run"
            );
        }
        // The clocks of the node and of this machine differ too much.
        assert_eq!(note("n1", "13:00:00", true), "");
        assert_eq!(note("n1", "11:00:00", true), "");
    }
}
