//! The actions of a plan, which the node agent performs.

use crate::record::resize::{Allocation, PendingResize};
use crate::record::{PodFailure, RestartAll, StopCause};
use crate::spec::ProbeKind;

/// An action for the node agent.
#[derive(Clone, Debug, PartialEq)]
pub enum LifecycleAction {
    PrepareVolumes,
    /// Unmount all volumes, and delete ephemeral volumes.
    ReleaseVolumes {
        /// Whether the pod returns after the shutdown and needs its `emptyDir` volumes.
        comes_back: bool,
    },
    /// Create the sandbox and its network.
    CreateSandbox,
    /// Remove the sandbox and its network.
    DestroySandbox,
    /// Look up the container's image, and pull it if the pull policy requires it.
    EnsureImage {
        container: String,
    },
    /// Create and start the container.
    StartContainer {
        container: String,
        /// The number of the new instance.
        restart_count: u32,
    },
    RunPostStart {
        container: String,
    },
    Probe {
        container: String,
        kind: ProbeKind,
    },
    /// Start the container's termination: record it, send an event, and run the `preStop` hook if there is
    /// one.
    BeginStop {
        container: String,
        cause: StopCause,
        /// The grace period in seconds.
        grace_seconds: i64,
        /// Message of the `Killing` event.
        message: String,
        /// Whether there is a `preStop` hook.
        pre_stop: bool,
    },
    /// Send the stop signal.
    Terminate {
        container: String,
    },
    /// Kill the container.
    Kill {
        container: String,
    },
    /// Send the event that restarts of the container are delayed.
    AnnounceBackOff {
        container: String,
    },
    /// Send the event that pulls of the container's image are delayed.
    AnnouncePullBackOff {
        container: String,
    },
    /// Record that the node stops running the pod, and send an event.
    FailPod(PodFailure),
    /// Record that all containers are stopped and restarted.
    RestartAll(RestartAll),
    /// Record that these containers have ended, and start as in a new pod.
    StartAnew {
        /// All containers except ephemeral containers.
        containers: Vec<String>,
    },
    /// Record the resources with which the pod was admitted.
    Allocate {
        /// Resources by container.
        resources: Allocation,
    },
    /// Record that a resize of the pod starts, and send an event.
    StartResize {
        /// Resources by container.
        resources: Allocation,
        /// The generation of the pod that requests the resize.
        generation: i64,
    },
    /// Record why a resize is pending, and send an event. `None` if no resize is requested any more.
    PostponeResize(Option<PendingResize>),
    /// Apply the allocated limits to the running container.
    UpdateResources {
        container: String,
    },
    /// Apply the allocated limits to the pod as a whole.
    UpdatePodResources,
    /// Record that the resize is complete, and send an event.
    CompleteResize,
    /// Write the final status, then delete the object with grace period 0 and its UID.
    RemoveObject,
}

impl LifecycleAction {
    /// Whether the pod's record must be stored before the action starts: an agent with an older record
    /// would repeat the action.
    pub fn begins_work(&self) -> bool {
        matches!(
            self,
            Self::PrepareVolumes
                | Self::CreateSandbox
                | Self::EnsureImage { .. }
                | Self::StartContainer { .. }
                | Self::RunPostStart { .. }
        )
    }
}
