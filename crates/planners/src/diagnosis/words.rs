//! Names, commands and texts that several answers share.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use resource_kinds::annotations;

use crate::ownership;

/// Longest text that is taken over from elsewhere, in characters.
const FOREIGN_TEXT_MAX: usize = 300;

pub(super) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

pub(super) fn spec(pod: &Pod) -> Option<&PodSpec> {
    pod.spec.as_ref()
}

pub(super) fn status(pod: &Pod) -> Option<&PodStatus> {
    pod.status.as_ref()
}

pub(super) fn phase(pod: &Pod) -> &str {
    status(pod)
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

pub(super) fn node_name(pod: &Pod) -> Option<&str> {
    let name = spec(pod)?.node_name.as_deref()?;
    (!name.is_empty()).then_some(name)
}

pub(super) fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<&'p PodCondition> {
    let mut conditions = status(pod)?.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind)
}

pub(super) fn changed_at(condition: Option<&PodCondition>) -> Option<Timestamp> {
    Some(condition?.last_transition_time.as_ref()?.0)
}

/// The finalizers that somebody has to take away; those of protection go by themselves.
pub(super) fn finalizers(meta: &ObjectMeta) -> Vec<&str> {
    let own = [annotations::PVC_PROTECTION, annotations::PV_PROTECTION];
    let all = meta.finalizers.iter().flatten().map(String::as_str);
    all.filter(|name| !own.contains(name)).collect()
}

pub(super) fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    ownership::controller(meta.owner_references.as_deref())
}

/// What to change to change the pod: its StatefulSet, its other owner, or itself.
pub(super) fn template_owner(pod: &Pod) -> String {
    match controller(&pod.metadata) {
        Some(owner) if owner.kind == "StatefulSet" => format!("sts/{}", owner.name),
        Some(owner) => format!("{}/{}", owner.kind.to_lowercase(), owner.name),
        None => format!("pod/{}", name(&pod.metadata)),
    }
}

/// `kubectl -n NAMESPACE ` and the rest.
pub(super) fn kubectl(meta: &ObjectMeta, rest: &str) -> String {
    match meta.namespace.as_deref() {
        None | Some("") => format!("kubectl {rest}"),
        Some(namespace) => format!("kubectl -n {namespace} {rest}"),
    }
}

/// A text from elsewhere as one line of bounded length.
pub(super) fn line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    match text.char_indices().nth(FOREIGN_TEXT_MAX) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text,
    }
}

/// `, TEXT` or nothing.
pub(super) fn then(separator: &str, text: &str) -> String {
    let text = line(text);
    if text.is_empty() {
        text
    } else {
        format!("{separator}{text}")
    }
}

pub(super) fn created_at(meta: &ObjectMeta) -> Option<Timestamp> {
    Some(meta.creation_timestamp.as_ref()?.0)
}

/// `web-1`, `web-1 and web-2`, `web-1, web-2, web-3 and 4 more`.
pub(super) fn list<'n>(names: impl Iterator<Item = &'n str>) -> String {
    const SHOWN_MAX: usize = 3;
    let names: Vec<&str> = names.collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        many if many.len() > SHOWN_MAX => format!(
            "{} and {} more",
            many[..SHOWN_MAX].join(", "),
            many.len() - SHOWN_MAX
        ),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
