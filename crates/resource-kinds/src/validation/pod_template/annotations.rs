//! Validation of a pod's annotations that have an effect.

use object_model::FieldError;

use crate::validation::field::Field;
use crate::well_known::annotations::{ENDS_WITH_LEASE, MIRROR_POD as MIRROR};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The prefix of the deprecated annotation for an AppArmor profile.
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Checks the annotations of a pod.
pub(crate) fn validate(pod: &Field<'_, '_>) -> Vec<FieldError> {
    let (all, spec) = (pod.get_path("metadata.annotations"), pod.get("spec"));
    let mut errors = Vec::new();
    for (key, at) in all.entries() {
        let detail = match key {
            MIRROR if spec.get("nodeName").is_empty() => {
                "must set spec.nodeName if mirror pod annotation is set"
            }
            ENDS_WITH_LEASE if spec.get("hostPID").is_true() => "may not be used with hostPID",
            DELETION_COST if !is_cost(at.text()) => "must be a 32bit integer",
            _ => continue,
        };
        errors.push(at.invalid(detail));
    }
    errors
}

/// A whole number without a plus sign and without leading zeros.
fn is_cost(text: &str) -> bool {
    let plain = match text.as_bytes() {
        [b'0'] => true,
        [first, ..] => *first == b'-' || (b'1'..=b'9').contains(first),
        [] => false,
    };
    plain && text.parse::<i32>().is_ok()
}

/// Checks that annotations with an effect are unchanged.
pub(crate) fn validate_update(pod: &Field<'_, '_>, old: &Field<'_, '_>) -> Vec<FieldError> {
    let (new, old) = (
        pod.get_path("metadata.annotations"),
        old.get_path("metadata.annotations"),
    );
    let mut errors = Vec::new();
    let decided = |key: &str| match key {
        MIRROR => Some("mirror pod annotation"),
        ENDS_WITH_LEASE => Some("the annotation of the node's lease"),
        _ if key.starts_with(APP_ARMOR) => Some("AppArmor annotations"),
        _ => None,
    };
    for (key, before) in old.entries() {
        if let Some(what) = decided(key)
            && new.get_key(key).value != before.value
        {
            let detail = format!("may not remove or update {what}");
            errors.push(new.get_key(key).forbidden(detail));
        }
    }
    for (key, at) in new.entries() {
        if let Some(what) = decided(key)
            && !old.get_key(key).is_set()
        {
            errors.push(at.forbidden(format!("may not add {what}")));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn pod(annotations: Value) -> Value {
        json!({"metadata": {"annotations": annotations}, "spec": {}})
    }

    #[test]
    fn costs_are_numbers() {
        for (text, fine) in [
            ("0", true),
            ("-5", true),
            ("2147483647", true),
            ("2147483648", false),
            ("+1", false),
            ("01", false),
            ("", false),
            ("x", false),
        ] {
            let errors = validate(&Field::root(&pod(json!({DELETION_COST: text}))));
            assert_eq!(errors.is_empty(), fine, "{text}");
            if let [error] = errors.as_slice() {
                assert_eq!(
                    error.to_string(),
                    format!(
                        "metadata.annotations[{DELETION_COST}]: Invalid value: {text:?}: must be a \
                         32bit integer"
                    )
                );
            }
        }
        assert_eq!(validate(&Field::root(&pod(json!({MIRROR: "x"})))).len(), 1);
    }

    #[test]
    fn a_pod_in_the_nodes_process_namespace_does_not_end_with_a_lease() {
        let mut pod = pod(json!({ENDS_WITH_LEASE: "true"}));
        assert_eq!(validate(&Field::root(&pod)).len(), 0);
        pod["spec"]["hostPID"] = json!(true);
        let errors = validate(&Field::root(&pod));
        assert!(
            errors[0]
                .to_string()
                .ends_with("may not be used with hostPID")
        );
        let none = json!({"metadata": {}, "spec": {}});
        let added = validate_update(&Field::root(&pod), &Field::root(&none));
        assert!(
            added[0]
                .to_string()
                .ends_with("may not add the annotation of the node's lease")
        );
    }

    #[test]
    fn what_is_decided_stays() {
        let key = format!("{APP_ARMOR}a");
        let check = |new: Value, old: Value| {
            let errors = validate_update(&Field::root(&pod(new)), &Field::root(&pod(old)));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let path = format!("metadata.annotations[{key}]: Forbidden: may not");
        let [some, other, none] = [json!({&key: "x"}), json!({&key: "y"}), json!({})];
        assert_eq!(check(some.clone(), some.clone()), [""; 0]);
        for new in [&other, &none] {
            assert_eq!(
                check(new.clone(), some.clone()),
                [format!("{path} remove or update AppArmor annotations")]
            );
        }
        assert_eq!(
            check(some, none),
            [format!("{path} add AppArmor annotations")]
        );
        assert_eq!(
            check(json!({MIRROR: "x"}), json!({})),
            [format!(
                "metadata.annotations[{MIRROR}]: Forbidden: may not add mirror pod annotation"
            )]
        );
    }
}
