//! Strategic merge patch: a merge patch by type. Lists with a merge key are merged by element, and
//! directives (`$patch`, `$retainKeys`, `$setElementOrder/…`, `$deleteFromPrimitiveList/…`) express
//! further changes.

use std::collections::{BTreeMap, BTreeSet};

use json_tree::{Map, Value};
use openapi_documents::{FieldRef, Shape, TypeRef};

use crate::PatchError;
use crate::error::{printed, type_name};
use crate::json::merge;
use crate::order::{self, ElementPositions, Identity, ValueKey};

pub(crate) const DIRECTIVE: &str = "$patch";
pub(crate) const RETAIN_KEYS: &str = "$retainKeys";
pub(crate) const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
pub(crate) const SET_ELEMENT_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch to an object of the given type.
///
/// # Errors
/// `Malformed`, `NoMergeKey`, `UnknownDirective`, `ListOfLists`: see [`PatchError`].
pub fn strategic_merge_patch(
    document: Value,
    patch: Value,
    object_type: TypeRef<'_>,
) -> Result<Value, PatchError> {
    let Value::Object(original) = document else {
        return Err(PatchError::wrong_type("map", &document));
    };
    let Value::Object(patch) = patch else {
        let text = format!("json: cannot unmarshal {} into a patch", type_name(&patch));
        return Err(PatchError::Malformed(text));
    };
    merge_map(original, patch, Some(object_type)).map(Value::Object)
}

type Object = Map<String, Value>;

/// The merge strategy of a field; empty for an unknown field.
#[derive(Clone, Copy, Default)]
pub(crate) struct Strategy<'s> {
    field: Option<FieldRef<'s>>,
    pub(crate) value: Option<TypeRef<'s>>,
}

impl<'s> Strategy<'s> {
    pub(crate) fn of_field(parent: Option<TypeRef<'s>>, field: &str) -> Self {
        match parent.and_then(|parent| parent.field(field)) {
            Some(field) => Self {
                field: Some(field),
                value: Some(field.type_ref()),
            },
            None => Self {
                field: None,
                value: parent.and_then(|parent| parent.element()),
            },
        }
    }

    /// Whether the type of the contents is unknown. Then `$patch` and similar keys are data, not directives (a
    /// ControllerRevision contains a patch).
    pub(crate) fn is_opaque(&self) -> bool {
        self.value.is_some_and(|value| value.shape() == Shape::Any)
    }

    pub(crate) fn merges(&self) -> bool {
        self.field.is_some_and(|field| field.merges())
    }

    pub(crate) fn replaces(&self) -> bool {
        self.field.is_some_and(|field| field.replaces())
    }

    pub(crate) fn retains_keys(&self) -> bool {
        self.field.is_some_and(|field| field.retains_keys())
    }

    pub(crate) fn merge_key(&self) -> Option<&'static str> {
        self.field.and_then(|field| field.merge_key())
    }

    pub(crate) fn element(&self) -> Option<TypeRef<'s>> {
        self.value.and_then(|value| value.element())
    }
}

fn is_directive(key: &str) -> bool {
    key == DIRECTIVE
        || key == RETAIN_KEYS
        || key.starts_with(DELETE_FROM_LIST)
        || key.starts_with(SET_ELEMENT_ORDER)
}

/// Merges `patch` into `original`. Both are objects of `object_type`.
fn merge_map(
    mut original: Object,
    mut patch: Object,
    object_type: Option<TypeRef<'_>>,
) -> Result<Object, PatchError> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.shift_remove(DIRECTIVE);
                resolved_map(patch, object_type)
            }
            Some("delete") => Ok(Object::new()),
            _ => Err(PatchError::unknown_directive(
                directive,
                &Value::Object(patch.clone()),
            )),
        };
    }
    retain_keys(&mut original, &patch)?;
    let orders = with_orders(&patch);
    let live = ordered_lists(&original, &orders, object_type);
    delete_from_lists(&mut original, &patch)?;
    let mut leaving = BTreeSet::new();
    for (key, value) in patch {
        if is_directive(&key) {
            continue;
        }
        let strategy = Strategy::of_field(object_type, &key);
        if value.is_null() {
            leaving.insert(key);
            continue;
        }
        let merged = match (original.get_mut(&key).map(Value::take), value) {
            (Some(old), new) if strategy.is_opaque() => merged_plainly(old, new),
            (Some(Value::Object(old)), Value::Object(new)) if !strategy.replaces() => {
                merge_map(old, new, strategy.value).map(Value::Object)?
            }
            (Some(Value::Array(old)), Value::Array(new)) if strategy.merges() => {
                merge_list(old, new, &strategy).map(Value::Array)?
            }
            (_, new) => resolved(new, &strategy)?,
        };
        original.insert(key, merged);
    }
    if !leaving.is_empty() {
        original.retain(|key, _| !leaving.contains(key.as_str()));
    }
    set_element_orders(original, &orders, &live, object_type)
}

/// A copy of a patch that sets the order of lists, because the merge moves its elements; empty for any other patch.
fn with_orders(patch: &Object) -> Object {
    let mut keys = patch.keys();
    match keys.any(|key| key.starts_with(SET_ELEMENT_ORDER)) {
        true => patch.clone(),
        false => Object::new(),
    }
}

/// Merges by RFC 7396.
fn merged_plainly(mut old: Value, new: Value) -> Value {
    merge(&mut old, new);
    old
}

/// `$retainKeys`: removes keys that are not in its list; keys that the patch sets must be in the list.
fn retain_keys(original: &mut Object, patch: &Object) -> Result<(), PatchError> {
    let Some(retained) = patch.get(RETAIN_KEYS) else {
        return Ok(());
    };
    let malformed = || PatchError::Malformed("invalid patch format of retainKeys".to_owned());
    let retained = retained.as_array().ok_or_else(malformed)?;
    let retained: BTreeSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    let named = |key: &str| retained.contains(key);
    let unnamed = patch
        .iter()
        .any(|(key, value)| !value.is_null() && !is_directive(key) && !named(key));
    if unnamed {
        return Err(malformed());
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// `$deleteFromPrimitiveList/field`: removes these scalars from the list.
fn delete_from_lists(original: &mut Object, patch: &Object) -> Result<(), PatchError> {
    for (key, value) in patch {
        let Some(field) = key.strip_prefix(DELETE_FROM_LIST) else {
            continue;
        };
        let Value::Array(leaving) = value else {
            let text = "invalid patch format of primitive list".to_owned();
            return Err(PatchError::Malformed(text));
        };
        if let Some(Value::Array(list)) = original.get_mut(field) {
            let leaving = order::marks(leaving);
            list.retain(|element| !leaving.contains(&ValueKey::from_value(element)));
        }
    }
    Ok(())
}

/// The positions of the elements in the lists that the patch orders, before the merge.
fn ordered_lists<'p>(
    original: &Object,
    patch: &'p Object,
    object_type: Option<TypeRef<'_>>,
) -> BTreeMap<&'p str, ElementPositions<'static>> {
    let fields = patch
        .keys()
        .filter_map(|key| key.strip_prefix(SET_ELEMENT_ORDER));
    fields
        .filter_map(|field| {
            let list = original.get(field)?.as_array()?;
            let positions = ElementPositions::new(list, identity_in(object_type, field));
            Some((field, positions.into_owned()))
        })
        .collect()
}

/// The identity of the elements of a list.
fn identity_in(object_type: Option<TypeRef<'_>>, field: &str) -> Identity {
    match Strategy::of_field(object_type, field).merge_key() {
        Some(key) => Identity::Field(key),
        None => Identity::Value,
    }
}

/// Merges two lists whose strategy is `merge`.
fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    strategy: &Strategy<'_>,
) -> Result<Vec<Value>, PatchError> {
    if !order::holds_maps(&original, &patch)? {
        return Ok(order::union(&original, &patch));
    }
    let Some(key) = strategy.merge_key() else {
        let text = "cannot merge lists without merge key for type struct".to_owned();
        return Err(PatchError::Malformed(text));
    };
    let identity = Identity::Field(key);
    let live = ElementPositions::new(&original, identity).into_owned();
    let mut merged = original;
    let mut retained = Vec::new();
    let mut leaving = BTreeSet::new();
    let mut replace = false;
    for element in patch {
        match element.get(DIRECTIVE) {
            None => retained.push(element),
            Some(directive) => match directive.as_str() {
                Some("delete") => {
                    leaving.insert(ValueKey::from_value(identity.value_in(&element)?).into_owned());
                }
                Some("replace") => replace = true,
                Some("merge") => {
                    let text = "merging lists cannot yet be specified in the patch".to_owned();
                    return Err(PatchError::Malformed(text));
                }
                _ => return Err(PatchError::unknown_directive(directive, &element)),
            },
        }
    }
    if replace {
        return retained
            .into_iter()
            .map(|element| resolved_element(element, strategy))
            .collect();
    }
    if !leaving.is_empty() {
        merged.retain(|element| {
            let is = element.get(key).map(ValueKey::from_value);
            is.is_none_or(|is| !leaving.contains(&is))
        });
    }
    let mut positions = match leaving.is_empty() {
        true => live.clone(),
        false => ElementPositions::new(&merged, identity).into_owned(),
    };
    let requested = ElementPositions::new(&retained, identity).into_owned();
    for element in retained {
        identity.value_in(&element)?;
        merge_element(&mut merged, &mut positions, element, strategy)?;
    }
    order::arrange(merged, &requested, &live)
}

fn merge_element(
    merged: &mut Vec<Value>,
    positions: &mut ElementPositions<'_>,
    element: Value,
    strategy: &Strategy<'_>,
) -> Result<(), PatchError> {
    let position = positions.get(&element);
    match (position.and_then(|index| merged.get_mut(index)), element) {
        (Some(present), Value::Object(patch)) => {
            let old = match present.take() {
                Value::Object(old) => old,
                other => return Err(PatchError::wrong_type("map", &other)),
            };
            *present = Value::Object(merge_map(old, patch, strategy.element())?);
        }
        (_, element) => {
            let element = resolved_element(element, strategy)?;
            positions.add(&element, merged.len());
            merged.push(element);
        }
    }
    Ok(())
}

/// `$setElementOrder/field`: the elements of the list get the order in which the author of the patch read them;
/// elements that only the server has keep their positions between them.
fn set_element_orders(
    mut merged: Object,
    patch: &Object,
    live: &BTreeMap<&str, ElementPositions<'_>>,
    object_type: Option<TypeRef<'_>>,
) -> Result<Object, PatchError> {
    for (key, value) in patch {
        let Some(field) = key.strip_prefix(SET_ELEMENT_ORDER) else {
            continue;
        };
        let Value::Array(requested) = value else {
            let text = "invalid patch format of setElementOrder list".to_owned();
            return Err(PatchError::Malformed(text));
        };
        let identity = identity_in(object_type, field);
        check_order(patch.get(field), requested, identity)?;
        if let Some(Value::Array(list)) = merged.get_mut(field) {
            let requested = ElementPositions::new(requested, identity);
            let nothing = ElementPositions::new([], identity);
            let live = live.get(field).unwrap_or(&nothing);
            *list = order::arrange(std::mem::take(list), &requested, live)?;
        }
    }
    Ok(merged)
}

/// Checks that the patch's list is a sub-sequence of the order that the patch sets.
fn check_order(
    list: Option<&Value>,
    order: &[Value],
    identity: Identity,
) -> Result<(), PatchError> {
    let list = match list {
        None => return Ok(()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(PatchError::wrong_type("list", other)),
    };
    let mut rest = order.iter();
    for element in list
        .iter()
        .filter(|element| element.get(DIRECTIVE).is_none())
    {
        let is = identity.value_in(element)?;
        if !rest.any(|element| identity.value_in(element).is_ok_and(|other| other == is)) {
            return Err(PatchError::Malformed(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                printed(&Value::Array(list.clone())),
                printed(&Value::Array(order.to_vec())),
            )));
        }
    }
    Ok(())
}

/// A value that replaces another value: nulls and directives inside of it have no effect and are removed.
fn resolved(value: Value, strategy: &Strategy<'_>) -> Result<Value, PatchError> {
    match value {
        opaque if strategy.is_opaque() => Ok(opaque),
        Value::Object(patch) => resolved_map(patch, strategy.value).map(Value::Object),
        Value::Array(elements) => elements
            .into_iter()
            .filter(|element| !is_marker(element))
            .map(|element| resolved_element(element, strategy))
            .collect::<Result<Vec<Value>, PatchError>>()
            .map(Value::Array),
        scalar => Ok(scalar),
    }
}

/// Whether a list element consists only of its directive.
fn is_marker(element: &Value) -> bool {
    element.get(DIRECTIVE).is_some()
}

fn resolved_element(element: Value, strategy: &Strategy<'_>) -> Result<Value, PatchError> {
    resolved(
        element,
        &Strategy {
            field: None,
            value: strategy.element(),
        },
    )
}

/// A map with resolved values.
fn resolved_map(patch: Object, object_type: Option<TypeRef<'_>>) -> Result<Object, PatchError> {
    merge_map(Object::with_capacity(patch.len()), patch, object_type)
}
