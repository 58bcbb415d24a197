//! Warnings about valid but questionable fields.

use std::collections::BTreeMap;

use object_model::Quantity;

use super::container_lists;
use crate::validation::field::Field;
use crate::validation::text_set::TextSet;

/// Deprecated node labels, with the version of the deprecation and the replacement.
const OLD_NODE_LABELS: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "v1.17",
        "topology.kubernetes.io/region",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "v1.17",
        "topology.kubernetes.io/zone",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "v1.17",
        "node.kubernetes.io/instance-type",
    ),
];

/// Warnings about the spec of a pod.
pub(crate) fn warnings(spec: &Field<'_, '_>) -> Vec<String> {
    let mut all = Vec::new();
    for (key, at) in spec.get("nodeSelector").entries() {
        if let Some((_, since, better)) = OLD_NODE_LABELS.iter().find(|(old, ..)| *old == key) {
            let path = &at.path();
            all.push(format!(
                "{path}: deprecated since {since}; use \"{better}\" instead"
            ));
        }
    }
    let grace = spec.get("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|seconds| seconds < 0) {
        let path = &grace.path();
        all.push(format!(
            "{path}: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    let mut aliases: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, secret) in spec.get("imagePullSecrets").items().enumerate() {
        if secret.get("name").is_empty() {
            let path = secret.get("name").path();
            all.push(format!("{path}: invalid empty name \"\""));
            continue;
        }
        if let Some(first) = aliases.insert(secret.get("name").text(), index) {
            let name = secret.get("name");
            let list = spec.get("imagePullSecrets").path();
            all.push(format!(
                "{}: duplicate name \"{}\" with {list}[{first}].name",
                name.path(),
                name.text()
            ));
        }
    }
    for container in container_lists(spec).iter().flat_map(Field::items) {
        variables(&container, &mut all);
        ports(&container, &mut all);
        all.extend(fractions(&container));
    }
    all
}

fn variables(container: &Field<'_, '_>, all: &mut Vec<String>) {
    let mut names = TextSet::default();
    for variable in container.get("env").items() {
        let name = variable.get("name").text();
        if !names.insert(name) {
            let path = &variable.path();
            all.push(format!(
                "{path}: hides previous definition of \"{name}\", which may be dropped when using \
                 apply"
            ));
        }
    }
}

fn ports(container: &Field<'_, '_>, all: &mut Vec<String>) {
    let ports = container.get("ports");
    if ports.len() < 2 {
        return;
    }
    let mut ports_by_key = BTreeMap::new();
    for port in ports.items() {
        let key = (port.get("containerPort").int(), port.get("protocol").text());
        let host = (port.get("hostPort").int(), port.get("hostIP").text());
        let first = *ports_by_key.entry((key, host)).or_insert(port);
        if !std::ptr::eq(first.value, port.value) {
            let (path, first) = (port.path(), first.path());
            all.push(format!("{path}: duplicate port definition with {first}"));
        }
    }
}

/// Warnings about amounts in bytes that are not whole numbers, in the `resources` of this field.
pub(crate) fn fractions(holder: &Field<'_, '_>) -> Vec<String> {
    let mut all = Vec::new();
    for list in ["limits", "requests"] {
        for (name, amount) in holder.get("resources").get(list).entries() {
            let is_whole = || Quantity::from_json(amount.value).is_ok_and(|q| q.is_integer());
            if matches!(name, "memory" | "ephemeral-storage" | "storage") && !is_whole() {
                let (path, text) = (&amount.path(), amount.text());
                all.push(format!(
                    "{path}: fractional byte value \"{text}\" is invalid, must be an integer"
                ));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn what_hides_something_else_is_pointed_out() {
        let spec = json!({"containers": [{"env": [{"name": "A"}, {"name": "A"}],
            "ports": [{"containerPort": 1}, {"containerPort": 1}],
            "resources": {"limits": {"memory": "100m"}}}]});
        assert_eq!(
            warnings(&Field::root(&spec)),
            [
                "containers[0].env[1]: hides previous definition of \"A\", which may be dropped \
                 when using apply",
                "containers[0].ports[1]: duplicate port definition with containers[0].ports[0]",
                "containers[0].resources.limits[memory]: fractional byte value \"100m\" is \
                 invalid, must be an integer",
            ]
        );
    }
}
