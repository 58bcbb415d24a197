//! The order of merged lists: what the patch names comes in the patch's order, what only the
//! server has keeps its place among the rest as well as it can.

use serde_json::Value;

use crate::PatchError;

/// What makes two list elements the same.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Identity {
    /// The whole value.
    Value,
    /// One field of it.
    Field(&'static str),
}

impl Identity {
    /// The part of the element that identifies it.
    pub fn of(self, element: &Value) -> Result<&Value, PatchError> {
        match self {
            Self::Value => Ok(element),
            Self::Field(key) => match element {
                Value::Object(map) => map
                    .get(key)
                    .ok_or_else(|| PatchError::no_merge_key(element, key)),
                other => Err(PatchError::wrong_type("map", other)),
            },
        }
    }

    fn position(self, list: &[Value], element: &Value) -> Option<usize> {
        let is = self.of(element).ok()?;
        list.iter()
            .position(|other| self.of(other).is_ok_and(|other| other == is))
    }
}

/// Whether the lists hold maps (rather than scalars); all elements must be of one type.
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
    let mut all: Vec<Value> = Vec::new();
    for element in original.iter().chain(patch) {
        if !all.contains(element) {
            all.push(element.clone());
        }
    }
    let (named, server_only) = all.into_iter().partition(|element| patch.contains(element));
    interleave(
        sorted(named, patch, Identity::Value),
        server_only,
        original,
        Identity::Value,
    )
}

/// Orders `merged`: elements that `wanted` names come in its order; the others keep their order
/// and come before the first named element that they preceded in `live`.
pub(crate) fn arrange(
    merged: Vec<Value>,
    wanted: &[Value],
    live: &[Value],
    identity: Identity,
) -> Result<Vec<Value>, PatchError> {
    for element in &merged {
        identity.of(element)?;
    }
    let (named, server_only) = merged
        .into_iter()
        .partition(|element| identity.position(wanted, element).is_some());
    let server_only = sorted(server_only, live, identity);
    Ok(interleave(
        sorted(named, wanted, identity),
        server_only,
        live,
        identity,
    ))
}

fn sorted(mut list: Vec<Value>, order: &[Value], identity: Identity) -> Vec<Value> {
    list.sort_by_key(|element| identity.position(order, element).unwrap_or(usize::MAX));
    list
}

/// Merges two ordered lists without a common element, by their places in the live list where
/// both have one.
fn interleave(
    named: Vec<Value>,
    server_only: Vec<Value>,
    live: &[Value],
    identity: Identity,
) -> Vec<Value> {
    let mut all = Vec::with_capacity(named.len() + server_only.len());
    let mut left = server_only.into_iter().peekable();
    for right in named {
        let limit = identity.position(live, &right);
        while let Some(limit) = limit {
            let precedes = |element: &Value| {
                identity
                    .position(live, element)
                    .is_some_and(|place| place < limit)
            };
            match left.next_if(precedes) {
                Some(element) => all.push(element),
                None => break,
            }
        }
        all.push(right);
    }
    all.extend(left);
    all
}
