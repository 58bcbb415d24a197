//! Volumes that grow before they are full (rollouts.md D9).
//!
//! Goal: a volume has room while its policy allows it to grow. Guarantees: only the request of a claim is raised, never
//! above the maximum; a volume grows at most once per cooldown; a growth needs a measurement that is younger than the last
//! growth.

pub mod measurement;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use object_model::Quantity;
use resource_kinds::annotations::GROWN_AT;
use resource_kinds::stateful_set_policy::Autogrow;

use crate::claim_size::{capacity, requested};
pub use measurement::{Measurement, Usage};

/// The decision about a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Growth {
    /// The volume has room, or there is nothing to decide now.
    Nothing,
    /// Raise the request to this size.
    Grow { size: Quantity, full: Full },
    /// The volume has its maximum size.
    AtMax { full: Full },
    /// The disk that contains the volume has no room for the growth.
    NoRoom { full: Full },
}

/// The reason for a growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    pub percent: u64,
    pub of: Resource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Bytes,
    Inodes,
}

impl Full {
    /// A text such as `85 % of the bytes are used`.
    pub fn text(self) -> String {
        let of = match self.of {
            Resource::Bytes => "bytes",
            Resource::Inodes => "inodes",
        };
        format!("{} % of the {of} are used", self.percent)
    }
}

/// Whether the claim's volume may grow now: the claim is bound, its last growth has ended, and no growth has failed. A
/// measurement counts only if it begins after this.
pub fn is_settled(claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    let is_bound = status.and_then(|status| status.phase.as_deref()) == Some("Bound");
    let is_resized = status.is_some_and(|status| {
        let states = status.allocated_resource_statuses.iter().flatten();
        states.count() == 0
    });
    let grown = capacity(claim).zip(requested(claim));
    is_bound
        && is_resized
        && claim.metadata.deletion_timestamp.is_none()
        && grown.is_some_and(|(capacity, request)| capacity >= request)
}

/// The time of the last growth; an unreadable time counts as now, so that nothing grows.
fn grown_at(claim: &PersistentVolumeClaim, now: Timestamp) -> Option<Timestamp> {
    let text = claim.metadata.annotations.as_ref()?.get(GROWN_AT)?;
    Some(text.parse().unwrap_or(now))
}

/// The decision about a claim that was settled before the measurement.
pub fn plan(
    claim: &PersistentVolumeClaim,
    rules: &Autogrow,
    measurement: &Measurement,
    now: Timestamp,
) -> Growth {
    let Some(capacity) = capacity(claim).filter(|_| is_settled(claim)) else {
        return Growth::Nothing;
    };
    if let Some(last) = grown_at(claim, now) {
        let cooldown = SignedDuration::from_secs(i64::from(rules.cooldown_seconds));
        let is_cool = last.checked_add(cooldown).is_ok_and(|end| end <= now);
        if !is_cool || measurement.at <= last {
            return Growth::Nothing;
        }
    }
    let bytes = u64::try_from(capacity.value()).unwrap_or_default();
    let Some(full) = fullness(measurement, bytes, u64::from(rules.at_percent)) else {
        return Growth::Nothing;
    };
    let max = u64::try_from(rules.max.value()).unwrap_or_default();
    let size = rules.by.after(bytes).min(max);
    if size <= bytes {
        return Growth::AtMax { full };
    }
    if measurement.room.is_some_and(|room| room < size - bytes) {
        return Growth::NoRoom { full };
    }
    Growth::Grow {
        size: Quantity::from_bytes(i64::try_from(size).unwrap_or(i64::MAX)),
        full,
    }
}

/// The first resource that is used up to that part.
fn fullness(measurement: &Measurement, capacity: u64, at_percent: u64) -> Option<Full> {
    let bytes = Usage {
        used: measurement.used,
        total: measurement.file_system.unwrap_or(capacity),
    };
    let inodes = measurement.inodes;
    let resources = [(Resource::Bytes, Some(bytes)), (Resource::Inodes, inodes)];
    resources.into_iter().find_map(|(of, usage)| {
        let percent = usage?.percent()?;
        (percent >= at_percent).then_some(Full { percent, of })
    })
}
