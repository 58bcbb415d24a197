//! The node's side of its lease: whether the agent may renew it, or has to begin a new epoch.
//!
//! A lease has an epoch, its number of transitions. The control plane fences a silent node: it
//! clears the holder and adds one to the epoch. Each renewal is guarded by the resourceVersion that
//! the agent saw last and carries the epoch in which the agent runs pods, so a renewal that is on
//! its way when the node is fenced is refused. A lease that is not there may have been a fenced one: it
//! is made only in a new epoch.

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::api::core::v1::Pod;
use resource_kinds::annotations::ENDS_WITH_LEASE;

/// The next step with the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseStep {
    /// The lease is the node's own: it is renewed.
    Renew { epoch: i32 },
    /// The node was fenced, another agent had the lease, or there is none: pods of an earlier epoch that
    /// may be replaced elsewhere must end before this epoch begins. It is never the served one, so that
    /// an agent that is interrupted returns again.
    Return { epoch: i32 },
}

/// Whether a pod ends with the lease of its node.
pub fn ends_with_it(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key(ENDS_WITH_LEASE))
}

/// The epoch of a lease; leases of agents that know no epochs have the first.
pub fn epoch(lease: &LeaseSpec) -> i32 {
    lease.lease_transitions.unwrap_or(0)
}

/// The next step with the lease that was read, for an agent that runs pods in the epoch `served`.
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
        for (held, served, expected) in [
            // The lease may have been deleted after a fence.
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
            assert_eq!(step(held.as_ref(), "n", served), expected, "{held:?}");
        }
    }
}
