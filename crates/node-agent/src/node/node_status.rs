//! The parts of the node's status that are computed: conditions, extended resources, and the comparison
//! with the statuses of other writers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pod_lifecycle::resources::eviction::Condition;

use crate::devices::plugins::ReportedDevices;

/// The conditions that the node sets.
const NODE_CONDITIONS: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

/// Extended resources that other programs write, as allocatable resources; `None` for removed resources.
pub type ExtendedResources = BTreeMap<String, Option<Quantity>>;

/// The extended resources in a status that neither the node nor its device plugins report. Operators write extended
/// resources into the capacity. As with kubelet, the whole amount is allocatable.
pub fn extended(
    status: &NodeStatus,
    node_resources: &BTreeMap<String, Quantity>,
    devices: &ReportedDevices,
) -> ExtendedResources {
    let foreign = |amounts: &Option<BTreeMap<String, Quantity>>| {
        let all = amounts.clone().into_iter().flatten();
        let is_foreign =
            |name: &String| !node_resources.contains_key(name) && !devices.contains_key(name);
        all.filter(move |(name, _)| name.contains('/') && is_foreign(name))
    };
    let removed = foreign(&status.allocatable).map(|(name, _)| (name, None));
    let present = foreign(&status.capacity).map(|(name, quantity)| (name, Some(quantity)));
    removed.chain(present).collect()
}

/// The internal IP address in a status.
pub fn address_of(status: &NodeStatus) -> Option<IpAddr> {
    let mut addresses = status.addresses.iter().flatten();
    let internal = addresses.find(|address| address.type_ == "InternalIP")?;
    internal.address.parse().ok()
}

/// The part of a status that the node writes, without times.
pub fn part_of_node(status: &NodeStatus) -> Value {
    let conditions = status.conditions.iter().flatten();
    let node_conditions =
        conditions.filter(|condition| NODE_CONDITIONS.contains(&condition.type_.as_str()));
    let node_conditions: BTreeMap<_, _> = node_conditions
        .map(|c| (c.type_.clone(), json!([c.status, c.reason, c.message])))
        .collect();
    json!([
        node_conditions,
        status.addresses,
        status.allocatable,
        status.capacity,
        status.daemon_endpoints,
        status.features,
        status.images,
        status.node_info,
        status
            .volumes_in_use
            .iter()
            .flatten()
            .collect::<BTreeSet<_>>(),
        status.runtime_handlers,
    ])
}

/// The node's conditions, based on the stored conditions. A transition time changes only with the status of
/// its condition, and never goes back. `fault` is the reason why the node starts no pods.
pub fn conditions(
    before: &[NodeCondition],
    pressures: &BTreeSet<Condition>,
    fault: Option<&str>,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let lacks_memory = pressures.contains(&Condition::MemoryPressure);
    let lacks_disk = pressures.contains(&Condition::DiskPressure);
    let condition = |type_: &str, holds: bool, reason: &str, message: &str| {
        let status = if holds { "True" } else { "False" };
        let former = before.iter().find(|c| c.type_ == type_);
        let changed = former.and_then(|c| c.last_transition_time.as_ref());
        let since = match (former, changed) {
            (Some(former), Some(changed)) if former.status == status => changed.0,
            (_, Some(changed)) => {
                cov_mark::hit!(findings_r2_transition);
                changed.0.max(now)
            }
            (_, None) => now,
        };
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(Time(since)),
        }
    };
    let memory = if lacks_memory {
        (
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
        )
    } else {
        (
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        )
    };
    let disk = if lacks_disk {
        ("KubeletHasDiskPressure", "kubelet has disk pressure")
    } else {
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure")
    };
    let ready = match fault {
        Some(message) => (false, "KubeletNotReady", message),
        None => (true, "KubeletReady", "kubelet is posting ready status"),
    };
    vec![
        condition("MemoryPressure", lacks_memory, memory.0, memory.1),
        condition("DiskPressure", lacks_disk, disk.0, disk.1),
        condition(
            "PIDPressure",
            false,
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        condition("Ready", ready.0, ready.1, ready.2),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_of_the_node_can_be_used() {
        let amounts = |list: &[(&str, &str)]| {
            let amounts = list.iter();
            let amounts = amounts.map(|(name, n)| ((*name).to_owned(), Quantity((*n).to_owned())));
            amounts.collect::<BTreeMap<_, _>>()
        };
        let node_resources = amounts(&[("cpu", "2"), ("memory", "1Gi")]);
        let status = NodeStatus {
            capacity: Some(amounts(&[("cpu", "2"), ("example.com/a", "3")])),
            allocatable: Some(amounts(&[("cpu", "2"), ("example.com/b", "1")])),
            ..NodeStatus::default()
        };
        let expected = [
            ("example.com/a".to_owned(), Some(Quantity("3".to_owned()))),
            ("example.com/b".to_owned(), None),
        ];
        let mut devices = ReportedDevices::new();
        let resources = |devices: &ReportedDevices| extended(&status, &node_resources, devices);
        assert_eq!(resources(&devices), BTreeMap::from(expected));
        // A plugin reports the first resource now.
        devices.insert("example.com/a".to_owned(), Default::default());
        let names: Vec<String> = resources(&devices).into_keys().collect();
        assert_eq!(names, ["example.com/b"]);
        let empty = extended(&NodeStatus::default(), &node_resources, &devices);
        assert!(empty.is_empty());
    }

    #[test]
    fn conditions_keep_their_transition_time() {
        let first = Timestamp::from_second(1000).unwrap();
        let later = Timestamp::from_second(2000).unwrap();
        let before = conditions(&[], &BTreeSet::new(), None, first);
        let pressures = BTreeSet::from([Condition::MemoryPressure]);
        let after = conditions(&before, &pressures, None, later);
        let since = |type_: &str| {
            let condition = after.iter().find(|c| c.type_ == type_).unwrap();
            (
                condition.status.clone(),
                condition.last_transition_time.clone().unwrap().0,
            )
        };
        assert_eq!(since("Ready"), ("True".to_owned(), first));
        assert_eq!(since("MemoryPressure"), ("True".to_owned(), later));
    }

    // findings-2 R34
    #[test]
    fn a_node_that_can_start_no_pods_is_not_ready() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let ready = conditions(&[], &BTreeSet::new(), None, at(1000));
        let message = "the disk of the node takes no records: Read-only file system (os error 30)";
        let failed = conditions(&ready, &BTreeSet::new(), Some(message), at(2000));
        let last = failed.last().unwrap();
        let reported = [&Some(last.status.clone()), &last.reason, &last.message];
        let reported = reported.map(|text| text.clone().unwrap());
        assert_eq!(reported, ["False", "KubeletNotReady", message]);
        assert_eq!(last.last_transition_time, Some(Time(at(2000))));
    }

    // findings R2
    #[test]
    fn a_transition_that_others_told_is_not_taken_back_in_time() {
        cov_mark::check!(findings_r2_transition);
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut lost = conditions(&[], &BTreeSet::new(), None, at(1000));
        for condition in &mut lost {
            condition.status = "Unknown".to_owned();
            condition.last_transition_time = Some(Time(at(2000)));
        }
        // In the second case, the clock was set back.
        for (now, expected) in [(2010, 2010), (1500, 2000)] {
            let after = conditions(&lost, &BTreeSet::new(), None, at(now));
            let since = after
                .iter()
                .map(|c| c.last_transition_time.clone().unwrap().0);
            assert_eq!(since.collect::<Vec<_>>(), [at(expected); 4]);
        }
    }

    // findings R2
    #[test]
    fn what_others_wrote_over_the_nodes_own_word_is_seen() {
        let now = Timestamp::from_second(1000).unwrap();
        let status = |conditions| NodeStatus {
            conditions: Some(conditions),
            ..NodeStatus::default()
        };
        let written = conditions(&[], &BTreeSet::new(), None, now);
        let mut foreign = written.clone();
        foreign.push(NodeCondition {
            type_: "example.com/Fan".to_owned(),
            ..NodeCondition::default()
        });
        foreign[0].last_heartbeat_time = None;
        let mut lost = written.clone();
        lost[3].status = "Unknown".to_owned();
        let part = part_of_node(&status(written));
        assert_eq!(part, part_of_node(&status(foreign)));
        assert_ne!(part, part_of_node(&status(lost)));
    }
}
