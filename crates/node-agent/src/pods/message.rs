//! Messages to a pod's worker.

use std::sync::Arc;

use container_runtime::Sandbox;
use container_runtime::spec::SandboxEvent;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use object_model::Uid;
use pod_lifecycle::PodFailure;
use pod_lifecycle::node::shutdown::NodeStop;
use pod_lifecycle::record::probes::ProbeOutcome;
use pod_lifecycle::record::{Exit, Running};
use pod_lifecycle::resources::local_storage::DiskUsage;
use pod_lifecycle::spec::ProbeKind;

use crate::api::status_writer::{StatusWriteError, StatusWriteResult};
use crate::containers::lifecycle_hooks::{HookError, HookOutcome};
use crate::containers::sandbox_error::SandboxError;
use crate::images::ImageTrouble;
use crate::volumes::device_claims::{NotPrepared, NotReleased};
use crate::volumes::{PreparedVolumes, ReadObjects};

/// The result of a container's start.
pub enum StartResult {
    /// The container runs.
    Running(Box<Running>),
    /// The process of the container could not be started. The instance counts as exited.
    Failed(Exit),
    /// The container could not be created.
    Refused {
        /// The reason in the container's status.
        reason: &'static str,
        message: String,
    },
}

/// The result of a refresh of the volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshResult {
    Succeeded,
    /// An object was missing, or a file was not written.
    Failed,
}

pub struct CreatedSandbox {
    pub sandbox: Sandbox,
    pub pod_ips: Vec<String>,
}

/// A message to a worker.
pub enum Message {
    /// The pod's object has changed.
    Pod(Arc<Pod>),
    /// The pod's object is deleted. Contains its last state.
    Removed(Arc<Pod>),
    /// An older pod with this name was cleaned up. Contains the UID of the older pod.
    PredecessorRemoved(Uid),
    /// The node has another address.
    NodeAddressChanged,
    /// The node shuts down, and the pod must stop.
    NodeStops(NodeStop),
    /// The node sets the pod to `Failed`.
    FailPod(PodFailure),
    /// An event of the runtime.
    Runtime {
        /// Number of the sandbox that the event belongs to.
        sandbox: u32,
        event: SandboxEvent,
    },
    /// The result of the creation of the sandbox.
    SandboxCreated(Result<CreatedSandbox, SandboxError>),
    /// The result of the removal of the sandbox.
    SandboxDestroyed(Result<(), SandboxError>),
    /// The result of the preparation of devices and volumes, and the objects that the volumes were built
    /// from.
    VolumesPrepared(Result<PreparedVolumes, NotPrepared>, ReadObjects),
    /// The result of the release of the volumes.
    VolumesReleased(Result<(), NotReleased>),
    /// An object that a volume was built from has changed, or a token must be renewed.
    VolumesOutdated,
    /// The files of the volumes were refreshed.
    VolumesRefreshed {
        /// The objects that the files were built from.
        read_objects: ReadObjects,
        result: RefreshResult,
    },
    /// The pod's disk usage; `None` if it could not be measured.
    StorageMeasured(Option<DiskUsage>),
    /// The result of an image pull.
    Image {
        container: String,
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
        /// The runtime's id of the instance.
        id: String,
        result: Result<HookOutcome, HookError>,
    },
    /// A `preStop` hook has ended.
    PreStop {
        container: String,
        /// The runtime's id of the instance.
        id: String,
        result: Result<HookOutcome, HookError>,
    },
    /// The result of a probe.
    Probe {
        container: String,
        /// The runtime's id of the instance.
        id: String,
        kind: ProbeKind,
        outcome: ProbeOutcome,
    },
    /// The result of a change of a running container's resources.
    ResourcesUpdated {
        container: String,
        /// The runtime's id of the instance.
        id: String,
        /// The present resources of the instance.
        resources: Box<ResourceRequirements>,
        result: Result<(), String>,
    },
    /// The result of a change of the pod's resources.
    PodResourcesUpdated {
        /// The number of the sandbox that has the resources.
        sandbox: u32,
        resources: Option<Box<ResourceRequirements>>,
        result: Result<(), String>,
    },
    /// The runtime could not send a signal to a container.
    SignalFailed { container: String, message: String },
    /// The result of a status write.
    StatusWritten(StatusWriteResult),
    /// The result of the deletion of the pod's object.
    ObjectRemoved(Result<(), StatusWriteError>),
}
