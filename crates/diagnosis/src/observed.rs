//! The observed objects, from which an explanation is computed.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::Metadata;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ComponentStatus, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSINode, CSIStorageCapacity, StorageClass};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use pod_lifecycle::diagnosis::text;
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;
use resource_kinds::snapshot::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent};
use resource_kinds::stateful_set_policy::StatefulSetPolicy;

use super::explanation::{EventSeries, Finding, Log, Object};
use super::kinds::TargetKind;

/// The cluster-wide objects that were read.
///
/// A list that could not be read is `None`: then a missing object allows no conclusion.
#[derive(Clone, Debug, Default)]
pub struct ObservedCluster {
    /// The Node objects.
    pub nodes: Option<Vec<Arc<Node>>>,
    /// The Leases of the nodes, in the namespace `kube-node-lease`.
    pub node_leases: Option<Vec<Arc<Lease>>>,
    /// The PersistentVolumes.
    pub volumes: Option<Vec<Arc<PersistentVolume>>>,
    /// The StorageClasses.
    pub classes: Option<Vec<Arc<StorageClass>>>,
    /// The CSI drivers of all nodes.
    pub csi_nodes: Option<Vec<Arc<CSINode>>>,
    /// The free storage of CSI drivers, of all namespaces.
    pub capacities: Option<Vec<Arc<CSIStorageCapacity>>>,
    /// The VolumeSnapshotClasses.
    pub snapshot_classes: Option<Vec<VolumeSnapshotClass>>,
    /// The VolumeSnapshotContents.
    pub snapshot_contents: Option<Vec<Arc<VolumeSnapshotContent>>>,
    /// The Namespace objects.
    pub namespaces: Option<Vec<Arc<Namespace>>>,
    /// The CustomResourceDefinitions.
    pub definitions: Option<Vec<Arc<CustomResourceDefinition>>>,
    /// The APIServices.
    pub api_services: Option<Vec<Arc<APIService>>>,
    /// The CertificateSigningRequests.
    pub signing_requests: Option<Vec<Arc<CertificateSigningRequest>>>,
    /// The health of the control plane's components (`ComponentStatus`).
    pub components: Option<Vec<Arc<ComponentStatus>>>,
    /// The webhooks of all admission configurations.
    pub webhooks: Vec<Webhook>,
    /// Events about nodes and other cluster-wide objects.
    pub events: Vec<Arc<Event>>,
}

/// A webhook of an admission configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Name of the webhook.
    pub name: String,
    /// The object that configures it: `validatingwebhookconfiguration/NAME`.
    pub configuration: String,
}

/// The objects of one namespace that were read, and the cluster-wide objects.
#[derive(Clone, Debug)]
pub struct ObservedNamespace {
    /// Name of the namespace; empty if only cluster-wide objects are explained.
    pub namespace: String,
    /// The time at which the objects were read.
    pub now: Timestamp,
    /// The cluster-wide objects, shared by all namespaces.
    pub cluster: Arc<ObservedCluster>,
    /// The StatefulSets.
    pub sets: Vec<Arc<StatefulSet>>,
    /// The policies of sets.
    pub policies: Vec<Arc<StatefulSetPolicy>>,
    pub deployments: Vec<Arc<Deployment>>,
    pub replica_sets: Vec<Arc<ReplicaSet>>,
    pub replication_controllers: Vec<Arc<ReplicationController>>,
    pub daemon_sets: Vec<Arc<DaemonSet>>,
    pub jobs: Vec<Arc<Job>>,
    pub cron_jobs: Vec<Arc<CronJob>>,
    pub services: Vec<Arc<Service>>,
    /// The EndpointSlices of the Services.
    pub slices: Vec<Arc<EndpointSlice>>,
    pub ingresses: Vec<Arc<Ingress>>,
    /// The HorizontalPodAutoscalers.
    pub autoscalers: Vec<Arc<HorizontalPodAutoscaler>>,
    /// The PodDisruptionBudgets.
    pub budgets: Vec<Arc<PodDisruptionBudget>>,
    /// The VolumeSnapshots.
    pub snapshots: Vec<Arc<VolumeSnapshot>>,
    /// The pods as controllers read them.
    pub pods: Vec<Arc<PodView>>,
    /// The pods with all fields.
    pub full_pods: Vec<Arc<Pod>>,
    /// The ControllerRevisions.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// The PersistentVolumeClaims.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    pub events: Vec<Arc<Event>>,
}

/// The object of that name in a list.
pub(super) fn named<'e, T: Metadata<Ty = ObjectMeta>>(
    all: &'e [Arc<T>],
    name: &str,
) -> Option<&'e Arc<T>> {
    let mut all = all.iter();
    all.find(|object| text::name(object.metadata()) == name)
}

fn names<T: Metadata<Ty = ObjectMeta>>(all: &[Arc<T>]) -> Vec<&str> {
    let all = all.iter();
    all.map(|object| text::name(object.metadata())).collect()
}

fn names_of<T: Metadata<Ty = ObjectMeta>>(all: Option<&Vec<Arc<T>>>) -> Vec<&str> {
    all.map(|all| names(all)).unwrap_or_default()
}

impl ObservedNamespace {
    /// The state without any objects, for a namespace at a time.
    pub fn of(namespace: &str, now: Timestamp) -> Self {
        Self {
            namespace: namespace.to_owned(),
            now,
            cluster: Arc::default(),
            sets: Vec::new(),
            policies: Vec::new(),
            deployments: Vec::new(),
            replica_sets: Vec::new(),
            replication_controllers: Vec::new(),
            daemon_sets: Vec::new(),
            jobs: Vec::new(),
            cron_jobs: Vec::new(),
            services: Vec::new(),
            slices: Vec::new(),
            ingresses: Vec::new(),
            autoscalers: Vec::new(),
            budgets: Vec::new(),
            snapshots: Vec::new(),
            pods: Vec::new(),
            full_pods: Vec::new(),
            revisions: Vec::new(),
            claims: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Computes the views of the full pods. Fails if a pod has no complete identity.
    pub fn view_pods(&mut self) -> serde_json::Result<()> {
        let views = self.full_pods.iter().map(|pod| PodView::try_from(&**pod));
        let views = views.map(|view| view.map(Arc::new));
        self.pods = views.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// The full pods, each with its view.
    pub fn viewed_pods(&self) -> impl Iterator<Item = (&PodView, &Pod)> {
        let views = self.pods.iter().map(AsRef::as_ref);
        views.zip(self.full_pods.iter().map(AsRef::as_ref))
    }

    /// The names of all objects of a kind.
    pub fn names(&self, kind: TargetKind) -> Vec<&str> {
        let cluster = &self.cluster;
        match kind {
            TargetKind::Component => names_of(cluster.components.as_ref()),
            TargetKind::Node => names_of(cluster.nodes.as_ref()),
            TargetKind::Namespace => names_of(cluster.namespaces.as_ref()),
            TargetKind::Definition => names_of(cluster.definitions.as_ref()),
            TargetKind::ApiService => names_of(cluster.api_services.as_ref()),
            TargetKind::SigningRequest => names_of(cluster.signing_requests.as_ref()),
            TargetKind::StorageClass => names_of(cluster.classes.as_ref()),
            TargetKind::Volume => names_of(cluster.volumes.as_ref()),
            TargetKind::CronJob => names(&self.cron_jobs),
            TargetKind::Deployment => names(&self.deployments),
            TargetKind::StatefulSet => names(&self.sets),
            TargetKind::DaemonSet => names(&self.daemon_sets),
            TargetKind::Job => names(&self.jobs),
            TargetKind::ReplicaSet => names(&self.replica_sets),
            TargetKind::ReplicationController => names(&self.replication_controllers),
            TargetKind::Pod => self.pods.iter().map(|pod| &*pod.name).collect(),
            TargetKind::Claim => names(&self.claims),
            TargetKind::Snapshot => {
                let snapshots = self.snapshots.iter();
                let names = snapshots.map(|snapshot| text::name(&snapshot.metadata));
                names.collect()
            }
            TargetKind::Service => names(&self.services),
            TargetKind::Ingress => names(&self.ingresses),
            TargetKind::Autoscaler => names(&self.autoscalers),
            TargetKind::Budget => names(&self.budgets),
        }
    }

    pub(super) fn set(&self, name: &str) -> Option<&Arc<StatefulSet>> {
        named(&self.sets, name)
    }

    pub(super) fn pod(&self, name: &str) -> Option<&Arc<PodView>> {
        self.pods.iter().find(|pod| *pod.name == *name)
    }

    /// The full pod of a view.
    pub(super) fn in_full(&self, pod: &PodView) -> Option<&Arc<Pod>> {
        let full_pod = named(&self.full_pods, &pod.name);
        full_pod.filter(|full_pod| {
            full_pod
                .metadata
                .object_uid()
                .is_ok_and(|uid| uid == pod.uid)
        })
    }

    /// All nodes; empty if they could not be read.
    pub(super) fn nodes(&self) -> &[Arc<Node>] {
        self.cluster.nodes.as_deref().unwrap_or_default()
    }

    pub(super) fn claim(&self, name: &str) -> Option<&Arc<PersistentVolumeClaim>> {
        named(&self.claims, name)
    }

    pub(super) fn node(&self, name: &str) -> Option<&Arc<Node>> {
        named(self.cluster.nodes.as_deref()?, name)
    }

    pub(super) fn volume(&self, name: &str) -> Option<&Arc<PersistentVolume>> {
        named(self.cluster.volumes.as_deref()?, name)
    }

    pub(super) fn class(&self, name: &str) -> Option<&Arc<StorageClass>> {
        named(self.cluster.classes.as_deref()?, name)
    }

    /// The StatefulSet that controls the pod.
    pub(super) fn owner(&self, pod: &PodView) -> Option<&Arc<StatefulSet>> {
        let uid = Some(pod.controller.as_ref()?.uid.as_str());
        let mut sets = self.sets.iter();
        sets.find(|set| set.metadata.uid.as_deref() == uid)
    }

    /// A reference to an object of the namespace.
    pub(super) fn object(&self, kind: &'static str, name: &str) -> Object {
        Object::new(kind, Some(&self.namespace), name)
    }

    /// The pods that the owner of that UID controls.
    pub(super) fn controlled(&self, uid: Option<&str>) -> Vec<&PodView> {
        let owned = |pod: &&PodView| {
            let owner = pod.controller.as_ref();
            owner.is_some_and(|owner| Some(owner.uid.as_str()) == uid)
        };
        let pods = self.pods.iter().map(AsRef::as_ref);
        pods.filter(owned).collect()
    }

    /// The newest event about the object that satisfies the condition.
    pub(super) fn newest_event(
        &self,
        kind: &str,
        name: &str,
        uid: Option<&str>,
        matches: impl Fn(&Event) -> bool,
    ) -> Option<&Event> {
        let about = |event: &&Event| {
            let on = &event.involved_object;
            let uid_of_event = on.uid.as_deref().filter(|uid| !uid.is_empty());
            on.kind.as_deref() == Some(kind)
                && on.name.as_deref() == Some(name)
                && uid_of_event.is_none_or(|of_event| Some(of_event) == uid || of_event == name)
        };
        // Events about nodes have the node's name as UID.
        let events = self.events.iter().chain(&self.cluster.events);
        let events = events.map(AsRef::as_ref);
        let events = events.filter(|event| about(event) && matches(event));
        events.max_by_key(|event| last_seen(event))
    }
}

/// The time of the event's last occurrence.
pub(super) fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref();
    let times = [
        series
            .and_then(|s| s.last_observed_time.as_ref())
            .map(|t| t.0),
        event.last_timestamp.as_ref().map(|t| t.0),
        event.event_time.as_ref().map(|t| t.0),
        event.metadata.creation_timestamp.as_ref().map(|t| t.0),
    ];
    times.into_iter().flatten().max()
}

/// The event as a finding.
pub(super) fn event_finding(event: &Event, object: Object) -> Finding {
    let series = event.series.as_ref().and_then(|series| series.count);
    let count = event.count.or(series).unwrap_or(1).max(1);
    let first = event.first_timestamp.as_ref().map(|t| t.0);
    let first = first.or_else(|| event.event_time.as_ref().map(|t| t.0));
    Finding {
        object,
        container: container(event).map(str::to_owned),
        reason: event.reason.clone().unwrap_or_default(),
        message: text::line(event.message.as_deref().unwrap_or_default()),
        since: first.or_else(|| last_seen(event)),
        series: last_seen(event).map(|last| EventSeries { count, last }),
        log: Log::NotNeeded,
    }
}

/// The container of an event's field path: `main` of `spec.containers{main}`.
pub(super) fn container(event: &Event) -> Option<&str> {
    let path = event.involved_object.field_path.as_deref()?;
    let (_, rest) = path.split_once('{')?;
    rest.strip_suffix('}')
}
