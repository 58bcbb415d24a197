//! Names, commands and texts that several diagnoses share.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use resource_kinds::annotations;
use resource_kinds::pod_view::Condition;

/// Maximum length of a text from other programs, in characters.
const FOREIGN_TEXT_MAX: usize = 300;

/// The name of an object; empty if it has none.
pub fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// The namespace of an object; empty if it has none.
pub fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// The time since when a condition has its status.
pub fn changed_at(condition: Option<&Condition>) -> Option<Timestamp> {
    condition?.since
}

/// The finalizers that no controller of this program removes. The finalizers of volume protection are
/// removed automatically.
pub fn finalizers<'f>(all: impl IntoIterator<Item = &'f (impl AsRef<str> + 'f)>) -> Vec<&'f str> {
    let protections = [annotations::PVC_PROTECTION, annotations::PV_PROTECTION];
    let all = all.into_iter().map(AsRef::as_ref);
    all.filter(|name| !protections.contains(name)).collect()
}

/// `kubectl -n NAMESPACE ` followed by `rest`.
pub fn kubectl(namespace: &str, rest: &str) -> String {
    match namespace {
        "" => format!("kubectl {rest}"),
        namespace => format!("kubectl -n {namespace} {rest}"),
    }
}

/// A text from another program as one line of limited length.
pub fn line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    match text.char_indices().nth(FOREIGN_TEXT_MAX) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text,
    }
}

/// The separator and the text as one line; empty if the text is empty.
pub fn then(separator: &str, text: &str) -> String {
    let text = line(text);
    if text.is_empty() {
        text
    } else {
        format!("{separator}{text}")
    }
}

/// `web-1`, `web-1 and web-2`, `web-1, web-2, web-3 and 4 more`.
pub fn list<'n>(names: impl Iterator<Item = &'n str>) -> String {
    const PRINTED_MAX: usize = 3;
    let names: Vec<&str> = names.collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        many if many.len() > PRINTED_MAX => format!(
            "{} and {} more",
            many[..PRINTED_MAX].join(", "),
            many.len() - PRINTED_MAX
        ),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The text between the first occurrence of `before` and the next occurrence of `after`.
pub fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    let (inner, _) = rest.split_once(after)?;
    (!inner.is_empty()).then_some(inner)
}
