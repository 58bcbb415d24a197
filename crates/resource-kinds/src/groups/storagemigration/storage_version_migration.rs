//! storagemigration.k8s.io/v1beta1 StorageVersionMigration (KEP-4192).

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::FieldError;

use crate::json::parts;
use crate::kind::info::{Names, STATUS, cluster};
use crate::kind::{Kind, KindInfo, StatusUpdate, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::conditions;
use crate::validation::field::{Field, NEGATIVE, Rules};

/// storagemigration.k8s.io/v1beta1 StorageVersionMigration: the request to write all objects of a resource in the version in
/// which they are stored now.
#[derive(Debug)]
pub struct StorageVersionMigration;

const INFO: KindInfo<'static> = KindInfo {
    version: "v1beta1",
    subresources: &[STATUS],
    writes: WriteRules {
        unconditional_update: false,
        ..WriteRules::ORDINARY
    },
    ..cluster(Names {
        group: "storagemigration.k8s.io",
        kind: "StorageVersionMigration",
        list_kind: "StorageVersionMigrationList",
        plural: "storageversionmigrations",
        singular: "storageversionmigration",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[table::NAME, table::AGE];

/// The conditions of which at most one is true; a true one stays true.
const ENDS: [(&str, &str); 2] = [("Succeeded", "success"), ("Failed", "failed")];

impl Kind for StorageVersionMigration {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn prepare_create(&self, object: &mut Value) {
        parts::set(object, "status", json!({}));
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        let resource = Field::of(object, "spec.resource.resource");
        let missing = resource.is_empty();
        let missing = missing.then(|| resource.required("resource is required"));
        missing.into_iter().collect()
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for path in ["spec.resource.group", "spec.resource.resource"] {
            errors.check_unchanged(&Field::of(object, path), &Field::of(old, path));
        }
        errors
    }

    fn status_update(&self) -> &dyn StatusUpdate {
        self
    }
}

impl StatusUpdate for StorageVersionMigration {
    fn validate_status_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let version = Field::of(object, "status.resourceVersion");
        check_version(&version, old, &mut errors);
        let now = Field::of(object, "status.conditions");
        conditions::check_all(&now, &mut errors);
        let mut refuse = |text: String| errors.push(now.invalid(text));
        let is_true = |kind| conditions::is_true(object, kind);
        if ENDS.iter().all(|(kind, _)| is_true(kind)) {
            refuse("Both success and failed conditions cannot be true at the same time".to_owned());
        }
        for (kind, name) in ENDS {
            if is_true(kind) && is_true("Running") {
                refuse(format!(
                    "Running condition cannot be true when {name} condition is true"
                ));
            }
        }
        for (kind, _) in ENDS {
            if conditions::is_true(old, kind) && !is_true(kind) {
                let name = if kind == "Succeeded" { "Success" } else { kind };
                refuse(format!(
                    "{name} condition cannot be set to false once it is true"
                ));
            }
        }
        errors
    }
}

/// Checks `status.resourceVersion`: a number that is set once.
fn check_version(version: &Field<'_, '_>, old: &Value, errors: &mut Vec<FieldError>) {
    let text = version.text();
    match text.parse::<i64>() {
        Ok(number) if number < 0 => errors.push(version.invalid(NEGATIVE)),
        Err(_) if !text.is_empty() => {
            errors.push(version.invalid(format!("failed to parse resource version {text:?}")));
        }
        _ => {}
    }
    let before = Field::of(old, "status.resourceVersion").text();
    if !before.is_empty() && before != text {
        errors.push(version.invalid("cannot be updated"));
    }
}

impl Printer for StorageVersionMigration {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![table::name(object), table::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::field::IMMUTABLE;

    fn migration(status: Value) -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"resource": {"group": "example.com",
            "resource": "boats"}}, "status": status})
    }

    fn texts(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_resource_is_named_and_stays() {
        let good = migration(Value::Null);
        assert_eq!(StorageVersionMigration.validate_create(&good), []);
        let mut other = good.clone();
        other["spec"]["resource"] = json!({"group": "", "resource": ""});
        assert_eq!(
            texts(StorageVersionMigration.validate_content(&other)),
            ["spec.resource.resource: Required value: resource is required"]
        );
        let errors = StorageVersionMigration.validate_content_update(&other, &good);
        assert_eq!(errors.len(), 2);
        assert!(errors.iter().all(|error| error.detail == IMMUTABLE));
    }

    #[test]
    fn a_migration_ends_once() {
        let status = |kinds: &[&str], version: &str| {
            let condition = |kind: &&str| {
                json!({"type": kind, "status": "True", "reason": "Because",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            };
            let conditions: Vec<Value> = kinds.iter().map(condition).collect();
            migration(json!({"conditions": conditions, "resourceVersion": version}))
        };
        let check = |new: &Value, old: &Value| {
            texts(StorageVersionMigration.validate_status_update(new, old))
        };
        let (new, running) = (migration(json!({})), status(&["Running"], "12"));
        let done = status(&["Succeeded"], "12");
        for (next, before) in [(&running, &new), (&done, &running), (&done, &done)] {
            assert_eq!(check(next, before), [""; 0]);
        }
        let cases = [
            (
                status(&["Succeeded", "Failed"], "12"),
                "Both success and failed",
            ),
            (
                status(&["Succeeded", "Running"], "12"),
                "Running condition cannot be true when success",
            ),
            (
                status(&["Failed", "Running"], "12"),
                "Running condition cannot be true when failed",
            ),
            (status(&[], "13"), "cannot be updated"),
        ];
        for (next, expected) in &cases {
            let errors = check(next, &running);
            assert!(errors[0].contains(expected), "{errors:?}");
        }
        assert!(check(&running, &done)[0].contains("Success condition cannot be set to false"));
        let failed = status(&["Failed"], "12");
        assert!(
            check(&new, &failed)
                .join(" ")
                .contains("Failed condition cannot")
        );
        assert!(check(&status(&[], "x"), &new)[0].contains("failed to parse resource version"));
        assert!(check(&status(&[], "-1"), &new)[0].contains(NEGATIVE));
    }
}
