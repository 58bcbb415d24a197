//! Sets of fields as `fieldsV1` writes them: an object per step, `.` for a member that also has
//! members below it.
//!
//! A stored set stays text as long as a write does not change it: its overlap with another set is
//! found in the text.

use std::borrow::Cow;

use json_text::{Cursor, StringSlice, SyntaxError};

use super::path::{self, PathElement};
use super::set::{FieldSet, Node};

impl<'a> FieldSet<'a> {
    /// The set as the JSON text of `fieldsV1`.
    pub fn to_fields_v1(&self) -> String {
        let mut text = String::new();
        self.write_fields_v1(&mut text);
        text
    }

    /// Appends the JSON text of `fieldsV1`.
    pub(crate) fn write_fields_v1(&self, out: &mut String) {
        write_object(out, self, false);
    }

    /// Reads the JSON text of `fieldsV1`. Steps of a kind that is not known are left out.
    ///
    /// # Errors
    /// *Errors.* A message if the text is not a set of fields.
    pub fn from_fields_v1(text: &'a str) -> Result<Self, String> {
        let mut cursor = Cursor::new(text.as_bytes());
        Ok(decode(&mut cursor, DEPTH_MAX)?.0)
    }

    /// Whether any of these fields is in an encoded set. A text that is no set has none.
    pub(crate) fn overlaps(&self, fields: &str) -> bool {
        let mut fields = Cursor::new(fields.as_bytes());
        !self.is_empty() && self.overlaps_at(false, &mut fields).unwrap_or_default()
    }

    /// Whether any of these fields, or else the step to them if it is wanted, is in the set that is
    /// next. Its end is reached if not.
    fn overlaps_at(&self, step: bool, fields: &mut Cursor<'_>) -> Result<bool, SyntaxError> {
        if fields.peek()? != b'{' {
            fields.skip()?;
            return Ok(step);
        }
        let (mut entries, mut is_empty) = (fields.object()?, true);
        while let Some(key) = entries.next_key(fields)? {
            is_empty = false;
            if key.is(MEMBER) {
                if step {
                    return Ok(true);
                }
            } else if let Some(node) = self.node_of(&key) {
                if node.below.overlaps_at(node.member, fields)? {
                    return Ok(true);
                }
                continue;
            }
            fields.skip()?;
        }
        Ok(step && is_empty)
    }

    /// Whether all of these fields are in an encoded set. A text that is no set has none, and one
    /// whose steps are not sorted may be taken for one that lacks some.
    pub(crate) fn is_within(&self, fields: &str) -> bool {
        self.is_within_at(false, &mut Cursor::new(fields.as_bytes()))
            .unwrap_or_default()
    }

    /// Whether all of these fields, and the step to them if it is wanted, are in the set that is
    /// next. Its end is reached if so.
    fn is_within_at(&self, step: bool, fields: &mut Cursor<'_>) -> Result<bool, SyntaxError> {
        if fields.peek()? != b'{' {
            fields.skip()?;
            return Ok(self.is_empty());
        }
        let (mut entries, mut is_empty, mut is_member) = (fields.object()?, true, false);
        let mut wanted = self.nodes();
        while let Some(key) = entries.next_key(fields)? {
            is_empty = false;
            match wanted.split_first() {
                _ if key.is(MEMBER) => is_member = true,
                Some((node, rest)) if leads_to(&key, &node.step) => {
                    if !node.below.is_within_at(node.member, fields)? {
                        return Ok(false);
                    }
                    wanted = rest;
                    continue;
                }
                _ => {}
            }
            fields.skip()?;
        }
        Ok(wanted.is_empty() && (!step || is_member || is_empty))
    }

    /// The node of a key of `fieldsV1`.
    fn node_of(&self, key: &StringSlice<'_>) -> Option<&Node<'a>> {
        if self.is_empty() {
            return None;
        }
        let key = key.decode().ok()?;
        self.node(&path::decode(&key).ok()??)
    }
}

/// The key of a set that says that the step to it is a member.
const MEMBER: &str = ".";

/// Whether a key of `fieldsV1` is this step.
fn leads_to(key: &StringSlice<'_>, step: &PathElement<'_>) -> bool {
    match step {
        // The usual one, which needs no decoding.
        PathElement::Field(name) if !key.is_escaped() => {
            key.raw().strip_prefix(b"f:") == Some(name.as_bytes())
        }
        _ => key
            .decode()
            .is_ok_and(|key| path::decode(&key).is_ok_and(|found| found.as_ref() == Some(step))),
    }
}

/// Writes the set below a step that may be a member itself.
fn write_object(out: &mut String, set: &FieldSet<'_>, member: bool) {
    out.push('{');
    if member && !set.is_empty() {
        out.push_str("\".\":{},");
    }
    for (index, node) in set.nodes().iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        path::push_key(out, &node.step);
        out.push(':');
        write_object(out, &node.below, node.member);
    }
    out.push('}');
}

/// The depth that `serde_json` reads, too.
const DEPTH_MAX: usize = 127;

/// The set below a step, which is next, and whether the step itself is a member.
fn decode<'a>(fields: &mut Cursor<'a>, depth_left: usize) -> Result<(FieldSet<'a>, bool), String> {
    let said = |error: SyntaxError| error.to_string();
    match fields.peek().map_err(said)? {
        b'{' if depth_left > 0 => {}
        b'{' => return Err("nested too deeply".to_owned()),
        b'n' => {
            fields.null().map_err(said)?;
            return Ok((FieldSet::default(), true));
        }
        _ => {
            let other = fields.skip().map_err(said)?;
            let other = String::from_utf8_lossy(other);
            return Err(format!("expected an object, found {other}"));
        }
    }
    let mut entries = fields.object().map_err(said)?;
    let (mut nodes, mut member) = (Vec::new(), false);
    while let Some(key) = entries.next_key(fields).map_err(said)? {
        if key.is(MEMBER) {
            member = true;
            fields.skip().map_err(said)?;
            continue;
        }
        let step = match key.decode().map_err(said)? {
            Cow::Borrowed(key) => path::decode(key)?,
            Cow::Owned(key) => path::decode(&key)?.map(PathElement::into_owned),
        };
        let Some(step) = step else {
            fields.skip().map_err(said)?;
            continue;
        };
        let (below, member) = decode(fields, depth_left - 1)?;
        nodes.push(Node {
            step,
            member,
            below,
        });
    }
    let set = FieldSet::of(nodes);
    member |= set.is_empty();
    Ok((set, member))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    /// A set of few steps, so that two of them have common ones.
    fn fields() -> impl Strategy<Value = String> {
        let key = prop_oneof![
            Just("."),
            Just("f:a"),
            Just("f:\"b\"\n\u{1}"),
            Just("k:{\"name\":\"c\"}"),
            Just("k:{\"name\":\"c\",\"port\":1}"),
            Just("v:\"d\""),
            Just("i:1"),
        ];
        let leaf = Just(json!({}));
        let tree = leaf.prop_recursive(4, 40, 4, move |inner| {
            let entries = prop::collection::btree_map(key.clone(), inner, 0..5);
            entries.prop_map(|entries| {
                let entries = entries.into_iter();
                let mut map: Map<String, Value> = entries
                    .map(|(key, below)| (key.to_owned(), below))
                    .collect();
                if let Some(member) = map.get_mut(MEMBER) {
                    *member = json!({});
                }
                Value::Object(map)
            })
        });
        tree.prop_map(|fields| fields.to_string())
    }

    proptest! {
        #[test]
        fn a_text_is_compared_like_its_set(a in fields(), b in fields()) {
            let a = FieldSet::from_fields_v1(&a).unwrap();
            let b = FieldSet::from_fields_v1(&b).unwrap();
            let text = b.to_fields_v1();
            prop_assert_eq!(a.overlaps(&text), !a.intersection(&b).is_empty());
            prop_assert_eq!(a.is_within(&text), a.is_subset(&b));
            prop_assert!(b.is_within(&text));
            prop_assert_eq!(FieldSet::from_fields_v1(&text), Ok(b.clone()));
            let spaced: Value = serde_json::from_str(&text).unwrap();
            let spaced = serde_json::to_string_pretty(&spaced).unwrap();
            prop_assert_eq!(FieldSet::from_fields_v1(&spaced), Ok(b));
        }
    }

    #[test]
    fn a_text_that_is_no_set_has_no_fields() {
        let set = FieldSet::from_fields_v1(r#"{"f:a":{"f:b":{}}}"#).unwrap();
        let deep = "{\"f:a\":".repeat(1000);
        for text in ["", "[]", "{\"f:a\":1}", "{\"f:a\":{}", "{\"a\":{}}", &deep] {
            assert!(FieldSet::from_fields_v1(text).is_err(), "{text:.10}");
        }
        for text in [
            "",
            "null",
            "[]",
            "{\"f:a\":",
            "{\"f:a\":{\"f:b\"",
            "{\"x\":{}}",
        ] {
            assert!(!set.overlaps(text) && !set.is_within(text), "{text}");
        }
    }
}
