//! The fence of a silent node: pods are replaced elsewhere and never run twice.
//!
//! **Goal**: pods of sets with `mainstay.dev/node-failure: Failover` run elsewhere soon after their node was lost.
//! **Relies on**: the node's agent, which ends such pods by itself when its lease has lapsed, and declares this on the
//! lease ([`annotations::ENDS_PODS`]). **Guarantees**: a pod is deleted by force only after the lease was fenced by
//! compare-and-swap over the version that this observer read unchanged for the lease's length and a quarter of the
//! length ([`wait`]), by its local monotonic clock. A late renewal by the agent is then refused. A new observer starts
//! its count again, or continues the count of its former run ([`super::silence`]).

use std::collections::BTreeMap;

use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::Lease;
use resource_kinds::annotations;

use super::silence::{Carried, LeaseState};

/// The length of leases without `leaseDurationSeconds`.
pub(crate) const LENGTH: SignedDuration = SignedDuration::from_secs(40);

/// The parts of a node's lease that the fence needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLease {
    /// The epoch: the number of its transitions.
    pub epoch: i32,
    /// The lease has no holder, and has a proof of the fence: an administrator who clears the holder has not waited.
    pub fenced: bool,
    /// `leaseDurationSeconds`.
    pub length: SignedDuration,
    /// The node's agent ends pods that may fail over when the lease has lapsed.
    pub ends_pods: bool,
}

impl From<&Lease> for NodeLease {
    fn from(lease: &Lease) -> Self {
        let meta = &lease.metadata;
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        let has = |mark| {
            meta.annotations
                .as_ref()
                .is_some_and(|all| all.contains_key(mark))
        };
        Self {
            epoch: spec.and_then(|spec| spec.lease_transitions).unwrap_or(0),
            fenced: holder.is_none_or(str::is_empty) && has(annotations::FENCED),
            length: seconds.map_or(LENGTH, |seconds| SignedDuration::from_secs(seconds.into())),
            ends_pods: has(annotations::ENDS_PODS),
        }
    }
}

/// The time for which a lease must be unchanged before the fence: the length and a quarter of the length. The quarter
/// covers clocks whose rates differ by 5 % and a process that is killed late.
pub fn wait(length: SignedDuration) -> SignedDuration {
    length.saturating_add(length / 4)
}

/// The next step of the fence of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceDecision {
    /// No action is necessary or possible.
    Nothing,
    /// The lease may not have lapsed yet; decide again after this time.
    Wait(SignedDuration),
    /// Fence the lease: write the lease over the observed version, with this epoch and no holder.
    Fence { epoch: i32 },
    /// The node is fenced: delete by force its pods that may fail over.
    Delete,
}

/// Decides about a node whose lease this observer has read unchanged for `unchanged_for`. `has_candidates`: the node
/// has pods that may fail over, and other nodes could run them. Total.
pub fn decide(
    lease: &NodeLease,
    unchanged_for: SignedDuration,
    has_candidates: bool,
) -> FenceDecision {
    if !lease.ends_pods || !has_candidates {
        return FenceDecision::Nothing;
    }
    if lease.fenced {
        return FenceDecision::Delete;
    }
    let left = wait(lease.length).saturating_sub(unchanged_for);
    if left > SignedDuration::ZERO {
        return FenceDecision::Wait(left);
    }
    FenceDecision::Fence {
        epoch: lease.epoch.saturating_add(1),
    }
}

/// The newest states of leases by name, each with the reading of the observer's local monotonic clock at the first read.
#[derive(Clone, Debug)]
pub struct Renewals<State = LeaseState> {
    observed: BTreeMap<String, ObservedState<State>>,
    /// The counts of the observer's former run, until this run has read the lease.
    former: BTreeMap<String, (State, Carried)>,
}

#[derive(Clone, Debug)]
struct ObservedState<State> {
    state: State,
    since: SignedDuration,
    /// The count of the former run.
    carried: SignedDuration,
}

impl<State> Default for Renewals<State> {
    fn default() -> Self {
        Self {
            observed: BTreeMap::new(),
            former: BTreeMap::new(),
        }
    }
}

impl<State: Clone + PartialEq> Renewals<State> {
    /// Continues the counts of the observer's former run, by node: each count belongs to one state of the lease.
    pub fn continue_from(&mut self, former: BTreeMap<String, (State, Carried)>) {
        self.former = former;
    }

    /// The time for which the node's lease has had this state.
    pub fn unchanged_for(
        &mut self,
        node: &str,
        state: &State,
        now: SignedDuration,
    ) -> SignedDuration {
        if let Some(renewal) = self.observed.get(node)
            && renewal.state == *state
        {
            return now.saturating_sub(renewal.since);
        }
        let former = self.former.remove(node);
        let former = former.filter(|(renewal, _)| renewal == state);
        let carried = former.map_or(Carried::default(), |(_, carried)| carried);
        let renewal = ObservedState {
            state: state.clone(),
            since: now.saturating_sub(carried.counts),
            carried: carried.observed,
        };
        self.observed.insert(node.to_owned(), renewal);
        carried.counts
    }

    /// The time for which this observer and its former runs have read this state, for the next run. The time is never
    /// less than that of the former run, however short this run is.
    pub fn observed_for(
        &mut self,
        node: &str,
        state: &State,
        now: SignedDuration,
    ) -> SignedDuration {
        let counted = self.unchanged_for(node, state, now);
        let carried = self.observed.get(node).map(|renewal| renewal.carried);
        counted.max(carried.unwrap_or_default())
    }

    /// Starts all counts again, because this observer itself did not run, or was disconnected.
    pub fn restart_all(&mut self) {
        self.observed.clear();
        self.former.clear();
    }

    /// Removes the entries of nodes for which `exists` is false.
    pub fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        self.observed.retain(|name, _| exists(name));
        self.former.retain(|name, _| exists(name));
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};
    use proptest::prelude::*;

    use super::*;

    fn secs(seconds: i64) -> SignedDuration {
        SignedDuration::from_secs(seconds)
    }

    fn lease(holder: Option<&str>) -> NodeLease {
        marked(holder, json!({ annotations::ENDS_PODS: "true" }))
    }

    fn marked(holder: Option<&str>, marks: Value) -> NodeLease {
        let lease = json!({
            "metadata": { "resourceVersion": "7", "annotations": marks },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 40, "leaseTransitions": 2 },
        });
        let lease: Lease = json_tree::from_value(lease).unwrap();
        NodeLease::from(&lease)
    }

    #[test]
    fn a_lease_is_taken_after_its_length_and_a_quarter() {
        let leased = lease(Some("n"));
        assert_eq!(
            decide(&leased, secs(0), true),
            FenceDecision::Wait(secs(50))
        );
        assert_eq!(
            decide(&leased, secs(49), true),
            FenceDecision::Wait(secs(1))
        );
        assert_eq!(
            decide(&leased, secs(50), true),
            FenceDecision::Fence { epoch: 3 }
        );
        assert_eq!(decide(&leased, secs(50), false), FenceDecision::Nothing);
        let short = NodeLease {
            length: secs(16),
            ..leased
        };
        assert_eq!(
            decide(&short, secs(20), true),
            FenceDecision::Fence { epoch: 3 }
        );
    }

    #[test]
    fn pods_go_only_when_the_lease_was_taken() {
        let marks = json!({ annotations::ENDS_PODS: "true", annotations::FENCED: "proof" });
        let decided = |lease: &NodeLease| decide(lease, secs(0), true);
        for nobody in [None, Some("")] {
            let fenced = marked(nobody, marks.clone());
            assert_eq!(decided(&fenced), FenceDecision::Delete);
            // An administrator has cleared the holder.
            assert_eq!(decided(&lease(nobody)), FenceDecision::Wait(secs(50)));
        }
        assert_eq!(
            decided(&marked(Some("n"), marks)),
            FenceDecision::Wait(secs(50))
        );
    }

    #[test]
    fn an_agent_that_does_not_end_pods_is_never_fenced() {
        for holder in [None, Some("n")] {
            let other = NodeLease {
                ends_pods: false,
                ..lease(holder)
            };
            assert_eq!(decide(&other, secs(1000), true), FenceDecision::Nothing);
        }
        let bare = NodeLease::from(&Lease::default());
        assert_eq!(
            (bare.fenced, bare.ends_pods, bare.length),
            (false, false, secs(40))
        );
    }

    #[test]
    fn every_change_of_a_lease_counts_from_anew() {
        let mut renewals = Renewals::<u64>::default();
        assert_eq!(renewals.unchanged_for("n", &1, secs(5)), secs(0));
        assert_eq!(renewals.unchanged_for("n", &1, secs(25)), secs(20));
        assert_eq!(renewals.unchanged_for("n", &2, secs(30)), secs(0));
        assert_eq!(renewals.unchanged_for("n", &2, secs(31)), secs(1));
        renewals.restart_all();
        assert_eq!(renewals.unchanged_for("n", &2, secs(70)), secs(0));
        renewals.retain(|_| false);
        assert_eq!(renewals.unchanged_for("n", &2, secs(90)), secs(0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// With clocks whose rates differ by 5 %, in either direction, the node's own deadline passes before the lease
        /// is fenced, and an eighth of the lease's length remains.
        #[test]
        fn the_wait_covers_clocks_of_other_rates(length in 4i64..600) {
            let (node, observer) = (0.95, 1.05);
            let ended = length as f64 / node;
            let fenced_after = wait(secs(length)).as_secs_f64() / observer;
            prop_assert!(ended + length as f64 / 8.0 < fenced_after);
        }

        /// No lease is fenced before the wait ends, and no pod is deleted before the fence.
        #[test]
        fn nothing_is_taken_early(
            length in 1i64..100, unchanged in 0i64..200, fenced: bool, ends_pods: bool, has_candidates: bool,
        ) {
            let lease = NodeLease { length: secs(length), fenced, ends_pods, ..lease(None) };
            match decide(&lease, secs(unchanged), has_candidates) {
                FenceDecision::Fence { epoch } => {
                    prop_assert!(!fenced && has_candidates && ends_pods && secs(unchanged) >= wait(lease.length));
                    prop_assert_eq!(epoch, lease.epoch + 1);
                }
                FenceDecision::Delete => prop_assert!(fenced && has_candidates && ends_pods),
                FenceDecision::Wait(left) => {
                    prop_assert_eq!(secs(unchanged).saturating_add(left), wait(lease.length));
                }
                FenceDecision::Nothing => prop_assert!(!has_candidates || !ends_pods),
            }
        }
    }
}
