//! Well-known labels.

/// On an IPAddress: its IP family.
pub const IP_FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
/// On an IPAddress: its manager.
pub const IP_MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// On APIServices that the server maintains for its own API groups.
pub const API_SERVICE_AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// On every Namespace: its name.
pub const METADATA_NAME: &str = "kubernetes.io/metadata.name";
/// The node's host name; the affinity of a local volume uses this label.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The node's processor architecture, for instance `amd64`.
pub const ARCH: &str = "kubernetes.io/arch";
/// The node's operating system: `linux`.
pub const OS: &str = "kubernetes.io/os";
/// The node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The node's region.
pub const REGION: &str = "topology.kubernetes.io/region";
/// Prefix of the labels with a node's roles.
pub const NODE_ROLE_PREFIX: &str = "node-role.kubernetes.io/";
/// On pods of a StatefulSet: the name of the pod.
pub const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// The ordinal of a pod of a StatefulSet.
pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// The name of the ControllerRevision from which a pod was created.
pub const CONTROLLER_REVISION_HASH: &str = "controller-revision-hash";
/// The hash of a ControllerRevision's data.
pub const REVISION_HASH: &str = "controller.kubernetes.io/hash";
/// The Service that a slice belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The controller that manages a slice.
pub const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Marks EndpointSlices and Endpoints of headless Services.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Marks ClusterRoles whose rules are aggregated into other ClusterRoles.
pub const AGGREGATE_PREFIX: &str = "rbac.authorization.k8s.io/aggregate-to-";
/// Marks the default roles and bindings.
pub const RBAC_DEFAULTS: &str = "kubernetes.io/bootstrapping";
/// The hash of a ReplicaSet's template, on the ReplicaSet and on its pods.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// The UID of a pod's Job.
pub const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
/// The name of a pod's Job.
pub const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// The old name of [`CONTROLLER_UID`].
pub const LEGACY_CONTROLLER_UID: &str = "controller-uid";
/// The old name of [`JOB_NAME`].
pub const LEGACY_JOB_NAME: &str = "job-name";
/// The index of a pod of an Indexed job.
pub const JOB_COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The number of failures of the earlier pods of an index (an annotation).
pub const JOB_INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// The number of ignored failures of the earlier pods of an index (an annotation).
pub const JOB_INDEX_IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Excludes a node from external load balancers.
pub const EXCLUDE_FROM_BALANCERS: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
