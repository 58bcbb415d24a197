//! The controller of namespaces that are being deleted.

mod execute;

use std::sync::Arc;

use controller_framework::{Cache, ObjectChange, Queue, ReconcileResult, object_key};
use controller_planners::namespaces::{
    DeletionStep, FINALIZER, ObservedDeletion, PAUSE_MAX, pause_after, step,
};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use object_model::ObjectKey;

use crate::Context;
use crate::inventory::Inventory;
use crate::pacing::Pacing;
use crate::remote_groups::RemoteGroups;
use execute::{Error, Executor};

struct Namespaces {
    namespaces: Cache<Namespace>,
    executor: Executor,
    /// The time of the last listing of each namespace, and the pause after it.
    looks: Pacing,
}

pub(crate) async fn run(context: Context, inventory: Arc<Inventory>, remote: RemoteGroups) {
    let controller = Namespaces {
        namespaces: context.caches.namespaces.clone(),
        executor: Executor {
            client: context.client.clone(),
            inventory,
            remote,
        },
        looks: Pacing::default(),
    };
    context.run("namespace", controller).await;
}

impl controller_framework::Controller for Namespaces {
    type Key = ObjectKey;
    type Error = Error;

    /// Namespaces processed at once; as kube-controller-manager.
    const WORKERS: usize = 10;

    async fn wait_synced(&self) -> bool {
        self.namespaces.wait_synced().await
    }

    /// Queues namespaces that are being deleted, and the namespaces of removed objects.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut namespaces = self.namespaces.subscribe();
        let mut remote = self.executor.remote.subscribe();
        let mut contents = self
            .executor
            .inventory
            .subscribe_to_changes(|_, new| new.is_none());
        loop {
            tokio::select! {
                Some(change) = namespaces.next() => {
                    if let ObjectChange::Applied(new, old) = &change
                        && is_going(new)
                        && !old.as_ref().is_some_and(|old| is_going(old))
                    {
                        queue.add(object_key(new.as_ref()));
                    }
                }
                Some((_, change)) = contents.next() => {
                    if let ObjectChange::Deleted(old) = &change
                        && let Some(namespace) = self.namespaces.get("", &old.namespace)
                        && is_going(&namespace)
                    {
                        let key = ObjectKey::cluster(&*old.namespace);
                        let pause = self.looks.rest(&key).unwrap_or_default();
                        queue.add_after(key, pause);
                    }
                }
                Some(_) = remote.next() => {
                    // A namespace may wait for an extension API server, or for the deletion of its APIService.
                    for namespace in self.namespaces.list() {
                        if is_going(&namespace) {
                            queue.add(object_key(namespace.as_ref()));
                        }
                    }
                }
                else => return,
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        let namespace = self.namespaces.get_key(key);
        let Some(namespace) = namespace.filter(|namespace| is_going(namespace)) else {
            self.looks.forget(key);
            return Ok(ReconcileResult::Done);
        };
        // An object that is removed during a listing queues the namespace again.
        match self.looks.rest(key) {
            Some(pause) => Ok(ReconcileResult::RequeueAfter(pause)),
            None => self.empty(key, &namespace).await,
        }
    }
}

impl Namespaces {
    async fn empty(
        &self,
        key: &ObjectKey,
        namespace: &Namespace,
    ) -> Result<ReconcileResult, Error> {
        let (executor, name) = (&self.executor, &key.name);
        let mut remote = executor.discover().await;
        let contents = executor.contents(name, &mut remote).await?;
        let failures = match step(&contents) {
            DeletionStep::Finish => Vec::new(),
            DeletionStep::DeletePods => executor.delete_contents(name, &[], true).await,
            DeletionStep::DeleteAll => executor.delete_contents(name, &remote.kinds, false).await,
        };
        let contents = executor.contents(name, &mut remote).await?;
        let observed = ObservedDeletion {
            contents: &contents,
            undiscovered: &remote.undiscovered,
            failures: &failures,
        };
        executor
            .write_conditions(namespace, &observed, Timestamp::now())
            .await?;
        match step(&contents) {
            // Kinds that could not be read may have objects.
            DeletionStep::Finish if !remote.undiscovered.is_empty() => {
                Ok(ReconcileResult::RequeueAfter(PAUSE_MAX))
            }
            DeletionStep::Finish => {
                self.looks.forget(key);
                let finished = executor.finish(namespace).await;
                finished.map(|()| ReconcileResult::Done)
            }
            _ if failures.is_empty() => {
                self.looks.written(key, pause_after(&contents));
                Ok(ReconcileResult::RequeueAfter(PAUSE_MAX))
            }
            _ => Err(Error::Left {
                failures: failures.len(),
            }),
        }
    }
}

fn is_going(namespace: &Namespace) -> bool {
    let spec = namespace.spec.as_ref();
    let mut finalizers = spec
        .into_iter()
        .flat_map(|spec| spec.finalizers.iter().flatten());
    namespace.metadata.deletion_timestamp.is_some()
        && finalizers.any(|finalizer| finalizer == FINALIZER)
}
