//! The order of merged lists: elements of the patch have the patch's order; elements that only the server has keep
//! their position between them, as far as possible.
//!
//! Elements are looked up in an index of their identities, so the time of a merge is proportional to the lengths of
//! the lists, and not to their product.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use json_tree::Value;

use crate::PatchError;

/// The identity of a list element.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Identity {
    /// The whole value identifies the element.
    Value,
    /// This field identifies the element.
    Field(&'static str),
}

impl Identity {
    /// The part of the element that identifies it.
    pub fn value_in(self, element: &Value) -> Result<&Value, PatchError> {
        match self {
            Self::Value => Ok(element),
            Self::Field(key) => match element {
                Value::Object(map) => map
                    .get(key)
                    .ok_or_else(|| PatchError::no_merge_key(element, key)),
                element => Err(PatchError::wrong_type("map", element)),
            },
        }
    }
}

/// A value as the key of an index: two keys are equal if and only if the values are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ValueKey<'v> {
    Text(Cow<'v, str>),
    /// Any other value, as JSON with sorted fields.
    Other(String),
}

impl<'v> ValueKey<'v> {
    pub fn from_value(value: &'v Value) -> Self {
        match value {
            Value::String(text) => Self::Text(text.into()),
            value => {
                let mut printed = String::new();
                print_sorted(value, &mut printed);
                Self::Other(printed)
            }
        }
    }

    /// A copy without borrowed data.
    pub fn into_owned(self) -> ValueKey<'static> {
        match self {
            Self::Text(text) => ValueKey::Text(Cow::Owned(text.into_owned())),
            Self::Other(printed) => ValueKey::Other(printed),
        }
    }
}

fn print_sorted(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<(&String, &Value)> = map.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            out.push('{');
            for (name, value) in fields {
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                print_sorted(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(list) => {
            out.push('[');
            for value in list {
                print_sorted(value, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// The positions of list elements by identity; of several equal elements, the first position.
#[derive(Clone)]
pub(crate) struct ElementPositions<'v> {
    identity: Identity,
    positions: BTreeMap<ValueKey<'v>, usize>,
}

impl<'v> ElementPositions<'v> {
    /// Elements without an identity are not indexed.
    pub fn new(list: impl IntoIterator<Item = &'v Value>, identity: Identity) -> Self {
        let mut positions = BTreeMap::new();
        for (position, element) in list.into_iter().enumerate() {
            if let Ok(is) = identity.value_in(element) {
                positions
                    .entry(ValueKey::from_value(is))
                    .or_insert(position);
            }
        }
        Self {
            identity,
            positions,
        }
    }

    /// The position of the element with this identity.
    pub fn get(&self, element: &Value) -> Option<usize> {
        let is = self.identity.value_in(element).ok()?;
        self.positions.get(&ValueKey::from_value(is)).copied()
    }

    /// Adds an element that is appended to the list.
    pub fn add(&mut self, element: &Value, position: usize) {
        if let Ok(is) = self.identity.value_in(element) {
            let mark = ValueKey::from_value(is).into_owned();
            self.positions.entry(mark).or_insert(position);
        }
    }

    /// The positions, independent of later changes of the elements.
    pub fn into_owned(self) -> ElementPositions<'static> {
        let positions = self.positions.into_iter();
        ElementPositions {
            identity: self.identity,
            positions: positions
                .map(|(mark, at)| (mark.into_owned(), at))
                .collect(),
        }
    }
}

/// The keys of whole values.
pub(crate) fn marks(list: &[Value]) -> BTreeSet<ValueKey<'_>> {
    list.iter().map(ValueKey::from_value).collect()
}

/// Whether the lists contain maps (rather than scalars); all elements must have one type.
pub(crate) fn holds_maps(original: &[Value], patch: &[Value]) -> Result<bool, PatchError> {
    let mut all = original.iter().chain(patch);
    let Some(first) = all.next() else {
        return Ok(false);
    };
    if first.is_array() {
        return Err(PatchError::ListOfLists);
    }
    if all.any(|other| std::mem::discriminant(other) != std::mem::discriminant(first)) {
        return Err(PatchError::Malformed(
            "list element types are not identical".to_owned(),
        ));
    }
    Ok(first.is_object())
}

/// The union of two lists of scalars, ordered.
pub(crate) fn union(original: &[Value], patch: &[Value]) -> Vec<Value> {
    let mut unique = BTreeSet::new();
    let all = original.iter().chain(patch);
    let all: Vec<Value> = all
        .filter(|element| unique.insert(ValueKey::from_value(element)))
        .cloned()
        .collect();
    let requested = ElementPositions::new(patch, Identity::Value);
    let (named, server_only) = all
        .into_iter()
        .partition(|element| requested.get(element).is_some());
    let live = ElementPositions::new(original, Identity::Value);
    interleave(sorted(named, &requested), server_only, &live)
}

/// Orders `merged`: elements in `order` get the order of `order`; other elements keep their order, and precede the
/// first element of `order` that followed them in `live`.
pub(crate) fn arrange(
    merged: Vec<Value>,
    order: &ElementPositions<'_>,
    live: &ElementPositions<'_>,
) -> Result<Vec<Value>, PatchError> {
    for element in &merged {
        live.identity.value_in(element)?;
    }
    let (named, server_only) = merged
        .into_iter()
        .partition(|element| order.get(element).is_some());
    let server_only = sorted(server_only, live);
    Ok(interleave(sorted(named, order), server_only, live))
}

fn sorted(mut list: Vec<Value>, order: &ElementPositions<'_>) -> Vec<Value> {
    list.sort_by_cached_key(|element| order.get(element).unwrap_or(usize::MAX));
    list
}

/// Merges two ordered lists without common elements. Elements of both lists that have a position in the live list are
/// compared by this position.
fn interleave(
    named: Vec<Value>,
    server_only: Vec<Value>,
    live: &ElementPositions<'_>,
) -> Vec<Value> {
    let mut all = Vec::with_capacity(named.len() + server_only.len());
    let mut left = server_only.into_iter().peekable();
    for right in named {
        if let Some(limit) = live.get(&right) {
            let precedes =
                |element: &Value| live.get(element).is_some_and(|position| position < limit);
            while let Some(element) = left.next_if(precedes) {
                all.push(element);
            }
        }
        all.push(right);
    }
    all.extend(left);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use json_tree::json;

    #[test]
    fn marks_are_equal_exactly_when_values_are() {
        let values = [
            json!(1),
            json!(1.0),
            json!("1"),
            json!(true),
            json!(null),
            json!({"a": 1, "b": [1, 2]}),
            json!({"b": [1, 2], "a": 1}),
            json!({"a": 1, "b": [12]}),
            json!(["a,", "b"]),
            json!(["a", ",b"]),
        ];
        for one in &values {
            for two in &values {
                assert_eq!(
                    ValueKey::from_value(one) == ValueKey::from_value(two),
                    one == two,
                    "{one} {two}"
                );
            }
        }
    }
}
