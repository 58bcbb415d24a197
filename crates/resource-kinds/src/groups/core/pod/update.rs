//! Validation of a pod's updates (`statefulset.md` 12.10).

use json_tree::Value;
use object_model::FieldError;

use super::difference;
use crate::json::parts;
use crate::validation::field::Field;
use crate::validation::pod_template;

const SPEC_IMMUTABLE: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const REQUIRED_TERMS: &str =
    "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";

/// The errors of a pod's update. Values that were stored under laxer rules may stay.
pub(super) fn validate(object: &Value, old: &Value) -> Vec<FieldError> {
    let (pod, old_pod) = (Field::root(object), Field::root(old));
    let (new_spec, old_spec) = (pod.get("spec"), old_pod.get("spec"));
    let is_same = new_spec.value == old_spec.value;
    // Most updates of pods change only the metadata, and the validation of the spec does not depend on the metadata.
    let rules: fn(&Field<'_, '_>) -> Vec<FieldError> = match is_same {
        true => pod_template::validate_annotations,
        false => pod_template::validate_pod,
    };
    let mut errors = rules(&pod);
    if !errors.is_empty() {
        drop_existing(&mut errors, &rules(&old_pod));
    }
    errors.extend(pod_template::validate_annotations_update(&pod, &old_pod));
    if is_same {
        return errors;
    }
    for list in ["containers", "initContainers"] {
        let new = new_spec.get(list);
        if new.len() != old_spec.get(list).len() {
            errors.push(new.forbidden("pod updates may not add or remove containers"));
            return errors;
        }
    }
    deadline(&new_spec, &old_spec, &mut errors);
    tolerations(&new_spec, &old_spec, &mut errors);
    gates(&new_spec, &old_spec, &mut errors);
    let gated = !old_spec.get("schedulingGates").is_empty();
    if gated {
        node_selector(&new_spec, &old_spec, &mut errors);
        node_affinity(&new_spec, &old_spec, &mut errors);
    }
    let comparable = like_before(new_spec.value, old_spec.value, gated);
    if comparable != *old_spec.value {
        let changes = difference::unified(old_spec.value, &comparable);
        errors.push(new_spec.forbidden(format!("{SPEC_IMMUTABLE}\n{changes}")));
    }
    errors
}

/// Removes the errors that the stored object has already.
pub(super) fn drop_existing(errors: &mut Vec<FieldError>, before: &[FieldError]) {
    errors.retain(|error| !before.contains(error));
}

fn deadline(new: &Field<'_, '_>, old: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let (new, old) = (
        new.get("activeDeadlineSeconds"),
        old.get("activeDeadlineSeconds"),
    );
    match (new.int(), old.int()) {
        (Some(now), Some(before)) if now > before => {
            errors.push(new.invalid("must be less than or equal to previous value"));
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(new.invalid(detail));
        }
        _ => {}
    }
}

fn tolerations(new: &Field<'_, '_>, old: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let without_seconds = |at: Field<'_, '_>| {
        let mut toleration = at.value.clone();
        parts::remove(&mut toleration, "tolerationSeconds");
        toleration
    };
    let list = new.get("tolerations");
    let present: Vec<Value> = list.items().map(without_seconds).collect();
    let before = old.get("tolerations");
    let mut before = before.items().map(without_seconds);
    if !before.all(|toleration| present.contains(&toleration)) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(list.forbidden(detail));
    }
}

fn gates(new: &Field<'_, '_>, old: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let before: Vec<&Value> = old
        .get("schedulingGates")
        .items()
        .map(|gate| gate.value)
        .collect();
    for gate in new.get("schedulingGates").items() {
        if !before.contains(&gate.value) {
            let detail = format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                gate.get("name").text()
            );
            errors.push(gate.get("name").forbidden(detail));
        }
    }
}

/// The node selector of a pod with scheduling gates may only be extended.
fn node_selector(new: &Field<'_, '_>, old: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let (new, old) = (new.get("nodeSelector"), old.get("nodeSelector"));
    let mut before = old.entries();
    if !before.all(|(key, value)| new.get_key(key).value == value.value) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(new.invalid(detail));
    }
}

/// As [`node_selector`]: expressions may be added to each term, but no term may be added, because a new term would
/// allow the pod on more nodes.
fn node_affinity(new: &Field<'_, '_>, old: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let [new, old] = [new, old].map(|spec| spec.get_path(REQUIRED_TERMS));
    if old.is_empty() {
        return;
    }
    if new.len() != old.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(new.invalid(detail));
        return;
    }
    for (term, before) in new.items().zip(old.items()) {
        let lists = ["matchExpressions", "matchFields"];
        let was_empty = lists.iter().all(|list| before.get(list).is_empty());
        let only_more = lists.iter().all(|list| {
            let (now, before) = (term.get(list), before.get(list));
            let unchanged = now
                .items()
                .zip(before.items())
                .all(|(a, b)| a.value == b.value);
            unchanged && now.len() >= before.len() && (now.is_empty() || !was_empty)
        });
        if !only_more {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.push(term.invalid(detail));
        }
    }
}

/// The new spec, with the old values of all fields that may change.
fn like_before(new: &Value, old: &Value, gated: bool) -> Value {
    let mut spec = new.clone();
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        parts::restore(&mut spec, old, field);
    }
    if gated {
        parts::restore(&mut spec, old, "nodeSelector");
        let mut affinity = spec["affinity"].clone();
        if affinity.is_null() {
            affinity = Value::Object(json_tree::Map::new());
        }
        parts::restore(&mut affinity, &old["affinity"], "nodeAffinity");
        let only_nodes = affinity.as_object().is_none_or(json_tree::Map::is_empty);
        if only_nodes && old["affinity"].is_null() {
            parts::remove(&mut spec, "affinity");
        } else {
            parts::set(&mut spec, "affinity", affinity);
        }
    }
    let negative = old["terminationGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|s| s < 0);
    if negative && spec["terminationGracePeriodSeconds"] == 1 {
        parts::restore(&mut spec, old, "terminationGracePeriodSeconds");
    }
    for list in ["containers", "initContainers"] {
        let before = old[list].as_array().map_or(&[][..], Vec::as_slice);
        for (container, before) in parts::each(&mut spec, list).zip(before) {
            parts::restore(container, before, "image");
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    use crate::groups::core::pod::READ_FOR_METADATA;
    use crate::kind::reads::keep;
    use crate::well_known::annotations::{ENDS_WITH_LEASE, MIRROR_POD};

    const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

    fn pod() -> Value {
        let mut pod = json!({"spec": {"restartPolicy": "Never", "nodeName": "n",
            "containers": [{"name": "a", "image": "x"}],
            "tolerations": [{"key": "a", "operator": "Exists"}]}});
        pod_template::default_spec(&mut pod["spec"]);
        pod
    }

    fn gated() -> Value {
        let mut pod = pod();
        parts::remove(&mut pod["spec"], "nodeName");
        pod["spec"]["schedulingGates"] = json!([{"name": "g"}]);
        pod
    }

    fn changed(old: &Value, change: impl Fn(&mut Value)) -> Vec<String> {
        let mut new = old.clone();
        change(&mut new["spec"]);
        let errors = validate(&new, old);
        errors.iter().map(ToString::to_string).collect()
    }

    /// The errors of a change of a pod's annotations. The errors must be equal for pods without the fields that the
    /// rules do not read.
    fn annotated(spec: Value, before: Value, annotations: Value) -> Vec<String> {
        let pod = |annotations: Value| json!({"metadata": {"annotations": annotations}, "spec": spec, "status": {"phase": "x"}});
        let (mut new, mut old) = (pod(annotations), pod(before));
        let errors = validate(&new, &old);
        keep(&mut new, READ_FOR_METADATA);
        keep(&mut old, READ_FOR_METADATA);
        assert_eq!(new["status"], json!({}));
        assert_eq!(validate(&new, &old), errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn annotations_change_within_their_rules() {
        let spec = pod()["spec"].take();
        let cost = |cost: &str| json!({DELETION_COST: cost});
        let at = format!("metadata.annotations[{DELETION_COST}]");
        assert_eq!(annotated(spec.clone(), json!({}), cost("5")), [""; 0]);
        let expected = format!("{at}: Invalid value: \"x\": must be a 32bit integer");
        assert_eq!(annotated(spec.clone(), cost("5"), cost("x")), [expected]);
        assert_eq!(annotated(spec.clone(), cost("x"), cost("x")), [""; 0]);
        // Existing errors of the spec are not reported for this change.
        assert_eq!(annotated(json!({}), json!({}), cost("5")), [""; 0]);
        for (name, spec, count) in [
            (MIRROR_POD, json!({"nodeName": "n"}), 1),
            (MIRROR_POD, json!({}), 2),
            (ENDS_WITH_LEASE, json!({"containers": [{}]}), 1),
            (ENDS_WITH_LEASE, json!({"hostPID": true}), 2),
        ] {
            let errors = annotated(spec, json!({}), json!({name: "true"}));
            assert_eq!(errors.len(), count, "{name}: {errors:?}");
        }
    }

    fn check(change: impl Fn(&mut Value)) -> Vec<String> {
        changed(&pod(), change)
    }

    /// `statefulset.md` 12.10
    #[test]
    fn images_and_tolerations_may_change() {
        assert!(check(|spec| spec["containers"][0]["image"] = json!("y")).is_empty());
        assert!(check(|spec| spec["activeDeadlineSeconds"] = json!(5)).is_empty());
        let more = json!([{"key": "b", "operator": "Exists"}, {"key": "a", "operator": "Exists"}]);
        assert!(check(|spec| spec["tolerations"] = more.clone()).is_empty());
        let refused = check(|spec| spec["tolerations"] = json!([]));
        assert!(refused[0].ends_with("can not be modified except its tolerationSeconds"));
    }

    /// `statefulset.md` 12.10
    #[test]
    fn nothing_else_may_change() {
        let refused = check(|spec| spec["nodeName"] = json!("m"));
        let changes = "@@ -10,7 +10,7 @@\n   }\n  ],\n  \"dnsPolicy\": \"ClusterFirst\",\n\
                       - \"nodeName\": \"n\",\n+ \"nodeName\": \"m\",\n  \"restartPolicy\": \
                       \"Never\",\n  \"schedulerName\": \"default-scheduler\",\n  \
                       \"securityContext\": {},\n";
        assert_eq!(
            refused,
            [format!("spec: Forbidden: {SPEC_IMMUTABLE}\n{changes}")]
        );
        let refused = check(|spec| spec["containers"] = json!([]));
        assert_eq!(
            refused,
            [
                "spec.containers: Required value",
                "spec.containers: Forbidden: pod updates may not add or remove containers",
            ]
        );
    }

    /// `statefulset.md` 12.10
    #[test]
    fn what_may_change_may_not_become_wrong() {
        let table: [(&str, Value, &str); 4] = [
            (
                "activeDeadlineSeconds",
                json!(0),
                "activeDeadlineSeconds: Invalid value: 0",
            ),
            (
                "tolerations",
                json!([{"key": "a", "operator": "Exists"}, {"operator": "Equal"}]),
                "tolerations[1].operator: Invalid value: \"Equal\"",
            ),
            (
                "schedulingGates",
                json!([{"name": "g"}]),
                "schedulingGates[0].name: Forbidden: only deletion is allowed, but found new \
                 scheduling gate 'g'",
            ),
            ("containers", json!([]), "containers: Required value"),
        ];
        for (field, value, expected) in table {
            let refused = check(|spec| spec[field] = value.clone());
            assert!(
                refused[0].starts_with(&format!("spec.{expected}")),
                "{refused:#?}"
            );
        }
        let image = check(|spec| spec["containers"][0]["image"] = json!(""));
        assert_eq!(image, ["spec.containers[0].image: Required value"]);
        let image = check(|spec| spec["containers"][0]["image"] = json!("x "));
        assert!(image[0].ends_with("must not have leading or trailing whitespace"));
    }

    #[test]
    fn deadlines_come_nearer_and_grace_becomes_positive() {
        let mut old = pod();
        old["spec"]["activeDeadlineSeconds"] = json!(10);
        old["spec"]["terminationGracePeriodSeconds"] = json!(-5);
        let field = "spec.activeDeadlineSeconds: Invalid value";
        for (value, expected) in [
            (json!(9), vec![]),
            (
                json!(11),
                vec![format!(
                    "{field}: 11: must be less than or equal to previous value"
                )],
            ),
            (
                Value::Null,
                vec![format!(
                    "{field}: null: must not update from a positive integer to nil value"
                )],
            ),
        ] {
            let refused = changed(&old, |spec| spec["activeDeadlineSeconds"] = value.clone());
            assert_eq!(refused, expected);
        }
        let grace = |seconds: i64| {
            changed(&old, |spec| {
                spec["terminationGracePeriodSeconds"] = json!(seconds)
            })
            .len()
        };
        assert_eq!([grace(1), grace(2)], [0, 1]);
    }

    #[test]
    fn a_pod_that_waits_may_ask_for_more_of_its_node() {
        let term = |keys: &[&str]| {
            let all: Vec<Value> = keys
                .iter()
                .map(|key| json!({"key": key, "operator": "Exists"}))
                .collect();
            json!({"matchExpressions": all})
        };
        let affinity =
            |terms: Value| json!({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}});
        let mut old = gated();
        assert_eq!(
            changed(&old, |spec| spec["affinity"] =
                affinity(json!([term(&["a"])]))),
            [""; 0]
        );
        assert_eq!(
            changed(&old, |spec| spec["nodeSelector"] = json!({"a": "b"})),
            [""; 0]
        );
        assert_eq!(
            changed(&old, |spec| spec["schedulingGates"] = json!([])),
            [""; 0]
        );
        assert_eq!(
            changed(&old, |spec| spec["affinity"] = json!({"podAffinity": {}})).len(),
            1
        );
        old["spec"]["affinity"] = affinity(json!([term(&["a"])]));
        old["spec"]["nodeSelector"] = json!({"a": "b"});
        let more = json!([term(&["a", "b"])]);
        assert_eq!(
            changed(&old, |spec| spec["affinity"] = affinity(more.clone())),
            [""; 0]
        );
        assert_eq!(
            changed(&old, |spec| spec["nodeSelector"] =
                json!({"a": "b", "c": "d"})),
            [""; 0]
        );
        let at = format!("spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
        for (terms, expected) in [
            (json!([term(&["b"])]), format!("{at}[0]: Invalid value: ")),
            (
                json!([term(&["a"]), term(&["b"])]),
                format!("{at}: Invalid value: "),
            ),
        ] {
            let refused = changed(&old, |spec| spec["affinity"] = affinity(terms.clone()));
            assert_eq!(refused.len(), 1, "{refused:#?}");
            assert!(refused[0].starts_with(&expected), "{refused:#?}");
        }
        assert_eq!(
            changed(&old, |spec| spec["nodeSelector"] = json!({"c": "d"})),
            [
                "spec.nodeSelector: Invalid value: {\"c\":\"d\"}: only additions to \
                 spec.nodeSelector are allowed (no mutations or deletions)"
            ]
        );
        // Without a scheduling gate, the field cannot change.
        assert_eq!(
            check(|spec| spec["nodeSelector"] = json!({"a": "b"})).len(),
            1
        );
    }

    #[test]
    fn what_was_stored_under_laxer_rules_may_stay() {
        let mut old = pod();
        old["spec"]["dnsPolicy"] = json!("Odd");
        assert_eq!(
            changed(&old, |spec| spec["containers"][0]["image"] = json!("y")),
            [""; 0]
        );
    }
}
