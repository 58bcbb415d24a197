//! The kinds that a question may name, with their short names.

/// A kind that `mainstay why` explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetKind {
    /// A component of the control plane.
    Component,
    Node,
    Namespace,
    /// A CustomResourceDefinition.
    Definition,
    /// An APIService.
    ApiService,
    /// A CertificateSigningRequest.
    SigningRequest,
    StorageClass,
    /// A PersistentVolume.
    Volume,
    CronJob,
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    ReplicaSet,
    ReplicationController,
    /// A pod, including a pod that its owner has not created yet.
    Pod,
    /// A PersistentVolumeClaim, including a claim that a set has not created yet.
    Claim,
    /// A VolumeSnapshot.
    Snapshot,
    Service,
    Ingress,
    /// A HorizontalPodAutoscaler.
    Autoscaler,
    /// A PodDisruptionBudget.
    Budget,
}

/// Kind, group, and kubectl's names: the name in messages first, the plural last.
type Names = (&'static str, &'static str, &'static [&'static str]);

impl TargetKind {
    /// All kinds: owners before their dependents, cluster-wide kinds before namespaced ones.
    pub const ALL: [Self; 22] = [
        Self::Component,
        Self::Node,
        Self::Namespace,
        Self::Definition,
        Self::ApiService,
        Self::SigningRequest,
        Self::StorageClass,
        Self::Volume,
        Self::CronJob,
        Self::Deployment,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::Job,
        Self::ReplicaSet,
        Self::ReplicationController,
        Self::Pod,
        Self::Claim,
        Self::Snapshot,
        Self::Service,
        Self::Ingress,
        Self::Autoscaler,
        Self::Budget,
    ];

    fn names(self) -> Names {
        match self {
            Self::Component => ("ComponentStatus", "", &["cs", "componentstatuses"]),
            Self::Node => ("Node", "", &["node", "no", "nodes"]),
            Self::Namespace => ("Namespace", "", &["ns", "namespaces"]),
            Self::Definition => (
                "CustomResourceDefinition",
                "apiextensions.k8s.io",
                &["crd", "crds", "customresourcedefinitions"],
            ),
            Self::ApiService => (
                "APIService",
                "apiregistration.k8s.io",
                &["apiservice", "apiservices"],
            ),
            Self::SigningRequest => (
                "CertificateSigningRequest",
                "certificates.k8s.io",
                &["csr", "certificatesigningrequests"],
            ),
            Self::StorageClass => (
                "StorageClass",
                "storage.k8s.io",
                &["storageclass", "sc", "storageclasses"],
            ),
            Self::Volume => ("PersistentVolume", "", &["pv", "persistentvolumes"]),
            Self::CronJob => ("CronJob", "batch", &["cronjob", "cj", "cronjobs"]),
            Self::Deployment => ("Deployment", "apps", &["deploy", "deployments"]),
            Self::StatefulSet => ("StatefulSet", "apps", &["sts", "statefulsets"]),
            Self::DaemonSet => ("DaemonSet", "apps", &["ds", "daemonsets"]),
            Self::Job => ("Job", "batch", &["job", "jobs"]),
            Self::ReplicaSet => ("ReplicaSet", "apps", &["rs", "replicasets"]),
            Self::ReplicationController => (
                "ReplicationController",
                "",
                &["rc", "replicationcontrollers"],
            ),
            Self::Pod => ("Pod", "", &["pod", "po", "pods"]),
            Self::Claim => (
                "PersistentVolumeClaim",
                "",
                &["pvc", "persistentvolumeclaims"],
            ),
            Self::Snapshot => (
                "VolumeSnapshot",
                "snapshot.storage.k8s.io",
                &["volumesnapshot", "vs", "volumesnapshots"],
            ),
            Self::Service => ("Service", "", &["svc", "services"]),
            Self::Ingress => ("Ingress", "networking.k8s.io", &["ing", "ingresses"]),
            Self::Autoscaler => (
                "HorizontalPodAutoscaler",
                "autoscaling",
                &["hpa", "horizontalpodautoscalers"],
            ),
            Self::Budget => (
                "PodDisruptionBudget",
                "policy",
                &["pdb", "poddisruptionbudgets"],
            ),
        }
    }

    /// Kind as in manifests, for instance `StatefulSet`.
    pub fn kind(self) -> &'static str {
        self.names().0
    }

    /// The API group of the kind; empty for the core group.
    pub fn group(self) -> &'static str {
        self.names().1
    }

    /// The plural name, as in API paths.
    pub fn plural(self) -> &'static str {
        self.names().2.last().copied().unwrap_or_default()
    }

    /// The short name that messages use, for instance `sts`.
    pub fn short(self) -> &'static str {
        self.names().2.first().copied().unwrap_or_default()
    }

    /// Whether the kind is namespaced.
    pub fn is_namespaced(self) -> bool {
        self >= Self::CronJob
    }

    /// The kind that a word names, as kubectl accepts it: `sts`, `StatefulSets`, `statefulset.apps`,
    /// `statefulsets.v1.apps`.
    pub fn called(word: &str) -> Option<Self> {
        let word = word.to_lowercase();
        let (name, rest) = word.split_once('.').unwrap_or((&word, ""));
        Self::ALL.into_iter().find(|kind| {
            let (kind, group, names) = kind.names();
            let version = rest.strip_suffix(group);
            let version = version.map(|version| version.trim_end_matches('.'));
            let of_group = rest.is_empty()
                || version.is_some_and(|version| {
                    version.is_empty() || (version.starts_with('v') && !version.contains('.'))
                });
            let named = names.contains(&name) || kind.eq_ignore_ascii_case(name);
            named && of_group
        })
    }

    /// The kind with that `kind` in manifests.
    pub(super) fn of_kind(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.kind() == kind)
    }
}
