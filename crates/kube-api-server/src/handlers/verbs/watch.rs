//! Watch: a stream of changes of the selected objects (kubectl.md 0.12, 0.13, 1.3).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt};
use http_body::Frame;
use http_body_util::StreamBody;
use json_tree::{Value, json};
use mvcc_store::{
    Event, EventKind, KeyValue, Range, Revision, StoreError, WatchEvents, WatchStream,
};
use object_model::{FieldError, FieldPath, Status};
use rand::RngExt;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::conversion;
use super::list::{parse_version, span};
use super::namespace;
use crate::catalog::registry::Resource;
use crate::handlers::metrics::Metrics;
use crate::handlers::output::{OutputFormat, event, event_of_value};
use crate::handlers::selection::Selection;
use crate::http::body::boxed;
use crate::http::call::Call;
use crate::http::connection::Connection;
use crate::http::limits::{
    BOOKMARK_INTERVAL, UNREAD_ITEM_BYTES, WATCH_BATCH_BYTES, WATCH_TIMEOUT_MAX_SECS,
    WATCH_TIMEOUT_MIN_SECS,
};
use crate::http::negotiate::Representation;
use crate::http::query::Query;
use crate::http::reply::Reply;
use crate::http::work;
use crate::objects::storage;
use crate::objects::storage::Objects;
use crate::objects::watch_event_cache::EventForm;

/// The start position of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beginning {
    /// All existing objects as `ADDED` events; then a bookmark, if requested.
    Everything { marked: bool },
    /// Changes after this revision.
    After(Revision),
    /// Changes after the start of the watch.
    Now,
}

/// Responds to a watch with a stream of events.
pub(crate) async fn respond(
    objects: &Arc<Objects>,
    metrics: &Arc<Metrics>,
    resource: &Arc<Resource>,
    call: &Call,
) -> Result<Reply, Status> {
    let selection = Selection::of(call, resource)?;
    let view = OutputFormat::of_stream(call, resource)?;
    let newest = objects.store.current_revision();
    let beginning = beginning(&call.query, newest)?;
    let requested = call
        .query
        .number("timeoutSeconds")?
        .and_then(|value| u64::try_from(value).ok());
    let seconds = match requested.filter(|value| *value > 0) {
        Some(value) => value.min(WATCH_TIMEOUT_MAX_SECS),
        None => rand::rng().random_range(WATCH_TIMEOUT_MIN_SECS..2 * WATCH_TIMEOUT_MIN_SECS),
    };
    let now = Instant::now();
    let (deadline, bookmark_due) = (now + Duration::from_secs(seconds), now + BOOKMARK_INTERVAL);
    let grace = call.limits.watch_end_grace;
    let connection = call.parts.extensions.get::<Connection>();
    let (start, end) = span(resource, namespace(resource, call), &selection);
    let mut watcher = Watcher {
        objects: objects.clone(),
        metrics: metrics.clone(),
        grace,
        resource: resource.clone(),
        selection,
        view,
        exact: end.is_none().then(|| start.clone()),
        bookmarks: call.query.flag("allowWatchBookmarks"),
        headings: true,
        processed: newest,
        reported: newest,
        ready: VecDeque::new(),
        changes: None,
        closing: connection.map(|connection| connection.close_at(deadline + grace)),
        connection: connection.cloned(),
        deadline,
        alarm: Box::pin(sleep_until(deadline.min(bookmark_due))),
        has_ended: false,
    };
    watcher.begin(start, end, beginning).await?;
    metrics.watches.fetch_add(1, Ordering::Relaxed);
    watcher.connection.iter().for_each(|one| one.watches.add());
    let frames = futures::stream::unfold(watcher, |mut watcher| async move {
        let bytes = watcher.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), watcher))
    });
    Ok(Reply::stream(
        view.form.stream_type(),
        boxed(StreamBody::new(frames)),
    ))
}

fn beginning(query: &Query, newest: Revision) -> Result<Beginning, Status> {
    let version = query.get("resourceVersion").unwrap_or_default();
    let matching = query.get("resourceVersionMatch");
    let initial = query
        .get("sendInitialEvents")
        .map(|_| query.flag("sendInitialEvents"));
    let field = |name: &str| FieldPath::root(name);
    let refused = |error| Status::invalid("meta.k8s.io", "ListOptions", "", &[error]);
    match (initial, matching) {
        (Some(_), None) => {
            let text = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(refused(FieldError::forbidden(
                &field("resourceVersionMatch"),
                text,
            )));
        }
        (Some(_), Some("NotOlderThan")) | (None, None) => {}
        (Some(_), Some(other)) => {
            let error =
                FieldError::not_supported(&field("resourceVersionMatch"), other, &["NotOlderThan"]);
            return Err(refused(error));
        }
        (None, Some(_)) => {
            let text = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is \
                        provided";
            return Err(refused(FieldError::forbidden(
                &field("resourceVersionMatch"),
                text,
            )));
        }
    }
    let at = if version.is_empty() {
        Revision(0)
    } else {
        parse_version(version)?
    };
    match initial {
        Some(true) if at > newest => Err(storage::too_large(at, newest)),
        Some(false) if at.0 == 0 => Ok(Beginning::Now),
        Some(false) => Ok(Beginning::After(at)),
        None if at.0 > 0 => Ok(Beginning::After(at)),
        // Without a version, initial events are the default, as upstream (`SetListOptionsDefaults`).
        Some(true) | None => Ok(Beginning::Everything {
            marked: query.flag("allowWatchBookmarks"),
        }),
    }
}

/// An item that is ready to be sent.
enum Ready {
    /// An object that existed at the start. The bytes are shared with the store until they are sent.
    Added(KeyValue),
    Line(Bytes),
}

impl Ready {
    /// Size in bytes; for an object, the size before it is written as an event.
    fn len(&self) -> usize {
        match self {
            Self::Added(item) => item.value.len(),
            Self::Line(line) => line.len(),
        }
    }
}

/// A running watch. The connection polls the watch, so the watch of a client that does not read holds only its
/// position in the store's history. The store ends the watch when this position is too old.
struct Watcher {
    objects: Arc<Objects>,
    metrics: Arc<Metrics>,
    /// The time that the client has to read the last bytes.
    grace: Duration,
    resource: Arc<Resource>,
    selection: Selection,
    view: OutputFormat,
    /// The watched key, if the watch can match only one key.
    exact: Option<Vec<u8>>,
    bookmarks: bool,
    /// Whether the next table must contain its column definitions.
    headings: bool,
    /// The revision up to which all changes were processed, and the revision that was sent to the client.
    processed: Revision,
    reported: Revision,
    ready: VecDeque<Ready>,
    changes: Option<WatchStream>,
    /// The client's connection; `None` for callers in this process.
    connection: Option<Connection>,
    /// Closes the connection if the watch lasts much longer than its timeout.
    closing: Option<AbortOnDropHandle<()>>,
    deadline: Instant,
    /// Fires at the deadline, and before it at the times for bookmarks. The timer stays registered with the runtime
    /// while events arrive.
    alarm: Pin<Box<Sleep>>,
    has_ended: bool,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if self.changes.is_some() || self.has_ended {
            self.metrics.watches.fetch_sub(1, Ordering::Relaxed);
            self.connection
                .iter()
                .for_each(|one| one.watches.subtract());
        }
    }
}

impl Watcher {
    async fn begin(
        &mut self,
        start: Vec<u8>,
        end: Option<Vec<u8>>,
        beginning: Beginning,
    ) -> Result<(), Status> {
        let after = match beginning {
            Beginning::After(revision) => revision,
            Beginning::Now => self.objects.store.current_revision(),
            Beginning::Everything { marked } => {
                let range = Range {
                    start: start.clone(),
                    end,
                    ..Range::default()
                };
                let read = self.objects.read_range(range).await?;
                self.processed = read.revision;
                work::announce(read.items.len() * UNREAD_ITEM_BYTES)?;
                work::expect(read.items.iter().map(|item| item.value.len()).sum()).await;
                let items = match self.needs_conversion() {
                    true => {
                        let converted = self.objects.in_version(&self.resource, read.items);
                        Box::pin(converted).await?
                    }
                    false => read.items,
                };
                for item in &items {
                    let item = storage::readable(&self.resource, item);
                    if self.selection.matches(&self.resource, &item)? {
                        self.ready.push_back(Ready::Added(item.into_owned()));
                    }
                }
                if marked {
                    self.push_bookmark(true);
                }
                read.revision
            }
        };
        self.processed = after;
        self.reported = after;
        match self
            .objects
            .store
            .watch(start, Revision(after.0.saturating_add(1)))
        {
            Ok(changes) => self.changes = Some(changes),
            // The client gets the error as an event. The error contains the client's version, not the first revision
            // that was requested from the store.
            Err(StoreError::Compacted { oldest, .. }) => self.end_with(&StoreError::Compacted {
                requested: after,
                oldest,
            }),
            Err(error) => self.end_with(&error),
        }
        Ok(())
    }

    /// The next bytes to send; `None` after the last bytes.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.ready.is_empty() {
                return Some(self.batch());
            }
            if self.has_ended {
                self.wait_until_received().await;
                return None;
            }
            let changes = self.changes.as_mut()?;
            let stop = self.connection.as_ref().map(|one| one.stopping.clone());
            let stopped = async move {
                match stop {
                    Some(stop) => stop.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            let change = tokio::select! {
                biased;
                () = stopped => return None,
                change = changes.next() => change,
                () = &mut self.alarm => {
                    let now = Instant::now();
                    self.has_ended = now >= self.deadline;
                    let next = self.deadline.min(now + BOOKMARK_INTERVAL);
                    self.alarm.as_mut().reset(next);
                    self.queue_bookmark();
                    continue;
                }
            };
            if self.needs_conversion() {
                // In a box, because few watches convert, and each watch has the memory of its whole future.
                Box::pin(self.queue_converted(change)).await;
            } else {
                self.queue_change(change);
                self.accept_waiting();
            }
        }
    }

    /// Whether the events contain objects that the webhook of the kind may convert.
    fn needs_conversion(&self) -> bool {
        let reads_metadata = self.view.form.is_metadata_only() && !self.selection.needs_objects();
        !reads_metadata && self.objects.has_conversion(&self.resource)
    }

    /// Converts a change, and the changes that are available already, and adds their events. A slow webhook delays this
    /// watch only, because the store keeps the later changes.
    async fn queue_converted(&mut self, first: Option<Result<WatchEvents, StoreError>>) {
        let mut changes = vec![first];
        let mut bytes = 0;
        while let Some(Some(Ok(WatchEvents::Events(events)))) = changes.last() {
            bytes += conversion::bytes(events);
            let more = self.changes.as_mut().filter(|_| bytes < WATCH_BATCH_BYTES);
            match more.and_then(|more| more.next().now_or_never()) {
                Some(change) => changes.push(change),
                None => break,
            }
        }
        let (objects, resource) = (self.objects.clone(), self.resource.clone());
        let is_selective = !self.selection.is_everything();
        let mut events = self.watched_events(&mut changes);
        let conversion = conversion::convert(&objects, &resource, &mut events, is_selective);
        if let Err(status) = conversion.await {
            self.push_error(&status);
            self.has_ended = true;
            return;
        }
        for change in changes {
            if !self.has_ended {
                self.queue_change(change);
            }
        }
    }

    fn watched_events<'c>(
        &self,
        changes: &'c mut [Option<Result<WatchEvents, StoreError>>],
    ) -> Vec<&'c mut Event> {
        let mut events: Vec<&mut Event> = Vec::new();
        for change in changes {
            if let Some(Ok(WatchEvents::Events(list))) = change {
                events.extend(list.iter_mut());
            }
        }
        events.retain(|event| match &self.exact {
            Some(key) => event.key.as_ref() == key.as_slice(),
            None => true,
        });
        events
    }

    /// Receives the changes that are available already, up to the size of a batch, so that a burst of changes is sent
    /// in one write.
    fn accept_waiting(&mut self) {
        let mut bytes = 0;
        let mut counted = 0;
        while !self.has_ended {
            let added = self.ready.iter().skip(counted);
            bytes += added.map(Ready::len).sum::<usize>();
            counted = self.ready.len();
            let changes = self.changes.as_mut().filter(|_| bytes < WATCH_BATCH_BYTES);
            match changes.and_then(|changes| changes.next().now_or_never()) {
                Some(change) => self.queue_change(change),
                None => return,
            }
        }
    }

    /// Waits, up to a limit, until the client has received all data, because a connection with unread data does not
    /// close by itself.
    async fn wait_until_received(&mut self) {
        if let Some(connection) = self.connection.clone() {
            let latest = Instant::now() + self.grace;
            self.closing = Some(connection.close_at(latest));
            connection.flushed().await;
        }
    }

    /// As many items as fit into one write.
    fn batch(&mut self) -> Bytes {
        let mut batch = BytesMut::new();
        while let Some(ready) = self.ready.pop_front() {
            let line = match ready {
                Ready::Line(line) => line,
                Ready::Added(item) => match self.line("ADDED", &item) {
                    Ok(line) => line,
                    Err(status) => {
                        self.ready.clear();
                        self.has_ended = true;
                        event_of_value(self.view.form, "ERROR", &status.to_json())
                    }
                },
            };
            if batch.is_empty() && (self.ready.is_empty() || line.len() >= WATCH_BATCH_BYTES) {
                return line;
            }
            batch.extend_from_slice(&line);
            if batch.len() >= WATCH_BATCH_BYTES {
                break;
            }
        }
        batch.freeze()
    }

    /// Sends a bookmark if the client has requested bookmarks and the newest revision was not sent yet.
    fn queue_bookmark(&mut self) {
        if self.bookmarks && self.reported < self.processed {
            self.push_bookmark(false);
        }
    }

    fn queue_change(&mut self, change: Option<Result<WatchEvents, StoreError>>) {
        match change {
            None => self.has_ended = true,
            Some(Err(error)) => self.end_with(&error),
            Some(Ok(WatchEvents::Progress(revision))) => {
                self.processed = self.processed.max(revision)
            }
            Some(Ok(WatchEvents::Events(events))) => {
                for event in &events {
                    self.processed = self.processed.max(event.revision);
                    if let Err(status) = self.show(event) {
                        self.push_error(&status);
                        self.has_ended = true;
                        return;
                    }
                }
            }
        }
    }

    /// Adds the event for a change. An object that starts to match is `ADDED`, an object that stops matching is
    /// `DELETED`.
    fn show(&mut self, event: &Event) -> Result<(), Status> {
        if self
            .exact
            .as_ref()
            .is_some_and(|key| event.key.as_ref() != key.as_slice())
        {
            return Ok(());
        }
        let texts = &self.objects.field_text_cache;
        let matches = |item: Option<&KeyValue>| match item {
            Some(item) => self.selection.matches_in_event(&self.resource, item, texts),
            None => Ok(false),
        };
        let readable = |item| storage::readable(&self.resource, item);
        let now = match &event.kind {
            EventKind::Put(item) => Some(readable(item)),
            EventKind::Delete => None,
        };
        let previous = event.previous.as_ref().map(readable);
        let (was, is) = (matches(previous.as_deref())?, matches(now.as_deref())?);
        match (was, is, now.as_deref(), previous.as_deref()) {
            (true, true, Some(item), _) => self.push("MODIFIED", item),
            (false, true, Some(item), _) => self.push("ADDED", item),
            (true, false, _, Some(previous)) => {
                // The last state of the object, with the revision of the deletion.
                let last = storage::at_revision(previous, event.revision);
                self.push("DELETED", &last)
            }
            _ => Ok(()),
        }
    }

    fn push(&mut self, kind: &'static str, item: &KeyValue) -> Result<(), Status> {
        let (form, managed_fields) = (self.view.form, self.view.managed_fields);
        let line = match EventForm::of(&self.resource, item, kind, form, managed_fields) {
            Some(event) => {
                let objects = self.objects.clone();
                objects
                    .watch_event_cache
                    .line(event, || self.line(kind, item))?
            }
            None => self.line(kind, item)?,
        };
        self.reported = self.reported.max(item.mod_revision);
        self.ready.push_back(Ready::Line(line));
        Ok(())
    }

    fn line(&mut self, kind: &str, item: &KeyValue) -> Result<Bytes, Status> {
        let encode = || self.view.one(&self.resource, item, self.headings);
        let object = work::at_once(item.value.len(), encode)?;
        self.headings = false;
        Ok(event(self.view.form, kind, &object))
    }

    fn push_value(&mut self, kind: &str, object: &Value) {
        let event = event_of_value(self.view.form, kind, object);
        self.ready.push_back(Ready::Line(event));
    }

    fn push_bookmark(&mut self, initial: bool) {
        let info = self.resource.info();
        let mut metadata = json!({
            "resourceVersion": self.processed.0.to_string(),
            "creationTimestamp": Value::Null,
        });
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.view.form {
            Representation::Table(version) | Representation::TableYaml(version) => json!({
                "kind": "Table",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": {"resourceVersion": self.processed.0.to_string()},
                "columnDefinitions": [],
                "rows": [{"cells": [], "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": metadata,
                }}],
            }),
            Representation::Partial(version)
            | Representation::PartialProtobuf(version)
            | Representation::PartialYaml(version) => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
            }),
            Representation::Json | Representation::Yaml | Representation::Protobuf => json!({
                "kind": info.kind, "apiVersion": info.api_version(), "metadata": metadata,
            }),
        };
        self.reported = self.processed;
        self.push_value("BOOKMARK", &object);
    }

    fn end_with(&mut self, error: &StoreError) {
        self.has_ended = true;
        if !matches!(error, StoreError::Closed) {
            self.push_error(&storage::refusal(error));
        }
    }

    fn push_error(&mut self, status: &Status) {
        self.push_value("ERROR", &status.to_json());
    }
}
