//! Well-known types of conditions, and reasons of conditions and events.

/// Pod conditions.
pub mod pod_condition {
    /// A node was found.
    pub const SCHEDULED: &str = "PodScheduled";
    /// Sandbox, network and volumes are there.
    pub const READY_TO_START: &str = "PodReadyToStartContainers";
    /// All init containers are done.
    pub const INITIALIZED: &str = "Initialized";
    /// All containers are ready.
    pub const CONTAINERS_READY: &str = "ContainersReady";
    /// The pod takes requests.
    pub const READY: &str = "Ready";
    /// The pod asks for new resources that its node does not give it now.
    pub const RESIZE_PENDING: &str = "PodResizePending";
    /// The pod is about to go on account of something that happened.
    pub const DISRUPTION_TARGET: &str = "DisruptionTarget";
    /// Why it is about to go: another, more important one gets its place.
    pub const PREEMPTION_BY_SCHEDULER: &str = "PreemptionByScheduler";
}

/// Node conditions.
pub mod node_condition {
    /// The node takes pods.
    pub const READY: &str = "Ready";
    /// Memory is short.
    pub const MEMORY_PRESSURE: &str = "MemoryPressure";
    /// Disk is short.
    pub const DISK_PRESSURE: &str = "DiskPressure";
    /// Process ids are short.
    pub const PID_PRESSURE: &str = "PIDPressure";
}

/// Taints that say what is wrong with a node.
pub mod taint {
    /// The node says it is not ready.
    pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
    /// The node says nothing any more.
    pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
    /// The node takes no new pods.
    pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
    /// The node is gone for good, says a person.
    pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
}

/// Reasons of a StatefulSet's events (`statefulset.md` §7) and conditions.
pub mod stateful_set {
    /// A pod or claim was made.
    pub const SUCCESSFUL_CREATE: &str = "SuccessfulCreate";
    /// A pod was deleted.
    pub const SUCCESSFUL_DELETE: &str = "SuccessfulDelete";
    /// A pod was repaired.
    pub const SUCCESSFUL_UPDATE: &str = "SuccessfulUpdate";
    /// A pod or claim could not be made.
    pub const FAILED_CREATE: &str = "FailedCreate";
    /// A pod could not be deleted.
    pub const FAILED_DELETE: &str = "FailedDelete";
    /// A pod could not be repaired.
    pub const FAILED_UPDATE: &str = "FailedUpdate";
    /// A claim belongs to somebody else.
    pub const CONFLICTING_CONTROLLER: &str = "ConflictingController";
    /// A pod of an abandoned revision held up a rollout.
    pub const REPLACED_STUCK_POD: &str = "ReplacedStuckPod";

    // Reasons of conditions, and of the events that tell of their change.

    /// Every wanted pod is available.
    pub const ALL_REPLICAS_AVAILABLE: &str = "AllReplicasAvailable";
    /// Some wanted pod is not.
    pub const REPLICAS_UNAVAILABLE: &str = "ReplicasUnavailable";
    /// Everything is as it should be.
    pub const ROLLOUT_COMPLETE: &str = "RolloutComplete";
    /// Everything is as it should be, and the partition keeps some pods from the update.
    pub const PARTITION_COMPLETE: &str = "PartitionComplete";
    /// Outdated pods are somebody else's to delete.
    pub const WAITING_FOR_DELETION: &str = "WaitingForDeletion";
    /// Pods are missing or not available.
    pub const WAITING_FOR_PODS: &str = "WaitingForPods";
    /// Pods are replaced by those of another revision.
    pub const UPDATING_PODS: &str = "UpdatingPods";
    /// Surplus pods go.
    pub const SCALING_DOWN: &str = "ScalingDown";
    /// Nothing got further for too long.
    pub const PROGRESS_DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
    /// Somebody else's pod has a name that the set needs.
    pub const NAME_TAKEN: &str = "NameTaken";
    /// The template that a pod is to be made from cannot be read.
    pub const REVISION_UNREADABLE: &str = "RevisionUnreadable";
    /// The selector cannot be read or selects everything.
    pub const INVALID_SELECTOR: &str = "InvalidSelector";
    /// Waiting may help.
    pub const NOT_STALLED: &str = "NotStalled";
}

/// StatefulSet conditions.
pub mod stateful_set_condition {
    /// Every wanted pod is available.
    pub const AVAILABLE: &str = "Available";
    /// The set is, or comes closer to, what it should be.
    pub const PROGRESSING: &str = "Progressing";
    /// No waiting helps.
    pub const STALLED: &str = "Stalled";
}

/// Reasons of the events of claims and volumes (`statefulset.md` §11).
pub mod volume {
    /// No volume fits, or the one asked for is taken.
    pub const FAILED_BINDING: &str = "FailedBinding";
    /// The volume asked for does not fit.
    pub const VOLUME_MISMATCH: &str = "VolumeMismatch";
    /// Binding waits for a pod.
    pub const WAIT_FOR_FIRST_CONSUMER: &str = "WaitForFirstConsumer";
    /// Binding waits for a pod's node.
    pub const WAIT_FOR_POD_SCHEDULED: &str = "WaitForPodScheduled";
    /// A provisioner is to make a volume.
    pub const EXTERNAL_PROVISIONING: &str = "ExternalProvisioning";
    /// A volume was made.
    pub const PROVISIONING_SUCCEEDED: &str = "ProvisioningSucceeded";
    /// A volume could not be made.
    pub const PROVISIONING_FAILED: &str = "ProvisioningFailed";
    /// A claim's volume is about to grow.
    pub const RESIZING: &str = "Resizing";
    /// A claim's volume has grown.
    pub const RESIZE_SUCCESSFUL: &str = "VolumeResizeSuccessful";
    /// A claim's volume could not grow.
    pub const RESIZE_FAILED: &str = "VolumeResizeFailed";
    /// A volume that nothing limits holds nearly as much as its claim says.
    pub const NEARLY_FULL: &str = "VolumeNearlyFull";
    /// A volume that nothing limits holds more than its claim says.
    pub const OVERFULL: &str = "VolumeOverfull";
    /// The claim's volume is gone.
    pub const CLAIM_LOST: &str = "ClaimLost";
    /// Two claims name the same volume.
    pub const CLAIM_MISBOUND: &str = "ClaimMisbound";
}

/// Reasons of the events of those who keep interchangeable pods.
pub mod pods {
    /// A pod was made.
    pub const SUCCESSFUL_CREATE: &str = "SuccessfulCreate";
    /// A pod was deleted.
    pub const SUCCESSFUL_DELETE: &str = "SuccessfulDelete";
    /// A pod could not be made.
    pub const FAILED_CREATE: &str = "FailedCreate";
    /// A pod could not be deleted.
    pub const FAILED_DELETE: &str = "FailedDelete";
}

/// Reasons of the events of Services.
pub mod service {
    /// The Service has addresses for the outside.
    pub const ENSURED_LOAD_BALANCER: &str = "EnsuredLoadBalancer";
    /// The Service of an ordinal cannot be as its set asks for.
    pub const FAILED_ORDINAL_SERVICE: &str = "FailedOrdinalService";
    /// A program of the node listens where the Service wants to be.
    pub const PORT_IN_USE: &str = "PortInUse";
    /// It does not get all or any of them.
    pub const SYNC_LOAD_BALANCER_FAILED: &str = "SyncLoadBalancerFailed";
}

/// Reasons of events about claims of devices.
pub mod devices {
    /// A claim could not be made for a pod.
    pub const FAILED_CREATION: &str = "FailedResourceClaimCreation";
    /// The devices of a pod could not be prepared on its node.
    pub const FAILED_PREPARE: &str = "FailedPrepareDynamicResources";
}
