//! The steps of the node: renewals of its lease, and the stop of its pod.

use k8s_openapi::api::coordination::v1::LeaseSpec;
use pod_lifecycle::node::lease::{LeaseStep as Renewal, step};

use super::{COUNTED, FenceModel, FenceState, InFlight, LENGTH, Mistake, Node};

impl FenceModel {
    pub(super) fn send(&self, state: &FenceState) -> Option<InFlight> {
        let node = &state.node;
        let mut renewal = InFlight {
            version: 0,
            epoch: node.served_epoch,
            age: 0,
            creates: false,
            returns: false,
            stored: None,
        };
        if let Some(version) = node.version {
            renewal.version = version;
            return Some(renewal);
        }
        let lease = state.lease.exists.then(|| LeaseSpec {
            holder_identity: state.lease.has_holder.then(|| "node".to_owned()),
            lease_transitions: Some(state.lease.epoch.into()),
            ..LeaseSpec::default()
        });
        let (epoch, returns) = match step(lease.as_ref(), "node", node.served_epoch.into()) {
            _ if lease.is_none() && self.has(Mistake::CreatedInServedEpoch) => {
                (node.served_epoch.into(), false)
            }
            Renewal::Renew { epoch } => (epoch, false),
            Renewal::Return { epoch } => (epoch, true),
        };
        renewal.version = state.lease.version;
        renewal.creates = lease.is_none();
        renewal.epoch = u8::try_from(epoch).ok()?;
        renewal.returns = returns;
        Some(renewal)
    }

    pub(super) fn store(&self, state: &mut FenceState) {
        let Some(renewal) = &mut state.node.flight else {
            return;
        };
        let unguarded = self.has(Mistake::RenewedUnconditionally);
        let lease = &mut state.lease;
        let fits = match renewal.creates {
            true => !lease.exists,
            false => lease.exists && (renewal.version == lease.version || unguarded),
        };
        if fits {
            lease.version += 1;
            lease.exists = true;
            lease.has_holder = true;
            if !unguarded {
                lease.epoch = renewal.epoch;
            }
            renewal.stored = Some(Some(state.lease.version));
        } else {
            renewal.stored = Some(None);
        }
    }

    pub(super) fn respond(&self, state: &mut FenceState) {
        let node = &mut state.node;
        let Some(InFlight {
            stored: Some(stored),
            epoch,
            age,
            returns,
            ..
        }) = node.flight.take()
        else {
            return;
        };
        node.version = stored;
        if stored.is_none() {
            return;
        }
        node.served_epoch = epoch;
        if returns && !self.has(Mistake::ReturnsWithoutProof) {
            // The agent then reads pods that were never started in this epoch, and deletes them.
            state.pod = false;
            node.has_cached_pod = false;
        }
        let age = if self.has(Mistake::CountedFromResponse) {
            0
        } else {
            age
        };
        node.remaining_ticks = node.remaining_ticks.max(LENGTH.saturating_sub(age));
    }

    pub(super) fn tick(
        &self,
        state: &mut FenceState,
        slow_node: bool,
        fast_observer: bool,
        late: bool,
    ) {
        let node = &mut state.node;
        if !slow_node {
            node.remaining_ticks = node.remaining_ticks.saturating_sub(1);
            if let Some(renewal) = &mut node.flight {
                renewal.age = (renewal.age + 1).min(LENGTH);
            }
        }
        if node.remaining_ticks == 0 && node.shim && node.instance {
            if late && !node.late {
                node.late = true;
            } else {
                stop_instance(node);
            }
        }
        let ticks = if fast_observer { 2 } else { 1 };
        for observer in state.observers.iter_mut().filter(|observer| observer.leads) {
            observer.since = (observer.since + ticks).min(COUNTED);
        }
    }
}

/// Stops the instance, and its shim.
pub(super) fn stop_instance(node: &mut Node) {
    node.instance = false;
    node.shim = false;
    node.late = false;
}
