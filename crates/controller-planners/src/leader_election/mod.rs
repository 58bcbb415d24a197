//! The election of one leader among several servers, by a Lease.
//!
//! **Goal**: controllers and scheduler run on one server. **Relies on**: the API server refuses a write of the Lease if
//! the version has changed since the read. **Guarantees**: a candidate acquires the Lease only after the candidate
//! itself has observed one version of the Lease for the Lease's length, by its own monotonic clock; the times in the
//! Lease are for users and are never compared. A leader leads until [`RENEW_DEADLINE`] after the time at which it sent
//! the last acknowledged renewal. So two servers never lead at the same time while the rates of their clocks differ by
//! less than half. A late write of a former leader may still arrive: such a write must be harmless, as the model
//! checker's worlds with two leaders show.
//!
//! The fields are those of client-go's `leaderelection`. Length and deadline are a second shorter than the defaults of
//! client-go: controllers continue within 15 seconds after the death of their server, including the time of their
//! start.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::Lease;
use object_model::{IncompleteMetadata, ResourceVersion};
use resource_kinds::MetadataIdentity;

/// The length of the Lease.
pub const LENGTH: SignedDuration = SignedDuration::from_secs(14);
/// The time after which a leader whose renewals fail stops.
pub const RENEW_DEADLINE: SignedDuration = SignedDuration::from_secs(9);
/// The time between two attempts, of a leader and of other candidates.
pub const RETRY: SignedDuration = SignedDuration::from_secs(2);

/// A reading of the candidate's local monotonic clock.
pub type ClockReading = SignedDuration;

/// The `holderIdentity` of one process. It is not empty: an empty holder is a released Lease. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HolderIdentity(Arc<str>);

impl HolderIdentity {
    /// The identity of a process on a host. `unique` differs for each process, also on the same host.
    pub fn of_process(host: &str, unique: impl Display) -> Self {
        Self(format!("{host}_{unique}").into())
    }

    /// `None` for an empty text.
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for HolderIdentity {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The parts of the Lease that the decision depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaderLease {
    /// The resourceVersion at the read.
    pub version: ResourceVersion,
    /// The leader; `None` after a release.
    pub holder: Option<HolderIdentity>,
    /// The length that its holder has promised.
    pub length: SignedDuration,
    /// The number of changes of the leader.
    pub transitions: i32,
}

impl TryFrom<&Lease> for LeaderLease {
    type Error = IncompleteMetadata;

    fn try_from(lease: &Lease) -> Result<Self, IncompleteMetadata> {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        Ok(Self {
            version: lease.metadata.object_version()?,
            holder: holder.and_then(HolderIdentity::new),
            length: seconds.map_or(LENGTH, |seconds| SignedDuration::from_secs(seconds.into())),
            transitions: spec.and_then(|spec| spec.lease_transitions).unwrap_or(0),
        })
    }
}

/// The next step of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionDecision {
    /// There is no Lease: create the Lease with this candidate as its holder.
    Create,
    /// Write the Lease over the observed version, with this candidate as the new holder.
    Acquire {
        /// The number of changes of the leader, including this change.
        transitions: i32,
    },
    /// The candidate holds the Lease: write the Lease over the observed version with a new time.
    Renew,
    /// Another candidate holds the Lease; read the Lease again after this time.
    Wait(SignedDuration),
}

/// One server in the election: the Lease that it has read, and the end of its lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    identity: HolderIdentity,
    /// The last read state, and when this candidate read its version first; `None` before the first read.
    observed: Option<(Option<LeaderLease>, ClockReading)>,
    leads_until: Option<ClockReading>,
}

impl Candidate {
    /// A candidate that has read nothing. Each start of a process has a new identity.
    pub fn new(identity: HolderIdentity) -> Self {
        Self {
            identity,
            observed: None,
            leads_until: None,
        }
    }

    /// The `holderIdentity` in Leases of this candidate.
    pub fn identity(&self) -> &HolderIdentity {
        &self.identity
    }

    /// Records the Lease at a read; `None` if there is no Lease. A leader that reads another holder stops leading.
    pub fn saw(&mut self, lease: Option<LeaderLease>, now: ClockReading) {
        if self.leads_until.is_some() && !self.is_of_self(lease.as_ref()) {
            self.leads_until = None;
        }
        let version = |lease: &Option<LeaderLease>| lease.as_ref().map(|lease| lease.version);
        let since = match &self.observed {
            Some((before, since)) if version(before) == version(&lease) => *since,
            _ => now,
        };
        self.observed = Some((lease, since));
    }

    /// Records an acknowledged creation, takeover or renewal that was sent at the reading `sent`.
    pub fn wrote(&mut self, lease: LeaderLease, sent: ClockReading, now: ClockReading) {
        self.saw(Some(lease), now);
        self.leads_until = Some(sent.saturating_add(RENEW_DEADLINE));
    }

    /// The next step; a candidate that has not read the Lease yet reads it at once. Total.
    pub fn decide(&self, now: ClockReading) -> ElectionDecision {
        let Some((lease, since)) = &self.observed else {
            return ElectionDecision::Wait(SignedDuration::ZERO);
        };
        let Some(lease) = lease else {
            return ElectionDecision::Create;
        };
        let acquire = ElectionDecision::Acquire {
            transitions: lease.transitions.saturating_add(1),
        };
        match &lease.holder {
            None => acquire,
            Some(holder) if *holder == self.identity => ElectionDecision::Renew,
            Some(_) => {
                let left = lease.length.saturating_sub(now.saturating_sub(*since));
                if left <= SignedDuration::ZERO {
                    return acquire;
                }
                ElectionDecision::Wait(left.min(RETRY))
            }
        }
    }

    /// The Lease as it was last read.
    pub fn lease(&self) -> Option<&LeaderLease> {
        self.observed.as_ref().and_then(|(lease, _)| lease.as_ref())
    }

    /// The reading at which the lead ends without a renewal; `None` without a lead.
    pub fn leads_until(&self) -> Option<ClockReading> {
        self.leads_until
    }

    /// Whether the candidate leads: controllers and scheduler may write only then.
    pub fn leads(&self, now: ClockReading) -> bool {
        self.leads_until.is_some_and(|until| now < until)
    }

    fn is_of_self(&self, lease: Option<&LeaderLease>) -> bool {
        lease.and_then(|lease| lease.holder.as_ref()) == Some(&self.identity)
    }
}

#[cfg(test)]
mod tests;
