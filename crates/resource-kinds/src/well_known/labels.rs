//! Well-known labels.

/// On the object of an address: its family.
pub const IP_FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
/// On an IPAddress: its manager.
pub const IP_MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// On objects that the server maintains for its own API groups.
pub const API_SERVICE_AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// A namespace's own name, on every Namespace.
pub const METADATA_NAME: &str = "kubernetes.io/metadata.name";
/// The node's host name; volumes of one node select by it.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The node's processor architecture, for instance `amd64`.
pub const ARCH: &str = "kubernetes.io/arch";
/// The node's operating system: `linux`.
pub const OS: &str = "kubernetes.io/os";
/// The node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The node's region.
pub const REGION: &str = "topology.kubernetes.io/region";
/// Prefix of the labels that name a node's roles.
pub const NODE_ROLE_PREFIX: &str = "node-role.kubernetes.io/";
/// A pod's own name, on pods of a StatefulSet.
pub const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// The ordinal of a pod of a StatefulSet.
pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// The name of the ControllerRevision that a pod was made from.
pub const CONTROLLER_REVISION_HASH: &str = "controller-revision-hash";
/// The hash of a ControllerRevision's data.
pub const REVISION_HASH: &str = "controller.kubernetes.io/hash";
/// The Service that a slice belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The manager of a slice.
pub const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Marks slices and endpoints of headless Services.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Marks cluster roles whose rules are aggregated into others.
pub const AGGREGATE_PREFIX: &str = "rbac.authorization.k8s.io/aggregate-to-";
/// Marks the roles and bindings that every cluster starts with.
pub const RBAC_DEFAULTS: &str = "kubernetes.io/bootstrapping";
/// The hash of the template that a ReplicaSet was made from, on it and on its pods.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// The uid of the job that a pod belongs to.
pub const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
/// The name of the job that a pod belongs to.
pub const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// The old spelling of [`CONTROLLER_UID`].
pub const LEGACY_CONTROLLER_UID: &str = "controller-uid";
/// The old spelling of [`JOB_NAME`].
pub const LEGACY_JOB_NAME: &str = "job-name";
/// The index of a pod of an Indexed job.
pub const JOB_COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The number of failures of an index's former pods (an annotation).
pub const JOB_INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// The number of its ignored failures (an annotation).
pub const JOB_INDEX_IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Keeps load balancers away from a node.
pub const EXCLUDE_FROM_BALANCERS: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
