//! Namespaces that are being deleted, and their remaining objects.

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use pod_lifecycle::diagnosis::Remedy;

use super::chain_builder::ChainBuilder;
use super::explanation::{Explanation, Object};
use super::metadata;
use super::observed::ObservedNamespace;

pub(super) fn explain(
    observed: &ObservedNamespace,
    namespace: &Namespace,
    object: Object,
) -> Explanation {
    let Some(since) = &namespace.metadata.deletion_timestamp else {
        let mut answer = Explanation::fine(object, "Active");
        answer.notes = malformed(observed);
        return answer;
    };
    let holds = |kind: &str| -> Option<&NamespaceCondition> {
        let mut conditions = namespace.status.as_ref()?.conditions.iter().flatten();
        conditions.find(|condition| condition.type_ == kind && condition.status == "True")
    };
    let said = |condition: Option<&NamespaceCondition>| {
        let message = condition.and_then(|condition| condition.message.clone());
        message.unwrap_or_default()
    };
    let mut builder = ChainBuilder::of(observed);
    let message = "being deleted: first all that is in it";
    builder.link(object.clone(), "Terminating", message, Some(since.0));
    builder.remedy("nothing to do; it is removed after its contents");
    let failed = [
        "NamespaceDeletionDiscoveryFailure",
        "NamespaceDeletionGroupVersionParsingFailure",
        "NamespaceDeletionContentFailure",
    ];
    if let Some(failed) = failed.into_iter().find_map(&holds) {
        let reason = failed.reason.clone().unwrap_or_default();
        builder.link(object.clone(), reason, said(Some(failed)), None);
        builder.remedy(
            Remedy::new("a part of the API that does not answer has to answer again, or to go")
                .with("kubectl get apiservices"),
        );
    }
    let left = said(holds("NamespaceContentRemaining"));
    if !left.is_empty() {
        builder.link(object.clone(), "SomeResourcesRemain", &*left, None);
    }
    let finalizers = said(holds("NamespaceFinalizersRemaining"));
    if !finalizers.is_empty() {
        builder.link(object.clone(), "SomeFinalizersRemain", &*finalizers, None);
        let name = &object.name;
        let mut remedy = Remedy::new(
            "the owner of these finalizers must finish and remove them; to force the removal",
        );
        for resource in resources(&left) {
            remedy = remedy.with(format!(
                "kubectl -n {name} get {resource} -o name | xargs -r -n 1 kubectl -n {name} patch \
                 --type merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'"
            ));
        }
        builder.remedy(remedy);
    }
    let mut answer = Explanation::fine(object, "Terminating").waits([builder.chain()]);
    answer.notes = malformed(observed);
    answer
}

/// A note for each object of the namespace with malformed metadata.
fn malformed(observed: &ObservedNamespace) -> Vec<String> {
    let answers = metadata::malformed(observed).into_iter();
    let links =
        answers.filter_map(|answer| answer.chains.into_iter().next()?.links.into_iter().next());
    links
        .map(|link| format!("{}: {}", link.object.short(), link.message))
        .collect()
}

/// The resources of `Some resources are remaining: pods. has 1 resource instances, …`.
fn resources(left: &str) -> Vec<String> {
    let (_, list) = left.split_once(": ").unwrap_or(("", left));
    let words = list
        .split(", ")
        .filter_map(|part| part.split_whitespace().next());
    words
        .map(|resource| resource.trim_end_matches('.').to_owned())
        .filter(|resource| !resource.is_empty())
        .collect()
}
