//! Writes into ClusterRoles with an `aggregationRule` the rules of the roles that they select.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, Patch, PatchParams};
use planners::clusterrole_aggregation::plan;
use reconcile::execute::unless_outrun;
use reconcile::{Cache, Outcome, Queue, run_workers};
use serde_json::json;

use crate::Context;

/// One role may gather what another has gathered.
const WORKERS: usize = 1;

pub(crate) async fn run(context: Context) {
    let roles: Cache<ClusterRole> = context.cache();
    if !roles.wait_synced().await {
        return;
    }
    let queue = context.queue("ClusterRoleAggregator");
    let feed = tokio::spawn(feed(roles.clone(), queue.clone()));
    let api: Api<ClusterRole> = Api::all(context.client.clone());
    run_workers(
        queue,
        WORKERS,
        context.shutdown.clone(),
        move |name: String| {
            let (roles, api) = (roles.clone(), api.clone());
            async move { gather(&roles, &api, &name).await.map(|()| Outcome::Done) }
        },
    )
    .await;
    feed.abort();
}

/// Any role may be part of any that gathers.
async fn feed(roles: Cache<ClusterRole>, queue: Queue<String>) {
    let mut changes = roles.subscribe();
    while changes.next().await.is_some() {
        let gathers = |role: &Arc<ClusterRole>| role.aggregation_rule.is_some();
        for role in roles.list().into_iter().filter(gathers) {
            queue.add(role.metadata.name.clone().unwrap_or_default());
        }
    }
}

async fn gather(
    roles: &Cache<ClusterRole>,
    api: &Api<ClusterRole>,
    name: &str,
) -> kube::Result<()> {
    let Some(role) = roles.get("", name) else {
        return Ok(());
    };
    let Some(rules) = plan(&role, &roles.list()) else {
        return Ok(());
    };
    let patch = json!({
        "metadata": {"resourceVersion": role.metadata.resource_version},
        "rules": rules,
    });
    let written = api
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    unless_outrun(written).map(drop)
}
