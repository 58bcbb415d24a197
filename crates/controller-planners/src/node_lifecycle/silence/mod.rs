//! The silence of nodes that one run of the observer records for the next run.
//!
//! **Goal**: restarts of a server do not postpone the loss of a silent node without end. **Relies on**: the caller,
//! which stores the record. **Guarantees**: a count is never more than the real time for which the node was silent. The
//! count is the sum of times that runs of the observer have measured by their local monotonic clocks, and is valid for
//! the stored version of the lease only: a version that is still stored was never renewed between two runs. The time
//! between two runs does not count, and the beginning of a run does not count either ([`reconnection`]).

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;

use super::fence::{NodeLease, wait};
use super::grace;

/// A record that is older, by the clock of the machine, is ignored: a disk that was restored to an earlier state also
/// has an earlier version of the lease, and the node may have renewed the lease since then.
const USABLE_FOR: SignedDuration = SignedDuration::from_mins(10);

/// The count of a former run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// The time that the former run had observed.
    pub observed: SignedDuration,
    /// The part of the observed time that counts at the beginning of the next run.
    pub counts: SignedDuration,
}

/// The observed silence of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSilence {
    /// The state of the observed lease ([`seen_lease`]).
    pub lease: String,
    pub length: SignedDuration,
    /// The time for which the lease was unchanged.
    pub unchanged_for: SignedDuration,
    /// The times in the node's last heartbeat.
    pub signs: Vec<Timestamp>,
    /// The time since that heartbeat.
    pub silent_for: SignedDuration,
}

/// The record of all nodes whose silence matters to the next run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SilenceRecord {
    /// The time of the write, by the clock of the machine.
    pub written: Timestamp,
    /// The silent nodes by name.
    pub nodes: BTreeMap<String, ObservedSilence>,
}

impl SilenceRecord {
    /// Whether the record is valid at `now`. A clock that was set back, or a machine without a clock battery, makes the
    /// record invalid.
    pub fn is_usable(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.written);
        !age.is_negative() && age <= USABLE_FOR
    }
}

/// An identifier for one state of a lease. No other state of any lease has this identifier, even if the store was
/// restored to an earlier state.
pub fn seen_lease(lease: &Lease) -> String {
    let meta = &lease.metadata;
    let uid = meta.uid.as_deref().unwrap_or_default();
    let version = meta.resource_version.as_deref().unwrap_or_default();
    let spec = lease.spec.as_ref();
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref());
    let renewed = renewed.map(|time| time.0.to_string()).unwrap_or_default();
    format!("{uid} {version} {renewed}")
}

/// The time at the beginning of a run that does not count after a former run: each node that can reach the server sends
/// a renewal within this time, because agents renew their leases four times in each length.
fn reconnection(length: SignedDuration) -> SignedDuration {
    length / 4
}

/// The state of one node, for the next run: `None` if the record needs no entry, because the lease may just be due for
/// a renewal, or was fenced.
pub fn observed(
    lease: &Lease,
    unchanged_for: SignedDuration,
    (signs, silent_for): (&[Timestamp], SignedDuration),
    is_last: bool,
) -> Option<ObservedSilence> {
    let NodeLease { length, fenced, .. } = NodeLease::from(lease);
    let least = match is_last {
        true => SignedDuration::ZERO,
        // The threshold is half a renewal longer than the longest age of a lease that its node renews.
        false => length / 8 * 3,
    };
    if fenced || length <= SignedDuration::ZERO || unchanged_for <= least {
        return None;
    }
    // The recorded time has a maximum: each run then begins with a time to reconnect, and the record stops changing.
    Some(ObservedSilence {
        lease: seen_lease(lease),
        length,
        unchanged_for: unchanged_for.min(wait(length)),
        signs: signs.to_vec(),
        silent_for: silent_for.min(grace(Some(lease))),
    })
}

impl ObservedSilence {
    /// The count of the time without a change of the lease.
    pub fn unchanged(&self) -> Carried {
        self.carried(self.unchanged_for)
    }

    /// The count of the time without a heartbeat.
    pub fn silent(&self) -> Carried {
        self.carried(self.silent_for)
    }

    fn carried(&self, observed: SignedDuration) -> Carried {
        let observed = observed.clamp(SignedDuration::ZERO, wait(self.length));
        let left = observed.saturating_sub(reconnection(self.length));
        cov_mark::hit!(findings_2_r36);
        Carried {
            observed,
            counts: left.max(SignedDuration::ZERO),
        }
    }
}

#[cfg(test)]
mod tests;
