//! Eviction: pods are evicted, one after the other, while the node lacks memory or disk.
//!
//! [`pod_lifecycle::resources::eviction`] chooses the pod. Before a pod is evicted for disk space,
//! unused data is removed: the logs of ended pods, and unused images.

use std::io;
use std::sync::Arc;

use controller_framework::EventType;
use host_kernel::{block_in_place, blocking_value, tree};
use pod_lifecycle::record::{Instance, Sandbox, Volumes};
use pod_lifecycle::resources::eviction::{self, Candidate, PodUsage, Resource, Shortage, Signal};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::image_gc::ImageCollector;
use super::registration;
use crate::limits::{EVICTION_POLL, EVICTION_WAIT, NODE_CHECK_PERIOD};
use crate::machine::disk_figures::DiskFigures;
use crate::machine::pressure::Monitor;
use crate::node_context::NodeContext;
use crate::paths::runtime_id;
use crate::pods::message::Message;
use crate::pods::pod_manager::{PodManager, PodView};

/// Evicts pods when memory or disk space runs short.
pub struct EvictionManager {
    pub node: Arc<NodeContext>,
    pub monitor: Arc<Monitor>,
    pub pods: Arc<PodManager>,
    pub disk: Arc<DiskFigures>,
    pub images: Arc<ImageCollector>,
}

impl EvictionManager {
    /// Checks the node's memory and disks at an interval until `shutdown`.
    pub async fn watch(self, shutdown: CancellationToken) {
        let rounds = async {
            loop {
                match self.relieve().await {
                    Some((evicted, Resource::Memory)) => self.wait_for_end(&evicted).await,
                    // Disks report freed space with a delay.
                    Some((evicted, Resource::EphemeralStorage | Resource::Inodes)) => {
                        self.wait_for_end(&evicted).await;
                        sleep(NODE_CHECK_PERIOD).await;
                    }
                    None => sleep(NODE_CHECK_PERIOD).await,
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = rounds => {}
        }
    }

    /// Handles the most important shortage; returns the evicted pod, if any, and the resource.
    async fn relieve(&self) -> Option<(Arc<PodView>, Resource)> {
        let mut shortage = *block_in_place(|| self.monitor.observe()).first()?;
        let resource = shortage.signal.resource();
        let words = format!("Attempting to reclaim {}", resource.name());
        let node = registration::event_reference(&self.node.config.node_name);
        self.node
            .recorder
            .event(node, EventType::Warning, "EvictionThresholdMet", words);
        if resource != Resource::Memory {
            self.reclaim(shortage.signal).await;
            shortage = *block_in_place(|| self.monitor.observe()).first()?;
        }
        let evicted = self.evict(shortage).await?;
        Some((evicted, shortage.signal.resource()))
    }

    /// Removes unused data from the full file system.
    async fn reclaim(&self, signal: Signal) {
        let apart = block_in_place(|| self.monitor.images_are_apart());
        let of_images = matches!(signal, Signal::ImagefsAvailable | Signal::ImagefsInodesFree);
        let mut freed = false;
        if !(apart && of_images) {
            for view in self.pods.list() {
                freed |= block_in_place(|| remove_logs_of_ended(&view));
            }
        }
        if !apart || of_images {
            match self.images.remove_unused().await {
                Ok(bytes) => freed |= bytes > 0,
                Err(error) => tracing::warn!(error, "unused images not removed"),
            }
        }
        let monitor = self.monitor.clone();
        let settle = move || monitor.settle();
        if freed && let Err(error) = blocking_value(settle).await {
            tracing::error!(%error, "file systems not synced");
        }
    }

    /// Chooses a pod and evicts it. Returns the evicted pod.
    async fn evict(&self, shortage: Shortage) -> Option<Arc<PodView>> {
        let resource = shortage.signal.resource();
        // A pod without running containers has no usage.
        let mut views = self.pods.list();
        views.retain(|view| {
            !view.has_ended() && view.record.failure.is_none() && has_resources(view)
        });
        let measured = views.clone();
        let apart = block_in_place(|| self.monitor.images_are_apart());
        let (disk, clock) = (self.disk.clone(), self.node.clock);
        let looked = blocking_value(move || {
            let of_disk = |view: &PodView| {
                let measured = view.measure_files(&disk, clock);
                measured.files.usage(resource)
            };
            let each = measured.iter();
            let usages = each.map(|view| usage(view, shortage.signal, apart, of_disk));
            usages.collect::<Vec<Option<PodUsage>>>()
        });
        let usages = match looked.await {
            Ok(usages) => usages,
            Err(error) => {
                tracing::error!(%error, "usage of pods not read");
                return None;
            }
        };
        let both = views.iter().zip(&usages);
        let candidates: Vec<Candidate<'_>> = both
            .map(|(view, usage)| Candidate {
                pod: &view.pod,
                usage: usage.as_ref(),
            })
            .collect();
        let Some(index) = eviction::first_to_go(resource, &candidates) else {
            tracing::info!(signal = shortage.signal.name(), "no pod can be evicted");
            return None;
        };
        let candidate = candidates.get(index)?;
        let view = views.get(index)?;
        tracing::warn!(
            pod = %view.identity,
            signal = shortage.signal.name(),
            threshold = shortage.threshold,
            available = shortage.available,
            "pod evicted"
        );
        let failure = eviction::failure(candidate.pod, candidate.usage, &shortage);
        if view.worker.send(Message::FailPod(failure)).await.is_err() {
            tracing::debug!("the pod has just ended");
        }
        Some(view.clone())
    }

    /// Waits, up to a limit, until the pod has ended, because its usage is not free before.
    async fn wait_for_end(&self, evicted: &PodView) {
        let started = Instant::now();
        while started.elapsed() < EVICTION_WAIT {
            let views = self.pods.list();
            let view = views
                .iter()
                .find(|view| view.identity.uid == evicted.identity.uid);
            if !view.is_some_and(|view| has_resources(view)) {
                return;
            }
            sleep(EVICTION_POLL).await;
        }
    }
}

/// Removes the logs of a pod that has ended. Returns whether there were logs.
fn remove_logs_of_ended(view: &PodView) -> bool {
    if !view.has_ended() || view.record.sandbox != Sandbox::None {
        return false;
    }
    let mut removed = false;
    for name in view.record.containers.keys() {
        let dir = view.dir.logs(name);
        match tree::remove(&dir) {
            Ok(()) => removed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path = %dir.display(), %error, "logs not removed"),
        }
    }
    removed
}

/// Whether the pod has a sandbox or volumes on the node.
fn has_resources(view: &PodView) -> bool {
    view.record.sandbox != Sandbox::None || view.record.volumes != Volumes::None
}

/// The pod's usage of the scarce resource. Images belong to no pod: if images have a separate disk, no pod
/// uses that disk.
fn usage(
    view: &PodView,
    signal: Signal,
    images_apart: bool,
    of_disk: impl Fn(&PodView) -> PodUsage,
) -> Option<PodUsage> {
    match signal {
        Signal::MemoryAvailable => memory(view),
        Signal::ImagefsAvailable | Signal::ImagefsInodesFree if images_apart => {
            Some(PodUsage::default())
        }
        Signal::NodefsAvailable
        | Signal::NodefsInodesFree
        | Signal::ImagefsAvailable
        | Signal::ImagefsInodesFree => Some(of_disk(view)),
    }
}

fn memory(view: &PodView) -> Option<PodUsage> {
    let Some(sandbox) = &view.sandbox else {
        return Some(PodUsage::default());
    };
    let bytes = |container: Option<&str>| match sandbox.usage(container) {
        Ok(usage) => Some(i64::try_from(usage.working_set_bytes).unwrap_or(i64::MAX)),
        // The sandbox may just have ended.
        Err(error) => {
            tracing::debug!(sandbox = sandbox.id(), %error, "usage not read");
            None
        }
    };
    let containers = view.record.containers.iter().filter_map(|(name, record)| {
        let runs = matches!(record.instance, Instance::Running(_));
        let id = runs.then(|| runtime_id(name, record.restart_count))?;
        Some((name.clone(), bytes(Some(&id))?))
    });
    Some(PodUsage {
        total: bytes(None)?,
        containers: containers.collect(),
    })
}
