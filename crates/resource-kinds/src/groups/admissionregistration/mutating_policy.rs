//! admissionregistration.k8s.io/v1 MutatingAdmissionPolicy.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::FieldError;

use super::GROUP;
use super::rules::default_match;
use super::validating_policy::{check_common, check_expression, settings_kind};
use crate::json::parts;
use crate::kind::info::{Names, cluster};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};

/// The expressions are checked by the crate that evaluates them.
#[derive(Debug)]
pub struct MutatingAdmissionPolicy;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },
    ..cluster(Names {
        group: GROUP,
        kind: "MutatingAdmissionPolicy",
        list_kind: "MutatingAdmissionPolicyList",
        plural: "mutatingadmissionpolicies",
        singular: "mutatingadmissionpolicy",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::number("Mutations", "How many changes there are."),
    table::column("ParamKind", "The kind of objects with settings."),
    table::AGE,
];

/// Each patch type, with the field that contains its expression.
const PATCHES: [(&str, &str); 2] = [
    ("ApplyConfiguration", "applyConfiguration"),
    ("JSONPatch", "jsonPatch"),
];

impl Kind for MutatingAdmissionPolicy {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = parts::entry(object, "spec") else {
            return;
        };
        parts::fill(spec, "failurePolicy", "Fail");
        parts::fill(spec, "reinvocationPolicy", "Never");
        if let Some(matched) = spec.get_mut("matchConstraints") {
            default_match(matched, &["resourceRules", "excludeResourceRules"]);
        }
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(&Field::of(object, "spec"))
    }
}

impl Printer for MutatingAdmissionPolicy {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        vec![
            table::name(object),
            json!(table::count(&spec["mutations"])),
            json!(settings_kind(spec)),
            table::age(object, now),
        ]
    }
}

fn validate(spec: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = check_common(spec);
    let again = spec.get("reinvocationPolicy");
    errors.check_one_of(&again, &["IfNeeded", "Never"]);
    let rules = spec.get_path("matchConstraints.resourceRules");
    for rule in rules.items() {
        for operation in rule.get("operations").items() {
            // The object of a DELETE cannot be mutated.
            if operation.text() == "DELETE" {
                errors.push(operation.not_supported(&["*", "CONNECT", "CREATE", "UPDATE"]));
            }
        }
    }
    let mutations = spec.get("mutations");
    if mutations.is_empty() {
        errors.push(mutations.required("mutations must contain at least one item"));
    }
    for mutation in mutations.items() {
        check_mutation(&mutation, &mut errors);
    }
    errors
}

fn check_mutation(mutation: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let kind = mutation.get("patchType");
    let names = PATCHES.map(|(name, _)| name);
    errors.check_one_of(&kind, &names);
    if !names.contains(&kind.text()) {
        return;
    }
    for (name, field) in PATCHES {
        let patch = mutation.get_path(field);
        match (kind.text() == name, patch.is_set()) {
            (true, true) => check_expression(&patch.get("expression"), errors),
            (true, false) => {
                errors.push(patch.required(&format!("must be specified when patchType is {name}")));
            }
            (false, true) => {
                let text = format!("must not be specified when patchType is {}", kind.text());
                errors.push(patch.forbidden(text));
            }
            (false, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(more: Value) -> Value {
        let mut object = json!({"metadata": {"name": "label"}, "spec": {
            "matchConstraints": {"resourceRules": [{"operations": ["CREATE"],
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]},
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration":
                {"expression": "Object{metadata: Object.metadata{labels: {'a': 'b'}}}"}}]}});
        for (field, value) in more.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
        let mut object = MutatingAdmissionPolicy.decode(object).unwrap();
        MutatingAdmissionPolicy.default(&mut object);
        object
    }

    #[test]
    fn an_ordinary_policy_is_right() {
        let object = policy(json!({}));
        assert_eq!(MutatingAdmissionPolicy.validate_create(&object), []);
        assert_eq!(object["spec"]["reinvocationPolicy"], "Never");
        let row = MutatingAdmissionPolicy.row(&object, Timestamp::UNIX_EPOCH);
        assert_eq!((&row[1], &row[2]), (&json!(1), &json!("<unset>")));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let patch = |more: Value| json!({"mutations": [more]});
        for (more, expected) in [
            (json!({"mutations": []}), "at least one item"),
            (json!({"reinvocationPolicy": "Often"}), "Unsupported value"),
            (json!({"matchConstraints": {}}), "resourceRules: Required"),
            (
                json!({"matchConstraints": {"resourceRules": [{"operations": ["DELETE"],
                    "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}}),
                "operations[0]: Unsupported value: \"DELETE\"",
            ),
            (
                patch(json!({"patchType": "Guess"})),
                "patchType: Unsupported value",
            ),
            (
                patch(json!({"patchType": "JSONPatch"})),
                "jsonPatch: Required value: must be specified when patchType is JSONPatch",
            ),
            (
                patch(json!({"patchType": "JSONPatch", "jsonPatch": {"expression": " "}})),
                "expression is not specified",
            ),
            (
                patch(
                    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"},
                    "applyConfiguration": {"expression": "Object{}"}}),
                ),
                "applyConfiguration: Forbidden",
            ),
        ] {
            let object = policy(more.clone());
            let errors = MutatingAdmissionPolicy.validate_update(&object, &object);
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert!(
                errors.iter().any(|error| error.contains(expected)),
                "{more}: {errors:?}"
            );
        }
    }
}
