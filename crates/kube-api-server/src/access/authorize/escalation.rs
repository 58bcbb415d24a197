//! Privilege escalation check of RBAC: a user grants only rights that the user has. Writing a role needs
//! all its rules; writing a binding needs all rules of its role. The verbs `escalate` and `bind` lift the
//! check.
//!
//! Source: <https://kubernetes.io/docs/reference/access-authn-authz/rbac/>, "Privilege escalation
//! prevention and bootstrapping".

use json_tree::Value;
use object_model::Status;
use resource_kinds::ObjectReader;

use super::{AuthorizationAttributes, Authorizer, Rule};
use crate::catalog::registry::Resource;
use crate::http::user::UserInfo;
use crate::objects::metadata;
use crate::objects::storage::reading;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Metadata that grants no rights. Any user with access to the object may write these fields, because the garbage
/// collector writes them.
const HARMLESS: [&str; 4] = [
    "finalizers",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
];

/// Checks the write of an object of the RBAC group; other objects pass. `old` is the object before the write.
///
/// *Errors.* 403 with the first rule that the user lacks; 404 for a binding to a role that does not exist: a later
/// creator of the role would not know that the role is bound.
pub(crate) fn check(
    authorizer: &Authorizer,
    user: &UserInfo,
    namespace: &str,
    name: &str,
    resource: &Resource,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if resource.info().group != GROUP || old.is_some_and(|old| grants_the_same(object, old)) {
        return Ok(());
    }
    let plural = resource.info().plural;
    let special = |verb, resource, name| AuthorizationAttributes {
        verb,
        group: GROUP,
        resource,
        namespace,
        name,
        ..AuthorizationAttributes::default()
    };
    let (rules, gathers) = match plural {
        "roles" | "clusterroles" => {
            if authorizer
                .rbac
                .allows(user, &special("escalate", plural, name))
            {
                return Ok(());
            }
            (
                Rule::list_of(object),
                gathers(object) || old.is_some_and(gathers),
            )
        }
        "rolebindings" | "clusterrolebindings" => {
            let role = &object["roleRef"];
            let text = |field: &str| role[field].as_str().unwrap_or_default();
            let (plural, home) = match text("kind") {
                "Role" => ("roles", namespace),
                _ => ("clusterroles", ""),
            };
            if authorizer
                .rbac
                .allows(user, &special("bind", plural, text("name")))
            {
                return Ok(());
            }
            let role = reading(&authorizer.objects, |reads| {
                let role = reads.get(GROUP, plural, home, text("name"));
                role.ok_or_else(|| Status::not_found(GROUP, plural, text("name")))
            })?;
            (authorizer.rbac.read(|index| index.rules_of(&role)), false)
        }
        _ => return Ok(()),
    };
    let forbidden = |why: &str| Status::forbidden(GROUP, plural, name, why);
    let granted = authorizer.rbac.rules(user, namespace);
    if let Some(rule) = missing(&granted, &rules) {
        let text = serde_json::to_string(rule).unwrap_or_default();
        let why = format!(
            "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held: \
             {text}",
            user.name, user.groups
        );
        return Err(forbidden(&why));
    }
    if gathers && missing(&granted, &Rule::everything()).is_some() {
        // The rules of the aggregated roles may grow later.
        let why = "must have cluster-admin privileges to use the aggregationRule";
        return Err(forbidden(why));
    }
    Ok(())
}

/// Whether a role aggregates the rules of other roles.
fn gathers(role: &Value) -> bool {
    let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array();
    selectors.is_some_and(|selectors| !selectors.is_empty())
}

/// Whether two objects differ only in harmless metadata.
fn grants_the_same(object: &Value, old: &Value) -> bool {
    let bare = |object: &Value| {
        let mut bare = object.clone();
        for field in HARMLESS {
            metadata::of(&mut bare).shift_remove(field);
        }
        bare
    };
    bare(object) == bare(old)
}

/// The first rule that a user's rules do not cover.
fn missing<'r>(granted: &[Rule], rules: &'r [Rule]) -> Option<&'r Rule> {
    rules.iter().find(|rule| {
        let mut single = rule.singles();
        !single.all(|single| granted.iter().any(|granted| granted.includes(&single)))
    })
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn rules(rules: Value) -> Vec<Rule> {
        Rule::list_of(&json!({ "rules": rules }))
    }

    #[test]
    fn what_is_given_away_must_be_held() {
        let pods = |verbs: &[&str], names: &[&str]| {
            json!({"apiGroups": [""], "resources": ["pods"], "verbs": verbs,
                "resourceNames": names})
        };
        let urls = |verbs: &[&str], urls: &[&str]| json!({"nonResourceURLs": urls, "verbs": verbs});
        let covered = |granted: Value, requested: Value| {
            missing(&rules(granted), &rules(json!([requested]))).is_none()
        };
        // The two rules together cover the requested rights.
        let both = json!([pods(&["get"], &[]), pods(&["list"], &[])]);
        assert!(covered(both.clone(), pods(&["get", "list"], &["a"])));
        assert!(!covered(both.clone(), pods(&["get", "watch"], &[])));
        assert!(!covered(both, pods(&["*"], &[])));
        assert!(!covered(
            json!([pods(&["get"], &["a"])]),
            pods(&["get"], &[])
        ));
        // A rule without resource names is wider than a rule with names.
        assert!(!covered(
            json!([pods(&["get"], &[""])]),
            pods(&["get"], &[])
        ));
        assert!(covered(
            json!([pods(&["*"], &["a", "b"])]),
            pods(&["get"], &["b"])
        ));
        let parts =
            |resource: &str| json!({"apiGroups": ["*"], "resources": [resource], "verbs": ["get"]});
        assert!(covered(json!([parts("*/status")]), parts("pods/status")));
        assert!(covered(json!([parts("*")]), parts("*/status")));
        assert!(!covered(json!([parts("pods")]), parts("pods/status")));
        assert!(!covered(json!([parts("pods/status")]), parts("*/status")));
        assert!(covered(
            json!([urls(&["get"], &["/a*"])]),
            urls(&["get"], &["/a/*"])
        ));
        assert!(!covered(
            json!([urls(&["get"], &["/a/*"])]),
            urls(&["get"], &["/a*"])
        ));
        assert!(covered(
            json!([urls(&["*"], &["*"])]),
            urls(&["get"], &["/metrics"])
        ));
    }

    #[test]
    fn only_what_grants_nothing_is_harmless() {
        let role = json!({"metadata": {"name": "r", "resourceVersion": "1"}, "rules": []});
        let mut other = role.clone();
        other["metadata"]["finalizers"] = json!(["a/b"]);
        other["metadata"]["resourceVersion"] = json!("2");
        assert!(grants_the_same(&other, &role));
        other["metadata"]["labels"] = json!({"a": "b"});
        assert!(!grants_the_same(&other, &role));
    }
}
