//! The extension API servers of the cluster, as the stored APIServices describe them.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use connection_limits::Shares;
use object_model::Status;
use tokio::sync::{Mutex, Notify};

use crate::aggregation::remote_service::{RemoteService, ServiceTarget, is_available};
use crate::catalog::remote::{RemoteDocuments, RemoteVersion};
use crate::http::configured_servers::ServerPools;
use crate::http::limits::{
    EXTENSION_REQUESTS, EXTENSION_REQUESTS_PER_SERVICE_MAX, EXTENSION_STREAMS,
};
use crate::objects::storage::{Objects, reading};

pub(crate) const GROUP: &str = "apiregistration.k8s.io";
pub(crate) const PLURAL: &str = "apiservices";

/// The remote services by group and version.
pub(super) type ByGroupVersion = BTreeMap<String, BTreeMap<String, Arc<RemoteService>>>;

/// The extension API servers of the cluster.
pub(crate) struct Aggregation {
    services: RwLock<Arc<ByGroupVersion>>,
    /// Lock for reads of the APIServices, so that an older read never replaces a newer result.
    following: Mutex<()>,
    /// Notified after each change of the services.
    pub(super) changed: Arc<Notify>,
    /// The connections, with the certificate of the front proxy.
    pub(super) pools: ServerPools,
    /// The requests of each sender that wait for a response.
    pub(super) requests: Shares<String>,
    /// The requests to each APIService that wait for a response.
    pub(super) requests_by_service: Shares<String>,
    /// The upgraded connections of each sender.
    pub(super) streams: Shares<String>,
}

impl Default for Aggregation {
    fn default() -> Self {
        Self {
            services: RwLock::default(),
            following: Mutex::default(),
            changed: Arc::default(),
            pools: ServerPools::default(),
            requests: Shares::within(EXTENSION_REQUESTS),
            requests_by_service: Shares::new(EXTENSION_REQUESTS_PER_SERVICE_MAX),
            streams: Shares::within(EXTENSION_STREAMS),
        }
    }
}

impl Aggregation {
    /// Presents a client certificate and its key (PEM) to extension API servers from now on.
    pub(crate) fn present(&self, certificate_pem: &str, key_pem: &str) {
        self.pools.present(certificate_pem, key_pem);
    }

    pub(super) fn services(&self) -> Arc<ByGroupVersion> {
        let services = self.services.read();
        services.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn find(&self, group: &str, version: &str) -> Option<Arc<RemoteService>> {
        let services = self.services.read();
        let services = services.unwrap_or_else(PoisonError::into_inner);
        services.get(group)?.get(version).cloned()
    }

    /// Updates the services and their part of discovery from the stored APIServices.
    ///
    /// *Errors.* The store fails, or an APIService is unreadable; the services stay.
    pub(crate) async fn follow(&self, objects: &Objects) -> Result<(), Status> {
        let _lock = self.following.lock().await;
        self.update(objects)
    }

    /// Stores the availability of a service by a write, so that a client that reads the new condition is served
    /// accordingly.
    ///
    /// *Errors.* The error of the write, or of [`follow`](Self::follow).
    pub(super) async fn set_available(
        &self,
        objects: &Objects,
        (service, available): (&RemoteService, bool),
        write: impl Future<Output = Result<(), Status>>,
    ) -> Result<(), Status> {
        // An update from the condition before the write must not replace the result.
        let _lock = self.following.lock().await;
        service.set_available(available);
        let written = write.await;
        written.and(self.update(objects))
    }

    fn update(&self, objects: &Objects) -> Result<(), Status> {
        let stored = reading(objects, |reads| Ok(reads.all(GROUP, PLURAL, "")))?;
        let former = self.services();
        let mut next = ByGroupVersion::new();
        for object in &stored {
            let Some(target) = ServiceTarget::of(object) else {
                continue;
            };
            let (group, version) = (target.group.clone(), target.version.clone());
            let kept = former.get(&group).and_then(|one| one.get(&version));
            let service = match kept {
                Some(service) if service.target == target => service.clone(),
                _ => Arc::new(RemoteService::new(target)),
            };
            service.set_available(is_available(object));
            next.entry(group).or_default().insert(version, service);
        }
        *self
            .services
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        self.publish(objects);
        self.changed.notify_one();
        Ok(())
    }

    /// Updates the part of discovery from the services.
    fn publish(&self, objects: &Objects) {
        let services = self.services();
        let all = services.values().flat_map(BTreeMap::values);
        let versions = all.map(|service| {
            let target = &service.target;
            let (documents, is_fresh) = service.documents();
            RemoteVersion {
                group: target.group.clone(),
                version: target.version.clone(),
                group_priority: target.group_priority,
                version_priority: target.version_priority,
                documents,
                is_fresh: is_fresh && service.is_available(),
            }
        });
        objects.catalog.replace_remote(versions.collect());
    }

    /// Records the outcome of a request for the documents of a service; `None` if it failed. Earlier documents stay.
    pub(super) fn record(
        &self,
        objects: &Objects,
        service: &RemoteService,
        documents: Option<RemoteDocuments>,
    ) {
        service.set_documents(documents.map(Arc::new));
        self.publish(objects);
    }
}
