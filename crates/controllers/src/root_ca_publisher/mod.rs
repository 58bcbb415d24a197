//! The root CA publisher: executor of [`controller_planners::root_ca_publisher`].

use controller_framework::{Cache, Queue, ReconcileResult, WatchConfig};
use controller_planners::root_ca_publisher::{NAME, RootCaAction, plan};
use json_tree::json;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube_api_client::guarded_writes::refusal;
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams};
use object_model::ObjectKey;

use crate::Context;
use crate::owned::key_if_new;

#[derive(Debug, thiserror::Error)]
#[error("write certificates")]
struct Error(#[source] kube_api_client::Error);

struct RootCaPublisher {
    client: Client,
    namespaces: Cache<Namespace>,
    certificates: Cache<ConfigMap>,
    pem: String,
}

pub(crate) async fn run(context: Context) {
    let only = WatchConfig::default().fields(&format!("metadata.name={NAME}"));
    let maps: Api<ConfigMap> = Api::all(context.client.clone());
    let controller = RootCaPublisher {
        client: context.client.clone(),
        namespaces: context.caches.namespaces.clone(),
        certificates: Cache::spawn(maps, only, context.component().clone()),
        pem: context.config.root_ca_pem.clone(),
    };
    context.run("root_ca_cert_publisher", controller).await;
}

impl controller_framework::Controller for RootCaPublisher {
    type Key = ObjectKey;
    type Error = Error;

    /// Namespaces processed at once.
    const WORKERS: usize = 2;

    async fn wait_synced(&self) -> bool {
        self.namespaces.wait_synced().await && self.certificates.wait_synced().await
    }

    /// Queues new namespaces, and namespaces whose ConfigMap was changed or deleted.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut namespaces = self.namespaces.subscribe();
        let mut certificates = self.certificates.subscribe();
        loop {
            let key = tokio::select! {
                Some(change) = namespaces.next() => key_if_new(&change),
                Some(change) = certificates.next() => {
                    let namespace = change.object().metadata.namespace.clone();
                    namespace.map(ObjectKey::cluster)
                }
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
        let present = self.certificates.get(&key.name, NAME);
        let action = plan(&namespace, present.as_deref(), &self.pem);
        let written = match action {
            Some(action) => self.write(&key.name, action).await,
            None => Ok(()),
        };
        match written {
            Err(error) if !refusal(&error).is_of_old_view() => Err(Error(error)),
            _ => Ok(ReconcileResult::Done),
        }
    }
}

impl RootCaPublisher {
    async fn write(&self, namespace: &str, action: RootCaAction) -> kube_api_client::Result<()> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        match action {
            RootCaAction::Create(map) => api.create(&PostParams::default(), &map).await.map(drop),
            RootCaAction::ReplaceData(data) => {
                // The data is replaced, because a merge would keep keys of other writers.
                let patch = json!([{ "op": "add", "path": "/data", "value": data }]);
                let parameters = PatchParams::default();
                api.patch(NAME, &parameters, &Patch::Json(patch))
                    .await
                    .map(drop)
            }
        }
    }
}
