//! The provisioner of local volumes: directories or subvolumes on this node, or images of block
//! devices in them, with a PersistentVolume for each (statefulset.md §11.7, 11.8, 11.13).
//!
//! A directory exists durably before its volume object. It is renamed and removed before the object is deleted, so that
//! an interrupted step can be completed. `controller_planners::volume_provisioning` decides; the crate `volume-storage`
//! writes to the disk.
//!
//! This controller runs on each node, and not in a server: [`run`] has its own client and caches.

mod claims;
mod error;
mod expansion;
mod nfs;
mod removal;
mod setbacks;
mod size_condition;
mod snapshots;
mod usage;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use controller_framework::{
    Cache, Controller, Queue, ReconcileResult, Recorder, object_key, run_controller,
};
use controller_planners::volume_provisioning::{claim_of, volume_name};
use futures::FutureExt;
use futures::future::BoxFuture;
use host_kernel::disk_usage::VolumeUsages;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube_api_client::Client;
use kube_api_client::guarded_writes::chain;
use object_model::ObjectKey;
use process_telemetry::Component;
use resource_kinds::snapshot::VolumeSnapshotContent;
use resource_kinds::storage::volume_move::VolumeMove;
use tokio::sync::watch;
use volume_storage::Storage;

pub use error::ProvisionerError;
use setbacks::ClaimBackoff;

/// Default interval of the usage checks.
const USAGE_INTERVAL: Duration = Duration::from_secs(30);

/// The settings of the provisioner.
#[derive(Clone, Debug)]
pub struct ProvisionerConfig {
    pub node_name: String,
    /// The storage of the volumes.
    pub storage: Storage,
    /// Interval of the usage checks.
    pub usage_interval: Duration,
    /// The results of the usage checks.
    usages: watch::Sender<VolumeUsages>,
}

impl ProvisionerConfig {
    /// The settings with the default interval of usage checks.
    pub fn new(node_name: impl Into<String>, storage: Storage) -> Self {
        Self {
            node_name: node_name.into(),
            storage,
            usage_interval: USAGE_INTERVAL,
            usages: watch::Sender::default(),
        }
    }

    /// The usage of this node's volumes with files, as of the last checks.
    pub fn usages(&self) -> watch::Receiver<VolumeUsages> {
        self.usages.subscribe()
    }
}

/// The object in question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Task {
    Claim(ObjectKey),
    Volume(String),
    Content(String),
}

/// Everything that the work needs.
struct Provisioner {
    client: Client,
    config: ProvisionerConfig,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    contents: Cache<VolumeSnapshotContent>,
    recorder: Recorder,
    setbacks: Mutex<ClaimBackoff>,
}

/// Creates and removes this node's volumes until its part of the program is shut down.
///
/// # Errors
/// The volumes' directory cannot be read.
pub fn run(
    client: Client,
    config: ProvisionerConfig,
    component: Component,
) -> BoxFuture<'static, Result<(), ProvisionerError>> {
    async move {
        let recorder = Recorder::spawn(
            client.clone(),
            "local-provisioner",
            component.shutdown.clone(),
        );
        let provisioner = Arc::new(Provisioner {
            claims: Cache::spawn_all(&client, &component),
            volumes: Cache::spawn_all(&client, &component),
            classes: Cache::spawn_all(&client, &component),
            // The start does not wait for this cache: the kind may not be defined, and volumes do not need it.
            contents: Cache::spawn_all(&client, &component),
            client,
            config,
            recorder,
            setbacks: Mutex::new(ClaimBackoff::default()),
        });
        if !provisioner.wait_synced().await {
            return Ok(());
        }
        let swept = provisioner.clone();
        let is_needed = move |name: &str| swept.is_needed(name);
        provisioner.config.storage.sweep_volumes(is_needed).await?;
        let swept = provisioner.clone();
        let is_moving = move |id: &str, volume: &str| swept.is_moving(id, volume);
        let moves_swept = provisioner.config.storage.sweep_moves(is_moving).await;
        if let Err(error) = moves_swept {
            tracing::warn!(error = chain(&error), "copies of former moves are kept");
        }
        let usage = tokio::spawn(provisioner.clone().watch_usage());
        run_controller(
            provisioner,
            Queue::of(&component, "volumes"),
            component.shutdown,
        )
        .await;
        usage.abort();
        Ok(())
    }
    .boxed()
}

/// The claim that a volume names.
fn claim_key(volume: &PersistentVolume) -> Option<ObjectKey> {
    let (namespace, name) = claim_of(volume)?;
    Some(ObjectKey::new(namespace.to_owned(), name.to_owned()))
}

/// The tasks after a change of a volume. A claim is expanded after its volume.
fn tasks_of(volume: &PersistentVolume) -> impl Iterator<Item = Task> {
    let name = object_key(volume).name.to_string();
    let claim = claim_key(volume).map(Task::Claim);
    std::iter::once(Task::Volume(name)).chain(claim)
}

impl Provisioner {
    /// Whether a volume with this name exists, or may still be created for a claim.
    fn is_needed(&self, volume: &str) -> bool {
        let for_claim = |claim: Arc<PersistentVolumeClaim>| {
            volume_name(&claim).is_ok_and(|name| name == volume)
        };
        self.volumes.get("", volume).is_some() || self.claims.list().into_iter().any(for_claim)
    }

    /// Whether a move of a volume is in progress.
    fn is_moving(&self, id: &str, volume: &str) -> bool {
        let volume = self.volumes.get("", volume);
        let record = volume.and_then(|volume| VolumeMove::of(&volume));
        record.is_some_and(|record| record.id == id && !record.stage.is_final())
    }
}

impl Controller for Provisioner {
    type Key = Task;
    type Error = ProvisionerError;

    /// Maximum number of volumes that are created or removed concurrently; a removal can take long.
    const WORKERS: usize = 4;

    async fn wait_synced(&self) -> bool {
        self.claims.wait_synced().await
            && self.volumes.wait_synced().await
            && self.classes.wait_synced().await
    }

    async fn feed(&self, queue: &Queue<Task>) {
        let mut claims = self.claims.subscribe();
        let mut volumes = self.volumes.subscribe();
        let mut classes = self.classes.subscribe();
        let mut contents = self.contents.subscribe();
        loop {
            tokio::select! {
                Some(change) = claims.next() => {
                    queue.add(Task::Claim(object_key(&**change.object())));
                }
                Some(change) = volumes.next() => {
                    tasks_of(change.object()).for_each(|task| queue.add(task));
                }
                Some(change) = contents.next() => {
                    let name = object_key(&**change.object()).name;
                    queue.add(Task::Content(name.to_string()));
                }
                Some(_) = classes.next() => {
                    for claim in self.claims.list() {
                        queue.add(Task::Claim(object_key(&*claim)));
                    }
                }
                else => return,
            }
        }
    }

    async fn reconcile(&self, task: &Task) -> Result<ReconcileResult, ProvisionerError> {
        match task {
            Task::Claim(key) => self.serve_claim(key).await,
            Task::Volume(name) => self.remove(name).await,
            Task::Content(name) => self.serve_content(name).await,
        }
    }
}
