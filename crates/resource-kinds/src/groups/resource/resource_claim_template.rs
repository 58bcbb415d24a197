//! resource.k8s.io/v1 ResourceClaimTemplate.

use jiff::Timestamp;
use json_tree::Value;
use object_model::FieldError;

use super::{GROUP, claim_spec};
use crate::kind::info::{Names, namespaced};
use crate::kind::{Kind, KindInfo};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::metadata;

/// resource.k8s.io/v1 ResourceClaimTemplate: each pod that refers to the template gets its own ResourceClaim.
#[derive(Debug)]
pub struct ResourceClaimTemplate;

const INFO: KindInfo<'static> = namespaced(Names {
    group: GROUP,
    kind: "ResourceClaimTemplate",
    list_kind: "ResourceClaimTemplateList",
    plural: "resourceclaimtemplates",
    singular: "resourceclaimtemplate",
    short: &[],
});

const COLUMNS: &[Column<'static>] = &[table::NAME, table::AGE];

impl Kind for ResourceClaimTemplate {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.pointer_mut("/spec/spec") {
            claim_spec::default(spec);
        }
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = Field::of(object, "spec");
        errors.extend(metadata::labels(&spec.get_path("metadata.labels")));
        errors.extend(metadata::annotations(
            &spec.get_path("metadata.annotations"),
        ));
        claim_spec::validate(&spec.get("spec"), &mut errors);
        errors
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = |object| Field::of(object, "spec");
        errors.check_unchanged(&spec(object), &spec(old));
        errors
    }
}

impl Printer for ResourceClaimTemplate {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![table::name(object), table::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    /// findings C43
    #[test]
    fn a_template_is_checked_as_its_claims_and_stays() {
        let mut good = json!({"metadata": {"name": "t", "namespace": "d"}, "spec": {"spec": {
            "devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}}});
        ResourceClaimTemplate.default(&mut good);
        assert_eq!(ResourceClaimTemplate.validate_create(&good), []);
        let mut bad = good.clone();
        bad["spec"]["metadata"] = json!({"labels": {"/": ""}});
        bad["spec"]["spec"]["devices"]["requests"][0]["name"] = json!("R");
        let errors: Vec<String> = ResourceClaimTemplate
            .validate_create(&bad)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(errors[0].starts_with("spec.metadata.labels: Invalid value"));
        assert!(
            errors
                .last()
                .unwrap()
                .starts_with("spec.spec.devices.requests[0].name: Invalid value: \"R\"")
        );
        let errors = ResourceClaimTemplate.validate_update(&bad, &good);
        assert!(errors[0].to_string().ends_with("field is immutable"));
    }
}
