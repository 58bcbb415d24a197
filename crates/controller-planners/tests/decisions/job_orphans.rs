//! The pods that a job of a given name counts: the controller selects them by an index.

use std::sync::Arc;

use controller_planners::job::{TRACKING, job_of, orphaned};
use json_tree::json;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use resource_kinds::pod_view::PodView;

/// A pod: the kind, name and UID of its controller, the job in its label, and whether it has the tracking finalizer.
fn pod(
    number: usize,
    (kind, name, uid): (&str, &str, &str),
    label: Option<&str>,
    tracked: bool,
) -> Arc<PodView> {
    let mut metadata = json!({ "name": format!("p{number}"), "namespace": "d",
        "uid": format!("p{number}"), "resourceVersion": "1", "labels": { "job": "u" } });
    if !kind.is_empty() {
        let owner = json!({ "apiVersion": "batch/v1", "kind": kind, "name": name, "uid": uid,
            "controller": true });
        metadata["ownerReferences"] = json!([owner]);
    }
    if let Some(label) = label {
        metadata["labels"]["batch.kubernetes.io/job-name"] = json!(label);
    }
    if tracked {
        metadata["finalizers"] = json!([TRACKING]);
    }
    let pod: Pod = json_tree::from_value(json!({ "metadata": metadata })).expect("a pod");
    Arc::new(pod.try_into().expect("a pod"))
}

proptest! {
    /// The pods with the job's name include all pods without a job: no other pod of the namespace matters.
    #[test]
    fn the_pods_that_name_a_job_are_enough(
        pods in prop::collection::vec(
            (
                prop::sample::select(vec!["", "Job", "ReplicaSet"]),
                prop::sample::select(vec!["pi", "other"]),
                prop::sample::select(vec!["u", "former"]),
                prop::option::of(prop::sample::select(vec!["pi", "other"])),
                any::<bool>(),
            ),
            0..20,
        ),
        exists in any::<bool>(),
    ) {
        let job = json!({ "metadata": { "name": "pi", "namespace": "d", "uid": "u" },
            "spec": { "selector": { "matchLabels": { "job": "u" } }, "template": {} } });
        let job: Job = json_tree::from_value(job).expect("a job");
        let job = exists.then_some(&job);
        let all: Vec<_> = pods
            .into_iter()
            .enumerate()
            .map(|(number, (kind, name, uid, label, tracked))| {
                pod(number, (kind, name, uid), label, tracked)
            })
            .collect();
        let named = all.iter().filter(|pod| job_of(pod) == Some("pi"));
        let named: Vec<_> = named.cloned().collect();
        prop_assert_eq!(orphaned(&named, "pi", job).unwrap(), orphaned(&all, "pi", job).unwrap());
    }
}
