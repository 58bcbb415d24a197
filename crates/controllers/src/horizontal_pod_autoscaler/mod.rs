//! The HorizontalPodAutoscaler controller: reads scales and measurements, and writes scales.

mod observe;
mod other_metrics;
mod target;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use controller_framework::{Cache, Queue, ReconcileResult, Recorder, object_key};
use controller_planners::horizontal_pod_autoscaler::{AutoscalerEvent, Memory, plan};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus};
use kube_api_client::guarded_writes::{self, WriteRefusal, refusal};
use kube_api_client::{Api, PostParams};
use object_model::{LabelSelector, ObjectKey, Uid};
use resource_kinds::MetadataIdentity;

use crate::Context;
use crate::owned::key_if_spec_changed;

/// Time between evaluations (kube-controller-manager's default).
const PERIOD: Duration = Duration::from_secs(15);
/// Maximum number of retries after a conflict on the scale.
const CONFLICTS_MAX: usize = 4;

#[derive(Debug, thiserror::Error)]
#[error("write the status of a HorizontalPodAutoscaler")]
struct Error(#[source] kube_api_client::Error);

struct Worker {
    context: Context,
    autoscalers: Cache<HorizontalPodAutoscaler>,
    recorder: Recorder,
    memories: Mutex<BTreeMap<ObjectKey, AutoscalerMemory>>,
}

/// The memory of an autoscaler.
struct AutoscalerMemory {
    uid: Uid,
    memory: Memory,
    /// The last valid selector of its target.
    selector: Option<LabelSelector>,
}

impl AutoscalerMemory {
    /// The memory of a new autoscaler.
    fn new(uid: &Uid) -> Self {
        Self {
            uid: uid.clone(),
            memory: Memory::default(),
            selector: None,
        }
    }
}

pub(crate) async fn run(context: Context) {
    let controller = Worker {
        autoscalers: context.cache(),
        recorder: context.recorder("horizontal-pod-autoscaler"),
        context: context.clone(),
        memories: Mutex::default(),
    };
    context.run("horizontalpodautoscaler", controller).await;
}

impl controller_framework::Controller for Worker {
    type Key = ObjectKey;
    type Error = Error;

    /// Autoscalers processed at once.
    const WORKERS: usize = 2;

    async fn wait_synced(&self) -> bool {
        self.autoscalers.wait_synced().await && self.context.caches.pods.wait_synced().await
    }

    /// Queues autoscalers whose specification changed; all autoscalers also run periodically.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut autoscalers = self.autoscalers.subscribe();
        while let Some(change) = autoscalers.next().await {
            if let Some(key) = key_if_spec_changed(&change) {
                queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        let Some(autoscaler) = self.autoscalers.get_key(key) else {
            self.with_memories(|memories| memories.remove(key));
            return Ok(ReconcileResult::Done);
        };
        if autoscaler.metadata.deletion_timestamp.is_some() {
            return Ok(ReconcileResult::Done);
        }
        let uid = autoscaler.metadata.object_uid();
        let uid = uid.map_err(|error| Error(error.into()))?;
        let mut conflicts = 0;
        let conclusion = loop {
            let (observed, target) = self.observe(key, &uid, &autoscaler).await;
            let memory = self.with_memory(key, &uid, |of_uid| of_uid.memory.clone());
            let plan = plan(&observed, &memory, Timestamp::now());
            let outcome = match (&plan.rescale, target) {
                (Some(rescale), Some(target)) => target.rescale(rescale.to).await,
                _ => Ok(()),
            };
            match outcome {
                Err(error)
                    if refusal(&error) == WriteRefusal::Conflict && conflicts < CONFLICTS_MAX =>
                {
                    conflicts += 1;
                }
                outcome => {
                    break plan.conclude(outcome.map_err(|error| guarded_writes::message(&error)));
                }
            }
        };
        self.with_memories(|memories| {
            if let Some(memories) = memories.get_mut(key) {
                memories.memory = conclusion.memory;
            }
        });
        for notice in conclusion.notices {
            self.report(&autoscaler, notice);
        }
        if let Some(status) = conclusion.status {
            self.write_status(&autoscaler, status).await?;
        }
        Ok(ReconcileResult::RequeueAfter(PERIOD))
    }
}

impl Worker {
    fn report(&self, autoscaler: &HorizontalPodAutoscaler, notice: AutoscalerEvent) {
        if notice.warning {
            self.recorder
                .warning(autoscaler, notice.reason, notice.message);
        } else {
            self.recorder
                .normal(autoscaler, notice.reason, notice.message);
        }
    }

    async fn write_status(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        status: HorizontalPodAutoscalerStatus,
    ) -> Result<(), Error> {
        let key = object_key(autoscaler);
        let api: Api<HorizontalPodAutoscaler> =
            Api::namespaced(self.context.client.clone(), &key.namespace);
        let object = HorizontalPodAutoscaler {
            status: Some(status),
            ..autoscaler.clone()
        };
        let written = api
            .replace_status(&key.name, &PostParams::default(), &object)
            .await;
        guarded_writes::existing_object(written)
            .map(drop)
            .map_err(Error)
    }

    fn with_memories<T>(
        &self,
        use_it: impl FnOnce(&mut BTreeMap<ObjectKey, AutoscalerMemory>) -> T,
    ) -> T {
        use_it(&mut self.memories.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Uses the memory of this autoscaler, which is empty for a new autoscaler with a former name.
    fn with_memory<T>(
        &self,
        key: &ObjectKey,
        uid: &Uid,
        use_it: impl FnOnce(&mut AutoscalerMemory) -> T,
    ) -> T {
        self.with_memories(|memories| {
            let memory = memories.entry(key.clone());
            let memory = memory.or_insert_with(|| AutoscalerMemory::new(uid));
            if memory.uid != *uid {
                *memory = AutoscalerMemory::new(uid);
            }
            use_it(memory)
        })
    }
}
