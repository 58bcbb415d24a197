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
        let mut explanation = Explanation::fine(object, "Active");
        explanation.notes = malformed(observed);
        return explanation;
    };
    let holds = |kind: &str| -> Option<&NamespaceCondition> {
        let mut conditions = namespace.status.as_ref()?.conditions.iter().flatten();
        conditions.find(|condition| condition.type_ == kind && condition.status == "True")
    };
    let message_of = |condition: Option<&NamespaceCondition>| {
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
        let message = message_of(Some(failed));
        builder.link(object.clone(), reason, &*message, None);
        builder.remedy(match api_services(&message).as_slice() {
            [] => Remedy::new("a part of the API that does not answer has to answer again, or to go")
                .with("kubectl get apiservices"),
            services => Remedy::new(format!(
                "the extension API server must respond; if it was removed permanently, delete its APIService: {}",
                services.join(", ")
            ))
            .with(format!("kubectl delete apiservice {}", services.join(" "))),
        });
    }
    let left = message_of(holds("NamespaceContentRemaining"));
    if !left.is_empty() {
        builder.link(object.clone(), "SomeResourcesRemain", &*left, None);
    }
    let finalizers = message_of(holds("NamespaceFinalizersRemaining"));
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
    let mut explanation = Explanation::fine(object, "Terminating").waits([builder.chain()]);
    explanation.notes = malformed(observed);
    explanation
}

/// A note for each object of the namespace with malformed metadata.
fn malformed(observed: &ObservedNamespace) -> Vec<String> {
    let explanations = metadata::malformed(observed).into_iter();
    let links = explanations.filter_map(|explanation| {
        explanation
            .chains
            .into_iter()
            .next()?
            .links
            .into_iter()
            .next()
    });
    links
        .map(|link| format!("{}: {}", link.object.short(), link.message))
        .collect()
}

/// The APIServices of the group versions in `… server APIs: group/version: stale GroupVersion discovery: group/version, …`.
fn api_services(message: &str) -> Vec<String> {
    let (_, list) = message.split_once("server APIs: ").unwrap_or_default();
    let failed = list.split(", ").filter_map(|one| one.split_once(": "));
    let versions = failed.filter_map(|(name, _)| name.split_once('/'));
    let names = versions.filter(|(group, version)| {
        [group, version]
            .iter()
            .all(|word| !word.is_empty() && !word.contains(' '))
    });
    names
        .map(|(group, version)| format!("{version}.{group}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_names_the_api_services() {
        let message = "Discovery failed for some groups, 2 failing: unable to retrieve the complete list of server \
             APIs: a.example/v1: stale GroupVersion discovery: a.example/v1, b.example/v2: no response";
        assert_eq!(api_services(message), ["v1.a.example", "v2.b.example"]);
        assert_eq!(api_services("something else"), [""; 0]);
    }
}
