//! Watches of all ConfigMaps that continue at other servers, and the check of their events.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use end_to_end::text;
use http::Method;
use kube::core::WatchEvent;
use serde_json::Value;

use super::changes::{Changes, Pairs, Truth, WatchEntry};
use super::history::Random;
use super::{Clients, PATH, PATIENCE, version};

const PAUSE: Duration = Duration::from_millis(50);

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Added,
    Modified,
    Deleted,
}

/// Follows all ConfigMaps, and continues at another server from time to time.
pub struct Watcher<'a> {
    clients: &'a Clients,
    random: Random,
    at: Option<u64>,
    /// All received events, in order.
    pub observed: Vec<WatchEntry>,
    /// The types of the events by resource version.
    pub types: Vec<(u64, Type)>,
    /// The number of started watches.
    pub moves: usize,
}

impl<'a> Watcher<'a> {
    pub fn new(clients: &'a Clients, random: Random) -> Self {
        Self {
            clients,
            random,
            at: None,
            observed: Vec::new(),
            types: Vec::new(),
            moves: 0,
        }
    }

    /// Follows until the resource version at which watchers stop.
    pub fn follow(mut self) -> Self {
        let clients = self.clients;
        clients.network.run(move || {
            let mut expired = 0;
            while self.at.is_none_or(|at| !self.has_reached_end(at)) {
                let index = self.random.place(clients.servers.len());
                match self.follow_at(index) {
                    Ok(()) => expired = 0,
                    // A server that was started later does not have the events; other servers may have them.
                    Err(Some(410)) if expired < 2 * clients.servers.len() => expired += 1,
                    Err(Some(410)) => self.at = None,
                    Err(_) => std::thread::sleep(PAUSE),
                }
            }
            self
        })
    }

    fn has_reached_end(&self, at: u64) -> bool {
        at >= self.clients.end_revision.load(Ordering::SeqCst)
    }

    /// Watches at a server for a while, after a list if there is no resource version.
    ///
    /// *Errors.* The code of a refusal; `None` without a response.
    fn follow_at(&mut self, index: usize) -> Result<(), Option<u16>> {
        let server = &self.clients.servers[index];
        let Some(at) = self.at else {
            let result = server.request_within(PATIENCE, (Method::GET, PATH), None);
            let list = result.ok_or(None)?.map_err(|error| code(&error))?;
            let (revision, pairs) = listed(&list);
            self.observe(revision, WatchEntry::Listed(revision, pairs));
            return Ok(());
        };
        self.moves += 1;
        let time = Duration::from_millis(300 + self.random.below(3000));
        let path = format!("{PATH}?watch=true&allowWatchBookmarks=true&resourceVersion={at}");
        let mut refused = None;
        let followed = server.follow(&path, time, |event| {
            match event {
                WatchEvent::Added(object) => self.observe_change(Type::Added, &object),
                WatchEvent::Modified(object) => self.observe_change(Type::Modified, &object),
                WatchEvent::Deleted(object) => self.observe_change(Type::Deleted, &object),
                WatchEvent::Bookmark(bookmark) => {
                    let revision = bookmark.metadata.resource_version.parse();
                    let revision = revision.expect("a resource version");
                    self.observe(revision, WatchEntry::Progress(revision));
                }
                WatchEvent::Error(status) => refused = Some(status.code),
            }
            refused.is_none() && self.at.is_none_or(|at| !self.has_reached_end(at))
        });
        match (followed, refused) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(code)) => Err(Some(code)),
            (Err(error), _) => Err(code(&error)),
        }
    }

    fn observe_change(&mut self, kind: Type, object: &Value) {
        let (name, revision) = (text(object, "/metadata/name"), version(object));
        let value = (kind != Type::Deleted).then(|| value(object));
        let changes = Changes::from([(name.to_owned(), value)]);
        self.types.push((revision, kind));
        self.observe(revision, WatchEntry::Changed(revision, changes));
    }

    fn observe(&mut self, revision: u64, event: WatchEntry) {
        self.observed.push(event);
        self.at = Some(revision);
    }
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The resource version of a list, and its objects.
pub fn listed(list: &Value) -> (u64, Pairs) {
    let items = list["items"].as_array().expect("items").iter();
    let pairs = items.map(|item| (text(item, "/metadata/name").to_owned(), value(item)));
    (version(list), pairs.collect())
}

/// The content of an object with its resource version.
fn value(object: &Value) -> String {
    let value = object["data"]["value"].as_str().unwrap_or_default();
    format!("{value}@{}", version(object))
}

/// The newest resource version of a change that was acknowledged or received.
pub fn newest(watchers: &[Watcher<'_>], acknowledged: &[(u64, String, String)]) -> u64 {
    let acknowledged = acknowledged.iter().map(|(revision, ..)| *revision);
    let revisions = watchers.iter().flat_map(|watcher| &watcher.types);
    let revisions = revisions.map(|(revision, _)| *revision);
    acknowledged.chain(revisions).max().unwrap_or_default()
}

/// Checks that each watcher has received each change of etcd's history once, in order, and that the history has the
/// acknowledged writes.
///
/// # Panics
///
/// The history or a watcher violates this.
pub fn check(
    (begin, mut state): (u64, Pairs),
    watchers: &[Watcher<'_>],
    acknowledged: &[(u64, String, String)],
    history: &BTreeMap<u64, Changes>,
    end_revision: u64,
) {
    for (revision, name, value) in acknowledged {
        let change = Changes::from([(name.clone(), Some(value.clone()))]);
        let stored = history.get(revision);
        assert_eq!(stored, Some(&change), "at resource version {revision}");
    }
    let mut truth = Truth(BTreeMap::from([(begin, state.clone())]));
    let mut types = BTreeMap::new();
    for (revision, change) in history {
        for (name, value) in change {
            let before = match value {
                Some(value) => state.insert(name.clone(), value.clone()),
                None => state.remove(name),
            };
            let kind = match (before, value) {
                (None, Some(_)) => Type::Added,
                (Some(_), Some(_)) => Type::Modified,
                (_, None) => Type::Deleted,
            };
            types.insert(*revision, kind);
        }
        truth.0.insert(*revision, state.clone());
    }
    for (number, watcher) in watchers.iter().enumerate() {
        if let Err(difference) = truth.check(&watcher.observed, end_revision) {
            panic!("watcher {number}: {difference}");
        }
        for (revision, kind) in &watcher.types {
            assert_eq!(
                types.get(revision),
                Some(kind),
                "at resource version {revision}"
            );
        }
    }
}
