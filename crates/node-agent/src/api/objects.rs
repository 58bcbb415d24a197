//! The API objects that pods refer to: ConfigMaps, Secrets, claims, tokens, Services.
//!
//! An object is read when a container or volume needs it, so that the container starts with the present
//! state. The objects of a running pod's volumes are watched. Each object has one watch per node, which all
//! pods share.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use controller_framework::{Cache, Object, WatchConfig};
use jiff::Timestamp;
use json_tree::Value;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_api_client::{Api, Client, PartialObjectMeta, Patch, PatchParams, PostParams};
use pod_lifecycle::environment::service_env;
use process_telemetry::Component;
use process_telemetry::backoff;
use resource_kinds::MetadataIdentity;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::object_error::{ApiObjectError, RequestError, TokenError};
use crate::limits::{OBJECT_READ_INTERVAL, REQUEST_TIMEOUT, WATCHED_OBJECTS_MAX};

/// Kinds of objects whose changes are propagated to running pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    ConfigMap,
    Secret,
}

/// The request for a token of a pod's service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedToken {
    /// The audience; `None` for the API server.
    pub audience: Option<String>,
    /// The requested lifetime of the token in seconds.
    pub expiration_seconds: i64,
}

/// A token for a pod's service account.
#[derive(Clone, Debug)]
pub struct Token {
    pub value: String,
    pub expires: Timestamp,
}

/// A claim and its volume.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundClaim {
    pub claim: PersistentVolumeClaim,
    /// The PersistentVolume that the claim is bound to.
    pub volume: PersistentVolume,
}

/// An object in the namespace of the pod.
pub type ObjectName = (ObjectKind, String);

/// The state of an object at a read: its resource version, or its absence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(Option<String>);

impl Version {
    pub fn of_object<K: kube_api_client::Resource>(object: Option<&K>) -> Self {
        Self(object.and_then(|object| object.meta().resource_version.clone()))
    }
}

/// Versions of objects at their last read.
pub type Versions = BTreeMap<ObjectName, Version>;

type WatchKey = (ObjectKind, String, String);

pub struct ApiObjects {
    client: Client,
    services: Cache<Service>,
    watches: Mutex<BTreeMap<WatchKey, Weak<ObjectWatch>>>,
    /// Permits for watches at the API server.
    watch_permits: Arc<Semaphore>,
    /// Lock for volumes with many bytes of files: only one such volume is in memory at a time.
    large_volumes: Arc<tokio::sync::Mutex<()>>,
    component: Component,
}

/// A subscription to an object. The watch stops when the last subscription is dropped.
pub struct ObjectWatch {
    /// The newest observed version of the object; `None` before the first.
    newest: watch::Sender<Option<Version>>,
    stop: CancellationToken,
    /// The permit for the watch; `None` if the object is read at an interval instead.
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for ObjectWatch {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl ObjectWatch {
    /// The changes of the object after the version `read`. If `read` is `None`, the changes after the first
    /// version of the watch.
    pub fn changes(self: Arc<Self>, read: Option<Version>) -> ObjectChanges {
        ObjectChanges {
            newest: self.newest.subscribe(),
            reported: read,
            _watch: self,
        }
    }
}

/// Changes of an object after a read.
pub struct ObjectChanges {
    newest: watch::Receiver<Option<Version>>,
    /// The version of the last report, or of the read.
    reported: Option<Version>,
    _watch: Arc<ObjectWatch>,
}

impl ObjectChanges {
    /// Waits until the object has another version than the last reported version; `false` after the watch
    /// has ended.
    ///
    /// If the watch is behind the read, the version of the watch is reported, too.
    pub async fn next(&mut self) -> bool {
        loop {
            if let Some(newest) = self.newest.borrow_and_update().clone() {
                let former = self.reported.replace(newest.clone());
                if former.is_some_and(|former| former != newest) {
                    return true;
                }
            }
            if self.newest.changed().await.is_err() {
                return false;
            }
        }
    }
}

impl ApiObjects {
    /// Starts the watch of Services; other objects are watched when pods use them.
    pub fn new(client: Client, component: Component) -> Self {
        let services = Cache::spawn_all(&client, &component);
        Self {
            client,
            services,
            watches: Mutex::default(),
            watch_permits: Arc::new(Semaphore::new(WATCHED_OBJECTS_MAX)),
            large_volumes: Arc::default(),
            component,
        }
    }

    /// Lock for volumes with many bytes of files: only one such volume is in memory at a time.
    pub fn large_volumes(&self) -> &Arc<tokio::sync::Mutex<()>> {
        &self.large_volumes
    }

    /// Waits until the list of Services is complete.
    pub async fn wait_synced(&self) -> bool {
        self.services.wait_synced().await
    }

    /// A ConfigMap; `None` if it does not exist.
    pub async fn config_map(
        &self,
        ns: &str,
        name: &str,
    ) -> Result<Option<ConfigMap>, ApiObjectError> {
        self.read("configmap", ns, name).await
    }

    pub async fn secret(&self, ns: &str, name: &str) -> Result<Option<Secret>, ApiObjectError> {
        self.read("secret", ns, name).await
    }

    pub async fn resource_claim(
        &self,
        ns: &str,
        name: &str,
    ) -> Result<Option<ResourceClaim>, ApiObjectError> {
        self.read("resourceclaim", ns, name).await
    }

    pub async fn pod(&self, ns: &str, name: &str) -> Result<Option<Pod>, ApiObjectError> {
        self.read("pod", ns, name).await
    }

    pub(super) async fn read<K>(
        &self,
        kind: &'static str,
        ns: &str,
        name: &str,
    ) -> Result<Option<K>, ApiObjectError>
    where
        K: Object
            + kube_api_client::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), ns);
        let object = in_time(api.get_opt(name)).await;
        object.map_err(|error| ApiObjectError::Get {
            kind,
            name: name.to_owned(),
            error,
        })
    }

    pub async fn claim(
        &self,
        ns: &str,
        name: &str,
    ) -> Result<Option<PersistentVolumeClaim>, ApiObjectError> {
        self.read("persistentvolumeclaim", ns, name).await
    }

    /// A bound claim with its volume.
    pub async fn bound_claim(&self, ns: &str, name: &str) -> Result<BoundClaim, ApiObjectError> {
        let claim = self.claim(ns, name).await?;
        let claim = claim.ok_or_else(|| ApiObjectError::NotFound {
            kind: "persistentvolumeclaim",
            name: name.to_owned(),
        })?;
        let volume = self.volume_of(&claim).await?;
        Ok(BoundClaim { claim, volume })
    }

    /// The PersistentVolume that a claim is bound to.
    pub async fn volume_of(
        &self,
        claim: &PersistentVolumeClaim,
    ) -> Result<PersistentVolume, ApiObjectError> {
        let uid = claim.metadata.uid.clone();
        let phase = claim.status.as_ref();
        let phase = phase.and_then(|status| status.phase.as_deref());
        let name = claim.spec.as_ref();
        let name = name.and_then(|spec| spec.volume_name.clone());
        let name = name.filter(|name| !name.is_empty());
        let (Some("Bound"), Some(name)) = (phase, name) else {
            let key = claim.metadata.object_key()?;
            return Err(ApiObjectError::ClaimNotBound(key));
        };
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let kind = "persistentvolume";
        let volume = match in_time(api.get_opt(&name)).await {
            Ok(Some(volume)) => volume,
            Ok(None) => return Err(ApiObjectError::NotFound { kind, name }),
            Err(error) => return Err(ApiObjectError::Get { kind, name, error }),
        };
        let reference = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.claim_ref.as_ref());
        let bound_to = reference.and_then(|claim| claim.uid.clone());
        if bound_to.is_some() && bound_to != uid {
            return Err(ApiObjectError::VolumeOfAnotherClaim(name));
        }
        Ok(volume)
    }

    /// Patches the status of a claim and returns the claim as stored.
    pub async fn write_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        patch: &Value,
    ) -> Result<PersistentVolumeClaim, ApiObjectError> {
        let key = claim.metadata.object_key()?;
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let stored = in_time(api.patch_status(&key.name, &params, &patch)).await;
        stored.map_err(|error| ApiObjectError::WriteClaimStatus { claim: key, error })
    }

    pub async fn runtime_handler(&self, class: &str) -> Result<String, ApiObjectError> {
        let api: Api<RuntimeClass> = Api::all(self.client.clone());
        let name = class.to_owned();
        match in_time(api.get_opt(class)).await {
            Ok(Some(class)) => Ok(class.handler),
            Ok(None) => Err(ApiObjectError::RuntimeClassNotFound(name)),
            Err(error) => Err(ApiObjectError::GetRuntimeClass { name, error }),
        }
    }

    /// A new token for the pod's service account, bound to the pod.
    pub async fn token(
        &self,
        pod: &Pod,
        requested: RequestedToken,
    ) -> Result<Token, ApiObjectError> {
        let token = self.request_token(pod, requested).await;
        token.map_err(ApiObjectError::Token)
    }

    async fn request_token(
        &self,
        pod: &Pod,
        requested: RequestedToken,
    ) -> Result<Token, TokenError> {
        let meta = &pod.metadata;
        let namespace = meta.object_namespace()?;
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.as_deref());
        let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
        let request = TokenRequest {
            metadata: ObjectMeta::default(),
            spec: Some(TokenRequestSpec {
                audiences: requested.audience.map(|audience| vec![audience]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: meta.name.clone(),
                    uid: meta.uid.clone(),
                }),
                expiration_seconds: Some(requested.expiration_seconds),
            }),
            status: None,
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let params = PostParams::default();
        let response = in_time(api.create_subresource("token", account, &params, &request)).await;
        let response: TokenRequest = response?;
        let status = response.status.ok_or(TokenError::Empty)?;
        let value = status.token.ok_or(TokenError::Empty)?;
        let hour = Timestamp::now() + jiff::SignedDuration::from_hours(1);
        Ok(Token {
            value,
            expires: status.expiration_timestamp.map_or(hour, |time| time.0),
        })
    }

    /// The variables of Services for a pod; `None` before the list of Services is complete.
    pub fn service_variables(&self, pod: &Pod) -> Option<Vec<(String, String)>> {
        self.services.is_synced().then(|| {
            let services = self.services.list();
            service_env::variables(pod, services.iter().map(AsRef::as_ref))
        })
    }

    /// Watches an object of a namespace, shared with all other subscribers.
    pub fn watch(&self, kind: ObjectKind, namespace: &str, name: &str) -> Arc<ObjectWatch> {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|_, watch| watch.strong_count() > 0);
        if let Some(existing) = watches.get(&key).and_then(Weak::upgrade) {
            return existing;
        }
        let watch = Arc::new(ObjectWatch {
            newest: watch::Sender::new(None),
            stop: self.component.shutdown.child_token(),
            permit: self.watch_permits.clone().try_acquire_owned().ok(),
        });
        match kind {
            ObjectKind::ConfigMap => {
                self.follow::<PartialObjectMeta<ConfigMap>>(namespace, name, &watch)
            }
            ObjectKind::Secret => self.follow::<PartialObjectMeta<Secret>>(namespace, name, &watch),
        }
        watches.insert(key, Arc::downgrade(&watch));
        watch
    }

    fn follow<K>(&self, namespace: &str, name: &str, watch: &ObjectWatch)
    where
        K: Object
            + kube_api_client::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        if watch.permit.is_none() {
            let reading = read_versions(api, name.to_owned(), watch.newest.clone());
            tokio::spawn(watch.stop.clone().run_until_cancelled_owned(reading));
            return;
        }
        let only = WatchConfig::default().fields(&format!("metadata.name={name}"));
        let cache = Cache::spawn(api, only, self.component.with_shutdown(watch.stop.clone()));
        tokio::spawn(note_versions(cache, watch.newest.clone()));
    }
}

/// Publishes the version of the only object of a cache, from the first list on.
async fn note_versions<K: Object>(cache: Cache<K>, newest: watch::Sender<Option<Version>>) {
    if !cache.wait_synced().await {
        return;
    }
    let mut changes = cache.subscribe();
    loop {
        let version = Version::of_object(cache.list().first().map(AsRef::as_ref));
        newest.send_if_modified(|newest| newest.replace(version.clone()) != Some(version));
        if futures::StreamExt::next(&mut changes).await.is_none() {
            return;
        }
    }
}

/// Publishes the version of an object at an interval.
async fn read_versions<K>(api: Api<K>, name: String, newest: watch::Sender<Option<Version>>)
where
    K: Object
        + kube_api_client::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    loop {
        match in_time(api.get_opt(&name)).await {
            Ok(object) => {
                let version = Version::of_object(object.as_ref());
                newest.send_if_modified(|newest| newest.replace(version.clone()) != Some(version));
            }
            Err(error) => tracing::debug!(%error, name, "an object of a volume is not read"),
        }
        tokio::time::sleep(backoff::jittered(OBJECT_READ_INTERVAL)).await;
    }
}

/// A request with a time limit.
pub async fn in_time<T>(
    request: impl Future<Output = kube_api_client::Result<T>>,
) -> Result<T, RequestError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(result) => result.map_err(RequestError::Api),
        Err(_) => Err(RequestError::TimedOut),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::stream;
    use kube_api_client::Event;
    use tokio::time::timeout;

    use super::*;

    type Map = PartialObjectMeta<ConfigMap>;

    fn map(version: &str) -> Map {
        json_tree::from_value(
            json_tree::json!({"metadata": {"name": "m", "namespace": "n", "uid": "m",
            "resourceVersion": version}}),
        )
        .unwrap()
    }

    fn list(object: Option<Map>) -> Vec<Event<Map>> {
        let mut events = vec![Event::Init];
        events.extend(object.map(Event::InitApply));
        events.push(Event::InitDone);
        events
    }

    /// A watch that responds with a list, and then sends the events of `later`.
    fn watch(
        first: Vec<Event<Map>>,
    ) -> (
        Arc<ObjectWatch>,
        tokio::sync::mpsc::UnboundedSender<Event<Map>>,
    ) {
        let (later, from_later) = tokio::sync::mpsc::unbounded_channel();
        let more = stream::unfold(from_later, async |mut from| {
            Some((from.recv().await?, from))
        });
        let events = futures::StreamExt::chain(stream::iter(first), more);
        let watch = Arc::new(ObjectWatch {
            newest: watch::Sender::new(None),
            stop: CancellationToken::new(),
            permit: None,
        });
        tokio::spawn(note_versions(
            Cache::from_events(events),
            watch.newest.clone(),
        ));
        (watch, later)
    }

    /// Whether a change is reported; the clock only advances while the test waits.
    async fn has_report(changes: &mut ObjectChanges) -> bool {
        let report = timeout(Duration::from_secs(60), changes.next()).await;
        report.unwrap_or(false)
    }

    #[tokio::test(start_paused = true)]
    async fn what_changed_between_reading_and_watching_is_told_once() {
        // statefulset.md 12.13
        let absent = Version::of_object(None::<&Map>);
        for (read, first, news) in [
            (Version::of_object(Some(&map("1"))), Some(map("2")), true),
            (Version::of_object(Some(&map("1"))), Some(map("1")), false),
            (Version::of_object(Some(&map("1"))), None, true),
            (absent.clone(), Some(map("1")), true),
            (absent, None, false),
        ] {
            let (watch, later) = watch(list(first));
            let mut changes = watch.changes(Some(read));
            assert_eq!(has_report(&mut changes).await, news);
            assert!(!has_report(&mut changes).await);
            later.send(Event::Apply(map("3"))).unwrap();
            assert!(has_report(&mut changes).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_others_have_tells_newcomers_what_they_missed() {
        let (watch, later) = watch(list(Some(map("1"))));
        let mut early = watch.clone().changes(None);
        assert!(
            !has_report(&mut early).await,
            "what is there at first is no news"
        );
        later.send(Event::Apply(map("2"))).unwrap();
        assert!(has_report(&mut early).await);
        let mut late = watch
            .clone()
            .changes(Some(Version::of_object(Some(&map("1")))));
        assert!(has_report(&mut late).await);
        let mut current = watch
            .clone()
            .changes(Some(Version::of_object(Some(&map("2")))));
        assert!(!has_report(&mut current).await);
        later.send(Event::Delete(map("3"))).unwrap();
        for changes in [&mut early, &mut late, &mut current] {
            assert!(has_report(changes).await);
        }
    }
}
