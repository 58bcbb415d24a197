//! Image garbage collection: unused images are removed when their disk is nearly full, and when they are
//! old.
//!
//! [`pod_lifecycle::node::image_gc`] chooses the images, and [`image_store`] ensures that no image in use
//! is removed. This module lists the images in use: the images of all pods that have not ended. A pod is in
//! the pod manager before its worker looks up its images. The lookup and the mount hold a read lock of
//! `Puller::lookups`, and the removal holds the write lock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use controller_framework::EventType;
use host_kernel::blocking;
use image_store::{Garbage, ImageStore, ImagesInUse, StoreError};
use k8s_openapi::api::core::v1::Pod;
use pod_lifecycle::node::image_gc::{ImageHistory, Present};
use pod_lifecycle::spec;
use tokio::sync::{Mutex, RwLockWriteGuard};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::registration;
use crate::images::Puller;
use crate::limits::{IMAGE_GC_PERIOD, ORPHAN_LAYER_AGE};
use crate::machine::machine_info;
use crate::node_context::NodeContext;
use crate::pods::pod_manager::PodManager;

/// Maximum number of attempts to get the write lock of the lookups.
const TRIES: u32 = 100;

/// The delay between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Removes images; one removal at a time.
pub struct ImageCollector {
    node: Arc<NodeContext>,
    puller: Arc<Puller>,
    pods: Arc<PodManager>,
    history: Mutex<ImageHistory>,
}

/// The goal of a round.
#[derive(Clone, Copy)]
enum Goal {
    /// Unused images are removed until this number of bytes is freed.
    Bytes(u64),
    /// All unused images are removed.
    Everything,
    /// Unused images beyond the maximum age are removed.
    Age,
}

impl ImageCollector {
    /// The pod manager must have all pods of the node.
    pub fn new(node: Arc<NodeContext>, puller: Arc<Puller>, pods: Arc<PodManager>) -> Self {
        Self {
            node,
            puller,
            pods,
            history: Mutex::default(),
        }
    }

    /// Removes unused images once per `IMAGE_GC_PERIOD`, until `shutdown`.
    pub async fn watch(self: Arc<Self>, shutdown: CancellationToken) {
        if !self.node.config.image_gc.collects() {
            return;
        }
        let mut tick = interval(IMAGE_GC_PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed_before = false;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
                () = self.puller.disk_space_needed.notified() => {
                    // The next attempt at the pull may remove more images.
                    if let Err(error) = self.remove_unused().await {
                        tracing::warn!(error, "no space was freed for a pull");
                    }
                    continue;
                }
            }
            let result = self.collect().await;
            if let Err(error) = &result {
                tracing::warn!(error, "image garbage collection");
                // A single failure may be an accident, so only the second consecutive failure is reported.
                if failed_before {
                    self.warn("ImageGCFailed", error.clone());
                }
            }
            failed_before = result.is_err();
        }
    }

    /// Removes images that are too old, then as many images as the full disk requires.
    async fn collect(&self) -> Result<(), String> {
        self.remove(Goal::Age).await?;
        let config = &self.node.config;
        let disk = machine_info::disk(config.images.directory());
        let disk = disk.ok_or("the file system of the images cannot be inspected")?;
        if disk.total == 0 {
            let text = "invalid capacity 0 on image filesystem".to_owned();
            self.warn("InvalidDiskCapacity", text.clone());
            return Err(text);
        }
        let Some(goal_bytes) = config.image_gc.to_free(disk.total, disk.free) else {
            return Ok(());
        };
        let freed = self.remove(Goal::Bytes(goal_bytes)).await?;
        if freed < goal_bytes {
            let text = format!(
                "Failed to garbage collect required amount of images. Attempted to free {goal_bytes} \
                 bytes, but only found {freed} bytes eligible to free."
            );
            self.warn("FreeDiskSpaceFailed", text.clone());
            return Err(text);
        }
        Ok(())
    }

    /// Removes all images that no pod uses; returns the freed bytes.
    pub async fn remove_unused(&self) -> Result<u64, String> {
        self.remove(Goal::Everything).await
    }

    async fn remove(&self, goal: Goal) -> Result<u64, String> {
        let mut history = self.history.lock().await;
        let candidates = self.candidates(&mut history, goal).await?;
        let goal_bytes = match goal {
            Goal::Bytes(bytes) => bytes,
            Goal::Everything | Goal::Age => u64::MAX,
        };
        let mut freed = 0_u64;
        if !matches!(goal, Goal::Age) {
            freed = self.remove_image(None).await?;
        }
        for digest in candidates {
            if freed >= goal_bytes {
                break;
            }
            freed = freed.saturating_add(self.remove_image(Some(digest)).await?);
        }
        Ok(freed)
    }

    /// The images that may be removed, in the order of removal.
    async fn candidates(
        &self,
        history: &mut ImageHistory,
        goal: Goal,
    ) -> Result<Vec<String>, String> {
        let needed = self.needed();
        let present = self.blocking(move |store| present(store, &needed)).await?;
        let (policy, now) = (self.node.config.image_gc, self.node.clock.instant());
        history.note(&present, now);
        let chosen = match goal {
            Goal::Age => history.outdated(&present, &policy, now),
            Goal::Bytes(_) | Goal::Everything => history.collectable(&present, &policy, now),
        };
        Ok(chosen.into_iter().map(str::to_owned).collect())
    }

    /// Removes an image, unless it has come into use. Without a digest, removes layers without an image.
    /// Returns the freed bytes.
    async fn remove_image(&self, digest: Option<String>) -> Result<u64, String> {
        let lookups = self.lock_lookups().await?;
        let needed = self.needed();
        let garbage: Garbage = self
            .blocking(move |store| match digest {
                Some(digest) => Ok(store.mark(&digest, &needed)?.unwrap_or_default()),
                None => store.mark_orphans(&needed, ORPHAN_LAYER_AGE),
            })
            .await?;
        drop(lookups);
        for reference in &garbage.references {
            tracing::info!(image = reference, "unused image removed");
        }
        let bytes = garbage.bytes;
        self.blocking(move |_| garbage.sweep()).await?;
        Ok(bytes)
    }

    /// The write lock of the lookups. The attempts do not queue, so that a new lookup never waits behind
    /// the removal.
    async fn lock_lookups(&self) -> Result<RwLockWriteGuard<'_, ()>, String> {
        for _ in 0..TRIES {
            if let Ok(guard) = self.puller.lookups.try_write() {
                return Ok(guard);
            }
            sleep(PAUSE).await;
        }
        Err("pods look for images all the time".to_owned())
    }

    /// The images in use by pods that have not ended.
    fn needed(&self) -> ImagesInUse {
        let mut needed = ImagesInUse::default();
        for view in self.pods.list() {
            if view.has_ended() && view.sandbox.is_none() {
                continue;
            }
            needed.references.extend(references(&view.pod));
            let volumes = view.volumes.values();
            needed
                .layers
                .extend(volumes.flat_map(|volume| volume.layers.clone()));
        }
        needed
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImageStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, String> {
        let store = self.node.config.images.clone();
        blocking(move || work(&store).map_err(|error| error.to_string())).await
    }

    fn warn(&self, reason: &str, message: String) {
        let node = registration::event_reference(&self.node.config.node_name);
        self.node
            .recorder
            .event(node, EventType::Warning, reason, message);
    }
}

fn present(store: &ImageStore, needed: &ImagesInUse) -> Result<Vec<Present>, StoreError> {
    let in_use = store.in_use(needed)?;
    let images = store.list()?.into_iter();
    Ok(images
        .map(|image| Present {
            in_use: in_use.contains(&image.digest),
            digest: image.digest,
            pinned: image.pinned,
        })
        .collect())
}

/// The names of all images in a pod's specification.
fn references(pod: &Pod) -> BTreeSet<String> {
    let Some(pod_spec) = &pod.spec else {
        return BTreeSet::new();
    };
    let ephemeral = spec::ephemeral_containers(pod_spec);
    let images = spec::containers(pod_spec).filter_map(|(_, container)| container.image.clone());
    let ephemeral_images = ephemeral
        .iter()
        .filter_map(|container| container.image.clone());
    let volumes = pod_spec.volumes.iter().flatten();
    let mounted = volumes.filter_map(|volume| volume.image.as_ref()?.reference.clone());
    images.chain(ephemeral_images).chain(mounted).collect()
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn a_pod_is_made_of_the_images_of_all_its_containers_and_volumes() {
        // statefulset.md 12.16
        let pod = json_tree::from_value(json!({"spec": {
            "initContainers": [{"name": "i", "image": "init"}],
            "containers": [{"name": "c", "image": "main"}, {"name": "d", "image": "main"}],
            "ephemeralContainers": [{"name": "e", "image": "debug"}],
            "volumes": [{"name": "v", "image": {"reference": "data"}}, {"name": "w"}]}}))
        .unwrap();
        let references = references(&pod);
        assert!(
            references.iter().eq(["data", "debug", "init", "main"]),
            "{references:?}"
        );
    }
}
