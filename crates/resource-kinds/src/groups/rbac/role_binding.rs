//! rbac.authorization.k8s.io/v1 RoleBinding and ClusterRoleBinding.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use super::GROUP;
use crate::json::parts;
use crate::kind::info::{Names, cluster, namespaced};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};

/// rbac.authorization.k8s.io/v1 RoleBinding.
#[derive(Debug)]
pub struct RoleBinding;

/// rbac.authorization.k8s.io/v1 ClusterRoleBinding.
#[derive(Debug)]
pub struct ClusterRoleBinding;

const ROLE_BINDING: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        create_on_update: true,
        ..WriteRules::ORDINARY
    },
    ..namespaced(Names {
        group: GROUP,
        kind: "RoleBinding",
        list_kind: "RoleBindingList",
        plural: "rolebindings",
        singular: "rolebinding",
        short: &[],
    })
};

const CLUSTER_ROLE_BINDING: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        create_on_update: true,
        ..WriteRules::ORDINARY
    },
    ..cluster(Names {
        group: GROUP,
        kind: "ClusterRoleBinding",
        list_kind: "ClusterRoleBindingList",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Role", "The role that is given."),
    table::AGE,
    table::wide("Users", "Users who have the role."),
    table::wide("Groups", "Groups who have the role."),
    table::wide("ServiceAccounts", "Service accounts who have the role."),
];

impl Kind for RoleBinding {
    fn info(&self) -> KindInfo<'_> {
        ROLE_BINDING
    }

    fn default(&self, object: &mut Value) {
        fill_groups(object);
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object, &["ClusterRole", "Role"])
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_content(object);
        errors.extend(unchanged(object, old));
        errors
    }
}

impl Printer for RoleBinding {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        row(object, now)
    }
}

impl Kind for ClusterRoleBinding {
    fn info(&self) -> KindInfo<'_> {
        CLUSTER_ROLE_BINDING
    }

    fn default(&self, object: &mut Value) {
        fill_groups(object);
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object, &["ClusterRole"])
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_content(object);
        errors.extend(unchanged(object, old));
        errors
    }
}

impl Printer for ClusterRoleBinding {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        row(object, now)
    }
}

fn fill_groups(object: &mut Value) {
    if let Some(role) = parts::entry(object, "roleRef") {
        parts::fill(role, "apiGroup", GROUP);
    }
    for subject in parts::each(object, "subjects") {
        if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
            parts::fill(subject, "apiGroup", GROUP);
        }
    }
}

fn row(object: &Value, now: Timestamp) -> Vec<Cell> {
    let role = &object["roleRef"];
    let subjects = |kind: &str| {
        let all = Field::of(object, "subjects");
        let named: Vec<String> = all
            .items()
            .filter(|subject| subject.get("kind").text() == kind)
            .map(|subject| match subject.get("namespace").text() {
                "" => subject.get("name").text().to_owned(),
                namespace => format!("{namespace}/{}", subject.get("name").text()),
            })
            .collect();
        json!(named.join(", "))
    };
    let text = |field: &str| role[field].as_str().unwrap_or_default().to_owned();
    vec![
        table::name(object),
        json!(format!("{}/{}", text("kind"), text("name"))),
        table::age(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

fn unchanged(object: &Value, old: &Value) -> Option<FieldError> {
    let role = Field::of(object, "roleRef");
    (object["roleRef"] != old["roleRef"]).then(|| role.invalid("cannot change roleRef"))
}

fn validate(object: &Value, roles: &[&str]) -> Vec<FieldError> {
    let root = Field::root(object);
    let role = root.get("roleRef");
    let mut errors = Vec::new();
    if role.get("apiGroup").text() != GROUP {
        errors.push(role.get("apiGroup").not_supported(&[GROUP]));
    }
    if !roles.contains(&role.get("kind").text()) {
        errors.push(role.get("kind").not_supported(roles));
    }
    errors.check_required_text(&role.get("name"), names::path_segment);
    for subject in root.get("subjects").items() {
        errors.extend(validate_subject(&subject, roles.contains(&"Role")));
    }
    errors
}

fn validate_subject(subject: &Field<'_, '_>, in_namespace: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (name, group) = (subject.get("name"), subject.get("apiGroup"));
    if name.is_empty() {
        errors.push(name.required(""));
    }
    match subject.get("kind").text() {
        "ServiceAccount" => {
            errors.check_text_if_set(&name, names::dns_subdomain);
            if !group.is_empty() {
                errors.push(group.not_supported(&[""]));
            }
            if !in_namespace && subject.get("namespace").is_empty() {
                errors.push(subject.get("namespace").required(""));
            }
        }
        "User" | "Group" => {
            if group.text() != GROUP {
                errors.push(group.not_supported(&[GROUP]));
            }
        }
        _ => {
            let kinds = ["Group", "ServiceAccount", "User"];
            errors.push(subject.get("kind").not_supported(&kinds));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(role: &str) -> Value {
        let mut object = json!({"metadata": {"name": "a", "namespace": "b"},
            "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": "me"},
                {"kind": "ServiceAccount", "name": "sa", "namespace": "b"}]});
        RoleBinding.default(&mut object);
        object
    }

    #[test]
    fn groups_are_filled_in() {
        let object = binding("view");
        assert_eq!(object["roleRef"]["apiGroup"], GROUP);
        assert_eq!(object["subjects"][0]["apiGroup"], GROUP);
        assert_eq!(RoleBinding.validate_create(&object), []);
    }

    #[test]
    fn the_role_stays() {
        let errors = RoleBinding.validate_update(&binding("view"), &binding("edit"));
        assert_eq!(errors.len(), 1);
        assert!(errors[0].to_string().ends_with("cannot change roleRef"));
    }

    #[test]
    fn a_row_shows_who_has_the_role() {
        let row = RoleBinding.row(&binding("view"), Timestamp::UNIX_EPOCH);
        assert_eq!(
            (&row[1], &row[3], &row[5]),
            (&json!("ClusterRole/view"), &json!("me"), &json!("b/sa"))
        );
    }
}
