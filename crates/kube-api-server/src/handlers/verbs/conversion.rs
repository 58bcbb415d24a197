//! Conversion of the events of a watch by the webhook of their kind.

use mvcc_store::{Event, EventKind, KeyValue};
use object_model::Status;

use crate::catalog::registry::Resource;
use crate::http::limits::{WATCH_CONVERSION_ATTEMPTS, WATCH_CONVERSION_DELAY};
use crate::objects::storage::Objects;

/// The bytes of the objects of events.
pub(super) fn bytes(events: &[Event]) -> usize {
    let objects = events.iter().flat_map(|event| {
        let now = match &event.kind {
            EventKind::Put(item) => Some(item),
            EventKind::Delete => None,
        };
        now.into_iter().chain(&event.previous)
    });
    objects.map(|item| item.value.len()).sum()
}

/// Converts the objects of events to the version of the resource. A selective watch compares the former state of each
/// object, too. A failure is repeated, because the webhook may be restarting.
///
/// *Errors.* 500 if the webhook fails repeatedly.
pub(super) async fn convert(
    objects: &Objects,
    resource: &Resource,
    events: &mut [&mut Event],
    is_selective: bool,
) -> Result<(), Status> {
    let slots = || {
        events
            .iter()
            .flat_map(|event| items_of(event, is_selective))
    };
    let mut attempts = 1;
    let converted = loop {
        let items: Vec<KeyValue> = slots().cloned().collect();
        match objects.in_version(resource, items).await {
            Ok(converted) => break converted,
            Err(status) if attempts >= WATCH_CONVERSION_ATTEMPTS => return Err(status),
            Err(_) => {
                attempts += 1;
                tokio::time::sleep(WATCH_CONVERSION_DELAY).await;
            }
        }
    };
    let mut converted = converted.into_iter();
    for event in events.iter_mut() {
        let count = items_of(event, is_selective).count();
        let results: Vec<KeyValue> = converted.by_ref().take(count).collect();
        replace(event, results, is_selective);
    }
    Ok(())
}

/// The objects of an event that the watch reads, the former state first.
fn items_of(event: &Event, is_selective: bool) -> impl Iterator<Item = &KeyValue> {
    let (now, is_deletion) = match &event.kind {
        EventKind::Put(item) => (Some(item), false),
        EventKind::Delete => (None, true),
    };
    let previous = event.previous.as_ref();
    let previous = previous.filter(|_| is_selective || is_deletion);
    previous.into_iter().chain(now)
}

/// Sets the converted objects of an event, in the order of [`items_of`].
fn replace(event: &mut Event, results: Vec<KeyValue>, is_selective: bool) {
    let is_deletion = matches!(event.kind, EventKind::Delete);
    let mut results = results.into_iter();
    if (is_selective || is_deletion) && event.previous.is_some() {
        event.previous = results.next();
    }
    if let (EventKind::Put(item), Some(converted)) = (&mut event.kind, results.next()) {
        *item = converted;
    }
}
