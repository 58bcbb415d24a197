//! node.k8s.io/v1 RuntimeClass.

use jiff::Timestamp;
use json_tree::Value;
use object_model::{FieldError, names};

use crate::kind::info::{Names, cluster};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::{metadata, pod_template};

#[derive(Debug)]
pub struct RuntimeClass;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        unconditional_update: false,
        ..WriteRules::ORDINARY
    },
    ..cluster(Names {
        group: "node.k8s.io",
        kind: "RuntimeClass",
        list_kind: "RuntimeClassList",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Handler", "What runs the pods of the class."),
    table::AGE,
];

impl Kind for RuntimeClass {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_content(object);
        errors.check_unchanged(&Field::of(object, "handler"), &Field::of(old, "handler"));
        errors
    }
}

impl Printer for RuntimeClass {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            table::name(object),
            table::text_or(&object["handler"], ""),
            table::age(object, now),
        ]
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let class = Field::root(object);
    errors.check_text(&class.get("handler"), names::dns_label);
    errors.extend(pod_template::amounts(&class.get_path("overhead.podFixed")));
    let scheduling = class.get("scheduling");
    errors.extend(metadata::labels(&scheduling.get("nodeSelector")));
    errors.extend(pod_template::tolerations(&scheduling.get("tolerations")));
    errors
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn what_pods_get_from_a_class_is_checked() {
        let class = json!({"metadata": {"name": "c"}, "handler": "runc",
            "overhead": {"podFixed": {"cpu": "-1", "disks": "1"}},
            "scheduling": {"nodeSelector": {"a": "b c"}, "tolerations": [{"value": "v"}]}});
        let errors = RuntimeClass.validate_create(&class);
        let fields: Vec<String> = errors.iter().map(|error| error.field.to_string()).collect();
        assert!(
            fields.contains(&"overhead.podFixed[cpu]".to_owned()),
            "{fields:?}"
        );
        assert!(
            fields.contains(&"overhead.podFixed[disks]".to_owned()),
            "{fields:?}"
        );
        assert!(
            fields
                .iter()
                .any(|field| field.starts_with("scheduling.nodeSelector"))
        );
        assert!(
            fields.contains(&"scheduling.tolerations[0].operator".to_owned()),
            "{fields:?}"
        );
        let fine = json!({"metadata": {"name": "c"}, "handler": "runc",
            "overhead": {"podFixed": {"cpu": "1"}}});
        assert!(RuntimeClass.validate_create(&fine).is_empty());
    }
}
