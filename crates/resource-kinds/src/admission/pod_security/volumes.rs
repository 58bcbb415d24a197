//! Rules for volumes.

use std::collections::BTreeSet;

use json_tree::Value;

use super::words::{Violation, list, one_or_many, quoted, text, violation};

pub(super) fn host_path(pod: &Value) -> Option<Violation> {
    let volumes = list(&pod["spec"]["volumes"]).iter();
    let used = volumes.filter(|volume| !volume["hostPath"].is_null());
    let names: Vec<&str> = used.map(|volume| text(volume, "name")).collect();
    if names.is_empty() {
        return None;
    }
    let word = one_or_many(names.len(), "volume", "volumes");
    violation("hostPath volumes", format!("{word} {}", quoted(names)))
}

const HARMLESS_VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

pub(super) fn volume_types(pod: &Value) -> Option<Violation> {
    let mut names = Vec::new();
    let mut types = BTreeSet::new();
    for volume in list(&pod["spec"]["volumes"]) {
        let fields = volume.as_object().into_iter().flatten();
        let source = fields
            .filter(|(field, value)| *field != "name" && !value.is_null())
            .map(|(field, _)| field.as_str())
            .next();
        if source.is_some_and(|source| HARMLESS_VOLUMES.contains(&source)) {
            continue;
        }
        names.push(text(volume, "name"));
        types.insert(source.unwrap_or("unknown"));
    }
    if names.is_empty() {
        return None;
    }
    let volumes = one_or_many(names.len(), "volume", "volumes");
    let uses = one_or_many(names.len(), "uses", "use");
    let word = one_or_many(
        types.len(),
        "restricted volume type",
        "restricted volume types",
    );
    violation(
        "restricted volume types",
        format!(
            "{volumes} {} {uses} {word} {}",
            quoted(&names),
            quoted(&types)
        ),
    )
}
