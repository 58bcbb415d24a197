//! autoscaling/v2 HorizontalPodAutoscaler.

mod rules;
mod targets;
mod v1;

pub use v1::HorizontalPodAutoscalerV1;

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::FieldError;

use crate::json::decode::DecodeError;
use crate::json::parts;
use crate::kind::info::{Names, STATUS, namespaced};
use crate::kind::{Kind, KindInfo, Words, WriteRules};
use crate::printing::{Cell, Column, Printer, table};

#[derive(Debug)]
pub struct HorizontalPodAutoscaler;

/// Default target of CPU utilisation, in percent.
const CPU_SHARE: i64 = 80;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },

    version: "v2",
    categories: Words::Fixed(&["all"]),
    subresources: &[STATUS],
    ..namespaced(Names {
        group: "autoscaling",
        kind: "HorizontalPodAutoscaler",
        list_kind: "HorizontalPodAutoscalerList",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short: &["hpa"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Reference", "What is scaled."),
    table::column("Targets", "What is measured, and what it is to be."),
    table::column("MinPods", "Fewest pods."),
    table::column("MaxPods", "Most pods."),
    table::column("Replicas", "Pods that there are."),
    table::AGE,
];

impl Kind for HorizontalPodAutoscaler {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        self.info().decode(v1::to_v2(object))
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = parts::entry(object, "spec") else {
            return;
        };
        parts::fill(spec, "minReplicas", 1);
        let target = json!({"type": "Utilization", "averageUtilization": CPU_SHARE});
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

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        rules::validate(object)
    }
}

impl Printer for HorizontalPodAutoscaler {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
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
            json!(targets::targets_text(object)),
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

    /// kubectl.md 1.6
    #[test]
    fn targets_are_shown_with_what_was_measured() {
        let metric = |kind: &str, field: &str, more: Value| json!({"type": kind, field: more});
        let cpu = metric(
            "Resource",
            "resource",
            json!({"name": "cpu", "target": {"averageUtilization": 80}}),
        );
        let memory = metric(
            "Resource",
            "resource",
            json!({"name": "memory", "target": {"averageValue": "100Mi"}}),
        );
        let pods = metric("Pods", "pods", json!({"target": {"averageValue": "5"}}));
        let queue = metric("External", "external", json!({"target": {"value": "7"}}));
        let mut scaler = json!({"spec": {"metrics": [cpu, memory]}, "status": {"currentMetrics": [
            {"resource": {"current": {"averageUtilization": 12, "averageValue": "12m"}}},
            {"resource": {"current": {"averageValue": "1Mi"}}}]}});
        assert_eq!(
            targets::targets_text(&scaler),
            "cpu: 12%/80%, memory: 1Mi/100Mi"
        );
        scaler["spec"]["metrics"] = json!([pods, queue]);
        assert_eq!(targets::targets_text(&scaler), "<unknown>/5, <unknown>/7");
        scaler["spec"]["metrics"] = json!([cpu, pods, queue, memory]);
        assert_eq!(
            targets::targets_text(&scaler),
            "cpu: 12%/80%, <unknown>/5 + 2 more..."
        );
    }
}
