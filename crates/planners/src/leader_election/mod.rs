//! The election of one leader among several servers, on a Lease.
//!
//! **Goal**: controllers and scheduler run on one server. **Relies on**: a write of the Lease over
//! another version than the read one is refused. **Guarantees**: a candidate takes the Lease only
//! after it has itself seen one version of it for the Lease's length, by its own monotonic clock; the
//! times in the Lease are for users and are never compared. A leader leads until [`RENEW_DEADLINE`]
//! after it sent the last renewal that was acknowledged. So two never lead at once while the rates of
//! their clocks differ by less than half. A write that a former leader has sent may still arrive: that
//! must be harmless, as the model checker's worlds with two leaders show.
//!
//! The fields are those of client-go's `leaderelection`. Length and deadline are a second shorter than its defaults:
//! controllers continue within 15 seconds after the death of their server, with the time of their start.

use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::Lease;

/// The length of the Lease.
pub const LENGTH: SignedDuration = SignedDuration::from_secs(14);
/// The time after which a leader whose renewals fail stops.
pub const RENEW_DEADLINE: SignedDuration = SignedDuration::from_secs(9);
/// The time between two attempts, of a leader and of the others.
pub const RETRY: SignedDuration = SignedDuration::from_secs(2);

/// A reading of a candidate's own monotonic clock.
pub type ClockReading = SignedDuration;

/// The parts of the Lease that decide.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaderLease {
    /// The resourceVersion that it was read with.
    pub version: String,
    /// The leader; `None` after a release.
    pub holder: Option<String>,
    /// The length that its holder has promised.
    pub length: SignedDuration,
    /// The number of changes of the leader.
    pub transitions: i32,
}

impl From<&Lease> for LeaderLease {
    fn from(lease: &Lease) -> Self {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.clone());
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        Self {
            version: lease.metadata.resource_version.clone().unwrap_or_default(),
            holder: holder.filter(|holder| !holder.is_empty()),
            length: seconds.map_or(LENGTH, |seconds| SignedDuration::from_secs(seconds.into())),
            transitions: spec.and_then(|spec| spec.lease_transitions).unwrap_or(0),
        }
    }
}

/// The next step of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionDecision {
    /// There is no Lease: it is created, held.
    Create,
    /// The Lease is written over the seen version, with the candidate as a new holder.
    Take {
        /// The number of changes of the leader, with this one.
        transitions: i32,
    },
    /// The candidate holds the Lease: it is written over the seen version with another time.
    Renew,
    /// Another holds it; look again after this time.
    Wait(SignedDuration),
}

/// One server in the election: its knowledge, and the end of its lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    identity: String,
    /// The last read state, and when this candidate read its version first; `None` before the first
    /// look.
    seen: Option<(Option<LeaderLease>, ClockReading)>,
    leads_until: Option<ClockReading>,
}

impl Candidate {
    /// A candidate that has seen nothing. The identity is another one at each start of a process.
    pub fn new(identity: &str) -> Self {
        Self {
            identity: identity.to_owned(),
            seen: None,
            leads_until: None,
        }
    }

    /// The holder in Leases of this candidate.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Notes the Lease as it was read; `None` if there is none. A leader that reads another holder
    /// leads no more.
    pub fn saw(&mut self, lease: Option<LeaderLease>, now: ClockReading) {
        if self.leads_until.is_some() && !self.is_of_self(lease.as_ref()) {
            self.leads_until = None;
        }
        let version = |lease: &Option<LeaderLease>| lease.as_ref().map(|one| one.version.clone());
        let since = match &self.seen {
            Some((before, since)) if version(before) == version(&lease) => *since,
            _ => now,
        };
        self.seen = Some((lease, since));
    }

    /// Notes an acknowledged creation, taking or renewal that was sent at that reading.
    pub fn wrote(&mut self, lease: LeaderLease, sent: ClockReading, now: ClockReading) {
        self.saw(Some(lease), now);
        self.leads_until = Some(sent.saturating_add(RENEW_DEADLINE));
    }

    /// The next step; a candidate that has read nothing yet reads the Lease at once. Total.
    pub fn decide(&self, now: ClockReading) -> ElectionDecision {
        let Some((lease, since)) = &self.seen else {
            return ElectionDecision::Wait(SignedDuration::ZERO);
        };
        let Some(lease) = lease else {
            return ElectionDecision::Create;
        };
        let take = ElectionDecision::Take {
            transitions: lease.transitions.saturating_add(1),
        };
        match &lease.holder {
            None => take,
            Some(holder) if *holder == self.identity => ElectionDecision::Renew,
            Some(_) => {
                let left = lease.length.saturating_sub(now.saturating_sub(*since));
                if left <= SignedDuration::ZERO {
                    return take;
                }
                ElectionDecision::Wait(left.min(RETRY))
            }
        }
    }

    /// The Lease as it was last read.
    pub fn lease(&self) -> Option<&LeaderLease> {
        self.seen.as_ref().and_then(|(lease, _)| lease.as_ref())
    }

    /// The reading at which the lead ends unless it is renewed; `None` without a lead.
    pub fn leads_until(&self) -> Option<ClockReading> {
        self.leads_until
    }

    /// Whether it leads: only then controllers and scheduler may write.
    pub fn leads(&self, now: ClockReading) -> bool {
        self.leads_until.is_some_and(|until| now < until)
    }

    fn is_of_self(&self, lease: Option<&LeaderLease>) -> bool {
        lease.and_then(|lease| lease.holder.as_deref()) == Some(self.identity.as_str())
    }
}

#[cfg(test)]
mod tests;
