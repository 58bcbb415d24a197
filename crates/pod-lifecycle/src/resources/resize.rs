//! Requested and allocated resources of running containers (kubectl.md 6.7; statefulset.md §12.1, §12.10).
//!
//! The requested resources take effect in two steps. First the node *allocates* the resources, if all its
//! pods still fit. Then the node *applies* the resources to each container, as its `resizePolicy` says: to
//! the running process, or by a restart. Before the allocation, the pod has the condition
//! `PodResizePending`; until the resources are applied, it has `PodResizeInProgress`. Pod-level resources
//! (KEP-5419) are allocated and applied, too: while containers change, the pod has the wider of its old and
//! its new limits. Finally, the pod has only the new limits.

use json_tree::json;
use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceRequirements};
use serde::Serialize;

use crate::record::PodRecord;
use crate::record::resize::{Allocation, POD};
use crate::spec::containers;

/// The requested resources of a pod's specification.
pub fn requested_allocation(spec: &PodSpec) -> Allocation {
    let of_pod = spec.resources.iter();
    let of_pod = of_pod.filter(|resources| **resources != ResourceRequirements::default());
    containers(spec)
        .map(|(_, c)| (c.name.clone(), c.resources.clone().unwrap_or_default()))
        .chain(of_pod.map(|resources| (POD.to_owned(), resources.clone())))
        .collect()
}

/// Whether the requested resources differ from the allocated resources.
pub fn is_requested(spec: &PodSpec, record: &PodRecord) -> bool {
    let allocated = record.resize.allocated.as_ref();
    allocated.is_some_and(|allocated| *allocated != requested_allocation(spec))
}

/// The specification with the allocated resources.
pub fn allocated_spec(spec: &PodSpec, record: &PodRecord) -> PodSpec {
    with(spec, record.resize.allocated.as_ref())
}

/// The specification with `resources` in place of its resources.
pub fn with(spec: &PodSpec, resources: Option<&Allocation>) -> PodSpec {
    let mut spec = spec.clone();
    let Some(resources) = resources else {
        return spec;
    };
    let init = spec.init_containers.iter_mut().flatten();
    for container in init.chain(&mut spec.containers) {
        if let Some(allocated) = resources.get(&container.name) {
            container.resources = Some(allocated.clone());
        }
    }
    spec.resources = resources.get(POD).cloned();
    spec
}

/// The message of an event about a resize: the requested resources, the generation and the error.
pub fn event(outcome: &str, pod: &Pod, generation: i64, error: Option<&str>) -> String {
    #[derive(Serialize)]
    struct ResizeMessage<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        resources: Option<&'a ResourceRequirements>,
        containers: Vec<json_tree::Value>,
        generation: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    }
    let spec = pod.spec.as_ref();
    let main = spec.into_iter().flat_map(|spec| &spec.containers);
    let message = ResizeMessage {
        resources: spec.and_then(|spec| spec.resources.as_ref()),
        containers: main
            .map(|c| json!({"name": c.name, "resources": c.resources}))
            .collect(),
        generation,
        error,
    };
    let message = serde_json::to_string(&message).unwrap_or_default();
    format!("Pod resize {outcome}: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_say_what_is_asked_for() {
        let pod: Pod = json_tree::from_value(json!({"spec": {"containers": [
            {"name": "c1", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}}))
        .unwrap();
        assert_eq!(
            event("started", &pod, 1, None),
            "Pod resize started: {\"containers\":[{\"name\":\"c1\",\"resources\":{\"requests\":\
             {\"cpu\":\"1\",\"memory\":\"1Gi\"}}}],\"generation\":1}"
        );
        assert!(
            event("Infeasible", &pod, 2, Some("no"))
                .ends_with("\"generation\":2,\"error\":\"no\"}")
        );
    }
}
