//! ClusterRoles that contain the rules of other ClusterRoles.
//!
//! **Goal.** The rules of a role with an `aggregationRule` are the rules of all roles that the rule selects, in the
//! order of the roles' names, without duplicates. **Guarantees**: other roles are not changed.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use object_model::LabelSelector;

/// The rules to write into a role; `None` if the role has the rules already.
pub fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let rule = role.aggregation_rule.as_ref()?;
    if role.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let selectors = rule.cluster_role_selectors.as_deref().unwrap_or_default();
    let selectors: Vec<LabelSelector> = selectors.iter().filter_map(LabelSelector::of).collect();
    let role_name = role.metadata.name.as_deref();
    let chosen = |other: &&Arc<ClusterRole>| {
        let labels = other.metadata.labels.as_ref();
        let label = |key: &str| {
            labels
                .and_then(|labels| labels.get(key))
                .map(String::as_str)
        };
        other.metadata.name.as_deref() != role_name
            && selectors.iter().any(|selector| selector.matches_by(label))
    };
    let mut others: Vec<&Arc<ClusterRole>> = all.iter().filter(chosen).collect();
    others.sort_unstable_by_key(|other| other.metadata.name.as_deref());
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in others.iter().flat_map(|other| other.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn role(value: Value) -> Arc<ClusterRole> {
        Arc::new(json_tree::from_value(value).unwrap())
    }

    fn part(name: &str, resource: &str) -> Arc<ClusterRole> {
        role(json!({
            "metadata": {"name": name, "labels": {"to": "all"}},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}],
        }))
    }

    #[test]
    fn rules_are_gathered_by_name_each_once_and_then_left() {
        let gather = |rules: Value| {
            role(json!({
                "metadata": {"name": "all", "labels": {"to": "all"}},
                "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]},
                "rules": rules,
            }))
        };
        let gathered = gather(json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]));
        let roles = [
            part("b", "pods"),
            part("a", "nodes"),
            part("c", "pods"),
            gathered.clone(),
        ];
        let rules = plan(&gathered, &roles).unwrap();
        let resources = rules
            .iter()
            .flat_map(|rule| rule.resources.clone().unwrap());
        assert_eq!(resources.collect::<Vec<_>>(), ["nodes", "pods"]);
        let settled = gather(json!(rules));
        assert_eq!(plan(&settled, &roles), None);
        assert_eq!(
            plan(&settled, std::slice::from_ref(&settled)),
            Some(Vec::new())
        );
        assert_eq!(plan(&part("a", "pods"), &roles), None);
    }
}
