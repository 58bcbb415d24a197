//! What is wrong with where a pod wants to run.

use object_model::{FieldError, names};

use crate::at::{At, Rules};
use crate::metadata;

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "PreferNoSchedule"];

/// Checks node selector, affinity, tolerations and spreading.
pub(super) fn validate(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    errors.extend(metadata::labels(&spec.get("nodeSelector")));
    errors.extend(tolerations(&spec.get("tolerations")));
    let affinity = spec.get("affinity");
    node_affinity(&affinity.get("nodeAffinity"), errors);
    for field in ["podAffinity", "podAntiAffinity"] {
        pod_affinity(&affinity.get(field), errors);
    }
    for constraint in spec.get("topologySpreadConstraints").items() {
        spread(&constraint, errors);
    }
    for gate in spec.get("schedulingGates").items() {
        errors.check_text(&gate.get("name"), names::qualified_name);
    }
    errors.extend(metadata::duplicates(&spec.get("schedulingGates"), "name"));
}

/// All that is wrong with a list of tolerations.
pub(crate) fn tolerations(list: &At<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for toleration in list.items() {
        let (key, operator) = (toleration.get("key"), toleration.get("operator"));
        let (effect, value) = (toleration.get("effect"), toleration.get("value"));
        errors.check_text_if_set(&key, names::qualified_name);
        if key.is_empty() && operator.text() != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all \
                          values and all keys\"";
            errors.push(FieldError::invalid(&operator.path, operator.text(), detail));
        }
        if toleration.get("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&effect.path, effect.text(), detail));
        }
        match operator.text() {
            "" | "Equal" => {
                let clauses = names::label_value(value.text());
                if !clauses.is_empty() {
                    let detail = clauses.join(";");
                    errors.push(FieldError::invalid(&operator.path, value.text(), detail));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    let detail = "value must be empty when `operator` is 'Exists'";
                    let whole = toleration.value.clone();
                    errors.push(FieldError::invalid(&operator.path, whole, detail));
                }
            }
            _ => errors.push(operator.not_supported(&["Equal", "Exists"])),
        }
        errors.check_one_of_if_set(&effect, EFFECTS);
    }
    errors
}

fn node_affinity(affinity: &At<'_>, errors: &mut Vec<FieldError>) {
    let required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        let terms = required.get("nodeSelectorTerms");
        if terms.is_empty() {
            errors.push(terms.required("must have at least one node selector term"));
        }
        for term in terms.items() {
            node_term(&term, errors);
        }
    }
    for preference in affinity
        .get("preferredDuringSchedulingIgnoredDuringExecution")
        .items()
    {
        weight(&preference.get("weight"), errors);
        node_term(&preference.get("preference"), errors);
    }
}

fn weight(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if !at.int().is_some_and(|weight| (1..=100).contains(&weight)) {
        errors.push(at.invalid("must be in the range 1-100"));
    }
}

fn node_term(term: &At<'_>, errors: &mut Vec<FieldError>) {
    for expression in term.get("matchExpressions").items() {
        node_requirement(&expression, errors);
        errors.check_text(&expression.get("key"), names::qualified_name);
    }
    for expression in term.get("matchFields").items() {
        let (key, operator) = (expression.get("key"), expression.get("operator"));
        if !matches!(operator.text(), "In" | "NotIn") {
            errors.push(operator.invalid("not a valid selector operator"));
        } else if expression
            .get("values")
            .value
            .as_array()
            .map_or(0, Vec::len)
            != 1
        {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field \
                          selector";
            errors.push(expression.get("values").required(detail));
        }
        if key.text() != "metadata.name" {
            errors.push(key.invalid("not a valid field selector key"));
        }
    }
}

fn node_requirement(expression: &At<'_>, errors: &mut Vec<FieldError>) {
    let (operator, values) = (expression.get("operator"), expression.get("values"));
    let count = values.value.as_array().map_or(0, Vec::len);
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

fn pod_affinity(affinity: &At<'_>, errors: &mut Vec<FieldError>) {
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

fn pod_term(term: &At<'_>, errors: &mut Vec<FieldError>) {
    errors.extend(metadata::label_selector(&term.get("labelSelector")));
    errors.extend(metadata::label_selector(&term.get("namespaceSelector")));
    for namespace in term.get("namespaces").items() {
        errors.check_text(&namespace, names::dns_label);
    }
    topology_key(&term.get("topologyKey"), errors);
}

fn topology_key(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if at.is_empty() {
        errors.push(at.required("can not be empty"));
    } else {
        errors.check_text(at, names::qualified_name);
    }
}

fn spread(constraint: &At<'_>, errors: &mut Vec<FieldError>) {
    let skew = constraint.get("maxSkew");
    if skew.int().unwrap_or_default() <= 0 {
        errors.push(skew.invalid("must be greater than zero"));
    }
    topology_key(&constraint.get("topologyKey"), errors);
    let ways = ["DoNotSchedule", "ScheduleAnyway"];
    let unsatisfiable = constraint.get("whenUnsatisfiable");
    if !ways.contains(&unsatisfiable.text()) {
        errors.push(unsatisfiable.not_supported(&ways));
    }
    errors.extend(metadata::label_selector(&constraint.get("labelSelector")));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(spec: Value) -> Vec<String> {
        let mut errors = Vec::new();
        validate(&At::root(&spec), &mut errors);
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
                "tolerations[1].operator: Invalid value: {\"key\":\"a\",\"operator\":\"Exists\",\
                 \"value\":\"b\"}: value must be empty when `operator` is 'Exists'",
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
        assert_eq!(errors.len(), 3);
        assert!(errors[0].ends_with("must be specified when `operator` is 'In' or 'NotIn'"));
        assert!(errors[1].ends_with("must be in the range 1-100"));
        assert!(errors[2].ends_with("topologyKey: Required value: can not be empty"));
    }
}
