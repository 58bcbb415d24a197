//! The node's part of its Lease: whether the agent may renew it, or has to begin a new epoch.
//!
//! A Lease has an epoch, which is its number of transitions. The control plane fences a silent node: it
//! clears the holder and increments the epoch. Each renewal is guarded by the last resourceVersion that the
//! agent has read, and contains the epoch in which the agent runs pods. So a renewal that arrives after the
//! fence is rejected. A missing Lease may have been fenced before its deletion, so it is created only in a
//! new epoch.

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::api::core::v1::Pod;
use resource_kinds::annotations::ENDS_WITH_LEASE;

/// The next step with the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseStep {
    /// The Lease belongs to the node, and is renewed.
    Renew { epoch: i32 },
    /// The node was fenced, another agent had the Lease, or there is no Lease. Pods of an earlier epoch
    /// that may be replaced on other nodes must end before this epoch begins. The epoch always differs from
    /// the epoch of the running pods, so an agent that is interrupted repeats this step.
    Return { epoch: i32 },
}

/// Whether a pod stops with the Lease of its node.
pub fn ends_with_it(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key(ENDS_WITH_LEASE))
}

/// The epoch of a Lease; the first epoch if the Lease has none, because older agents do not set it.
pub fn epoch(lease: &LeaseSpec) -> i32 {
    lease.lease_transitions.unwrap_or(0)
}

/// The next step with the present Lease, for an agent that runs pods in the epoch `served`.
pub fn step(lease: Option<&LeaseSpec>, node: &str, served: i32) -> LeaseStep {
    let Some(lease) = lease else {
        return LeaseStep::Return {
            epoch: served.saturating_add(1),
        };
    };
    let epoch = epoch(lease);
    if lease.holder_identity.as_deref() == Some(node) && epoch == served {
        LeaseStep::Renew { epoch }
    } else {
        let next = epoch.saturating_add((epoch == served).into());
        LeaseStep::Return { epoch: next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>, epoch: Option<i32>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_transitions: epoch,
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn only_the_own_lease_of_the_served_epoch_is_renewed() {
        for (lease, served, expected) in [
            // The Lease may have been deleted after a fence.
            (None, 3, LeaseStep::Return { epoch: 4 }),
            (None, 0, LeaseStep::Return { epoch: 1 }),
            (
                Some(lease(Some("n"), Some(3))),
                3,
                LeaseStep::Renew { epoch: 3 },
            ),
            (
                Some(lease(Some("n"), None)),
                0,
                LeaseStep::Renew { epoch: 0 },
            ),
            (
                Some(lease(None, Some(4))),
                3,
                LeaseStep::Return { epoch: 4 },
            ),
            (
                Some(lease(None, Some(3))),
                3,
                LeaseStep::Return { epoch: 4 },
            ),
            (
                Some(lease(Some("n"), Some(4))),
                3,
                LeaseStep::Return { epoch: 4 },
            ),
            (
                Some(lease(Some("m"), Some(3))),
                3,
                LeaseStep::Return { epoch: 4 },
            ),
        ] {
            assert_eq!(step(lease.as_ref(), "n", served), expected, "{lease:?}");
        }
    }
}
