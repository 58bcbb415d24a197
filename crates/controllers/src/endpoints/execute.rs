//! Writes slices and Endpoints.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_client::{Api, Client, PostParams, ResourceExt};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use planners::endpoints::{EndpointsPlan, EndpointsWrite};
use reconcile::Key;
use reconcile::execute::{self, Delete, WriteRefusal, refusal};
use tokio::time::Instant;

use super::observe::Observer;
use crate::Context;

/// Maximum time until an own write is visible; then the cache is trusted.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("write endpoints")]
    Api(#[source] api_client::Error),
}

pub(super) struct Executor {
    client: Client,
    /// Own writes that may not be visible yet, with their time. Bounded by the number of writes
    /// within [`SEEN_WITHIN`].
    unseen: Mutex<HashMap<Key, Vec<(OwnWrite, Instant)>>>,
}

/// A write that the caches will show.
enum OwnWrite {
    /// A slice of that name was created.
    Slice(String),
    /// A slice of that name was written over this resourceVersion.
    SliceOver(String, Option<String>),
    /// The Endpoints were written over this resourceVersion; without one they were created.
    Endpoints(Option<String>),
}

impl OwnWrite {
    /// Whether the caches show it. They show nothing between the replaced version and the written
    /// one, because the API server refuses a write over any other version.
    fn is_visible(&self, key: &Key, observer: &Observer) -> bool {
        match self {
            Self::Slice(name) => observer.slices.get(&key.namespace, name).is_some(),
            Self::SliceOver(name, version) => {
                let slice = observer.slices.get(&key.namespace, name);
                slice.is_none_or(|slice| slice.metadata.resource_version != *version)
            }
            Self::Endpoints(None) => observer.endpoints.get_key(key).is_some(),
            Self::Endpoints(version) => {
                let endpoints = observer.endpoints.get_key(key);
                endpoints.is_none_or(|one| one.metadata.resource_version != *version)
            }
        }
    }
}

impl Executor {
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            unseen: Mutex::default(),
        }
    }

    fn unseen(&self) -> MutexGuard<'_, HashMap<Key, Vec<(OwnWrite, Instant)>>> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect(&self, key: &Key, write: OwnWrite) {
        let entry = (write, Instant::now());
        self.unseen().entry(key.clone()).or_default().push(entry);
    }

    /// The time to wait for this Service's own recent writes.
    pub fn not_seen_yet(&self, key: &Key, observer: &Observer) -> Option<Duration> {
        let mut unseen = self.unseen();
        let waiting = unseen.get_mut(key)?;
        waiting
            .retain(|(write, at)| at.elapsed() < SEEN_WITHIN && !write.is_visible(key, observer));
        let oldest = waiting.iter().map(|(_, at)| *at).min();
        if oldest.is_none() {
            unseen.remove(key);
        }
        oldest.map(|at| SEEN_WITHIN.saturating_sub(at.elapsed()))
    }

    pub async fn execute(&self, key: &Key, plan: EndpointsPlan) -> Result<(), Error> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PostParams::default();
        let result = self.write_slices(key, &slices, &params, &plan).await;
        let result = match (result, plan.endpoints) {
            (Ok(()), Some(write)) => self.write_endpoints(key, &params, write).await,
            (result, _) => result,
        };
        match result {
            Err(error) if refusal(&error) == WriteRefusal::NamespaceTerminating => Ok(()),
            other => other.map_err(Error::Api),
        }
    }

    async fn write_slices(
        &self,
        key: &Key,
        slices: &Api<EndpointSlice>,
        params: &PostParams,
        plan: &EndpointsPlan,
    ) -> api_client::Result<()> {
        for slice in &plan.create {
            let created = slices.create_written(params, slice).await?;
            self.expect(key, OwnWrite::Slice(created.name.unwrap_or_default()));
        }
        for slice in &plan.update {
            let (name, version) = (slice.name_any(), slice.resource_version());
            let written = slices.replace_written(&name, params, slice).await?;
            if written.resource_version != version {
                self.expect(key, OwnWrite::SliceOver(name, version));
            }
        }
        for (name, uid) in &plan.delete {
            execute::delete(slices, name, Delete::of_uid(uid)).await?;
        }
        Ok(())
    }

    async fn write_endpoints(
        &self,
        key: &Key,
        params: &PostParams,
        write: EndpointsWrite,
    ) -> api_client::Result<()> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        match write {
            EndpointsWrite::Create(endpoints) => {
                api.create_written(params, &endpoints).await?;
                self.expect(key, OwnWrite::Endpoints(None));
                Ok(())
            }
            EndpointsWrite::Update(endpoints) => {
                let version = endpoints.resource_version();
                let replaced = api.replace_written(&key.name, params, &endpoints);
                if replaced.await?.resource_version != version {
                    self.expect(key, OwnWrite::Endpoints(version));
                }
                Ok(())
            }
            EndpointsWrite::Delete { name, uid } => {
                execute::delete(&api, &name, Delete::of_uid(uid))
                    .await
                    .map(drop)
            }
        }
    }
}
