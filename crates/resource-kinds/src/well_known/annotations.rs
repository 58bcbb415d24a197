//! Well-known annotations and finalizers.

/// Marks the default StorageClass.
pub const DEFAULT_STORAGE_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// Marks the default IngressClass.
pub const DEFAULT_INGRESS_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
/// The old name of the class of an Ingress.
pub const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";
/// The old name of the class of a claim or volume.
pub const STORAGE_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The binding of a claim and a volume is complete on both sides.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The controller, and not the user, chose the binding.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// The provisioner of a volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The provisioner that must create a claim's volume.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The old name of [`STORAGE_PROVISIONER`].
pub const BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The node that the scheduler chose for the pod that uses a claim.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The finalizer of a claim that pods use.
pub const PVC_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// The finalizer of a volume that is bound.
pub const PV_PROTECTION: &str = "kubernetes.io/pv-protection";
/// The finalizer that protects a VolumeAttributesClass while claims and volumes refer to it.
pub const VAC_PROTECTION: &str = "kubernetes.io/vac-protection";
/// The finalizer of a ServiceCIDR, which Services have addresses of.
pub const SERVICE_CIDR_PROTECTION: &str = "networking.k8s.io/service-cidr-finalizer";
/// The finalizer that keeps a CustomResourceDefinition until all its objects are deleted.
pub const CUSTOM_RESOURCE_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// The fields of a custom resource's stored metadata that do not have their type, and that responses do not contain.
/// The annotation is added to responses and never stored.
pub const MALFORMED_METADATA: &str = "mainstay.dev/malformed-metadata";
/// The container that `kubectl logs` and `kubectl exec` use by default.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// The cause of a rollout, for `kubectl rollout history`.
pub const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
/// Whether the server adds missing rules and subjects to a default role or binding at its start.
pub const RBAC_AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// The time of the last change of an endpoint's readiness.
pub const ENDPOINTS_LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The deletion cost of a ReplicaSet's pod; the cheapest pods are deleted first.
pub const POD_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The number of a Deployment's rollout, on the Deployment and on its ReplicaSets.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// The previous rollout numbers of a ReplicaSet.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's replicas when it last scaled a ReplicaSet.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The maximum number of pods, with surge, when the Deployment last scaled a ReplicaSet.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// The last configuration of client-side apply.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Marks the mirror of a static pod.
pub const MIRROR_POD: &str = "kubernetes.io/config.mirror";

/// The prefix of mainstay's annotations.
pub const OWN_PREFIX: &str = "mainstay.dev/";
/// The treatment of a pod from a faulty template after the template was changed.
pub const STUCK_ROLLOUT: &str = "mainstay.dev/stuck-rollout";
/// The order in which several unhealthy surplus pods are deleted.
pub const SCALE_DOWN: &str = "mainstay.dev/scale-down";
/// Whether unavailable pods count against `maxUnavailable`.
pub const MAX_UNAVAILABLE: &str = "mainstay.dev/max-unavailable";
/// Whether the claim templates of a set can be edited, and whether claims that exist follow the edit.
pub const CLAIM_UPDATES: &str = "mainstay.dev/claim-updates";
/// The claim templates that were removed from a set, as JSON. The API server writes it.
pub const REMOVED_CLAIM_TEMPLATES: &str = "apps.mainstay.dev/removed-claim-templates";
/// The labels and annotations that a claim has from its template, as JSON. The controller of the set writes it.
pub const TEMPLATE_METADATA: &str = "apps.mainstay.dev/template-metadata";
/// The time from which a claim has no template. The controller of the set writes it.
pub const UNUSED_SINCE: &str = "apps.mainstay.dev/unused-since";
/// The time at which the request of a claim was raised last, because its volume was nearly full.
pub const GROWN_AT: &str = "apps.mainstay.dev/grown-at";
/// The evidence against a ControllerRevision whose rollout failed, as JSON.
pub const REJECTED: &str = "apps.mainstay.dev/rejected";
/// The progress of the steps of a rollout, on its ControllerRevision, as JSON.
pub const ROLLOUT_STEP: &str = "apps.mainstay.dev/rollout-step";
/// The approval of a step of a rollout, on its ControllerRevision: the number of the revision and that of the step.
pub const APPROVED_STEP: &str = "apps.mainstay.dev/approved-step";
/// The number of the schema in a CustomResourceDefinition of mainstay: a server renews a schema with a lower number.
pub const SCHEMA_NUMBER: &str = "apps.mainstay.dev/schema-number";
/// The purpose of an Eviction by the controller of a set. PodDisruptionBudgets do not hold such an eviction.
pub const PURPOSE: &str = "mainstay.dev/purpose";
/// The check of a pod's health, from the guard of its set's policy; the node runs it.
pub const HEALTH_CHECK: &str = "node.mainstay.dev/health-check";
/// The check whether a pod has recovered, from the guard of its set's policy; the node runs it.
pub const RECOVERY_CHECK: &str = "node.mainstay.dev/recovery-check";
/// The hold of a pod with the hook that runs before it goes, as JSON; the node runs the hook.
pub const HOOK: &str = "node.mainstay.dev/hook";
/// The id of the hook's run that a person or a program has done, on a pod.
pub const HOOK_DONE: &str = "apps.mainstay.dev/hook-done";
/// The node port of the first ordinal, for sets with a node port per pod.
pub const ORDINAL_NODE_PORT: &str = "mainstay.dev/ordinal-node-port";
/// Seconds without progress after which a set counts as stalled.
pub const PROGRESS_DEADLINE_SECONDS: &str = "mainstay.dev/progress-deadline-seconds";
/// The treatment of a set's pods whose node was lost.
pub const NODE_FAILURE: &str = "mainstay.dev/node-failure";
/// The treatment of a set's volumes on a fenced node.
pub const LOST_VOLUME: &str = "mainstay.dev/lost-volume";
/// The time after which a volume is abandoned, according to [`LOST_VOLUME`].
pub const LOST_VOLUME_SECONDS: &str = "mainstay.dev/lost-volume-seconds";

/// On a pod: its node stops it when the node's Lease has expired. Set at the creation only.
pub const ENDS_WITH_LEASE: &str = "node.mainstay.dev/ends-with-lease";
/// On the Lease of a node: when the Lease has expired, the node's agent stops the pods with [`ENDS_WITH_LEASE`].
pub const ENDS_PODS: &str = "node.mainstay.dev/ends-pods";
/// On the Lease of a fenced node, until the node returns: the proof that the pods with [`ENDS_WITH_LEASE`] have
/// stopped.
pub const FENCED: &str = "node.mainstay.dev/fenced";
/// On a local volume that is being moved to another node: the record of the move ([`crate::storage::volume_move`]).
pub const VOLUME_MOVE: &str = "node.mainstay.dev/volume-move";
/// On a Node: whether the size of the volumes of the class `local` is enforced there
/// ([`crate::storage::volume_size`]).
pub const LOCAL_VOLUME_SIZE: &str = "node.mainstay.dev/local-volume-size";
/// On a volume with a replica on another node: the record of its copies
/// ([`crate::storage::volume_replication`]).
pub const VOLUME_REPLICATION: &str = "node.mainstay.dev/volume-replication";
