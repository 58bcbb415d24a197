//! The controller that binds claims and volumes (statefulset.md §11).

mod execute;
mod observe;

use std::collections::BTreeSet;

use controller_framework::{ObjectChange, Queue, ReconcileResult, object_key};
use controller_planners::volume_binding::{plan_claim, plan_volume};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use object_model::ObjectKey;
use resource_kinds::pod_view::PodView;

use crate::{Caches, Context};
use execute::{Error, Executor};
use observe::Observer;
pub(crate) use observe::{claim_of, is_unbound, volume_of};

/// A key in the queue: a claim or a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Task {
    Claim(ObjectKey),
    Volume(String),
}

struct VolumeBinding {
    observer: Observer,
    executor: Executor,
    caches: Caches,
}

pub(crate) async fn run(context: Context) {
    let controller = VolumeBinding {
        observer: Observer::new(&context),
        executor: Executor {
            client: context.client.clone(),
            recorder: context.recorder("persistentvolume-controller"),
        },
        caches: context.caches.clone(),
    };
    context.run("volume_binding", controller).await;
}

impl controller_framework::Controller for VolumeBinding {
    type Key = Task;
    type Error = Error;

    /// Claims and volumes processed at once. Several workers are safe, because each write names the version that it is
    /// based on.
    const WORKERS: usize = 4;

    async fn wait_synced(&self) -> bool {
        self.observer.wait_synced().await
    }

    /// Queues the objects affected by a change.
    async fn feed(&self, queue: &Queue<Task>) {
        let mut claims = self.caches.claims.subscribe();
        let mut volumes = self.caches.volumes.subscribe();
        let mut classes = self.caches.classes.subscribe();
        let mut pods = self.caches.pods.subscribe_to(PodView::has_claims);
        loop {
            let tasks: BTreeSet<Task> = tokio::select! {
                Some(change) = claims.next() => of_claim(&change, &self.observer),
                Some(change) = volumes.next() => of_volume(&change, &self.observer),
                Some(_) = classes.next() => all_unbound(&self.observer),
                Some(change) = pods.next() => {
                    let keys = self.observer.unbound_claims_of(change.object());
                    keys.into_iter().map(Task::Claim).collect()
                }
                else => return,
            };
            for task in tasks {
                queue.add(task);
            }
        }
    }

    async fn reconcile(&self, key: &Task) -> Result<ReconcileResult, Error> {
        work(&self.observer, &self.executor, key).await?;
        Ok(ReconcileResult::Done)
    }
}

async fn work(observer: &Observer, executor: &Executor, task: &Task) -> Result<(), Error> {
    let now = Timestamp::now();
    match task {
        Task::Claim(key) => {
            let Some(observed) = observer.claim(key).await? else {
                return Ok(());
            };
            let plan = plan_claim(&observed.view(), now)?;
            executor
                .execute(Some(&observed.claim), &observed.volumes, plan)
                .await
        }
        Task::Volume(name) => {
            let Some((volume, claim)) = observer.volume(name).await? else {
                return Ok(());
            };
            let plan = plan_volume(&volume, claim.as_deref(), now)?;
            executor.execute(claim.as_ref(), &[volume], plan).await
        }
    }
}

fn of_claim(change: &ObjectChange<PersistentVolumeClaim>, observer: &Observer) -> BTreeSet<Task> {
    let claim = change.object();
    let key = object_key(&**claim);
    let mut tasks: BTreeSet<Task> = volume_of(claim).map(Task::Volume).into_iter().collect();
    if matches!(change, ObjectChange::Deleted(_)) {
        tasks.extend(
            observer
                .volumes_reserved_for(&key)
                .into_iter()
                .map(Task::Volume),
        );
    }
    tasks.insert(Task::Claim(key));
    tasks
}

fn of_volume(change: &ObjectChange<PersistentVolume>, observer: &Observer) -> BTreeSet<Task> {
    let volume = change.object();
    let name = object_key(&**volume).name.to_string();
    let reserved_for = claim_of(volume);
    let mut tasks: BTreeSet<Task> = match (change, &reserved_for) {
        // An unbound claim may wait for the new object.
        (ObjectChange::Applied(..), None) => all_unbound(observer),
        _ => BTreeSet::new(),
    };
    tasks.extend(reserved_for.map(Task::Claim));
    if let ObjectChange::Applied(_, Some(before)) = change {
        tasks.extend(claim_of(before).map(Task::Claim));
    }
    tasks.extend(
        observer
            .claims_that_name(&name)
            .into_iter()
            .map(Task::Claim),
    );
    tasks.insert(Task::Volume(name));
    tasks
}

fn all_unbound(observer: &Observer) -> BTreeSet<Task> {
    let claims = observer.claims.list();
    let unbound = claims.iter().filter(|claim| is_unbound(claim));
    unbound
        .map(|claim| Task::Claim(object_key(&**claim)))
        .collect()
}
