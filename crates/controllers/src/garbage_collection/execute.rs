//! Deletes objects, and removes owner references and finalizers. Each write is refused if the observed version is old.

use std::sync::Arc;

use controller_framework::Queue;
use controller_planners::garbage_collection::{CollectionDecision, Propagation};
use json_tree::{Value, json};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube_api_client::guarded_writes::{self, Delete};
use kube_api_client::{Api, Patch, PatchParams, PropagationPolicy};
use object_model::Uid;

use super::observe;
use crate::api_error::{ApiError, failed};
use crate::inventory::{Inventory, ListedObject, Metadata};

/// The error of an execution; it is retried.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("read an object for garbage collection")]
    Observe(#[source] observe::Error),
    #[error(transparent)]
    Api(#[from] ApiError),
}

pub(super) struct Executor {
    pub inventory: Arc<Inventory>,
    pub queue: Queue<Uid>,
}

impl Executor {
    pub async fn execute(
        &self,
        item: &ListedObject,
        decision: CollectionDecision,
    ) -> Result<(), Error> {
        match decision {
            CollectionDecision::Keep => Ok(()),
            CollectionDecision::AwaitDependents(uids) => {
                uids.into_iter().for_each(|uid| self.queue.add(uid));
                Ok(())
            }
            CollectionDecision::OrphanDependents => self.orphan(item).await,
            CollectionDecision::Finish(finalizer) => self.finish(item, finalizer).await,
            CollectionDecision::Strip(uids) => {
                self.set_owners(item, |owner| {
                    let is_stripped = uids.iter().any(|uid| *uid == *owner.uid.as_str());
                    (!is_stripped).then(|| owner.clone())
                })
                .await
            }
            CollectionDecision::Delete {
                propagation,
                unblock,
            } => {
                if unblock {
                    // The write changes the object, and the change queues the object again.
                    return self.unblock(item).await;
                }
                self.delete(item, propagation).await
            }
        }
    }

    fn api(&self, item: &ListedObject) -> Api<Metadata> {
        let namespace = &item.object.namespace;
        self.inventory.api(item.resource, namespace)
    }

    /// Removes the references of the dependents first, then the finalizer: after a crash in between, the finalizer is
    /// still there.
    async fn orphan(&self, item: &ListedObject) -> Result<(), Error> {
        let uid = item.object.uid.clone();
        for dependent in self.inventory.by_owner(&uid) {
            self.set_owners(&dependent, |owner| {
                (uid != *owner.uid.as_str()).then(|| owner.clone())
            })
            .await?;
        }
        // The changes of the dependents queue this object again; the object is finished when no dependent is left.
        self.queue.add(uid);
        Ok(())
    }

    async fn finish(&self, item: &ListedObject, finalizer: &'static str) -> Result<(), Error> {
        let finalizers = item.object.finalizers.iter();
        let left: Vec<&String> = finalizers.filter(|other| *other != finalizer).collect();
        self.patch(item, json!({ "finalizers": left }), "remove finalizer")
            .await
    }

    async fn unblock(&self, item: &ListedObject) -> Result<(), Error> {
        let mut owners = item.object.owners.iter();
        let blocks = owners.any(|owner| owner.block_owner_deletion == Some(true));
        if blocks {
            self.set_owners(item, |owner| {
                Some(OwnerReference {
                    block_owner_deletion: Some(false),
                    ..owner.clone()
                })
            })
            .await
        } else {
            self.delete(item, Propagation::Foreground).await
        }
    }

    async fn set_owners(
        &self,
        item: &ListedObject,
        change: impl Fn(&OwnerReference) -> Option<OwnerReference>,
    ) -> Result<(), Error> {
        let owners = item.object.owners.iter();
        let owners: Vec<OwnerReference> = owners.filter_map(change).collect();
        self.patch(item, json!({ "ownerReferences": owners }), "set owners")
            .await
    }

    async fn patch(
        &self,
        item: &ListedObject,
        meta: Value,
        what: &'static str,
    ) -> Result<(), Error> {
        let mut patch = meta;
        let object = &item.object;
        patch["uid"] = json!(object.uid);
        patch["resourceVersion"] = json!(object.version);
        let patch = Patch::Merge(json!({ "metadata": patch }));
        let written = self
            .api(item)
            .patch(&object.name, &PatchParams::default(), &patch)
            .await;
        Ok(guarded_writes::existing_object(written)
            .map(drop)
            .map_err(failed(what))?)
    }

    async fn delete(&self, item: &ListedObject, propagation: Propagation) -> Result<(), Error> {
        let meta = &item.object;
        let policy = match propagation {
            Propagation::Background => PropagationPolicy::Background,
            Propagation::Foreground => PropagationPolicy::Foreground,
            Propagation::Orphan => PropagationPolicy::Orphan,
        };
        let how = Delete {
            uid: Some(meta.uid.clone()),
            resource_version: Some(meta.version),
            propagation: Some(policy),
            ..Delete::default()
        };
        let deleted = guarded_writes::delete(&self.api(item), &meta.name, how).await;
        // A change or deletion in the meantime queues the object again. Only relevant changes queue an object, so after
        // a refused deletion the object is queued here.
        if !deleted.map_err(failed("delete"))? && self.inventory.by_uid(&meta.uid).is_some() {
            self.queue.add_rate_limited(meta.uid.clone());
        }
        Ok(())
    }
}
