//! The fields that a rule reads, and the texts of its findings.

use std::collections::BTreeSet;

use json_tree::Value;

/// A violation: its short text, and the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) reason: &'static str,
    detail: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.reason, self.detail)
    }
}

pub(super) fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// All containers, in the order of the messages.
pub(super) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| list(&pod["spec"][field]))
}

/// The names of the containers for which `is_bad` is true.
pub(super) fn bad<'p>(pod: &'p Value, mut is_bad: impl FnMut(&'p Value) -> bool) -> Vec<&'p str> {
    let names = containers(pod).filter(|container| is_bad(container));
    names.map(|container| text(container, "name")).collect()
}

pub(super) fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items
        .into_iter()
        .map(|item| format!("\"{}\"", item.as_ref()))
        .collect();
    items.join(", ")
}

pub(super) fn one_or_many(count: usize, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

/// `container "a"`, `containers "a", "b"`.
pub(super) fn container_list(names: &[&str]) -> String {
    let word = one_or_many(names.len(), "container", "containers");
    format!("{word} {}", quoted(names))
}

/// `pod and container "a"`; empty if neither the pod nor a container sets the value.
pub(super) fn setters(pod: bool, names: &[&str]) -> String {
    let mut all = Vec::new();
    if pod {
        all.push("pod".to_owned());
    }
    if !names.is_empty() {
        all.push(container_list(names));
    }
    all.join(" and ")
}

/// The pod and the containers that set a forbidden value in their security context, and the values.
pub(super) fn bad_values<'p>(
    pod: &'p Value,
    field: &str,
    is_bad: impl Fn(&Value) -> bool,
) -> (String, BTreeSet<&'p str>) {
    let mut values = BTreeSet::new();
    let mut collect = |holder: &'p Value| {
        let value = &holder["securityContext"][field];
        let is_offender = !value.is_null() && is_bad(value);
        if is_offender {
            values.insert(value.as_str().unwrap_or_else(|| text(value, "type")));
        }
        is_offender
    };
    let by_pod = collect(&pod["spec"]);
    let by_containers = bad(pod, &mut collect);
    (setters(by_pod, &by_containers), values)
}
