//! admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use super::GROUP;
use super::rules::{check_conditions, check_match, check_rules, default_match};
use crate::json::parts;
use crate::kind::info::{Names, STATUS, cluster};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::metadata;

/// The expressions are checked by the crate that evaluates them.
#[derive(Debug)]
pub struct ValidatingAdmissionPolicy;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },

    subresources: &[STATUS],
    ..cluster(Names {
        group: GROUP,
        kind: "ValidatingAdmissionPolicy",
        list_kind: "ValidatingAdmissionPolicyList",
        plural: "validatingadmissionpolicies",
        singular: "validatingadmissionpolicy",
        short: &[],
    })
};

/// Maximum number of audit annotations of a policy (upstream's value).
const ANNOTATIONS_MAX: usize = 20;
/// Maximum length of the expression of an audit annotation (upstream's value).
const ANNOTATION_BYTES_MAX: usize = 5 * 1024;

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::number("Validations", "How many rules there are."),
    table::column("ParamKind", "The kind of objects with settings."),
    table::AGE,
];

impl Kind for ValidatingAdmissionPolicy {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = parts::entry(object, "spec") else {
            return;
        };
        parts::fill(spec, "failurePolicy", "Fail");
        if let Some(matched) = spec.get_mut("matchConstraints") {
            default_match(matched, &["resourceRules", "excludeResourceRules"]);
        }
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        validate(&Field::of(object, "spec"), name)
    }
}

impl Printer for ValidatingAdmissionPolicy {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        vec![
            table::name(object),
            json!(table::count(&spec["validations"])),
            json!(settings_kind(spec)),
            table::age(object, now),
        ]
    }
}

/// The kind of the parameters, for the table.
pub(super) fn settings_kind(spec: &Value) -> String {
    let settings = &spec["paramKind"];
    let text = |field: &str| settings[field].as_str().unwrap_or_default();
    if settings.is_object() {
        format!("{}/{}", text("apiVersion"), text("kind"))
    } else {
        "<unset>".to_owned()
    }
}

fn validate(spec: &Field<'_, '_>, name: &str) -> Vec<FieldError> {
    let mut errors = check_common(spec);
    check_validations(spec, &mut errors);
    check_annotations(&spec.get("auditAnnotations"), name, &mut errors);
    errors
}

/// The errors of the fields that both policy kinds have.
pub(super) fn check_common(spec: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    errors.check_one_of(&spec.get("failurePolicy"), &["Fail", "Ignore"]);
    let settings = spec.get("paramKind");
    if settings.is_set() {
        for part in ["apiVersion", "kind"] {
            let at = settings.get_path(part);
            if at.is_empty() {
                errors.push(at.required(""));
            }
        }
    }
    let matched = spec.get("matchConstraints");
    if matched.is_set() {
        errors.extend(check_match(&matched));
        let rules = matched.get("resourceRules");
        if rules.is_empty() {
            errors.push(rules.required(""));
        }
        errors.extend(check_rules(&rules));
        errors.extend(check_rules(&matched.get("excludeResourceRules")));
    } else {
        errors.push(matched.required(""));
    }
    errors.extend(check_conditions(&spec.get("matchConditions")));
    for variable in spec.get("variables").items() {
        errors.check_text(&variable.get("name"), identifier);
        check_expression(&variable.get("expression"), &mut errors);
    }
    errors.extend(metadata::duplicates(&spec.get("variables"), "name"));
    errors
}

fn check_validations(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let text = "validations or auditAnnotations must contain at least one item";
        errors.push(validations.required(text));
        errors.push(annotations.required(text));
    }
    for validation in validations.items() {
        check_expression(&validation.get("expression"), errors);
        let (message, expression) = (
            validation.get("message"),
            validation.get("messageExpression"),
        );
        if message.is_set() && message.text().trim().is_empty() {
            errors.push(message.invalid("message must be non-empty if specified"));
        } else if message.text().trim().contains('\n') {
            errors.push(message.invalid("message must not contain line breaks"));
        } else if message.is_empty() && validation.get("expression").text().contains('\n') {
            let text = "message must be specified if expression contains line breaks";
            errors.push(message.required(text));
        }
        if expression.is_set() && expression.text().trim().is_empty() {
            errors.push(expression.invalid("must be non-empty if specified"));
        }
        let reasons = [
            "Forbidden",
            "Invalid",
            "RequestEntityTooLarge",
            "Unauthorized",
        ];
        errors.check_one_of_if_set(&validation.get("reason"), &reasons);
    }
}

/// Checks the audit annotations of a policy; its name is the prefix of their keys.
fn check_annotations(annotations: &Field<'_, '_>, name: &str, errors: &mut Vec<FieldError>) {
    if annotations.items().count() > ANNOTATIONS_MAX {
        let text = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        errors.push(annotations.invalid(text));
    }
    errors.extend(metadata::duplicates(annotations, "key"));
    for annotation in annotations.items() {
        let key = annotation.get("key");
        let problems = names::qualified_name(&format!("{name}/{}", key.text()));
        errors.extend(problems.into_iter().map(|text| key.invalid(text)));
        let expression = annotation.get("valueExpression");
        check_expression(&expression, errors);
        if expression.text().trim().len() > ANNOTATION_BYTES_MAX {
            let text = format!("must not exceed {ANNOTATION_BYTES_MAX} bytes in length");
            errors.push(expression.required(&text));
        }
    }
}

pub(super) fn check_expression(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if at.text().trim().is_empty() {
        let name = at.path().to_string();
        let name = name.rsplit('.').next().unwrap_or_default();
        errors.push(at.required(&format!("{name} is not specified")));
    }
}

/// Checks that the name is an identifier of an expression.
fn identifier(name: &str) -> Vec<String> {
    let mut letters = name.chars();
    let first = letters
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let is_plain = first && letters.all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_plain && !cel_checker::is_reserved(name) {
        Vec::new()
    } else {
        vec!["name is not a valid CEL identifier".to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(more: Value) -> Value {
        let mut object = json!({"metadata": {"name": "few"}, "spec": {
            "matchConstraints": {"resourceRules": [{"operations": ["CREATE"],
                "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]},
            "validations": [{"expression": "object.spec.replicas < 5"}]}});
        for (field, value) in more.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
        let mut object = ValidatingAdmissionPolicy.decode(object).unwrap();
        ValidatingAdmissionPolicy.default(&mut object);
        object
    }

    #[test]
    fn an_ordinary_policy_is_right() {
        let object = policy(json!({}));
        assert_eq!(ValidatingAdmissionPolicy.validate_create(&object), []);
        assert_eq!(
            object["spec"]["matchConstraints"]["matchPolicy"],
            "Equivalent"
        );
        let row = ValidatingAdmissionPolicy.row(&object, Timestamp::UNIX_EPOCH);
        assert_eq!((&row[1], &row[2]), (&json!(1), &json!("<unset>")));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (more, expected) in [
            (json!({"validations": []}), "at least one item"),
            (json!({"matchConstraints": {}}), "resourceRules: Required"),
            (
                json!({"matchConstraints": null}),
                "matchConstraints: Required",
            ),
            (json!({"failurePolicy": "Hope"}), "Unsupported value"),
            (
                json!({"variables": [{"name": "a-b", "expression": "1"}]}),
                "CEL identifier",
            ),
            (
                json!({"variables": [{"name": "namespace", "expression": "1"}]}),
                "CEL identifier",
            ),
            (
                json!({"auditAnnotations": [{"key": "a/b", "valueExpression": "'c'"}]}),
                "auditAnnotations[0].key: Invalid value",
            ),
            (
                json!({"auditAnnotations": [{"key": "a", "valueExpression": "'c'".repeat(2000)}]}),
                "auditAnnotations[0].valueExpression: Required value: must not exceed 5120 bytes in length",
            ),
            (
                json!({"auditAnnotations": (0..21).map(|n| json!({"key": format!("k{n}"),
                    "valueExpression": "'c'"})).collect::<Value>()}),
                "must not have more than 20 auditAnnotations",
            ),
            (
                json!({"validations": [{"expression": " "}]}),
                "expression is not specified",
            ),
            (
                json!({"validations": [{"expression": "true", "message": "a\nb"}]}),
                "line breaks",
            ),
            (
                json!({"validations": [{"expression": "true", "reason": "Why"}]}),
                "Unsupported",
            ),
        ] {
            let object = policy(more.clone());
            let errors = ValidatingAdmissionPolicy.validate_update(&object, &object);
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert!(
                errors.iter().any(|error| error.contains(expected)),
                "{more}: {errors:?}"
            );
        }
    }
}
