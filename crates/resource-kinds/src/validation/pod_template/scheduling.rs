//! Validation of the scheduling fields of a pod.

use object_model::{FieldError, names};

use super::spread;
use crate::validation::field::{Field, Rules};
use crate::validation::metadata;
use crate::validation::text_set::TextSet;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Checks node affinity, pod affinity and pod anti-affinity.
pub(super) fn affinity(affinity: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    node_affinity(&affinity.get("nodeAffinity"), errors);
    for field in ["podAffinity", "podAntiAffinity"] {
        pod_affinity(&affinity.get(field), errors);
    }
}

/// Validates readiness gates and scheduling gates.
pub(super) fn gates(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    for gate in spec.get("readinessGates").items() {
        errors.check_text(&gate.get("conditionType"), names::qualified_name);
    }
    let mut unique = TextSet::default();
    for gate in spec.get("schedulingGates").items() {
        let name = gate.get("name").text();
        let clauses = names::qualified_name(name).into_iter();
        errors.extend(clauses.map(|clause| FieldError::invalid(&gate.path(), name, clause)));
        if !unique.insert(name) {
            errors.push(FieldError::duplicate(&gate.path(), name));
        }
    }
}

/// The validation errors of a list of tolerations.
pub(crate) fn tolerations(list: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for toleration in list.items() {
        let (key, operator) = (toleration.get("key"), toleration.get("operator"));
        let (effect, value) = (toleration.get("effect"), toleration.get("value"));
        errors.check_text_if_set(&key, names::qualified_name);
        if key.is_empty() && operator.text() != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all \
                          values and all keys\"";
            errors.push(FieldError::invalid(
                &operator.path(),
                operator.text(),
                detail,
            ));
        }
        if toleration.get("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&effect.path(), effect.text(), detail));
        }
        match operator.text() {
            "" | "Equal" => {
                let clauses = names::label_value(value.text());
                if !clauses.is_empty() {
                    let detail = clauses.join(";");
                    errors.push(FieldError::invalid(&operator.path(), value.text(), detail));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    let detail = "value must be empty when `operator` is 'Exists'";
                    errors.push(FieldError::invalid(&operator.path(), value.text(), detail));
                }
            }
            _ => errors.push(operator.not_supported(&["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            errors.check_among(&effect, EFFECTS);
        }
    }
    errors
}

fn node_affinity(affinity: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        node_selector(&required, errors);
    }
    for preference in affinity
        .get("preferredDuringSchedulingIgnoredDuringExecution")
        .items()
    {
        weight(&preference.get("weight"), errors);
        node_term(&preference.get("preference"), errors);
    }
}

/// Checks a selector of nodes.
pub(crate) fn node_selector(selector: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let terms = selector.get("nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(terms.required("must have at least one node selector term"));
    }
    for term in terms.items() {
        node_term(&term, errors);
        label_values(&term, errors);
    }
}

/// Only required terms must be satisfiable; a preference may select labels that no node has.
fn label_values(term: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    for expression in term.get("matchExpressions").items() {
        for value in expression.get("values").items() {
            errors.check_text(&value, names::label_value);
        }
    }
}

fn weight(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if !at.int().is_some_and(|weight| (1..=100).contains(&weight)) {
        errors.push(at.invalid("must be in the range 1-100"));
    }
}

fn node_term(term: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    for expression in term.get("matchExpressions").items() {
        node_requirement(&expression, errors);
        errors.check_text(&expression.get("key"), names::qualified_name);
    }
    for expression in term.get("matchFields").items() {
        let (key, operator) = (expression.get("key"), expression.get("operator"));
        if !matches!(operator.text(), "In" | "NotIn") {
            errors.push(operator.invalid("not a valid selector operator"));
        } else if expression.get("values").len() != 1 {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field \
                          selector";
            errors.push(expression.get("values").required(detail));
        }
        if key.text() != "metadata.name" {
            errors.push(key.invalid("not a valid field selector key"));
            continue;
        }
        for value in expression.get("values").items() {
            errors.check_text(&value, names::dns_subdomain);
        }
    }
}

fn node_requirement(expression: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let (operator, values) = (expression.get("operator"), expression.get("values"));
    let count = values.len();
    match operator.text() {
        "In" | "NotIn" if count == 0 => {
            errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(values.forbidden(detail));
        }
        "Gt" | "Lt" if count != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(values.required(detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        _ => errors.push(operator.invalid("not a valid selector operator")),
    }
}

fn pod_affinity(affinity: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    for term in affinity
        .get("requiredDuringSchedulingIgnoredDuringExecution")
        .items()
    {
        pod_term(&term, errors);
    }
    for preference in affinity
        .get("preferredDuringSchedulingIgnoredDuringExecution")
        .items()
    {
        weight(&preference.get("weight"), errors);
        pod_term(&preference.get("podAffinityTerm"), errors);
    }
}

fn pod_term(term: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    errors.extend(metadata::label_selector(&term.get("labelSelector")));
    errors.extend(metadata::label_selector(&term.get("namespaceSelector")));
    for namespace in term.get("namespaces").items() {
        errors.check_text(&namespace, names::dns_label);
    }
    spread::label_keys(term, errors);
    let key = term.get("topologyKey");
    if key.is_empty() {
        errors.push(key.required("can not be empty"));
    }
    errors.check_text(&key, names::qualified_name);
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn check(spec: Value) -> Vec<String> {
        let spec = Field::root(&spec);
        let mut errors = tolerations(&spec.get("tolerations"));
        affinity(&spec.get("affinity"), &mut errors);
        gates(&spec, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn tolerations_are_consistent() {
        assert!(
            check(json!({"tolerations": [{"operator": "Exists"},
            {"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 3}]}))
            .is_empty()
        );
        assert_eq!(
            check(
                json!({"tolerations": [{}, {"key": "a", "operator": "Exists", "value": "b"},
                {"key": "a", "tolerationSeconds": 3}]})
            ),
            [
                "tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` \
                 is empty, which means \"match all values and all keys\"",
                "tolerations[1].operator: Invalid value: \"b\": value must be empty when `operator` \
                 is 'Exists'",
                "tolerations[2].effect: Invalid value: \"\": effect must be 'NoExecute' when \
                 `tolerationSeconds` is set",
            ]
        );
    }

    #[test]
    fn affinity_terms_are_complete() {
        let spec = json!({"affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 0, "podAffinityTerm": {}}]}}});
        let errors = check(spec);
        // An empty key causes two errors: it is missing, and it is not a valid key.
        assert_eq!(errors.len(), 5, "{errors:#?}");
        assert!(errors[0].ends_with("must be specified when `operator` is 'In' or 'NotIn'"));
        assert!(errors[1].ends_with("must be in the range 1-100"));
        assert!(errors[2].ends_with("topologyKey: Required value: can not be empty"));
    }

    #[test]
    fn requirements_of_nodes_are_consistent() {
        let table = [
            (
                json!({"key": "a", "operator": "In", "values": ["b"]}),
                vec![],
            ),
            (
                json!({"key": "a", "operator": "In", "values": ["-"]}),
                vec!["values[0]: Invalid value: \"-\": a valid label must be"],
            ),
            (
                json!({"key": "a", "operator": "Exists", "values": ["b"]}),
                vec!["values: Forbidden: may not be specified when `operator` is 'Exists'"],
            ),
            (
                json!({"key": "a", "operator": "Gt", "values": ["1", "2"]}),
                vec!["values: Required value: must be specified single value"],
            ),
            (
                json!({"key": "a", "operator": "?"}),
                vec!["operator: Invalid value: \"?\": not a valid selector operator"],
            ),
        ];
        let at = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.\
                  nodeSelectorTerms[0]";
        let required = |term: Value| {
            check(json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}}))
        };
        for (expression, expected) in table {
            let errors = required(json!({"matchExpressions": [expression]}));
            assert_eq!(errors.len(), expected.len(), "{errors:#?}");
            for (error, start) in errors.iter().zip(expected) {
                assert!(
                    error.starts_with(&format!("{at}.matchExpressions[0].{start}")),
                    "{error}"
                );
            }
        }
        let field = json!({"key": "metadata.name", "operator": "In", "values": ["A"]});
        let errors = required(json!({"matchFields": [field]}));
        assert!(errors[0].starts_with(&format!(
            "{at}.matchFields[0].values[0]: Invalid value: \"A\""
        )));
    }

    #[test]
    fn gates_are_named_once() {
        let errors =
            check(json!({"schedulingGates": [{"name": "a"}, {"name": "a"}, {"name": "/"}]}));
        assert_eq!(errors[0], "schedulingGates[1]: Duplicate value: \"a\"");
        assert!(errors[1].starts_with("schedulingGates[2]: Invalid value: \"/\""));
    }
}
