//! Parts of an object that are text during a write, because its rules read few of their fields: the
//! spec of a pod, while its status changes.

use std::borrow::Cow;

use bytes::Bytes;
use json_text::find_member;
use object_model::Status;
use resource_kinds::FieldRead;
use serde_json::Value;

use super::parse;

/// Outermost members of an object, by name, as JSON text. The object's tree has only some fields of
/// them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts(Vec<(&'static str, Bytes)>);

impl Parts {
    /// No parts: the tree is whole.
    pub(crate) const NONE: &Self = &Self(Vec::new());

    /// Those of a stored object of which some fields are read.
    pub(super) fn stored(encoded: &Bytes, reads: &'static [FieldRead]) -> Self {
        let text = |read: &'static FieldRead| {
            let member = find_member(encoded, &[read.name]).ok().flatten()?;
            Some((read.name, encoded.slice(member.value)))
        };
        Self(reads.iter().filter_map(text).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names and texts.
    pub(super) fn texts(&self) -> &[(&'static str, Bytes)] {
        &self.0
    }

    /// The length of the texts.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|(_, text)| text.len()).sum()
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
