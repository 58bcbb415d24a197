//! Validation of topology spread constraints, and of `matchLabelKeys`, whose values come from the pod's labels.

use std::collections::BTreeSet;

use object_model::{FieldError, names};

use crate::validation::field::{Field, Rules};
use crate::validation::metadata;

const UNSATISFIABLE: &[&str] = &["DoNotSchedule", "ScheduleAnyway"];
const NODE_POLICIES: &[&str] = &["Honor", "Ignore"];
const NOT_POSITIVE: &str = "must be greater than zero";

/// Checks the topology spread constraints of a pod.
pub(super) fn validate(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let constraints = spec.get("topologySpreadConstraints");
    for (index, constraint) in constraints.items().enumerate() {
        let skew = constraint.get("maxSkew");
        if skew.int().unwrap_or_default() <= 0 {
            errors.push(skew.invalid(NOT_POSITIVE));
        }
        let key = constraint.get("topologyKey");
        if key.is_empty() {
            errors.push(key.required("can not be empty"));
        }
        let otherwise = constraint.get("whenUnsatisfiable");
        if !UNSATISFIABLE.contains(&otherwise.text()) {
            errors.push(otherwise.not_supported(UNSATISFIABLE));
        }
        let pair = |of: &Field<'_, '_>| {
            let (key, otherwise) = (of.get("topologyKey"), of.get("whenUnsatisfiable"));
            format!("{{{}, {}}}", key.text(), otherwise.text())
        };
        let key = pair(&constraint);
        let mut later = constraints.items().skip(index + 1);
        if later.any(|other| pair(&other) == key) {
            let path = constraint.path().child("{topologyKey, whenUnsatisfiable}");
            errors.push(FieldError::duplicate(&path, key));
        }
        domains(&constraint.get("minDomains"), otherwise.text(), errors);
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            errors.check_one_of_if_set(&constraint.get(policy), NODE_POLICIES);
        }
        label_keys(&constraint, errors);
        errors.extend(metadata::label_selector(&constraint.get("labelSelector")));
    }
}

fn domains(at: &Field<'_, '_>, otherwise: &str, errors: &mut Vec<FieldError>) {
    let Some(count) = at.int() else {
        return;
    };
    if count <= 0 {
        errors.push(at.invalid(NOT_POSITIVE));
    }
    if otherwise != "DoNotSchedule" {
        let detail =
            format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {otherwise}");
        errors.push(at.invalid(detail));
    }
}

/// Checks `matchLabelKeys` and `mismatchLabelKeys` together with the selector that they extend.
pub(super) fn label_keys(holder: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let selector = holder.get("labelSelector");
    let lists = ["matchLabelKeys", "mismatchLabelKeys"].map(|list| holder.get(list));
    for list in lists.iter().filter(|list| !list.is_empty()) {
        if !selector.is_set() {
            errors.push(list.forbidden("must not be specified when labelSelector is not set"));
            continue;
        }
        for key in list.items() {
            errors.check_text(&key, names::qualified_name);
        }
    }
    let labels = selector.get("matchLabels");
    let expressions = selector.get("matchExpressions");
    let [matching, mismatching] = lists;
    let mut selected: BTreeSet<&str> = labels.entries().map(|(key, _)| key).collect();
    for expression in expressions.items() {
        let key = expression.get("key");
        let is_named_before = !selected.insert(key.text());
        let mut matched = matching.items().filter(|one| one.text() == key.text());
        if is_named_before && let Some(matched) = matched.next() {
            errors.push(matched.invalid("exists in both matchLabelKeys and labelSelector"));
        }
    }
    for key in matching.items() {
        if mismatching.items().any(|other| other.text() == key.text()) {
            errors.push(key.invalid("exists in both matchLabelKeys and mismatchLabelKeys"));
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn check(constraints: Value) -> Vec<String> {
        let spec = json!({"topologySpreadConstraints": constraints});
        let mut errors = Vec::new();
        validate(&Field::root(&spec), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn constraints_are_complete_and_differ() {
        let with = |field: &str, value: Value| {
            let mut constraint = json!({"maxSkew": 1, "topologyKey": "zone",
                "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"a": "b"}}});
            constraint[field] = value;
            constraint
        };
        let fine = with("nodeTaintsPolicy", json!("Honor"));
        let policies = "supported values: \"Honor\", \"Ignore\"";
        let table = [
            (json!([fine]), vec![]),
            (
                json!([fine, fine]),
                vec![
                    "{topologyKey, whenUnsatisfiable}: Duplicate value: \"{zone, \
                     ScheduleAnyway}\""
                        .to_owned(),
                ],
            ),
            (
                json!([with("maxSkew", json!(0))]),
                vec![format!("maxSkew: Invalid value: 0: {NOT_POSITIVE}")],
            ),
            (
                json!([with("topologyKey", json!(""))]),
                vec!["topologyKey: Required value: can not be empty".to_owned()],
            ),
            (
                json!([with("whenUnsatisfiable", json!("Never"))]),
                vec![
                    "whenUnsatisfiable: Unsupported value: \"Never\": supported values: \
                     \"DoNotSchedule\", \"ScheduleAnyway\""
                        .to_owned(),
                ],
            ),
            (
                json!([with("minDomains", json!(0))]),
                vec![
                    format!("minDomains: Invalid value: 0: {NOT_POSITIVE}"),
                    "minDomains: Invalid value: 0: can only use minDomains if \
                     whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway"
                        .to_owned(),
                ],
            ),
            (
                json!([with("nodeAffinityPolicy", json!("No"))]),
                vec![format!(
                    "nodeAffinityPolicy: Unsupported value: \"No\": {policies}"
                )],
            ),
            // As in Kubernetes since 1.34: a template may have the key in both; a pod that has the label may not.
            (json!([with("matchLabelKeys", json!(["a"]))]), vec![]),
        ];
        for (constraints, expected) in table {
            let expected: Vec<String> = expected
                .iter()
                .map(|error| format!("topologySpreadConstraints[0].{error}"))
                .collect();
            assert_eq!(check(constraints), expected);
        }
    }

    #[test]
    fn keys_of_labels_need_a_selector() {
        let check = |holder: Value| {
            let mut errors = Vec::new();
            label_keys(&Field::root(&holder), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            check(json!({"mismatchLabelKeys": ["a"]})),
            ["mismatchLabelKeys: Forbidden: must not be specified when labelSelector is not set"]
        );
        let twice = json!([{"key": "a", "operator": "Exists"},
            {"key": "a", "operator": "In", "values": ["b"]}]);
        assert_eq!(
            check(
                json!({"labelSelector": {"matchExpressions": twice}, "matchLabelKeys": ["c", "a"]})
            ),
            [
                "matchLabelKeys[1]: Invalid value: \"a\": exists in both matchLabelKeys and labelSelector"
            ]
        );
        assert_eq!(
            check(json!({"labelSelector": {}, "matchLabelKeys": ["a"],
                "mismatchLabelKeys": ["a"]})),
            [
                "matchLabelKeys[0]: Invalid value: \"a\": exists in both matchLabelKeys and \
                 mismatchLabelKeys"
            ]
        );
    }
}
