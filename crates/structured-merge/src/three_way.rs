//! The strategic merge patch of `kubectl apply`: it sets all fields of a manifest, and removes the fields that the
//! manifest had when it was applied last. Fields of others stay (kubectl.md 2.7; Kubernetes documentation, "Declarative
//! Management of Kubernetes Objects Using Configuration Files").

use json_tree::{Map, Value, json};
use openapi_documents::TypeRef;

use crate::strategic::{DELETE_FROM_LIST, DIRECTIVE, RETAIN_KEYS, SET_ELEMENT_ORDER, Strategy};

type Object = Map<String, Value>;

/// The patch from the manifest that was applied last to a manifest. Without a former manifest nothing is removed; without a type, as for a
/// custom resource, lists are replaced.
pub fn apply_patch(
    former: Option<&Value>,
    manifest: &Value,
    object_type: Option<TypeRef<'_>>,
) -> Value {
    let empty = Object::new();
    let former = former.and_then(Value::as_object).unwrap_or(&empty);
    match manifest {
        Value::Object(manifest) => Value::Object(patch_of(former, manifest, object_type)),
        other => other.clone(),
    }
}

fn patch_of(former: &Object, manifest: &Object, object_type: Option<TypeRef<'_>>) -> Object {
    let mut patch = Object::new();
    for (key, value) in manifest {
        let strategy = Strategy::of_field(object_type, key);
        let former = former.get(key);
        match value {
            Value::Object(fields) if !strategy.is_opaque() && !strategy.replaces() => {
                let before = former.and_then(Value::as_object);
                let nested = nested(before, fields, &strategy, strategy.value);
                patch.insert(key.clone(), Value::Object(nested));
            }
            Value::Array(elements) if strategy.merges() => {
                let before = former.and_then(Value::as_array).map(Vec::as_slice);
                list(
                    &mut patch,
                    key,
                    before.unwrap_or_default(),
                    elements,
                    &strategy,
                );
            }
            other => {
                patch.insert(key.clone(), other.clone());
            }
        }
    }
    let removed = former.keys().filter(|key| !manifest.contains_key(*key));
    for key in removed {
        patch.insert(key.clone(), Value::Null);
    }
    patch
}

/// The patch of an object in a field or in a list of that strategy.
fn nested(
    former: Option<&Object>,
    fields: &Object,
    strategy: &Strategy<'_>,
    object_type: Option<TypeRef<'_>>,
) -> Object {
    let empty = Object::new();
    let mut patch = patch_of(former.unwrap_or(&empty), fields, object_type);
    if strategy.retains_keys() {
        let kept = fields.iter().filter(|(_, value)| !value.is_null());
        let kept: Vec<Value> = kept.map(|(key, _)| Value::from(key.as_str())).collect();
        patch.insert(RETAIN_KEYS.to_owned(), Value::Array(kept));
    }
    patch
}

/// Adds the changes of a list that is merged, and its order.
fn list(
    patch: &mut Object,
    field: &str,
    former: &[Value],
    elements: &[Value],
    strategy: &Strategy<'_>,
) {
    let order = |elements: Vec<Value>| (format!("{SET_ELEMENT_ORDER}{field}"), elements.into());
    let Some(merge_key) = strategy.merge_key() else {
        let removed = former.iter().filter(|element| !elements.contains(element));
        let removed: Vec<Value> = removed.cloned().collect();
        if !removed.is_empty() {
            patch.insert(format!("{DELETE_FROM_LIST}{field}"), removed.into());
        }
        patch.extend([order(elements.to_vec())]);
        patch.insert(field.to_owned(), elements.to_vec().into());
        return;
    };
    let find = |all: &[Value], key: &Value| {
        let mut all = all.iter();
        all.find(|element| element.get(merge_key) == Some(key))
            .cloned()
    };
    let (mut changes, mut keys) = (Vec::new(), Vec::new());
    for element in elements {
        // The server refuses an element without its key.
        let (Some(key), Some(fields)) = (element.get(merge_key), element.as_object()) else {
            changes.push(element.clone());
            continue;
        };
        let before = find(former, key);
        let before = before.as_ref().and_then(Value::as_object);
        let change = nested(before, fields, strategy, strategy.element());
        keys.push(json!({merge_key: key.clone()}));
        changes.push(Value::Object(change));
    }
    for key in former.iter().filter_map(|element| element.get(merge_key)) {
        if find(elements, key).is_none() {
            changes.push(json!({DIRECTIVE: "delete", merge_key: key.clone()}));
        }
    }
    patch.extend([order(keys)]);
    patch.insert(field.to_owned(), changes.into());
}
