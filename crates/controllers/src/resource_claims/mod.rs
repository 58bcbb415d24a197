//! The controller of ResourceClaims: creates claims for pods, and releases the claims of ended pods.

mod execute;
mod observe;

use std::sync::Arc;
use std::time::Duration;

use controller_framework::{Cache, Queue, ReconcileResult, Recorder, object_key};
use controller_planners::resource_claims::{PodStep, plan_claim, plan_pod};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use kube_api_client::Api;
use kube_api_client::guarded_writes::existing_object;
use object_model::{IncompleteMetadata, ObjectKey};
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::devices::FAILED_CREATION;

use crate::Context;

/// Time until a pod that waits for a template is checked again.
const RETRY: Duration = Duration::from_secs(2);

/// The error of a step.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The server refused the request or did not respond.
    #[error("write or delete the ResourceClaims of a pod")]
    Api(#[from] kube_api_client::Error),
    #[error("identity of a pod or a ResourceClaim")]
    Identity(#[from] IncompleteMetadata),
}

/// A key in the queue: a pod or a claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Item {
    Pod(ObjectKey),
    Claim(ObjectKey),
}

struct Worker {
    context: Context,
    claims: Cache<ResourceClaim>,
    templates: Cache<ResourceClaimTemplate>,
    recorder: Recorder,
}

pub(crate) async fn run(context: Context) {
    let controller = Worker {
        claims: context.cache(),
        templates: context.cache(),
        recorder: context.recorder("resource_claim"),
        context: context.clone(),
    };
    context.run("resource_claim", controller).await;
}

impl controller_framework::Controller for Worker {
    type Key = Item;
    type Error = Error;

    /// Pods and claims processed at once.
    const WORKERS: usize = 2;

    async fn wait_synced(&self) -> bool {
        self.context.caches.pods.wait_synced().await
            && self.claims.wait_synced().await
            && self.templates.wait_synced().await
    }

    async fn feed(&self, queue: &Queue<Item>) {
        let mut pods = self.context.caches.pods.subscribe_to(observe::has_claims);
        let mut claims = self.claims.subscribe();
        loop {
            tokio::select! {
                Some(change) = pods.next() => {
                    let pod = change.object();
                    queue.add(Item::Pod(ObjectKey::new(&*pod.namespace, &*pod.name)));
                    for claim in self.claims_of(pod) {
                        queue.add(Item::Claim(claim));
                    }
                }
                Some(change) = claims.next() => {
                    let claim = object_key(&**change.object());
                    for pod in observe::pods_of(change.object()) {
                        queue.add(Item::Pod(ObjectKey::new(claim.namespace.clone(), pod)));
                    }
                    queue.add(Item::Claim(claim));
                }
                else => return,
            }
        }
    }

    async fn reconcile(&self, key: &Item) -> Result<ReconcileResult, Error> {
        match key {
            Item::Pod(key) => self.reconcile_pod(key).await,
            Item::Claim(key) => self.reconcile_claim(key).await,
        }
    }
}

impl Worker {
    /// The claims that a pod uses or owns.
    fn claims_of(&self, pod: &PodView) -> Vec<ObjectKey> {
        let claims = self.claims.list_in(&pod.namespace);
        let of_pod =
            |claim: &Arc<ResourceClaim>| observe::pods_of(claim).any(|name| name == &*pod.name);
        let matching = claims.iter().filter(|claim| of_pod(claim));
        matching.map(|claim| object_key(&**claim)).collect()
    }

    async fn reconcile_pod(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        let view = self.context.caches.pods.get_key(key);
        if !view.is_some_and(|view| observe::has_claims(&view)) {
            return Ok(ReconcileResult::Done);
        }
        let pods: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let Some(pod) = existing_object(pods.get(&key.name).await)? else {
            return Ok(ReconcileResult::Done);
        };
        let claim = |name: &str| self.claims.get(&key.namespace, name);
        let template = |name: &str| self.templates.get(&key.namespace, name);
        let mut outcome = ReconcileResult::Done;
        for step in plan_pod(&pod, claim, template)? {
            if let PodStep::Wait(text) = step {
                self.recorder.warning(&pod, FAILED_CREATION, text);
                outcome = ReconcileResult::RequeueAfter(RETRY);
                continue;
            }
            if let Err(error) = execute::pod_step(&self.context.client, &pod, step).await {
                let text = kube_api_client::guarded_writes::message(&error);
                self.recorder.warning(&pod, FAILED_CREATION, text);
                return Err(error.into());
            }
        }
        Ok(outcome)
    }

    async fn reconcile_claim(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        let Some(claim) = self.claims.get_key(key) else {
            return Ok(ReconcileResult::Done);
        };
        let pods = &self.context.caches.pods;
        let states = observe::observe(&self.context.client, pods, &claim).await?;
        let steps = plan_claim(&claim, |name, uid| observe::state_of(&states, name, uid));
        execute::claim_steps(&self.context.client, &claim, steps).await?;
        Ok(ReconcileResult::Done)
    }
}
