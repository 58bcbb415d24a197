//! Sets of fields in the format `fieldsV1`: an object per step; the key `.` marks a member with further members below
//! it. A stored set stays text as long as a write does not change it: the overlap with another set is computed from
//! the text.

use std::borrow::Cow;

use json_text::{Cursor, Sequence, StringSlice, SyntaxError};
use thiserror::Error;

use super::path::{self, PathElement};
use super::set::{FieldSet, Node};

/// The reason why a text is not a set of fields.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FieldSetError {
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    #[error("nested too deeply")]
    TooDeep,
    /// The JSON text in place of an object.
    #[error("expected an object, found {0}")]
    NotObject(String),
    /// A key without its kind.
    #[error("missing colon: {0}")]
    NoColon(String),
    #[error("not a number: {0}")]
    NotNumber(String),
    /// The JSON text in a key is malformed.
    #[error("{0}")]
    Key(String),
}

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

    /// Reads the JSON text of `fieldsV1`. Path elements of an unknown kind are skipped.
    ///
    /// # Errors
    /// The text is not a set of fields.
    pub fn from_fields_v1(text: &'a str) -> Result<Self, FieldSetError> {
        let mut cursor = Cursor::new(text.as_bytes());
        Ok(decode(&mut cursor, DEPTH_MAX)?.0)
    }

    /// Whether an encoded set contains any of these fields. A text that is not a set contains no field.
    pub(crate) fn overlaps(&self, fields: &str) -> bool {
        let mut cursor = Cursor::new(fields.as_bytes());
        self.is_named_in(fields) && self.overlaps_at(false, &mut cursor).unwrap_or_default()
    }

    /// Whether the text of a set contains the names on the path to any of these fields. Most managers own no field
    /// that a write changes, and a search for the names takes a tenth of the time for parsing the set.
    fn is_named_in(&self, fields: &str) -> bool {
        self.nodes().iter().any(|node| match &node.step {
            PathElement::Field(name) if has_one_spelling(name) => {
                fields.contains(name.as_ref()) && (node.member || node.below.is_named_in(fields))
            }
            _ => true,
        })
    }

    /// Whether the set at the cursor contains any of these fields; with `step`, also whether it has the step itself as
    /// a member. If the result is false, the cursor is at the end of the set.
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

    /// Whether an encoded set contains all of these fields. A text that is not a set contains no field. For a set whose
    /// steps are not sorted, the result may be false although the set contains the fields.
    pub(crate) fn is_within(&self, fields: &str) -> bool {
        self.is_within_at(false, &mut Cursor::new(fields.as_bytes()))
            .unwrap_or_default()
    }

    /// Whether the set at the cursor contains all of these fields; with `step`, also the step itself as a member. If
    /// the result is true, the cursor is at the end of the set.
    fn is_within_at(&self, step: bool, fields: &mut Cursor<'_>) -> Result<bool, SyntaxError> {
        if fields.peek()? != b'{' {
            fields.skip()?;
            return Ok(self.is_empty());
        }
        let (mut entries, mut is_empty, mut is_member) = (fields.object()?, true, false);
        let mut nodes = self.nodes();
        while let Some(key) = entries.next_key(fields)? {
            is_empty = false;
            match nodes.split_first() {
                _ if key.is(MEMBER) => is_member = true,
                Some((node, rest)) if leads_to(&key, &node.step) => {
                    if !node.below.is_within_at(node.member, fields)? {
                        return Ok(false);
                    }
                    nodes = rest;
                    continue;
                }
                _ => {}
            }
            fields.skip()?;
        }
        Ok(nodes.is_empty() && (!step || is_member || is_empty))
    }

    /// An encoded set with these fields added; most of the text is copied. `None` if the text is not a set in the form
    /// of [`to_fields_v1`](Self::to_fields_v1).
    pub(crate) fn merged_into(&self, fields: &str) -> Option<String> {
        let mut edit = Edit::new(fields);
        edit.add_to_object(self, Step::Start)?;
        Some(edit.out)
    }

    /// An encoded set without these fields; most of the text is copied. `None` if the text is not a set.
    pub(crate) fn removed_from(&self, fields: &str) -> Option<String> {
        let mut edit = Edit::new(fields);
        edit.remove_from_object(self, Step::Start)?;
        Some(edit.out)
    }

    /// The node of this set for a key of `fieldsV1`.
    fn node_of(&self, key: &StringSlice<'_>) -> Option<&Node<'a>> {
        if self.is_empty() {
            return None;
        }
        let key = key.decode().ok()?;
        self.node(&path::decode(&key).ok()??)
    }
}

/// The key in an object of `fieldsV1` that marks the step to the object as a member of the set.
const MEMBER: &str = ".";

/// The step to an object of `fieldsV1`, and the effect of an edit on its membership.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// No step: the object is the whole set.
    Start,
    /// The step stays a member of the set if it was a member.
    Unchanged,
    /// The edit adds the step to the members, or removes it from them.
    Changed,
}

impl Step {
    /// The step to a node of the fields that are added or removed.
    fn to(node: &Node<'_>) -> Self {
        match node.member {
            true => Self::Changed,
            false => Self::Unchanged,
        }
    }
}

/// An edit of an encoded set.
struct Edit<'a> {
    text: &'a str,
    /// The read position. All text before it is already written to `out`.
    fields: Cursor<'a>,
    out: String,
}

impl<'a> Edit<'a> {
    fn new(fields: &'a str) -> Self {
        Self {
            text: fields,
            fields: Cursor::new(fields.as_bytes()),
            out: String::with_capacity(fields.len() + 256),
        }
    }

    /// Enters the object at the cursor. Returns its entries without the key [`MEMBER`], whether there are any entries,
    /// and whether the step to the object is a member.
    fn enter(&mut self) -> Option<(Sequence, bool, bool)> {
        let mut entries = self.fields.object().ok()?;
        let mut more = entries.next(&mut self.fields).ok()?;
        let mut is_member = !more;
        if more && self.fields.take_key(MEMBER) {
            is_member = true;
            self.fields.skip().ok()?;
            more = entries.next(&mut self.fields).ok()?;
        }
        Some((entries, more, is_member))
    }

    /// The step of a key.
    fn step(key: &StringSlice<'a>) -> Option<PathElement<'a>> {
        Some(match key.decode().ok()? {
            Cow::Borrowed(key) => path::decode(key).ok()??,
            Cow::Owned(key) => path::decode(&key).ok()??.into_owned(),
        })
    }

    /// Copies the object at the cursor without these fields. Returns whether the copy has any member.
    fn remove_from_object(&mut self, set: &FieldSet<'_>, step: Step) -> Option<bool> {
        let (mut entries, mut more, was_member) = self.enter()?;
        let is_member = was_member && step == Step::Unchanged;
        self.out.push('{');
        let start = self.out.len();
        if is_member {
            self.out.push_str("\".\":{}");
        }
        let below = self.out.len();
        while more {
            let key_start = self.fields.offset();
            let key = self.fields.key().ok()?;
            let node = match set.is_empty() {
                true => None,
                false => set.node(&Self::step(&key)?),
            };
            if let Some(node) = node {
                let before = self.out.len();
                self.separate(start);
                self.out
                    .push_str(self.text.get(key_start..self.fields.offset())?);
                if !self.remove_from_object(&node.below, Step::to(node))? {
                    self.out.truncate(before);
                }
            } else {
                self.fields.skip().ok()?;
                self.copy_entry(start, key_start)?;
            }
            more = entries.next(&mut self.fields).ok()?;
        }
        let is_empty = self.out.len() == below;
        if is_empty {
            self.out.truncate(start);
        }
        self.out.push('}');
        Some(is_member || !is_empty)
    }

    /// Copies the object at the cursor and adds these fields.
    fn add_to_object(&mut self, set: &FieldSet<'_>, step: Step) -> Option<()> {
        let (mut entries, mut more, was_member) = self.enter()?;
        let mut nodes = set.nodes();
        self.out.push('{');
        let start = self.out.len();
        let is_member = step == Step::Changed || (step == Step::Unchanged && was_member);
        if is_member && (more || !nodes.is_empty()) {
            self.out.push_str("\".\":{}");
        }
        let mut last: Option<PathElement<'a>> = None;
        while more {
            let key_start = self.fields.offset();
            let key = self.fields.key().ok()?;
            if nodes.is_empty() && step == Step::Start {
                // All fields are added, so the rest of the text is copied.
                self.separate(start);
                self.out.push_str(self.text.get(key_start..)?);
                return Some(());
            }
            if nodes.is_empty() {
                self.fields.skip().ok()?;
                self.copy_entry(start, key_start)?;
                more = entries.next(&mut self.fields).ok()?;
                continue;
            }
            let step = Self::step(&key)?;
            // The set is not sorted, or contains a step twice.
            if last.as_ref().is_some_and(|last| *last >= step) {
                return None;
            }
            let before = nodes.iter().take_while(|node| node.step < step).count();
            let (new, rest) = nodes.split_at(before);
            new.iter().for_each(|node| self.add(start, node));
            nodes = rest;
            match rest.split_first() {
                Some((node, rest)) if node.step == step => {
                    self.separate(start);
                    self.out
                        .push_str(self.text.get(key_start..self.fields.offset())?);
                    self.add_to_object(&node.below, Step::to(node))?;
                    nodes = rest;
                }
                _ => {
                    self.fields.skip().ok()?;
                    self.copy_entry(start, key_start)?;
                }
            }
            last = Some(step);
            more = entries.next(&mut self.fields).ok()?;
        }
        nodes.iter().for_each(|node| self.add(start, node));
        self.out.push('}');
        Some(())
    }

    /// Writes a comma if the object already has an entry.
    fn separate(&mut self, start: usize) {
        if self.out.len() > start {
            self.out.push(',');
        }
    }

    /// Copies an entry that begins at the offset `entry` and ends at the cursor.
    fn copy_entry(&mut self, start: usize, entry: usize) -> Option<()> {
        self.separate(start);
        self.out
            .push_str(self.text.get(entry..self.fields.offset())?);
        Some(())
    }

    /// Writes a new entry.
    fn add(&mut self, start: usize, node: &Node<'_>) {
        self.separate(start);
        path::push_key(&mut self.out, &node.step);
        self.out.push(':');
        write_object(&mut self.out, &node.below, node.member);
    }
}

/// Whether all JSON encoders write a name identically, without escapes.
fn has_one_spelling(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    name.bytes().all(is_plain)
}

/// Whether a key of `fieldsV1` encodes this step.
fn leads_to(key: &StringSlice<'_>, step: &PathElement<'_>) -> bool {
    match step {
        // The usual case: the key needs no decoding.
        PathElement::Field(name) if !key.is_escaped() => {
            key.raw().strip_prefix(b"f:") == Some(name.as_bytes())
        }
        _ => {
            let mut written = String::with_capacity(64);
            path::push_key(&mut written, step);
            // Nearly always the text was written by this crate, and needs no decoding.
            let is_step =
                |key: &str| path::decode(key).is_ok_and(|decoded| decoded.as_ref() == Some(step));
            written.get(1..written.len() - 1).map(str::as_bytes) == Some(key.raw())
                || key.decode().is_ok_and(|key| is_step(&key))
        }
    }
}

/// Writes the object of a set. It contains the key [`MEMBER`] if the step to it is a member and the set is not empty.
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

/// The maximum depth, as in `serde_json`.
const DEPTH_MAX: usize = 127;

/// Reads the set at the cursor. Returns the set below a step, and whether the step itself is a member.
fn decode<'a>(
    fields: &mut Cursor<'a>,
    depth_left: usize,
) -> Result<(FieldSet<'a>, bool), FieldSetError> {
    match fields.peek()? {
        b'{' if depth_left > 0 => {}
        b'{' => return Err(FieldSetError::TooDeep),
        b'n' => {
            fields.null()?;
            return Ok((FieldSet::default(), true));
        }
        _ => {
            let other = String::from_utf8_lossy(fields.skip()?);
            return Err(FieldSetError::NotObject(other.into_owned()));
        }
    }
    let mut entries = fields.object()?;
    let (mut nodes, mut member) = (Vec::new(), false);
    while let Some(key) = entries.next_key(fields)? {
        if key.is(MEMBER) {
            member = true;
            fields.skip()?;
            continue;
        }
        let step = match key.decode()? {
            Cow::Borrowed(key) => path::decode(key)?,
            Cow::Owned(key) => path::decode(&key)?.map(PathElement::into_owned),
        };
        let Some(step) = step else {
            fields.skip()?;
            continue;
        };
        let (below, member) = decode(fields, depth_left - 1)?;
        nodes.push(Node {
            step,
            member,
            below,
        });
    }
    let set = FieldSet::from_nodes(nodes);
    member |= set.is_empty();
    Ok((set, member))
}

#[cfg(test)]
mod tests {
    use json_tree::{Map, Value, json};
    use proptest::prelude::*;

    use super::*;

    /// A set of few possible steps, so that two sets have common steps.
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
            prop_assert_eq!(a.merged_into(&text), Some(a.union(&b).to_fields_v1()));
            prop_assert_eq!(a.removed_from(&text), Some(b.difference(&a).to_fields_v1()));
            prop_assert_eq!(b.removed_from(&text), Some("{}".to_owned()));
            prop_assert_eq!(FieldSet::from_fields_v1(&text), Ok(b.clone()));
            let spaced: Value = serde_json::from_str(&text).unwrap();
            let spaced = serde_json::to_string_pretty(&spaced).unwrap();
            prop_assert_eq!(FieldSet::from_fields_v1(&spaced), Ok(b.clone()));
            let (rest, merged) = (a.removed_from(&spaced), a.merged_into(&spaced));
            if let Some(rest) = rest {
                prop_assert_eq!(FieldSet::from_fields_v1(&rest), Ok(b.difference(&a)));
            }
            if let Some(merged) = merged {
                prop_assert_eq!(FieldSet::from_fields_v1(&merged), Ok(a.union(&b)));
            }
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

    #[test]
    fn a_step_is_found_in_any_spelling() {
        let set = FieldSet::from_fields_v1(r#"{"k:{\"a\":1,\"b\":\"x\"}":{}}"#).unwrap();
        for key in [
            r#"k:{\"a\":1,\"b\":\"x\"}"#,
            r#"k:{ \"a\": 1, \"b\": \"\u0078\" }"#,
            r#"k:{\"b\":\"x\",\"a\":1.0}"#,
        ] {
            assert!(set.is_within(&format!(r#"{{"{key}":{{}}}}"#)), "{key}");
        }
        assert!(!set.is_within(r#"{"k:{\"a\":1,\"b\":\"y\"}":{}}"#));
    }

    #[test]
    fn fields_are_not_merged_into_a_text_that_is_not_sorted() {
        let set = FieldSet::from_fields_v1(r#"{"f:c":{},"f:d":{"f:e":{}}}"#).unwrap();
        for text in [
            r#"{"f:b":{},"f:a":{}}"#,
            r#"{"f:a":{},"f:a":{}}"#,
            r#"{"f:a":{},".":{}}"#,
            r#"{"x:a":{}}"#,
            r#"{"f:d":null}"#,
            r#"{"f:d":{}"#,
            "[]",
            "",
        ] {
            assert_eq!(set.merged_into(text), None, "{text}");
        }
        let merged = set.merged_into(r#"{"f:a":{"f:z":{},"f:y":{}},"f:d":{}}"#);
        let expected = r#"{"f:a":{"f:z":{},"f:y":{}},"f:c":{},"f:d":{".":{},"f:e":{}}}"#;
        assert_eq!(merged.as_deref(), Some(expected));
    }
}
