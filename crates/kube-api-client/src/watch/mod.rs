//! List and watch: all objects first, then every change, without an end.
//!
//! [`Next::after`] decides on the next request; [`Watcher`] sends it. Neither of them knows the kind: objects are JSON,
//! without `managedFields` if the server can omit them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use json_text::{Cursor, find, find_string};
use process_telemetry::backoff;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::client::{Client, decode};
use crate::error::Status;
use crate::lines::ResponseLines;
use crate::list::{Page, malformed, syntax};
use crate::params::ListParams;
use crate::request::{self, CACHED, CACHED_METADATA, CACHED_METADATA_LIST, uri};

/// The longest duration of a watch, after which the server ends it. A part of the duration is random, so that watches
/// that many clients started together do not end together.
const WATCH_SECONDS: u64 = 290;
/// The longest silence of a watch. The server ends the watch before, unless the connection is broken.
const SILENCE_MAX: Duration = Duration::from_secs(WATCH_SECONDS + 5);

/// The selection of the watched objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    selection: ListParams,
}

impl Config {
    /// Selects only objects with these fields.
    pub fn fields(self, selector: &str) -> Self {
        Self {
            selection: self.selection.fields(selector),
        }
    }

    /// Selects only objects with these labels.
    pub fn labels(self, selector: &str) -> Self {
        Self {
            selection: self.selection.labels(selector),
        }
    }

    /// Sets the number of objects per page of a list.
    pub fn page_size(self, objects: u32) -> Self {
        Self {
            selection: self.selection.limit(objects),
        }
    }
}

/// One step of a list and watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<K> {
    /// A list begins. Objects that are not in the list have been deleted.
    Init,
    /// An object of the list.
    InitApply(K),
    /// The list is complete.
    InitDone,
    /// An object was created or changed.
    Apply(K),
    /// An object was deleted; its last state.
    Delete(K),
}

impl<K> Event<K> {
    /// Converts the objects of the event.
    pub fn try_map<T, E>(self, map: impl FnOnce(K) -> Result<T, E>) -> Result<Event<T>, E> {
        Ok(match self {
            Self::Init => Event::Init,
            Self::InitApply(object) => Event::InitApply(map(object)?),
            Self::InitDone => Event::InitDone,
            Self::Apply(object) => Event::Apply(map(object)?),
            Self::Delete(object) => Event::Delete(map(object)?),
        })
    }
}

/// A failed list or watch. The watcher continues afterwards.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The objects cannot be listed.
    #[error("list the objects: {0}")]
    List(#[source] crate::Error),
    /// The watch could not be started.
    #[error("begin the watch: {0}")]
    Start(#[source] crate::Error),
    /// The server ended the watch with a refusal.
    #[error("the API server ends the watch: {0}")]
    Refused(Box<Status>),
    /// The watch was cut off, or contains an object that cannot be decoded.
    #[error("read the watch: {0}")]
    Read(#[source] crate::Error),
    /// The response has no resourceVersion.
    #[error("the API server names no resourceVersion to watch from")]
    NoVersion,
}

/// The next request of a watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    /// List from the first page.
    List,
    /// List the page with this token.
    Page(String),
    /// Start a watch from this version.
    Watch(String),
    /// Read from the watch, which has reached this version.
    Read(String),
}

/// The result of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// A page, with the version of the list and the token of the next page. Both may be empty.
    Page { version: String, next: String },
    /// The list failed.
    NotListed,
    /// The watch has started.
    Started,
    /// The watch was not started; the code of the refusal, if there is one.
    NotStarted(Option<u16>),
    /// An object or a bookmark with this version.
    Reached(String),
    /// The watch has ended; the code of the refusal, if there is one.
    Over(Option<u16>),
}

/// The code of a refusal if the version has been compacted.
const EXPIRED: u16 = 410;

impl Next {
    /// Decides on the request after an outcome.
    fn after(self, outcome: Outcome) -> Self {
        match (self, outcome) {
            (Self::List | Self::Page(_), Outcome::Page { next, .. }) if !next.is_empty() => {
                Self::Page(next)
            }
            (Self::List | Self::Page(_), Outcome::Page { version, .. }) if !version.is_empty() => {
                Self::Watch(version)
            }
            (Self::Watch(version), Outcome::Started) => Self::Read(version),
            (Self::Watch(version), Outcome::NotStarted(code)) if code != Some(EXPIRED) => {
                Self::Watch(version)
            }
            (Self::Read(_), Outcome::Reached(version)) if !version.is_empty() => {
                Self::Read(version)
            }
            (Self::Read(version), Outcome::Over(code)) if code != Some(EXPIRED) => {
                Self::Watch(version)
            }
            _ => Self::List,
        }
    }
}

/// The list and watch of the objects at a path. Objects are the JSON texts from the server.
pub struct Watcher {
    client: Client,
    path: Arc<str>,
    metadata_only: bool,
    selection: ListParams,
    next: Next,
    /// Events of a page that the caller has not received yet.
    ready: VecDeque<Event<Bytes>>,
    /// The current watch.
    stream: Option<ResponseLines>,
    /// The timer for the silence of the watch. Each part of the response resets it, which is cheaper than a new timer.
    silence: Option<Pin<Box<Sleep>>>,
}

impl Watcher {
    pub(crate) fn new(client: Client, path: Arc<str>, metadata_only: bool, config: Config) -> Self {
        Self {
            client,
            path,
            metadata_only,
            selection: config.selection,
            next: Next::List,
            ready: VecDeque::new(),
            stream: None,
            silence: None,
        }
    }

    /// The path of the objects.
    pub fn resource_url(&self) -> &str {
        &self.path
    }

    /// The next event. After an error, the caller should wait before the next call.
    ///
    /// If the future is dropped, no event is lost.
    pub async fn next(&mut self) -> Result<Event<Bytes>, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            match &self.next {
                Next::List => self.list(None).await?,
                Next::Page(token) => self.list(Some(&token.clone())).await?,
                Next::Watch(version) => self.watch(&version.clone()).await?,
                Next::Read(_) => {
                    if let Some(event) = self.read().await? {
                        return Ok(event);
                    }
                }
            }
        }
    }

    /// Reports that the object of the last event cannot be decoded. A list starts again; a watch continues after the
    /// object.
    pub fn undecodable(&mut self, error: serde_json::Error) -> Error {
        let error = crate::Error::Json(error);
        if matches!(self.next, Next::Read(_)) {
            return Error::Read(error);
        }
        self.ready.clear();
        self.next = Next::List;
        Error::List(error)
    }

    fn follow(&mut self, outcome: Outcome) {
        let before = std::mem::replace(&mut self.next, Next::List);
        self.next = before.after(outcome);
        if !matches!(self.next, Next::Read(_)) {
            self.stream = None;
        }
    }

    async fn list(&mut self, token: Option<&str>) -> Result<(), Error> {
        let sent = self.page(token).map(|request| self.client.bytes(request));
        let page = async { Page::read(&sent?.await?) };
        let page = match page.await {
            Ok(page) => page,
            Err(error) => {
                self.follow(Outcome::NotListed);
                return Err(Error::List(error));
            }
        };
        if token.is_none() {
            self.ready.push_back(Event::Init);
        }
        self.ready
            .extend(page.items.into_iter().map(Event::InitApply));
        self.follow(Outcome::Page {
            version: page.metadata.resource_version.unwrap_or_default(),
            next: page.metadata.continue_.unwrap_or_default(),
        });
        match self.next {
            Next::Watch(_) => self.ready.push_back(Event::InitDone),
            Next::Page(_) => {}
            _ => {
                self.ready.clear();
                return Err(Error::NoVersion);
            }
        }
        Ok(())
    }

    /// The request for a page.
    fn page(&self, token: Option<&str>) -> crate::Result<Request<Bytes>> {
        let mut params = self.selection.clone();
        params.continue_token = token.map(str::to_owned);
        let uri = uri(&self.path, |query| params.add(query));
        let accept = match self.metadata_only {
            true => CACHED_METADATA_LIST,
            false => CACHED,
        };
        request::get_as(uri, Some(accept))
    }

    async fn watch(&mut self, version: &str) -> Result<(), Error> {
        let sent = self
            .start(version)
            .map(|request| self.client.lines(request));
        let started = async { sent?.await };
        match started.await {
            Ok(lines) => {
                self.follow(Outcome::Started);
                self.stream = Some(lines);
                Ok(())
            }
            Err(error) => {
                self.follow(Outcome::NotStarted(error.code()));
                Err(Error::Start(error))
            }
        }
    }

    /// The request for a watch.
    fn start(&self, version: &str) -> crate::Result<Request<Bytes>> {
        let uri = uri(&self.path, |query| {
            query.append_pair("watch", "true");
            let seconds = backoff::jittered(Duration::from_secs(WATCH_SECONDS)).as_secs();
            query.append_pair("timeoutSeconds", &seconds.to_string());
            self.selection.add_selectors(query);
            query.append_pair("allowWatchBookmarks", "true");
            query.append_pair("resourceVersion", version);
        });
        let accept = match self.metadata_only {
            true => CACHED_METADATA,
            false => CACHED,
        };
        request::get_as(uri, Some(accept))
    }

    /// Reads from the watch. Returns `None` if there is no event for the caller.
    async fn read(&mut self) -> Result<Option<Event<Bytes>>, Error> {
        let arrived = self.stream.as_mut().and_then(ResponseLines::take_line);
        let line = match &mut self.stream {
            Some(_) if arrived.is_some() => Ok(arrived),
            Some(stream) => {
                let end = Instant::now() + SILENCE_MAX;
                let new = || Box::pin(sleep_until(end));
                let silence = self.silence.get_or_insert_with(new);
                silence.as_mut().reset(end);
                tokio::select! {
                    biased;
                    line = stream.next() => line,
                    () = silence => Ok(None),
                }
            }
            None => Ok(None),
        };
        // A silent watch is resumed in the same way as a watch that has ended.
        let is_over = self.stream.as_ref().is_none_or(ResponseLines::is_over);
        let message = match line {
            Ok(Some(line)) if line.is_empty() => return Ok(None),
            Ok(Some(line)) => Message::read(&line, !is_over),
            Ok(None) => {
                self.follow(Outcome::Over(None));
                return Ok(None);
            }
            Err(error) => Err(error),
        };
        match message {
            Ok(Message::Event(version, event)) => {
                self.follow(Outcome::Reached(version));
                match self.next {
                    Next::Read(_) => Ok(event),
                    _ => Err(Error::NoVersion),
                }
            }
            Ok(Message::Refusal(status)) => {
                self.follow(Outcome::Over(Some(status.code)));
                Err(Error::Refused(Box::new(status)))
            }
            Err(error) => {
                self.follow(Outcome::Over(None));
                Err(Error::Read(error))
            }
        }
    }
}

/// A message of a watch.
enum Message {
    /// A version, with the change of an object or, for a bookmark, without a change.
    Event(String, Option<Event<Bytes>>),
    /// The server refuses to continue.
    Refusal(Status),
}

impl Message {
    /// Reads a line. `whole` states whether the end of the line has arrived.
    fn read(line: &Bytes, whole: bool) -> crate::Result<Self> {
        let kind = find_string(line, &["type"]).map_err(syntax)?;
        let object = match object_at_end(line).filter(|_| whole) {
            Some(object) => Some(object),
            None => find(line, &["object"]).map_err(syntax)?,
        };
        let message = kind.zip(object);
        let (kind, object) = message.ok_or_else(|| malformed("a message of a watch"))?;
        let object = line.slice_ref(object);
        let version = find_string(&object, &["metadata", "resourceVersion"]);
        let version = version.map_err(syntax)?.unwrap_or_default().into_owned();
        Ok(match kind.as_ref() {
            "ADDED" | "MODIFIED" => Self::Event(version, Some(Event::Apply(object))),
            "DELETED" => Self::Event(version, Some(Event::Delete(object))),
            "BOOKMARK" => Self::Event(version, None),
            "ERROR" => Self::Refusal(decode(&object)?),
            _ => return Err(malformed("a known type of watch event")),
        })
    }
}

/// The object of a message that has the member `object` last, as API servers write it. The object ends with the
/// message, so there is no need to search for its end.
fn object_at_end(line: &[u8]) -> Option<&[u8]> {
    let mut cursor = Cursor::new(line);
    cursor.object().ok()?;
    (cursor.take_key("type") && cursor.string().is_ok()).then_some(())?;
    let rest = line[cursor.offset()..].strip_prefix(b",\"object\":")?;
    rest.trim_ascii_end().strip_suffix(b"}")
}

#[cfg(test)]
mod tests;
