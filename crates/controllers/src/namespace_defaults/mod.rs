//! The defaults of every namespace: the ServiceAccount `default`, and the ConfigMap with the API
//! server's CA certificates.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use reconcile::execute::{Refusal, refusal};
use reconcile::{Cache, Change, Key, Outcome, Queue, WatchConfig};
use serde_json::json;

use crate::Context;

const WORKERS: usize = 2;
const ACCOUNT: &str = "default";
const CERTIFICATES: &str = "kube-root-ca.crt";
const DATA_KEY: &str = "ca.crt";
const NOTE_KEY: &str = "kubernetes.io/description";
const NOTE: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using \
    internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage \
    is guaranteed across distributions of Kubernetes clusters.";

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("write default service account")]
    Account(#[source] kube::Error),
    #[error("write certificates")]
    Certificates(#[source] kube::Error),
}

struct Keeper {
    client: Client,
    namespaces: Cache<Namespace>,
    accounts: Cache<ServiceAccount>,
    certificates: Cache<ConfigMap>,
    pem: String,
}

pub(crate) async fn run(context: Context) {
    let only = WatchConfig::default().fields(&format!("metadata.name={CERTIFICATES}"));
    let maps: Api<ConfigMap> = Api::all(context.client.clone());
    let controller = Keeper {
        client: context.client.clone(),
        namespaces: context.caches.namespaces.clone(),
        accounts: context.caches.service_accounts.clone(),
        certificates: Cache::spawn(maps, only, context.part().clone()),
        pem: context.config.root_ca_pem.clone(),
    };
    context.run("namespace_defaults", controller).await;
}

impl reconcile::Controller for Keeper {
    type Key = Key;
    type Error = Error;

    const WORKERS: usize = WORKERS;

    async fn wait_synced(&self) -> bool {
        self.namespaces.wait_synced().await
            && self.accounts.wait_synced().await
            && self.certificates.wait_synced().await
    }

    /// Queues new namespaces, and those whose defaults changed or were deleted.
    async fn feed(&self, queue: &Queue<Key>) {
        let mut namespaces = self.namespaces.subscribe();
        let mut accounts = self.accounts.subscribe();
        let mut certificates = self.certificates.subscribe();
        loop {
            let namespace = tokio::select! {
                Some(change) = namespaces.next() => match change {
                    Change::Applied(new, None) => new.metadata.name.clone(),
                    _ => None,
                },
                Some(change) = accounts.next() => match change {
                    Change::Deleted(old) if old.metadata.name.as_deref() == Some(ACCOUNT) => {
                        old.metadata.namespace.clone()
                    }
                    _ => None,
                },
                Some(change) = certificates.next() => change.object().metadata.namespace.clone(),
                else => return,
            };
            if let Some(namespace) = namespace {
                queue.add(Key::cluster(namespace));
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        self.keep(&key.name).await.map(|()| Outcome::Done)
    }
}

impl Keeper {
    async fn keep(&self, name: &str) -> Result<(), Error> {
        let namespace = self.namespaces.get("", name);
        if namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
            return Ok(());
        }
        if self.accounts.get(name, ACCOUNT).is_none() {
            let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), name);
            let account = ServiceAccount {
                metadata: meta(name, ACCOUNT),
                ..Default::default()
            };
            let created = api.create(&PostParams::default(), &account).await;
            tolerate(created).map_err(Error::Account)?;
        }
        self.keep_certificates(name)
            .await
            .map_err(Error::Certificates)
    }

    async fn keep_certificates(&self, namespace: &str) -> kube::Result<()> {
        if self.pem.is_empty() {
            return Ok(());
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let data = BTreeMap::from([(DATA_KEY.to_owned(), self.pem.clone())]);
        match self.certificates.get(namespace, CERTIFICATES) {
            Some(present) if present.data.as_ref() == Some(&data) => Ok(()),
            Some(present) => {
                // A merge would keep foreign keys.
                let patch = json!([{ "op": "add", "path": "/data", "value": data }]);
                let patch: kube::api::Patch<()> =
                    match serde_json::from_value(patch).map_err(kube::Error::SerdeError) {
                        Ok(patch) => Patch::Json(patch),
                        Err(error) => return Err(error),
                    };
                let name = present.metadata.name.as_deref().unwrap_or(CERTIFICATES);
                tolerate(api.patch(name, &PatchParams::default(), &patch).await)
            }
            None => {
                let mut metadata = meta(namespace, CERTIFICATES);
                metadata.annotations = Some([(NOTE_KEY.to_owned(), NOTE.to_owned())].into());
                let map = ConfigMap {
                    metadata,
                    data: Some(data),
                    ..ConfigMap::default()
                };
                tolerate(api.create(&PostParams::default(), &map).await)
            }
        }
    }
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    }
}

/// An object that exists already, or a namespace that is terminating, is no error.
fn tolerate<T>(result: kube::Result<T>) -> kube::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => match refusal(&error) {
            Refusal::AlreadyExists | Refusal::NamespaceTerminating | Refusal::NotFound => Ok(()),
            _ => Err(error),
        },
    }
}
