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
/// The container that `kubectl logs` and `exec` take by themselves.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Why a rollout was made; `kubectl rollout history` shows it.
pub const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
/// Keeps default roles as the server has them.
pub const RBAC_AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// When the first of an endpoint's pods became (un)ready last.
pub const ENDPOINTS_LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Says that a pod mirrors one that a node runs from a file.
pub const MIRROR_POD: &str = "kubernetes.io/config.mirror";
