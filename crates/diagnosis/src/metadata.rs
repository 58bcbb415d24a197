//! Explanations from metadata alone: for kinds without an explanation of their spec, and for malformed metadata in the
//! store.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pod_lifecycle::diagnosis::{Remedy, text};
use resource_kinds::annotations::MALFORMED_METADATA;
use resource_kinds::reasons::metadata::MALFORMED;

use super::chain_builder::ChainBuilder;
use super::deletion::blocked_deletion;
use super::explanation::{Explanation, Object};
use super::observed::{self, ObservedNamespace};

/// Explains an object by its metadata: why the object is not deleted yet, and which parts of the stored metadata are
/// malformed.
pub fn explain_metadata(kind: &str, meta: &ObjectMeta, now: Timestamp) -> Explanation {
    let observed = ObservedNamespace::of(text::namespace(meta), now);
    let namespace = meta.namespace.as_deref();
    let object = Object::new(kind.to_owned(), namespace, text::name(meta));
    let annotations = meta.annotations.as_ref();
    let malformed = annotations.and_then(|all| all.get(MALFORMED_METADATA));
    let deletion = blocked_deletion(&observed, &object, meta);
    let summary = match (malformed, &deletion) {
        (Some(_), _) => MALFORMED,
        (None, Some(_)) => "Terminating",
        (None, None) => "by its metadata",
    };
    let malformed = malformed.map(|parts| {
        let mut builder = ChainBuilder::of(&observed);
        let message = format!("the stored metadata are malformed: {parts} left out");
        builder.link(object.clone(), MALFORMED, message, None);
        builder.remedy(remedy(&object));
        builder.chain()
    });
    let chains = malformed.into_iter().chain(deletion);
    Explanation::fine(object, summary)
        .waits(chains)
        .note("only the metadata of this kind are looked at")
}

fn remedy(object: &Object) -> Remedy {
    let command = format!("edit {} {}", object.kind.to_lowercase(), object.name);
    let namespace = object.namespace.as_deref().unwrap_or_default();
    let text = "write the object with the metadata that it shall have, or delete it";
    Remedy::new(text).with(text::kubectl(namespace, &command))
}

/// The objects of the namespace with malformed metadata, as the events name them.
pub(super) fn malformed(observed: &ObservedNamespace) -> Vec<Explanation> {
    let mut newest: BTreeMap<Object, &Event> = BTreeMap::new();
    let events = observed.events.iter().map(AsRef::as_ref);
    for event in events.filter(|event| event.reason.as_deref() == Some(MALFORMED)) {
        let on = &event.involved_object;
        let kind = on.kind.clone().unwrap_or_default();
        let name = on.name.as_deref().unwrap_or_default();
        let object = Object::new(kind, on.namespace.as_deref(), name);
        let newest_event = newest.entry(object).or_insert(event);
        if observed::last_seen(event) > observed::last_seen(newest_event) {
            *newest_event = event;
        }
    }
    let explanations = newest.into_iter().map(|(object, event)| {
        let mut builder = ChainBuilder::of(observed);
        builder.event(event, object.clone());
        builder.remedy(remedy(&object));
        Explanation::fine(object, MALFORMED).waits([builder.chain()])
    });
    explanations.collect()
}
