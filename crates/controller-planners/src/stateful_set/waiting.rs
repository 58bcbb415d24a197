//! The reasons why the plan has no action, or no further action.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use resource_kinds::reasons::stateful_set as reasons;
use resource_kinds::stateful_set_policy::{Evidence, GuardCount, HookPurpose, OnFailure};

use pod_lifecycle::diagnosis::Reason;

use super::plan::ActionTarget;

/// A reason why the set waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The ordinal that waits; `None` for the whole set.
    pub ordinal: Option<i64>,
    /// The reason why it waits.
    pub cause: Cause,
}

/// The cause of a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The set is being deleted; the garbage collector deletes its pods.
    SetDeleting,
    /// The selector is invalid or selects everything.
    Selector,
    /// The stored template of that revision cannot be decoded.
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
        reason: Reason,
        message: String,
    },
    /// The pod is Ready, but has not been Ready for `minReadySeconds`.
    PodNotAvailable {
        /// Name of the pod.
        pod: String,
        /// The time at which the pod becomes available.
        at: Timestamp,
    },
    /// The claim belonged to the pod's predecessor and will be deleted.
    ClaimStale {
        /// Name of the claim.
        claim: String,
    },
    /// The claim is being deleted.
    ClaimTerminating {
        /// Name of the claim.
        claim: String,
    },
    /// The surplus pod is unhealthy, and waits for an unhealthy lower pod.
    LowerUnhealthy {
        /// Name of the pod.
        pod: String,
        /// Name of the lower pod.
        lower: String,
        /// The end of the pod's time to recover; then the pod is deleted.
        until: Option<Timestamp>,
    },
    /// Another pod has the name, and no controller will delete it.
    NameTaken {
        /// Name of the pod.
        pod: String,
        /// Kind and name of its controller, if it has one.
        owner: Option<String>,
    },
    /// A pod of a former set of the same name still exists; the garbage collector will delete it.
    FormerPod {
        /// Name of the pod.
        pod: String,
    },
    /// Another pod must be changed first.
    After {
        /// Name of the other pod; shared, because most pods of a set may wait for one pod.
        pod: Arc<str>,
    },
    /// The API server refused a write at its last attempt; the write is retried.
    Refused {
        action: ActionTarget,
        /// The API server's message.
        message: String,
    },
    /// `maxUnavailable` pods are unavailable.
    Unavailable {
        /// Number of unavailable pods.
        unavailable: i64,
        /// `maxUnavailable`.
        max: i64,
    },
    /// The guard of the set's policy holds the deletion of a pod.
    GuardHolds {
        /// Name of the pod.
        pod: String,
        /// Name of the policy.
        policy: String,
        count: GuardCount,
    },
    /// The order of the rollout is by roles, and the role of the pod is not known.
    RoleUnknown {
        /// Name of the pod.
        pod: String,
    },
    /// The rollout pauses after a step.
    RolloutPaused {
        /// Name of the ControllerRevision.
        revision: String,
        /// The number of the step, from 1, and of all steps.
        step: usize,
        steps: usize,
        /// The end of the pause; `None` until somebody approves.
        until: Option<Timestamp>,
        /// The value of the annotation that approves the step.
        approval: String,
    },
    /// The pod is updated in a later step of the rollout.
    LaterStep {
        /// The number of pods that the present step updates.
        limit: i64,
    },
    /// A hook of the policy runs before the pod goes, or is taken back.
    HookRuns {
        /// Name of the pod.
        pod: String,
        /// Name of the hook.
        hook: String,
        purpose: HookPurpose,
        /// Whether the pod does not go any more, and the hook's `cancel` runs.
        is_cancelled: bool,
        /// The end of its time limit.
        until: Option<Timestamp>,
        /// The id of the run, if a person or a program answers.
        asks: Option<String>,
    },
    /// A hook has not succeeded in time, and holds the pod.
    HookTimedOut {
        /// Name of the pod.
        pod: String,
        /// Name of the hook.
        hook: String,
        purpose: HookPurpose,
        /// As for `HookRuns`.
        asks: Option<String>,
    },
    /// The revision of the template is rejected, because its rollout failed.
    RevisionRejected {
        /// Name of the ControllerRevision.
        revision: String,
        /// `None` if the stored evidence cannot be read.
        evidence: Option<Box<Evidence>>,
        answer: OnFailure,
    },
    /// The API server refuses the edit of a claim.
    ClaimEditRefused {
        /// Name of the claim.
        claim: String,
        /// The API server's message.
        message: String,
    },
    /// The change of a claim's volume failed; it is retried.
    ClaimEditFailed {
        /// Name of the claim.
        claim: String,
        /// The message of the claim's condition.
        message: String,
    },
    /// Outdated pods wait for the user to delete them.
    OnDelete {
        /// Number of outdated pods.
        outdated: usize,
    },
}

/// The importance of a cause for an observer of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// A wait that is part of every start and end of a pod.
    Ordinary,
    /// A wait that is reported.
    Reported,
    /// A problem.
    Trouble,
}

impl Cause {
    /// The reason for `Stalled`, if waiting cannot help.
    pub(super) fn hopeless(&self) -> Option<&'static str> {
        match self {
            Self::Selector => Some(reasons::INVALID_SELECTOR),
            Self::RevisionUnreadable { .. } => Some(reasons::REVISION_UNREADABLE),
            Self::NameTaken { .. } => Some(reasons::NAME_TAKEN),
            Self::ClaimEditRefused { .. } => Some(reasons::CLAIM_EDIT_IMPOSSIBLE),
            Self::RevisionRejected { .. } => Some(reasons::REVISION_REJECTED),
            // The eviction of one pod says nothing about the set.
            Self::HookTimedOut {
                purpose: HookPurpose::Evict,
                ..
            } => None,
            Self::HookTimedOut { .. } => Some(reasons::HOOK_TIMED_OUT),
            _ => None,
        }
    }

    /// The reason of the progress, if the policy holds it.
    pub(super) fn holds_progress(&self) -> Option<&'static str> {
        match self {
            Self::GuardHolds { .. } => Some(reasons::GUARD_HOLDS),
            Self::HookRuns { .. } => Some(reasons::HOOK_RUNNING),
            Self::RolloutPaused { .. } => Some(reasons::ROLLOUT_PAUSED),
            _ => None,
        }
    }

    /// Whether the API server refused to create an object.
    pub(super) fn is_failed_create(&self) -> bool {
        matches!(self, Self::Refused { action, .. } if action.kind.is_creation())
    }

    pub(super) fn weight(&self) -> Weight {
        match self {
            Self::PodNotReady { reason, .. } => weight(*reason),
            Self::SetDeleting
            | Self::PodTerminating { .. }
            | Self::PodNotAvailable { .. }
            | Self::Unavailable { .. }
            | Self::After { .. }
            | Self::LaterStep { .. }
            | Self::LowerUnhealthy { until: Some(_), .. }
            | Self::OnDelete { .. } => Weight::Ordinary,
            Self::FormerPod { .. }
            | Self::ClaimStale { .. }
            | Self::GuardHolds { .. }
            | Self::HookRuns { .. }
            | Self::RolloutPaused { .. }
            | Self::RoleUnknown { .. } => Weight::Reported,
            Self::Selector
            | Self::RevisionUnreadable { .. }
            | Self::ClaimTerminating { .. }
            | Self::RevisionRejected { .. }
            | Self::HookTimedOut { .. }
            | Self::Refused { .. }
            | Self::ClaimEditRefused { .. }
            | Self::ClaimEditFailed { .. }
            | Self::LowerUnhealthy { until: None, .. }
            | Self::NameTaken { .. } => Weight::Trouble,
        }
    }

    /// The message for a condition: the pod, a colon, the problem.
    pub(super) fn message_text(&self) -> String {
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
        | Reason::Unknown => Weight::Reported,
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
            Self::GuardHolds { pod, policy, count } => write!(
                f,
                "the guard of StatefulSetPolicy {policy} holds pod {pod}: {}",
                count.text()
            ),
            Self::RoleUnknown { pod } => {
                write!(
                    f,
                    "the role of pod {pod} is unknown, and the update goes by roles"
                )
            }
            Self::LaterStep { limit: 1 } => write!(f, "the present step updates 1 pod"),
            Self::LaterStep { limit } => write!(f, "the present step updates {limit} pods"),
            Self::RolloutPaused {
                revision,
                step,
                steps,
                until,
                ..
            } => {
                write!(
                    f,
                    "the rollout of {revision} pauses after step {step} of {steps}"
                )?;
                match until {
                    Some(until) => write!(f, ", until {until:.0}"),
                    None => write!(f, ", until it is approved"),
                }
            }
            Self::HookRuns {
                pod,
                hook,
                purpose,
                is_cancelled,
                until,
                asks,
            } => {
                match is_cancelled {
                    true => write!(f, "hook {hook} of pod {pod} is taken back")?,
                    false => write!(
                        f,
                        "hook {hook} runs before pod {pod} goes for {}",
                        purpose.as_str()
                    )?,
                }
                if asks.is_some() {
                    write!(f, ", and waits for an answer")?;
                }
                match until {
                    Some(until) => write!(f, ", at most until {until:.0}"),
                    None => Ok(()),
                }
            }
            Self::HookTimedOut {
                pod, hook, purpose, ..
            } => write!(
                f,
                "hook {hook} has not succeeded in time, so pod {pod} does not go for {}",
                purpose.as_str()
            ),
            Self::RevisionRejected {
                revision,
                evidence,
                answer,
            } => {
                let answer = match answer {
                    OnFailure::Hold => "no further pod gets it",
                    OnFailure::Rollback => "the pods return to the revision before",
                };
                write!(f, "revision {revision} is rejected, and {answer}")?;
                match evidence {
                    Some(evidence) => write!(f, ": pod {}: {}", evidence.pod, evidence.message),
                    None => Ok(()),
                }
            }
            Self::ClaimEditRefused { claim, message } => {
                write!(f, "claim {claim} cannot follow its template: {message}")
            }
            Self::ClaimEditFailed { claim, message } => {
                write!(f, "the volume of claim {claim} does not change: {message}")
            }
            Self::OnDelete { outdated } => {
                write!(f, "{outdated} outdated pods are to be deleted by hand")
            }
        }
    }
}
