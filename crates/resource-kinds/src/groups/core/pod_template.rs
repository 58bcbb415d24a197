//! core/v1 PodTemplate.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::FieldError;

use crate::json::decode::DecodeError;
use crate::kind::info::{Names, namespaced};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::Field;
use crate::validation::{pod_template, workload};

#[derive(Debug)]
pub struct PodTemplate;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },
    ..namespaced(Names {
        group: "",
        kind: "PodTemplate",
        list_kind: "PodTemplateList",
        plural: "podtemplates",
        singular: "podtemplate",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Containers", "Names of the containers of the template."),
    table::column("Images", "Images of the containers of the template."),
    table::column("Pod Labels", "Labels of the template."),
];

impl Kind for PodTemplate {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        let mut object = self.info().decode(object)?;
        workload::decode_template(Some(&mut object));
        Ok(object)
    }

    fn default(&self, object: &mut Value) {
        workload::default_template(object);
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let template = Field::of(object, "template");
        errors.extend(pod_template::validate_template(&template, &[]));
        errors
    }

    fn warnings(&self, object: &Value, _old: Option<&Value>) -> Vec<String> {
        pod_template::warnings(&Field::of(object, "template.spec"))
    }
}

impl Printer for PodTemplate {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Cell> {
        let [names, images] = workload::containers(&Field::of(object, "template"));
        let labels = table::labels(&object["template"]["metadata"]["labels"]);
        vec![table::name(object), names, images, json!(labels)]
    }
}
