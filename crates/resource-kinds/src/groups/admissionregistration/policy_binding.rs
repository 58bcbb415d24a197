//! admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding and MutatingAdmissionPolicyBinding.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use super::GROUP;
use super::rules::{check_match, check_rules, default_match};
use crate::json::parts;
use crate::kind::info::{Names, cluster};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::{metadata, workload};

/// The binding of a policy: its scope, its parameters, and the actions of a validating policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyBinding {
    Mutating,
    Validating,
}

const MUTATING: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },
    ..cluster(Names {
        group: GROUP,
        kind: "MutatingAdmissionPolicyBinding",
        list_kind: "MutatingAdmissionPolicyBindingList",
        plural: "mutatingadmissionpolicybindings",
        singular: "mutatingadmissionpolicybinding",
        short: &[],
    })
};

const VALIDATING: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },
    ..cluster(Names {
        group: GROUP,
        kind: "ValidatingAdmissionPolicyBinding",
        list_kind: "ValidatingAdmissionPolicyBindingList",
        plural: "validatingadmissionpolicybindings",
        singular: "validatingadmissionpolicybinding",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("PolicyName", "The policy."),
    table::column("ParamRef", "The objects with settings."),
    table::AGE,
];

impl Kind for PolicyBinding {
    fn info(&self) -> KindInfo<'_> {
        match self {
            Self::Mutating => MUTATING,
            Self::Validating => VALIDATING,
        }
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = parts::entry(object, "spec") else {
            return;
        };
        if let Some(matched) = spec.get_mut("matchResources") {
            default_match(matched, &["resourceRules", "excludeResourceRules"]);
        }
        if let Some(settings) = spec.get_mut("paramRef") {
            parts::fill(settings, "parameterNotFoundAction", "Deny");
        }
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        self.validate(&Field::of(object, "spec"))
    }
}

impl Printer for PolicyBinding {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        let settings = &spec["paramRef"];
        let text = |field: &str| settings[field].as_str().unwrap_or_default();
        let parameters = match (text("namespace"), text("name")) {
            (_, "") if settings["selector"].is_object() => {
                workload::selector_text(&settings["selector"])
            }
            (_, "") => "<unset>".to_owned(),
            ("", name) => format!("*/{name}"),
            (namespace, name) => format!("{namespace}/{name}"),
        };
        vec![
            table::name(object),
            table::text_or(&spec["policyName"], ""),
            json!(parameters),
            table::age(object, now),
        ]
    }
}

impl PolicyBinding {
    fn validate(self, spec: &Field<'_, '_>) -> Vec<FieldError> {
        let mut errors = check_common(spec);
        if self == Self::Validating {
            check_actions(&spec.get("validationActions"), &mut errors);
        }
        errors
    }
}

fn check_common(spec: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let policy = spec.get("policyName");
    errors.check_required_text(&policy, names::dns_subdomain);
    let settings = spec.get("paramRef");
    if settings.is_set() {
        let (name, selector) = (settings.get("name"), settings.get("selector"));
        match (name.is_empty(), selector.is_set()) {
            (true, false) => {
                errors.push(settings.required("one of name or selector must be specified"));
            }
            (false, true) => {
                let text = "name and selector are mutually exclusive";
                errors.push(name.forbidden(text));
            }
            _ => errors.extend(metadata::label_selector(&selector)),
        }
        let action = settings.get("parameterNotFoundAction");
        errors.check_one_of(&action, &["Allow", "Deny"]);
    }
    let matched = spec.get("matchResources");
    errors.extend(check_match(&matched));
    errors.extend(check_rules(&matched.get("resourceRules")));
    errors.extend(check_rules(&matched.get("excludeResourceRules")));
    errors
}

fn check_actions(actions: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if actions.is_empty() {
        errors.push(actions.required("at least one validation action is required"));
    }
    let mut unique = Vec::new();
    for action in actions.items() {
        errors.check_one_of(&action, &["Audit", "Deny", "Warn"]);
        if unique.contains(&action.text()) {
            errors.push(action.duplicate());
        }
        unique.push(action.text());
    }
    if unique.contains(&"Deny") && unique.contains(&"Warn") {
        errors.push(actions.invalid(
            "must not contain both Deny and Warn (repeating the same validation failure \
             information in the API response and headers serves no purpose)",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(spec: Value) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "few"}, "spec": spec});
        PolicyBinding::Validating.default(&mut object);
        let errors = PolicyBinding::Validating.validate_create(&object);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_binding_names_policy_settings_and_what_follows() {
        let good = json!({"policyName": "few", "validationActions": ["Deny", "Audit"],
            "paramRef": {"name": "settings", "namespace": "d"}});
        assert_eq!(messages(good), [""; 0]);
        for (spec, expected) in [
            (
                json!({"policyName": "few"}),
                "at least one validation action",
            ),
            (
                json!({"policyName": "few", "validationActions": ["Deny", "Warn"]}),
                "both Deny",
            ),
            (
                json!({"policyName": "few", "validationActions": ["Deny", "Deny"]}),
                "Duplicate",
            ),
            (
                json!({"validationActions": ["Deny"]}),
                "policyName: Required",
            ),
            (
                json!({"policyName": "few", "validationActions": ["Deny"], "paramRef": {}}),
                "one of name or selector",
            ),
        ] {
            let messages = messages(spec);
            assert!(
                messages.iter().any(|error| error.contains(expected)),
                "{messages:?}"
            );
        }
    }
}
