//! The deletion of pods that are bound to a node without a Node object, and the deletion of that node's lease.
//!
//! The deletion of a Node object does not stop the machine: its agent may still run, and registers the node again when
//! possible. **Guarantees**: pods stay while the lease is renewed. The pods are deleted only after the lease was fenced
//! by compare-and-swap over a version that this observer read unchanged for [`wait`], by its local monotonic clock, so
//! after the end of all pods that end with the lease. The lease is deleted after the pods: an agent that returns then
//! begins a new epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use object_model::{IncompleteMetadata, ResourceVersion};
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;

use super::{PodGcPlan, Removal, RemovalCause, removal};
use crate::node_lifecycle::fence::{self, LENGTH, NodeLease, Renewals};

/// The shortest time without a Node object before pods are deleted; as kube-controller-manager.
pub const MISSING_FOR: SignedDuration = SignedDuration::from_secs(40);

/// The observed lease of a node without a Node object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrphanLease {
    /// The lease; `None` if there is no lease.
    pub lease: Option<NodeLease>,
    /// The version of the lease; `None` if there is no lease.
    pub version: Option<ResourceVersion>,
    /// A Node object owned the lease.
    pub is_owned: bool,
    /// The time for which this observer has read that the Node is absent and its lease unchanged.
    pub unchanged_for: SignedDuration,
}

/// The takeover of the lease of a node without a Node object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTakeover {
    /// Name of the node.
    pub node: String,
    /// The lease as observed.
    pub lease: NodeLease,
    pub version: ResourceVersion,
    /// The time for which the lease was unchanged.
    pub unchanged_for: SignedDuration,
    /// The epoch after the takeover.
    pub epoch: i32,
    /// The pods to delete after the takeover.
    pub remove: Vec<Removal>,
}

/// The deletion of the lease of a node without a Node object and without pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Name of the node.
    pub node: String,
    /// The observed version of its lease.
    pub version: ResourceVersion,
}

/// The next step about a node without a Node object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrphanDecision {
    /// No write is needed.
    Nothing,
    /// The pods are removed.
    Remove,
    /// The lease is deleted, if its version is the observed version.
    Release,
    /// The agent may be alive; decide again after this time.
    Wait(SignedDuration),
    /// The lease is taken over: write the lease over the observed version, with this epoch and no holder. Then the pods
    /// of the node are removed.
    Fence { epoch: i32 },
}

/// Decides about a node without a Node object, whose lease this observer has read unchanged, or absent, for
/// `unchanged_for`. Total.
pub fn decide(
    lease: Option<&NodeLease>,
    unchanged_for: SignedDuration,
    has_pods: bool,
) -> OrphanDecision {
    if lease.is_none() && !has_pods {
        return OrphanDecision::Nothing;
    }
    let left = wait(lease).saturating_sub(unchanged_for);
    if left > SignedDuration::ZERO {
        return OrphanDecision::Wait(left);
    }
    match lease {
        Some(_) if !has_pods => OrphanDecision::Release,
        Some(lease) if !lease.fenced => OrphanDecision::Fence {
            epoch: lease.epoch.saturating_add(1),
        },
        _ => OrphanDecision::Remove,
    }
}

/// The time for which a lease must be unchanged, or absent.
pub fn wait(lease: Option<&NodeLease>) -> SignedDuration {
    let length = lease.map_or(LENGTH, |lease| lease.length);
    fence::wait(length).max(MISSING_FOR)
}

pub(super) fn plan(
    node: &str,
    missing: &OrphanLease,
    pods: &[&Arc<PodView>],
    plan: &mut PodGcPlan,
) {
    let removals = || -> Vec<Removal> {
        let removals = pods.iter().map(|pod| removal(pod, node_missing(node)));
        removals.collect()
    };
    let lease = missing.lease.as_ref();
    let stored = lease.zip(missing.version);
    match decide(lease, missing.unchanged_for, !pods.is_empty()) {
        OrphanDecision::Nothing => {}
        OrphanDecision::Wait(left) => {
            plan.wake_after = Some(plan.wake_after.map_or(left, |other| other.min(left)));
        }
        OrphanDecision::Fence { epoch } => {
            let remove = removals();
            plan.takeovers
                .extend(stored.map(|(lease, version)| LeaseTakeover {
                    node: node.to_owned(),
                    lease: lease.clone(),
                    version,
                    unchanged_for: missing.unchanged_for,
                    epoch,
                    remove,
                }))
        }
        OrphanDecision::Remove => plan.remove.extend(removals()),
        // Leases without an owner stay, as with the garbage collector.
        OrphanDecision::Release => {
            plan.release
                .extend(
                    missing
                        .version
                        .filter(|_| missing.is_owned)
                        .map(|version| Release {
                            node: node.to_owned(),
                            version,
                        }),
                )
        }
    }
}

fn node_missing(node: &str) -> RemovalCause {
    RemovalCause::NodeMissing {
        node: node.to_owned(),
    }
}

/// The memory about nodes without a Node object.
#[derive(Debug, Default)]
pub struct Memory {
    /// By the version of each lease; `None` if there is no lease.
    renewals: Renewals<Option<ResourceVersion>>,
    /// Nodes that may have left a lease.
    left: BTreeSet<String>,
    checked_at: Option<SignedDuration>,
}

impl Memory {
    /// Remembers a node that may have left a lease.
    pub fn add(&mut self, node: String) {
        self.left.insert(node);
    }

    /// The nodes without a Node object: the nodes of pods, and the nodes that may have left a lease. If the time since
    /// the last call is longer than `gap`, or the clock was set back, this observer itself did not run: all counts
    /// start again.
    pub fn missing_nodes(
        &mut self,
        pods: &[Arc<PodView>],
        nodes: &[Arc<Node>],
        gap: SignedDuration,
        now: SignedDuration,
    ) -> BTreeSet<String> {
        let since = self
            .checked_at
            .replace(now)
            .map(|then| now.saturating_sub(then));
        if since.is_some_and(|since| since > gap || since.is_negative()) {
            self.renewals.restart_all();
        }
        let present: BTreeSet<&str> = nodes
            .iter()
            .filter_map(|node| node.metadata.name.as_deref())
            .collect();
        self.left.retain(|name| !present.contains(name.as_str()));
        let of_pods = pods.iter().filter_map(|pod| pod.node.as_deref());
        let missing: BTreeSet<String> = of_pods
            .filter(|name| !present.contains(name))
            .map(str::to_owned)
            .chain(self.left.iter().cloned())
            .collect();
        self.renewals.retain(|name| missing.contains(name));
        missing
    }

    /// Records the lease at a read.
    pub fn saw(
        &mut self,
        node: &str,
        lease: Option<&Lease>,
        now: SignedDuration,
    ) -> Result<OrphanLease, IncompleteMetadata> {
        let version = lease
            .map(|lease| lease.metadata.object_version())
            .transpose()?;
        match lease {
            Some(_) => self.left.insert(node.to_owned()),
            None => self.left.remove(node),
        };
        let owners = lease.and_then(|lease| lease.metadata.owner_references.as_ref());
        let is_owned = owners.is_some_and(|owners| owners.iter().any(|owner| owner.kind == "Node"));
        let lease = lease.map(NodeLease::from);
        let unchanged_for = self.renewals.unchanged_for(node, &version, now);
        Ok(OrphanLease {
            lease,
            version,
            is_owned,
            unchanged_for,
        })
    }
}

/// The pods of each node without a Node object.
pub(super) fn by_node<'p>(
    pods: &'p [Arc<PodView>],
    missing: &BTreeMap<String, OrphanLease>,
) -> BTreeMap<String, Vec<&'p Arc<PodView>>> {
    let mut by_node: BTreeMap<String, Vec<_>> = missing
        .keys()
        .map(|name| (name.clone(), Vec::new()))
        .collect();
    for pod in pods {
        let node = pod.node.as_deref().and_then(|node| by_node.get_mut(node));
        node.into_iter().for_each(|pods| pods.push(pod));
    }
    by_node
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};
    use proptest::prelude::*;

    use super::*;
    use resource_kinds::annotations;

    fn secs(seconds: i64) -> SignedDuration {
        SignedDuration::from_secs(seconds)
    }

    fn stored(version: &str, holder: Option<&str>, marks: Value) -> Lease {
        let owner = json!({ "apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u" });
        let lease = json!({
            "metadata": { "name": "n", "resourceVersion": version, "annotations": marks,
                "ownerReferences": [owner] },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 40, "leaseTransitions": 2 },
        });
        json_tree::from_value(lease).unwrap()
    }

    fn agent_lease(version: &str) -> Lease {
        let marks = json!({ annotations::ENDS_PODS: "true" });
        stored(version, Some("n"), marks)
    }

    fn fenced() -> NodeLease {
        let marks = json!({ annotations::ENDS_PODS: "true", annotations::FENCED: "proof" });
        NodeLease::from(&stored("9", None, marks))
    }

    #[test]
    fn the_lease_is_taken_before_pods_go_and_deleted_after_them() {
        let leased = NodeLease::from(&agent_lease("7"));
        let fenced = fenced();
        let foreign = NodeLease {
            ends_pods: false,
            ..leased.clone()
        };
        for (lease, unchanged, has_pods, expected) in [
            (Some(&leased), 0, true, OrphanDecision::Wait(secs(50))),
            (Some(&leased), 49, true, OrphanDecision::Wait(secs(1))),
            (Some(&leased), 50, true, OrphanDecision::Fence { epoch: 3 }),
            (Some(&leased), 49, false, OrphanDecision::Wait(secs(1))),
            (Some(&leased), 50, false, OrphanDecision::Release),
            (Some(&foreign), 50, true, OrphanDecision::Fence { epoch: 3 }),
            (Some(&fenced), 49, true, OrphanDecision::Wait(secs(1))),
            (Some(&fenced), 50, true, OrphanDecision::Remove),
            (Some(&fenced), 50, false, OrphanDecision::Release),
            (None, 49, true, OrphanDecision::Wait(secs(1))),
            (None, 50, true, OrphanDecision::Remove),
            (None, 50, false, OrphanDecision::Nothing),
        ] {
            let decided = decide(lease, secs(unchanged), has_pods);
            assert_eq!(decided, expected, "{lease:?} {unchanged} {has_pods}");
        }
    }

    /// statefulset.md 3.31: the minimum is kube-controller-manager's time, also with a short lease.
    #[test]
    fn a_short_lease_shortens_the_wait_to_that_of_kubernetes() {
        for (length, expected) in [(12, 40), (32, 40), (40, 50)] {
            let lease = NodeLease {
                length: secs(length),
                ..fenced()
            };
            assert_eq!(wait(Some(&lease)), secs(expected));
        }
    }

    fn pod(node: &str) -> Arc<PodView> {
        let pod = json!({ "metadata": { "name": "p", "uid": "u", "resourceVersion": "1" },
                "spec": { "nodeName": node, "containers": [] } });
        let pod: k8s_openapi::api::core::v1::Pod = json_tree::from_value(pod).unwrap();
        Arc::new(PodView::try_from(&pod).unwrap())
    }

    #[test]
    fn every_renewal_counts_from_anew_and_so_does_a_pause_of_the_observer() {
        let gap = secs(35);
        let mut memory = Memory::default();
        let pods = [pod("n")];
        let mut observe = |at: i64, lease: Option<&Lease>| {
            let missing = memory.missing_nodes(&pods, &[], gap, secs(at));
            assert!(missing.contains("n"));
            memory.saw("n", lease, secs(at)).unwrap().unchanged_for
        };
        assert_eq!(observe(0, Some(&agent_lease("1"))), secs(0));
        assert_eq!(observe(20, Some(&agent_lease("1"))), secs(20));
        // The agent is alive, although it cannot register the node.
        assert_eq!(observe(40, Some(&agent_lease("2"))), secs(0));
        assert_eq!(observe(60, Some(&agent_lease("2"))), secs(20));
        // A user deletes the lease.
        assert_eq!(observe(80, None), secs(0));
        assert_eq!(observe(100, None), secs(20));
        assert_eq!(observe(136, None), secs(0));
        assert_eq!(observe(130, None), secs(0));
        assert_eq!(observe(150, None), secs(20));
    }

    #[test]
    fn nodes_are_missing_because_of_their_pods_or_their_lease() {
        let node = |name: &str| -> Arc<Node> {
            Arc::new(json_tree::from_value(json!({ "metadata": { "name": name } })).unwrap())
        };
        let mut memory = Memory::default();
        let gap = secs(1000);
        let observe = |memory: &mut Memory, pods: &[Arc<PodView>], nodes: &[Arc<Node>], at| {
            let missing = memory.missing_nodes(pods, nodes, gap, secs(at));
            missing.into_iter().collect::<Vec<_>>().join(" ")
        };
        memory.add("b".to_owned());
        let pods = [pod("a"), pod("c")];
        assert_eq!(observe(&mut memory, &pods, &[node("c")], 0), "a b");
        memory.saw("a", Some(&agent_lease("1")), secs(0)).unwrap();
        memory.saw("b", None, secs(0)).unwrap();
        // The node has left no lease.
        assert_eq!(observe(&mut memory, &[], &[node("c")], 60), "a");
        assert_eq!(
            memory
                .saw("a", Some(&agent_lease("1")), secs(60))
                .unwrap()
                .unchanged_for,
            secs(60)
        );
        // The node returns and is deleted again: the count starts again.
        assert_eq!(observe(&mut memory, &pods, &[node("a"), node("c")], 70), "");
        assert_eq!(observe(&mut memory, &pods, &[node("c")], 90), "a");
        assert_eq!(
            memory
                .saw("a", Some(&agent_lease("1")), secs(90))
                .unwrap()
                .unchanged_for,
            secs(0)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// No action is planned before the wait ends, and pods are deleted only with a fenced lease or without a lease.
        #[test]
        fn nothing_goes_early(
            length in 1i64..100, unchanged in 0i64..200, is_fenced: bool, exists: bool, has_pods: bool,
        ) {
            let lease = NodeLease { length: secs(length), fenced: is_fenced, ..fenced() };
            let lease = exists.then_some(&lease);
            let is_over = secs(unchanged) >= wait(lease);
            match decide(lease, secs(unchanged), has_pods) {
                OrphanDecision::Nothing => prop_assert!(!exists && !has_pods),
                OrphanDecision::Wait(left) => {
                    prop_assert_eq!(secs(unchanged).saturating_add(left), wait(lease));
                }
                OrphanDecision::Fence { .. } => prop_assert!(is_over && exists && !is_fenced && has_pods),
                OrphanDecision::Remove => prop_assert!(is_over && (is_fenced || !exists) && has_pods),
                OrphanDecision::Release => prop_assert!(is_over && exists && !has_pods),
            }
        }
    }
}
