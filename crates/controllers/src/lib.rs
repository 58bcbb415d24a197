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
mod owned;
mod pacing;
mod plan_size;
mod pod_gc;
mod pod_writer;
mod rbd_provisioner;
mod recent_pod_writes;
mod remote_groups;
mod replica_set;
mod resource_claims;
mod root_ca_publisher;
mod service_account_tokens;
mod service_accounts;
mod service_cidrs;
mod stateful_set;
mod stateful_set_policy;
mod storage_version_migration;
mod token_cleaner;
mod volume_binding;
mod volume_growth;
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
pub use node_lifecycle::SilenceStorage;
pub use node_reach::NodeReach;

use inventory::Inventory;
use remote_groups::RemoteGroups;

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
fn all(context: &Context) -> Vec<NamedController> {
    vec![
        controller(
            "service-account-tokens",
            service_account_tokens::run(context.clone()),
        ),
        controller("attachdetach", attach_detach::run(context.clone())),
        controller(
            "certificate-signing",
            certificate_signing::run(context.clone()),
        ),
        controller("endpoints", endpoints::run(context.clone())),
        controller("garbage-collection", collect(context.clone())),
        controller("cronjob", cron_job::run(context.clone())),
        controller("daemonset", daemon_set::run(context.clone())),
        controller("crd-names", crd_names::run(context.clone())),
        controller("deployment", deployment::run(context.clone())),
        controller("disruption", disruption::run(context.clone())),
        controller(
            "horizontal-pod-autoscaler",
            horizontal_pod_autoscaler::run(context.clone()),
        ),
        controller("ephemeral-volumes", ephemeral_volumes::run(context.clone())),
        controller("job", job::run(context.clone())),
        controller("load-balancer", load_balancer::run(context.clone())),
        controller("root-ca-publisher", root_ca_publisher::run(context.clone())),
        controller("service-accounts", service_accounts::run(context.clone())),
        controller("service-cidrs", service_cidrs::run(context.clone())),
        controller("node-lifecycle", node_lifecycle::run(context.clone())),
        controller("node-reachability", node_reach::run(context.clone())),
        controller("ordinal-services", ordinal_services::run(context.clone())),
        controller("pod-gc", pod_gc::run(context.clone())),
        controller("rbd-provisioner", rbd_provisioner::run(context.clone())),
        controller(
            "replicaset",
            replica_set::run::<ReplicaSet>(context.clone()),
        ),
        controller(
            "replicationcontroller",
            replica_set::run::<ReplicationController>(context.clone()),
        ),
        controller("resource-claims", resource_claims::run(context.clone())),
        controller(
            "clusterrole-aggregation",
            clusterrole_aggregation::run(context.clone()),
        ),
        controller("statefulset", stateful_set::run(context.clone())),
        controller(
            "stateful-set-policy",
            stateful_set_policy::run(context.clone()),
        ),
        controller(
            "storage-version-migration",
            storage_version_migration::run(context.clone()),
        ),
        controller("token-cleaner", token_cleaner::run(context.clone())),
        controller("volume-binding", volume_binding::run(context.clone())),
        controller("volume-growth", volume_growth::run(context.clone())),
        controller("volume-move", volume_move::run(context.clone())),
        controller("volume-protection", volume_protection::run(context.clone())),
        controller(
            "volume-replication",
            volume_replication::run(context.clone()),
        ),
        controller("volume-snapshot", volume_snapshot::run(context.clone())),
    ]
}

/// A controller with its name in logs and health reports.
struct NamedController {
    name: &'static str,
    run: BoxFuture<'static, ()>,
}

fn controller(
    name: &'static str,
    run: impl Future<Output = ()> + Send + 'static,
) -> NamedController {
    NamedController {
        name,
        run: Box::pin(run),
    }
}

/// Runs the garbage collector and the namespace controller, which share one inventory.
///
/// Both restart when other custom kinds, or kinds of other extension API servers, are served, because objects without a
/// watch cannot be collected.
async fn collect(context: Context) {
    let definitions = context.caches.definitions.clone();
    if !definitions.wait_synced().await {
        return;
    }
    let remote = RemoteGroups::of(&context);
    if !remote.wait_synced().await {
        return;
    }
    let (mut changes, mut remote_changes) = (definitions.subscribe(), remote.subscribe());
    loop {
        let served = crd_names::served(&definitions);
        let round = context.with_shutdown(context.shutdown.child_token());
        let _ended = round.shutdown.clone().drop_guard();
        let (client, component) = (round.client.clone(), round.component());
        let opening = Inventory::open(client, component, &remote);
        let inventory = tokio::select! {
            opened = opening => match opened {
                Some(inventory) => Arc::new(inventory),
                None => return,
            },
            () = crd_names::changed(&definitions, &served, &mut changes) => continue,
        };
        let read = inventory.remote.clone();
        tokio::select! {
            () = collect_once(round, inventory, remote.clone()) => return,
            () = crd_names::changed(&definitions, &served, &mut changes) => {}
            () = remote.differ(&read, &mut remote_changes) => {}
        }
    }
}

async fn collect_once(context: Context, inventory: Arc<Inventory>, remote: RemoteGroups) {
    tokio::join!(
        garbage_collection::run(context.clone(), inventory.clone()),
        namespaces::run(context, inventory, remote),
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
    for NamedController { name, run } in all(&context) {
        let controller = component.watched(name, run);
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
