//! Labels, annotations, finalizers and names that belong to the API and that planners read or
//! write.

/// Name of the pod, on pods of a StatefulSet.
pub const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Ordinal of the pod, on pods of a StatefulSet.
pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// Name of the ControllerRevision that a pod was made from.
pub const REVISION: &str = "controller-revision-hash";
/// Hash in the name of a ControllerRevision.
pub const REVISION_HASH: &str = "controller.kubernetes.io/hash";
