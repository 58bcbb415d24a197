//! The controller of claims for pods' `ephemeral` volumes.

use std::time::Duration;

use controller_framework::{Queue, ReconcileResult, Recorder, object_key};
use controller_planners::ephemeral_volumes::{ClaimAction, is_of_pod, plan};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube_api_client::guarded_writes::{WriteRefusal, existing_object, refusal};
use kube_api_client::{Api, PostParams};
use object_model::{IncompleteMetadata, ObjectKey};
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::volume::FAILED_BINDING;

use crate::Context;

/// Time until a name in use is checked again, because the deletion of its claim queues no pod.
const RETRY: Duration = Duration::from_secs(15);

/// The reason why a claim was not created.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The server refused the request or did not respond.
    #[error("make the claim of an ephemeral volume")]
    Api(#[from] kube_api_client::Error),
    #[error("identity of a pod")]
    Identity(#[from] IncompleteMetadata),
}

struct Worker {
    context: Context,
    recorder: Recorder,
}

pub(crate) async fn run(context: Context) {
    let controller = Worker {
        recorder: context.recorder("ephemeral_volume"),
        context: context.clone(),
    };
    context.run("ephemeral_volume", controller).await;
}

impl controller_framework::Controller for Worker {
    type Key = ObjectKey;
    type Error = Error;

    /// Pods processed at once.
    const WORKERS: usize = 2;

    async fn wait_synced(&self) -> bool {
        let caches = &self.context.caches;
        caches.claims.wait_synced().await && caches.pods.wait_synced().await
    }

    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut pods = self.context.caches.pods.subscribe_to(PodView::has_claims);
        let mut claims = self.context.caches.claims.subscribe();
        loop {
            tokio::select! {
                Some(change) = pods.next() => {
                    let pod = change.object();
                    if pod.claims.iter().any(|claim| claim.ephemeral) {
                        queue.add(ObjectKey::new(&*pod.namespace, &*pod.name));
                    }
                }
                Some(change) = claims.next() => {
                    let claim = object_key(&**change.object());
                    let owners = change.object().metadata.owner_references.iter().flatten();
                    for owner in owners.filter(|owner| owner.kind == "Pod") {
                        let namespace = claim.namespace.clone();
                        queue.add(ObjectKey::new(namespace, owner.name.as_str()));
                    }
                }
                else => return,
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        let Some(view) = self.context.caches.pods.get_key(key) else {
            return Ok(ReconcileResult::Done);
        };
        if !self.lacks_claims(&view, key) {
            return Ok(ReconcileResult::Done);
        }
        let pods: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let Some(pod) = existing_object(pods.get(&key.name).await)? else {
            return Ok(ReconcileResult::Done);
        };
        let claims = &self.context.caches.claims;
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.context.client.clone(), &key.namespace);
        let mut outcome = ReconcileResult::Done;
        for step in plan(&pod, |name| claims.get(&key.namespace, name))? {
            match step {
                ClaimAction::Create(claim) => {
                    match api.create(&PostParams::default(), &claim).await {
                        Ok(_) => tracing::info!(claim = claim.metadata.name, "claim made"),
                        // The claim will be in the cache soon.
                        Err(error) if refusal(&error) == WriteRefusal::AlreadyExists => {
                            outcome = ReconcileResult::RequeueAfter(RETRY);
                        }
                        Err(error) => {
                            let name = object_key(&*claim).name;
                            let text = format!("create PVC {name}: {error}");
                            self.recorder.warning(&pod, FAILED_BINDING, text);
                            return Err(error.into());
                        }
                    }
                }
                ClaimAction::Conflict(text) => {
                    self.recorder.warning(&pod, FAILED_BINDING, text);
                    outcome = ReconcileResult::RequeueAfter(RETRY);
                }
            }
        }
        Ok(outcome)
    }
}

impl Worker {
    fn lacks_claims(&self, pod: &PodView, key: &ObjectKey) -> bool {
        let mut ephemeral = pod.claims.iter().filter(|claim| claim.ephemeral);
        let lacks = |claim: &str| {
            let existing = self.context.caches.claims.get(&key.namespace, claim);
            existing.is_none_or(|existing| !is_of_pod(&existing, &pod.uid))
        };
        !pod.is_deleting() && ephemeral.any(|claim| lacks(&claim.name))
    }
}
