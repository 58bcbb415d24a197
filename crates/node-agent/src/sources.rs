//! Objects that pods are made of: ConfigMaps, Secrets, claims, tokens, Services.
//!
//! They are asked for when a container or volume needs them, so that it starts with what is true
//! then; what a running pod has mounted is watched, one watch per object and node however many
//! pods use it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};
use pod_lifecycle::downward::NodeFacts;
use pod_lifecycle::environment::{self, References};
use pod_lifecycle::service_env;
use reconcile::{Cache, Object, WatchConfig, execute};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::limits::REQUEST_TIMEOUT;

/// Kinds of objects whose changes reach running pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

/// A token that a pod asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenWanted {
    /// For whom; the API server when absent.
    pub audience: Option<String>,
    /// For how long.
    pub expiration_seconds: i64,
}

/// A token for a pod's service account.
#[derive(Clone, Debug)]
pub struct Token {
    /// The token.
    pub value: String,
    /// Until when it holds.
    pub expires: Timestamp,
}

type WatchKey = (ObjectKind, String, String);

/// Access to the objects that pods are made of.
pub struct Sources {
    client: Client,
    services: Cache<Service>,
    watches: Mutex<BTreeMap<WatchKey, Weak<ObjectWatch>>>,
    shutdown: CancellationToken,
}

/// Somebody's interest in an object; the watch ends with the last one.
pub struct ObjectWatch {
    changes: watch::Sender<u64>,
    stop: CancellationToken,
}

impl Drop for ObjectWatch {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl ObjectWatch {
    /// Tells of each change of the object after this call.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl Sources {
    /// Starts to follow Services.
    pub fn new(client: Client, shutdown: CancellationToken) -> Self {
        let api = Api::all(client.clone());
        let services = Cache::spawn(api, WatchConfig::default(), shutdown.clone());
        Self {
            client,
            services,
            watches: Mutex::default(),
            shutdown,
        }
    }

    /// Waits until Services are known.
    pub async fn wait_synced(&self) -> bool {
        self.services.wait_synced().await
    }

    /// A ConfigMap, if it exists.
    pub async fn config_map(&self, ns: &str, name: &str) -> Result<Option<ConfigMap>, String> {
        self.get("configmap", ns, name).await
    }

    /// A Secret, if it exists.
    pub async fn secret(&self, ns: &str, name: &str) -> Result<Option<Secret>, String> {
        self.get("secret", ns, name).await
    }

    async fn get<K>(&self, kind: &str, ns: &str, name: &str) -> Result<Option<K>, String>
    where
        K: Object + kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), ns);
        let found = in_time(api.get_opt(name)).await;
        found.map_err(|error| format!("get {kind} \"{name}\": {error}"))
    }

    /// What a claim's volume is.
    pub async fn volume_of_claim(&self, ns: &str, name: &str) -> Result<PersistentVolume, String> {
        let claim: Option<PersistentVolumeClaim> =
            self.get("persistentvolumeclaim", ns, name).await?;
        let claim = claim.ok_or_else(|| format!("persistentvolumeclaim \"{name}\" not found"))?;
        let uid = claim.metadata.uid;
        let phase = claim.status.and_then(|status| status.phase);
        let volume = claim
            .spec
            .and_then(|spec| spec.volume_name)
            .filter(|v| !v.is_empty());
        let (Some("Bound"), Some(volume)) = (phase.as_deref(), volume) else {
            return Err(format!("PVC {ns}/{name} is not bound"));
        };
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let found = in_time(api.get_opt(&volume)).await;
        let found = found.map_err(|error| format!("get persistentvolume \"{volume}\": {error}"))?;
        let found = found.ok_or_else(|| format!("persistentvolume \"{volume}\" not found"))?;
        let reference = found.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let bound_to = reference.and_then(|claim| claim.uid.clone());
        if bound_to.is_some() && bound_to != uid {
            return Err(format!(
                "persistentvolume \"{volume}\" belongs to another claim"
            ));
        }
        Ok(found)
    }

    /// What is to run pods of a RuntimeClass.
    pub async fn runtime_handler(&self, class: &str) -> Result<String, String> {
        let api: Api<RuntimeClass> = Api::all(self.client.clone());
        let found = in_time(api.get_opt(class)).await;
        let found =
            found.map_err(|error| format!("failed to get RuntimeClass {class}: {error}"))?;
        let found = found.ok_or_else(|| format!("runtimeclass.node.k8s.io {class:?} not found"))?;
        Ok(found.handler)
    }

    /// A new token for the pod's service account, bound to the pod.
    pub async fn token(&self, pod: &Pod, wanted: TokenWanted) -> Result<Token, String> {
        let meta = &pod.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.as_deref());
        let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
        let request = TokenRequest {
            metadata: ObjectMeta::default(),
            spec: Some(TokenRequestSpec {
                audiences: wanted.audience.map(|audience| vec![audience]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: meta.name.clone(),
                    uid: meta.uid.clone(),
                }),
                expiration_seconds: Some(wanted.expiration_seconds),
            }),
            status: None,
        };
        let failed = |error: String| format!("failed to fetch token: {error}");
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let params = PostParams::default();
        let answer = in_time(api.create_subresource("token", account, &params, &request)).await;
        let answer: TokenRequest = answer.map_err(failed)?;
        let status = answer
            .status
            .ok_or_else(|| failed("empty answer".to_owned()))?;
        let value = status
            .token
            .ok_or_else(|| failed("empty answer".to_owned()))?;
        let hour = Timestamp::now() + jiff::SignedDuration::from_hours(1);
        Ok(Token {
            value,
            expires: status.expiration_timestamp.map_or(hour, |time| time.0),
        })
    }

    /// All that a container's environment is made of.
    pub async fn environment(
        &self,
        pod: &Pod,
        references: References,
        facts: NodeFacts,
    ) -> Result<environment::Sources, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut found = environment::Sources {
            facts,
            ..environment::Sources::default()
        };
        for name in references.config_maps {
            if let Some(object) = self.config_map(namespace, &name).await? {
                found
                    .config_maps
                    .insert(name, object.data.unwrap_or_default());
            }
        }
        for name in references.secrets {
            if let Some(object) = self.secret(namespace, &name).await? {
                let data = object.data.into_iter().flatten();
                let data = data.map(|(key, ByteString(bytes))| (key, bytes)).collect();
                found.secrets.insert(name, data);
            }
        }
        let services = self.services.list();
        found.services = service_env::variables(pod, services.iter().map(AsRef::as_ref));
        Ok(found)
    }

    /// Watches an object of a namespace, together with everybody else who does.
    pub fn watch(&self, kind: ObjectKind, namespace: &str, name: &str) -> Arc<ObjectWatch> {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|_, watch| watch.strong_count() > 0);
        if let Some(known) = watches.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let watch = Arc::new(ObjectWatch {
            changes: watch::Sender::new(0),
            stop: self.shutdown.child_token(),
        });
        match kind {
            ObjectKind::ConfigMap => self.follow::<ConfigMap>(namespace, name, &watch),
            ObjectKind::Secret => self.follow::<Secret>(namespace, name, &watch),
        }
        watches.insert(key, Arc::downgrade(&watch));
        watch
    }

    fn follow<K>(&self, namespace: &str, name: &str, watch: &ObjectWatch)
    where
        K: Object + kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let only = WatchConfig::default().fields(&format!("metadata.name={name}"));
        let cache = Cache::spawn(api, only, watch.stop.clone());
        tokio::spawn(notify_changes(cache, watch.changes.clone()));
    }
}

async fn notify_changes<K: Object>(cache: Cache<K>, told: watch::Sender<u64>) {
    if !cache.wait_synced().await {
        return;
    }
    // What is there at first is known to those who ask; what comes later is news.
    let mut known = !cache.is_empty();
    let mut changes = cache.subscribe();
    while futures::StreamExt::next(&mut changes).await.is_some() {
        if !known {
            told.send_modify(|count| *count += 1);
        }
        known = false;
    }
}

/// One request, with an end; the error is the server's own text.
pub async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(execute::message(&error)),
        Err(_) => Err("the API server did not answer in time".to_owned()),
    }
}
