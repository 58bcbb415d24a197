//! Executes the planned writes to an owner's pods, and reports them as events.

use std::fmt::Debug;

use controller_framework::{Cache, Recorder};
use controller_planners::pod_set::PodAction;
use futures::future::join_all;
use json_tree::{Value, json};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube_api_client::guarded_writes::{self, Delete, WriteRefusal, refusal};
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams, Resource};
use object_model::{IncompleteMetadata, Uid};
use process_telemetry::polls::spend;
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::pods as reasons;
use serde::de::DeserializeOwned;

use crate::recent_pod_writes::{PodWrite, RecentPodWrites};

/// Maximum number of concurrent writes.
const BATCH_MAX: usize = 500;

/// The reason why the writes to pods were stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    /// The API refused a write, or could not be reached.
    #[error("{what} pod")]
    Api {
        what: &'static str,
        action: Box<PodAction>,
        #[source]
        source: kube_api_client::Error,
    },
    /// The owner was deleted or replaced.
    #[error("the owner has been replaced or is being deleted")]
    OwnerChanged,
    #[error("identity of the owner")]
    Identity(#[from] IncompleteMetadata),
    /// The owner could not be read.
    #[error("read the owner")]
    Owner(#[source] kube_api_client::Error),
}

impl PodError {
    /// Whether the namespace is terminating; the garbage collector deletes the rest.
    pub fn is_end_of_namespace(&self) -> bool {
        matches!(self, Self::Api { source, .. }
            if refusal(source) == WriteRefusal::NamespaceTerminating)
    }

    /// The failed action, and the API server's message.
    pub fn failure(&self) -> Option<(&PodAction, String)> {
        match self {
            Self::Api { action, source, .. } => Some((action, guarded_writes::message(source))),
            _ => None,
        }
    }
}

/// Writes to the pods of one owner.
pub(crate) struct PodWriter<'a, O> {
    /// The object that owns the pods.
    pub owner: &'a O,
    /// The client of the API server.
    pub client: &'a Client,
    /// The cache in which the writes become visible.
    pub cache: &'a Cache<PodView>,
    /// Records events about the owner.
    pub recorder: &'a Recorder,
    /// Finalizer of the owner's pods, which is added and removed together with the owner reference.
    pub finalizer: Option<&'static str>,
}

impl<O> PodWriter<'_, O>
where
    O: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    O: Clone + Debug + DeserializeOwned,
{
    /// Executes the actions in order, creations and deletions concurrently, and waits until the writes are visible in
    /// the cache. After a first refusal the remaining actions of a batch are skipped.
    pub async fn perform(&self, actions: &[PodAction]) -> Result<(), PodError> {
        let (mut rest, mut size) = (actions, 1);
        let mut done = Vec::new();
        let mut result = Ok(());
        while !rest.is_empty() && result.is_ok() {
            let many = |action: &&PodAction| {
                matches!(action, PodAction::Create(_) | PodAction::Delete { .. })
            };
            let count = rest.iter().take(size).take_while(many).count().max(1);
            let (batch, next) = rest.split_at(count);
            for outcome in join_all(batch.iter().map(|action| self.act(action))).await {
                match outcome {
                    Ok(one) => done.push(one),
                    Err(error) => result = Err(error),
                }
            }
            rest = next;
            size = (size * 2).min(BATCH_MAX);
        }
        let unseen_writes = RecentPodWrites {
            pods: self.pods()?,
            cache: self.cache,
            namespace: self.namespace()?,
        };
        unseen_writes.wait_until_visible(done).await;
        result
    }

    fn namespace(&self) -> Result<&str, IncompleteMetadata> {
        self.owner.meta().object_namespace()
    }

    fn pods(&self) -> Result<Api<Pod>, IncompleteMetadata> {
        Ok(Api::namespaced(self.client.clone(), self.namespace()?))
    }

    async fn act(&self, action: &PodAction) -> Result<PodWrite, PodError> {
        // Hundreds of writes may be ready at once: when the budget of this poll is used up, encoding continues in the
        // next poll.
        spend(1).await;
        let failed = |what: &'static str| {
            move |source| PodError::Api {
                what,
                action: Box::new(action.clone()),
                source,
            }
        };
        match action {
            PodAction::ConfirmOwner => self.confirm().await.map(|()| PodWrite::Other),
            PodAction::Adopt { name, uid } => {
                let owner = self.owner.owner_ref(&()).map(|owner| OwnerReference {
                    controller: Some(true),
                    block_owner_deletion: Some(true),
                    ..owner
                });
                let mut meta = json!({ "uid": uid, "ownerReferences": [owner] });
                if let Some(finalizer) = self.finalizer {
                    meta["finalizers"] = json!([finalizer]);
                }
                let patch = Patch::Strategic(json!({ "metadata": meta }));
                self.patch(name, patch).await.map_err(failed("adopt"))
            }
            PodAction::Release { name, uid } => {
                let owner = json!({ "$patch": "delete", "uid": self.owner.meta().object_uid()? });
                let mut meta = json!({ "uid": uid, "ownerReferences": [owner] });
                if let Some(finalizer) = self.finalizer {
                    meta["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
                }
                let patch = Patch::Strategic(json!({ "metadata": meta }));
                self.patch(name, patch).await.map_err(failed("release"))
            }
            PodAction::SetFinalizers {
                name,
                uid,
                version,
                finalizers,
            } => {
                let meta = json!({ "uid": uid, "resourceVersion": version,
                    "finalizers": finalizers });
                let patch = Patch::Merge(json!({ "metadata": meta }));
                self.patch(name, patch).await.map_err(failed("update"))
            }
            PodAction::Create(pod) => self.create(pod).await.map_err(failed("create")),
            PodAction::Delete { name, uid } => {
                self.delete(name, uid).await.map_err(failed("delete"))
            }
        }
    }

    async fn confirm(&self) -> Result<(), PodError> {
        let owners: Api<O> = Api::namespaced(self.client.clone(), self.namespace()?);
        let uid = self.owner.meta().object_uid()?;
        let name = self.owner.meta().object_name()?;
        let live =
            guarded_writes::existing_object(owners.get(name).await).map_err(PodError::Owner)?;
        let same = live.is_some_and(|live| {
            live.meta().object_uid().as_ref() == Ok(&uid)
                && live.meta().deletion_timestamp.is_none()
        });
        same.then_some(()).ok_or(PodError::OwnerChanged)
    }

    async fn create(&self, pod: &Pod) -> kube_api_client::Result<PodWrite> {
        let params = PostParams::default();
        let created = self.pods()?.create_written(&params, pod).await;
        match &created {
            Ok(pod) => {
                let name = pod.name()?;
                let text = format!("Created pod: {name}");
                self.recorder
                    .normal(self.owner, reasons::SUCCESSFUL_CREATE, text);
            }
            Err(error) if refusal(error).is_of_old_view() => {}
            Err(error) => {
                let text = format!("Error creating: {}", guarded_writes::message(error));
                self.recorder
                    .warning(self.owner, reasons::FAILED_CREATE, text);
            }
        }
        let created = created?;
        Ok(PodWrite::Created {
            name: created.name()?.to_owned(),
            uid: created.uid()?,
            version: created.version()?,
        })
    }

    async fn delete(&self, name: &str, uid: &Uid) -> kube_api_client::Result<PodWrite> {
        let how = Delete::of_uid(uid.clone());
        let deleted = guarded_writes::delete(&self.pods()?, name, how).await;
        match &deleted {
            Ok(true) => {
                let text = format!("Deleted pod: {name}");
                self.recorder
                    .normal(self.owner, reasons::SUCCESSFUL_DELETE, text);
            }
            // Another writer has changed the pod first.
            Ok(false) => {}
            Err(error) => {
                let text = format!("Error deleting: {}", guarded_writes::message(error));
                self.recorder
                    .warning(self.owner, reasons::FAILED_DELETE, text);
            }
        }
        deleted.map(|_| PodWrite::Deleted {
            name: name.to_owned(),
            uid: uid.clone(),
        })
    }

    /// Patches a pod; a deleted pod needs no patch.
    async fn patch(&self, name: &str, patch: Patch<Value>) -> kube_api_client::Result<PodWrite> {
        let written = self
            .pods()?
            .patch(name, &PatchParams::default(), &patch)
            .await;
        guarded_writes::existing_object(written).map(|_| PodWrite::Other)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use http::{Method, Request, Response};
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use kube_api_client::Body;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// A fake API server that creates pods, and returns each pod while `there` is true.
    fn server(there: Arc<AtomicBool>) -> Client {
        let respond = move |request: Request<Body>| {
            let there = there.load(Ordering::Relaxed);
            let pod = json!({ "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": "p", "namespace": "default", "uid": "u",
                    "resourceVersion": "7" } });
            let absent = json!({ "apiVersion": "v1", "kind": "Status", "status": "Failure",
                "reason": "NotFound", "message": "gone", "code": 404 });
            let (code, body) = match *request.method() {
                Method::GET if !there => (404, absent),
                _ => (200, pod),
            };
            let respond = Response::builder().status(code);
            let respond = respond.body(Body::from(body.to_string().into_bytes()));
            async move { Ok::<_, Infallible>(respond.expect("a response")) }
        };
        Client::new(tower::service_fn(respond), "default")
    }

    // findings A4: a cache that does not change, because its watch is dead.
    #[tokio::test(start_paused = true)]
    async fn nothing_more_is_planned_before_own_writes_are_seen() {
        let there = Arc::new(AtomicBool::new(true));
        let client = server(there.clone());
        let owner: ReplicaSet = json_tree::from_value(
            json!({ "metadata": { "name": "web", "namespace": "default", "uid": "o" } }),
        )
        .expect("a set");
        let end = CancellationToken::new();
        let cache = Cache::of_pods(&client, &end.clone().into());
        let writer = PodWriter {
            owner: &owner,
            client: &client,
            cache: &cache,
            recorder: &Recorder::spawn(client.clone(), "test", end),
            finalizer: None,
        };
        let actions = [PodAction::Create(Box::default())];
        let mut work = std::pin::pin!(writer.perform(&actions));
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, &mut work).await.is_err());
        // The pod was deleted before the cache contained it, so no wait is necessary.
        there.store(false, Ordering::Relaxed);
        work.await.expect("it was made");
    }
}
