//! Parts of an object that stay text during a write, because the write reads few of their fields: for example the
//! spec of a pod during a write of its status.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use json_text::find_member;
use json_tree::Value;
use object_model::Status;

use super::parse;
use super::scan::undecodable;

/// Top-level members of an object, by name, as JSON text. The object's tree contains only some of their fields.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts(Vec<(&'static str, Bytes)>);

impl Parts {
    /// No parts; the tree is complete.
    pub(crate) const NONE: &Self = &Self(Vec::new());

    /// The members of a stored object in these byte ranges.
    pub(super) fn stored(encoded: &Bytes, ranges: Vec<(&'static str, Range<usize>)>) -> Self {
        let parts = ranges.into_iter();
        Self(
            parts
                .map(|(name, range)| (name, encoded.slice(range)))
                .collect(),
        )
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name and the JSON text of each part.
    pub(super) fn texts(&self) -> &[(&'static str, Bytes)] {
        &self.0
    }

    /// The total length of the texts.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|(_, text)| text.len()).sum()
    }

    /// The parts after the fields that were added or changed in the tree of their object. Fields that were removed
    /// from the tree stay.
    ///
    /// *Errors.* 500 if a text is not JSON.
    pub(crate) fn changed(self, old: &Value, new: &Value) -> Result<Self, Status> {
        let change = |(name, mut text): (&'static str, Bytes)| {
            let fields = new[name].as_object().into_iter().flatten();
            for (field, value) in
                fields.filter(|(field, value)| old[name].get(field) != Some(value))
            {
                text = with_field(&text, field, value)?;
            }
            Ok((name, text))
        };
        self.0
            .into_iter()
            .map(change)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Completes the parts in the tree of their object.
    ///
    /// *Errors.* 500 if a text is not JSON.
    pub(crate) fn restore(&self, object: &mut Value) -> Result<(), Status> {
        for (name, text) in &self.0 {
            let part = parse(text)?;
            if let Some(map) = object.as_object_mut() {
                map.insert((*name).to_owned(), part);
            }
        }
        Ok(())
    }

    /// The object with its complete parts.
    ///
    /// *Errors.* As of [`restore`](Self::restore).
    pub(crate) fn whole<'o>(&self, object: &'o Value) -> Result<Cow<'o, Value>, Status> {
        if self.is_empty() {
            return Ok(Cow::Borrowed(object));
        }
        let mut whole = object.clone();
        self.restore(&mut whole)?;
        Ok(Cow::Owned(whole))
    }
}

/// The text of a map after a field is set.
fn with_field(map: &Bytes, name: &str, value: &Value) -> Result<Bytes, Status> {
    let value = value.to_string();
    let mut out = BytesMut::with_capacity(map.len() + name.len() + value.len() + 4);
    if let Some(member) = find_member(map, &[name]).map_err(undecodable)? {
        out.extend_from_slice(&map[..member.value.start]);
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(&map[member.value.end..]);
        return Ok(out.freeze());
    }
    // A part that is `null` has no fields.
    let rest = map.strip_prefix(b"{").unwrap_or(b"}").trim_ascii_start();
    out.extend_from_slice(b"{");
    out.extend_from_slice(Value::from(name).to_string().as_bytes());
    out.extend_from_slice(b":");
    out.extend_from_slice(value.as_bytes());
    if !rest.starts_with(b"}") {
        out.extend_from_slice(b",");
    }
    out.extend_from_slice(rest);
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use json_text::{FieldRead, partial_tree};
    use json_tree::json;

    use super::*;

    const READS: &[FieldRead] = &[FieldRead {
        name: "spec",
        below: &[FieldRead {
            name: "a",
            below: &[],
        }],
    }];

    #[test]
    fn changed_fields_are_written_into_the_text() {
        let new = json!({"spec": {"a": "\"1\""}});
        for (spec, old) in [
            ("{}", json!({})),
            ("{ }", json!({})),
            ("null", json!(null)),
            (r#"{"b":{"a":2},"c":[1]}"#, json!({})),
            (
                r#"{"b":{"a":2},"a": {"x":1} ,"c":3}"#,
                json!({"a": {"x": 1}}),
            ),
            (r#"{"a":"\"1\"","b":2}"#, json!({"a": "\"1\""})),
        ] {
            let stored: Bytes =
                format!(r#"{{"metadata":{{}},"spec":{spec},"status":{{}}}}"#).into();
            let text = std::str::from_utf8(&stored).unwrap();
            let parts = Parts::stored(
                &stored,
                partial_tree(text, READS, &[], None).unwrap().part_ranges,
            );
            let changed = parts.changed(&json!({"spec": old}), &new).unwrap();
            let mut object: Value = serde_json::from_slice(&stored).unwrap();
            object["spec"]["a"] = json!("\"1\"");
            let mut restored = json!({});
            changed.restore(&mut restored).unwrap();
            assert_eq!(restored["spec"], object["spec"], "{spec}");
        }
    }
}
