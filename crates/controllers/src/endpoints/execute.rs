//! Writes slices and Endpoints.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use controller_planners::endpoints::{EndpointsPlan, EndpointsWrite};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_api_client::guarded_writes::{self, Delete, WriteRefusal, refusal};
use kube_api_client::{Api, Client, PostParams, ResourceExt, Written};
use object_model::{IncompleteMetadata, ObjectKey, ResourceVersion};
use tokio::time::Instant;

use super::observe::Observer;
use crate::Context;

/// Maximum time until a write of this controller must be visible in the caches; then the caches are trusted.
const VISIBLE_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("write endpoints")]
    Api(#[source] kube_api_client::Error),
    #[error("identity of a Service, a slice or Endpoints")]
    Identity(#[from] IncompleteMetadata),
}

pub(super) struct Executor {
    client: Client,
    /// Writes of this controller that may not be visible yet, with their time. Bounded by the number of writes within
    /// [`VISIBLE_WITHIN`].
    unseen: Mutex<HashMap<ObjectKey, Vec<(RecentWrite, Instant)>>>,
}

/// A write that will be visible in the caches, with its resourceVersion.
enum RecentWrite {
    Slice(ResourceVersion),
    Endpoints(ResourceVersion),
}

impl RecentWrite {
    /// Whether the write is visible in the caches. A deleted object counts as visible: the garbage collector may have
    /// deleted it with a former Service of that name.
    fn is_visible(&self, observer: &Observer) -> bool {
        match self {
            Self::Slice(version) => observer.slices.has_reached(*version),
            Self::Endpoints(version) => observer.endpoints.has_reached(*version),
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

    fn unseen(&self) -> MutexGuard<'_, HashMap<ObjectKey, Vec<(RecentWrite, Instant)>>> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect(
        &self,
        key: &ObjectKey,
        kind: fn(ResourceVersion) -> RecentWrite,
        written: &Written,
    ) -> kube_api_client::Result<()> {
        let entry = (kind(written.version()?), Instant::now());
        self.unseen().entry(key.clone()).or_default().push(entry);
        Ok(())
    }

    /// The time to wait until this controller's recent writes for the Service are visible; `None` if they are visible.
    pub fn time_until_visible(&self, key: &ObjectKey, observer: &Observer) -> Option<Duration> {
        let mut unseen = self.unseen();
        let waiting = unseen.get_mut(key)?;
        waiting.retain(|(write, at)| at.elapsed() < VISIBLE_WITHIN && !write.is_visible(observer));
        let oldest = waiting.iter().map(|(_, at)| *at).min();
        if oldest.is_none() {
            unseen.remove(key);
        }
        oldest.map(|at| VISIBLE_WITHIN.saturating_sub(at.elapsed()))
    }

    pub async fn execute(&self, key: &ObjectKey, plan: EndpointsPlan) -> Result<(), Error> {
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
        key: &ObjectKey,
        slices: &Api<EndpointSlice>,
        params: &PostParams,
        plan: &EndpointsPlan,
    ) -> kube_api_client::Result<()> {
        for slice in &plan.create {
            let created = slices.create_written(params, slice).await?;
            self.expect(key, RecentWrite::Slice, &created)?;
        }
        for slice in &plan.update {
            let name = slice.name_any();
            let replaced = slices.replace_written(&name, params, slice);
            self.expect(key, RecentWrite::Slice, &replaced.await?)?;
        }
        for deleted in &plan.delete {
            let how = Delete::of_uid(deleted.uid.clone());
            guarded_writes::delete(slices, &deleted.name, how).await?;
        }
        Ok(())
    }

    async fn write_endpoints(
        &self,
        key: &ObjectKey,
        params: &PostParams,
        write: EndpointsWrite,
    ) -> kube_api_client::Result<()> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        match write {
            EndpointsWrite::Create(endpoints) => {
                let created = api.create_written(params, &endpoints).await?;
                self.expect(key, RecentWrite::Endpoints, &created)
            }
            EndpointsWrite::Update(endpoints) => {
                let replaced = api.replace_written(&key.name, params, &endpoints);
                self.expect(key, RecentWrite::Endpoints, &replaced.await?)
            }
            EndpointsWrite::Delete(deleted) => {
                let how = Delete::of_uid(deleted.uid.clone());
                guarded_writes::delete(&api, &deleted.name, how)
                    .await
                    .map(drop)
            }
        }
    }
}
