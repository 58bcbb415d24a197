//! `matchLabelKeys` and `mismatchLabelKeys` of affinity terms and topology spread constraints: at the creation of a
//! pod, its labels with these keys are added to the selector (KEP-3633, KEP-3243).

use json_tree::{Value, json};

use crate::json::parts;
use crate::validation::field::Field;

/// Adds an expression to the selectors for each key that the pod has. A term without a selector selects no pod and is
/// not changed.
pub(super) fn merge(pod: &mut Value) {
    let spec = Field::of(pod, "spec");
    if !spec.get("topologySpreadConstraints").is_set() && !spec.get("affinity").is_set() {
        return;
    }
    // The spec is removed from the pod meanwhile, because the labels of the pod are read.
    let Some(mut spec) = pod.get_mut("spec").map(Value::take) else {
        return;
    };
    let labels = &pod["metadata"]["labels"];
    for constraint in parts::each(&mut spec, "topologySpreadConstraints") {
        add(constraint, "matchLabelKeys", "In", labels);
    }
    let mut of_pods = spec.get_mut("affinity");
    for list in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = of_pods.as_mut().and_then(|all| all.get_mut(list)) else {
            continue;
        };
        for term in parts::each(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
            merge_term(term, labels);
        }
        for preference in parts::each(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = preference.get_mut("podAffinityTerm") {
                merge_term(term, labels);
            }
        }
    }
    pod["spec"] = spec;
}

fn merge_term(term: &mut Value, labels: &Value) {
    add(term, "matchLabelKeys", "In", labels);
    add(term, "mismatchLabelKeys", "NotIn", labels);
}

fn add(term: &mut Value, keys: &str, operator: &str, labels: &Value) {
    let keys = term[keys].as_array().cloned().unwrap_or_default();
    let Some(selector) = term.get_mut("labelSelector") else {
        return;
    };
    for key in keys.iter().filter_map(Value::as_str) {
        if let Some(value) = labels.get(key) {
            let expression = json!({"key": key, "operator": operator, "values": [value]});
            parts::push(selector, "matchExpressions", expression);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::core::pod::Pod;
    use crate::kind::Kind;

    fn pod(spec: &Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "default",
            "labels": {"app": "web", "version": "2"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        for (field, value) in spec.as_object().unwrap() {
            pod["spec"][field] = value.clone();
        }
        Pod.default(&mut pod);
        Pod.prepare_create(&mut pod);
        Pod.complete_create(&mut pod);
        pod
    }

    fn term(more: &Value) -> Value {
        let mut term =
            json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}});
        for (field, value) in more.as_object().unwrap() {
            term[field] = value.clone();
        }
        term
    }

    /// KEP-3633, "kube-apiserver", and KEP-3243: `key in (value)` and `key notin (value)`.
    #[test]
    fn the_labels_of_a_new_pod_are_a_part_of_the_selectors() {
        let both = json!({"matchLabelKeys": ["version", "absent"], "mismatchLabelKeys": ["app"]});
        let only_match = json!({"matchLabelKeys": ["version"], "maxSkew": 1,
            "whenUnsatisfiable": "DoNotSchedule"});
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        let preference = json!({"weight": 1, "podAffinityTerm": term(&both)});
        let affinity = json!({required: [term(&both)], preferred: [preference]});
        let spec = json!({"topologySpreadConstraints": [term(&only_match)],
            "affinity": {"podAffinity": affinity, "podAntiAffinity": affinity}});
        let pod = pod(&spec);
        let equal = json!({"key": "version", "operator": "In", "values": ["2"]});
        let unequal = json!({"key": "app", "operator": "NotIn", "values": ["web"]});
        let spread = "/spec/topologySpreadConstraints/0/labelSelector/matchExpressions";
        assert_eq!(pod.pointer(spread), Some(&json!([equal])));
        for list in ["podAffinity", "podAntiAffinity"] {
            let of_list = &pod["spec"]["affinity"][list];
            for selector in [
                &of_list[required][0]["labelSelector"],
                &of_list[preferred][0]["podAffinityTerm"]["labelSelector"],
            ] {
                let expected =
                    json!({"matchLabels": {"app": "web"}, "matchExpressions": [equal, unequal]});
                assert_eq!(*selector, expected, "{list}");
            }
        }
        assert_eq!(Pod.validate_create(&pod), []);
    }

    /// KEP-3633: a key in both lists is refused, because the merged selector contains it twice; an absent selector
    /// stays absent.
    #[test]
    fn a_key_of_the_selector_is_refused_when_the_pod_has_its_label() {
        let of_selector = |more: Value| {
            let affinity = json!({"podAffinity":
                {"requiredDuringSchedulingIgnoredDuringExecution": [term(&more)]}});
            pod(&json!({ "affinity": affinity }))
        };
        let errors = |pod: &Value| {
            let errors = Pod.validate_create(pod);
            let errors = errors.iter().map(ToString::to_string);
            errors.collect::<Vec<_>>()
        };
        let at = "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]";
        let twice = of_selector(json!({"matchLabelKeys": ["app"]}));
        let refused = format!(
            "{at}.matchLabelKeys[0]: Invalid value: \"app\": exists in both matchLabelKeys and labelSelector"
        );
        assert_eq!(errors(&twice), [refused]);
        assert_eq!(
            errors(&of_selector(json!({"mismatchLabelKeys": ["app"]}))),
            [""; 0]
        );
        let none = of_selector(json!({"labelSelector": null, "matchLabelKeys": ["app"]}));
        let refused = format!(
            "{at}.matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"
        );
        assert_eq!(errors(&none), [refused]);
    }
}
