//! What may change in a pod (`statefulset.md` 12.10).

use object_model::FieldError;
use serde_json::Value;

use crate::at::{At, Rules};
use crate::{parts, pod_template};

const SPEC_IMMUTABLE: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// All that is wrong with a change of a pod.
pub(super) fn validate(object: &Value, old: &Value) -> Vec<FieldError> {
    let (new_spec, old_spec) = (At::root(object).get("spec"), At::root(old).get("spec"));
    let mut errors = pod_template::tolerations(&new_spec.get("tolerations"));
    for list in ["containers", "initContainers"] {
        let (new, old) = (new_spec.get(list), old_spec.get(list));
        let count = |at: &At<'_>| at.value.as_array().map_or(0, Vec::len);
        if count(&new) != count(&old) {
            errors.push(new.forbidden("pod updates may not add or remove containers"));
            return errors;
        }
        for container in new.items() {
            let image = container.get("image");
            if image.is_empty() {
                errors.push(image.required(""));
            } else if image.text().trim() != image.text() {
                errors.push(image.invalid("must not have leading or trailing whitespace"));
            }
        }
    }
    deadline(&new_spec, &old_spec, &mut errors);
    tolerations(&new_spec, &old_spec, &mut errors);
    gates(&new_spec, &old_spec, &mut errors);
    if like_before(new_spec.value, old_spec.value) != *old_spec.value {
        errors.push(new_spec.forbidden(SPEC_IMMUTABLE));
    }
    errors
}

fn deadline(new: &At<'_>, old: &At<'_>, errors: &mut Vec<FieldError>) {
    let (new, old) = (
        new.get("activeDeadlineSeconds"),
        old.get("activeDeadlineSeconds"),
    );
    match (new.int(), old.int()) {
        (Some(now), _) if now <= 0 => {
            errors.push(new.invalid("must be between 1 and 2147483647, inclusive"));
        }
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

fn tolerations(new: &At<'_>, old: &At<'_>, errors: &mut Vec<FieldError>) {
    let without_seconds = |at: At<'_>| {
        let mut toleration = at.value.clone();
        parts::remove(&mut toleration, "tolerationSeconds");
        toleration
    };
    let list = new.get("tolerations");
    let present: Vec<Value> = list.items().map(without_seconds).collect();
    let mut before = old.get("tolerations").items().map(without_seconds);
    if !before.all(|toleration| present.contains(&toleration)) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(list.forbidden(detail));
    }
}

fn gates(new: &At<'_>, old: &At<'_>, errors: &mut Vec<FieldError>) {
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
            errors.push(new.get("schedulingGates").forbidden(detail));
        }
    }
}

/// The new spec with all that may change put back.
fn like_before(new: &Value, old: &Value) -> Value {
    let mut spec = new.clone();
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        parts::restore(&mut spec, old, field);
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

/// All that is wrong with a change of a pod's status.
pub(super) fn validate_status(object: &Value, old: &Value) -> Vec<FieldError> {
    let (new, before) = (At::root(object).get("status"), At::root(old).get("status"));
    let mut errors = Vec::new();
    let phases = ["Failed", "Pending", "Running", "Succeeded", "Unknown"];
    errors.check_one_of_if_set(&new.get("phase"), &phases);
    let policy = At::root(old).get("spec.restartPolicy");
    if policy.text() == "Always" {
        return errors;
    }
    for status in new.get("containerStatuses").items() {
        let name = status.get("name").text();
        let mut all = before.get("containerStatuses").items();
        let Some(earlier) = all.find(|earlier| earlier.get("name").text() == name) else {
            continue;
        };
        let ended = earlier.get("state.terminated");
        let failed = ended.get("exitCode").int().unwrap_or_default() != 0;
        let restarts = policy.text() == "OnFailure" && failed;
        let has_own_policy = At::root(old)
            .get("spec.containers")
            .items()
            .any(|c| c.get("name").text() == name && c.get("restartPolicy").is_set());
        let gone_on = ended.is_set() && !status.get("state.terminated").is_set();
        if gone_on && !restarts && !has_own_policy {
            let detail = "may not be transitioned to non-terminated state";
            errors.push(status.get("state").forbidden(detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        json!({"spec": {"restartPolicy": "Never", "nodeName": "n",
            "containers": [{"name": "a", "image": "x"}],
            "tolerations": [{"key": "a", "operator": "Exists"}]}})
    }

    fn check(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut new = pod();
        change(&mut new["spec"]);
        validate(&new, &pod())
            .iter()
            .map(ToString::to_string)
            .collect()
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
        assert_eq!(refused, [format!("spec: Forbidden: {SPEC_IMMUTABLE}")]);
        let refused = check(|spec| spec["containers"] = json!([]));
        assert_eq!(
            refused,
            ["spec.containers: Forbidden: pod updates may not add or remove containers"]
        );
    }

    #[test]
    fn what_never_restarts_stays_ended() {
        let status = |state: Value| {
            json!({"status": {"containerStatuses": [{"name": "a", "state": state}]},
                "spec": pod()["spec"]})
        };
        let ended = status(json!({"terminated": {"exitCode": 1}}));
        let running = status(json!({"running": {}}));
        assert_eq!(validate_status(&running, &ended).len(), 1);
        assert_eq!(validate_status(&ended, &running), []);
    }
}
