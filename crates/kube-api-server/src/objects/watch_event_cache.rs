//! The newest watch events in encoded form. All watches with one form of an event share the bytes.

use std::sync::Arc;

use bytes::Bytes;
use mvcc_store::{KeyValue, Revision};
use object_model::Status;

use crate::catalog::registry::Resource;
use crate::http::negotiate::Representation;
use crate::objects::recent_values::RecentValues;

/// Maximum length of a cached event, in bytes.
const EVENT_BYTES_MAX: usize = 64 << 10;

/// An event in one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventForm {
    key: Arc<[u8]>,
    revision: Revision,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    kind: &'static str,
    form: Representation,
    managed_fields: bool,
}

impl EventForm {
    /// The form of an event; `None` if the bytes depend on more than the stored object.
    pub(crate) fn of(
        resource: &Resource,
        item: &KeyValue,
        kind: &'static str,
        form: Representation,
        managed_fields: bool,
    ) -> Option<Self> {
        let plain = matches!(form, Representation::Json | Representation::Partial(_));
        (plain && resource.is_shown_as_stored()).then(|| Self {
            key: item.key.clone(),
            revision: item.mod_revision,
            kind,
            form,
            managed_fields,
        })
    }

    /// The slot. Consecutive events have different slots, and the four forms of an event have different slots.
    fn slot(&self) -> u64 {
        let form =
            u64::from(self.form == Representation::Json) * 2 + u64::from(self.managed_fields);
        self.revision.0.wrapping_mul(4).wrapping_add(form)
    }
}

/// Cache of the encoded forms of the newest events, shared by the watches that send them.
#[derive(Default)]
pub(crate) struct WatchEventCache(RecentValues<EventForm, Bytes>);

impl WatchEventCache {
    /// The bytes of an event. They are encoded if they are not cached.
    pub(crate) fn line(
        &self,
        event: EventForm,
        encode: impl FnOnce() -> Result<Bytes, Status>,
    ) -> Result<Bytes, Status> {
        let slot = event.slot();
        if let Some(line) = self.0.get(slot, |cached| *cached == event) {
            return Ok(line);
        }
        let line = encode()?;
        if line.len() <= EVENT_BYTES_MAX {
            self.0.put(slot, event, line.clone());
        }
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64, kind: &'static str, managed_fields: bool) -> EventForm {
        EventForm {
            key: Arc::from(&b"/pods/default/a"[..]),
            revision: Revision(revision),
            kind,
            form: Representation::Json,
            managed_fields,
        }
    }

    #[test]
    fn an_event_is_encoded_once_in_each_form() {
        let lines = WatchEventCache::default();
        let sent = |event: EventForm, text: &'static str| {
            let line = lines.line(event, || Ok(Bytes::from_static(text.as_bytes())));
            line.unwrap()
        };
        assert_eq!(sent(event(1, "ADDED", true), "a"), "a");
        assert_eq!(sent(event(1, "ADDED", true), "b"), "a");
        assert_eq!(sent(event(1, "ADDED", false), "c"), "c");
        assert_eq!(sent(event(1, "ADDED", false), "d"), "c");
        assert_eq!(sent(event(1, "ADDED", true), "e"), "a");
        // A watch with a selector may report the change as another type of event.
        assert_eq!(sent(event(1, "MODIFIED", true), "f"), "f");
        for revision in 2..200 {
            assert_eq!(sent(event(revision, "ADDED", true), "g"), "g");
        }
        assert_eq!(sent(event(1, "ADDED", true), "h"), "h");
    }

    #[test]
    fn long_events_are_not_kept() {
        let lines = WatchEventCache::default();
        let long = || Ok(Bytes::from(vec![b'x'; EVENT_BYTES_MAX + 1]));
        lines.line(event(1, "ADDED", true), long).unwrap();
        let short = || Ok(Bytes::from_static(b"y"));
        assert_eq!(lines.line(event(1, "ADDED", true), short).unwrap(), "y");
    }
}
