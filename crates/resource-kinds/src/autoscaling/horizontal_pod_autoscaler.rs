//! autoscaling/v2 HorizontalPodAutoscaler.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2 as api;
use object_model::{FieldError, names};
use serde_json::{Value, json};

use crate::at::{At, Rules};
use crate::decode::decode;
use crate::info::{Names, namespaced};
use crate::kind::{Cell, Column, Kind, KindInfo, Subresource, Verb};
use crate::{advice, metadata, parts, table};

/// autoscaling/v2 HorizontalPodAutoscaler.
#[derive(Debug)]
pub struct HorizontalPodAutoscaler;

const INFO: KindInfo = KindInfo {
    version: "v2",
    categories: &["all"],
    subresources: &[Subresource {
        name: "status",
        group: "autoscaling",
        version: "v2",
        kind: "HorizontalPodAutoscaler",
        verbs: &[Verb::Get, Verb::Patch, Verb::Update],
    }],
    ..namespaced(Names {
        group: "autoscaling",
        kind: "HorizontalPodAutoscaler",
        list_kind: "HorizontalPodAutoscalerList",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short: &["hpa"],
    })
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::column("Reference", "What is scaled."),
    table::column("Targets", "What is measured, and what it is to be."),
    table::column("MinPods", "Fewest pods."),
    table::column("MaxPods", "Most pods."),
    table::column("Replicas", "Pods that there are."),
    table::AGE,
];

impl Kind for HorizontalPodAutoscaler {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn decode(&self, object: Value) -> Result<Value, String> {
        decode::<api::HorizontalPodAutoscaler>(object)
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = parts::entry(object, "spec") else {
            return;
        };
        parts::fill(spec, "minReplicas", 1);
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        let processor = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        parts::fill(spec, "metrics", json!([processor]));
        let behavior = spec.get_mut("behavior").filter(|b| b.is_object());
        if let Some(behavior) = behavior {
            for (direction, window, policies) in [
                (
                    "scaleUp",
                    Some(0),
                    json!([policy("Pods", 4), policy("Percent", 100)]),
                ),
                ("scaleDown", None, json!([policy("Percent", 100)])),
            ] {
                if let Some(rules) = parts::entry(behavior, direction) {
                    parts::fill(rules, "selectPolicy", "Max");
                    parts::fill(rules, "policies", policies);
                    if let Some(window) = window {
                        parts::fill(rules, "stabilizationWindowSeconds", window);
                    }
                }
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        parts::set(object, "status", json!({"desiredReplicas": 0}));
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = metadata::validate(self, object);
        errors.extend(validate(object));
        errors
    }

    fn validate_update(&self, object: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = metadata::validate_update(object);
        errors.extend(validate(object));
        errors
    }

    fn warnings(&self, _object: &Value, old: Option<&Value>) -> Vec<String> {
        advice::not_acted_on(
            "HorizontalPodAutoscaler",
            "the number of replicas stays as it is",
            old,
        )
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        let target = &spec["scaleTargetRef"];
        let text = |field: &str| target[field].as_str().unwrap_or_default();
        let number = |value: &Value, none: &str| match value.as_i64() {
            Some(number) => json!(number.to_string()),
            None => json!(none),
        };
        vec![
            table::name(object),
            json!(format!("{}/{}", text("kind"), text("name"))),
            json!(targets(object)),
            number(&spec["minReplicas"], "<unset>"),
            number(&spec["maxReplicas"], "0"),
            number(&object["status"]["currentReplicas"], "0"),
            table::age(object, now),
        ]
    }
}

fn policy(kind: &str, value: i64) -> Value {
    json!({"type": kind, "value": value, "periodSeconds": 15})
}

/// `cpu: <unknown>/80%`
fn targets(object: &Value) -> String {
    let shown = |metric: At<'_>| {
        let resource = metric.get("resource");
        let wanted = resource.get("target");
        let current = At::root(object).get("status.currentMetrics");
        let now = current
            .items()
            .map(|one| one.get("resource"))
            .find(|one| one.get("name").text() == resource.get("name").text())
            .and_then(|one| one.get("current.averageUtilization").int());
        let now = now.map_or("<unknown>".to_owned(), |share| format!("{share}%"));
        match (resource.is_set(), wanted.get("averageUtilization").int()) {
            (true, Some(share)) => format!("{}: {now}/{share}%", resource.get("name").text()),
            (true, None) => {
                let wanted = wanted.get("averageValue");
                format!(
                    "{}: <unknown>/{}",
                    resource.get("name").text(),
                    wanted.text()
                )
            }
            (false, _) => "<unknown>/<auto>".to_owned(),
        }
    };
    let metrics = At::root(object).get("spec.metrics");
    let all: Vec<String> = metrics.items().map(shown).collect();
    match all.is_empty() {
        true => "<none>".to_owned(),
        false => all.join(", "),
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let spec = At::root(object).get("spec");
    let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    let mut errors = Vec::new();
    if least.int().is_some_and(|number| number < 1) {
        errors.push(least.invalid("must be greater than or equal to 1"));
    }
    if most.int().unwrap_or_default() < 1 {
        errors.push(most.invalid("must be greater than 0"));
    } else if most.int() < least.int() {
        errors.push(most.invalid("must be greater than or equal to `minReplicas`"));
    }
    for field in ["kind", "name"] {
        let at = spec.get("scaleTargetRef").get(field);
        if at.is_empty() {
            errors.push(at.required(""));
        } else {
            errors.check_text(&at, names::path_segment);
        }
    }
    let sources = [
        "ContainerResource",
        "External",
        "Object",
        "Pods",
        "Resource",
    ];
    for metric in spec.get("metrics").items() {
        errors.check_one_of(&metric.get("type"), &sources);
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaler_has_bounds() {
        let mut scaler = json!({"metadata": {"name": "a", "namespace": "d"}, "spec": {
            "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}});
        HorizontalPodAutoscaler.default(&mut scaler);
        assert_eq!(HorizontalPodAutoscaler.validate_create(&scaler), []);
        let row = HorizontalPodAutoscaler.row(&scaler, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[1..3],
            [json!("Deployment/web"), json!("cpu: <unknown>/80%")]
        );
        scaler["spec"]["minReplicas"] = json!(4);
        assert_eq!(HorizontalPodAutoscaler.validate_create(&scaler).len(), 1);
    }
}
