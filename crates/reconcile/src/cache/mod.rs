//! A shared, always current copy of the objects of one kind.
//!
//! One list and watch feeds it; after an interruption it resumes, or lists again if the server's
//! history was compacted (`410 Gone`), and reports the differences to subscribers. Objects are
//! shared (`Arc`) and come without `managedFields`, which no reader uses and which the server keeps
//! when they are not sent; of numerous kinds a smaller view can be stored instead
//! ([`Cache::spawn_as`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use api_client::{Api, Client, Event, Resource, WatchConfig as Config, WatchError, Watcher};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::changes::{Changes, Mailbox, ObjectChange};
use crate::execute::{Refusal, refusal};
use crate::health::{Kind, Streak};
use crate::{Identity, Key, Part, limits};

/// An object as the server gives it.
pub trait Object: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static {}
impl<K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Object for K {}

/// A handle on a cache; clones share it.
pub struct Cache<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

/// Finds objects by something other than their name, for instance pods by their owner's uid.
/// Always as current as the cache it belongs to.
pub struct Index<K> {
    shared: Arc<Shared<K>>,
    number: usize,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            number: self.number,
        }
    }
}

struct Shared<K> {
    identity: fn(&K) -> Identity<'_>,
    state: RwLock<State<K>>,
    synced: watch::Sender<Progress>,
    /// Wakes readers that wait for a state, after each event.
    changed: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Listing,
    Synced,
    Stopped,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    subscribers: Vec<std::sync::Weak<Mailbox<K>>>,
    indexes: Vec<IndexState<K>>,
    stopped: bool,
}

type Terms<K> = dyn Fn(&K) -> Vec<String> + Send + Sync;

struct IndexState<K> {
    terms: Box<Terms<K>>,
    entries: HashMap<String, BTreeSet<Key>>,
}

impl<K: Object> Cache<K> {
    /// Starts to list and watch; ends with its part of the program.
    ///
    /// `Api<PartialObjectMeta<K>>` gives a cache of metadata only.
    pub fn spawn(api: Api<K>, config: Config, part: impl Into<Part>) -> Self {
        Self::spawn_as(
            api,
            config,
            part.into(),
            |object| Identity::of(object),
            as_it_is,
        )
    }

    /// As [`spawn`](Cache::spawn), of all objects of the kind.
    pub fn spawn_all(client: &Client, part: &Part) -> Self
    where
        K::DynamicType: Default,
    {
        let config = Config::default();
        Self::spawn(Api::all(client.clone()), config, part.clone())
    }

    /// A cache fed from a stream of events, as a watcher gives them; ends with the stream.
    pub fn from_events(events: impl Stream<Item = Event<K>> + Send + 'static) -> Self {
        Self::fed(|object| Identity::of(object), events)
    }
}

/// Drops unused fields and the spare capacity of decoded lists: the object may be stored for
/// months.
fn as_it_is<K: Object>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object.clone()
}

/// The kind in a path such as `/api/v1/namespaces/default/pods`. The namespace is left out of data
/// that everyone can see.
fn plural(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Whether an error is a failure of the watch. A kind that is not served (any more) is not a
/// failure.
fn is_of_the_watch(error: &WatchError) -> bool {
    let (WatchError::List(cause) | WatchError::Start(cause)) = error else {
        return true;
    };
    refusal(cause) != Refusal::NotFound
}

/// The receiver of a watch's events. It decodes objects, so that the watch itself knows no kind.
trait Sink: Send {
    /// Takes an event.
    fn take(&mut self, event: Event<Bytes>) -> serde_json::Result<()>;
    /// The watch has ended.
    fn stop(&self);
}

/// Stores objects of type `W` as `K`.
struct Feed<K, F> {
    shared: Arc<Shared<K>>,
    /// The keys of a list that is not complete.
    listed: BTreeSet<Key>,
    decode: F,
}

impl<K, F> Sink for Feed<K, F>
where
    K: Send + Sync,
    F: FnMut(&[u8]) -> serde_json::Result<K> + Send,
{
    fn take(&mut self, event: Event<Bytes>) -> serde_json::Result<()> {
        let event = event.try_map(|text| (self.decode)(&text))?;
        self.shared.take_event(event, &mut self.listed);
        Ok(())
    }

    fn stop(&self) {
        self.shared.stop();
    }
}

/// Follows a watch until the shutdown.
async fn follow(
    mut watcher: Watcher,
    mut sink: Box<dyn Sink>,
    shutdown: CancellationToken,
    streak: Streak,
) {
    let mut delay = limits::WATCH_RETRY_DELAY_MIN;
    loop {
        let next = tokio::select! {
            () = shutdown.cancelled() => break,
            next = watcher.next() => next,
        };
        // A list that only begins is no sign of health.
        let begins = matches!(next, Ok(Event::Init));
        let taken = next.and_then(|event| {
            let taken = sink.take(event);
            taken.map_err(|error| watcher.undecodable(error))
        });
        match taken {
            Ok(()) if begins => {}
            Ok(()) => {
                delay = limits::WATCH_RETRY_DELAY_MIN;
                streak.succeeded();
            }
            Err(error) => {
                if is_of_the_watch(&error) {
                    streak.failed(&error);
                } else {
                    tracing::debug!(error = %error, "nothing to watch");
                }
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = tokio::time::sleep(delay) => {}
                }
                delay = (delay * 2).min(limits::WATCH_RETRY_DELAY_MAX);
            }
        }
    }
    sink.stop();
}

impl<K: Send + Sync + 'static> Cache<K> {
    /// Like [`spawn`](Cache::spawn), for readers that need little of numerous objects: the result
    /// of `convert` is stored, with the key from `identity`.
    pub fn spawn_as<W: Object>(
        api: Api<W>,
        config: Config,
        part: Part,
        identity: fn(&K) -> Identity<'_>,
        mut convert: impl FnMut(W) -> K + Send + 'static,
    ) -> Self {
        let cache = Self::empty(identity);
        let sink = Feed {
            shared: cache.shared.clone(),
            listed: BTreeSet::new(),
            decode: move |text: &[u8]| serde_json::from_slice(text).map(&mut convert),
        };
        let watcher = api.watcher(config.page_size(limits::LIST_PAGE_OBJECTS));
        let streak = part.follow(Kind::Watch, plural(api.resource_url()));
        tokio::spawn(follow(watcher, Box::new(sink), part.shutdown, streak));
        cache
    }

    /// A cache fed from a stream of events; ends with the stream.
    pub(crate) fn fed(
        identity: fn(&K) -> Identity<'_>,
        events: impl Stream<Item = Event<K>> + Send + 'static,
    ) -> Self {
        let cache = Self::empty(identity);
        let shared = cache.shared.clone();
        tokio::spawn(async move {
            let mut events = std::pin::pin!(events);
            let mut listed = BTreeSet::new();
            while let Some(event) = events.next().await {
                shared.take_event(event, &mut listed);
            }
            shared.stop();
        });
        cache
    }

    fn empty(identity: fn(&K) -> Identity<'_>) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            subscribers: Vec::new(),
            indexes: Vec::new(),
            stopped: false,
        };
        let (synced, _) = watch::channel(Progress::Listing);
        Self {
            shared: Arc::new(Shared {
                identity,
                state: RwLock::new(state),
                synced,
                changed: Notify::new(),
            }),
        }
    }

    /// The object of that name (namespace empty for cluster-scoped kinds).
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get_key(&Key::new(namespace, name))
    }

    /// The object of that key.
    pub fn get_key(&self, key: &Key) -> Option<Arc<K>> {
        self.shared.read().objects.get(key).cloned()
    }

    /// All objects, sorted by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.read().objects.values().cloned().collect()
    }

    /// All objects of a namespace, sorted by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.shared.read();
        let from = Key::new(namespace, "");
        let of_namespace = state.objects.range(from..);
        let mine = of_namespace.take_while(|(key, _)| *key.namespace == *namespace);
        mine.map(|(_, object)| object.clone()).collect()
    }

    /// The number of objects.
    pub fn len(&self) -> usize {
        self.shared.read().objects.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until the first list is complete. `false` when the cache stopped before that.
    pub async fn wait_synced(&self) -> bool {
        let mut synced = self.shared.synced.subscribe();
        let reached = synced
            .wait_for(|progress| *progress != Progress::Listing)
            .await;
        reached.is_ok_and(|progress| *progress == Progress::Synced)
    }

    /// Whether the first list is complete.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow() == Progress::Synced
    }

    /// Whether it has ended: its contents no longer change.
    pub fn is_stopped(&self) -> bool {
        *self.shared.synced.borrow() == Progress::Stopped
    }

    /// Waits until the condition holds. It is judged now and after each event, and must depend on
    /// this cache only. `false` when the cache stopped before that.
    pub async fn wait_until(&self, holds: impl Fn() -> bool) -> bool {
        loop {
            // Made before the look, so that no change after it is missed.
            let changed = self.shared.changed.notified();
            let stopped = self.is_stopped();
            if holds() {
                return true;
            }
            if stopped {
                return false;
            }
            changed.await;
        }
    }

    /// Everything there is now, as [`ObjectChange::Applied`] without a previous state, and from then on
    /// every change. Dropping the stream ends the subscription.
    pub fn subscribe(&self) -> Changes<K> {
        let mailbox = Arc::new(Mailbox::new());
        let mut state = self.shared.write();
        for (key, object) in &state.objects {
            mailbox.push(key, ObjectChange::Applied(object.clone(), None));
        }
        if state.stopped {
            mailbox.close();
        } else {
            state.subscribers.push(Arc::downgrade(&mailbox));
        }
        Changes { mailbox }
    }

    /// Adds an index: objects are found by each of their `terms`.
    pub fn index(&self, terms: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Index<K> {
        let mut state = self.shared.write();
        let mut index = IndexState {
            terms: Box::new(terms),
            entries: HashMap::new(),
        };
        for (key, object) in &state.objects {
            index.insert(key, object);
        }
        state.indexes.push(index);
        Index {
            shared: self.shared.clone(),
            number: state.indexes.len() - 1,
        }
    }
}

impl<K> Index<K> {
    /// The objects with that term, sorted by namespace and name.
    pub fn get(&self, term: &str) -> Vec<Arc<K>> {
        let state = self.shared.read();
        let Some(keys) = state
            .indexes
            .get(self.number)
            .and_then(|i| i.entries.get(term))
        else {
            return Vec::new();
        };
        keys.iter()
            .filter_map(|key| state.objects.get(key).cloned())
            .collect()
    }
}

impl<K> IndexState<K> {
    fn insert(&mut self, key: &Key, object: &K) {
        self.add(key, (self.terms)(object));
    }

    fn remove(&mut self, key: &Key, object: &K) {
        self.take(key, (self.terms)(object));
    }

    /// Most changes of an object change none of its terms.
    fn replace(&mut self, key: &Key, old: &K, new: &K) {
        let (before, after) = ((self.terms)(old), (self.terms)(new));
        if before != after {
            self.take(key, before);
            self.add(key, after);
        }
    }

    fn add(&mut self, key: &Key, terms: Vec<String>) {
        for term in terms {
            self.entries.entry(term).or_default().insert(key.clone());
        }
    }

    fn take(&mut self, key: &Key, terms: Vec<String>) {
        for term in terms {
            if let Some(keys) = self.entries.get_mut(&term) {
                keys.remove(key);
                if keys.is_empty() {
                    self.entries.remove(&term);
                }
            }
        }
    }
}

impl<K> Shared<K> {
    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<K>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_event(&self, event: Event<K>, listed: &mut BTreeSet<Key>) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(object) => {
                listed.insert((self.identity)(&object).key());
                self.write().apply(object, self.identity);
            }
            Event::InitDone => {
                let mut state = self.write();
                let gone: Vec<Key> = state
                    .objects
                    .keys()
                    .filter(|key| !listed.contains(*key))
                    .cloned()
                    .collect();
                for key in gone {
                    state.remove(&key, None, self.identity);
                }
                listed.clear();
                drop(state);
                self.synced.send_if_modified(|progress| {
                    let first = *progress == Progress::Listing;
                    *progress = Progress::Synced;
                    first
                });
            }
            Event::Apply(object) => self.write().apply(object, self.identity),
            Event::Delete(object) => {
                let key = (self.identity)(&object).key();
                self.write().remove(&key, Some(object), self.identity);
            }
        }
        self.changed.notify_waiters();
    }

    fn stop(&self) {
        let mut state = self.write();
        state.stopped = true;
        for subscriber in state.subscribers.drain(..) {
            if let Some(mailbox) = subscriber.upgrade() {
                mailbox.close();
            }
        }
        drop(state);
        self.synced.send_replace(Progress::Stopped);
        self.changed.notify_waiters();
    }
}

impl<K> State<K> {
    fn apply(&mut self, object: K, identity: fn(&K) -> Identity<'_>) {
        let key = identity(&object).key();
        let object = Arc::new(object);
        let new = identity(&object);
        let mut previous = self.objects.insert(key.clone(), object.clone());
        if let Some(old) = &previous {
            let version = identity(old).resource_version;
            if version == new.resource_version && !version.is_empty() {
                return;
            }
            for index in &mut self.indexes {
                index.replace(&key, old, &object);
            }
        } else {
            for index in &mut self.indexes {
                index.insert(&key, &object);
            }
        }
        // Another object under the same name: the end of the first was not seen.
        if let Some(old) = previous.take_if(|old| identity(old).uid != new.uid) {
            self.tell(&key, ObjectChange::Deleted(old));
        }
        self.tell(&key, ObjectChange::Applied(object, previous));
    }

    /// Removes the object of that key; `last` is its final state, when the server told it.
    fn remove(&mut self, key: &Key, last: Option<K>, identity: fn(&K) -> Identity<'_>) {
        let Some(old) = self.objects.remove(key) else {
            return;
        };
        for index in &mut self.indexes {
            index.remove(key, &old);
        }
        let last = last.filter(|last| identity(last).uid == identity(&old).uid);
        self.tell(key, ObjectChange::Deleted(last.map_or(old, Arc::new)));
    }

    fn tell(&mut self, key: &Key, change: ObjectChange<K>) {
        self.subscribers
            .retain(|subscriber| match subscriber.upgrade() {
                Some(mailbox) => {
                    mailbox.push(key, change.clone());
                    true
                }
                None => false,
            });
    }
}

#[cfg(test)]
mod tests;
