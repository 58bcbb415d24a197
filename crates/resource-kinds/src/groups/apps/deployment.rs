//! apps/v1 Deployment.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, LabelSelector};

use crate::json::decode::DecodeError;
use crate::json::parts;
use crate::kind::info::{Names, SCALE, STATUS, namespaced};
use crate::kind::{Kind, KindInfo, Scalable, StatusUpdate, Words, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::workload;

#[derive(Debug)]
pub struct Deployment;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },

    categories: Words::Fixed(&["all"]),
    subresources: &[SCALE, STATUS],
    ..namespaced(Names {
        group: "apps",
        kind: "Deployment",
        list_kind: "DeploymentList",
        plural: "deployments",
        singular: "deployment",
        short: &["deploy"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Ready", "Pods that are ready, of those wanted."),
    table::column("Up-to-date", "Pods of the wanted template."),
    table::column("Available", "Pods that have been ready for long enough."),
    table::AGE,
    table::wide("Containers", "Names of the containers of the template."),
    table::wide("Images", "Images of the containers of the template."),
    table::wide("Selector", "What pods are selected by."),
];

/// Default of `progressDeadlineSeconds`.
const PROGRESS_DEADLINE: i64 = 600;
/// Default share of the pods that a rollout may add, and that a rollout may make unavailable.
const SHARE: &str = "25%";

const PARTS: &[&str] = &["updatedReplicas", "readyReplicas", "availableReplicas"];

impl Kind for Deployment {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        let mut object = workload::decode(self.info().kind, object)?;
        workload::drop_zero_counts(&mut object, PARTS);
        workload::drop_zero_counts(&mut object, &["replicas", "unavailableReplicas"]);
        if object["spec"]["paused"] == false {
            parts::remove(&mut object["spec"], "paused");
        }
        Ok(object)
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = parts::entry(object, "spec") else {
            return;
        };
        parts::fill(spec, "replicas", 1);
        parts::fill(spec, "revisionHistoryLimit", workload::REVISION_HISTORY);
        parts::fill(spec, "progressDeadlineSeconds", PROGRESS_DEADLINE);
        if let Some(strategy) = parts::entry(spec, "strategy") {
            parts::fill(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate"
                && let Some(rolling) = parts::entry(strategy, "rollingUpdate")
            {
                parts::fill(rolling, "maxUnavailable", SHARE);
                parts::fill(rolling, "maxSurge", SHARE);
            }
        }
        workload::default_template(spec);
    }

    fn prepare_create(&self, object: &mut Value) {
        parts::set(object, "status", json!({}));
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object, None)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = validate(object, Some(old));
        let selector = |object| Field::of(object, "spec.selector");
        errors.check_unchanged(&selector(object), &selector(old));
        errors
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        workload::warnings(object, old)
    }

    fn status_update(&self) -> &dyn StatusUpdate {
        self
    }

    fn scalable(&self) -> Option<&dyn Scalable> {
        Some(self)
    }
}

impl Printer for Deployment {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let [names, images] = workload::containers(&Field::of(object, "spec.template"));
        let desired = workload::count(object, "spec", "replicas");
        vec![
            table::name(object),
            json!(format!("{}/{desired}", ready(object))),
            json!(workload::count(object, "status", "updatedReplicas")),
            json!(workload::count(object, "status", "availableReplicas")),
            table::age(object, now),
            names,
            images,
            workload::selector_cell(&object["spec"]["selector"]),
        ]
    }
}

impl StatusUpdate for Deployment {
    fn validate_status_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = workload::check_counts(object, PARTS);
        let status = Field::of(object, "status");
        errors.check_not_negative(&status.get("unavailableReplicas"));
        if status.get("availableReplicas").int() > Some(ready(object)) {
            let at = status.get("availableReplicas");
            errors.push(at.invalid("cannot be greater than readyReplicas"));
        }
        let collisions = status.get("collisionCount");
        errors.check_not_negative(&collisions);
        if collisions.int().unwrap_or_default() < workload::count(old, "status", "collisionCount") {
            errors.push(collisions.invalid("cannot be decremented"));
        }
        errors
    }
}

impl Scalable for Deployment {
    fn scale(&self, object: &Value) -> Value {
        let selector = workload::selector_text(&object["spec"]["selector"]);
        workload::scale(object, &selector)
    }

    fn set_scale(&self, object: &mut Value, scale: &Value) -> Vec<FieldError> {
        workload::set_scale(object, scale)
    }
}

fn ready(object: &Value) -> i64 {
    workload::count(object, "status", "readyReplicas")
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let mut errors = Vec::new();
    errors.check_not_negative(&spec.get("replicas"));
    workload::check_selector(&spec.get("selector"), "deployment", &mut errors);
    let selector = LabelSelector::from_json(spec.get("selector").value).ok();
    workload::check_labels(&spec, selector.as_ref(), &mut errors);
    let whole = workload::has_new_template(object, old);
    workload::check_template(&spec, "ReplicaSet", &[], whole, &mut errors);
    strategy(&spec.get("strategy"), &mut errors);
    errors.check_not_negative(&spec.get("minReadySeconds"));
    errors.check_not_negative(&spec.get("revisionHistoryLimit"));
    let deadline = spec.get("progressDeadlineSeconds");
    errors.check_not_negative(&deadline);
    let shortest = workload::count(object, "spec", "minReadySeconds");
    if deadline.int().is_some_and(|seconds| seconds <= shortest) {
        errors.push(deadline.invalid("must be greater than minReadySeconds"));
    }
    errors
}

fn strategy(strategy: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "Recreate" => {
            if rolling.is_set() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(rolling.forbidden(detail));
            }
        }
        "RollingUpdate" => {
            let (less, more) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            workload::check_int_or_percent(&less, errors);
            workload::check_int_or_percent(&more, errors);
            if workload::is_none(less.value) && workload::is_none(more.value) {
                errors.push(less.invalid("may not be 0 when `maxSurge` is 0"));
            }
            workload::check_share(&less, errors);
        }
        _ => {
            let kind = strategy.get("type");
            errors.push(kind.not_supported(&["Recreate", "RollingUpdate"]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(change: impl FnOnce(&mut Value)) -> Value {
        let mut object = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {
            "selector": {"matchLabels": {"app": "a"}}, "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        change(&mut object["spec"]);
        let mut object = Deployment.decode(object).unwrap();
        Deployment.default(&mut object);
        object
    }

    fn checked(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let errors = Deployment.validate_create(&accept(change));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_deployment_is_filled_in() {
        let mut spec = accept(|_| {})["spec"].clone();
        parts::remove(&mut spec, "template");
        assert_eq!(
            spec,
            json!({"selector": {"matchLabels": {"app": "a"}}, "replicas": 1,
                "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {
                    "maxUnavailable": "25%", "maxSurge": "25%"}}})
        );
        let recreate = accept(|spec| spec["strategy"] = json!({"type": "Recreate"}));
        assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
    }

    #[test]
    fn a_rollout_can_make_a_step() {
        assert!(checked(|_| {}).is_empty());
        let rolling = |less: Value, more: Value| {
            checked(|spec| {
                spec["strategy"] =
                    json!({"rollingUpdate": {"maxUnavailable": less, "maxSurge": more}});
            })
        };
        assert!(rolling(json!(0), json!("10%")).is_empty());
        assert_eq!(
            rolling(json!("0%"), json!(0)),
            [
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 \
                 when `maxSurge` is 0"
            ]
        );
        assert_eq!(rolling(json!("101%"), json!(1)).len(), 1);
        assert_eq!(rolling(json!(-1), json!("x")).len(), 2);
        assert_eq!(
            checked(|spec| spec["strategy"] =
                json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}})),
            [
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy \
                 `type` is 'Recreate'"
            ]
        );
        assert_eq!(
            checked(|spec| spec["progressDeadlineSeconds"] = json!(0)),
            [
                "spec.progressDeadlineSeconds: Invalid value: 0: must be greater than \
                 minReadySeconds"
            ]
        );
    }

    #[test]
    fn the_selector_stays() {
        let old = accept(|_| {});
        let new = accept(|spec| {
            spec["selector"]["matchLabels"]["b"] = json!("c");
            spec["template"]["metadata"]["labels"]["b"] = json!("c");
        });
        let errors = Deployment.validate_update(&new, &old);
        assert_eq!(errors.len(), 1);
        assert!(errors[0].to_string().ends_with("field is immutable"));
    }

    /// `kubectl.md` 1.8
    #[test]
    fn a_row_shows_ready_of_wanted() {
        let mut object = accept(|spec| spec["replicas"] = json!(3));
        object["status"] = json!({"readyReplicas": 2, "updatedReplicas": 1});
        let row = Deployment.row(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..4], [json!("2/3"), json!(1), json!(0)]);
        assert_eq!(row[7], json!("app=a"));
    }
}
