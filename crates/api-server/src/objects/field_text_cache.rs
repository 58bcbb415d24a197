//! The texts that field selectors have read from the newest objects: all watches that select by a field share them.
//!
//! Each node watches the pods with its name in `spec.nodeName`, so each event of a pod is judged once for each node.

use std::sync::{Arc, Mutex, PoisonError};

use mvcc_store::{KeyValue, Revision};

/// The number of texts that are kept.
const TEXTS: usize = 128;

/// The text of a field in a version of an object; `None` if the object has no such field.
struct FieldText {
    key: Arc<[u8]>,
    revision: Revision,
    field: String,
    text: Option<String>,
}

impl FieldText {
    fn is_of(&self, item: &KeyValue, field: &str) -> bool {
        self.revision == item.mod_revision && self.field == field && self.key == item.key
    }
}

/// The texts of fields of the newest objects.
pub(crate) struct FieldTextCache {
    slots: [Mutex<Option<FieldText>>; TEXTS],
}

impl Default for FieldTextCache {
    fn default() -> Self {
        Self {
            slots: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl FieldTextCache {
    /// The text of a field. It is read if no other watch has asked for it lately.
    ///
    /// *Errors.* Those of `read`; they are not kept.
    pub(crate) fn text<E>(
        &self,
        item: &KeyValue,
        field: &str,
        read: impl FnOnce() -> Result<Option<String>, E>,
    ) -> Result<Option<String>, E> {
        // Two fields of one object have mostly different lengths, so different places.
        let place = item.mod_revision.0.wrapping_add(field.len() as u64) % TEXTS as u64;
        let slot = &self.slots[usize::try_from(place).unwrap_or_default()];
        let slot = || slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = slot().as_ref().filter(|known| known.is_of(item, field)) {
            return Ok(known.text.clone());
        }
        let text = read()?;
        *slot() = Some(FieldText {
            key: item.key.clone(),
            revision: item.mod_revision,
            field: field.to_owned(),
            text: text.clone(),
        });
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use mvcc_store::Omittable;

    use super::*;

    fn item(key: &str, revision: u64) -> KeyValue {
        KeyValue {
            key: key.as_bytes().into(),
            value: Bytes::new(),
            create_revision: Revision(1),
            mod_revision: Revision(revision),
            lease: None,
            omittable: Omittable::UNKNOWN,
        }
    }

    #[test]
    fn a_text_is_read_once_for_each_version_of_an_object_and_each_field() {
        let texts = FieldTextCache::default();
        let text = |item: &KeyValue, field: &str, read: Option<&str>| {
            let read = || Ok::<_, Infallible>(read.map(str::to_owned));
            let Ok(text) = texts.text(item, field, read);
            text
        };
        let first = item("/pods/default/a", 7);
        assert_eq!(
            text(&first, "spec.nodeName", Some("n1")).as_deref(),
            Some("n1")
        );
        assert_eq!(text(&first, "spec.nodeName", None).as_deref(), Some("n1"));
        // That an object has no such field is kept, too.
        assert_eq!(text(&first, "status.phase", None), None);
        assert_eq!(text(&first, "status.phase", Some("Running")), None);
        // Another field of the same length, another object of the same transaction, the next version.
        assert_eq!(
            text(&first, "spec.hostName", Some("h")).as_deref(),
            Some("h")
        );
        let other = item("/pods/default/b", 7);
        assert_eq!(
            text(&other, "spec.nodeName", Some("n2")).as_deref(),
            Some("n2")
        );
        assert_eq!(
            text(&item("/pods/default/a", 8), "spec.nodeName", None),
            None
        );
    }

    #[test]
    fn an_error_is_not_kept() {
        let texts = FieldTextCache::default();
        let item = item("/pods/default/a", 7);
        assert_eq!(
            texts.text(&item, "spec.nodeName", || Err("undecodable")),
            Err("undecodable")
        );
        let read = || Ok::<_, &str>(Some("n1".to_owned()));
        assert_eq!(
            texts.text(&item, "spec.nodeName", read),
            Ok(Some("n1".to_owned()))
        );
    }
}
