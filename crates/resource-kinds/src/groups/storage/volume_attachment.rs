//! storage.k8s.io/v1 VolumeAttachment.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use crate::kind::info::{Names, STATUS, cluster};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};

#[derive(Debug)]
pub struct VolumeAttachment;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        unconditional_update: false,
        ..WriteRules::ORDINARY
    },

    subresources: &[STATUS],
    ..cluster(Names {
        group: "storage.k8s.io",
        kind: "VolumeAttachment",
        list_kind: "VolumeAttachmentList",
        plural: "volumeattachments",
        singular: "volumeattachment",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Attacher", "Who attaches the volume."),
    table::column("PV", "The volume."),
    table::column("Node", "Where it is attached."),
    Column {
        kind: "boolean",
        ..table::column("Attached", "Whether it is attached.")
    },
    table::AGE,
];

impl Kind for VolumeAttachment {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_content(object);
        errors.check_unchanged(&Field::of(object, "spec"), &Field::of(old, "spec"));
        errors
    }
}

impl Printer for VolumeAttachment {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        vec![
            table::name(object),
            table::text_or(&spec["attacher"], ""),
            table::text_or(&spec["source"]["persistentVolumeName"], ""),
            table::text_or(&spec["nodeName"], ""),
            json!(object["status"]["attached"].as_bool().unwrap_or_default()),
            table::age(object, now),
        ]
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let mut errors = Vec::new();
    for field in ["attacher", "nodeName"] {
        errors.check_text(&spec.get_path(field), names::dns_subdomain);
    }
    let source = spec.get("source");
    let (inline, volume) = (
        source.get("inlineVolumeSpec"),
        source.get("persistentVolumeName"),
    );
    if inline.is_set() != volume.is_empty() {
        let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        errors.push(source.required(detail));
    }
    errors
}
