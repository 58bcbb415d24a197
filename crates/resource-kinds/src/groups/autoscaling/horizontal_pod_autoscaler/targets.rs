//! The column of metrics in `kubectl get`: current and target values.

use json_tree::Value;

use crate::validation::field::Field;

/// Maximum number of metrics in the cell; for the other metrics the cell contains only their number.
const CELL_METRICS_MAX: usize = 2;

/// The cell `TARGETS`, for instance `cpu: 12%/80%`.
pub(super) fn targets_text(object: &Value) -> String {
    let metrics = Field::of(object, "spec.metrics");
    let measured = object["status"]["currentMetrics"].as_array();
    let measured = measured.map_or(&[][..], Vec::as_slice);
    let all: Vec<String> = metrics
        .items()
        .enumerate()
        .map(|(index, metric)| one(&metric, measured.get(index).unwrap_or(&Value::Null)))
        .collect();
    match all.len() {
        0 => "<none>".to_owned(),
        count if count > CELL_METRICS_MAX => {
            let printed = all[..CELL_METRICS_MAX].join(", ");
            format!("{printed} + {} more...", count - CELL_METRICS_MAX)
        }
        _ => all.join(", "),
    }
}

fn one(metric: &Field<'_, '_>, measured: &Value) -> String {
    let source = match metric.get("type").text() {
        "ContainerResource" => "containerResource",
        "External" => "external",
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        _ => return "<unknown type>".to_owned(),
    };
    let from = metric.get(source);
    let target = from.get("target");
    let current = &measured[source]["current"];
    let value_of = |field: &str, unit: &str| {
        let value = &current[field];
        match value.as_str() {
            Some(text) => text.to_owned(),
            None => value
                .as_i64()
                .map_or("<unknown>".to_owned(), |number| format!("{number}{unit}")),
        }
    };
    let by_average = || {
        let average = target.get("averageValue");
        format!("{}/{}", value_of("averageValue", ""), average.text())
    };
    match source {
        "resource" | "containerResource" => {
            let name = from.get("name");
            let pair = if target.get("averageValue").is_set() {
                by_average()
            } else {
                let share = target.get("averageUtilization").int();
                let share = share.map_or("<auto>".to_owned(), |share| format!("{share}%"));
                format!("{}/{share}", value_of("averageUtilization", "%"))
            };
            format!("{}: {pair}", name.text())
        }
        "pods" => by_average(),
        _ if target.get("averageValue").is_set() => format!("{} (avg)", by_average()),
        _ => format!("{}/{}", value_of("value", ""), target.get("value").text()),
    }
}
