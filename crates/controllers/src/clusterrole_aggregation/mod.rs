//! The controller of ClusterRoles with an `aggregationRule`: copies the rules of the selected
//! roles.

use std::sync::Arc;

use controller_framework::{Cache, Queue, ReconcileResult, object_key};
use controller_planners::clusterrole_aggregation::plan;
use json_tree::json;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube_api_client::guarded_writes::unless_outrun;
use kube_api_client::{Api, Patch, PatchParams};

use crate::Context;

struct ClusterRoles {
    roles: Cache<ClusterRole>,
    api: Api<ClusterRole>,
}

pub(crate) async fn run(context: Context) {
    let controller = ClusterRoles {
        roles: context.cache(),
        api: Api::all(context.client.clone()),
    };
    context.run("ClusterRoleAggregator", controller).await;
}

impl controller_framework::Controller for ClusterRoles {
    type Key = String;
    type Error = kube_api_client::Error;

    /// One worker, because an aggregated role may itself be selected by another role.
    const WORKERS: usize = 1;

    async fn wait_synced(&self) -> bool {
        self.roles.wait_synced().await
    }

    /// Any role may be selected by any aggregated role.
    async fn feed(&self, queue: &Queue<String>) {
        let mut changes = self.roles.subscribe();
        while changes.next().await.is_some() {
            let gathers = |role: &Arc<ClusterRole>| role.aggregation_rule.is_some();
            for role in self.roles.list().into_iter().filter(gathers) {
                queue.add(object_key(&*role).name.to_string());
            }
        }
    }

    async fn reconcile(&self, key: &String) -> Result<ReconcileResult, kube_api_client::Error> {
        gather(&self.roles, &self.api, key).await?;
        Ok(ReconcileResult::Done)
    }
}

async fn gather(
    roles: &Cache<ClusterRole>,
    api: &Api<ClusterRole>,
    name: &str,
) -> kube_api_client::Result<()> {
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
