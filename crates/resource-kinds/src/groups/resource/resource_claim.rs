//! resource.k8s.io/v1 ResourceClaim.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::FieldError;

use super::{GROUP, claim_spec, claim_status};
use crate::json::parts;
use crate::kind::info::{Names, STATUS, namespaced};
use crate::kind::{Kind, KindInfo, StatusUpdate};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};

/// resource.k8s.io/v1 ResourceClaim: devices that several pods share, or that one pod uses.
#[derive(Debug)]
pub struct ResourceClaim;

const INFO: KindInfo<'static> = KindInfo {
    subresources: &[STATUS],
    ..namespaced(Names {
        group: GROUP,
        kind: "ResourceClaim",
        list_kind: "ResourceClaimList",
        plural: "resourceclaims",
        singular: "resourceclaim",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column(
        "State",
        "A summary of the current state (allocated, pending, reserved, etc.).",
    ),
    table::AGE,
];

impl Kind for ResourceClaim {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec") {
            claim_spec::default(spec);
        }
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        claim_spec::validate(&Field::of(object, "spec"), &mut errors);
        errors
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = |object| Field::of(object, "spec");
        errors.check_unchanged(&spec(object), &spec(old));
        errors
    }

    fn status_update(&self) -> &dyn StatusUpdate {
        self
    }
}

impl Printer for ResourceClaim {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            table::name(object),
            json!(state(object)),
            table::age(object, now),
        ]
    }
}

impl StatusUpdate for ResourceClaim {
    fn prepare_status_update(&self, object: &mut Value, old: &Value) {
        parts::restore_all_but(object, old, &["status", "metadata"]);
        claim_status::forget_freed_devices(object, old);
    }

    fn validate_status_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        claim_status::validate(object, old)
    }
}

/// For example `allocated,reserved`.
fn state(claim: &Value) -> String {
    let (status, going) = (&claim["status"], &claim["metadata"]["deletionTimestamp"]);
    let mut states = Vec::new();
    states.extend((!going.is_null()).then_some("deleted"));
    if status["allocation"].is_null() {
        states.extend(going.is_null().then_some("pending"));
    } else {
        states.push("allocated");
        states.extend((table::count(&status["reservedFor"]) > 0).then_some("reserved"));
    }
    states.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Value {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"devices": {
            "requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}});
        ResourceClaim.default(&mut claim);
        claim
    }

    /// findings C43
    #[test]
    fn what_a_claim_asks_for_stays() {
        let old = claim();
        assert_eq!(ResourceClaim.validate_create(&old), []);
        let mut new = old.clone();
        new["spec"]["devices"]["requests"][0]["exactly"]["count"] = json!(2);
        let errors = ResourceClaim.validate_update(&new, &old);
        assert!(errors[0].to_string().ends_with("field is immutable"));
    }

    /// findings C42
    #[test]
    fn the_state_is_shown() {
        let cases = [
            (json!({}), false, "pending"),
            (json!({"allocation": {}}), false, "allocated"),
            (
                json!({"allocation": {}, "reservedFor": [{}]}),
                true,
                "deleted,allocated,reserved",
            ),
            (json!({}), true, "deleted"),
        ];
        for (status, going, expected) in cases {
            let mut claim = claim();
            claim["status"] = status;
            if going {
                claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            let row = ResourceClaim.row(&claim, Timestamp::UNIX_EPOCH);
            assert_eq!(row[1], expected);
        }
    }
}
