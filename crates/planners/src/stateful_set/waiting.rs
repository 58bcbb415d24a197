//! The reason why nothing, or nothing more, happens.

use std::fmt;

use jiff::Timestamp;
use resource_kinds::reasons::stateful_set as reasons;

use crate::diagnosis::Reason;

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
        /// What is the matter with it.
        reason: Reason,
        /// The same in words.
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
    /// The surplus pod is unhealthy, and so is a lower one, which is to go first.
    LowerUnhealthy {
        /// Name of the pod.
        pod: String,
        /// Name of the lower one.
        lower: String,
        /// Until when it may recover; then it goes all the same.
        until: Option<Timestamp>,
    },
    /// Another pod has the name, and nobody here will make it go.
    NameTaken {
        /// Name of the pod.
        pod: String,
        /// Kind and name of its controller, if it has one.
        owner: Option<String>,
    },
    /// A pod of a former set of the same name is still there; the collector will delete it.
    FormerPod {
        /// Name of the pod.
        pod: String,
    },
    /// It is the turn of another pod; nothing happens to this one before.
    After {
        /// Name of the other pod.
        pod: String,
    },
    /// The API server refused a write when it was last tried; it is tried again.
    Refused {
        /// The write: `create pod web-0`.
        action: String,
        /// What the server said.
        message: String,
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

/// How much a cause matters to somebody who looks at the set from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// Part of every start and end.
    Ordinary,
    /// Worth saying.
    Known,
    /// Somebody should look.
    Trouble,
}

impl Cause {
    /// The reason under which the set is stalled, if no waiting helps.
    pub(super) fn hopeless(&self) -> Option<&'static str> {
        match self {
            Self::Selector => Some(reasons::INVALID_SELECTOR),
            Self::RevisionUnreadable { .. } => Some(reasons::REVISION_UNREADABLE),
            Self::NameTaken { .. } => Some(reasons::NAME_TAKEN),
            _ => None,
        }
    }

    /// Whether the API server refused to make something.
    pub(super) fn is_failed_create(&self) -> bool {
        matches!(self, Self::Refused { action, .. } if action.starts_with("create "))
    }

    pub(super) fn weight(&self) -> Weight {
        match self {
            Self::PodNotReady { reason, .. } => weight(*reason),
            Self::SetDeleting
            | Self::PodTerminating { .. }
            | Self::PodNotAvailable { .. }
            | Self::Unavailable { .. }
            | Self::After { .. }
            | Self::LowerUnhealthy { until: Some(_), .. }
            | Self::OnDelete { .. } => Weight::Ordinary,
            Self::FormerPod { .. } | Self::ClaimStale { .. } => Weight::Known,
            Self::Selector
            | Self::RevisionUnreadable { .. }
            | Self::ClaimTerminating { .. }
            | Self::Refused { .. }
            | Self::LowerUnhealthy { until: None, .. }
            | Self::NameTaken { .. } => Weight::Trouble,
        }
    }

    /// The cause as a condition has it: the pod, a colon, what is the matter.
    pub(super) fn told(&self) -> String {
        match self {
            Self::PodNotReady { pod, message, .. } => format!("{pod}: {message}"),
            other => other.to_string(),
        }
    }
}

fn weight(reason: Reason) -> Weight {
    match reason {
        Reason::Terminating
        | Reason::NotScheduled
        | Reason::NotStarted
        | Reason::ContainerStarting => Weight::Ordinary,
        Reason::WaitingForClaim
        | Reason::SchedulingGated
        | Reason::InitContainerRunning
        | Reason::PostStartHook
        | Reason::StartupProbe
        | Reason::ReadinessProbe
        | Reason::ReadinessGate
        | Reason::Completed
        | Reason::Unknown => Weight::Known,
        _ => Weight::Trouble,
    }
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
            Self::PodNotReady { pod, message, .. } => {
                write!(f, "pod {pod} is not ready: {message}")
            }
            Self::PodNotAvailable { pod, at } => {
                write!(f, "pod {pod} is ready, but available only at {at}")
            }
            Self::ClaimStale { claim } => {
                write!(f, "claim {claim} of the former pod is to be deleted first")
            }
            Self::ClaimTerminating { claim } => write!(f, "pvc {claim} is being deleted"),
            Self::LowerUnhealthy { pod, lower, until } => {
                let what = "is unhealthy and waits for";
                write!(f, "pod {pod} {what} {lower}, which is so too")?;
                match until {
                    Some(until) => write!(f, ", until {until}"),
                    None => Ok(()),
                }
            }
            Self::NameTaken { pod, owner: None } => {
                write!(f, "a pod that is not of the set has the name {pod}")
            }
            Self::NameTaken {
                pod,
                owner: Some(owner),
            } => write!(f, "a pod of {owner} has the name {pod}"),
            Self::FormerPod { pod } => {
                write!(
                    f,
                    "pod {pod} of a former set of this name is to be collected"
                )
            }
            Self::Refused { action, message } => write!(f, "cannot {action}: {message}"),
            Self::After { pod } => write!(f, "pod {pod} comes first"),
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
