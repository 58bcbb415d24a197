//! The objects of a cluster or of one namespace, as far as the user may read them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use diagnosis::{ObservedCluster, ObservedNamespace, TargetKind, Webhook};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube_api_client::{Api, Client, ListParams, Resource, ResourceExt};
use resource_kinds::namespaces::NODE_LEASES;
use resource_kinds::snapshot::VolumeSnapshotClass;
use serde::de::DeserializeOwned;

use crate::error::InspectionError;
use crate::server::Server;

/// Maximum number of names in a hint.
const NAMES_MAX: usize = 10;
/// The namespace of events about cluster-wide objects.
const EVENTS_OF_CLUSTER: &str = "default";

/// The scope of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// One object of that kind, which is in that namespace if the kind has any.
    Object(TargetKind, &'a str),
    /// All objects of one namespace.
    Namespace(&'a str),
    /// All objects of all namespaces.
    All,
}

/// The namespaces that a question about everything covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceScope {
    /// All namespaces.
    All,
    /// All namespaces; if the user may not read all, the namespace of the context.
    Readable,
    One(String),
}

/// The objects that were read.
#[derive(Debug, Default)]
pub struct ClusterObjects {
    /// The objects that have no namespace.
    pub cluster: Arc<ObservedCluster>,
    /// The objects of each namespace, by its name.
    pub namespaces: Vec<ObservedNamespace>,
    /// The namespace to which the scope is limited.
    pub namespace: Option<String>,
    /// The kinds that could not be read.
    pub unread: Vec<String>,
}

impl ClusterObjects {
    /// All objects of a kind, by namespace.
    pub fn each<'f, K: 'f>(
        &'f self,
        of: impl Fn(&'f ObservedNamespace) -> &'f Vec<Arc<K>>,
    ) -> impl Iterator<Item = &'f K> {
        self.namespaces.iter().flat_map(of).map(AsRef::as_ref)
    }
}

/// Reads all objects of these namespaces that the user may read, and the cluster-wide objects.
///
/// # Errors
/// The server does not respond, or refuses a list of pods.
pub async fn read_all(
    server: &Server,
    reach: &NamespaceScope,
    now: Timestamp,
) -> Result<ClusterObjects, InspectionError> {
    let scope = match reach {
        NamespaceScope::All | NamespaceScope::Readable => Scope::All,
        NamespaceScope::One(namespace) => Scope::Namespace(namespace),
    };
    let objects = match read(&server.client, scope, now).await {
        Err(kube_api_client::Error::Api(status))
            if status.code == 403 && *reach == NamespaceScope::Readable =>
        {
            let user_namespace = server.namespace();
            let objects = read(&server.client, Scope::Namespace(user_namespace), now).await;
            objects.map(|mut objects| {
                let note = format!(
                    "this is about namespace {user_namespace} alone: {}",
                    status.message
                );
                objects.unread.push(note);
                objects
            })
        }
        objects => objects,
    };
    objects.map_err(|error| server.explain(error))
}

/// Reads all objects for the question. Kinds that the user may not read are reported. If the question is about such a
/// kind, the read fails.
pub async fn read(
    client: &Client,
    scope: Scope<'_>,
    now: Timestamp,
) -> Result<ClusterObjects, kube_api_client::Error> {
    let reader = Reader {
        client,
        scope,
        unread: Mutex::default(),
    };
    let (cluster, namespaces) = tokio::try_join!(reader.cluster(), reader.namespaces(now))?;
    let cluster = Arc::new(cluster);
    let mut namespaces: Vec<ObservedNamespace> = namespaces.0.into_values().collect();
    for evidence in &mut namespaces {
        evidence.cluster = Arc::clone(&cluster);
    }
    let unread = reader.unread.into_inner();
    let namespace = match scope {
        Scope::All => None,
        Scope::Object(_, namespace) | Scope::Namespace(namespace) => Some(namespace.to_owned()),
    };
    Ok(ClusterObjects {
        cluster,
        namespaces,
        namespace,
        unread: unread.unwrap_or_else(PoisonError::into_inner),
    })
}

/// Lists objects, as far as permitted.
struct Reader<'a> {
    client: &'a Client,
    scope: Scope<'a>,
    unread: Mutex<Vec<String>>,
}

/// The explanations for which a list is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nearly all explanations.
    Always,
    /// The explanations of objects of this kind.
    For(TargetKind),
    /// The list only adds facts to some explanations.
    Hint,
}

/// By name.
struct Namespaces(BTreeMap<String, ObservedNamespace>, Timestamp);

impl Namespaces {
    /// Adds each object to the objects of its namespace.
    fn add<K: ResourceExt>(
        &mut self,
        objects: Option<Vec<Arc<K>>>,
        to: impl Fn(&mut ObservedNamespace) -> &mut Vec<Arc<K>>,
    ) {
        for object in objects.into_iter().flatten() {
            let namespace = object.namespace().unwrap_or_default();
            let now = self.1;
            let evidence = self.0.entry(namespace);
            let evidence = evidence.or_insert_with_key(|name| ObservedNamespace::of(name, now));
            to(evidence).push(object);
        }
    }
}

impl Reader<'_> {
    async fn namespaces(&self, now: Timestamp) -> Result<Namespaces, kube_api_client::Error> {
        use TargetKind as Kind;
        let mut all = Namespaces(BTreeMap::new(), now);
        if let Scope::Object(_, namespace) | Scope::Namespace(namespace) = self.scope {
            let evidence = ObservedNamespace::of(namespace, now);
            all.0.insert(namespace.to_owned(), evidence);
        }
        let (pods, sets, policies, revisions, claims, events) = tokio::try_join!(
            self.list(Need::Always, "pods"),
            self.list(Need::Always, "StatefulSets"),
            self.list(Need::Always, "StatefulSetPolicies"),
            self.list(Need::Always, "revisions"),
            self.list(Need::Always, "claims"),
            self.list(Need::Always, "events"),
        )?;
        let pods: Option<Vec<Arc<Pod>>> = pods;
        all.add(pods, |e| &mut e.full_pods);
        for evidence in all.0.values_mut() {
            evidence.view_pods().map_err(kube_api_client::Error::Json)?;
        }
        all.add(sets, |e| &mut e.sets);
        all.add(policies, |e| &mut e.policies);
        all.add(revisions, |e| &mut e.revisions);
        all.add(claims, |e| &mut e.claims);
        all.add(events, |e| &mut e.events);
        let (deployments, replica_sets, controllers, daemon_sets, jobs, cron_jobs) = tokio::try_join!(
            self.list(Need::For(Kind::Deployment), "Deployments"),
            self.list(Need::For(Kind::ReplicaSet), "ReplicaSets"),
            self.list(
                Need::For(Kind::ReplicationController),
                "ReplicationControllers"
            ),
            self.list(Need::For(Kind::DaemonSet), "DaemonSets"),
            self.list(Need::For(Kind::Job), "Jobs"),
            self.list(Need::For(Kind::CronJob), "CronJobs"),
        )?;
        all.add(deployments, |e| &mut e.deployments);
        all.add(replica_sets, |e| &mut e.replica_sets);
        all.add(controllers, |e| &mut e.replication_controllers);
        all.add(daemon_sets, |e| &mut e.daemon_sets);
        all.add(jobs, |e| &mut e.jobs);
        all.add(cron_jobs, |e| &mut e.cron_jobs);
        let (services, slices, ingresses, autoscalers, budgets, snapshots) = tokio::try_join!(
            self.list(Need::For(Kind::Service), "Services"),
            self.list(Need::For(Kind::Service), "EndpointSlices"),
            self.list(Need::For(Kind::Ingress), "Ingresses"),
            self.list(Need::For(Kind::Autoscaler), "HorizontalPodAutoscalers"),
            self.list(Need::For(Kind::Budget), "PodDisruptionBudgets"),
            self.list(Need::For(Kind::Snapshot), "VolumeSnapshots"),
        )?;
        all.add(services, |e| &mut e.services);
        all.add(slices, |e| &mut e.slices);
        all.add(ingresses, |e| &mut e.ingresses);
        all.add(autoscalers, |e| &mut e.autoscalers);
        all.add(budgets, |e| &mut e.budgets);
        all.add(snapshots, |e| &mut e.snapshots);
        Ok(all)
    }

    async fn cluster(&self) -> Result<ObservedCluster, kube_api_client::Error> {
        use TargetKind as Kind;
        let (nodes, volumes, classes, snapshot_classes, snapshot_contents) = tokio::try_join!(
            self.list_all(Need::Always, "nodes"),
            self.list_all(Need::Always, "volumes"),
            self.list_all(Need::Always, "storage classes"),
            self.list_all(Need::For(Kind::Snapshot), "snapshot classes"),
            self.list_all(Need::For(Kind::Snapshot), "snapshot contents"),
        )?;
        // The leases add facts to the notes and remedies of pods.
        let leases = Api::namespaced(self.client.clone(), NODE_LEASES);
        let (node_leases, csi_nodes, capacities) = tokio::try_join!(
            self.listed(leases, Need::Hint, "leases of nodes"),
            self.list_all(Need::Hint, "CSINodes"),
            self.listed(
                Api::all(self.client.clone()),
                Need::Hint,
                "CSIStorageCapacities"
            ),
        )?;
        let (namespaces, definitions, api_services, signing_requests, components) = tokio::try_join!(
            self.list_all(Need::For(Kind::Namespace), "namespaces"),
            self.list_all(Need::For(Kind::Definition), "definitions"),
            self.list_all(Need::For(Kind::ApiService), "APIServices"),
            self.list_all(Need::For(Kind::SigningRequest), "signing requests"),
            self.list_all(Need::For(Kind::Component), "components"),
        )?;
        let snapshot_classes: Option<Vec<Arc<VolumeSnapshotClass>>> = snapshot_classes;
        let owned = |all: Vec<Arc<_>>| all.into_iter().map(Arc::unwrap_or_clone).collect();
        Ok(ObservedCluster {
            nodes,
            node_leases,
            volumes,
            classes,
            csi_nodes,
            capacities,
            snapshot_classes: snapshot_classes.map(owned),
            snapshot_contents,
            namespaces,
            definitions,
            api_services,
            signing_requests,
            components,
            webhooks: self.webhooks().await?,
            events: self.cluster_events().await?,
        })
    }

    async fn webhooks(&self) -> Result<Vec<Webhook>, kube_api_client::Error> {
        let (validating, mutating) = tokio::try_join!(
            self.list_all::<ValidatingWebhookConfiguration>(Need::Hint, "webhooks"),
            self.list_all::<MutatingWebhookConfiguration>(Need::Hint, "webhooks"),
        )?;
        let mut webhooks = Vec::new();
        for one in validating.into_iter().flatten() {
            let configuration = format!("validatingwebhookconfiguration/{}", one.name_any());
            let names = one.webhooks.iter().flatten().map(|webhook| &webhook.name);
            webhooks.extend(names.map(|name| webhook(name, &configuration)));
        }
        for one in mutating.into_iter().flatten() {
            let configuration = format!("mutatingwebhookconfiguration/{}", one.name_any());
            let names = one.webhooks.iter().flatten().map(|webhook| &webhook.name);
            webhooks.extend(names.map(|name| webhook(name, &configuration)));
        }
        Ok(webhooks)
    }

    /// Events that are read with their namespace are not read again.
    async fn cluster_events(&self) -> Result<Vec<Arc<Event>>, kube_api_client::Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), EVENTS_OF_CLUSTER);
        let events = self
            .listed(api, Need::Hint, "events of the cluster")
            .await?;
        let events = events.into_iter().flatten();
        let of_cluster = |event: &Arc<Event>| event.involved_object.namespace.is_none();
        Ok(events.filter(of_cluster).collect())
    }

    async fn list<K>(
        &self,
        need: Need,
        what: &str,
    ) -> Result<Option<Vec<Arc<K>>>, kube_api_client::Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned,
    {
        let client = self.client.clone();
        let api = match self.scope {
            Scope::Object(_, namespace) | Scope::Namespace(namespace) => {
                Api::namespaced(client, namespace)
            }
            Scope::All => Api::all(client),
        };
        self.listed(api, need, what).await
    }

    async fn list_all<K>(
        &self,
        need: Need,
        what: &str,
    ) -> Result<Option<Vec<Arc<K>>>, kube_api_client::Error>
    where
        K: Resource<Scope = ClusterResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned,
    {
        // A question about an object needs only the lists for its kind; a question about a namespace needs only the
        // lists for namespaced kinds.
        let is_requested = match (self.scope, need) {
            (Scope::Object(kind, _), Need::For(other)) => kind == other,
            (Scope::Namespace(_), Need::For(other)) => other.is_namespaced(),
            _ => true,
        };
        match is_requested {
            true => {
                let api = Api::all(self.client.clone());
                self.listed(api, need, what).await
            }
            false => Ok(None),
        }
    }

    /// The objects; `None` if the server does not know the kind, or the user may not read it.
    async fn listed<K>(
        &self,
        api: Api<K>,
        need: Need,
        what: &str,
    ) -> Result<Option<Vec<Arc<K>>>, kube_api_client::Error>
    where
        K: Resource + Clone + Debug + DeserializeOwned,
    {
        let status = match api.list(&ListParams::default()).await {
            Ok(list) => return Ok(Some(list.items.into_iter().map(Arc::new).collect())),
            Err(kube_api_client::Error::Api(status)) if [403, 404].contains(&status.code) => status,
            Err(error) => return Err(error),
        };
        let is_subject = match (self.scope, need) {
            (Scope::Object(kind, _), Need::For(other)) => kind == other,
            (Scope::Object(TargetKind::Pod, _), Need::Always) => what == "pods",
            (Scope::Object(TargetKind::Claim, _), Need::Always) => what == "claims",
            (Scope::Object(TargetKind::StatefulSet, _), Need::Always) => what == "StatefulSets",
            (Scope::Object(TargetKind::Node, _), Need::Always) => what == "nodes",
            (Scope::Object(TargetKind::Volume, _), Need::Always) => what == "volumes",
            (Scope::Object(TargetKind::StorageClass, _), Need::Always) => what == "storage classes",
            (Scope::All, Need::Always) => what == "pods",
            _ => false,
        };
        if is_subject && status.code == 403 {
            return Err(kube_api_client::Error::Api(status));
        }
        let is_reported = status.code == 403
            && match (self.scope, need) {
                (_, Need::Always) => true,
                (Scope::Object(..), _) | (_, Need::Hint) => false,
                (_, Need::For(_)) => true,
            };
        if is_reported {
            let note = format!("nothing was concluded from {what}: {}", status.message);
            let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
            unread.push(note);
        }
        Ok(None)
    }
}

fn webhook(name: &str, configuration: &str) -> Webhook {
    Webhook {
        name: name.to_owned(),
        configuration: configuration.to_owned(),
    }
}

/// The names of the objects of that kind, for a hint.
pub fn names(evidence: &ObservedNamespace, kind: TargetKind) -> String {
    let names = evidence.names(kind);
    let elsewhere = match kind.is_namespaced() {
        true => "; -n names another namespace",
        false => "",
    };
    match names.len() {
        0 => format!("there is none of its kind{elsewhere}"),
        count if count > NAMES_MAX => {
            let (first, more) = (names[..NAMES_MAX].join(", "), count - NAMES_MAX);
            format!("there are {first} and {more} more{elsewhere}")
        }
        _ => format!("there are {}{elsewhere}", names.join(", ")),
    }
}
