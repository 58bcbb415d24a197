//! Well-known types of conditions, and reasons of conditions and events.

/// Types of pod conditions.
pub mod pod_condition {
    /// The pod is assigned to a node.
    pub const SCHEDULED: &str = "PodScheduled";
    /// Sandbox, network and volumes are ready.
    pub const READY_TO_START: &str = "PodReadyToStartContainers";
    /// All init containers have completed.
    pub const INITIALIZED: &str = "Initialized";
    /// All containers are ready.
    pub const CONTAINERS_READY: &str = "ContainersReady";
    /// The pod is ready for requests.
    pub const READY: &str = "Ready";
    /// The node cannot grant the requested resources at present.
    pub const RESIZE_PENDING: &str = "PodResizePending";
    /// The health check of the guard succeeds.
    pub const HEALTHY: &str = "mainstay.dev/Healthy";
    /// The recovery check of the guard succeeds.
    pub const RECOVERED: &str = "mainstay.dev/Recovered";
    /// The hook that runs before the pod goes has succeeded; the message is the id of its run.
    pub const HOOK_DONE: &str = "mainstay.dev/HookDone";
    /// The pod is about to be deleted because of a disruption.
    pub const DISRUPTION_TARGET: &str = "DisruptionTarget";
    /// The reason of a preempted pod's condition.
    pub const PREEMPTION_BY_SCHEDULER: &str = "PreemptionByScheduler";
}

/// Types of node conditions.
pub mod node_condition {
    /// The node is ready for pods.
    pub const READY: &str = "Ready";
    /// Available memory is below the eviction threshold.
    pub const MEMORY_PRESSURE: &str = "MemoryPressure";
    /// Available disk space or inodes are below the eviction threshold.
    pub const DISK_PRESSURE: &str = "DiskPressure";
    /// Few process ids are free.
    pub const PID_PRESSURE: &str = "PIDPressure";
}

/// Taints for problems of a node.
pub mod taint {
    /// The node reports that it is not ready.
    pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
    /// The node sends no heartbeats.
    pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
    /// The node accepts no new pods.
    pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
    /// A user declared the node out of service.
    pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
}

/// Reasons of a StatefulSet's events (`statefulset.md` §7) and conditions.
pub mod stateful_set {
    /// A pod or claim was created.
    pub const SUCCESSFUL_CREATE: &str = "SuccessfulCreate";
    /// A pod was deleted.
    pub const SUCCESSFUL_DELETE: &str = "SuccessfulDelete";
    /// The fields of a pod were corrected.
    pub const SUCCESSFUL_UPDATE: &str = "SuccessfulUpdate";
    /// A pod or claim could not be created.
    pub const FAILED_CREATE: &str = "FailedCreate";
    /// A pod could not be deleted.
    pub const FAILED_DELETE: &str = "FailedDelete";
    /// The fields of a pod could not be corrected.
    pub const FAILED_UPDATE: &str = "FailedUpdate";
    /// A claim belongs to another owner.
    pub const CONFLICTING_CONTROLLER: &str = "ConflictingController";
    /// A pod of an abandoned revision that stopped a rollout was replaced.
    pub const REPLACED_STUCK_POD: &str = "ReplacedStuckPod";

    // Reasons of conditions, and of the events about changes of these conditions.

    /// Every desired pod is available.
    pub const ALL_REPLICAS_AVAILABLE: &str = "AllReplicasAvailable";
    /// At least one desired pod is not available.
    pub const REPLICAS_UNAVAILABLE: &str = "ReplicasUnavailable";
    pub const ROLLOUT_COMPLETE: &str = "RolloutComplete";
    /// The rollout is complete, and the partition keeps some pods at the old revision.
    pub const PARTITION_COMPLETE: &str = "PartitionComplete";
    /// The user must delete outdated pods.
    pub const WAITING_FOR_DELETION: &str = "WaitingForDeletion";
    /// Pods are missing or not available.
    pub const WAITING_FOR_PODS: &str = "WaitingForPods";
    /// Pods are being replaced by pods of another revision.
    pub const UPDATING_PODS: &str = "UpdatingPods";
    /// The rollout of the template failed.
    pub const REVISION_REJECTED: &str = "RevisionRejected";
    /// The guard of the set's policy holds the deletion of pods.
    pub const GUARD_HOLDS: &str = "GuardHolds";
    pub const ROLLOUT_PAUSED: &str = "RolloutPaused";
    pub const HOOK_RUNNING: &str = "HookRunning";
    pub const HOOK_TIMED_OUT: &str = "HookTimedOut";
    /// The claims are as their templates say.
    pub const CLAIMS_MATCH: &str = "ClaimsMatch";
    /// Claims are being changed, because their template has changed.
    pub const CLAIMS_UPDATING: &str = "ClaimsUpdating";
    /// Claims differ from their template in fields that cannot be changed.
    pub const CLAIMS_DIFFER: &str = "ClaimsDiffer";
    /// A claim cannot be changed as its template was.
    pub const CLAIM_EDIT_IMPOSSIBLE: &str = "ClaimEditImpossible";
    /// Surplus pods are being deleted.
    pub const SCALING_DOWN: &str = "ScalingDown";
    /// There was no progress within the deadline.
    pub const PROGRESS_DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
    /// A pod that does not belong to the set has a name that the set needs.
    pub const NAME_TAKEN: &str = "NameTaken";
    /// The stored template of a revision cannot be parsed.
    pub const REVISION_UNREADABLE: &str = "RevisionUnreadable";
    /// The selector cannot be read or selects everything.
    pub const INVALID_SELECTOR: &str = "InvalidSelector";
    /// The set is not stalled.
    pub const NOT_STALLED: &str = "NotStalled";
}

/// Types of StatefulSet conditions.
pub mod stateful_set_condition {
    /// Every desired pod is available.
    pub const AVAILABLE: &str = "Available";
    /// The set is complete, or makes progress.
    pub const PROGRESSING: &str = "Progressing";
    /// The set cannot progress without a change by a user.
    pub const STALLED: &str = "Stalled";
    /// The claims are as their templates say; only on sets whose claims follow their templates.
    pub const CLAIMS_UP_TO_DATE: &str = "ClaimsUpToDate";
}

/// Reasons of the events of claims and volumes (`statefulset.md` §11).
pub mod volume {
    /// No volume matches, or the requested volume is in use.
    pub const FAILED_BINDING: &str = "FailedBinding";
    /// The requested volume does not match.
    pub const VOLUME_MISMATCH: &str = "VolumeMismatch";
    /// Binding waits for a pod.
    pub const WAIT_FOR_FIRST_CONSUMER: &str = "WaitForFirstConsumer";
    /// Binding waits for a pod's node.
    pub const WAIT_FOR_POD_SCHEDULED: &str = "WaitForPodScheduled";
    /// A provisioner must provide a volume.
    pub const EXTERNAL_PROVISIONING: &str = "ExternalProvisioning";
    /// The CSI driver that must provide a volume runs on no node.
    pub const DRIVER_NOT_ON_NODE: &str = "DriverNotOnNode";
    /// A volume was created.
    pub const PROVISIONING_SUCCEEDED: &str = "ProvisioningSucceeded";
    /// A volume could not be created.
    pub const PROVISIONING_FAILED: &str = "ProvisioningFailed";
    /// The expansion of a claim's volume starts.
    pub const RESIZING: &str = "Resizing";
    /// A claim's volume was expanded.
    pub const RESIZE_SUCCESSFUL: &str = "VolumeResizeSuccessful";
    /// A claim's volume could not be expanded.
    pub const RESIZE_FAILED: &str = "VolumeResizeFailed";
    /// The attributes of a claim's volume could not be changed.
    pub const MODIFY_FAILED: &str = "VolumeModifyFailed";
    /// The file system of a volume was expanded on the node that uses the volume.
    pub const FILE_SYSTEM_RESIZED: &str = "FileSystemResizeSuccessful";
    /// A volume without a limit contains nearly as much data as its claim requests.
    pub const NEARLY_FULL: &str = "VolumeNearlyFull";
    /// A volume without a limit contains more data than its claim requests.
    pub const OVERFULL: &str = "VolumeOverfull";
    /// A volume grows before it is full.
    pub const GROWS: &str = "VolumeGrows";
    /// A volume is nearly full, and has the maximum size of its policy.
    pub const GROWTH_AT_MAX: &str = "VolumeAtMaximum";
    /// A volume is nearly full, and its disk has no room for a growth.
    pub const GROWTH_WITHOUT_ROOM: &str = "NoRoomToGrow";
    /// The API server refuses the growth of a volume.
    pub const GROWTH_REFUSED: &str = "VolumeGrowthRefused";
    /// The claim's volume was deleted.
    pub const CLAIM_LOST: &str = "ClaimLost";
    /// Two claims refer to one volume.
    pub const CLAIM_MISBOUND: &str = "ClaimMisbound";
}

/// Reasons of the events of controllers of interchangeable pods.
pub mod pods {
    /// A pod was created.
    pub const SUCCESSFUL_CREATE: &str = "SuccessfulCreate";
    /// A pod was deleted.
    pub const SUCCESSFUL_DELETE: &str = "SuccessfulDelete";
    /// A pod could not be created.
    pub const FAILED_CREATE: &str = "FailedCreate";
    /// A pod could not be deleted.
    pub const FAILED_DELETE: &str = "FailedDelete";
}

/// Reasons of the events of Services.
pub mod service {
    /// The Service has external addresses.
    pub const ENSURED_LOAD_BALANCER: &str = "EnsuredLoadBalancer";
    /// The Service of an ordinal cannot be created as the set requests.
    pub const FAILED_ORDINAL_SERVICE: &str = "FailedOrdinalService";
    /// A program of the node listens on a port of the Service.
    pub const PORT_IN_USE: &str = "PortInUse";
    /// The Service got only some of its external addresses, or no external address.
    pub const SYNC_LOAD_BALANCER_FAILED: &str = "SyncLoadBalancerFailed";
}

/// Reasons of events about claims of devices.
pub mod devices {
    /// A ResourceClaim could not be created for a pod.
    pub const FAILED_CREATION: &str = "FailedResourceClaimCreation";
    /// The devices of a pod could not be prepared on its node.
    pub const FAILED_PREPARE: &str = "FailedPrepareDynamicResources";
}

/// Reasons of events about any object.
pub mod metadata {
    /// Parts of the stored metadata are malformed and are removed from responses.
    pub const MALFORMED: &str = "MalformedMetadata";
}
