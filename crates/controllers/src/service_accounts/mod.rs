//! The controller of default ServiceAccounts: executor of [`controller_planners::service_accounts`].

use controller_framework::{Cache, ObjectChange, Queue, ReconcileResult};
use controller_planners::service_accounts::{NAME, plan};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube_api_client::guarded_writes::refusal;
use kube_api_client::{Api, Client, PostParams};
use object_model::ObjectKey;

use crate::Context;
use crate::owned::key_if_new;

#[derive(Debug, thiserror::Error)]
#[error("write default service account")]
struct Error(#[source] kube_api_client::Error);

struct ServiceAccounts {
    client: Client,
    namespaces: Cache<Namespace>,
    accounts: Cache<ServiceAccount>,
}

pub(crate) async fn run(context: Context) {
    let controller = ServiceAccounts {
        client: context.client.clone(),
        namespaces: context.caches.namespaces.clone(),
        accounts: context.caches.service_accounts.clone(),
    };
    context.run("serviceaccount", controller).await;
}

impl controller_framework::Controller for ServiceAccounts {
    type Key = ObjectKey;
    type Error = Error;

    /// Namespaces processed at once.
    const WORKERS: usize = 2;

    async fn wait_synced(&self) -> bool {
        self.namespaces.wait_synced().await && self.accounts.wait_synced().await
    }

    /// Queues new namespaces, and namespaces whose account was deleted.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut namespaces = self.namespaces.subscribe();
        let mut accounts = self.accounts.subscribe();
        loop {
            let key = tokio::select! {
                Some(change) = namespaces.next() => key_if_new(&change),
                Some(change) = accounts.next() => match change {
                    ObjectChange::Deleted(old) if old.metadata.name.as_deref() == Some(NAME) => {
                        old.metadata.namespace.clone().map(ObjectKey::cluster)
                    }
                    _ => None,
                },
                else => return,
            };
            if let Some(key) = key {
                queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        let Some(namespace) = self.namespaces.get("", &key.name) else {
            return Ok(ReconcileResult::Done);
        };
        let exists = self.accounts.get(&key.name, NAME).is_some();
        let Some(account) = plan(&namespace, exists) else {
            return Ok(ReconcileResult::Done);
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.name);
        match api.create(&PostParams::default(), &account).await {
            Err(error) if !refusal(&error).is_of_old_view() => Err(Error(error)),
            _ => Ok(ReconcileResult::Done),
        }
    }
}
