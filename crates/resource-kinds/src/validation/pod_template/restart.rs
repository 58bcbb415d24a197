//! Validation of restarts: a container's restart policy, its restart rules, and its resize policy.

use object_model::FieldError;

use crate::validation::field::{Field, Rules};
use crate::validation::text_set::TextSet;

const POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const ACTIONS: &[&str] = &["Restart", "RestartAllContainers"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const RESIZABLE: &[&str] = &["cpu", "memory"];
const ON_RESIZE: &[&str] = &["NotRequired", "RestartContainer"];

/// Checks the restart policy and the restart rules of a regular container or sidecar (KEP-5307,
/// `statefulset.md` 12.4).
pub(super) fn validate(container: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let (policy, rules) = (
        container.get("restartPolicy"),
        container.get("restartPolicyRules"),
    );
    if policy.is_set() {
        if !POLICIES.contains(&policy.text()) {
            errors.push(policy.not_supported(POLICIES));
        }
    } else if !rules.is_empty() {
        errors.push(policy.required("must specify restartPolicy when restart rules are used"));
    }
    at_most(&rules, RULES_MAX, errors);
    for rule in rules.items() {
        let (action, codes) = (rule.get("action"), rule.get("exitCodes"));
        among(&action, ACTIONS, errors);
        if codes.is_set() {
            among(&codes.get("operator"), OPERATORS, errors);
            at_most(&codes.get("values"), EXIT_CODES_MAX, errors);
        } else {
            errors.push(codes.required("must be specified"));
        }
    }
}

fn at_most(list: &Field<'_, '_>, max: usize, errors: &mut Vec<FieldError>) {
    if list.len() > max {
        errors.push(FieldError::too_many(&list.path(), list.len(), max));
    }
}

/// Checks that the value is allowed; a missing value is invalid, too.
fn among(at: &Field<'_, '_>, allowed: &[&str], errors: &mut Vec<FieldError>) {
    if !allowed.contains(&at.text()) {
        errors.push(FieldError::not_supported(&at.path(), at.text(), allowed));
    }
}

/// Validates the resize policies of a container in a pod with this restart policy.
pub(super) fn on_resize(container: &Field<'_, '_>, pod_policy: &str, errors: &mut Vec<FieldError>) {
    let list = container.get("resizePolicy");
    let mut names = TextSet::default();
    for item in list.items() {
        let (resource, policy) = (item.get("resourceName"), item.get("restartPolicy"));
        if !names.insert(resource.text()) {
            errors.push(FieldError::duplicate(&item.path(), resource.text()));
        }
        errors.check_one_of(&resource, RESIZABLE);
        errors.check_one_of(&policy, ON_RESIZE);
        if pod_policy == "Never" && policy.text() != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(policy.invalid(detail));
        }
    }
}

/// Checks that an init container has no resize policy that restarts it.
pub(super) fn not_on_resize(container: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    for item in container.get("resizePolicy").items() {
        let policy = item.get("restartPolicy");
        if policy.text() == "RestartContainer" {
            let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            errors.push(policy.invalid(detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn check(container: Value) -> Vec<String> {
        let mut errors = Vec::new();
        validate(&Field::root(&container), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    /// `statefulset.md` 12.4
    #[test]
    fn rules_say_which_exit_codes_mean_what() {
        let codes = json!({"operator": "In", "values": [3]});
        let fine = json!({"action": "RestartAllContainers", "exitCodes": codes});
        let supported = "supported values";
        let table = [
            (fine.clone(), vec![]),
            (
                json!({"action": "Restart", "exitCodes": {"operator": "NotIn"}}),
                vec![],
            ),
            (
                json!({"action": "Restart"}),
                vec!["exitCodes: Required value: must be specified".to_owned()],
            ),
            (
                json!({"action": "Stay", "exitCodes": codes}),
                vec![format!(
                    "action: Unsupported value: \"Stay\": {supported}: \"Restart\", \
                     \"RestartAllContainers\""
                )],
            ),
            (
                json!({"exitCodes": {"values": [1]}}),
                vec![
                    format!(
                        "action: Unsupported value: \"\": {supported}: \"Restart\", \
                         \"RestartAllContainers\""
                    ),
                    format!(
                        "exitCodes.operator: Unsupported value: \"\": {supported}: \"In\", \
                         \"NotIn\""
                    ),
                ],
            ),
            (
                json!({"action": "Restart", "exitCodes": {"operator": "In",
                    "values": vec![1; 256]}}),
                vec!["exitCodes.values: Too many: 256: must have at most 255 items".to_owned()],
            ),
        ];
        for (rule, expected) in table {
            let expected: Vec<String> = expected
                .iter()
                .map(|error| format!("restartPolicyRules[0].{error}"))
                .collect();
            let container = json!({"restartPolicy": "Never", "restartPolicyRules": [rule]});
            assert_eq!(check(container), expected);
        }
        assert_eq!(
            check(json!({"restartPolicyRules": [fine]})),
            [
                "restartPolicy: Required value: must specify restartPolicy when restart rules \
                 are used"
            ]
        );
        assert_eq!(
            check(json!({"restartPolicy": "Never", "restartPolicyRules": vec![fine; 21]})),
            ["restartPolicyRules: Too many: 21: must have at most 20 items"]
        );
        assert_eq!(
            check(json!({"restartPolicy": "Sometimes"})),
            [
                "restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
                 \"Never\", \"OnFailure\""
            ]
        );
    }

    #[test]
    fn a_resize_restarts_only_what_may_restart() {
        let check = |pod: &str, list: Value| {
            let container = json!({"resizePolicy": list});
            let mut errors = Vec::new();
            on_resize(&Field::root(&container), pod, &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let restart = json!({"resourceName": "cpu", "restartPolicy": "RestartContainer"});
        assert_eq!(check("Always", json!([restart])), [""; 0]);
        assert_eq!(
            check(
                "Always",
                json!([restart, restart, {"resourceName": "disk"}])
            ),
            [
                "resizePolicy[1]: Duplicate value: \"cpu\"",
                "resizePolicy[2].resourceName: Unsupported value: \"disk\": supported values: \
                 \"cpu\", \"memory\"",
                "resizePolicy[2].restartPolicy: Required value",
            ]
        );
        assert_eq!(
            check("Never", json!([restart])),
            [
                "resizePolicy[0].restartPolicy: Invalid value: \"RestartContainer\": must be \
                 'NotRequired' when pod `restartPolicy` is 'Never'"
            ]
        );
        let container = json!({"resizePolicy": [restart]});
        let mut errors = Vec::new();
        not_on_resize(&Field::root(&container), &mut errors);
        assert_eq!(errors.len(), 1);
    }
}
