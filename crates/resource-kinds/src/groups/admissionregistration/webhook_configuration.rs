//! admissionregistration.k8s.io/v1 MutatingWebhookConfiguration and ValidatingWebhookConfiguration.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use super::GROUP;
use super::rules::{check_conditions, check_match, check_rules, default_match};
use crate::json::parts;
use crate::kind::info::{Names, cluster};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::metadata;

/// A list of mutating or validating admission webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookConfiguration {
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
        kind: "MutatingWebhookConfiguration",
        list_kind: "MutatingWebhookConfigurationList",
        plural: "mutatingwebhookconfigurations",
        singular: "mutatingwebhookconfiguration",
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
        kind: "ValidatingWebhookConfiguration",
        list_kind: "ValidatingWebhookConfigurationList",
        plural: "validatingwebhookconfigurations",
        singular: "validatingwebhookconfiguration",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::number("Webhooks", "How many webhooks there are."),
    table::AGE,
];

impl Kind for WebhookConfiguration {
    fn info(&self) -> KindInfo<'_> {
        match self {
            Self::Mutating => MUTATING,
            Self::Validating => VALIDATING,
        }
    }

    fn default(&self, object: &mut Value) {
        for hook in parts::each(object, "webhooks") {
            parts::fill(hook, "failurePolicy", "Fail");
            parts::fill(hook, "timeoutSeconds", 10);
            default_match(hook, &["rules"]);
            if *self == Self::Mutating {
                parts::fill(hook, "reinvocationPolicy", "Never");
            }
            let client = hook.get_mut("clientConfig");
            if let Some(service) = client.and_then(|client| client.get_mut("service")) {
                parts::fill(service, "port", 443);
            }
        }
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }
}

impl Printer for WebhookConfiguration {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            table::name(object),
            json!(table::count(&object["webhooks"])),
            table::age(object, now),
        ]
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let hooks = Field::of(object, "webhooks");
    let mut errors = metadata::duplicates(&hooks, "name");
    errors.extend(hooks.items().flat_map(|hook| check(&hook)));
    errors
}

fn check(hook: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = hook.get("name");
    errors.check_required_text(&name, qualified);
    errors.extend(check_rules(&hook.get("rules")));
    errors.extend(check_match(hook));
    errors.check_one_of_if_set(&hook.get("failurePolicy"), &["Fail", "Ignore"]);
    errors.check_one_of_if_set(&hook.get("reinvocationPolicy"), &["IfNeeded", "Never"]);
    let effects = hook.get("sideEffects");
    if !effects.text().is_empty() {
        errors.check_one_of(&effects, &["None", "NoneOnDryRun"]);
    } else {
        errors.push(effects.required("must specify one of None, NoneOnDryRun"));
    }
    let timeout = hook.get("timeoutSeconds");
    if timeout
        .int()
        .is_some_and(|seconds| !(1..=30).contains(&seconds))
    {
        errors.push(timeout.invalid("the timeout value must be between 1 and 30 seconds"));
    }
    errors.extend(check_client(&hook.get("clientConfig")));
    errors.extend(check_conditions(&hook.get("matchConditions")));
    let versions = hook.get("admissionReviewVersions");
    let mut listed = versions.items();
    if versions.is_empty() {
        errors.push(versions.required("must specify one of v1, v1beta1"));
    } else if !listed.any(|version| matches!(version.text(), "v1" | "v1beta1")) {
        errors.push(versions.invalid("must include at least one of v1, v1beta1"));
    }
    errors
}

/// Checks that the name has at least three parts.
fn qualified(name: &str) -> Vec<String> {
    let errors = names::dns_subdomain(name);
    if errors.is_empty() && name.split('.').count() < 3 {
        return vec![
            "should be a domain with at least three segments separated by dots".to_owned(),
        ];
    }
    errors
}

fn check_client(client: &Field<'_, '_>) -> Vec<FieldError> {
    let (url, service) = (client.get("url"), client.get("service"));
    match (url.is_set(), service.is_set()) {
        (true, false) => check_url(&url),
        (false, true) => check_service(&service),
        _ => vec![client.required("exactly one of url or service is required")],
    }
}

const FORM: &str = "; desired format: https://host[/path]";

fn check_url(url: &Field<'_, '_>) -> Vec<FieldError> {
    let text = url.text();
    let Some(rest) = text.strip_prefix("https://") else {
        return vec![url.invalid(format!("'https' is the only allowed URL scheme{FORM}"))];
    };
    let mut errors = Vec::new();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    for (wrong, what) in [
        (authority.is_empty(), "host must be specified"),
        (
            authority.contains('@'),
            "user information is not permitted in the URL",
        ),
        (rest.contains('#'), "fragments are not permitted in the URL"),
        (
            rest.contains('?'),
            "query parameters are not permitted in the URL",
        ),
    ] {
        if wrong {
            errors.push(url.invalid(format!("{what}{FORM}")));
        }
    }
    errors
}

fn check_service(service: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for part in ["name", "namespace"] {
        let at = service.get_path(part);
        if at.is_empty() {
            errors.push(at.required(&format!("service {part} is required")));
        }
    }
    let port = service.get("port");
    if port.int().is_some_and(|port| !(1..=65535).contains(&port)) {
        errors.push(port.invalid("port is not valid: must be between 1 and 65535, inclusive"));
    }
    let path = service.get("path");
    if !path.is_empty() && !path.text().starts_with('/') {
        errors.push(path.invalid("must start with a '/'"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(hook: Value) -> Value {
        let mut object = json!({"metadata": {"name": "a"}, "webhooks": [{"name": "a.b.c",
            "clientConfig": {"url": "https://hooks.example.com/x"}, "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "rules": [{"operations": ["CREATE"],
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]});
        for (field, value) in hook.as_object().into_iter().flatten() {
            object["webhooks"][0][field] = value.clone();
        }
        let mut object = WebhookConfiguration::Mutating.decode(object).unwrap();
        WebhookConfiguration::Mutating.default(&mut object);
        object
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        let object = configuration(json!({"clientConfig": {"service":
            {"namespace": "d", "name": "s"}}}));
        assert_eq!(WebhookConfiguration::Mutating.validate_create(&object), []);
        let hook = &object["webhooks"][0];
        for (field, expected) in [
            ("/failurePolicy", json!("Fail")),
            ("/matchPolicy", json!("Equivalent")),
            ("/namespaceSelector", json!({})),
            ("/timeoutSeconds", json!(10)),
            ("/reinvocationPolicy", json!("Never")),
            ("/rules/0/scope", json!("*")),
            ("/clientConfig/service/port", json!(443)),
        ] {
            assert_eq!(hook.pointer(field), Some(&expected), "{field}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (hook, expected) in [
            (json!({"name": "a.b"}), "at least three segments"),
            (
                json!({"sideEffects": "Some"}),
                "Unsupported value: \"Some\"",
            ),
            (json!({"sideEffects": null}), "must specify one of None"),
            (json!({"timeoutSeconds": 31}), "between 1 and 30 seconds"),
            (json!({"clientConfig": {}}), "exactly one of url or service"),
            (
                json!({"clientConfig": {"url": "http://a"}}),
                "only allowed URL scheme",
            ),
            (
                json!({"clientConfig": {"url": "https:///x"}}),
                "host must be specified",
            ),
            (
                json!({"admissionReviewVersions": ["v7"]}),
                "at least one of v1, v1beta1",
            ),
            (
                json!({"rules": [{"operations": ["*", "CREATE"], "apiGroups": ["*"],
                "apiVersions": ["*"], "resources": ["*"]}]}),
                "other operations",
            ),
            (
                json!({"rules": [{"operations": ["*"], "apiGroups": ["*"],
                "apiVersions": ["*"], "resources": ["pods/*", "pods/log"]}]}),
                "pods/*",
            ),
            (
                json!({"rules": [{"operations": ["READ"], "apiGroups": ["*"],
                "apiVersions": ["*"], "resources": ["*"]}]}),
                "Unsupported value: \"READ\"",
            ),
            (
                json!({"matchConditions": [{"name": "", "expression": ""}]}),
                "Required value",
            ),
            (
                json!({"objectSelector": {"matchExpressions": [{"key": "a", "operator": "x"}]}}),
                "not a valid selector operator",
            ),
        ] {
            let object = configuration(hook.clone());
            let errors = WebhookConfiguration::Validating.validate_update(&object, &object);
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert!(
                errors.iter().any(|error| error.contains(expected)),
                "{hook}: {errors:?}"
            );
        }
    }
}
