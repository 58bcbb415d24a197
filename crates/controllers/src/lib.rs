//! The controllers: each controller observes through shared caches, calls its planner and executes the plan.
//!
//! One folder per controller (`observe` reads, `execute` writes), one list in [`run_all`]. The decisions are in the
//! crate `controller-planners`.

mod api_error;
mod attach_detach;
mod certificate_signing;
mod clusterrole_aggregation;
mod context;
mod crd_names;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoints;
mod ephemeral_volumes;
mod garbage_collection;
mod horizontal_pod_autoscaler;
mod inventory;
mod job;
mod load_balancer;
mod metrics;
mod namespaces;
mod node_lifecycle;
mod node_proof;
mod node_reach;
mod node_volumes;
mod ordinal_services;
mod own_pod_writes;
mod owned;
mod pacing;
mod plan_size;
mod pod_gc;
mod pod_writer;
mod rbd_provisioner;
mod replica_set;
mod resource_claims;
mod root_ca_publisher;
mod service_account_tokens;
mod service_accounts;
mod stateful_set;
mod token_cleaner;
mod volume_binding;
mod volume_move;
mod volume_protection;
pub mod volume_provisioning;
mod volume_replication;
mod volume_snapshot;

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use kube_api_client::Client;
use process_telemetry::Component;
use tokio::task::JoinSet;

pub use context::{Caches, Config, Context, ServerNames};
pub use controller_framework::SharedCaches;
pub use metrics::Metrics;
pub use node_lifecycle::SilencePlace;
pub use node_reach::NodeReach;

use inventory::Inventory;

/// The reason why the controllers ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A controller ended before the shutdown.
    #[error("controller {name} ended unexpectedly")]
    Ended {
        /// Name of the controller.
        name: &'static str,
    },
    /// A controller panicked.
    #[error("a controller panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// The list of controllers.
fn all(context: &Context) -> Vec<(&'static str, BoxFuture<'static, ()>)> {
    vec![
        (
            "service-account-tokens",
            Box::pin(service_account_tokens::run(context.clone())),
        ),
        (
            "attachdetach",
            Box::pin(attach_detach::run(context.clone())),
        ),
        (
            "certificate-signing",
            Box::pin(certificate_signing::run(context.clone())),
        ),
        ("endpoints", Box::pin(endpoints::run(context.clone()))),
        ("garbage-collection", Box::pin(collect(context.clone()))),
        ("cronjob", Box::pin(cron_job::run(context.clone()))),
        ("daemonset", Box::pin(daemon_set::run(context.clone()))),
        ("crd-names", Box::pin(crd_names::run(context.clone()))),
        ("deployment", Box::pin(deployment::run(context.clone()))),
        ("disruption", Box::pin(disruption::run(context.clone()))),
        (
            "horizontal-pod-autoscaler",
            Box::pin(horizontal_pod_autoscaler::run(context.clone())),
        ),
        (
            "ephemeral-volumes",
            Box::pin(ephemeral_volumes::run(context.clone())),
        ),
        ("job", Box::pin(job::run(context.clone()))),
        (
            "load-balancer",
            Box::pin(load_balancer::run(context.clone())),
        ),
        (
            "root-ca-publisher",
            Box::pin(root_ca_publisher::run(context.clone())),
        ),
        (
            "service-accounts",
            Box::pin(service_accounts::run(context.clone())),
        ),
        (
            "node-lifecycle",
            Box::pin(node_lifecycle::run(context.clone())),
        ),
        (
            "node-reachability",
            Box::pin(node_reach::run(context.clone())),
        ),
        (
            "ordinal-services",
            Box::pin(ordinal_services::run(context.clone())),
        ),
        ("pod-gc", Box::pin(pod_gc::run(context.clone()))),
        (
            "rbd-provisioner",
            Box::pin(rbd_provisioner::run(context.clone())),
        ),
        (
            "replicaset",
            Box::pin(replica_set::run::<ReplicaSet>(context.clone())),
        ),
        (
            "replicationcontroller",
            Box::pin(replica_set::run::<ReplicationController>(context.clone())),
        ),
        (
            "resource-claims",
            Box::pin(resource_claims::run(context.clone())),
        ),
        (
            "clusterrole-aggregation",
            Box::pin(clusterrole_aggregation::run(context.clone())),
        ),
        ("statefulset", Box::pin(stateful_set::run(context.clone()))),
        (
            "token-cleaner",
            Box::pin(token_cleaner::run(context.clone())),
        ),
        (
            "volume-binding",
            Box::pin(volume_binding::run(context.clone())),
        ),
        ("volume-move", Box::pin(volume_move::run(context.clone()))),
        (
            "volume-protection",
            Box::pin(volume_protection::run(context.clone())),
        ),
        (
            "volume-replication",
            Box::pin(volume_replication::run(context.clone())),
        ),
        (
            "volume-snapshot",
            Box::pin(volume_snapshot::run(context.clone())),
        ),
    ]
}

/// Runs the garbage collector and the namespace controller, which share one inventory.
///
/// Both restart when other custom kinds are served, because objects without a watch cannot be collected.
async fn collect(context: Context) {
    let definitions = context.caches.definitions.clone();
    if !definitions.wait_synced().await {
        return;
    }
    let mut changes = definitions.subscribe();
    loop {
        let served = crd_names::served(&definitions);
        let round = context.with_shutdown(context.shutdown.child_token());
        let _ended = round.shutdown.clone().drop_guard();
        tokio::select! {
            () = collect_once(round) => return,
            () = crd_names::changed(&definitions, &served, &mut changes) => {}
        }
    }
}

async fn collect_once(context: Context) {
    let opened = Inventory::open(context.client.clone(), context.component()).await;
    let Some(inventory) = opened.map(Arc::new) else {
        return;
    };
    tokio::join!(
        garbage_collection::run(context.clone(), inventory.clone()),
        namespaces::run(context, inventory),
    );
}

/// Runs all controllers until the shutdown of their component.
///
/// # Errors
///
/// A controller ended earlier.
pub async fn run_all(
    client: Client,
    config: Config,
    component: impl Into<Component>,
) -> Result<(), Error> {
    let component = component.into();
    let shutdown = component.shutdown.clone();
    let context = Context::new(client, config, &component);
    let metrics = context.config.metrics.clone();
    let caches = &context.caches;
    metrics.read(Some(&caches.stateful_sets), Some(&caches.volumes));
    let mut tasks = JoinSet::new();
    for (name, controller) in all(&context) {
        let controller = component.watched(name, controller);
        tasks.spawn(async move {
            controller.await;
            name
        });
    }
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        if shutdown.is_cancelled() || result.is_err() {
            continue;
        }
        result = match ended {
            Ok(name) => Err(Error::Ended { name }),
            Err(error) => Err(Error::Panicked(error)),
        };
        // The other controllers are shut down; the caller gets the first error.
        context.shutdown.cancel();
    }
    metrics.read(None, None);
    result
}
