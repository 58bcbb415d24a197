//! Match rules: the requests to which webhooks and policies apply.

use json_tree::Value;
use object_model::LabelSelector;
use object_model::selector::SelectorError;
use resource_kinds::Scope;

use crate::request::Request;

/// The resource of a write, from its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetResource<'a> {
    /// API group, empty for core.
    pub group: &'a str,
    /// API version, for instance `v1`.
    pub version: &'a str,
    /// Resource in the plural, for instance `pods`.
    pub plural: &'a str,
    /// Sub-resource, empty for the object itself.
    pub subresource: &'a str,
    /// The scope of the resource.
    pub scope: Scope,
}

/// The texts of a list.
pub(crate) fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn has(list: &Value, item: &str) -> bool {
    texts(list).any(|text| text == "*" || text == item)
}

/// Whether a rule matches an operation on a target. (Only rules of policies have `resourceNames`.)
pub(crate) fn rule_matches(
    rule: &Value,
    target: &TargetResource<'_>,
    request: &Request<'_>,
) -> bool {
    let scope = match rule["scope"].as_str() {
        Some("Cluster") => target.scope == Scope::Cluster,
        Some("Namespaced") => target.scope == Scope::Namespaced,
        _ => true,
    };
    let mut resources = texts(&rule["resources"]);
    let names = rule["resourceNames"].as_array();
    let named =
        names.is_none_or(|names| names.is_empty() || names.iter().any(|name| name == request.name));
    scope
        && named
        && has(&rule["operations"], request.operation)
        && has(&rule["apiGroups"], target.group)
        && has(&rule["apiVersions"], target.version)
        && resources.any(|resource| resource_matches(resource, target))
}

/// Examples of resources in rules: `pods`, `pods/log`, `pods/*`, `*`, `*/scale`, `*/*`.
fn resource_matches(resource: &str, target: &TargetResource<'_>) -> bool {
    let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
    (resource == "*" || resource == target.plural) && (sub == "*" || sub == target.subresource)
}

/// Whether the selectors of a webhook or policy match the request.
///
/// # Errors
/// A selector cannot be parsed.
pub(crate) fn selected(part: &Value, request: &Request<'_>) -> Result<bool, SelectorError> {
    let selects = |selector: &Value, object: &Value| -> Result<bool, SelectorError> {
        if selector.as_object().is_none_or(json_tree::Map::is_empty) {
            return Ok(true);
        }
        let selector = LabelSelector::from_json(selector)?;
        Ok(selector.matches_object(object))
    };
    // Cluster-wide objects have no namespace that could be selected; a Namespace is selected by its own labels.
    let target = &request.subject.target;
    let is_namespace =
        target.group.is_empty() && target.plural == "namespaces" && target.subresource.is_empty();
    let of_namespace = &part["namespaceSelector"];
    let in_namespace = if is_namespace && request.operation == "DELETE" {
        selects(of_namespace, request.old)?
    } else if is_namespace {
        selects(of_namespace, request.object)?
    } else if request.namespace.is_empty() {
        true
    } else {
        selects(of_namespace, request.namespace_object)?
    };
    let of_object = &part["objectSelector"];
    let mut chosen = of_object.as_object().is_none_or(json_tree::Map::is_empty);
    for object in [request.object, request.old] {
        // The options of a connection are no objects with labels.
        let labelled = object.is_object() && request.operation != "CONNECT";
        chosen = chosen || (labelled && selects(of_object, object)?);
    }
    Ok(in_namespace && chosen)
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;
    use crate::request::{ObjectKind, ResourceAndKind};

    fn target(path: &'static str) -> TargetResource<'static> {
        let (plural, subresource) = path.split_once('/').unwrap_or((path, ""));
        TargetResource {
            group: "apps",
            version: "v1",
            plural,
            subresource,
            scope: Scope::Namespaced,
        }
    }

    fn request<'a>(
        target: TargetResource<'a>,
        object: &'a Value,
        namespace: &'a Value,
    ) -> Request<'a> {
        let kind = ObjectKind {
            group: "apps",
            version: "v1",
            kind: "Deployment",
        };
        let subject = ResourceAndKind { target, kind };
        Request {
            uid: "u",
            operation: "UPDATE",
            subject,
            requested: subject,
            namespace: "d",
            name: "web",
            user: json!({"username": "me"}),
            object,
            old: &Value::Null,
            dry_run: false,
            options: Value::Null,
            namespace_object: namespace,
            authorizer: None,
        }
    }

    #[test]
    fn rules_name_operations_groups_versions_resources_and_parts() {
        let rule = |resource: &str, more: Value| {
            let mut rule = json!({"operations": ["CREATE", "UPDATE"], "apiGroups": ["apps"],
                "apiVersions": ["*"], "resources": [resource]});
            for (field, value) in more.as_object().into_iter().flatten() {
                rule[field] = value.clone();
            }
            rule
        };
        for (rule, path, expected) in [
            (rule("deployments", json!({})), "deployments", true),
            (rule("deployments", json!({})), "deployments/scale", false),
            (rule("*", json!({})), "deployments/scale", false),
            (rule("*/*", json!({})), "deployments/scale", true),
            (rule("*/*", json!({})), "deployments", true),
            (rule("*/scale", json!({})), "deployments/scale", true),
            (rule("deployments/*", json!({})), "deployments/status", true),
            (
                rule("*", json!({"operations": ["DELETE"]})),
                "deployments",
                false,
            ),
            (rule("*", json!({"operations": ["*"]})), "deployments", true),
            (rule("*", json!({"apiGroups": [""]})), "deployments", false),
            (
                rule("*", json!({"apiVersions": ["v2"]})),
                "deployments",
                false,
            ),
            (rule("*", json!({"scope": "Cluster"})), "deployments", false),
            (
                rule("*", json!({"resourceNames": ["web"]})),
                "deployments",
                true,
            ),
            (
                rule("*", json!({"resourceNames": ["db"]})),
                "deployments",
                false,
            ),
        ] {
            let (target, nothing) = (target(path), Value::Null);
            let request = request(target, &nothing, &nothing);
            assert_eq!(
                rule_matches(&rule, &target, &request),
                expected,
                "{rule} {path}"
            );
        }
    }

    #[test]
    fn selectors_look_at_the_namespace_and_at_either_object() {
        let namespace = json!({"metadata": {"labels": {"env": "prod"}}});
        let object = json!({"metadata": {"labels": {"app": "web"}}});
        let chosen = |part: Value| {
            let request = request(target("deployments"), &object, &namespace);
            selected(&part, &request)
        };
        let label = |key: &str, value: &str| json!({"matchLabels": {key: value}});
        assert_eq!(chosen(json!({})), Ok(true));
        let prod = json!({"namespaceSelector": label("env", "prod")});
        assert_eq!(chosen(prod), Ok(true));
        let test = json!({"namespaceSelector": label("env", "test")});
        assert_eq!(chosen(test), Ok(false));
        assert_eq!(
            chosen(json!({"objectSelector": label("app", "web")})),
            Ok(true)
        );
        assert_eq!(
            chosen(json!({"objectSelector": label("app", "db")})),
            Ok(false)
        );
    }
}
