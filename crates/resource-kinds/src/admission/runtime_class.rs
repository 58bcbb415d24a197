//! A pod with a RuntimeClass has the overhead, node selector and tolerations of the class; another pod has no
//! overhead.

use std::sync::Arc;

use json_tree::Value;
use object_model::{Quantity, Status};

use super::plugin::{Admission, AdmissionRequest, creates, forbidden};
use crate::admission::ObjectReader;
use crate::json::parts;

pub(super) struct RuntimeClass;

impl Admission for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        if !creates(request, "pods") || !object["spec"].is_object() {
            return Ok(());
        }
        let class = match object["spec"]["runtimeClassName"].as_str() {
            None => Arc::default(),
            Some(name) => {
                let class = cluster.get("node.k8s.io", "runtimeclasses", "", name);
                class.ok_or_else(|| {
                    let why = format!("pod rejected: RuntimeClass {name:?} not found");
                    forbidden(request, object, &why)
                })?
            }
        };
        let spec = &mut object["spec"];
        overhead(spec, &class)
            .and_then(|()| scheduling(spec, &class["scheduling"]))
            .map_err(|why| forbidden(request, object, &why))
    }
}

fn overhead(spec: &mut Value, class: &Value) -> Result<(), String> {
    let has_overhead = spec["overhead"].is_object();
    if !class["overhead"].is_object() {
        return match has_overhead {
            true => Err(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined \
                 Overhead"
                    .to_owned(),
            ),
            false => Ok(()),
        };
    }
    let fixed = &class["overhead"]["podFixed"];
    if has_overhead && !same_amounts(&spec["overhead"], fixed) {
        return Err(
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned(),
        );
    }
    if fixed.is_object() {
        parts::set(spec, "overhead", fixed.clone());
    }
    Ok(())
}

/// Whether two lists contain equal amounts of equal resources, whatever the notation of the amounts.
fn same_amounts(left: &Value, right: &Value) -> bool {
    let count = |list: &Value| list.as_object().map_or(0, json_tree::Map::len);
    let amount = |value: &Value| Quantity::from_json(value).ok();
    let mut all = left.as_object().into_iter().flatten();
    count(left) == count(right)
        && all.all(|(name, value)| {
            let other = right.get(name);
            other.is_some_and(|other| other == value || amount(other) == amount(value))
        })
}

fn scheduling(spec: &mut Value, class_scheduling: &Value) -> Result<(), String> {
    let existing = spec["nodeSelector"].clone();
    for (key, of_class) in class_scheduling["nodeSelector"]
        .as_object()
        .into_iter()
        .flatten()
    {
        if let Some(of_pod) = existing.get(key).filter(|of_pod| *of_pod != of_class) {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; \
                 pod.spec.nodeSelector[{key}] = {}",
                text(of_class),
                text(of_pod)
            ));
        }
        if let Some(selector) = parts::entry(spec, "nodeSelector") {
            parts::set(selector, key, of_class.clone());
        }
    }
    if let Some(of_class) = class_scheduling["tolerations"].as_array() {
        let existing = spec["tolerations"].as_array();
        let all = existing
            .into_iter()
            .flatten()
            .chain(of_class)
            .cloned()
            .collect();
        parts::set(spec, "tolerations", Value::Array(merged(all)));
    }
    Ok(())
}

/// The tolerations without those that another toleration covers; of equal tolerations the first stays.
fn merged(all: Vec<Value>) -> Vec<Value> {
    let mut merged_list: Vec<Value> = Vec::new();
    for (at, one) in all.iter().enumerate() {
        let before = merged_list.iter().any(|other| includes(other, one));
        let mut later = all.iter().skip(at + 1);
        let after = later.any(|other| other != one && includes(other, one));
        if !before && !after {
            merged_list.push(one.clone());
        }
    }
    merged_list
}

/// Whether `wide` tolerates every taint that `narrow` tolerates.
fn includes(wide: &Value, narrow: &Value) -> bool {
    if wide == narrow {
        return true;
    }
    let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_default().to_owned();
    let operator = |of: &Value| match text(of, "operator") {
        operator if operator.is_empty() => "Equal".to_owned(),
        operator => operator,
    };
    let any_key = text(wide, "key").is_empty() && operator(wide) == "Exists";
    if !any_key && text(wide, "key") != text(narrow, "key") {
        return false;
    }
    let effect = text(wide, "effect");
    if !effect.is_empty() && effect != text(narrow, "effect") {
        return false;
    }
    if effect == "NoExecute"
        && let Some(longest) = wide["tolerationSeconds"].as_i64()
        && narrow["tolerationSeconds"]
            .as_i64()
            .is_none_or(|seconds| seconds > longest)
    {
        return false;
    }
    match operator(wide).as_str() {
        "Exists" => true,
        "Equal" => operator(narrow) == "Equal" && text(wide, "value") == text(narrow, "value"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::super::plugin::Operation;
    use super::super::testing::{Objects, request};
    use super::*;

    fn admit(spec: Value) -> Result<Value, Status> {
        let classes = Objects::default()
            .with(
                "runtimeclasses",
                json!({"metadata": {"name": "plain"}, "handler": "runc"}),
            )
            .with(
                "runtimeclasses",
                json!({"metadata": {"name": "heavy"}, "handler": "vm",
                    "overhead": {"podFixed": {"cpu": "250m", "memory": "120Mi"}},
                    "scheduling": {"nodeSelector": {"vm": "yes"},
                        "tolerations": [{"key": "vm", "operator": "Exists"}]}}),
            );
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
        let request = request(Operation::Create, "pods");
        RuntimeClass.admit(&request, &mut pod, &classes)?;
        Ok(pod["spec"].clone())
    }

    fn refusal(spec: Value) -> String {
        let status = admit(spec).unwrap_err();
        assert_eq!(status.code, 403);
        status.message
    }

    #[test]
    fn a_class_gives_its_overhead_and_where_its_pods_run() {
        let spec = admit(
            json!({"runtimeClassName": "heavy", "nodeSelector": {"a": "b"},
            "tolerations": [{"key": "vm", "value": "1", "effect": "NoSchedule"},
                {"key": "x", "operator": "Exists"}]}),
        );
        let spec = spec.unwrap();
        assert_eq!(spec["overhead"], json!({"cpu": "250m", "memory": "120Mi"}));
        assert_eq!(spec["nodeSelector"], json!({"a": "b", "vm": "yes"}));
        assert_eq!(
            spec["tolerations"],
            json!([{"key": "x", "operator": "Exists"}, {"key": "vm", "operator": "Exists"}]),
            "what the class tolerates already is not said twice"
        );
        let same = json!({"runtimeClassName": "heavy",
            "overhead": {"cpu": "0.25", "memory": "120Mi"}});
        assert!(
            admit(same).is_ok(),
            "amounts are equal however they are written"
        );
    }

    #[test]
    fn a_class_that_says_nothing_changes_nothing() {
        let spec = json!({"runtimeClassName": "plain", "nodeSelector": {"a": "b"}});
        assert_eq!(admit(spec.clone()).unwrap(), spec);
        assert_eq!(admit(json!({})).unwrap(), json!({}));
    }

    #[test]
    fn what_does_not_agree_with_the_class_is_refused() {
        let text = refusal(json!({"runtimeClassName": "none"}));
        assert_eq!(
            text,
            "pods \"p\" is forbidden: pod rejected: RuntimeClass \"none\" not found"
        );
        let other = json!({"runtimeClassName": "heavy", "overhead": {"cpu": "1"}});
        assert!(
            refusal(other)
                .ends_with("Pod's Overhead doesn't match RuntimeClass's defined Overhead")
        );
        let alone = "Pod Overhead set without corresponding RuntimeClass defined Overhead";
        for class in [Value::Null, json!("plain")] {
            let spec = json!({"runtimeClassName": class, "overhead": {"cpu": "1"}});
            assert!(refusal(spec).ends_with(alone));
        }
        let text = refusal(json!({"runtimeClassName": "heavy", "nodeSelector": {"vm": "no"}}));
        assert!(
            text.ends_with(
                "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; \
                 pod.spec.nodeSelector[vm] = no"
            ),
            "{text}"
        );
    }

    #[test]
    fn of_tolerations_the_widest_stay() {
        let short = json!({"key": "k", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 10});
        let long = json!({"key": "k", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 20});
        let all = json!({"operator": "Exists"});
        let value = json!({"key": "k", "operator": "Equal", "value": "v"});
        let left = |list: [&Value; 2]| merged(list.map(Clone::clone).to_vec());
        assert_eq!(left([&short, &long]), left([&long, &long]));
        assert_eq!(left([&value, &long]).len(), 2);
        assert_eq!(left([&value, &all]), left([&all, &short]));
        assert_eq!(left([&value, &value]), vec![value]);
    }
}
