//! Collections that are listed and watched, as by client-go's reflector: a watch that ends is continued from the last
//! version, and if that version is too old the collection is listed again.

use std::collections::BTreeSet;

use anyhow::{Context, Result, anyhow, bail};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use json_tree::Value;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::call::Call;

/// The metadata of an object, with the fields that measurements read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub deletion_timestamp: Option<String>,
}

/// An object of a followed collection: a type with the fields that are read. The parser skips other fields.
pub trait Followed: DeserializeOwned + Send {
    fn metadata(&self) -> &Metadata;
}

/// An object of which only the metadata is read.
#[derive(Debug, Deserialize)]
pub struct AnyObject {
    pub metadata: Metadata,
}

impl Followed for AnyObject {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// A change of a collection.
#[derive(Debug, PartialEq, Eq)]
pub enum ObjectChange<T> {
    /// The object is new, or may have changed.
    Put(T),
    /// The object of that name was deleted.
    Deleted(String),
}

/// Follows a collection, starting with its present objects. Returns only with an error.
pub async fn follow<T: Followed>(
    client: &Client,
    path: &str,
    see: impl FnMut(ObjectChange<T>),
) -> Result<()> {
    let mut view = View {
        names: BTreeSet::new(),
        version: String::new(),
        see,
    };
    loop {
        let list: List<T> = Call::get(path.to_owned()).decoded(client).await?;
        view.replace(list);
        while let WatchEnd::Early = watch(client, path, &mut view).await? {}
        crate::output::warn(&format!(
            "a watch of {path} was too slow: it is listed again"
        ));
    }
}

/// The end of a watch.
enum WatchEnd {
    /// The watch can be continued from the last version.
    Early,
    /// The server has no changes since the last version any more.
    Expired,
}

/// One watch, starting at the last version.
async fn watch<T: Followed>(
    client: &Client,
    path: &str,
    view: &mut View<impl FnMut(ObjectChange<T>)>,
) -> Result<WatchEnd> {
    let and = if path.contains('?') { '&' } else { '?' };
    let uri = format!("{path}{and}watch=true&resourceVersion={}", view.version);
    let request = Request::get(uri).body(Body::empty())?;
    let reply = client.send(request).await.context("open a watch")?;
    match reply.status() {
        StatusCode::GONE => return Ok(WatchEnd::Expired),
        status if !status.is_success() => bail!("a watch is answered {status}"),
        _ => {}
    }
    let mut body = reply.into_body();
    let mut lines = Lines::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.context("a watch broke off")?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        lines.push(&data);
        while let Some(line) = lines.next() {
            if let Some(end) = view.apply_line(line)? {
                return Ok(end);
            }
        }
    }
    Ok(WatchEnd::Early)
}

#[derive(Deserialize)]
struct List<T> {
    metadata: Metadata,
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Event<T> {
    #[serde(rename = "type")]
    kind: String,
    object: T,
}

/// The listed names, and the version up to which changes were received.
struct View<S> {
    names: BTreeSet<String>,
    version: String,
    see: S,
}

impl<S> View<S> {
    /// Applies a list: objects that are missing in the list were deleted.
    fn replace<T: Followed>(&mut self, list: List<T>)
    where
        S: FnMut(ObjectChange<T>),
    {
        let names = list.items.iter().map(|item| item.metadata().name.clone());
        let names: BTreeSet<String> = names.collect();
        for deleted in self.names.difference(&names) {
            (self.see)(ObjectChange::Deleted(deleted.clone()));
        }
        self.names = names;
        self.version = list.metadata.resource_version;
        for item in list.items {
            (self.see)(ObjectChange::Put(item));
        }
    }

    /// Applies an event; an error event ends the watch.
    fn apply_line<T: Followed>(&mut self, line: &[u8]) -> Result<Option<WatchEnd>>
    where
        S: FnMut(ObjectChange<T>),
    {
        let Ok(event) = serde_json::from_slice::<Event<T>>(line) else {
            return end(line).map(Some);
        };
        let metadata = event.object.metadata();
        self.version.clone_from(&metadata.resource_version);
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" => {
                if !self.names.contains(&metadata.name) {
                    self.names.insert(metadata.name.clone());
                }
                (self.see)(ObjectChange::Put(event.object));
            }
            "DELETED" => {
                let name = metadata.name.clone();
                self.names.remove(&name);
                (self.see)(ObjectChange::Deleted(name));
            }
            _ => return end(line).map(Some),
        }
        Ok(None)
    }
}

/// The end of a watch after an event that is no change.
fn end(line: &[u8]) -> Result<WatchEnd> {
    let event: Event<Value> = serde_json::from_slice(line).context("a watch event")?;
    match event.kind.as_str() {
        "ERROR" if event.object["code"] == StatusCode::GONE.as_u16() => Ok(WatchEnd::Expired),
        "ERROR" => Err(anyhow!("a watch failed: {}", event.object["message"])),
        kind => Err(anyhow!(
            "a watch event of the type {kind} is not understood"
        )),
    }
}

/// Splits the bytes of a watch into its lines.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// The end offset of the lines that were returned.
    returned: usize,
    /// The end offset of the bytes that were searched for a newline.
    searched: usize,
}

impl Lines {
    fn push(&mut self, data: &[u8]) {
        self.bytes.drain(..self.returned);
        self.searched -= self.returned;
        self.returned = 0;
        self.bytes.extend_from_slice(data);
    }

    /// The next complete line.
    fn next(&mut self) -> Option<&[u8]> {
        let rest = self.bytes.get(self.searched..)?;
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            return None;
        };
        let (start, end) = (self.returned, self.searched + length);
        self.returned = end + 1;
        self.searched = end + 1;
        self.bytes.get(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together() {
        let mut lines = Lines::default();
        lines.push(b"{\"a\"");
        assert_eq!(lines.next(), None);
        lines.push(b":1}\n{}\n{");
        assert_eq!(lines.next(), Some(&b"{\"a\":1}"[..]));
        assert_eq!(lines.next(), Some(&b"{}"[..]));
        assert_eq!(lines.next(), None);
        lines.push(b"}\n");
        assert_eq!(lines.next(), Some(&b"{}"[..]));
        assert_eq!(lines.next(), None);
    }

    fn observed(text: &str) -> (Vec<String>, Result<Option<WatchEnd>>, String) {
        let mut changes = Vec::new();
        let mut view = View {
            names: BTreeSet::from(["a".to_owned(), "b".to_owned()]),
            version: "3".to_owned(),
            see: |change: ObjectChange<AnyObject>| {
                changes.push(match change {
                    ObjectChange::Put(object) => format!("+{}", object.metadata.name),
                    ObjectChange::Deleted(name) => format!("-{name}"),
                });
            },
        };
        let ended = match serde_json::from_str(text) {
            Ok(list) => {
                view.replace::<AnyObject>(list);
                Ok(None)
            }
            Err(_) => view.apply_line::<AnyObject>(text.as_bytes()),
        };
        let version = view.version;
        (changes, ended, version)
    }

    #[test]
    fn a_list_tells_what_has_gone_meanwhile() {
        let list = r#"{"metadata": {"resourceVersion": "9"}, "items": [
            {"metadata": {"name": "b", "resourceVersion": "4"}},
            {"metadata": {"name": "c", "resourceVersion": "8"}}]}"#;
        let (changes, _, version) = observed(list);
        assert_eq!(changes, ["-a", "+b", "+c"]);
        assert_eq!(version, "9");
    }

    #[test]
    fn a_watch_goes_on_from_its_last_event() {
        let event = |kind: &str| {
            let metadata = r#"{"name": "a", "resourceVersion": "7"}"#;
            observed(&format!(
                r#"{{"type": "{kind}", "object": {{"metadata": {metadata}}}}}"#
            ))
        };
        for (kind, expected) in [("ADDED", "+a"), ("MODIFIED", "+a"), ("DELETED", "-a")] {
            let (changes, ended, version) = event(kind);
            assert_eq!(changes, [expected]);
            assert!(matches!(ended, Ok(None)));
            assert_eq!(version, "7");
        }
    }

    /// As client-go: error 410 causes a new list, and any other error is reported.
    #[test]
    fn a_watch_that_is_too_old_is_listed_again() {
        let error = |code: u16| {
            let object = format!(
                r#"{{"kind": "Status", "metadata": {{}}, "status": "Failure", "message": "m", "code": {code}}}"#
            );
            observed(&format!(r#"{{"type": "ERROR", "object": {object}}}"#)).1
        };
        assert!(matches!(error(410), Ok(Some(WatchEnd::Expired))));
        let failed = error(500).err().map(|error| error.to_string());
        assert_eq!(failed.as_deref(), Some(r#"a watch failed: "m""#));
    }
}
