//! A shared copy of all objects of one kind, which a watch keeps up to date.
//!
//! One list and watch feeds the cache. After an interruption the watch resumes; if the server's history was compacted
//! (`410 Gone`), the cache lists again and reports the differences to subscribers. Objects are shared (`Arc`) and have
//! no `managedFields`: no reader uses them, and the server keeps them when a client does not send them. For numerous
//! kinds, the cache can store a smaller view instead ([`Cache::spawn_as`]).

mod index;
mod listing;
mod objects;
mod pods_by_label;
mod store;

use std::convert::Infallible;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use host_kernel::block_in_place;
use json_text::find_string;
use kube_api_client::guarded_writes::{WriteRefusal, refusal};
use kube_api_client::{
    Api, Client, Event, Object, Resource, WatchConfig as Config, WatchError, Watcher,
};
use process_telemetry::Component;
use process_telemetry::backoff::Backoff;
use process_telemetry::health::{FailureStreak, Kind};
use process_telemetry::limits::WATCH_RETRY_DELAY_MAX;
use process_telemetry::polls::spend;
use serde::de::Error as _;
use tokio_util::sync::CancellationToken;

use crate::changes::{Changes, Stored, all_typed, stored, typed};
use crate::{Identity, limits};
use index::IndexTerms;
use listing::Listing;
use object_model::{IncompleteMetadata, ObjectKey, ResourceVersion};
pub use pods_by_label::{PodsByLabel, label_term};
use store::{IdentityOf, Progress, Store};

/// A handle on a cache; clones share the cache. Only this type knows the type of the objects. The code that stores,
/// finds and delivers objects is compiled once for all kinds. An object without name, UID or resourceVersion is an error of
/// the watch, like an object that cannot be decoded.
pub struct Cache<K> {
    store: Arc<Store>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            kind: PhantomData,
        }
    }
}

/// Finds objects by something other than their name, for instance pods by their owner's uid. The index is always as
/// current as its cache.
pub struct Index<K> {
    store: Arc<Store>,
    number: usize,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            number: self.number,
            kind: PhantomData,
        }
    }
}

impl<K: Object> Cache<K> {
    /// Starts a list and watch, which end with the component.
    ///
    /// `Api<PartialObjectMeta<K>>` gives a cache of metadata only.
    pub fn spawn(api: Api<K>, config: Config, component: impl Into<Component>) -> Self {
        Self::spawn_as(
            api,
            config,
            component.into(),
            |object| Identity::of(object),
            |text| serde_json::from_slice(text).map(as_it_is),
        )
    }

    /// Starts a cache of all objects of the kind; see [`spawn`](Cache::spawn).
    pub fn spawn_all(client: &Client, component: &Component) -> Self
    where
        K::DynamicType: Default,
    {
        let config = Config::default();
        Self::spawn(Api::all(client.clone()), config, component.clone())
    }

    /// A cache that receives its events from a stream instead of a server, and ends with the stream.
    pub fn from_events(events: impl Stream<Item = Event<K>> + Send + 'static) -> Self {
        Self::fed(|object| Identity::of(object), events)
    }
}

/// Drops unused fields and the spare capacity of decoded lists, because the cache may store the object for months.
fn as_it_is<K: Object>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object.clone()
}

/// The kind in a path such as `/api/v1/namespaces/default/pods`. The namespace is omitted, because everyone can see the
/// data that contains the result.
fn plural(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Whether an error is a failure of the watch. The error of a kind that is not served (any more) is not a failure.
fn is_of_the_watch(error: &WatchError) -> bool {
    let (WatchError::List(cause) | WatchError::Start(cause)) = error else {
        return true;
    };
    refusal(cause) != WriteRefusal::NotFound
}

/// The receiver of a watch's events. The receiver decodes the objects, so the watch itself knows no kind.
trait Sink: Send {
    /// Processes an event.
    fn process(&mut self, event: Event<Bytes>) -> serde_json::Result<()>;
    /// Continues the end of a list; see [`Store::sweep`].
    fn sweep(&mut self) -> usize;
    /// Records that the watch has ended.
    fn stop(&self);
}

/// Stores the result of `decode` for the text of each object.
struct Feed<F> {
    store: Arc<Store>,
    listing: Listing,
    decode: F,
}

impl<F> Sink for Feed<F>
where
    F: FnMut(&[u8]) -> serde_json::Result<Arc<Stored>> + Send,
{
    fn process(&mut self, event: Event<Bytes>) -> serde_json::Result<()> {
        // The last state of a deleted object is the state of the event before.
        if let Event::Delete(text) = &event
            && let Some(key) = key_of(text)
        {
            self.store.process_deletion(&key);
            return Ok(());
        }
        let event = event.try_map(|text| (self.decode)(&text))?;
        let processed = self.store.process_event(event, &mut self.listing);
        processed.map_err(serde_json::Error::custom)
    }

    fn sweep(&mut self) -> usize {
        self.store.sweep(&mut self.listing)
    }

    fn stop(&self) {
        self.store.stop();
    }
}

/// The key of an object, read from its text without decoding the object. `None` if the object has no name.
fn key_of(object: &[u8]) -> Option<ObjectKey> {
    let text = |name| find_string(object, &["metadata", name]).ok();
    let namespace = text("namespace")?.unwrap_or_default();
    let name = text("name")?.filter(|name| !name.is_empty())?;
    Some(ObjectKey::new(namespace, name))
}

/// Processes events until their stream ends, or contains an object whose metadata is incomplete.
async fn process_all(store: Arc<Store>, mut events: BoxStream<'static, Event<Arc<Stored>>>) {
    let mut listing = Listing::default();
    while let Some(event) = events.next().await {
        if let Err(error) = store.process_event(event, &mut listing) {
            tracing::error!(error = %error, "the cache stops");
            break;
        }
        spend(limits::OBJECT_UNITS).await;
        sweep_all(|| store.sweep(&mut listing)).await;
    }
    store.stop();
}

/// Ends a list in portions. Other tasks run between two portions.
async fn sweep_all(mut sweep: impl FnMut() -> usize) {
    loop {
        match sweep() {
            0 => return,
            units => spend(units).await,
        }
    }
}

/// The length of an event's object in bytes.
fn bytes_of(event: &Event<Bytes>) -> usize {
    match event {
        Event::InitApply(text) | Event::Apply(text) | Event::Delete(text) => text.len(),
        Event::Init | Event::InitDone => 0,
    }
}

/// Processes an event. For a long object, the runtime continues on other threads.
fn process_event(sink: &mut dyn Sink, event: Event<Bytes>) -> serde_json::Result<()> {
    match bytes_of(&event) > limits::DECODED_BYTES_MAX {
        true => block_in_place(|| sink.process(event)),
        false => sink.process(event),
    }
}

/// Runs a watch until the shutdown.
async fn follow(
    watcher: Watcher,
    sink: Box<dyn Sink>,
    shutdown: CancellationToken,
    streak: FailureStreak,
) {
    let followed = take_until(watcher, sink, shutdown, &streak);
    streak.watched(followed).await;
}

async fn take_until(
    mut watcher: Watcher,
    mut sink: Box<dyn Sink>,
    shutdown: CancellationToken,
    streak: &FailureStreak,
) {
    let mut backoff = Backoff::new(limits::WATCH_RETRY_DELAY_MIN, WATCH_RETRY_DELAY_MAX);
    let mut stopped = pin!(shutdown.cancelled());
    loop {
        let next = tokio::select! {
            () = &mut stopped => break,
            next = watcher.next() => next,
        };
        // The begin of a list is no sign of health.
        let begins = matches!(next, Ok(Event::Init));
        let units = next.as_ref().map_or(0, |event| {
            limits::OBJECT_UNITS.max(bytes_of(event) / limits::DECODED_BYTES_PER_UNIT)
        });
        let result = next.and_then(|event| {
            let result = process_event(&mut *sink, event);
            result.map_err(|error| watcher.undecodable(error))
        });
        match result {
            Ok(()) if begins => {}
            Ok(()) => {
                backoff.reset();
                streak.succeeded();
                spend(units).await;
                sweep_all(|| sink.sweep()).await;
            }
            Err(error) => {
                if is_of_the_watch(&error) {
                    streak.failed(&error);
                } else {
                    tracing::debug!(error = %error, "nothing to watch");
                }
                tokio::select! {
                    () = &mut stopped => break,
                    () = tokio::time::sleep(backoff.fail()) => {}
                }
            }
        }
    }
    sink.stop();
}

impl<K: Send + Sync + 'static> Cache<K> {
    /// Starts a cache of reduced objects, for readers that need few fields of numerous objects. The cache stores the
    /// result of `read` for an object's JSON text, under the key from `identity`.
    pub fn spawn_as<W: Resource>(
        api: Api<W>,
        config: Config,
        component: Component,
        identity: fn(&K) -> Result<Identity<'_>, IncompleteMetadata>,
        mut read: impl FnMut(&[u8]) -> serde_json::Result<K> + Send + 'static,
    ) -> Self {
        let cache = Self::empty(identity);
        let sink = Feed {
            store: cache.store.clone(),
            listing: Listing::default(),
            decode: move |text: &[u8]| read(text).map(stored),
        };
        let watcher = api.watcher(config.page_size(limits::LIST_PAGE_OBJECTS));
        let streak = component.follow(Kind::Watch, plural(api.resource_url()));
        tokio::spawn(follow(watcher, Box::new(sink), component.shutdown, streak));
        cache
    }

    /// A cache that receives its events from a stream, and ends with the stream.
    pub(crate) fn fed(
        identity: fn(&K) -> Result<Identity<'_>, IncompleteMetadata>,
        events: impl Stream<Item = Event<K>> + Send + 'static,
    ) -> Self {
        let cache = Self::empty(identity);
        let events = events.map(|event| {
            let Ok(event) = event.try_map(|object| Ok::<_, Infallible>(stored(object)));
            event
        });
        tokio::spawn(process_all(cache.store.clone(), events.boxed()));
        cache
    }

    fn empty(identity: IdentityOf<K>) -> Self {
        Self {
            store: Arc::new(Store::new(identity)),
            kind: PhantomData,
        }
    }

    /// The object with the given name; the namespace is empty for cluster-scoped kinds.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get_key(&ObjectKey::new(namespace, name))
    }

    /// The object with the given key.
    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.store.get(key).and_then(typed)
    }

    /// All objects, sorted by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        all_typed(self.store.list())
    }

    /// All objects of a namespace, sorted by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        all_typed(self.store.list_in(namespace))
    }

    /// The number of cached objects.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether the cache has no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until the first list is complete. Returns `false` if the cache stops before that.
    pub async fn wait_synced(&self) -> bool {
        self.store.wait_synced().await
    }

    /// Whether the first list is complete.
    pub fn is_synced(&self) -> bool {
        self.store.progress() == Progress::Synced
    }

    /// Whether the cache has ended, so that its contents no longer change.
    pub fn is_stopped(&self) -> bool {
        self.store.progress() == Progress::Stopped
    }

    /// Whether the cache includes the write with this resourceVersion. The written object may already be deleted or
    /// replaced in the cache.
    pub fn has_reached(&self, version: ResourceVersion) -> bool {
        self.store.has_reached(version)
    }

    /// Waits until the condition holds. It is evaluated now and after each event, and must depend on this cache only.
    /// Returns `false` if the cache stops before that.
    pub async fn wait_until(&self, holds: impl Fn() -> bool) -> bool {
        loop {
            // Created before the evaluation, so that no later change is missed.
            let changed = self.store.changed();
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

    /// A stream of the current objects, as [`ObjectChange::Applied`] without a previous state, and of every later
    /// change. Dropping the stream ends the subscription.
    pub fn subscribe(&self) -> Changes<K> {
        Changes::new(self.store.subscribe(None))
    }

    /// A subscription to the objects for which `is_match` holds; see [`subscribe`](Cache::subscribe). Other objects do
    /// not wake the subscriber. `is_match` must depend only on fields that never change after the creation of an object.
    pub fn subscribe_to(
        &self,
        is_match: impl Fn(&K) -> bool + Send + Sync + 'static,
    ) -> Changes<K> {
        self.subscribe_to_changes(move |old, new| {
            old.is_some_and(&is_match) || new.is_some_and(&is_match)
        })
    }

    /// A subscription to the changes for which `is_match` holds; see [`subscribe`](Cache::subscribe). Other changes do
    /// not wake the subscriber. `is_match` gets the states of the object before and after the change. The previous state
    /// in a change can be older than the last state of the cache, if `is_match` did not hold for the changes in between.
    pub fn subscribe_to_changes(
        &self,
        is_match: impl Fn(Option<&K>, Option<&K>) -> bool + Send + Sync + 'static,
    ) -> Changes<K> {
        fn typed<K: 'static>(state: Option<&Stored>) -> Option<&K> {
            state.and_then(|state| state.downcast_ref())
        }
        let is_match =
            move |old: Option<&Stored>, new: Option<&Stored>| is_match(typed(old), typed(new));
        Changes::new(self.store.subscribe(Some(Box::new(is_match))))
    }

    /// Adds an index that finds an object by each of its `terms`.
    pub fn index(&self, terms: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Index<K> {
        self.index_unless(|_, _| false, terms)
    }

    /// Adds an index with a cheap comparison of two states of an object. If the comparison shows that the terms are
    /// equal, the terms are not computed.
    pub fn index_unless(
        &self,
        unchanged: fn(&K, &K) -> bool,
        terms: impl Fn(&K) -> Vec<String> + Send + Sync + 'static,
    ) -> Index<K> {
        let of = move |object: &Stored| object.downcast_ref().map(&terms).unwrap_or_default();
        let unchanged = move |old: &Stored, new: &Stored| {
            let both = old.downcast_ref().zip(new.downcast_ref());
            both.is_some_and(|(old, new)| unchanged(old, new))
        };
        let terms = IndexTerms {
            of: Box::new(of),
            unchanged: Box::new(unchanged),
        };
        Index {
            store: self.store.clone(),
            number: self.store.index(terms),
            kind: PhantomData,
        }
    }
}

impl<K: Send + Sync + 'static> Index<K> {
    /// The objects with the given term, sorted by namespace and name.
    pub fn get(&self, term: &str) -> Vec<Arc<K>> {
        all_typed(self.store.find(self.number, term))
    }

    /// Whether any object has the given term. Cheaper than [`get`](Index::get).
    pub fn has(&self, term: &str) -> bool {
        self.store.has(self.number, term)
    }

    /// The objects that have any term of a set. The set with the fewest objects is used. Sorted by namespace and name.
    fn of_smallest(&self, sets: &[Vec<String>]) -> Vec<Arc<K>> {
        all_typed(self.store.find_smallest(self.number, sets))
    }
}

#[cfg(test)]
mod tests;
