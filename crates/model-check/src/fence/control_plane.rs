//! The steps of the control planes: the fence of the node, and the deletion of its pod.

use controller_planners::node_lifecycle::fence::{FenceDecision, NodeLease, decide};
use controller_planners::pod_gc::missing;

use super::{
    CLOCKS_APART, COUNTED, FenceModel, FenceState, LENGTH, Mistake, Observer, StoredLease, WAIT,
    elapsed,
};

impl FenceModel {
    pub(super) fn decide(&self, state: &mut FenceState, at: usize) {
        let pod = state.pod;
        let stored = state.lease;
        let observer = &mut state.observers[at];
        let Some(lease) = observed(observer) else {
            return;
        };
        match decide(&lease, elapsed(observer.since), pod) {
            FenceDecision::Nothing | FenceDecision::Wait(_) => {}
            FenceDecision::Fence { epoch } => {
                let epoch = u8::try_from(epoch).unwrap_or(u8::MAX);
                observer.fencing = Some((observer.observed.version, epoch));
            }
            // The executor reads the lease before the deletion.
            FenceDecision::Delete => observer.delete = stored.exists && !stored.has_holder,
        }
    }

    /// Pod garbage collection: the executor reads the Node object and the lease before the action.
    pub(super) fn collect(&self, state: &mut FenceState, at: usize) {
        let stored = state.lease;
        let observer = &mut state.observers[at];
        let lease = observed(observer);
        let mut unchanged_for = elapsed(observer.since);
        if self.has(Mistake::RemovedWhileRenewed) {
            observer.delete = true;
            return;
        }
        if self.has(Mistake::DeletedLeaseIsProof) && lease.is_none() {
            unchanged_for = missing::wait(None);
        }
        match missing::decide(lease.as_ref(), unchanged_for, state.pod) {
            missing::OrphanDecision::Nothing | missing::OrphanDecision::Wait(_) => {}
            missing::OrphanDecision::Fence { epoch } => {
                let epoch = u8::try_from(epoch).unwrap_or(u8::MAX);
                observer.fencing = Some((observer.observed.version, epoch));
            }
            missing::OrphanDecision::Remove => {
                observer.delete = !stored.exists || !stored.has_holder;
            }
            missing::OrphanDecision::Release if observer.observed.version == stored.version => {
                state.delete_lease();
            }
            missing::OrphanDecision::Release => {}
        }
    }

    pub(super) fn fence(&self, state: &mut FenceState, at: usize) {
        let Some((version, epoch)) = state.observers[at].fencing.take() else {
            return;
        };
        let fits = version == state.lease.version || self.has(Mistake::FencedUnconditionally);
        if fits && state.lease.exists {
            state.lease = StoredLease {
                version: state.lease.version + 1,
                epoch,
                exists: true,
                has_holder: false,
            };
            state.observers[at].delete = true;
        }
    }

    pub(super) fn take_over(&self, state: &mut FenceState, continues: bool) {
        let [former, next] = &mut state.observers;
        next.leads = true;
        next.observed = state.lease;
        if self.has(Mistake::PredecessorsClock) {
            next.since = (former.since + CLOCKS_APART).min(COUNTED);
        }
        // As `controller_planners::node_lifecycle::silence`: the count is valid for the observed version, and without
        // the time to reconnect.
        let is_unchanged =
            former.observed == state.lease || self.has(Mistake::ContinuedOverRenewal);
        if continues && is_unchanged {
            next.since = former.since.min(WAIT).saturating_sub(LENGTH / 4);
        }
        // Of the former control plane, only the pending writes remain.
        former.leads = false;
        former.observed = next.observed;
        former.since = 0;
    }
}

/// The lease as the observer read it last.
fn observed(observer: &Observer) -> Option<NodeLease> {
    observer.observed.exists.then(|| NodeLease {
        epoch: observer.observed.epoch.into(),
        fenced: !observer.observed.has_holder,
        length: elapsed(LENGTH),
        ends_pods: true,
    })
}
