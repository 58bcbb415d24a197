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

use crate::api::status_writer::Written;
use crate::containers::lifecycle_hooks::HookOutcome;
use crate::images::ImageTrouble;
use crate::volumes::device_claims::NotPrepared;
use crate::volumes::{PreparedVolumes, Reading};

/// How the start of a container ended.
pub enum StartResult {
    /// It runs.
    Running(Box<Running>),
    /// Its process could not be started; counts as a run.
    Failed(Exit),
    /// It could not be created; nothing ran.
    Refused {
        /// Status reason.
        reason: &'static str,
        /// Why.
        message: String,
    },
}

/// Something that a worker has to know.
pub enum Message {
    /// The object was changed.
    Pod(Arc<Pod>),
    /// The object is gone; its last state.
    Removed(Arc<Pod>),
    /// The former pod of this name, by uid, is gone from the node.
    PredecessorGone(String),
    /// The node has another address.
    NodeAddressChanged,
    /// The node stops, and its pods with it.
    NodeStops(NodeStop),
    /// The node fails the pod.
    FailPod(PodFailure),
    /// The runtime reports.
    Runtime {
        /// Number of the sandbox that it reports of.
        sandbox: u32,
        /// What happened.
        event: SandboxEvent,
    },
    /// The sandbox is there, or not.
    SandboxMade(Result<(Sandbox, Vec<String>), String>),
    /// The sandbox is gone, or not.
    SandboxDestroyed(Result<(), String>),
    /// Devices and volumes are there, or not; what the volumes are made of.
    VolumesPrepared(Result<PreparedVolumes, NotPrepared>, Reading),
    /// The volumes are gone, or not.
    VolumesReleased(Result<(), String>),
    /// An object that volumes are made of has changed, or a token grows old.
    VolumesOutdated,
    /// The volumes' files were made anew; what they are made of.
    VolumesRefreshed {
        /// What was read for it.
        reading: Reading,
        /// Whether something was missing.
        failed: bool,
    },
    /// What the pod has on the node's disk.
    StorageUsed(DiskUsage),
    /// A container's image is here, or not.
    Image {
        /// The container.
        container: String,
        /// The name of the image.
        image: String,
        /// How it went.
        result: Result<(), ImageTrouble>,
    },
    /// A container was started, or not.
    Started {
        /// The container.
        container: String,
        /// How it went.
        result: StartResult,
    },
    /// A `postStart` hook has ended.
    PostStart {
        /// The container.
        container: String,
        /// The instance it belongs to.
        id: String,
        /// How it went.
        result: Result<HookOutcome, String>,
    },
    /// A `preStop` hook has ended.
    PreStop {
        /// The container.
        container: String,
        /// The instance it belongs to.
        id: String,
        /// How it went.
        result: Result<HookOutcome, String>,
    },
    /// A probe has an answer.
    Probe {
        /// The container.
        container: String,
        /// The instance it belongs to.
        id: String,
        /// The probe.
        kind: ProbeKind,
        /// The answer.
        outcome: ProbeOutcome,
    },
    /// A running container's limits were changed, or not.
    ResourcesUpdated {
        /// The container.
        container: String,
        /// The instance that has them.
        id: String,
        /// Its resources from now on.
        resources: Box<ResourceRequirements>,
        /// How it went.
        result: Result<(), String>,
    },
    /// The limits of the pod as a whole were changed, or not.
    PodResourcesUpdated {
        /// The number of the sandbox that has them.
        sandbox: u32,
        /// The pod's resources from now on.
        resources: Option<Box<ResourceRequirements>>,
        /// How it went.
        result: Result<(), String>,
    },
    /// The runtime did not take a signal for a container.
    SignalFailed {
        /// The container.
        container: String,
        /// Why.
        message: String,
    },
    /// The status was written, or not.
    StatusWritten(Written),
    /// The object was removed, or not.
    ObjectRemoved(Result<(), String>),
}
