//! The actions of a plan, which the node agent performs.

use crate::record::resize::{Allocation, PendingResize};
use crate::record::{PodFailure, RestartAll, StopCause};
use crate::spec::ProbeKind;

/// One step for the executor.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Mount all volumes.
    PrepareVolumes,
    /// Unmount all volumes, and remove those that are the pod's own.
    ReleaseVolumes {
        /// Whether the pod will come back, and is to find what it left in its `emptyDir`s.
        comes_back: bool,
    },
    /// Make the sandbox and its network.
    CreateSandbox,
    /// Take the sandbox and its network down.
    DestroySandbox,
    /// Look for the container's image, pull it if its policy says so.
    EnsureImage {
        /// The container.
        container: String,
    },
    /// Create and start the container.
    StartContainer {
        /// The container.
        container: String,
        /// Number of the new instance.
        restart_count: u32,
    },
    /// Run the `postStart` hook.
    RunPostStart {
        /// The container.
        container: String,
    },
    /// Ask one of the container's probes.
    Probe {
        /// The container.
        container: String,
        /// The probe.
        kind: ProbeKind,
    },
    /// Begin the container's end: note it, tell users, run the `preStop` hook if there is one.
    BeginStop {
        /// The container.
        container: String,
        /// Why.
        cause: StopCause,
        /// The grace period in seconds.
        grace_seconds: i64,
        /// Text of the `Killing` event.
        message: String,
        /// Whether there is a `preStop` hook.
        pre_stop: bool,
    },
    /// Send the stop signal.
    Terminate {
        /// The container.
        container: String,
    },
    /// Kill the container.
    Kill {
        /// The container.
        container: String,
    },
    /// Tell users that restarts of the container are delayed.
    AnnounceBackOff {
        /// The container.
        container: String,
    },
    /// Tell users that pulls of the container's image are delayed.
    AnnouncePullBackOff {
        /// The container.
        container: String,
    },
    /// Note, and tell users, that the node does not run the pod any longer.
    FailPod(PodFailure),
    /// Note that all containers are to end, and to start anew.
    RestartAll(RestartAll),
    /// Note that these containers have ended, and begin as in a new pod.
    StartAnew {
        /// All but the ephemeral ones.
        containers: Vec<String>,
    },
    /// Note that the pod has these resources of the node, which it was taken with.
    Allocate {
        /// Resources by container.
        resources: Allocation,
    },
    /// Note, and tell users, that the pod has other resources of the node from now on.
    StartResize {
        /// Resources by container.
        resources: Allocation,
        /// The pod's generation that asks for them.
        generation: i64,
    },
    /// Note, and tell users, why the pod does not get what it asks for; `None` when it asks for
    /// nothing new any more.
    PostponeResize(Option<PendingResize>),
    /// Change the limits of the running container to what is allocated.
    UpdateResources {
        /// The container.
        container: String,
    },
    /// Change the limits of the pod as a whole to what is allocated.
    UpdatePodResources,
    /// Note, and tell users, that the pod and all containers have what is allocated.
    CompleteResize,
    /// Write the final status, then delete the object with grace 0 and its uid.
    RemoveObject,
}
