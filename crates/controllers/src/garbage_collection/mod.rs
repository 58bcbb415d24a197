//! The garbage collector: deletes what has lost its owners, and lets go of owners that wait for
//! their dependents.
//!
//! It watches the metadata of everything. That an owner is absent is believed only when the
//! server itself says so.

mod execute;
mod observe;

use std::sync::Arc;

use futures::StreamExt;
use planners::garbage_collection::plan;
use reconcile::{Change, Outcome, Queue, run_workers};

use crate::Context;
use crate::inventory::{Inventory, Meta};
use execute::{Error, Executor};
use observe::Observer;

/// Objects that are worked on at once; as kube-controller-manager.
const WORKERS: usize = 20;

pub(crate) async fn run(context: Context, inventory: Arc<Inventory>) {
    let queue = context.queue("garbage_collector_attempt_to_delete");
    let observer = Arc::new(Observer::new(
        inventory.clone(),
        context.recorder("garbage-collector-controller"),
    ));
    let executor = Arc::new(Executor {
        inventory: inventory.clone(),
        queue: queue.clone(),
    });
    let feed = tokio::spawn(feed(inventory, queue.clone()));
    run_workers(
        queue,
        WORKERS,
        context.shutdown.clone(),
        move |uid: String| {
            let (observer, executor) = (observer.clone(), executor.clone());
            async move {
                if let Some((found, item)) = observer.observe(&uid).await.map_err(Error::Observe)? {
                    executor.execute(&found, plan(&item)).await?;
                }
                Ok::<_, Error>(Outcome::Done)
            }
        },
    )
    .await;
    feed.abort();
}

/// Queues the objects, by uid, that a change may concern.
async fn feed(inventory: Arc<Inventory>, queue: Queue<String>) {
    let mut changes = inventory.subscribe();
    while let Some((_, change)) = changes.next().await {
        for uid in concerned(&inventory, &change) {
            queue.add(uid);
        }
    }
}

fn concerned(inventory: &Inventory, change: &Change<Meta>) -> Vec<String> {
    let owners = |object: &Meta| -> Vec<String> {
        let owners = object.owners.iter();
        owners.map(|owner| owner.uid.clone()).collect()
    };
    match change {
        Change::Applied(new, Some(old))
            if new.owners == old.owners
                && new.deleting == old.deleting
                && new.finalizers == old.finalizers =>
        {
            Vec::new()
        }
        Change::Applied(new, old) => {
            let mut uids = owners(new);
            // Only these can have anything to be done about them.
            if new.deleting || !uids.is_empty() {
                uids.push(new.uid.to_string());
            }
            if new.deleting {
                // Dependents of an owner that waits are judged anew.
                uids.extend(dependents(inventory, &new.uid));
            }
            uids.extend(old.iter().flat_map(|old| owners(old)));
            uids
        }
        Change::Deleted(old) => {
            let mut uids = owners(old);
            uids.extend(dependents(inventory, &old.uid));
            uids
        }
    }
}

fn dependents(inventory: &Inventory, uid: &str) -> Vec<String> {
    let dependents = inventory.by_owner(uid).into_iter();
    dependents
        .map(|found| found.object.uid.to_string())
        .collect()
}
