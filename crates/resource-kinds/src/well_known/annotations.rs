//! Well-known annotations and finalizers.

/// Marks the StorageClass of claims that name none.
pub const DEFAULT_STORAGE_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// Marks the IngressClass of Ingresses that name none.
pub const DEFAULT_INGRESS_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
/// The old spelling of an Ingress's class.
pub const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";
/// The old spelling of a claim's or volume's class.
pub const STORAGE_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The binding of a claim and a volume is complete on both sides.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The controller, and not the user, chose the binding.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// The provisioner of a volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The provisioner for a claim's volume.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The old spelling of [`STORAGE_PROVISIONER`].
pub const BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The node that the scheduler chose for the pod that uses a claim.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The finalizer of a claim that pods use.
pub const PVC_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// The finalizer of a volume that is bound.
pub const PV_PROTECTION: &str = "kubernetes.io/pv-protection";
/// Keeps a VolumeAttributesClass while claims and volumes name it.
pub const VAC_PROTECTION: &str = "kubernetes.io/vac-protection";
/// The finalizer that keeps a CustomResourceDefinition until all its objects are deleted.
pub const CUSTOM_RESOURCE_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// The fields of a custom resource's stored metadata that do not have their type, and that are left out of it.
/// The server shows it and never stores it.
pub const MALFORMED_METADATA: &str = "mainstay.dev/malformed-metadata";
/// The container that `kubectl logs` and `exec` take by themselves.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// The cause of a rollout, for `kubectl rollout history`.
pub const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
/// Keeps default roles as the server has them.
pub const RBAC_AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// The time of the last change of an endpoint's readiness.
pub const ENDPOINTS_LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The deletion cost of a ReplicaSet's pod; the cheapest pods are deleted first.
pub const POD_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The number of a Deployment's rollout, on it and on its ReplicaSets.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// The numbers that a ReplicaSet had before.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's replicas when it last scaled a ReplicaSet.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The pods that it allowed for.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// The last configuration of client-side apply.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Marks the mirror of a static pod.
pub const MIRROR_POD: &str = "kubernetes.io/config.mirror";

/// The prefix of mainstay's own annotations.
pub const OWN_PREFIX: &str = "mainstay.dev/";
/// The treatment of a pod with a faulty template, after the template was changed.
pub const STUCK_ROLLOUT: &str = "mainstay.dev/stuck-rollout";
/// The order of deletion of several unhealthy surplus pods.
pub const SCALE_DOWN: &str = "mainstay.dev/scale-down";
/// Whether unavailable pods count against `maxUnavailable`.
pub const MAX_UNAVAILABLE: &str = "mainstay.dev/max-unavailable";
/// The node port of the first ordinal, for a node port per pod of a set.
pub const ORDINAL_NODE_PORT: &str = "mainstay.dev/ordinal-node-port";
/// Seconds without progress after which a set counts as stalled.
pub const PROGRESS_DEADLINE_SECONDS: &str = "mainstay.dev/progress-deadline-seconds";
/// The handling of a set's pods whose node was lost.
pub const NODE_FAILURE: &str = "mainstay.dev/node-failure";
/// The handling of a set's volumes that live on a fenced node.
pub const LOST_VOLUME: &str = "mainstay.dev/lost-volume";
/// The time after which a volume is given up by [`LOST_VOLUME`].
pub const LOST_VOLUME_SECONDS: &str = "mainstay.dev/lost-volume-seconds";

/// On a pod: its node ends it when the node's lease has lapsed. Written at its creation only.
pub const ENDS_WITH_LEASE: &str = "node.mainstay.dev/ends-with-lease";
/// On the lease of a node: the node's agent ends the pods with [`ENDS_WITH_LEASE`] when it has lapsed.
pub const ENDS_PODS: &str = "node.mainstay.dev/ends-pods";
/// On the lease of a node that was fenced, until the node returns: the proof that those pods have ended.
pub const FENCED: &str = "node.mainstay.dev/fenced";
/// On a local volume that moves to another node: the record of the move
/// ([`crate::storage::volume_move`]).
pub const VOLUME_MOVE: &str = "node.mainstay.dev/volume-move";
/// On a Node: whether the volumes of the class `local` there cannot hold more than their size
/// ([`crate::storage::volume_size`]).
pub const LOCAL_VOLUME_SIZE: &str = "node.mainstay.dev/local-volume-size";
/// On a volume with a replica on another node: the record of its copies
/// ([`crate::storage::volume_replication`]).
pub const VOLUME_REPLICATION: &str = "node.mainstay.dev/volume-replication";
