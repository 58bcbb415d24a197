//! Decoding into the typed form and back. The tests compare the decoder with this code.

use json_tree::Value;
use k8s_openapi::Resource;
use object_model::Quantity;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::field_chain::json_type;
use crate::json::api_types::{ApiTypes, Field, Shape};

/// Checks `object` against the type `T`.
///
/// # Errors
/// The mismatch, with the text of upstream's decoder.
pub(super) fn decode<T: DeserializeOwned + Serialize + Resource>(
    mut object: Value,
) -> Result<Value, String> {
    let types = ApiTypes::published();
    let kind = types.of_kind(T::API_VERSION, T::KIND).unwrap().name;
    canonical_quantities(types, kind, &mut object)?;
    let typed: T = match T::deserialize(&object) {
        Ok(typed) => typed,
        Err(error) => return Err(explain::<T>(&object, &error.to_string())),
    };
    let mut result = json_tree::to_value(typed).map_err(|error| error.to_string())?;
    prune(types, kind, &mut result);
    Ok(result)
}

/// Converts the quantities of an object of the type to their canonical form.
fn canonical_quantities(types: &ApiTypes, name: &str, object: &mut Value) -> Result<(), String> {
    let Value::Object(map) = object else {
        return Ok(());
    };
    for (key, child) in map.iter_mut() {
        let Some(field) = types.structure(name).and_then(|one| one.named(key)) else {
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
            // The type check refuses other values, and knows the path.
            _ => {}
        }
    }
    Ok(())
}

/// Amounts of resources are in maps, and are rounded up to whole thousandths.
fn canonical_quantity(value: &mut Value, shape: Shape) -> Result<(), String> {
    // The type check refuses a value that is not a scalar, and knows the path.
    if value.is_string() || value.is_number() {
        let quantity = Quantity::from_json(value).map_err(|error| error.to_string())?;
        let canonical = match shape {
            Shape::Map => quantity.round_up_to_milli(),
            Shape::One | Shape::List => quantity,
        };
        *value = Value::String(canonical.to_string());
    }
    Ok(())
}

/// Removes the empty fields that upstream's encoder omits in an object of the type.
fn prune(types: &ApiTypes, name: &str, object: &mut Value) {
    let Value::Object(map) = object else {
        return;
    };
    map.retain(|key, child| {
        let Some(field) = types.structure(name).and_then(|one| one.named(key)) else {
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

/// Whether Go's encoder treats the value as empty. A structure is never empty.
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

/// Finds the field that cannot be decoded; returns upstream's message. Runs only if decoding fails.
fn explain<T: DeserializeOwned>(object: &Value, error: &str) -> String {
    let Some(expected_type) = expected(error) else {
        return error.to_owned();
    };
    let culprit = narrow::<T>(object);
    let actual = json_type(&culprit.value);
    let names: Vec<&str> = culprit.path.iter().filter_map(Step::name).collect();
    let structure = structure_name::<T>(&culprit).unwrap_or_default();
    if names.is_empty() || structure.is_empty() {
        return format!("json: cannot unmarshal {actual} into Go value of type {expected_type}");
    }
    let path = format!("{structure}.{}", names.join("."));
    format!("json: cannot unmarshal {actual} into Go struct field {path} of type {expected_type}")
}

/// One step into a value.
enum Step {
    Field(String),
    /// An element of a list; Go's message does not contain its index.
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

/// The smallest part that cannot be decoded, and its path.
struct Culprit {
    value: Value,
    path: Vec<Step>,
}

/// Finds the position of the first error. Each step removes the siblings of the path, and bisection finds the next
/// step, so that a large object needs few attempts.
fn narrow<T: DeserializeOwned>(object: &Value) -> Culprit {
    let mut culprit = Culprit {
        value: object.clone(),
        path: Vec::new(),
    };
    loop {
        let fails = |part: Value| T::deserialize(&wrap(&culprit.path, part)).is_err();
        let next = match &culprit.value {
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
            return culprit;
        };
        culprit.path.push(step);
        culprit.value = value;
    }
}

/// The index of the first element that causes the error; `None` if the error is not in an element (for example, if a
/// list is not allowed).
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

/// An object that contains only this part, at the end of the path.
fn wrap(path: &[Step], part: Value) -> Value {
    path.iter().rev().fold(part, |value, step| match step {
        Step::Field(name) => Value::Object([(name.clone(), value)].into_iter().collect()),
        Step::Element => Value::Array(vec![value]),
    })
}

/// The name of the structure with the error: the structure that the decoder expects at this path.
fn structure_name<T: DeserializeOwned>(part: &Culprit) -> Option<String> {
    let last_field = part.path.iter().rposition(|step| step.name().is_some())?;
    let probe = wrap(&part.path[..last_field], Value::Bool(true));
    let error = T::deserialize(&probe).err()?.to_string();
    let (_, name) = error.rsplit_once("expected ")?;
    Some(name.trim_start_matches("struct ").to_owned())
}

/// The Go type in an error message of the decoder.
fn expected(error: &str) -> Option<String> {
    let (_, expected) = error.rsplit_once("expected ")?;
    Some(match expected {
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
