//! Index of roles and bindings. The index decides whether a request is allowed.

use std::collections::BTreeMap;

use json_tree::Value;
use object_model::{LabelSelector, NODES};
use serde::Deserialize;

use super::agents::node_of;
use super::rules::{AuthorizationAttributes, Rule};
use crate::http::user::UserInfo;

/// A Role or ClusterRole.
#[derive(Clone, Debug, Default)]
struct Role {
    rules: Vec<Rule>,
    labels: BTreeMap<String, String>,
    /// Label selectors of the ClusterRoles whose rules this ClusterRole aggregates.
    aggregates: Vec<LabelSelector>,
}

impl Role {
    fn of(object: &Value) -> Self {
        let selectors = object["aggregationRule"]["clusterRoleSelectors"].as_array();
        Self {
            rules: Rule::list_of(object),
            labels: BTreeMap::deserialize(&object["metadata"]["labels"]).unwrap_or_default(),
            aggregates: selectors
                .into_iter()
                .flatten()
                .filter_map(|selector| LabelSelector::from_json(selector).ok())
                .collect(),
        }
    }
}

/// A RoleBinding or ClusterRoleBinding.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Binding {
    role_ref: RoleRef,
    subjects: Option<Vec<Subject>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

/// All roles and bindings. The key of cluster-wide objects is the empty namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    roles: BTreeMap<(String, String), Role>,
    bindings: BTreeMap<String, BTreeMap<String, Binding>>,
}

impl Index {
    pub(super) fn put_role(&mut self, namespace: &str, name: &str, object: &Value) {
        let key = (namespace.to_owned(), name.to_owned());
        self.roles.insert(key, Role::of(object));
    }

    pub(super) fn remove_role(&mut self, namespace: &str, name: &str) {
        self.roles.remove(&(namespace.to_owned(), name.to_owned()));
    }

    pub(super) fn put_binding(&mut self, namespace: &str, name: &str, object: &Value) {
        let binding = Binding::deserialize(object).unwrap_or_default();
        let here = self.bindings.entry(namespace.to_owned()).or_default();
        here.insert(name.to_owned(), binding);
    }

    pub(super) fn remove_binding(&mut self, namespace: &str, name: &str) {
        if let Some(here) = self.bindings.get_mut(namespace) {
            here.remove(name);
        }
    }

    /// Whether a role of the user covers the request.
    pub(super) fn allows(&self, user: &UserInfo, attributes: &AuthorizationAttributes<'_>) -> bool {
        let mut is_allowed = false;
        self.each_rule(user, attributes.namespace, &mut |rule| {
            is_allowed = rule.covers(attributes);
            is_allowed
        });
        is_allowed
    }

    /// All rules of the user in a namespace, cluster-wide ones included.
    pub(super) fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let mut all = Vec::new();
        self.each_rule(user, namespace, &mut |rule| {
            all.push(rule.clone());
            false
        });
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The rules of a role, aggregated ones included.
    pub(super) fn rules_of(&self, role: &Value) -> Vec<Rule> {
        let mut all = Vec::new();
        self.each_rule_in(&Role::of(role), &mut |rule| {
            all.push(rule.clone());
            false
        });
        all
    }

    /// Calls `visit` for each rule of the user until `visit` returns true.
    fn each_rule(
        &self,
        user: &UserInfo,
        namespace: &str,
        visit: &mut dyn FnMut(&Rule) -> bool,
    ) -> bool {
        let mut namespaces = vec![""];
        if !namespace.is_empty() {
            namespaces.push(namespace);
        }
        for binding_namespace in namespaces {
            for binding in self
                .bindings
                .get(binding_namespace)
                .into_iter()
                .flat_map(BTreeMap::values)
            {
                let subjects = binding.subjects.as_deref().unwrap_or_default();
                if !subjects
                    .iter()
                    .any(|subject| is_subject(user, subject, binding_namespace))
                {
                    continue;
                }
                let role = &binding.role_ref;
                let home = if role.kind == "Role" {
                    binding_namespace
                } else {
                    ""
                };
                if self.each_rule_of(&role.kind, home, &role.name, visit) {
                    return true;
                }
            }
        }
        false
    }

    fn each_rule_of(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        visit: &mut dyn FnMut(&Rule) -> bool,
    ) -> bool {
        let home = if kind == "Role" { namespace } else { "" };
        // A Role is looked up by namespace; a ClusterRoleBinding has no namespace.
        if kind == "Role" && home.is_empty() {
            return false;
        }
        let Some(role) = self.roles.get(&(home.to_owned(), name.to_owned())) else {
            return false;
        };
        self.each_rule_in(role, visit)
    }

    fn each_rule_in(&self, role: &Role, visit: &mut dyn FnMut(&Rule) -> bool) -> bool {
        if role.rules.iter().any(&mut *visit) {
            return true;
        }
        role.aggregates.iter().any(|selector| {
            let cluster = self
                .roles
                .iter()
                .filter(|((namespace, _), _)| namespace.is_empty());
            cluster
                .filter(|(_, other)| {
                    selector.matches_by(|key| other.labels.get(key).map(String::as_str))
                })
                .any(|(_, other)| other.rules.iter().any(&mut *visit))
        })
    }
}

fn is_subject(user: &UserInfo, subject: &Subject, binding_namespace: &str) -> bool {
    match subject.kind.as_str() {
        "User" => subject.name == user.name,
        // The node authoriser further restricts the rights of a node by the node's name. A group member whose user
        // name contains no node name gets none of the rights.
        "Group" if subject.name == NODES => node_of(user).is_some(),
        "Group" => user.groups.contains(&subject.name),
        "ServiceAccount" => {
            let namespace = if subject.namespace.is_empty() {
                binding_namespace
            } else {
                &subject.namespace
            };
            user.name
                .strip_prefix("system:serviceaccount:")
                .and_then(|rest| rest.split_once(':'))
                .is_some_and(|(ns, name)| ns == namespace && name == subject.name)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use json_tree::json;

    fn attributes<'a>(
        verb: &'a str,
        resource: &'a str,
        namespace: &'a str,
    ) -> AuthorizationAttributes<'a> {
        AuthorizationAttributes {
            verb,
            group: "",
            resource,
            subresource: "",
            namespace,
            name: "",
            ..AuthorizationAttributes::default()
        }
    }

    #[test]
    fn bindings_give_roles_to_users_groups_and_accounts_in_their_place() {
        let mut index = Index::default();
        let pods =
            json!({"rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}]});
        index.put_role("", "pods", &pods);
        index.put_role("a", "pods-in-a", &pods);
        index.put_binding(
            "",
            "g",
            &json!({
                "roleRef": {"kind": "ClusterRole", "name": "pods"},
                "subjects": [{"kind": "Group", "name": "devs"}],
            }),
        );
        index.put_binding("a", "u", &json!({
            "roleRef": {"kind": "Role", "name": "pods-in-a"},
            "subjects": [{"kind": "User", "name": "eve"}, {"kind": "ServiceAccount", "name": "sa"}],
        }));
        let dev = UserInfo::new("dan", ["devs"]);
        let eve = UserInfo::new("eve", ["x"]);
        let account = UserInfo::new("system:serviceaccount:a:sa", ["x"]);
        assert!(index.allows(&dev, &attributes("list", "pods", "")));
        assert!(index.allows(&dev, &attributes("list", "pods", "b")));
        assert!(!index.allows(&dev, &attributes("get", "pods", "b")));
        for user in [&eve, &account] {
            assert!(index.allows(user, &attributes("list", "pods", "a")));
            assert!(!index.allows(user, &attributes("list", "pods", "b")));
            assert!(!index.allows(user, &attributes("list", "pods", "")));
        }
        index.remove_binding("a", "u");
        assert!(!index.allows(&eve, &attributes("list", "pods", "a")));
    }

    #[test]
    fn a_role_may_gather_the_rules_of_others() {
        let mut index = Index::default();
        index.put_role(
            "",
            "view",
            &json!({"aggregationRule": {"clusterRoleSelectors": [
            {"matchLabels": {"to-view": "true"}}]}}),
        );
        index.put_role(
            "",
            "part",
            &json!({
            "metadata": {"labels": {"to-view": "true"}},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        );
        index.put_binding(
            "",
            "v",
            &json!({
            "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "User", "name": "u"}]}),
        );
        assert!(index.allows(&UserInfo::new("u", ["x"]), &attributes("get", "pods", "a")));
        assert_eq!(index.rules(&UserInfo::new("u", ["x"]), "").len(), 1);
    }
}
