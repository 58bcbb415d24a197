//! The controller of expired bootstrap tokens: executor of [`controller_planners::token_cleaner`].

use std::time::Duration;

use controller_framework::{Cache, ObjectChange, Queue, ReconcileResult, WatchConfig, object_key};
use controller_planners::token_cleaner::{TokenPlan, plan};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube_api_client::Api;
use kube_api_client::guarded_writes::{Delete, delete};
use object_model::ObjectKey;
use resource_kinds::MetadataIdentity;
use resource_kinds::bootstrap_token::{NAMESPACE, TYPE};

use crate::Context;

#[derive(Debug, thiserror::Error)]
#[error("delete an expired bootstrap token")]
struct Error(#[source] kube_api_client::Error);

struct TokenCleaner {
    api: Api<Secret>,
    secrets: Cache<Secret>,
}

pub(crate) async fn run(context: Context) {
    let only = WatchConfig::default().fields(&format!("type={TYPE}"));
    let api: Api<Secret> = Api::namespaced(context.client.clone(), NAMESPACE);
    let controller = TokenCleaner {
        secrets: Cache::spawn(api.clone(), only, context.component().clone()),
        api,
    };
    context.run("token_cleaner", controller).await;
}

impl controller_framework::Controller for TokenCleaner {
    type Key = ObjectKey;
    type Error = Error;

    const WORKERS: usize = 1;

    async fn wait_synced(&self) -> bool {
        self.secrets.wait_synced().await
    }

    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut secrets = self.secrets.subscribe();
        while let Some(change) = secrets.next().await {
            if let ObjectChange::Applied(new, _) = change {
                queue.add(object_key(new.as_ref()));
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        let Some(secret) = self.secrets.get_key(key) else {
            return Ok(ReconcileResult::Done);
        };
        let now = Timestamp::now();
        match plan(&secret, now) {
            TokenPlan::Leave => Ok(ReconcileResult::Done),
            TokenPlan::Wait(until) => {
                let wait = Duration::try_from(until.duration_since(now)).unwrap_or_default();
                Ok(ReconcileResult::RequeueAfter(wait))
            }
            TokenPlan::Delete => {
                let identity = secret.metadata.identity();
                let identity = identity.map_err(|error| Error(error.into()))?;
                let how = Delete {
                    resource_version: Some(identity.version),
                    ..Delete::of_uid(identity.uid)
                };
                delete(&self.api, &key.name, how).await.map_err(Error)?;
                Ok(ReconcileResult::Done)
            }
        }
    }
}
