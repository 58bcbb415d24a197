//! The pod garbage collector.

mod execute;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use controller_framework::ObjectChange;
use controller_framework::decide;
use controller_planners::node_lifecycle::GAP;
use controller_planners::pod_gc::missing::{Memory, OrphanLease};
use controller_planners::pod_gc::{Observed, plan};
use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube_api_client::guarded_writes::chain;
use kube_api_client::{Api, ListParams, ResourceExt};
use resource_kinds::namespaces::NODE_LEASES;
use resource_kinds::node_conditions;
use resource_kinds::pod_view::PodView;

use crate::Context;
use execute::Executor;

/// Time between two checks; as kube-controller-manager.
const INTERVAL: Duration = Duration::from_secs(20);

struct Collector {
    context: Context,
    executor: Executor,
    leases: Api<Lease>,
    memory: Memory,
    /// Whether the leases of Nodes that were deleted before this collector started are in the memory.
    knows_leases: bool,
    /// The start of this collector: time is measured by its local monotonic clock.
    started: Instant,
}

pub(crate) async fn run(context: Context) {
    let caches = &context.caches;
    if !caches.pods.wait_synced().await || !caches.nodes.wait_synced().await {
        return;
    }
    let mut nodes = caches.nodes.subscribe();
    let mut pods = caches.pods.subscribe_to_changes(is_newly_deleted);
    let mut collector = Collector {
        executor: Executor::new(&context),
        leases: Api::namespaced(context.client.clone(), NODE_LEASES),
        memory: Memory::default(),
        knows_leases: false,
        started: Instant::now(),
        context: context.clone(),
    };
    let mut next = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = context.shutdown.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
            // A changed node may have been tainted as out of service, or deleted.
            Some(change) = nodes.next() => {
                if let ObjectChange::Deleted(node) = &change {
                    collector.memory.add(node.name_any());
                }
                if !matters(&change) {
                    continue;
                }
            }
            Some(change) = pods.next() => if !goes_alone(&context, change.object()) { continue },
        }
        next = tokio::time::Instant::now() + collector.collect().await;
    }
}

impl Collector {
    /// Executes the due removals; returns the time until the next check.
    async fn collect(&mut self) -> Duration {
        if !self.knows_leases {
            self.learn_leases().await;
        }
        let caches = &self.context.caches;
        // The pods are read before the leases, so a pod that is bound after its node has returned is not among them.
        let (pods, nodes) = (caches.pods.list(), caches.nodes.list());
        let missing = self.observe_missing(&pods, &nodes).await;
        let observed = Observed {
            pods,
            nodes,
            missing,
        };
        let plan = decide(observed.pods.len(), || plan(&observed));
        self.executor.execute(&plan).await;
        let left = plan
            .wake_after
            .and_then(|left| Duration::try_from(left).ok());
        left.unwrap_or(INTERVAL).min(INTERVAL)
    }

    /// Remembers the nodes of all leases, because their Node objects may have been deleted before this collector
    /// started.
    async fn learn_leases(&mut self) {
        match self.leases.list_metadata(&ListParams::default()).await {
            Ok(leases) => {
                let names = leases
                    .items
                    .into_iter()
                    .filter_map(|lease| lease.metadata.name);
                names.for_each(|name| self.memory.add(name));
                self.knows_leases = true;
            }
            Err(error) => tracing::warn!(error = chain(&error), "leases of nodes not listed"),
        }
    }

    /// The nodes without a Node object, with their leases, which are read from the API server now.
    async fn observe_missing(
        &mut self,
        pods: &[Arc<PodView>],
        nodes: &[Arc<Node>],
    ) -> BTreeMap<String, OrphanLease> {
        let gap = GAP.saturating_add(SignedDuration::try_from(INTERVAL).unwrap_or_default());
        let now = self.reading();
        let names = decide(pods.len(), || {
            self.memory.missing_nodes(pods, nodes, gap, now)
        });
        let mut missing = BTreeMap::new();
        for node in names {
            match self.leases.get_opt(&node).await {
                Ok(lease) => {
                    let now = self.reading();
                    match self.memory.saw(&node, lease.as_ref(), now) {
                        Ok(orphan) => {
                            missing.insert(node, orphan);
                        }
                        Err(error) => {
                            tracing::warn!(node, %error, "the node's lease was not read");
                        }
                    }
                }
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(node, error, "the node's lease was not read");
                }
            }
        }
        missing
    }

    fn reading(&self) -> SignedDuration {
        SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::MAX)
    }
}

fn matters(change: &ObjectChange<Node>) -> bool {
    match change {
        ObjectChange::Applied(new, Some(old)) => {
            let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
            taints(new) != taints(old)
        }
        ObjectChange::Applied(_, None) => false,
        ObjectChange::Deleted(_) => true,
    }
}

/// Whether a change from `old` to `new` starts the deletion of a pod.
fn is_newly_deleted(old: Option<&PodView>, new: Option<&PodView>) -> bool {
    new.is_some_and(PodView::is_deleting) && !old.is_some_and(PodView::is_deleting)
}

/// Whether a deleted pod was never scheduled, or its node is out of service: no node will finish such a pod.
fn goes_alone(context: &Context, pod: &PodView) -> bool {
    let Some(node) = pod.node.as_deref() else {
        return true;
    };
    let node = context.caches.nodes.get("", node);
    node.is_some_and(|node| node_conditions::is_out_of_service(&node))
}
