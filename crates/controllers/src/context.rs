//! The context that all controllers share: the client, the caches, the settings.

use std::fmt::{self, Debug};
use std::sync::Arc;

use certificates::Authority;
use controller_framework::{
    Cache, Controller, Index, Object, PodsByLabel, Queue, Recorder, SharedCaches, Work,
    run_controller,
};
use controller_planners::certificate_signing::Names;
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, ReplicationController,
    Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_api_client::Client;
use object_model::listening::Listening;
use process_telemetry::Component;
use resource_kinds::pod_view::PodView;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::node_lifecycle::SilenceStorage;
use crate::node_reach::NodeReach;
use crate::owned;

/// The current names of the API server.
#[derive(Clone, Default)]
pub struct ServerNames(Option<Arc<dyn Fn() -> Names + Send + Sync>>);

impl ServerNames {
    /// Names from a function, because the addresses of a machine change.
    pub fn of(names: impl Fn() -> Names + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(names)))
    }

    /// The current names and addresses.
    pub(crate) fn get(&self) -> Names {
        self.0.as_ref().map_or_else(Names::default, |names| names())
    }
}

impl Debug for ServerNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerNames").field(&self.get()).finish()
    }
}

/// The settings of all controllers.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The API server's CA certificates for pods (PEM); published in every namespace as the
    /// ConfigMap `kube-root-ca.crt`.
    pub root_ca_pem: String,
    /// The certificate authority that signs approved requests; without it no request is signed.
    pub authority: Option<Arc<Authority>>,
    /// The names of the API server, which are refused in certificates of nodes.
    pub server_names: ServerNames,
    /// The connections of this server to nodes; without them, no node gets the condition
    /// `KubeletAPIReachable`.
    pub node_reach: Option<NodeReach>,
    /// The metrics of the controllers.
    pub metrics: Metrics,
    /// The listening sockets of the machine; `None` if they are unknown.
    pub listening: Option<watch::Receiver<Listening>>,
    /// The controllers may pause for this time before the grace period of silent nodes starts again; `None` is
    /// [`controller_planners::node_lifecycle::GAP`].
    pub observation_gap: Option<SignedDuration>,
    /// Storage for the observed silence of nodes, which the next run reads; without it, each run counts from its start.
    pub silence: Option<SilenceStorage>,
    /// Caches that other parts of the process read as well; without them the controllers create their own caches.
    pub caches: Option<SharedCaches>,
}

/// Caches that more than one controller reads.
#[derive(Clone)]
pub struct Caches {
    pub definitions: Cache<CustomResourceDefinition>,
    pub stateful_sets: Cache<StatefulSet>,
    pub deployments: Cache<Deployment>,
    pub replica_sets: Cache<ReplicaSet>,
    pub replication_controllers: Cache<ReplicationController>,
    pub jobs: Cache<Job>,
    pub revisions: Cache<ControllerRevision>,
    pub pods: Cache<PodView>,
    pub claims: Cache<PersistentVolumeClaim>,
    pub volumes: Cache<PersistentVolume>,
    pub classes: Cache<StorageClass>,
    pub nodes: Cache<Node>,
    pub services: Cache<Service>,
    pub slices: Cache<EndpointSlice>,
    pub endpoints: Cache<Endpoints>,
    pub namespaces: Cache<Namespace>,
    pub service_accounts: Cache<ServiceAccount>,
}

/// The shared context of all controllers.
#[derive(Clone)]
pub struct Context {
    /// The client of the API server that all controllers use.
    pub client: Client,
    /// The caches of objects that several controllers read.
    pub caches: Caches,
    /// Index of pods by their controller and by the prefix of their name.
    pub pods_by_owner: Index<PodView>,
    /// Index of pods by their labels.
    pub pods_by_label: PodsByLabel,
    /// Index of ControllerRevisions by their controller and by the prefix of their name.
    pub revisions_by_owner: Index<ControllerRevision>,
    /// The settings of the controllers.
    pub config: Config,
    /// Stops all controllers when cancelled.
    pub shutdown: CancellationToken,
    component: Component,
    shared: SharedCaches,
}

impl Context {
    pub(crate) fn new(client: Client, config: Config, component: &Component) -> Self {
        // A separate token, because the failure of one controller stops the other controllers, but not the process.
        let shutdown = component.shutdown.child_token();
        let component = component.with_shutdown(shutdown.clone());
        let new_caches = || SharedCaches::new(client.clone(), component.clone());
        let shared = config.caches.clone().unwrap_or_else(new_caches);
        let caches = Caches {
            definitions: shared.all(),
            stateful_sets: shared.all(),
            deployments: shared.all(),
            replica_sets: shared.all(),
            replication_controllers: shared.all(),
            jobs: shared.all(),
            revisions: shared.all(),
            pods: shared.pods(),
            claims: shared.all(),
            volumes: shared.all(),
            classes: shared.all(),
            nodes: shared.all(),
            services: shared.all(),
            slices: shared.all(),
            endpoints: shared.all(),
            namespaces: shared.all(),
            service_accounts: shared.all(),
        };
        Self {
            client,
            pods_by_owner: caches.pods.index(owned::pod_terms),
            pods_by_label: PodsByLabel::new(&caches.pods),
            revisions_by_owner: caches.revisions.index(owned::terms),
            caches,
            config,
            shutdown,
            component,
            shared,
        }
    }

    /// The controllers' part of the program.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// A copy of the context with another shutdown token.
    pub(crate) fn with_shutdown(&self, shutdown: CancellationToken) -> Self {
        Self {
            component: self.component.with_shutdown(shutdown.clone()),
            shutdown,
            ..self.clone()
        }
    }

    /// A queue with metrics of that name; the name is that of kube-controller-manager's queue, if there is such a
    /// queue.
    pub fn queue<T: Work>(&self, name: &'static str) -> Queue<T> {
        self.config.metrics.queues().queue(name, &self.component)
    }

    /// Runs a controller with a queue of that name until shutdown.
    pub async fn run<C: Controller>(&self, queue: &'static str, controller: C) {
        run_controller(
            Arc::new(controller),
            self.queue(queue),
            self.shutdown.clone(),
        )
        .await;
    }

    /// A recorder of events of a component.
    pub fn recorder(&self, component: &str) -> Recorder {
        Recorder::spawn(self.client.clone(), component, self.shutdown.clone())
    }

    /// The cache of a kind that few controllers read.
    pub fn cache<K>(&self) -> Cache<K>
    where
        K: Object,
        K::DynamicType: Default,
    {
        self.shared.all()
    }
}
