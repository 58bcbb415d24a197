//! Decoding of a client's JSON into an object of its kind, in one pass over the tree, by the table of types. Types
//! are checked, unknown fields are removed, quantities and times become canonical, and empty values (null, empty
//! lists, zero values that upstream omits) are removed, so that equal objects have equal bytes. The fields of a
//! structure are sorted by name, after `apiVersion` and `kind`.

use json_tree::{Map, Value};
use k8s_openapi::ByteString;
use object_model::Quantity;
use serde::Deserialize;

use super::api_types::{ApiTypes, Field, Shape, Structure, TypeMeta, ValueType};
pub use error::DecodeError;
use field_chain::FieldChain;

mod error;
mod field_chain;
mod times;

#[cfg(test)]
mod differential;
#[cfg(test)]
mod round_trip;

/// Checks `object` against the type of the named kind.
///
/// # Errors
/// The mismatch, with the text of upstream's decoder.
pub(crate) fn decode(
    api_version: &str,
    kind: &str,
    mut object: Value,
) -> Result<Value, DecodeError> {
    let types = ApiTypes::published();
    let structure = types
        .of_kind(api_version, kind)
        .ok_or_else(|| DecodeError::UnknownKind {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        })?;
    check_structure(types, structure, &mut object, &FieldChain::Root)?;
    Ok(object)
}

/// Checks the metadata of an object of any kind; `structure` is the type of the metadata.
///
/// # Errors
/// As [`decode`].
pub(crate) fn decode_metadata(
    types: &ApiTypes,
    structure: &Structure,
    metadata: &mut Value,
) -> Result<(), DecodeError> {
    let path = FieldChain::Field {
        of: &FieldChain::Root,
        structure,
        name: "metadata",
    };
    check_structure(types, structure, metadata, &path)
}

fn check_structure(
    types: &ApiTypes,
    structure: &Structure,
    value: &mut Value,
    path: &FieldChain<'_>,
) -> Result<(), DecodeError> {
    let Value::Object(map) = value else {
        let expected = format!("v1.{}", structure.short_name());
        return Err(path.mismatch(value, &expected));
    };
    let mut outcome = Ok(());
    map.retain(|name, value| {
        let within = FieldChain::Field {
            of: path,
            structure,
            name,
        };
        let stays = match (&outcome, structure.named(name)) {
            (Err(_), _) => return true,
            (Ok(()), Some(field)) => check_field(types, field, value, &within),
            (Ok(()), None) => check_type_meta(structure, name, value, &within),
        };
        stays.unwrap_or_else(|error| {
            outcome = Err(error);
            true
        })
    });
    outcome?;
    complete(types, structure, map)
}

/// Checks a field. Returns whether the field stays: null counts as absent, and some fields are removed if they are
/// empty.
fn check_field(
    types: &ApiTypes,
    field: &Field,
    value: &mut Value,
    path: &FieldChain<'_>,
) -> Result<bool, DecodeError> {
    match (field.shape, &mut *value) {
        (_, Value::Null) => return Ok(false),
        (Shape::One, value) => check_value(types, field, value, path)?,
        (Shape::List, Value::Array(list)) => {
            for element in list {
                null_is_no_text(field, element);
                check_value(types, field, element, path)?;
            }
        }
        (Shape::Map, Value::Object(map)) => {
            for element in map.values_mut() {
                null_is_no_text(field, element);
                check_value(types, field, element, path)?;
            }
            sort(map);
        }
        (Shape::List, other) => return Err(path.mismatch(other, LIST)),
        (Shape::Map, other) => return Err(path.mismatch(other, "map[string]interface {}")),
    }
    Ok(!is_left_out(field, value))
}

/// In a list or a map of texts, null becomes the empty text: `data: {key: }`.
fn null_is_no_text(field: &Field, element: &mut Value) {
    if field.value == ValueType::String && element.is_null() {
        cov_mark::hit!(findings_2_k11);
        *element = Value::String(String::new());
    }
}

/// Go's name for the type of a list.
const LIST: &str = "[]interface {}";

/// Checks one value of a field, and converts it to its canonical form.
fn check_value(
    types: &ApiTypes,
    field: &Field,
    value: &mut Value,
    path: &FieldChain<'_>,
) -> Result<(), DecodeError> {
    let expected = match field.value {
        ValueType::Structure(_) => {
            let Some(structure) = types.of_value(field.value) else {
                return Ok(());
            };
            return check_structure(types, structure, value, path);
        }
        ValueType::Raw => return Ok(()),
        ValueType::Quantity if value.is_string() || value.is_number() => {
            return canonical_quantity(value, field.shape);
        }
        ValueType::Time | ValueType::MicroTime if value.is_string() => {
            return times::canonical(value, field.value);
        }
        ValueType::Bytes if value.is_string() || value.is_null() => return canonical_bytes(value),
        ValueType::Items => return check_texts(value, path),
        ValueType::Double => {
            if let Some(number) = value.as_f64() {
                *value = number.into();
                return Ok(());
            }
            "float64"
        }
        ValueType::Int32 => match is_int32(value) {
            true => return Ok(()),
            false => "int32",
        },
        ValueType::IntOrString => match value {
            Value::String(_) => return Ok(()),
            value if is_int32(value) => return Ok(()),
            Value::Number(number) if !number.is_f64() => "int32",
            _ => "v1.IntOrString",
        },
        ValueType::Int64 if value.is_i64() => return Ok(()),
        ValueType::Bool if value.is_boolean() => return Ok(()),
        ValueType::String | ValueType::Duration if value.is_string() => return Ok(()),
        ValueType::Int64 => "int64",
        ValueType::Bool => "bool",
        ValueType::String | ValueType::Duration => "string",
        ValueType::Bytes => "[]uint8",
        ValueType::Quantity => "v1.Quantity",
        ValueType::Time => "v1.Time",
        ValueType::MicroTime => "v1.MicroTime",
    };
    Err(path.mismatch(value, expected))
}

fn is_int32(value: &Value) -> bool {
    value
        .as_i64()
        .is_some_and(|number| i32::try_from(number).is_ok())
}

fn check_texts(value: &Value, path: &FieldChain<'_>) -> Result<(), DecodeError> {
    let Value::Array(list) = value else {
        return Err(path.mismatch(value, LIST));
    };
    match list.iter().find(|text| !text.is_string()) {
        Some(other) => Err(path.mismatch(other, "string")),
        None => Ok(()),
    }
}

/// Amounts of resources are in maps, and are rounded up to whole thousandths.
fn canonical_quantity(value: &mut Value, shape: Shape) -> Result<(), DecodeError> {
    let quantity = Quantity::from_json(value);
    let quantity = quantity.map_err(|error| DecodeError::Quantity(error.to_string()))?;
    let canonical = match shape {
        Shape::Map => quantity.round_up_to_milli(),
        Shape::One | Shape::List => quantity,
    };
    *value = Value::String(canonical.to_string());
    Ok(())
}

/// Valid base64 is canonical. In a map, null becomes empty bytes.
fn canonical_bytes(value: &mut Value) -> Result<(), DecodeError> {
    ByteString::deserialize(&*value).map_err(|error| DecodeError::Base64(error.to_string()))?;
    if value.is_null() {
        *value = Value::String(String::new());
    }
    Ok(())
}

/// Checks a field that is not in the structure. `apiVersion` and `kind` of an object must be those of its type, and
/// [`complete`] writes them; unknown fields are removed.
fn check_type_meta(
    structure: &Structure,
    name: &str,
    value: &Value,
    path: &FieldChain<'_>,
) -> Result<bool, DecodeError> {
    let expected = match (structure.type_meta, name) {
        (TypeMeta::Version(version), "apiVersion") => version,
        (TypeMeta::Version(_), "kind") => structure.short_name(),
        (TypeMeta::AnyVersion, "apiVersion" | "kind") => {
            return match value {
                Value::Null => Ok(false),
                Value::String(_) => Ok(true),
                other => Err(path.mismatch(other, "string")),
            };
        }
        _ => return Ok(false),
    };
    match value {
        Value::String(sent) if sent == expected => Ok(false),
        Value::String(_) => Err(path.mismatch(value, &format!("v1.{expected}"))),
        other => Err(path.mismatch(other, "string")),
    }
}

/// Adds the fields that every object of the type contains, and sorts the fields.
fn complete(
    types: &ApiTypes,
    structure: &Structure,
    map: &mut Map<String, Value>,
) -> Result<(), DecodeError> {
    for field in structure.by_name().iter().filter(|field| field.always) {
        if !map.contains_key(field.json)
            && let Some(value) = empty(types, field)?
            && !is_left_out(field, &value)
        {
            map.insert(field.json.to_owned(), value);
        }
    }
    sort(map);
    if let TypeMeta::Version(version) = structure.type_meta {
        map.shift_insert(0, "apiVersion".to_owned(), version.into());
        map.shift_insert(1, "kind".to_owned(), structure.short_name().into());
    }
    Ok(())
}

/// The value of a time that every object contains but a client has omitted, for example the time of a condition.
/// Upstream writes null. Clients of upstream read both values as Go's zero time, and clients with strict types can
/// parse this value.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// The value of an absent field; `None` for raw JSON, which has no empty value.
fn empty(types: &ApiTypes, field: &Field) -> Result<Option<Value>, DecodeError> {
    Ok(Some(match (field.shape, field.value) {
        (Shape::List, _) | (Shape::One, ValueType::Items) => Value::Array(Vec::new()),
        (Shape::Map, _) => Value::Object(Map::new()),
        (Shape::One, ValueType::Raw) => return Ok(None),
        (Shape::One, ValueType::Time) => {
            cov_mark::hit!(findings_2_c30);
            Value::String(NO_TIME.to_owned())
        }
        (Shape::One, ValueType::MicroTime) => {
            return Err(DecodeError::MissingField(field.json.to_owned()));
        }
        (
            Shape::One,
            ValueType::String | ValueType::Duration | ValueType::Bytes | ValueType::Quantity,
        ) => Value::String(String::new()),
        (Shape::One, ValueType::Int32 | ValueType::Int64 | ValueType::IntOrString) => 0.into(),
        (Shape::One, ValueType::Double) => 0.0.into(),
        (Shape::One, ValueType::Bool) => Value::Bool(false),
        (Shape::One, ValueType::Structure(_)) => {
            let mut map = Map::new();
            if let Some(structure) = types.of_value(field.value) {
                complete(types, structure, &mut map)?;
            }
            Value::Object(map)
        }
    }))
}

/// Whether upstream's encoder omits the field if it has this value. A structure is never empty, and raw JSON counts
/// as a structure in Go.
fn is_left_out(field: &Field, value: &Value) -> bool {
    let is_empty = match value {
        _ if field.value == ValueType::Raw && field.shape == Shape::One => false,
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => field.shape == Shape::Map && map.is_empty(),
    };
    is_empty && field.omitted_when_empty && !field.pointer
}

/// The check comes first because most clients send sorted fields.
fn sort(map: &mut Map<String, Value>) {
    if !map.keys().is_sorted() {
        map.sort_keys();
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    /// findings C1: clients with strict types refuse a status without these fields.
    #[test]
    fn required_fields_stay_when_they_are_empty() {
        let status = json!({
            "name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "containerID": "", "volumeMounts": [],
        });
        let object = json!({"apiVersion": "v1", "kind": "Pod", "status": {
            "message": "", "containerStatuses": [status],
        }});
        let decoded = decode("v1", "Pod", object).unwrap();
        let required = json!({
            "name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        });
        assert_eq!(decoded["status"], json!({"containerStatuses": [required]}));
    }

    /// findings-2 K11, C30: as Go's decoder.
    #[test]
    fn null_among_texts_is_empty_and_a_missing_time_is_the_first() {
        cov_mark::check!(findings_2_c30);
        cov_mark::check!(findings_2_k11);
        let object = json!({"data": {"a": null, "b": "c"}, "metadata": {"labels": {"l": null},
            "finalizers": [null]}});
        let decoded = decode("v1", "ConfigMap", object).unwrap();
        assert_eq!(decoded["data"], json!({"a": "", "b": "c"}));
        assert_eq!(decoded["metadata"]["labels"], json!({"l": ""}));
        assert_eq!(decoded["metadata"]["finalizers"], json!([""]));
        let object = json!({"status": {"conditions": [{"type": "T", "status": "True"}]}});
        let decoded = decode("v1", "Service", object).unwrap();
        let time = &decoded["status"]["conditions"][0]["lastTransitionTime"];
        assert_eq!(time, NO_TIME);
    }

    #[test]
    fn type_errors_name_the_field() {
        let object = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "web"}, "spec": {"replicas": "three"}});
        assert_eq!(
            decode("apps/v1", "StatefulSet", object)
                .unwrap_err()
                .to_string(),
            "json: cannot unmarshal string into Go struct field StatefulSetSpec.spec.replicas of \
             type int32"
        );
        let object = json!({"spec": {"containers": [{"name": "a"}, {"name": 5}]}});
        assert_eq!(
            decode("v1", "Pod", object).unwrap_err().to_string(),
            "json: cannot unmarshal number into Go struct field Container.spec.containers.name of \
             type string"
        );
    }

    #[test]
    fn amounts_may_be_numbers_and_become_canonical() {
        let object = json!({"spec": {"containers": [{"name": "a", "resources": {
            "limits": {"cpu": 1.5, "memory": "1024Mi"}, "requests": {"cpu": 1}}}]}});
        let resources = &decode("v1", "Pod", object).unwrap()["spec"]["containers"][0]["resources"];
        let expected =
            json!({"limits": {"cpu": "1500m", "memory": "1Gi"}, "requests": {"cpu": "1"}});
        assert_eq!(resources, &expected);
        let object = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1GiB"}}}]}});
        assert!(
            decode("v1", "Pod", object)
                .unwrap_err()
                .to_string()
                .starts_with("quantities must match")
        );
    }

    /// findings C42
    #[test]
    fn amounts_of_devices_become_canonical_and_configuration_stays() {
        let slice = json!({"spec": {"driver": "d", "pool": {"name": "p", "generation": 0,
            "resourceSliceCount": 1}, "devices": [{"name": "a",
                "attributes": {"max": {"int": 5}, "empty": {"string": ""}},
                "capacity": {"mem": {"value": "1024Mi", "requestPolicy": {"default": 1,
                    "validValues": ["1024Ki"], "validRange": {"min": "1000m"}}}},
                "consumesCounters": [{"counterSet": "s", "counters": {"max": {"value": 2}}}]}]}});
        let decoded = decode("resource.k8s.io/v1", "ResourceSlice", slice).unwrap();
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
        let decoded = decode("resource.k8s.io/v1", "DeviceClass", class.clone()).unwrap();
        assert_eq!(decoded["spec"], class["spec"]);
    }

    #[test]
    fn what_says_nothing_is_left_out() {
        let object = json!({"metadata": {"labels": {}, "name": "p"}, "spec": {"hostNetwork": false,
            "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [], "unknown": 1,
            "containers": [{"name": "c", "env": [{"name": "A", "value": ""}]}]}});
        assert_eq!(
            decode("v1", "Pod", object).unwrap(),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                "spec": {"containers": [{"name": "c", "env": [{"name": "A"}]}],
                    "volumes": [{"name": "v", "emptyDir": {}}]}})
        );
    }

    /// findings A16: fields with equal names can differ by the type that contains them.
    #[test]
    fn a_rule_for_a_field_depends_on_its_type() {
        let spec = json!({"spec": {"storageClassName": ""}});
        let claim = decode("v1", "PersistentVolumeClaim", spec.clone()).unwrap();
        assert_eq!(claim["spec"], json!({"storageClassName": ""}));
        let volume = decode("v1", "PersistentVolume", spec).unwrap();
        assert_eq!(volume["spec"], json!({}));
        let map = json!({"data": {"limits": "", "capacity": "1024Mi"}, "binaryData": {}});
        let map = decode("v1", "ConfigMap", map).unwrap();
        assert_eq!(map["data"], json!({"limits": "", "capacity": "1024Mi"}));
        assert!(map.get("binaryData").is_none());
    }

    /// Paths in Go's messages contain neither keys of maps nor indices.
    #[test]
    fn places_are_those_of_upstream() {
        for (object, expected) in [
            (
                json!({"metadata": {"labels": {"a": 5}}}),
                "number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                json!({"metadata": {"labels": []}}),
                "array into Go struct field ObjectMeta.metadata.labels of type \
                 map[string]interface {}",
            ),
            (
                json!({"spec": {"containers": [{"ports": [{"containerPort": 1u64 << 40}]}]}}),
                "number into Go struct field ContainerPort.spec.containers.ports.containerPort of \
                 type int32",
            ),
            (
                json!({"spec": {"containers": {}}}),
                "object into Go struct field PodSpec.spec.containers of type []interface {}",
            ),
            (json!([]), "array into Go value of type v1.Pod"),
        ] {
            let expected = format!("json: cannot unmarshal {expected}");
            let decoded = decode("v1", "Pod", object);
            assert_eq!(decoded.map_err(|error| error.to_string()), Err(expected));
        }
    }

    /// The order of the fields in the request is not stored, so equal objects have equal bytes.
    #[test]
    fn fields_are_in_order_after_those_of_the_kind() {
        let object = json!({"spec": {"volumeClaimTemplates": [{"spec": {}, "metadata": {}}],
            "serviceName": "s", "replicas": 1}, "metadata": {"name": "a", "labels": {"b": "1",
            "a": "2"}}, "kind": "StatefulSet"});
        let decoded = decode("apps/v1", "StatefulSet", object).unwrap();
        assert_eq!(
            decoded.to_string(),
            r#"{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"labels":{"a":"2","b":"1"},"name":"a"},"spec":{"replicas":1,"selector":{},"serviceName":"s","template":{},"volumeClaimTemplates":[{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{},"spec":{}}]}}"#
        );
    }

    /// JSON without a published type is not changed.
    #[test]
    fn raw_json_stays() {
        let data = json!({"b": null, "a": {"c": "", "b": []}});
        let object = json!({"revision": 0, "data": data});
        let decoded = decode("apps/v1", "ControllerRevision", object).unwrap();
        assert_eq!(decoded["data"].to_string(), data.to_string());
        assert_eq!(decoded["revision"], 0);
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
            assert!(decode("v1", "Pod", object).is_err());
        }
    }
}
