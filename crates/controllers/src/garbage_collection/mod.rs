//! The garbage collector: deletes objects without owners, and finishes owners that wait for their dependents.
//!
//! The collector watches the metadata of all kinds. An owner counts as absent only if the API server itself reports
//! that it is absent.

mod execute;
mod observe;

use std::sync::Arc;
use std::time::Duration;

use controller_framework::{ObjectChange, Queue, ReconcileResult, run_controller};
use controller_planners::garbage_collection::{FOREGROUND, ORPHAN, plan};
use futures::StreamExt;
use object_model::Uid;

use crate::Context;
use crate::inventory::{Inventory, Meta};
use execute::{Error, Executor};
use observe::Observer;

/// Events are stored for an hour, but metadata is malformed until a user writes the object.
const REPORTED_AGAIN_AFTER: Duration = Duration::from_mins(50);

struct GarbageCollector {
    observer: Observer,
    executor: Executor,
    inventory: Arc<Inventory>,
}

pub(crate) async fn run(context: Context, inventory: Arc<Inventory>) {
    let queue = context.queue("garbage_collector_attempt_to_delete");
    let recorder = context.recorder("garbage-collector-controller");
    let controller = GarbageCollector {
        observer: Observer::new(inventory.clone(), recorder),
        executor: Executor {
            inventory: inventory.clone(),
            queue: queue.clone(),
        },
        inventory,
    };
    run_controller(Arc::new(controller), queue, context.shutdown.clone()).await;
}

impl controller_framework::Controller for GarbageCollector {
    type Key = Uid;
    type Error = Error;

    /// Objects processed at once; as kube-controller-manager.
    const WORKERS: usize = 20;

    async fn wait_synced(&self) -> bool {
        true
    }

    /// Queues the UIDs of objects affected by a change.
    async fn feed(&self, queue: &Queue<Uid>) {
        let mut changes = self.inventory.subscribe_to_changes(changes_owners);
        let mut again = tokio::time::interval(REPORTED_AGAIN_AFTER);
        again.reset();
        loop {
            let (resource, change) = tokio::select! {
                change = changes.next() => match change {
                    Some(change) => change,
                    None => return,
                },
                _ = again.tick() => {
                    for item in self.inventory.malformed() {
                        self.observer.report_malformed(item.resource, &item.object);
                    }
                    continue;
                }
            };
            if let ObjectChange::Applied(new, old) = &change
                && becomes_malformed(old.as_deref(), new)
            {
                self.observer.report_malformed(resource, new);
            }
            for uid in affected(&self.inventory, &change) {
                queue.add(uid);
            }
        }
    }

    async fn reconcile(&self, key: &Uid) -> Result<ReconcileResult, Error> {
        if let Some((listed, item)) = self.observer.observe(key).await.map_err(Error::Observe)? {
            self.executor.execute(&listed, plan(&item)).await?;
        }
        Ok(ReconcileResult::Done)
    }
}

/// Whether a change from `old` to `new` can require a deletion or the completion of a deletion.
fn changes_owners(old: Option<&Meta>, new: Option<&Meta>) -> bool {
    let same = |(old, new): (&Meta, &Meta)| {
        new.owners == old.owners && new.deleting == old.deleting && new.finalizers == old.finalizers
    };
    !old.zip(new).is_some_and(same) || new.is_some_and(|new| becomes_malformed(old, new))
}

/// Whether the change leaves out parts of the metadata that were not left out before.
fn becomes_malformed(old: Option<&Meta>, new: &Meta) -> bool {
    let before = old.and_then(|old| old.malformed.as_ref());
    new.malformed.is_some() && before != new.malformed.as_ref()
}

/// The UIDs of the objects that a change can make collectable or complete. Most changes give no UIDs, because the
/// owners live, and live owners do not depend on their dependents.
fn affected(inventory: &Inventory, change: &ObjectChange<Meta>) -> Vec<Uid> {
    // The server refuses an owner reference without a UID, and no object has such an owner.
    let owners = |object: &Meta| -> Vec<Uid> {
        let owners = object.owners.iter();
        let owners = owners.filter(|owner| !inventory.is_live(owner, &object.namespace));
        owners.filter_map(|owner| owner.uid.parse().ok()).collect()
    };
    match change {
        ObjectChange::Applied(new, old) => {
            let mut uids = owners(new);
            // An object that is being deleted, without a finalizer of the collector, needs no action of the collector.
            let may_need_action = match new.deleting {
                true => new.has(ORPHAN) || new.has(FOREGROUND),
                false => !uids.is_empty(),
            };
            if may_need_action {
                uids.push(new.uid.clone());
            }
            if new.is_waiting() {
                uids.extend(dependents(inventory, &new.uid));
            }
            uids.extend(old.iter().flat_map(|old| owners(old)));
            uids
        }
        ObjectChange::Deleted(old) => {
            let mut uids = owners(old);
            uids.extend(dependents(inventory, &old.uid));
            uids
        }
    }
}

fn dependents(inventory: &Inventory, uid: &Uid) -> Vec<Uid> {
    let dependents = inventory.by_owner(uid).into_iter();
    dependents
        .map(|dependent| dependent.object.uid.clone())
        .collect()
}
