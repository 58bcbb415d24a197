//! storage.k8s.io/v1 CSIDriver.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::FieldError;

use crate::json::parts;
use crate::kind::info::{Names, cluster};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};

#[derive(Debug)]
pub struct CSIDriver;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        unconditional_update: false,
        ..WriteRules::ORDINARY
    },
    ..cluster(Names {
        group: "storage.k8s.io",
        kind: "CSIDriver",
        list_kind: "CSIDriverList",
        plural: "csidrivers",
        singular: "csidriver",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column(
        "AttachRequired",
        "Whether volumes are attached before they are mounted.",
    ),
    table::column("PodInfoOnMount", "Whether the driver is told of the pod."),
    table::column(
        "StorageCapacity",
        "Whether the scheduler asks for free capacity.",
    ),
    table::column(
        "TokenRequests",
        "Audiences of the tokens that the driver gets.",
    ),
    table::column(
        "RequiresRepublish",
        "Whether volumes are published again and again.",
    ),
    table::column("Modes", "How volumes of the driver live."),
    table::AGE,
];

impl Kind for CSIDriver {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = parts::entry(object, "spec") else {
            return;
        };
        parts::fill(spec, "attachRequired", true);
        for field in [
            "podInfoOnMount",
            "storageCapacity",
            "requiresRepublish",
            "seLinuxMount",
        ] {
            parts::fill(spec, field, false);
        }
        parts::fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        parts::fill(spec, "volumeLifecycleModes", json!(["Persistent"]));
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_content(object);
        let required = |object| Field::of(object, "spec.attachRequired");
        errors.check_unchanged(&required(object), &required(old));
        errors
    }
}

impl Printer for CSIDriver {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        let flag = |field: &str| json!(spec[field].as_bool().unwrap_or_default().to_string());
        let list = |items: &Value, field: Option<&str>| {
            let items = items.as_array().map_or(&[][..], Vec::as_slice);
            let texts: Vec<&str> = items
                .iter()
                .filter_map(|item| field.map_or(item, |field| &item[field]).as_str())
                .collect();
            match texts.is_empty() {
                true => json!("<unset>"),
                false => json!(texts.join(",")),
            }
        };
        vec![
            table::name(object),
            flag("attachRequired"),
            flag("podInfoOnMount"),
            flag("storageCapacity"),
            list(&spec["tokenRequests"], Some("audience")),
            flag("requiresRepublish"),
            list(&spec["volumeLifecycleModes"], None),
            table::age(object, now),
        ]
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let mut errors = Vec::new();
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    errors.check_one_of_if_set(&spec.get("fsGroupPolicy"), &policies);
    for mode in spec.get("volumeLifecycleModes").items() {
        errors.check_one_of(&mode, &["Ephemeral", "Persistent"]);
    }
    errors
}
