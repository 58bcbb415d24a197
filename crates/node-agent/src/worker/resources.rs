//! In-place resize of a running pod: its events, its record, and its control groups.

use std::sync::{Arc, PoisonError};

use container_runtime::Sandbox;
use container_runtime::spec::Resources;
use host_kernel::block_in_place;
use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceRequirements};
use object_model::Quantity;
use pod_lifecycle::record::Instance;
use pod_lifecycle::record::resize::{
    Allocation, PendingReason, PendingResize, ResizeProgress, ResourceUpdate,
};
use pod_lifecycle::resources::amounts::{self, Amounts, NodeResources};
use pod_lifecycle::resources::resize;

use super::{Worker, send};
use crate::paths::runtime_id;
use crate::pods::message::Message;
use crate::resource_limits::{container_resources, pod_resources};

impl Worker {
    /// The pod with its allocated resources, for new containers.
    pub(super) fn allocated_pod(&self) -> Arc<Pod> {
        let Some(spec) = self.pod.spec.as_ref() else {
            return self.pod.clone();
        };
        if !resize::is_requested(spec, &self.record) {
            return self.pod.clone();
        }
        let mut pod = Pod::clone(&self.pod);
        pod.spec = Some(resize::allocated_spec(spec, &self.record));
        Arc::new(pod)
    }

    /// The node's resources for the planner; the default if no resize is requested.
    pub(super) fn node_resources(&self) -> NodeResources {
        let spec = self.pod.spec.as_ref();
        if spec.is_some_and(|spec| resize::is_requested(spec, &self.record)) {
            self.measured_node_resources()
        } else {
            NodeResources::default()
        }
    }

    fn measured_node_resources(&self) -> NodeResources {
        let capacity = self
            .context
            .node
            .machine
            .capacity(self.context.node.config.pods_max);
        let amount = |name: &str| -> Quantity {
            let amount = capacity.get(name).and_then(|amount| amount.0.parse().ok());
            amount.unwrap_or_default()
        };
        let other_pods = self.context.pods.list();
        let other_pods = other_pods
            .iter()
            .filter(|view| view.identity.uid != self.identity.uid && !view.has_ended());
        let used = other_pods.filter_map(|view| {
            let spec = view.pod.spec.as_ref()?;
            Some(amounts::allocated_requests(spec, &view.record))
        });
        NodeResources {
            capacity: Amounts {
                cpu_milli: amount("cpu").milli_value(),
                memory_bytes: amount("memory").value(),
            },
            others: used.fold(Amounts::default(), Amounts::plus),
        }
    }

    /// Allocates the resources, if they are still available: workers of other pods allocate concurrently.
    pub(super) fn start_resize(&mut self, resources: Allocation, generation: i64) {
        let context = self.context.clone();
        let _lock = context
            .allocation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let spec = self.pod.spec.clone().unwrap_or_default();
        if !amounts::fits(&spec, &self.measured_node_resources()) {
            return;
        }
        self.record.resize.start(resources, generation);
        for container in self.record.containers.values_mut() {
            if let Instance::Running(running) = &mut container.instance
                && matches!(running.update, ResourceUpdate::Failed { .. })
            {
                running.update = ResourceUpdate::None;
            }
        }
        self.publish();
        let message = resize::event("started", &self.pod, generation, None);
        self.events.normal("ResizeStarted", message);
    }

    pub(super) fn postpone_resize(&mut self, pending: Option<PendingResize>) {
        if let Some(pending) = &pending {
            let event = match pending.reason {
                PendingReason::Deferred => "ResizeDeferred",
                PendingReason::Infeasible => "ResizeInfeasible",
            };
            let cause = Some(pending.message.as_str());
            let message =
                resize::event(pending.reason.word(), &self.pod, pending.generation, cause);
            self.events.warning(event, message);
        }
        self.record.resize.pending = pending;
    }

    pub(super) fn complete_resize(&mut self) {
        let Some(ResizeProgress { generation, .. }) = self.record.resize.progress.take() else {
            return;
        };
        let message = resize::event("completed", &self.pod, generation, None);
        self.events.normal("ResizeCompleted", message);
    }

    /// The applied resources of running containers, and the allocated resources of the other containers.
    fn applied(&self) -> Allocation {
        let mut applied = self.record.resize.allocated.clone().unwrap_or_default();
        for (name, record) in &self.record.containers {
            if let Instance::Running(running) = &record.instance
                && let Some(resources) = &running.resources
            {
                applied.insert(name.clone(), ResourceRequirements::clone(resources));
            }
        }
        applied
    }

    /// The pod's limits for a container that starts; `None` if the sandbox has these limits already.
    pub(super) fn new_pod_limits(&self) -> Option<Resources> {
        self.record.resize.progress.as_ref()?;
        let spec = self.pod.spec.as_ref()?;
        Some(self.pod_limits(spec, &self.applied()))
    }

    /// The limits of the pod while its containers have the resources `resources`. If the applied resources
    /// of the pod differ from the allocated ones, the wider limit is used.
    fn pod_limits(&self, spec: &PodSpec, resources: &Allocation) -> Resources {
        let pod_resize = &self.record.resize;
        let limits = pod_resources(&resize::with(spec, Some(resources)));
        if !pod_resize.pod_differs() {
            return limits;
        }
        let superseded = pod_resize.pod.superseded.iter().cloned().map(Some);
        let superseded_or_applied = superseded.chain([pod_resize.pod.applied.clone()]);
        superseded_or_applied.fold(limits, |widest, pod_level| {
            let mut former = resize::with(spec, Some(resources));
            former.resources = pod_level;
            wider(&pod_resources(&former), &widest)
        })
    }

    /// Changes the limits of a running container, and the limits of its pod.
    pub(super) fn update_resources(&mut self, name: String) {
        let allocated = self.record.resize.allocated.as_ref();
        let Some(resources) = allocated.and_then(|allocated| allocated.get(&name).cloned()) else {
            return;
        };
        let spec = self.pod.spec.clone().unwrap_or_default();
        let mut applied = self.applied();
        let before = self.pod_limits(&spec, &applied);
        applied.insert(name.clone(), resources.clone());
        let after = self.pod_limits(&spec, &applied);
        let runtime_id = runtime_id(&name, self.record.container(&name).restart_count);
        let (Some(sandbox), Some(running)) = (self.sandbox.clone(), self.running(&name)) else {
            return;
        };
        running.update = ResourceUpdate::InFlight;
        let (id, sender) = (running.id.clone(), self.sender.clone());
        self.tasks.spawn(async move {
            let container = container_resources(Some(&resources));
            let change = Change {
                before,
                after,
                container,
            };
            let result = change.apply(&sandbox, &runtime_id).await;
            let message = Message::ResourcesUpdated {
                container: name,
                id,
                resources: Box::new(resources),
                result,
            };
            send(&sender, message).await;
        });
    }

    pub(super) fn resources_updated(
        &mut self,
        name: &str,
        id: &str,
        resources: Box<ResourceRequirements>,
        result: Result<(), String>,
    ) {
        let at = self.context.node.clock.instant();
        let Some(running) = self.running(name).filter(|running| running.id == id) else {
            return;
        };
        match &result {
            Ok(()) => {
                running.resources = Some(resources);
                running.update = ResourceUpdate::None;
            }
            Err(_) => {
                running.update = ResourceUpdate::Failed { at };
            }
        }
        self.resize_tried(result);
    }

    /// Changes the pod's limits to the allocated limits.
    pub(super) fn update_pod_resources(&mut self) {
        let (Some(sandbox), Some(spec)) = (self.sandbox.clone(), self.pod.spec.as_ref()) else {
            return;
        };
        let limits = pod_resources(&resize::with(spec, Some(&self.applied())));
        let resources = self.record.resize.of_pod().cloned().map(Box::new);
        self.record.resize.pod.update = ResourceUpdate::InFlight;
        let (number, sender) = (self.record.sandboxes_made, self.sender.clone());
        self.tasks.spawn(async move {
            let message = Message::PodResourcesUpdated {
                sandbox: number,
                resources,
                result: limit_pod(&sandbox, limits).await,
            };
            send(&sender, message).await;
        });
    }

    pub(super) fn pod_resources_updated(
        &mut self,
        sandbox: u32,
        resources: Option<Box<ResourceRequirements>>,
        result: Result<(), String>,
    ) {
        let current = sandbox == self.record.sandboxes_made;
        if !current || self.record.resize.pod.update != ResourceUpdate::InFlight {
            return;
        }
        match &result {
            Ok(()) => self.record.pod_resized(resources.map(|all| *all)),
            Err(_) => {
                let at = self.context.node.clock.instant();
                self.record.resize.pod.update = ResourceUpdate::Failed { at };
            }
        }
        self.resize_tried(result);
    }

    /// Records the result of a step. The first failure sends an event.
    fn resize_tried(&mut self, result: Result<(), String>) {
        let Some(progress) = &mut self.record.resize.progress else {
            return;
        };
        let had_failed = progress.error.is_some();
        progress.error = result.err();
        if let Some(error) = progress.error.as_deref().filter(|_| !had_failed) {
            let message = resize::event("error", &self.pod, progress.generation, Some(error));
            self.events.warning("ResizeError", message);
        }
    }
}

async fn limit_pod(sandbox: &Sandbox, limits: Resources) -> Result<(), String> {
    block_in_place(|| check_memory(sandbox, None, &limits))?;
    let changed = sandbox.update_pod(limits).await;
    changed.map_err(|error| error.to_string())
}

/// Rejects a memory limit below the present usage, because the kernel would kill processes.
fn check_memory(sandbox: &Sandbox, id: Option<&str>, limits: &Resources) -> Result<(), String> {
    let Some(limit) = limits.memory_bytes else {
        return Ok(());
    };
    let usage = sandbox.usage(id).map_err(|error| error.to_string())?;
    let (limit, used) = (u64::try_from(limit).unwrap_or(0), usage.working_set_bytes);
    if used > limit {
        let owner = if id.is_some() { "container" } else { "pod" };
        return Err(format!(
            "attempting to set {owner} memory limit ({limit}) below current usage ({used})"
        ));
    }
    Ok(())
}

/// A change of one container's limits.
struct Change {
    /// The previous limits of the pod.
    before: Resources,
    /// The new limits of the pod.
    after: Resources,
    container: Resources,
}

impl Change {
    /// Applies the change. The pod's limits are never lower than its containers' limits: the pod's limits
    /// grow first and shrink last.
    async fn apply(self, sandbox: &Sandbox, id: &str) -> Result<(), String> {
        block_in_place(|| check_memory(sandbox, Some(id), &self.container))?;
        let both = wider(&self.before, &self.after);
        let steps = async {
            sandbox.update_pod(both).await?;
            sandbox.update(id, self.container).await?;
            sandbox.update_pod(self.after).await
        };
        steps
            .await
            .map_err(|error: container_runtime::RuntimeError| error.to_string())
    }
}

/// The looser of the two limits; unset if either is unset.
fn wider(before: &Resources, after: &Resources) -> Resources {
    fn either<T: Ord + Copy>(a: Option<T>, b: Option<T>) -> Option<T> {
        a.zip(b).map(|(a, b)| a.max(b))
    }
    Resources {
        cpu_shares: either(before.cpu_shares, after.cpu_shares),
        cpu_quota_us: either(before.cpu_quota_us, after.cpu_quota_us),
        cpu_period_us: after.cpu_period_us,
        memory_bytes: either(before.memory_bytes, after.memory_bytes),
        ..Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_is_as_wide_as_either() {
        // kubectl.md 6.7
        let limits = |quota, memory| Resources {
            cpu_quota_us: quota,
            memory_bytes: memory,
            ..Resources::default()
        };
        let both = wider(&limits(Some(5), Some(9)), &limits(Some(7), Some(3)));
        assert_eq!(both, limits(Some(7), Some(9)));
        assert_eq!(
            wider(&limits(None, Some(9)), &limits(Some(7), None)),
            limits(None, None)
        );
    }
}
