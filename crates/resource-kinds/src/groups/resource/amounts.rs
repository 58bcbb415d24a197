//! Decoding of this group's objects: quantities at other paths than in other groups, and drivers'
//! configuration, which is stored unchanged.

use object_model::Quantity;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::json::decode::decode;

/// Fields that are a quantity, or a list of quantities.
const QUANTITIES: &[&str] = &[
    "allocationMultiplier",
    "default",
    "max",
    "min",
    "step",
    "validValues",
];
/// Maps of structures whose `value` is a quantity.
const WITH_VALUE: &[&str] = &["capacity", "counters"];

/// Checks `object` against the type `T`.
///
/// # Errors
/// *Errors.* The mismatch, as upstream's decoder reports it.
pub(super) fn decode_with_amounts<T: DeserializeOwned + Serialize>(
    mut object: Value,
) -> Result<Value, String> {
    canonical(&mut object)?;
    let sent = object.clone();
    let mut decoded = decode::<T>(object)?;
    restore_parameters(&mut decoded, &sent);
    Ok(decoded)
}

fn canonical(value: &mut Value) -> Result<(), String> {
    match value {
        Value::Array(list) => list.iter_mut().try_for_each(canonical),
        Value::Object(map) => map.iter_mut().try_for_each(|(key, child)| {
            let key = key.as_str();
            match child {
                // Their contents belong to the user or the driver.
                _ if matches!(key, "attributes" | "metadata" | "parameters" | "data") => Ok(()),
                Value::Object(entries) if WITH_VALUE.contains(&key) => {
                    entries.values_mut().try_for_each(|entry| {
                        if let Some(value) = entry.get_mut("value") {
                            canonical_quantity(value)?;
                        }
                        canonical(entry)
                    })
                }
                Value::Array(list) if QUANTITIES.contains(&key) => {
                    list.iter_mut().try_for_each(canonical_quantity)
                }
                child if QUANTITIES.contains(&key) => {
                    canonical_quantity(child)?;
                    canonical(child)
                }
                child => canonical(child),
            }
        }),
        _ => Ok(()),
    }
}

fn canonical_quantity(value: &mut Value) -> Result<(), String> {
    // The type check reports other values, because it knows the path.
    if value.is_string() || value.is_number() {
        let quantity = Quantity::from_json(value).map_err(|error| error.to_string())?;
        *value = Value::String(quantity.to_string());
    }
    Ok(())
}

/// Restores drivers' configuration, from which the decoder removes empty values.
fn restore_parameters(decoded: &mut Value, sent: &Value) {
    match (decoded, sent) {
        (Value::Array(decoded), Value::Array(sent)) => {
            let pairs = decoded.iter_mut().zip(sent);
            pairs.for_each(|(decoded, sent)| restore_parameters(decoded, sent));
        }
        (Value::Object(decoded), Value::Object(sent)) => {
            for (key, decoded) in decoded.iter_mut() {
                let Some(sent) = sent.get(key) else { continue };
                match (key.as_str(), decoded) {
                    ("opaque", Value::Object(opaque)) => {
                        if let Some(parameters) = sent.get("parameters") {
                            opaque.insert("parameters".to_owned(), parameters.clone());
                        }
                    }
                    ("metadata" | "attributes", _) => {}
                    (_, decoded) => restore_parameters(decoded, sent),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::resource::v1 as api;
    use serde_json::json;

    use super::*;

    /// findings C16
    #[test]
    fn amounts_become_canonical_and_configuration_stays() {
        let slice = json!({"spec": {"driver": "d", "pool": {"name": "p", "generation": 0,
            "resourceSliceCount": 1}, "devices": [{"name": "a",
                "attributes": {"max": {"int": 5}, "empty": {"string": ""}},
                "capacity": {"mem": {"value": "1024Mi", "requestPolicy": {"default": 1,
                    "validValues": ["1024Ki"], "validRange": {"min": "1000m"}}}},
                "consumesCounters": [{"counterSet": "s", "counters": {"max": {"value": 2}}}]}]}});
        let decoded = decode_with_amounts::<api::ResourceSlice>(slice).unwrap();
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
        let decoded = decode_with_amounts::<api::DeviceClass>(class.clone()).unwrap();
        assert_eq!(decoded["spec"], class["spec"]);
    }
}
