//! The machine-readable reasons why a pod waits.

use std::fmt;

/// The reason why a pod waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The pod is being deleted, and its containers are stopping.
    Terminating,
    /// Only a finalizer prevents the deletion.
    HeldByFinalizer,
    /// The pod's node is lost.
    NodeLost,
    /// The pod was evicted because its node was short of a resource.
    Evicted,
    /// The pod failed and will not run again.
    Failed,
    /// The pod succeeded and will not run again.
    Completed,
    /// The pod has a scheduling gate.
    SchedulingGated,
    /// A claim of the pod is missing, not bound, or being deleted.
    WaitingForClaim,
    /// No node is feasible.
    Unschedulable,
    /// The scheduler has not tried to schedule the pod yet.
    NotScheduled,
    /// The pod's node has not started the pod yet.
    NotStarted,
    /// The image cannot be pulled.
    ImagePullFailed,
    /// The image's name is invalid.
    InvalidImageName,
    /// The image is absent and `imagePullPolicy` is `Never`.
    ImageNeverPulled,
    /// A ConfigMap, Secret or key that a container needs is missing.
    ContainerConfigError,
    /// A container cannot be created or its process cannot be started.
    ContainerStartError,
    /// A container exited and will be restarted after a delay.
    ContainerCrashed,
    /// A container is killed because its liveness probe fails.
    LivenessProbe,
    /// A container waits for another reason.
    ContainerWaiting,
    /// A container is being prepared: network, volumes, images.
    ContainerStarting,
    /// An init container runs.
    InitContainerRunning,
    /// A postStart hook has not finished.
    PostStartHook,
    /// A startup probe has not passed.
    StartupProbe,
    /// A readiness probe does not pass.
    ReadinessProbe,
    /// A readiness gate is not True.
    ReadinessGate,
    /// The pod is not ready, and no stored object has the reason.
    Unknown,
}

impl Reason {
    /// The reason as one word, for conditions and JSON.
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
