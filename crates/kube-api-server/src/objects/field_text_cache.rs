//! Cache of the texts that field selectors read from the newest objects: all watches with a field selector share the
//! cache.
//!
//! Each node watches the pods with its name in `spec.nodeName`, so each event of a pod is evaluated once for each
//! node.

use std::sync::Arc;

use mvcc_store::{KeyValue, Revision};

use crate::objects::recent_values::RecentValues;

/// The field of one version of an object.
struct Field {
    key: Arc<[u8]>,
    revision: Revision,
    path: String,
}

impl Field {
    fn of(item: &KeyValue, path: &str) -> Self {
        Self {
            key: item.key.clone(),
            revision: item.mod_revision,
            path: path.to_owned(),
        }
    }

    fn is_of(&self, item: &KeyValue, path: &str) -> bool {
        self.revision == item.mod_revision && self.path == path && self.key == item.key
    }
}

/// The texts of fields of the newest objects; `None` for an object that has no such field.
#[derive(Default)]
pub(crate) struct FieldTextCache(RecentValues<Field, Option<String>>);

impl FieldTextCache {
    /// The text of a field. The field is read only if it is not cached.
    ///
    /// *Errors.* The errors of `read`; errors are not cached.
    pub(crate) fn text<E>(
        &self,
        item: &KeyValue,
        path: &str,
        read: impl FnOnce() -> Result<Option<String>, E>,
    ) -> Result<Option<String>, E> {
        // Two fields of one object usually have paths of different length, so they use different slots.
        let slot = item.mod_revision.0.wrapping_add(path.len() as u64);
        if let Some(text) = self.0.get(slot, |cached| cached.is_of(item, path)) {
            return Ok(text);
        }
        let text = read()?;
        self.0.put(slot, Field::of(item, path), text.clone());
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
        // The absence of a field is cached, too.
        assert_eq!(text(&first, "status.phase", None), None);
        assert_eq!(text(&first, "status.phase", Some("Running")), None);
        // The cache must distinguish another field of equal length, another object of the transaction, and the next
        // version.
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
