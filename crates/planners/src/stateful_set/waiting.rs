//! Why nothing, or nothing more, happens.

use std::fmt;

use jiff::Timestamp;

/// One thing that the set is waiting for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The ordinal that cannot go on because of it; none when it is about the set as a whole.
    pub ordinal: Option<i64>,
    /// What it waits for.
    pub cause: Cause,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The set is being deleted; its pods are the garbage collector's.
    SetDeleting,
    /// The selector cannot be read or selects everything.
    Selector,
    /// The stored template of that revision cannot be read.
    RevisionUnreadable {
        /// Name of the ControllerRevision.
        revision: String,
    },
    /// The pod is being deleted.
    PodTerminating {
        /// Name of the pod.
        pod: String,
    },
    /// The pod is not Ready.
    PodNotReady {
        /// Name of the pod.
        pod: String,
        /// What its Ready condition says.
        message: String,
    },
    /// The pod is Ready, but not for long enough.
    PodNotAvailable {
        /// Name of the pod.
        pod: String,
        /// When it will be.
        at: Timestamp,
    },
    /// The claim belonged to the pod's predecessor and is going to be deleted.
    ClaimStale {
        /// Name of the claim.
        claim: String,
    },
    /// The claim is being deleted.
    ClaimTerminating {
        /// Name of the claim.
        claim: String,
    },
    /// Another pod has the name.
    NameTaken {
        /// Name of the pod.
        pod: String,
    },
    /// As many pods as may be are unavailable.
    Unavailable {
        /// How many are.
        unavailable: i64,
        /// How many may be.
        max: i64,
    },
    /// Pods are outdated until somebody deletes them.
    OnDelete {
        /// How many.
        outdated: usize,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetDeleting => write!(f, "the set is being deleted"),
            Self::Selector => write!(f, "the selector cannot be used"),
            Self::RevisionUnreadable { revision } => {
                write!(
                    f,
                    "the template in ControllerRevision {revision} cannot be read"
                )
            }
            Self::PodTerminating { pod } => write!(f, "pod {pod} is being deleted"),
            Self::PodNotReady { pod, message } if message.is_empty() => {
                write!(f, "pod {pod} is not ready")
            }
            Self::PodNotReady { pod, message } => write!(f, "pod {pod} is not ready: {message}"),
            Self::PodNotAvailable { pod, at } => {
                write!(f, "pod {pod} is ready, but available only at {at}")
            }
            Self::ClaimStale { claim } => {
                write!(f, "claim {claim} of the former pod is to be deleted first")
            }
            Self::ClaimTerminating { claim } => write!(f, "pvc {claim} is being deleted"),
            Self::NameTaken { pod } => write!(f, "another pod has the name {pod}"),
            Self::Unavailable { unavailable, max } => {
                write!(
                    f,
                    "{unavailable} pods are unavailable, and at most {max} may be"
                )
            }
            Self::OnDelete { outdated } => {
                write!(f, "{outdated} outdated pods are to be deleted by hand")
            }
        }
    }
}
