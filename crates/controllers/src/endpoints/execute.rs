//! Writes slices and Endpoints.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_client::{Api, Client, PostParams, ResourceExt};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use planners::endpoints::{EndpointsWrite, Plan};
use reconcile::execute::{self, Delete, Refusal, refusal};
use reconcile::{Cache, Key};
use tokio::time::Instant;

use crate::Context;

/// Maximum time until a created slice is visible; then the cache is trusted.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("write endpoints")]
    Api(#[source] api_client::Error),
}

pub(super) struct Executor {
    client: Client,
    /// Created slices that may not be visible yet, with the time of their creation. Bounded by the
    /// number of slices created within [`SEEN_WITHIN`].
    created: Mutex<HashMap<Key, Vec<(String, Instant)>>>,
}

impl Executor {
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            created: Mutex::default(),
        }
    }

    fn created(&self) -> MutexGuard<'_, HashMap<Key, Vec<(String, Instant)>>> {
        self.created.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time to wait for this Service's recently created slices.
    pub fn not_seen_yet(&self, key: &Key, slices: &Cache<EndpointSlice>) -> Option<Duration> {
        let mut created = self.created();
        let waiting = created.get_mut(key)?;
        waiting.retain(|(name, at)| {
            at.elapsed() < SEEN_WITHIN && slices.get(&key.namespace, name).is_none()
        });
        let oldest = waiting.iter().map(|(_, at)| *at).min();
        if oldest.is_none() {
            created.remove(key);
        }
        oldest.map(|at| SEEN_WITHIN.saturating_sub(at.elapsed()))
    }

    pub async fn execute(&self, key: &Key, plan: Plan) -> Result<(), Error> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PostParams::default();
        let result = self.write_slices(key, &slices, &params, &plan).await;
        let result = match (result, plan.endpoints) {
            (Ok(()), Some(write)) => self.write_endpoints(key, &params, write).await,
            (result, _) => result,
        };
        match result {
            Err(error) if refusal(&error) == Refusal::NamespaceTerminating => Ok(()),
            other => other.map_err(Error::Api),
        }
    }

    async fn write_slices(
        &self,
        key: &Key,
        slices: &Api<EndpointSlice>,
        params: &PostParams,
        plan: &Plan,
    ) -> api_client::Result<()> {
        for slice in &plan.create {
            let created = slices.create(params, slice).await?;
            let entry = (created.name_any(), Instant::now());
            self.created().entry(key.clone()).or_default().push(entry);
        }
        for slice in &plan.update {
            slices.replace(&slice.name_any(), params, slice).await?;
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
            EndpointsWrite::Create(endpoints) => api.create(params, &endpoints).await.map(drop),
            EndpointsWrite::Update(endpoints) => {
                api.replace(&key.name, params, &endpoints).await.map(drop)
            }
            EndpointsWrite::Delete { name, uid } => {
                execute::delete(&api, &name, Delete::of_uid(uid))
                    .await
                    .map(drop)
            }
        }
    }
}
