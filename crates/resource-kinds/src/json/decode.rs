//! Decoding of a client's JSON into an object of its kind: types are checked, unknown fields
//! removed, quantities made canonical, and empty values (null, empty lists, zero values that
//! upstream omits) removed, so that equal objects have equal bytes.

use k8s_openapi::Resource;
use object_model::Quantity;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::api_types::{ApiTypes, Field, Shape};

/// Checks `object` against the type `T`.
///
/// # Errors
/// The mismatch, as upstream's decoder reports it.
pub(crate) fn decode<T: DeserializeOwned + Serialize + Resource>(
    mut object: Value,
) -> Result<Value, String> {
    let types = ApiTypes::published();
    let kind = types.of_kind(T::API_VERSION, T::KIND).unwrap_or_default();
    canonical_quantities(types, kind, &mut object)?;
    let typed: T = match T::deserialize(&object) {
        Ok(typed) => typed,
        Err(error) => return Err(explain::<T>(&object, &error.to_string())),
    };
    let mut result = serde_json::to_value(typed).map_err(|error| error.to_string())?;
    prune(types, kind, &mut result);
    Ok(result)
}

/// Writes the quantities of an object of the type in their canonical form.
fn canonical_quantities(types: &ApiTypes, name: &str, object: &mut Value) -> Result<(), String> {
    let Value::Object(map) = object else {
        return Ok(());
    };
    for (key, child) in map.iter_mut() {
        let Some(field) = types.named(name, key) else {
            continue;
        };
        let canonical = |value: &mut Value| match field.kind {
            "Quantity" => canonical_quantity(value, field.shape),
            kind => canonical_quantities(types, kind, value),
        };
        match (field.shape, child) {
            (Shape::One, value) => canonical(value)?,
            (Shape::List, Value::Array(list)) => list.iter_mut().try_for_each(canonical)?,
            (Shape::Map, Value::Object(map)) => map.values_mut().try_for_each(canonical)?,
            // The type check refuses it, and knows the path.
            _ => {}
        }
    }
    Ok(())
}

/// Amounts of resources, which are maps, are whole thousandths.
fn canonical_quantity(value: &mut Value, shape: Shape) -> Result<(), String> {
    // A value that is no scalar is left to the type check, which knows the path.
    if value.is_string() || value.is_number() {
        let quantity = Quantity::from_json(value).map_err(|error| error.to_string())?;
        let kept = match shape {
            Shape::Map => quantity.round_up_to_milli(),
            Shape::One | Shape::List => quantity,
        };
        *value = Value::String(kept.to_string());
    }
    Ok(())
}

/// Removes the empty fields that upstream's encoder leaves out of an object of the type.
fn prune(types: &ApiTypes, name: &str, object: &mut Value) {
    let Value::Object(map) = object else {
        return;
    };
    map.retain(|key, child| {
        let Some(field) = types.named(name, key) else {
            return !child.is_null();
        };
        match (field.shape, &mut *child) {
            (Shape::One, value) => prune(types, field.kind, value),
            (Shape::List, Value::Array(list)) => {
                list.iter_mut()
                    .for_each(|one| prune(types, field.kind, one));
            }
            (Shape::Map, Value::Object(map)) => {
                map.values_mut()
                    .for_each(|one| prune(types, field.kind, one));
            }
            _ => {}
        }
        let optional = field.omitted_when_empty && !field.pointer;
        !(child.is_null() || optional && is_empty(field, child))
    });
}

/// Whether Go's encoder calls the value empty. A structure never is.
fn is_empty(field: &Field, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => field.shape == Shape::Map && map.is_empty(),
    }
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
    use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod};
    use k8s_openapi::api::resource::v1::{DeviceClass, ResourceSlice};
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

    /// findings C16
    #[test]
    fn amounts_of_devices_become_canonical_and_configuration_stays() {
        let slice = json!({"spec": {"driver": "d", "pool": {"name": "p", "generation": 0,
            "resourceSliceCount": 1}, "devices": [{"name": "a",
                "attributes": {"max": {"int": 5}, "empty": {"string": ""}},
                "capacity": {"mem": {"value": "1024Mi", "requestPolicy": {"default": 1,
                    "validValues": ["1024Ki"], "validRange": {"min": "1000m"}}}},
                "consumesCounters": [{"counterSet": "s", "counters": {"max": {"value": 2}}}]}]}});
        let decoded = decode::<ResourceSlice>(slice).unwrap();
        let device = &decoded["spec"]["devices"][0];
        assert_eq!(
            device["attributes"],
            json!({"empty": {"string": ""}, "max": {"int": 5}})
        );
        assert_eq!(
            device["capacity"]["mem"],
            json!({"value": "1Gi", "requestPolicy": {"default": "1", "validValues": ["1Mi"],
                "validRange": {"min": "1"}}})
        );
        assert_eq!(
            device["consumesCounters"][0]["counters"]["max"]["value"],
            "2"
        );
        let class = json!({"spec": {"config": [{"opaque": {"driver": "d",
            "parameters": {}}}, {"opaque": {"driver": "d", "parameters": {"a": "", "b": []}}}]}});
        let decoded = decode::<DeviceClass>(class.clone()).unwrap();
        assert_eq!(decoded["spec"], class["spec"]);
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

    /// findings A16: fields of the same name differ by the type that they belong to.
    #[test]
    fn a_rule_for_a_field_depends_on_its_type() {
        let spec = json!({"spec": {"storageClassName": ""}});
        let claim = decode::<PersistentVolumeClaim>(spec.clone()).unwrap();
        assert_eq!(claim["spec"], json!({"storageClassName": ""}));
        let volume = decode::<PersistentVolume>(spec).unwrap();
        assert_eq!(volume["spec"], json!({}));
        let map = json!({"data": {"limits": "", "capacity": "1024Mi"}, "binaryData": {}});
        let map = decode::<ConfigMap>(map).unwrap();
        assert_eq!(map["data"], json!({"limits": "", "capacity": "1024Mi"}));
        assert!(map.get("binaryData").is_none());
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
