//! Objects that are being deleted, and the reason why they still exist.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pod_lifecycle::diagnosis::{Remedy, text};

use super::chain_builder::ChainBuilder;
use super::explanation::{CauseChain, Object};
use super::observed::ObservedNamespace;

/// The finalizers of the garbage collector.
const COLLECTORS: [&str; 2] = ["foregroundDeletion", "orphan"];

/// The finalizers that keep a terminating object; `None` for an object that is not being deleted.
pub(super) fn blocked_deletion(
    observed: &ObservedNamespace,
    object: &Object,
    meta: &ObjectMeta,
) -> Option<CauseChain> {
    let since = meta.deletion_timestamp.as_ref()?.0;
    let mut builder = ChainBuilder::of(observed);
    let all = text::finalizers(meta.finalizers.iter().flatten());
    let foreign: Vec<&str> = all
        .iter()
        .copied()
        .filter(|name| !COLLECTORS.contains(name))
        .collect();
    let object = object.clone();
    if let Some(list) = (!foreign.is_empty()).then(|| foreign.join(", ")) {
        let patch = format!(
            "patch {} {} --type merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'",
            object.kind.to_lowercase(),
            object.name
        );
        let namespace = object.namespace.clone().unwrap_or_default();
        let message = format!("being deleted: finalizers hold it: {list}");
        builder.link(object, "HeldByFinalizer", message, Some(since));
        let text = format!("the owner of {list} must finish and remove it; to force the removal");
        builder.remedy(Remedy::new(text).with(text::kubectl(&namespace, &patch)));
        return Some(builder.chain());
    }
    let dependents = observed.controlled(meta.uid.as_deref());
    let message = if all.is_empty() {
        "being deleted"
    } else {
        "being deleted: what it owns goes first (foreground deletion)"
    };
    builder.link(object, "Terminating", message, Some(since));
    builder.remedy("nothing to do; the garbage collector does the rest");
    if let Some(pod) = dependents.first() {
        builder.pod(pod);
    }
    Some(builder.chain())
}
