//! Messages to a pod's worker.

use std::sync::Arc;

use container_runtime::Sandbox;
use container_runtime::spec::SandboxEvent;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use pod_lifecycle::PodFailure;
use pod_lifecycle::node::shutdown::NodeStop;
use pod_lifecycle::record::probes::ProbeOutcome;
use pod_lifecycle::record::{Exit, Running};
use pod_lifecycle::resources::local_storage::DiskUsage;
use pod_lifecycle::spec::ProbeKind;

use crate::api::status_writer::StatusWriteResult;
use crate::containers::lifecycle_hooks::HookOutcome;
use crate::images::ImageTrouble;
use crate::volumes::device_claims::NotPrepared;
use crate::volumes::{PreparedVolumes, ReadObjects};

/// The result of a container's start.
pub enum StartResult {
    /// The container runs.
    Running(Box<Running>),
    /// Its process could not be started; counts as a run.
    Failed(Exit),
    /// The container could not be created.
    Refused {
        /// Status reason.
        reason: &'static str,
        /// The error message.
        message: String,
    },
}

/// A message to a worker.
pub enum Message {
    /// The object was changed.
    Pod(Arc<Pod>),
    /// The object is deleted; its last state.
    Removed(Arc<Pod>),
    /// The former pod of this name, by UID, was cleaned up.
    PredecessorGone(String),
    /// The node has another address.
    NodeAddressChanged,
    /// The node shuts down, and its pods are stopped.
    NodeStops(NodeStop),
    /// The node sets the pod to `Failed`.
    FailPod(PodFailure),
    /// The runtime reports.
    Runtime {
        /// Number of the sandbox that it reports of.
        sandbox: u32,
        event: SandboxEvent,
    },
    /// The result of making the sandbox.
    SandboxMade(Result<(Sandbox, Vec<String>), String>),
    /// The result of removing the sandbox.
    SandboxDestroyed(Result<(), String>),
    /// The result of preparing devices and volumes, and the sources of the volumes.
    VolumesPrepared(Result<PreparedVolumes, NotPrepared>, ReadObjects),
    /// The result of releasing the volumes.
    VolumesReleased(Result<(), String>),
    /// A source object of the volumes has changed, or a token must be renewed.
    VolumesOutdated,
    /// The volumes' files were refreshed, with their sources.
    VolumesRefreshed {
        /// The objects that the environment was made of.
        read_objects: ReadObjects,
        /// Whether something was missing.
        failed: bool,
    },
    /// The pod's disk usage.
    StorageUsed(DiskUsage),
    /// The result of an image pull.
    Image {
        container: String,
        /// The name of the image.
        image: String,
        result: Result<(), ImageTrouble>,
    },
    /// The result of a container's start.
    Started {
        container: String,
        result: StartResult,
    },
    /// A `postStart` hook has ended.
    PostStart {
        container: String,
        /// The instance it belongs to.
        id: String,
        result: Result<HookOutcome, String>,
    },
    /// A `preStop` hook has ended.
    PreStop {
        container: String,
        /// The instance it belongs to.
        id: String,
        result: Result<HookOutcome, String>,
    },
    /// The result of a probe.
    Probe {
        container: String,
        /// The instance it belongs to.
        id: String,
        /// The probe.
        kind: ProbeKind,
        /// The answer.
        outcome: ProbeOutcome,
    },
    /// The result of a change of a running container's limits.
    ResourcesUpdated {
        container: String,
        /// The runtime's id of the instance.
        id: String,
        /// The resources that the instance has now.
        resources: Box<ResourceRequirements>,
        result: Result<(), String>,
    },
    /// The result of a change of the pod's limits.
    PodResourcesUpdated {
        /// The number of the sandbox that has them.
        sandbox: u32,
        /// The new resources of the pod.
        resources: Option<Box<ResourceRequirements>>,
        result: Result<(), String>,
    },
    /// The runtime did not take a signal for a container.
    SignalFailed {
        container: String,
        /// The error message.
        message: String,
    },
    /// The result of a status write.
    StatusWritten(StatusWriteResult),
    /// The result of the removal of the object.
    ObjectRemoved(Result<(), String>),
}
