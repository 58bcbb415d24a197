//! The machine-readable reasons why a pod waits.

use std::fmt;

/// What is the matter with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// It is being deleted, and its containers stop.
    Terminating,
    /// It would be gone but for a finalizer.
    HeldByFinalizer,
    /// It is on a node that nobody hears from.
    NodeLost,
    /// It was driven from its node, which had too little of something.
    Evicted,
    /// It ended badly and will not run again.
    Failed,
    /// It ended well and will not run again.
    Completed,
    /// Somebody holds it back from the scheduler.
    SchedulingGated,
    /// A claim it uses is missing, not bound, or going.
    WaitingForClaim,
    /// No node fits.
    Unschedulable,
    /// The scheduler has not looked at it yet.
    NotScheduled,
    /// Its node has not looked at it yet.
    NotStarted,
    /// The image cannot be fetched.
    ImagePullFailed,
    /// The image's name cannot be one.
    InvalidImageName,
    /// The image is absent and must not be fetched.
    ImageNeverPulled,
    /// A ConfigMap, Secret or key that a container needs is missing.
    ContainerConfigError,
    /// A container cannot be made or its process cannot be started.
    ContainerStartError,
    /// A container ended and is started again after a while.
    ContainerCrashed,
    /// A container is killed because its liveness probe fails.
    LivenessProbe,
    /// A container waits for a reason of another kind.
    ContainerWaiting,
    /// Network, volumes, images: a container is being prepared.
    ContainerStarting,
    /// An init container is at work.
    InitContainerRunning,
    /// A hook after the start of a container has not come to its end.
    PostStartHook,
    /// A startup probe has not passed.
    StartupProbe,
    /// A readiness probe does not pass.
    ReadinessProbe,
    /// Somebody else has to say that the pod is ready.
    ReadinessGate,
    /// Not ready, and nothing stored says why.
    Unknown,
}

impl Reason {
    /// The reason as one word, as conditions and JSON have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Terminating => "Terminating",
            Self::HeldByFinalizer => "HeldByFinalizer",
            Self::NodeLost => "NodeLost",
            Self::Evicted => "Evicted",
            Self::Failed => "Failed",
            Self::Completed => "Completed",
            Self::SchedulingGated => "SchedulingGated",
            Self::WaitingForClaim => "WaitingForClaim",
            Self::Unschedulable => "Unschedulable",
            Self::NotScheduled => "NotScheduled",
            Self::NotStarted => "NotStarted",
            Self::ImagePullFailed => "ImagePullFailed",
            Self::InvalidImageName => "InvalidImageName",
            Self::ImageNeverPulled => "ImageNeverPulled",
            Self::ContainerConfigError => "ContainerConfigError",
            Self::ContainerStartError => "ContainerStartError",
            Self::ContainerCrashed => "ContainerCrashed",
            Self::LivenessProbe => "LivenessProbe",
            Self::ContainerWaiting => "ContainerWaiting",
            Self::ContainerStarting => "ContainerStarting",
            Self::InitContainerRunning => "InitContainerRunning",
            Self::PostStartHook => "PostStartHook",
            Self::StartupProbe => "StartupProbe",
            Self::ReadinessProbe => "ReadinessProbe",
            Self::ReadinessGate => "ReadinessGate",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
