//! coordination.k8s.io/v1 Lease.

use jiff::Timestamp;
use json_tree::Value;
use object_model::FieldError;

use crate::kind::info::{Names, namespaced};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};

#[derive(Debug)]
pub struct Lease;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        unconditional_update: false,
        create_on_update: true,
        ..WriteRules::ORDINARY
    },
    ..namespaced(Names {
        group: "coordination.k8s.io",
        kind: "Lease",
        list_kind: "LeaseList",
        plural: "leases",
        singular: "lease",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Holder", "Who holds the lease."),
    table::AGE,
];

impl Kind for Lease {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }
}

impl Printer for Lease {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let holder = table::text_or(&object["spec"]["holderIdentity"], "");
        vec![table::name(object), holder, table::age(object, now)]
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let mut errors = Vec::new();
    let duration = spec.get("leaseDurationSeconds");
    if duration.int().is_some_and(|seconds| seconds <= 0) {
        errors.push(duration.invalid("must be greater than 0"));
    }
    errors.check_not_negative(&spec.get("leaseTransitions"));
    errors
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn a_lease_lasts() {
        let lease = json!({"metadata": {"name": "a", "namespace": "b"},
            "spec": {"leaseDurationSeconds": 0}});
        assert_eq!(
            Lease.validate_create(&lease)[0].to_string(),
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"
        );
    }
}
