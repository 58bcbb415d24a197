//! networking.k8s.io/v1 IngressClass.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use crate::kind::info::{Names, cluster};
use crate::kind::{Kind, KindInfo};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::advice;
use crate::validation::field::{Field, Rules};

#[derive(Debug)]
pub struct IngressClass;

const INFO: KindInfo<'static> = cluster(Names {
    group: "networking.k8s.io",
    kind: "IngressClass",
    list_kind: "IngressClassList",
    plural: "ingressclasses",
    singular: "ingressclass",
    short: &[],
});

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Controller", "Who serves Ingresses of the class."),
    table::column("Parameters", "The object with more settings."),
    table::AGE,
];

impl Kind for IngressClass {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_content(object);
        let controller = |object| Field::of(object, "spec.controller");
        errors.check_unchanged(&controller(object), &controller(old));
        errors
    }

    fn warnings(&self, _object: &Value, old: Option<&Value>) -> Vec<String> {
        advice::not_acted_on(
            "IngressClass",
            "an Ingress controller in the cluster has to",
            old,
        )
    }
}

impl Printer for IngressClass {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let parameters = &object["spec"]["parameters"];
        let text = |field: &str| parameters[field].as_str().unwrap_or_default();
        let reference = match (text("apiGroup"), parameters.is_object()) {
            (_, false) => "<none>".to_owned(),
            ("", true) => format!("{}/{}", text("kind"), text("name")),
            (group, true) => format!("{}.{group}/{}", text("kind"), text("name")),
        };
        vec![
            table::name(object),
            table::text_or(&object["spec"]["controller"], ""),
            json!(reference),
            table::age(object, now),
        ]
    }
}

/// Maximum length of a controller's name.
const CONTROLLER_CHARS_MAX: usize = 250;

fn validate(object: &Value) -> Vec<FieldError> {
    let controller = Field::of(object, "spec.controller");
    let mut errors = Vec::new();
    if controller.is_empty() {
        errors.push(controller.required("controller name is required"));
    } else if controller.text().len() > CONTROLLER_CHARS_MAX {
        let max = CONTROLLER_CHARS_MAX;
        errors.push(FieldError::too_long(&controller.path(), max));
    } else {
        errors.check_text(&controller, names::qualified_name);
    }
    errors
}
