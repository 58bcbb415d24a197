//! rbac.authorization.k8s.io/v1 Role and ClusterRole.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use super::GROUP;
use crate::json::decode::DecodeError;
use crate::json::parts;
use crate::kind::info::{Names, cluster, namespaced};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::Field;
use crate::validation::metadata;

/// rbac.authorization.k8s.io/v1 Role.
#[derive(Debug)]
pub struct Role;

/// rbac.authorization.k8s.io/v1 ClusterRole.
#[derive(Debug)]
pub struct ClusterRole;

const ROLE: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        create_on_update: true,
        ..WriteRules::ORDINARY
    },
    ..namespaced(Names {
        group: GROUP,
        kind: "Role",
        list_kind: "RoleList",
        plural: "roles",
        singular: "role",
        short: &[],
    })
};

const CLUSTER_ROLE: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        create_on_update: true,
        ..WriteRules::ORDINARY
    },
    ..cluster(Names {
        group: GROUP,
        kind: "ClusterRole",
        list_kind: "ClusterRoleList",
        plural: "clusterroles",
        singular: "clusterrole",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Created Field", "When the role was created."),
];

impl Kind for Role {
    fn info(&self) -> KindInfo<'_> {
        ROLE
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        self.info().decode(object).map(with_rules)
    }

    fn default(&self, _object: &mut Value) {}

    fn name_errors(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object, true)
    }
}

impl Printer for Role {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Cell> {
        row(object)
    }
}

impl Kind for ClusterRole {
    fn info(&self) -> KindInfo<'_> {
        CLUSTER_ROLE
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        self.info().decode(object).map(with_rules)
    }

    fn default(&self, _object: &mut Value) {}

    fn name_errors(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object, false)
    }
}

impl Printer for ClusterRole {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Cell> {
        row(object)
    }
}

/// As upstream, a role without rules contains an empty list of rules.
fn with_rules(mut role: Value) -> Value {
    parts::fill(&mut role, "rules", json!([]));
    role
}

fn row(object: &Value) -> Vec<Cell> {
    vec![
        table::name(object),
        table::text_or(&object["metadata"]["creationTimestamp"], "<unknown>"),
    ]
}

fn validate(object: &Value, in_namespace: bool) -> Vec<FieldError> {
    let root = Field::root(object);
    let mut errors = Vec::new();
    for rule in root.get("rules").items() {
        errors.extend(validate_rule(&rule, in_namespace));
    }
    let selectors = root.get_path("aggregationRule.clusterRoleSelectors");
    if root.get("aggregationRule").is_set() && selectors.is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(selectors.required(detail));
    }
    for selector in selectors.items() {
        errors.extend(metadata::label_selector(&selector));
    }
    errors
}

fn validate_rule(rule: &Field<'_, '_>, in_namespace: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let missing = |field: &str| rule.get_path(field).is_empty();
    if missing("verbs") {
        errors.push(
            rule.get("verbs")
                .required("verbs must contain at least one value"),
        );
    }
    let urls = rule.get("nonResourceURLs");
    if !urls.is_empty() {
        let detail = "namespaced rules cannot apply to non-resource URLs";
        if in_namespace {
            errors.push(urls.invalid(detail));
        }
        if !missing("apiGroups") || !missing("resources") || !missing("resourceNames") {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(urls.invalid(detail));
        }
        return errors;
    }
    if missing("apiGroups") {
        let detail = "resource rules must supply at least one api group";
        errors.push(rule.get("apiGroups").required(detail));
    }
    if missing("resources") {
        let detail = "resource rules must supply at least one resource";
        errors.push(rule.get("resources").required(detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_names_verbs_and_resources() {
        let role = json!({"metadata": {"name": "a:b", "namespace": "c"}, "rules": [{}]});
        let errors: Vec<String> = Role
            .validate_create(&role)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            errors,
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api \
                 group",
                "rules[0].resources: Required value: resource rules must supply at least one \
                 resource",
            ]
        );
    }

    #[test]
    fn the_core_group_is_kept() {
        let role = json!({"metadata": {"name": "a"}, "rules": [{"apiGroups": [""],
            "resources": ["pods"], "verbs": ["get"]}]});
        let decoded = ClusterRole.decode(role).unwrap();
        assert_eq!(decoded["rules"][0]["apiGroups"], json!([""]));
    }
}
