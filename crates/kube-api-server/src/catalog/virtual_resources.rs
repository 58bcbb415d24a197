//! Virtual resources: their objects are computed at each request, and never stored.

use resource_kinds::{KindInfo, Scope, Verb, Words, WriteRules};

use crate::catalog::registry::is_at;

pub(crate) const AUTHENTICATION: &str = "authentication.k8s.io";
pub(crate) const AUTHORIZATION: &str = "authorization.k8s.io";

const fn review(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    scope: Scope,
) -> KindInfo<'static> {
    KindInfo {
        group,
        version: "v1",
        kind,
        list_kind: "",
        plural,
        singular,
        short_names: Words::Fixed(&[]),
        categories: Words::Fixed(&[]),
        scope,
        verbs: &[Verb::Create],
        subresources: &[],
        storage: "",
        writes: WriteRules::ORDINARY,
    }
}

/// Reviews: a client posts a review and gets the result in its status.
pub(crate) const REVIEWS: &[KindInfo<'static>] = &[
    review(
        AUTHENTICATION,
        "SelfSubjectReview",
        "selfsubjectreviews",
        "selfsubjectreview",
        Scope::Cluster,
    ),
    review(
        AUTHENTICATION,
        "TokenReview",
        "tokenreviews",
        "tokenreview",
        Scope::Cluster,
    ),
    review(
        AUTHORIZATION,
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        Scope::Namespaced,
    ),
    review(
        AUTHORIZATION,
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        Scope::Cluster,
    ),
    review(
        AUTHORIZATION,
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        Scope::Cluster,
    ),
    review(
        AUTHORIZATION,
        "SubjectAccessReview",
        "subjectaccessreviews",
        "subjectaccessreview",
        Scope::Cluster,
    ),
];

pub(crate) const METRICS: &str = "metrics.k8s.io";

const fn metrics(
    kind: &'static str,
    list_kind: &'static str,
    plural: &'static str,
    scope: Scope,
) -> KindInfo<'static> {
    KindInfo {
        group: METRICS,
        version: "v1beta1",
        kind,
        list_kind,
        plural,
        singular: "",
        short_names: Words::Fixed(&[]),
        categories: Words::Fixed(&[]),
        scope,
        verbs: &[Verb::Get, Verb::List],
        subresources: &[],
        storage: "",
        writes: WriteRules::ORDINARY,
    }
}

pub(crate) const NODE_METRICS: KindInfo<'static> =
    metrics("NodeMetrics", "NodeMetricsList", "nodes", Scope::Cluster);
pub(crate) const POD_METRICS: KindInfo<'static> =
    metrics("PodMetrics", "PodMetricsList", "pods", Scope::Namespaced);

/// The resource usage of nodes and pods.
pub(crate) const RESOURCE_METRICS: &[KindInfo<'static>] = &[NODE_METRICS, POD_METRICS];

/// The health of the control plane's components (`componentstatuses`).
pub(crate) const COMPONENT_STATUS: KindInfo<'static> = KindInfo {
    group: "",
    version: "v1",
    kind: "ComponentStatus",
    list_kind: "ComponentStatusList",
    plural: "componentstatuses",
    singular: "componentstatus",
    short_names: Words::Fixed(&["cs"]),
    categories: Words::Fixed(&[]),
    scope: Scope::Cluster,
    verbs: &[Verb::Get, Verb::List],
    subresources: &[],
    storage: "",
    writes: WriteRules::ORDINARY,
};

/// Information about all virtual resources.
pub(crate) fn infos<'a>() -> impl Iterator<Item = &'a KindInfo<'a>> {
    let all: [&'a [KindInfo<'a>]; 3] = [REVIEWS, RESOURCE_METRICS, &[COMPONENT_STATUS]];
    all.into_iter().flatten()
}

/// The virtual resource at a path.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static KindInfo<'static>> {
    infos().find(|info| is_at(info, group, version, plural))
}
