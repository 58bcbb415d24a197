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
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;

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
    pub lease: LeaseState,
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

/// The identity of one state of a lease: UID, resourceVersion and time of the renewal. No other state of any lease has
/// this identity, even if the store was restored to an earlier state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseState(String);

impl LeaseState {
    pub fn of(lease: &Lease) -> Result<Self, IncompleteMetadata> {
        let (uid, version) = (
            lease.metadata.object_uid()?,
            lease.metadata.object_version()?,
        );
        let spec = lease.spec.as_ref();
        let renewed = spec.and_then(|spec| spec.renew_time.as_ref());
        let renewed = renewed.map(|time| time.0.to_string()).unwrap_or_default();
        Ok(Self(format!("{uid} {version} {renewed}")))
    }

    /// The identity from the text that a former run has recorded.
    pub fn recorded(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The last heartbeat of a node.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat<'o> {
    /// The times in the heartbeat.
    pub signs: &'o [Timestamp],
    /// The time since the heartbeat.
    pub silent_for: SignedDuration,
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
    heartbeat: Heartbeat<'_>,
    is_last: bool,
) -> Result<Option<ObservedSilence>, IncompleteMetadata> {
    let NodeLease { length, fenced, .. } = NodeLease::from(lease);
    let least = match is_last {
        true => SignedDuration::ZERO,
        // The threshold is half a renewal longer than the longest age of a lease that its node renews.
        false => length / 8 * 3,
    };
    if fenced || length <= SignedDuration::ZERO || unchanged_for <= least {
        return Ok(None);
    }
    // The recorded time has a maximum: each run then begins with a time to reconnect, and the record stops changing.
    Ok(Some(ObservedSilence {
        lease: LeaseState::of(lease)?,
        length,
        unchanged_for: unchanged_for.min(wait(length)),
        signs: heartbeat.signs.to_vec(),
        silent_for: heartbeat.silent_for.min(grace(Some(lease))),
    }))
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
