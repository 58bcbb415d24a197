//! The taints that follow from a node's conditions.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use resource_kinds::reasons::taint;

use super::disruption::Permission;

const MEMORY: &str = "node.kubernetes.io/memory-pressure";
const DISK: &str = "node.kubernetes.io/disk-pressure";
const PIDS: &str = "node.kubernetes.io/pid-pressure";
const NETWORK: &str = "node.kubernetes.io/network-unavailable";

/// The taints that this controller manages.
const OURS: [&str; 7] = [
    taint::NOT_READY,
    taint::UNREACHABLE,
    taint::UNSCHEDULABLE,
    MEMORY,
    DISK,
    PIDS,
    NETWORK,
];

/// All taints of the node, if they change.
pub(super) fn desired_taints(
    node: &Node,
    conditions: &[NodeCondition],
    permission: Permission,
    now: Timestamp,
) -> Option<Vec<Taint>> {
    let spec = node.spec.as_ref();
    let present = spec
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let mut desired = keys(node, conditions);
    let has_begun = drives_pods_away(present);
    let may_drive_away = match permission {
        Permission::Now => true,
        Permission::At(_) | Permission::Withheld => has_begun,
        Permission::Revoked => false,
    };
    desired.retain(|(_, effect)| may_drive_away || *effect != "NoExecute");
    let is_desired = |taint: &Taint| {
        desired
            .iter()
            .any(|(key, effect)| taint.key == *key && taint.effect == *effect)
    };
    let is_ours = |taint: &Taint| {
        OURS.contains(&taint.key.as_str())
            && matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
    };
    let mut taints: Vec<Taint> = present
        .iter()
        .filter(|taint| !is_ours(taint) || is_desired(taint))
        .cloned()
        .collect();
    for (key, effect) in desired {
        if !taints
            .iter()
            .any(|taint| taint.key == key && taint.effect == effect)
        {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                // Tolerations are counted from this time.
                time_added: Some(Time(now)),
            });
        }
    }
    (taints != present).then_some(taints)
}

/// Whether a taint of this controller evicts pods.
pub(super) fn drives_pods_away(taints: &[Taint]) -> bool {
    let ours = [taint::NOT_READY, taint::UNREACHABLE];
    taints
        .iter()
        .any(|taint| taint.effect == "NoExecute" && ours.contains(&taint.key.as_str()))
}

fn keys(node: &Node, conditions: &[NodeCondition]) -> Vec<(&'static str, &'static str)> {
    let status = |kind: &str| {
        let existing = conditions.iter().find(|condition| condition.type_ == kind);
        existing.map(|condition| condition.status.as_str())
    };
    let mut keys = Vec::new();
    match status("Ready") {
        Some("True") => {}
        Some("False") => {
            keys.extend([
                (taint::NOT_READY, "NoExecute"),
                (taint::NOT_READY, "NoSchedule"),
            ]);
        }
        Some(_) => {
            keys.extend([
                (taint::UNREACHABLE, "NoExecute"),
                (taint::UNREACHABLE, "NoSchedule"),
            ]);
        }
        // The node never reported a status: no pod may start on the node, but no pod is evicted.
        None => keys.push((taint::NOT_READY, "NoSchedule")),
    }
    let pressures = [
        ("MemoryPressure", MEMORY),
        ("DiskPressure", DISK),
        ("PIDPressure", PIDS),
        ("NetworkUnavailable", NETWORK),
    ];
    for (kind, key) in pressures {
        if status(kind) == Some("True") {
            keys.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        keys.push((taint::UNSCHEDULABLE, "NoSchedule"));
    }
    keys
}
