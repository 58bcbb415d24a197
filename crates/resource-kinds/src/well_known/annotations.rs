//! Well-known annotations and finalizers.

/// Marks the class that claims without one get.
pub const DEFAULT_STORAGE_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// The old spelling of a claim's or volume's class.
pub const STORAGE_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Both sides of a binding agree.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The binding was the controller's choice, not the user's.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Who made a volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Who is to make a volume for a claim.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The old spelling of [`STORAGE_PROVISIONER`].
pub const BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The node that the scheduler chose for the pod that uses a claim.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Keeps a claim while pods use it.
pub const PVC_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Keeps a volume while it is bound.
pub const PV_PROTECTION: &str = "kubernetes.io/pv-protection";
/// Keeps a CustomResourceDefinition until all its objects are gone.
pub const CUSTOM_RESOURCE_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// The container that `kubectl logs` and `exec` take by themselves.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Why a rollout was made; `kubectl rollout history` shows it.
pub const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
/// Keeps default roles as the server has them.
pub const RBAC_AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// When the first of an endpoint's pods became (un)ready last.
pub const ENDPOINTS_LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// How much a pod of a ReplicaSet is missed; the cheapest go first.
pub const POD_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The number of a Deployment's rollout, on it and on its ReplicaSets.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// The numbers that a ReplicaSet had before.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The replicas that the Deployment asked for when it scaled a ReplicaSet last.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The pods that it allowed for.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// What client-side apply applied last.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Says that a pod mirrors one that a node runs from a file.
pub const MIRROR_POD: &str = "kubernetes.io/config.mirror";

/// What the annotations of mainstay's own begin with.
pub const OWN_PREFIX: &str = "mainstay.dev/";
/// What becomes of a pod that a bad template broke, once the template is another.
pub const STUCK_ROLLOUT: &str = "mainstay.dev/stuck-rollout";
/// Which of several unhealthy surplus pods goes first.
pub const SCALE_DOWN: &str = "mainstay.dev/scale-down";
/// How pods that are down anyway count against `maxUnavailable`.
pub const MAX_UNAVAILABLE: &str = "mainstay.dev/max-unavailable";
/// The node port of the first ordinal, where each pod of a set is to have one of its own.
pub const ORDINAL_NODE_PORT: &str = "mainstay.dev/ordinal-node-port";
/// How long a set may get no further before it counts as stalled.
pub const PROGRESS_DEADLINE_SECONDS: &str = "mainstay.dev/progress-deadline-seconds";
