//! The actions of a plan, which the node agent performs.

use crate::record::resize::{Allocation, PendingResize};
use crate::record::{PodFailure, RestartAll, StopCause};
use crate::spec::ProbeKind;

/// One action for the node agent.
#[derive(Clone, Debug, PartialEq)]
pub enum LifecycleAction {
    /// Mount all volumes.
    PrepareVolumes,
    /// Unmount all volumes, and remove ephemeral ones.
    ReleaseVolumes {
        /// Whether the pod will return and needs the contents of its `emptyDir`s.
        comes_back: bool,
    },
    /// Create the sandbox and its network.
    CreateSandbox,
    /// Remove the sandbox and its network.
    DestroySandbox,
    /// Find the container's image, and pull it if its policy says so.
    EnsureImage { container: String },
    /// Create and start the container.
    StartContainer {
        container: String,
        /// Number of the new instance.
        restart_count: u32,
    },
    /// Run the `postStart` hook.
    RunPostStart { container: String },
    /// Run one of the container's probes.
    Probe {
        container: String,
        /// The probe.
        kind: ProbeKind,
    },
    /// Start the container's termination: record it, emit an event, run the `preStop` hook if there
    /// is one.
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
    Terminate { container: String },
    /// Kill the container.
    Kill { container: String },
    /// Emit the event that restarts of the container are delayed.
    AnnounceBackOff { container: String },
    /// Emit the event that pulls of the container's image are delayed.
    AnnouncePullBackOff { container: String },
    /// Record, and emit an event, that the node stops running the pod.
    FailPod(PodFailure),
    /// Record that all containers are stopped and restarted.
    RestartAll(RestartAll),
    /// Record that these containers have ended, and start as in a new pod.
    StartAnew {
        /// All containers except the ephemeral ones.
        containers: Vec<String>,
    },
    /// Record the resources that the pod was admitted with.
    Allocate {
        /// Resources by container.
        resources: Allocation,
    },
    /// Record, and emit an event, that a resize of the pod starts.
    StartResize {
        /// Resources by container.
        resources: Allocation,
        /// The pod's generation that requests it.
        generation: i64,
    },
    /// Record, and emit an event, why a resize is pending; `None` when none is requested any more.
    PostponeResize(Option<PendingResize>),
    /// Apply the allocated limits to the running container.
    UpdateResources { container: String },
    /// Apply the allocated limits to the pod as a whole.
    UpdatePodResources,
    /// Record, and emit an event, that the resize is complete.
    CompleteResize,
    /// Write the final status, then delete the object with grace period 0 and its UID.
    RemoveObject,
}

impl LifecycleAction {
    /// Whether the action begins something that the pod's record must name first: an agent that does not know of it
    /// would begin it again.
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
