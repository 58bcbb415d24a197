//! autoscaling/v1 HorizontalPodAutoscaler: another form of the stored objects of autoscaling/v2. Version 1 only has
//! CPU utilisation; annotations contain the other fields, as in Kubernetes.

use jiff::Timestamp;
use json_tree::{Map, Value, json};
use object_model::FieldError;

use super::{CPU_SHARE, HorizontalPodAutoscaler, INFO as V2};
use crate::json::decode::DecodeError;
use crate::json::parts;
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer};

#[derive(Debug)]
pub struct HorizontalPodAutoscalerV1;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },

    version: "v1",
    ..V2
};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const ANNOTATIONS: [&str; 4] = [METRICS, CURRENT_METRICS, BEHAVIOR, CONDITIONS];

/// The names of the parts of a metric: its field, and the parts in version 1 and in version 2.
type Names = (&'static str, &'static [(&'static str, &'static str)]);

const SPEC: &[Names] = &[
    (
        "object",
        &[
            ("target", "describedObject"),
            ("metricName", "metric.name"),
            ("selector", "metric.selector"),
            ("targetValue", "target.value"),
            ("averageValue", "target.averageValue"),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", "metric.name"),
            ("selector", "metric.selector"),
            ("targetAverageValue", "target.averageValue"),
        ],
    ),
    (
        "resource",
        &[
            ("name", "name"),
            ("targetAverageUtilization", "target.averageUtilization"),
            ("targetAverageValue", "target.averageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", "name"),
            ("container", "container"),
            ("targetAverageUtilization", "target.averageUtilization"),
            ("targetAverageValue", "target.averageValue"),
        ],
    ),
    (
        "external",
        &[
            ("metricName", "metric.name"),
            ("metricSelector", "metric.selector"),
            ("targetValue", "target.value"),
            ("targetAverageValue", "target.averageValue"),
        ],
    ),
];

const STATUS: &[Names] = &[
    (
        "object",
        &[
            ("target", "describedObject"),
            ("metricName", "metric.name"),
            ("selector", "metric.selector"),
            ("currentValue", "current.value"),
            ("averageValue", "current.averageValue"),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", "metric.name"),
            ("selector", "metric.selector"),
            ("currentAverageValue", "current.averageValue"),
        ],
    ),
    (
        "resource",
        &[
            ("name", "name"),
            ("currentAverageUtilization", "current.averageUtilization"),
            ("currentAverageValue", "current.averageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", "name"),
            ("container", "container"),
            ("currentAverageUtilization", "current.averageUtilization"),
            ("currentAverageValue", "current.averageValue"),
        ],
    ),
    (
        "external",
        &[
            ("metricName", "metric.name"),
            ("metricSelector", "metric.selector"),
            ("currentValue", "current.value"),
            ("currentAverageValue", "current.averageValue"),
        ],
    ),
];

/// Converts an autoscaler from version 1 to version 2.
pub(super) fn to_v2(mut scaler: Value) -> Value {
    if scaler["apiVersion"] != INFO.api_version() {
        return scaler;
    }
    parts::set(&mut scaler, "apiVersion", V2.api_version());
    let annotations = take_annotations(&mut scaler);
    let list = |key: &str, names: &[Names]| -> Vec<Value> {
        let metrics = annotations.get(key).and_then(Value::as_array);
        let metrics = metrics.into_iter().flatten();
        metrics.map(|metric| metric_to_v2(metric, names)).collect()
    };
    if let Some(spec) = parts::entry(&mut scaler, "spec") {
        let mut metrics = list(METRICS, SPEC);
        let share = spec["targetCPUUtilizationPercentage"].clone();
        parts::remove(spec, "targetCPUUtilizationPercentage");
        if !share.is_null() {
            let target = json!({"type": "Utilization", "averageUtilization": share});
            let resource = json!({"name": "cpu", "target": target});
            metrics.push(json!({"type": "Resource", "resource": resource}));
        }
        if !metrics.is_empty() {
            parts::set(spec, "metrics", metrics);
        }
        if let Some(behavior) = annotations.get(BEHAVIOR) {
            parts::set(spec, "behavior", behavior.clone());
        }
    }
    if let Some(status) = scaler.get_mut("status").filter(|status| status.is_object()) {
        let mut metrics = list(CURRENT_METRICS, STATUS);
        let share = status["currentCPUUtilizationPercentage"].clone();
        parts::remove(status, "currentCPUUtilizationPercentage");
        if !share.is_null() && metrics.is_empty() {
            let resource = json!({"name": "cpu", "current": {"averageUtilization": share}});
            metrics.push(json!({"type": "Resource", "resource": resource}));
        }
        if !metrics.is_empty() {
            parts::set(status, "currentMetrics", metrics);
        }
        if let Some(conditions) = annotations.get(CONDITIONS) {
            parts::set(status, "conditions", conditions.clone());
        }
    }
    scaler
}

/// Converts an autoscaler from version 2 to version 1.
fn to_v1(mut scaler: Value) -> Value {
    if scaler["apiVersion"] != V2.api_version() {
        return scaler;
    }
    parts::set(&mut scaler, "apiVersion", INFO.api_version());
    let mut fields: Vec<(&str, Value)> = Vec::new();
    if let Some(spec) = scaler.get_mut("spec").filter(|spec| spec.is_object()) {
        let metrics = spec["metrics"].as_array().cloned().unwrap_or_default();
        parts::remove(spec, "metrics");
        let (cpu, others): (Vec<Value>, Vec<Value>) = metrics
            .into_iter()
            .partition(|metric| !cpu_share(metric, "target").is_null());
        if let Some(metric) = cpu.last() {
            let share = cpu_share(metric, "target").clone();
            parts::set(spec, "targetCPUUtilizationPercentage", share);
        }
        fields.push((METRICS, metrics_to_v1(&others, SPEC)));
        fields.push((BEHAVIOR, spec["behavior"].clone()));
        parts::remove(spec, "behavior");
    }
    if let Some(status) = scaler.get_mut("status").filter(|status| status.is_object()) {
        let metrics = status["currentMetrics"].as_array().cloned();
        let metrics = metrics.unwrap_or_default();
        parts::remove(status, "currentMetrics");
        let mut shares = metrics.iter().map(|metric| cpu_share(metric, "current"));
        if let Some(share) = shares.find(|share| !share.is_null()) {
            parts::set(status, "currentCPUUtilizationPercentage", share.clone());
        }
        fields.push((CURRENT_METRICS, metrics_to_v1(&metrics, STATUS)));
        fields.push((CONDITIONS, status["conditions"].clone()));
        parts::remove(status, "conditions");
    }
    for (key, value) in fields {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        if !empty
            && let Some(metadata) = parts::entry(&mut scaler, "metadata")
            && let Some(annotations) = parts::entry(metadata, "annotations")
        {
            parts::set(annotations, key, value.to_string());
        }
    }
    scaler
}

/// The CPU utilisation of a metric.
fn cpu_share<'m>(metric: &'m Value, part: &str) -> &'m Value {
    let resource = &metric["resource"];
    match resource["name"] == "cpu" {
        true => &resource[part]["averageUtilization"],
        false => &Value::Null,
    }
}

/// Removes the annotations with the fields that version 1 lacks, and returns their contents.
fn take_annotations(scaler: &mut Value) -> Map<String, Value> {
    let mut fields = Map::new();
    let Some(metadata) = scaler.get_mut("metadata") else {
        return fields;
    };
    let Some(annotations) = metadata
        .get_mut("annotations")
        .and_then(Value::as_object_mut)
    else {
        return fields;
    };
    for key in ANNOTATIONS {
        let text = annotations.shift_remove(key);
        let text = text.as_ref().and_then(Value::as_str).unwrap_or_default();
        if let Ok(value) = serde_json::from_str(text) {
            fields.insert(key.to_owned(), value);
        }
    }
    if annotations.is_empty() {
        parts::remove(metadata, "annotations");
    }
    fields
}

fn metrics_to_v1(metrics: &[Value], names: &[Names]) -> Value {
    let convert = |metric: &Value| {
        let mut out = json!({"type": metric["type"]});
        for (field, pairs) in names {
            let Some(source) = metric.get(*field) else {
                continue;
            };
            let mut flat = json!({});
            for (first, second) in *pairs {
                let value = second.split('.').fold(source, |value, name| &value[name]);
                if !value.is_null() {
                    parts::set(&mut flat, first, value.clone());
                }
            }
            parts::set(&mut out, field, flat);
        }
        out
    };
    metrics.iter().map(convert).collect()
}

fn metric_to_v2(metric: &Value, names: &[Names]) -> Value {
    let mut out = json!({"type": metric["type"]});
    for (field, pairs) in names {
        let Some(source) = metric.get(*field) else {
            continue;
        };
        let mut nested = json!({});
        for (first, second) in *pairs {
            let value = &source[*first];
            if value.is_null() {
                continue;
            }
            match second.split_once('.') {
                None => parts::set(&mut nested, second, value.clone()),
                Some((part, name)) => {
                    if let Some(inner) = parts::entry(&mut nested, part) {
                        parts::set(inner, name, value.clone());
                    }
                }
            }
        }
        if let Some(target) = nested.get_mut("target") {
            let kind = match target {
                _ if target["averageUtilization"].is_i64() => "Utilization",
                _ if target["averageValue"].is_string() => "AverageValue",
                _ => "Value",
            };
            parts::set(target, "type", kind);
        }
        parts::set(&mut out, field, nested);
    }
    out
}

impl Kind for HorizontalPodAutoscalerV1 {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        let mut scaler = self.info().decode(to_v1(object))?;
        // In contrast to version 2, the field is always present.
        if let Some(status) = scaler.get_mut("status") {
            parts::fill(status, "currentReplicas", 0);
        }
        Ok(scaler)
    }

    fn default(&self, object: &mut Value) {
        let has_others = object["metadata"]["annotations"][METRICS].is_string();
        if let Some(spec) = parts::entry(object, "spec") {
            parts::fill(spec, "minReplicas", 1);
            if !has_others {
                parts::fill(spec, "targetCPUUtilizationPercentage", CPU_SHARE);
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        let status = json!({"currentReplicas": 0, "desiredReplicas": 0});
        parts::set(object, "status", status);
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        super::rules::validate(&to_v2(object.clone()))
    }
}

impl Printer for HorizontalPodAutoscalerV1 {
    fn columns(&self) -> Vec<Column<'_>> {
        HorizontalPodAutoscaler.columns()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        HorizontalPodAutoscaler.row(&to_v2(object.clone()), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2() -> Value {
        let metric = |kind: &str, field: &str, source: Value| json!({"type": kind, field: source});
        let memory = json!({"name": "memory",
            "target": {"type": "AverageValue", "averageValue": "1Gi"}});
        let queue = json!({"metric": {"name": "queue", "selector": {"matchLabels": {"a": "b"}}},
            "target": {"type": "Value", "value": "5"}});
        let cpu = json!({"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 60}});
        let object = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "a", "annotations": {"other": "kept"}},
            "spec": {"maxReplicas": 3, "minReplicas": 1,
                "scaleTargetRef": {"kind": "Deployment", "name": "web"},
                "behavior": {"scaleDown": {"selectPolicy": "Max", "policies":
                    [{"type": "Percent", "value": 100, "periodSeconds": 15}]}},
                "metrics": [metric("Resource", "resource", memory),
                    metric("External", "external", queue), metric("Resource", "resource", cpu)]},
            "status": {"desiredReplicas": 2, "currentReplicas": 1,
                "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "current": {"averageUtilization": 40, "averageValue": "40m"}}}]}});
        HorizontalPodAutoscaler.decode(object).unwrap()
    }

    #[test]
    fn nothing_is_lost_on_the_way_there_and_back() {
        let first = HorizontalPodAutoscalerV1.decode(v2()).unwrap();
        assert_eq!(first["spec"]["targetCPUUtilizationPercentage"], 60);
        assert_eq!(first["status"]["currentCPUUtilizationPercentage"], 40);
        assert!(first["spec"].get("metrics").is_none());
        assert_eq!(
            first["metadata"]["annotations"][METRICS],
            "[{\"type\":\"Resource\",\"resource\":{\"name\":\"memory\",\"targetAverageValue\":\
             \"1Gi\"}},{\"type\":\"External\",\"external\":{\"metricName\":\"queue\",\
             \"metricSelector\":{\"matchLabels\":{\"a\":\"b\"}},\"targetValue\":\"5\"}}]"
        );
        assert_eq!(HorizontalPodAutoscaler.decode(first).unwrap(), v2());
    }

    #[test]
    fn the_first_version_is_about_processor_time() {
        let kind = HorizontalPodAutoscalerV1;
        let mut scaler = json!({"apiVersion": "autoscaling/v1", "metadata": {"name": "a",
            "namespace": "d"}, "spec": {"maxReplicas": 3,
            "scaleTargetRef": {"kind": "Deployment", "name": "web"}}});
        kind.default(&mut scaler);
        assert_eq!(kind.validate_create(&scaler), []);
        assert_eq!(
            kind.row(&scaler, Timestamp::UNIX_EPOCH)[2],
            "cpu: <unknown>/80%"
        );
        scaler["spec"]["targetCPUUtilizationPercentage"] = json!(0);
        assert_eq!(kind.validate_create(&scaler).len(), 1);
    }
}
