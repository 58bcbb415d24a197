//! The controller of per-pod Services of StatefulSets.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use controller_framework::{ObjectChange, Queue, ReconcileResult, Recorder, object_key};
use controller_planners::ordinal_services::{Observed, OrdinalServicesPlan, ServiceDeletion, plan};
use controller_planners::ownership::controller;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Service;
use kube_api_client::guarded_writes::{self, Delete};
use kube_api_client::{Api, Patch, PatchParams};
use object_model::ObjectKey;
use resource_kinds::reasons::service as reasons;

use crate::Context;
use crate::owned::key_if_spec_changed;

/// The field manager of the Services.
const FIELD_MANAGER: &str = "mainstay-ordinal-services";

#[derive(Debug, thiserror::Error)]
#[error("write the Services of the pods of a StatefulSet")]
struct Error(#[source] kube_api_client::Error);

struct Worker {
    context: Context,
    recorder: Recorder,
    /// The last reported problem of each set; bounded by the number of sets with a problem.
    reported: Mutex<HashMap<ObjectKey, String>>,
}

pub(crate) async fn run(context: Context) {
    let controller = Worker {
        recorder: context.recorder("ordinal-service-controller"),
        context: context.clone(),
        reported: Mutex::default(),
    };
    context.run("ordinal_services", controller).await;
}

impl controller_framework::Controller for Worker {
    type Key = ObjectKey;
    type Error = Error;

    /// Sets processed at once.
    const WORKERS: usize = 2;

    async fn wait_synced(&self) -> bool {
        let caches = &self.context.caches;
        caches.stateful_sets.wait_synced().await && caches.services.wait_synced().await
    }

    /// Queues the sets affected by a change: a Service may be a set's governing Service, or the Service of an ordinal,
    /// or occupy the name of such a Service.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let caches = &self.context.caches;
        let mut sets = caches.stateful_sets.subscribe();
        let mut services = caches.services.subscribe();
        loop {
            tokio::select! {
                Some(change) = sets.next() => {
                    if let Some(key) = key_if_spec_changed(&change) {
                        queue.add(key);
                    }
                }
                Some(change) = services.next() => {
                    for set in sets_of(&self.context, &change) {
                        queue.add(set);
                    }
                }
                else => return,
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        self.keep(key).await.map(|()| ReconcileResult::Done)
    }
}

fn sets_of(context: &Context, change: &ObjectChange<Service>) -> Vec<ObjectKey> {
    let service = change.object();
    let ObjectKey { namespace, name } = object_key(&**service);
    let owner = controller(service.metadata.owner_references.as_deref());
    if let Some(owner) = owner {
        return vec![ObjectKey::new(namespace, owner.name.as_str())];
    }
    let stem = crate::owned::stem(&name);
    let sets = context.caches.stateful_sets.list_in(&namespace).into_iter();
    let concerned = sets.filter(|set| {
        let governing = set
            .spec
            .as_ref()
            .and_then(|spec| spec.service_name.as_deref());
        governing == Some(&*name) || set.metadata.name.as_deref() == Some(stem)
    });
    concerned.map(|set| object_key(set.as_ref())).collect()
}

impl Worker {
    async fn keep(&self, key: &ObjectKey) -> Result<(), Error> {
        let caches = &self.context.caches;
        let Some(set) = caches.stateful_sets.get_key(key) else {
            self.reported().remove(key);
            return Ok(());
        };
        let services = caches.services.list_in(&key.namespace);
        let plan = plan(&Observed {
            set: set.clone(),
            services,
        });
        let mut plan = plan.map_err(|error| Error(error.into()))?;
        let problem = plan.problem.take();
        let written = self.execute(key, &plan).await;
        let refused = written.as_ref().err().map(guarded_writes::message);
        self.report(key, &set, problem.or(refused));
        written.map_err(Error)
    }

    async fn execute(
        &self,
        key: &ObjectKey,
        plan: &OrdinalServicesPlan,
    ) -> kube_api_client::Result<()> {
        let api: Api<Service> = Api::namespaced(self.context.client.clone(), &key.namespace);
        for ServiceDeletion { name, uid } in &plan.delete {
            guarded_writes::delete(&api, name, Delete::of_uid(uid.clone())).await?;
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        for (name, service) in &plan.apply {
            api.patch(name, &params, &Patch::Apply(service)).await?;
        }
        Ok(())
    }

    fn reported(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, String>> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, key: &ObjectKey, set: &StatefulSet, problem: Option<String>) {
        let mut reported = self.reported();
        match problem {
            None => {
                reported.remove(key);
            }
            Some(problem) if reported.get(key) != Some(&problem) => {
                self.recorder
                    .warning(set, reasons::FAILED_ORDINAL_SERVICE, problem.clone());
                reported.insert(key.clone(), problem);
            }
            Some(_) => {}
        }
    }
}
