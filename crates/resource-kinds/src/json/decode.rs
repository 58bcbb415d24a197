//! Decoding of a client's JSON into an object of its kind: types are checked, unknown fields
//! removed, quantities made canonical, and empty values (null, empty lists, zero values that
//! upstream omits) removed, so that equal objects have equal bytes.

use object_model::Quantity;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Maps whose values are quantities.
const QUANTITY_MAPS: &[&str] = &[
    "allocatable",
    "allocatedResources",
    "capacity",
    "consumedCapacity",
    "default",
    "defaultRequest",
    "hard",
    "limits",
    "max",
    "maxLimitRequestRatio",
    "min",
    "overhead",
    "podFixed",
    "requests",
    "used",
];
/// Fields that are quantities.
const QUANTITIES: &[&str] = &[
    "averageValue",
    "capacity",
    "divisor",
    "maximumVolumeSize",
    "sizeLimit",
    "tolerance",
];
/// Maps with free keys: their contents belong to the user.
const FREE_MAPS: &[&str] = &[
    "annotations",
    "attributes",
    "binaryData",
    "data",
    "labels",
    "matchLabels",
    "nodeSelector",
    "parameters",
    "stringData",
    "volumeAttributes",
];
/// Maps and lists that are left out when empty, although structures are not.
const EMPTY_MAPS: &[&str] = &[
    "allocatable",
    "allocatedResources",
    "capacity",
    "consumedCapacity",
    "default",
    "defaultRequest",
    "hard",
    "limits",
    "max",
    "maxLimitRequestRatio",
    "min",
    "overhead",
    "podFixed",
    "requests",
    "used",
    "annotations",
    "attributes",
    "binaryData",
    "data",
    "labels",
    "matchLabels",
    "nodeSelector",
    "parameters",
    "stringData",
    "volumeAttributes",
];
/// Texts that mean something when empty.
const EMPTY_TEXTS: &[&str] = &[
    "appProtocol",
    "holderIdentity",
    "serviceName",
    "storageClassName",
    "volumeAttributesClassName",
];
/// Numbers and booleans that are left out when zero or false.
const ZEROES: &[&str] = &[
    "clusterScope",
    "count",
    "currentReplicas",
    "healthCheckNodePort",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostPort",
    "initialDelaySeconds",
    "minReadySeconds",
    "nodePort",
    "observedGeneration",
    "publishNotReadyAddresses",
    "readOnly",
    "readyReplicas",
    "stdin",
    "stdinOnce",
    "tty",
    "unschedulable",
    "updatedReplicas",
];

/// Checks `object` against the type `T`.
///
/// # Errors
/// *Errors.* The mismatch, as upstream's decoder reports it.
pub(crate) fn decode<T: DeserializeOwned + Serialize>(mut object: Value) -> Result<Value, String> {
    canonical_quantities(&mut object)?;
    let typed: T = match T::deserialize(&object) {
        Ok(typed) => typed,
        Err(error) => return Err(explain::<T>(&object, &error.to_string())),
    };
    let mut result = serde_json::to_value(typed).map_err(|error| error.to_string())?;
    if prune(&mut result) {
        // Among the empty texts and lists may be required fields, which upstream's encoder keeps. The type
        // puts those back.
        let typed = T::deserialize(&result).map_err(|error| error.to_string())?;
        result = serde_json::to_value(typed).map_err(|error| error.to_string())?;
    }
    Ok(result)
}

fn canonical_quantities(value: &mut Value) -> Result<(), String> {
    match value {
        Value::Array(list) => list.iter_mut().try_for_each(canonical_quantities),
        Value::Object(map) => map.iter_mut().try_for_each(|(key, child)| {
            if FREE_MAPS.contains(&key.as_str()) {
                return Ok(());
            }
            match child {
                Value::Object(amounts) if QUANTITY_MAPS.contains(&key.as_str()) => {
                    let mut amounts = amounts.values_mut();
                    amounts.try_for_each(|amount| canonical_quantity(amount, true))
                }
                child if QUANTITIES.contains(&key.as_str()) => canonical_quantity(child, false),
                child => canonical_quantities(child),
            }
        }),
        _ => Ok(()),
    }
}

fn canonical_quantity(value: &mut Value, in_list: bool) -> Result<(), String> {
    // The type check reports other values, because it knows the path.
    if value.is_string() || value.is_number() {
        let quantity = Quantity::from_json(value).map_err(|error| error.to_string())?;
        let kept = if in_list {
            quantity.round_up_to_milli()
        } else {
            quantity
        };
        *value = Value::String(kept.to_string());
    }
    Ok(())
}

/// Removes optional values that upstream's encoder omits; returns whether an empty text or list was
/// removed.
fn prune(value: &mut Value) -> bool {
    match value {
        Value::Array(list) => list
            .iter_mut()
            .fold(false, |some, child| prune(child) | some),
        Value::Object(map) => prune_map(map),
        _ => false,
    }
}

fn prune_map(map: &mut Map<String, Value>) -> bool {
    let mut removed = false;
    map.retain(|key, child| {
        let key = key.as_str();
        if key == "managedFields" {
            return true;
        }
        if !FREE_MAPS.contains(&key) {
            removed |= prune(child);
        }
        match child {
            Value::Null => false,
            Value::Array(list) => {
                removed |= list.is_empty();
                !list.is_empty()
            }
            Value::Object(map) => !map.is_empty() || !EMPTY_MAPS.contains(&key),
            Value::String(text) => {
                let keep = !text.is_empty() || EMPTY_TEXTS.contains(&key);
                removed |= !keep;
                keep
            }
            Value::Bool(set) => *set || !ZEROES.contains(&key),
            Value::Number(number) => number.as_i64() != Some(0) || !ZEROES.contains(&key),
        }
    });
    removed
}

/// Finds the field that does not decode and says so as upstream does. Runs on refusals only.
fn explain<T: DeserializeOwned>(object: &Value, error: &str) -> String {
    let Some(wanted) = expected(error) else {
        return error.to_owned();
    };
    let found = narrow::<T>(object);
    let given = json_type(&found.value);
    let names: Vec<&str> = found.path.iter().filter_map(Step::name).collect();
    let structure = structure_name::<T>(&found).unwrap_or_default();
    if names.is_empty() || structure.is_empty() {
        return format!("json: cannot unmarshal {given} into Go value of type {wanted}");
    }
    let place = format!("{structure}.{}", names.join("."));
    format!("json: cannot unmarshal {given} into Go struct field {place} of type {wanted}")
}

/// One step down into a value.
enum Step {
    Field(String),
    /// An element of a list; which one, Go does not say.
    Element,
}

impl Step {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Field(name) => Some(name),
            Self::Element => None,
        }
    }
}

/// The smallest part that does not decode, and the way to it.
struct Found {
    value: Value,
    path: Vec<Step>,
}

/// Finds the position of the first error. Each step leaves out the siblings of the path, and is
/// found by bisection, so that a large object takes few attempts.
fn narrow<T: DeserializeOwned>(object: &Value) -> Found {
    let mut found = Found {
        value: object.clone(),
        path: Vec::new(),
    };
    loop {
        let fails = |part: Value| T::deserialize(&wrap(&found.path, part)).is_err();
        let next = match &found.value {
            Value::Object(map) => {
                let entries: Vec<(String, Value)> = map
                    .iter()
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                first_failing(&entries, |some| {
                    fails(Value::Object(some.iter().cloned().collect()))
                })
                .map(|index| {
                    (
                        Step::Field(entries[index].0.clone()),
                        entries[index].1.clone(),
                    )
                })
            }
            Value::Array(list) => first_failing(list, |some| fails(Value::Array(some.to_vec())))
                .map(|index| (Step::Element, list[index].clone())),
            _ => None,
        };
        let Some((step, value)) = next else {
            return found;
        };
        found.path.push(step);
        found.value = value;
    }
}

/// The index of the first element that makes the list fail; `None` if the error is not in an
/// element (as for a list that should not exist).
fn first_failing<E: Clone>(elements: &[E], fails: impl Fn(&[E]) -> bool) -> Option<usize> {
    if fails(&[]) || !fails(elements) {
        return None;
    }
    let (mut fine, mut failing) = (0, elements.len());
    while failing - fine > 1 {
        let middle = fine + (failing - fine) / 2;
        if fails(&elements[..middle]) {
            failing = middle;
        } else {
            fine = middle;
        }
    }
    Some(fine)
}

/// An object that contains only the given part at the end of the path.
fn wrap(path: &[Step], part: Value) -> Value {
    path.iter().rev().fold(part, |value, step| match step {
        Step::Field(name) => Value::Object([(name.clone(), value)].into_iter().collect()),
        Step::Element => Value::Array(vec![value]),
    })
}

/// The name of the structure with the error: the one that the decoder expects there.
fn structure_name<T: DeserializeOwned>(found: &Found) -> Option<String> {
    let last_field = found.path.iter().rposition(|step| step.name().is_some())?;
    let probe = wrap(&found.path[..last_field], Value::Bool(true));
    let error = T::deserialize(&probe).err()?.to_string();
    let (_, name) = error.rsplit_once("expected ")?;
    Some(name.trim_start_matches("struct ").to_owned())
}

/// The Go type that an error of the decoder speaks of.
fn expected(error: &str) -> Option<String> {
    let (_, wanted) = error.rsplit_once("expected ")?;
    Some(match wanted {
        "i32" => "int32".to_owned(),
        "i64" => "int64".to_owned(),
        "a string" | "string" => "string".to_owned(),
        "a boolean" | "bool" => "bool".to_owned(),
        "f64" => "float64".to_owned(),
        "a sequence" => "[]interface {}".to_owned(),
        "a map" => "map[string]interface {}".to_owned(),
        other => format!("v1.{other}"),
    })
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    /// findings C1: clients with strict types refuse a status without them.
    #[test]
    fn required_fields_stay_when_they_are_empty() {
        let status = json!({
            "name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "containerID": "", "volumeMounts": [],
        });
        let object = json!({"apiVersion": "v1", "kind": "Pod", "status": {
            "message": "", "containerStatuses": [status],
        }});
        let decoded = decode::<Pod>(object).unwrap();
        let required = json!({
            "name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        });
        assert_eq!(decoded["status"], json!({"containerStatuses": [required]}));
    }

    #[test]
    fn type_errors_name_the_field() {
        let object = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "web"}, "spec": {"replicas": "three"}});
        assert_eq!(
            decode::<StatefulSet>(object).unwrap_err(),
            "json: cannot unmarshal string into Go struct field StatefulSetSpec.spec.replicas of \
             type int32"
        );
        let object = json!({"spec": {"containers": [{"name": "a"}, {"name": 5}]}});
        assert_eq!(
            decode::<Pod>(object).unwrap_err(),
            "json: cannot unmarshal number into Go struct field Container.spec.containers.name of \
             type string"
        );
    }

    #[test]
    fn amounts_may_be_numbers_and_become_canonical() {
        let object = json!({"spec": {"containers": [{"name": "a", "resources": {
            "limits": {"cpu": 1.5, "memory": "1024Mi"}, "requests": {"cpu": 1}}}]}});
        let resources = &decode::<Pod>(object).unwrap()["spec"]["containers"][0]["resources"];
        let wanted = json!({"limits": {"cpu": "1500m", "memory": "1Gi"}, "requests": {"cpu": "1"}});
        assert_eq!(resources, &wanted);
        let object = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1GiB"}}}]}});
        assert!(
            decode::<Pod>(object)
                .unwrap_err()
                .starts_with("quantities must match")
        );
    }

    #[test]
    fn what_says_nothing_is_left_out() {
        let object = json!({"metadata": {"labels": {}, "name": "p"}, "spec": {"hostNetwork": false,
            "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [], "unknown": 1,
            "containers": [{"name": "c", "env": [{"name": "A", "value": ""}]}]}});
        assert_eq!(
            decode::<Pod>(object).unwrap(),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                "spec": {"containers": [{"name": "c", "env": [{"name": "A"}]}],
                    "volumes": [{"name": "v", "emptyDir": {}}]}})
        );
    }

    #[test]
    fn no_json_makes_the_decoder_panic() {
        for object in [
            json!(null),
            json!([]),
            json!(1),
            json!({"spec": []}),
            json!({"kind": 1}),
        ] {
            assert!(decode::<Pod>(object).is_err());
        }
    }
}
