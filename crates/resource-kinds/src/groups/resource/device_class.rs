//! resource.k8s.io/v1 DeviceClass.

use jiff::Timestamp;
use json_tree::Value;
use object_model::FieldError;

use super::GROUP;
use super::claim_spec::{CONFIG_MAX, configuration, selectors};
use super::lists::list;
use crate::kind::info::{Names, cluster};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::Field;
use crate::validation::pod_template::is_extended;

/// resource.k8s.io/v1 DeviceClass: a name for devices of one type.
#[derive(Debug)]
pub struct DeviceClass;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },
    ..cluster(Names {
        group: GROUP,
        kind: "DeviceClass",
        list_kind: "DeviceClassList",
        plural: "deviceclasses",
        singular: "deviceclass",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[table::NAME, table::AGE];

impl Kind for DeviceClass {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }
}

impl Printer for DeviceClass {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![table::name(object), table::age(object, now)]
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let mut errors = Vec::new();
    selectors(&spec.get("selectors"), &mut errors);
    list(&spec.get("config"), CONFIG_MAX, &configuration, &mut errors);
    let extended = spec.get("extendedResourceName");
    if extended.is_set() && !is_extended(extended.text()) {
        errors.push(extended.invalid("must be a valid extended resource name"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    /// findings C43
    #[test]
    fn a_class_selects_and_configures() {
        let class = json!({"metadata": {"name": "gpu"}, "spec": {
            "selectors": [{"cel": {"expression": "device.driver == 'd'"}}],
            "config": [{"opaque": {"driver": "d", "parameters": {"a": 1}}}],
            "extendedResourceName": "example.com/gpu"}});
        assert_eq!(DeviceClass.validate_create(&class), []);
        let bad = json!({"metadata": {"name": "gpu"}, "spec": {"selectors": [{}],
            "config": [{}], "extendedResourceName": "cpu"}});
        let errors: Vec<String> = DeviceClass
            .validate_update(&bad, &class)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            errors,
            [
                "spec.selectors[0].cel: Required value",
                "spec.config[0].opaque: Required value",
                "spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended \
                 resource name",
            ]
        );
    }
}
