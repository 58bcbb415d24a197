//! The controller of StatefulSetPolicies: executor of [`controller_planners::stateful_set_policy`]. The controller of
//! StatefulSets acts on the policies.

use std::collections::BTreeSet;

use controller_framework::{Cache, Queue, ReconcileResult, object_key};
use controller_planners::stateful_set_policy::{ObservedPolicy, plan};
use jiff::Timestamp;
use json_tree::json;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube_api_client::Api;
use kube_api_client::guarded_writes::merge_status;
use object_model::ObjectKey;
use resource_kinds::stateful_set_policy::StatefulSetPolicy;

use crate::Context;

/// The error of processing a policy.
#[derive(Debug, thiserror::Error)]
#[error("write the status of a StatefulSetPolicy")]
struct Error(#[from] kube_api_client::Error);

struct StatefulSetPolicies {
    policies: Cache<StatefulSetPolicy>,
    sets: Cache<StatefulSet>,
    client: kube_api_client::Client,
}

pub(crate) async fn run(context: Context) {
    let controller = StatefulSetPolicies {
        policies: context.cache(),
        sets: context.caches.stateful_sets.clone(),
        client: context.client.clone(),
    };
    context.run("statefulsetpolicy", controller).await;
}

impl controller_framework::Controller for StatefulSetPolicies {
    type Key = ObjectKey;
    type Error = Error;

    const WORKERS: usize = 1;

    async fn wait_synced(&self) -> bool {
        // Waits until the kind is defined.
        self.sets.wait_synced().await && self.policies.wait_synced().await
    }

    /// A change of a policy or of a set may change the state of all policies of the namespace.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut policies = self.policies.subscribe();
        let mut sets = self.sets.subscribe_to_changes(|old, new| {
            let both = old.zip(new);
            both.is_none_or(|(old, new)| old.metadata.labels != new.metadata.labels)
        });
        loop {
            let changed = tokio::select! {
                Some(change) = policies.next() => object_key(&**change.object()),
                Some(change) = sets.next() => object_key(&**change.object()),
                else => return,
            };
            let policies = self.policies.list_in(&changed.namespace);
            let keys: BTreeSet<ObjectKey> = policies
                .iter()
                .map(|policy| object_key(&**policy))
                .collect();
            for key in keys {
                queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        let Some(policy) = self.policies.get_key(key) else {
            return Ok(ReconcileResult::Done);
        };
        let observed = ObservedPolicy {
            policy: &policy,
            policies: &self.policies.list_in(&key.namespace),
            sets: &self.sets.list_in(&key.namespace),
        };
        if let Some(status) = plan(&observed, Timestamp::now()) {
            let api: Api<StatefulSetPolicy> = Api::namespaced(self.client.clone(), &key.namespace);
            merge_status(&api, &*policy, json!({ "status": status })).await?;
        }
        Ok(ReconcileResult::Done)
    }
}
