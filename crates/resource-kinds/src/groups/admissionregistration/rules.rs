//! Match rules of webhooks and policies.

use json_tree::{Value, json};
use object_model::{FieldError, names};

use crate::json::parts;
use crate::validation::field::{Field, Rules};
use crate::validation::metadata;

/// Maximum number of match conditions.
const CONDITIONS_MAX: usize = 64;

/// Sets the defaults of absent rules and selectors.
pub(super) fn default_match(part: &mut Value, rules: &[&str]) {
    parts::fill(part, "matchPolicy", "Equivalent");
    parts::fill(part, "namespaceSelector", json!({}));
    parts::fill(part, "objectSelector", json!({}));
    for list in rules {
        for rule in parts::each(part, list) {
            parts::fill(rule, "scope", "*");
        }
    }
}

/// The validation errors of the selectors and the policy of a match.
pub(super) fn check_match(at: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    errors.check_one_of_if_set(&at.get("matchPolicy"), &["Equivalent", "Exact"]);
    for selector in ["namespaceSelector", "objectSelector"] {
        errors.extend(metadata::label_selector(&at.get(selector)));
    }
    errors
}

/// The validation errors of a list of rules.
pub(super) fn check_rules(list: &Field<'_, '_>) -> Vec<FieldError> {
    list.items().flat_map(|rule| check_rule(&rule)).collect()
}

fn check_rule(rule: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check_words(&rule.get("operations"), "operations", &mut errors);
    let operations = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    for operation in rule.get("operations").items() {
        if !operations.contains(&operation.text()) {
            errors.push(operation.not_supported(&operations));
        }
    }
    check_words(&rule.get("apiGroups"), "API groups", &mut errors);
    check_words(&rule.get("apiVersions"), "API versions", &mut errors);
    for version in rule.get("apiVersions").items() {
        if version.is_empty() {
            errors.push(version.required(""));
        }
    }
    check_resources(&rule.get("resources"), &mut errors);
    errors.check_one_of_if_set(&rule.get("scope"), &["*", "Cluster", "Namespaced"]);
    let mut operations = Vec::new();
    for name in rule.get("resourceNames").items() {
        errors.check_text(&name, names::path_segment);
        if operations.contains(&name.text()) {
            errors.push(name.duplicate());
        }
        operations.push(name.text());
    }
    errors
}

/// The texts of a list that must not be empty.
fn listed<'a>(list: &Field<'a, '_>, errors: &mut Vec<FieldError>) -> Vec<&'a str> {
    let words: Vec<&str> = list.items().map(|word| word.text()).collect();
    if words.is_empty() {
        errors.push(list.required(""));
    }
    words
}

/// Checks a non-empty list in which `*`, if present, must be the only item.
fn check_words(list: &Field<'_, '_>, what: &str, errors: &mut Vec<FieldError>) {
    let words = listed(list, errors);
    if words.len() > 1 && words.contains(&"*") {
        let text = format!("if '*' is present, must not specify other {what}");
        errors.push(list.invalid(text));
    }
}

/// Checks resources, with or without sub-resources. A wildcard must be the only item of those that it covers.
fn check_resources(list: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let words = listed(list, errors);
    for word in list.items() {
        if word.is_empty() {
            errors.push(word.required(""));
            continue;
        }
        let (resource, sub) = word.text().split_once('/').unwrap_or((word.text(), ""));
        let all_subs = format!("{resource}/*");
        let all_resources = format!("*/{sub}");
        let covered = |by: &str| word.text() != by && words.contains(&by);
        if !sub.is_empty() && (covered(&all_subs) || covered(&all_resources)) {
            let by = if covered(&all_subs) {
                all_subs
            } else {
                all_resources
            };
            errors.push(word.invalid(format!(
                "if '{by}' is present, must not specify {}",
                word.text()
            )));
        }
    }
    if words.len() > 1 && words.contains(&"*/*") {
        errors.push(list.invalid("if '*/*' is present, must not specify other resources"));
    }
    if words.contains(&"*") && words.iter().any(|word| *word != "*" && !word.contains('/')) {
        let text = "if '*' is present, must not specify other resources without subresources";
        errors.push(list.invalid(text));
    }
}

/// Checks the names of match conditions; `admission-rules` checks the expressions.
pub(super) fn check_conditions(list: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = metadata::duplicates(list, "name");
    if list.items().count() > CONDITIONS_MAX {
        errors.push(list.invalid(format!("must have at most {CONDITIONS_MAX} items")));
    }
    for condition in list.items() {
        let (name, expression) = (condition.get("name"), condition.get("expression"));
        errors.check_required_text(&name, names::qualified_name);
        if expression.text().trim().is_empty() {
            errors.push(expression.required(""));
        }
    }
    errors
}
