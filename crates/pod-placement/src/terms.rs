//! The terms of affinity and anti-affinity in a pod's specification.

use k8s_openapi::api::core::v1::{
    PodAffinity, PodAffinityTerm, PodAntiAffinity, WeightedPodAffinityTerm,
};
use resource_kinds::pod_view::PodView;

fn near(pod: &PodView) -> Option<&PodAffinity> {
    pod.spec.affinity.as_ref()?.pod_affinity.as_ref()
}

fn apart(pod: &PodView) -> Option<&PodAntiAffinity> {
    pod.spec.affinity.as_ref()?.pod_anti_affinity.as_ref()
}

/// The terms of required affinity.
pub(crate) fn affinity_terms(pod: &PodView) -> &[PodAffinityTerm] {
    let terms = near(pod).and_then(|near| {
        near.required_during_scheduling_ignored_during_execution
            .as_deref()
    });
    terms.unwrap_or_default()
}

/// The terms of required anti-affinity.
pub(crate) fn anti_affinity_terms(pod: &PodView) -> &[PodAffinityTerm] {
    let terms = apart(pod).and_then(|apart| {
        apart
            .required_during_scheduling_ignored_during_execution
            .as_deref()
    });
    terms.unwrap_or_default()
}

/// The preferred affinity and the preferred anti-affinity.
pub(crate) fn preferences(
    pod: &PodView,
) -> (&[WeightedPodAffinityTerm], &[WeightedPodAffinityTerm]) {
    let near = near(pod).and_then(|near| {
        near.preferred_during_scheduling_ignored_during_execution
            .as_deref()
    });
    let apart = apart(pod).and_then(|apart| {
        apart
            .preferred_during_scheduling_ignored_during_execution
            .as_deref()
    });
    (near.unwrap_or_default(), apart.unwrap_or_default())
}

/// The terms that count for scores: required affinity, and preferred affinity and anti-affinity.
pub(crate) fn wishes(pod: &PodView) -> impl Iterator<Item = &PodAffinityTerm> {
    let (near, apart) = preferences(pod);
    let preferred = near.iter().chain(apart).map(|one| &one.pod_affinity_term);
    affinity_terms(pod).iter().chain(preferred)
}
