//! Nobody gives away more than they have: writing a role needs all its rules, writing a binding
//! needs all rules of the role it names, unless the verbs `escalate` or `bind` are granted.

use object_model::Status;
use serde_json::Value;

use super::{Asked, Rbac, Rule};
use crate::identity::UserInfo;
use crate::registry::Resource;
use crate::request_info::RequestInfo;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks the write of an object of the RBAC group; other objects pass.
///
/// *Errors.* 403 naming the first rule that the user lacks.
pub(crate) fn check(
    rbac: &Rbac,
    user: &UserInfo,
    resource: &Resource,
    info: &RequestInfo,
    object: &Value,
) -> Result<(), Status> {
    if resource.info().group != GROUP {
        return Ok(());
    }
    let (verb, asked_resource, name, rules) = match resource.info().plural {
        "roles" | "clusterroles" => {
            let rules = rules_in(object);
            (
                "escalate",
                resource.info().plural,
                info.name.as_str(),
                rules,
            )
        }
        "rolebindings" | "clusterrolebindings" => {
            let role = &object["roleRef"];
            let kind = role["kind"].as_str().unwrap_or_default();
            let name = role["name"].as_str().unwrap_or_default();
            let rules = rbac.read(|index| index.role_rules(kind, &info.namespace, name));
            let plural = if kind == "Role" {
                "roles"
            } else {
                "clusterroles"
            };
            ("bind", plural, name, rules)
        }
        _ => return Ok(()),
    };
    let special = Asked {
        verb,
        group: GROUP,
        resource: asked_resource,
        subresource: "",
        namespace: &info.namespace,
        name,
        path: None,
        fields: "",
    };
    if rbac.allows(user, &special) {
        return Ok(());
    }
    match rules
        .iter()
        .find(|rule| !has(rbac, user, &info.namespace, rule))
    {
        None => Ok(()),
        Some(rule) => {
            let text = serde_json::to_string(rule).unwrap_or_default();
            let why = format!(
                "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently \
                 held: {text}",
                user.name, user.groups
            );
            Err(Status::forbidden(
                GROUP,
                resource.info().plural,
                &info.name,
                &why,
            ))
        }
    }
}

fn rules_in(object: &Value) -> Vec<Rule> {
    use serde::Deserialize;
    Option::<Vec<Rule>>::deserialize(&object["rules"])
        .ok()
        .flatten()
        .unwrap_or_default()
}

/// Whether the user has every single permission of a rule.
fn has(rbac: &Rbac, user: &UserInfo, namespace: &str, rule: &Rule) -> bool {
    let one_empty = [String::new()];
    let names: &[String] = if rule.resource_names.is_empty() {
        &one_empty
    } else {
        &rule.resource_names
    };
    rule.verbs.iter().all(|verb| {
        let on_resources = rule.api_groups.iter().all(|group| {
            rule.resources.iter().all(|resource| {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                names.iter().all(|name| {
                    let asked = Asked {
                        verb,
                        group,
                        resource,
                        subresource,
                        namespace,
                        name,
                        path: None,
                        fields: "",
                    };
                    rbac.allows(user, &asked)
                })
            })
        });
        let on_urls = rule.non_resource_urls.iter().all(|url| {
            let asked = Asked {
                verb,
                group: "",
                resource: "",
                subresource: "",
                namespace: "",
                name: "",
                path: Some(url),
                fields: "",
            };
            rbac.allows(user, &asked)
        });
        on_resources && on_urls
    })
}
