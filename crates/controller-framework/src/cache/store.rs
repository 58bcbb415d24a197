//! The objects of a cache, their subscribers and indexes, without the type of the objects.

use std::cell::LazyCell;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use kube_api_client::Event;
use process_telemetry::polls::note_spent;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

use super::index::{IndexState, IndexTerms};
use super::listing::Listing;
use super::objects::{ObjectSlot, Objects};
use crate::changes::{HashedKey, Mailbox, ObjectChange, Stored};
use crate::{Identity, limits};
use object_model::{IncompleteMetadata, ObjectKey, ResourceVersion};

/// Reads the identity of a stored object.
trait Identify: Send + Sync {
    fn identity<'o>(&self, object: &'o Stored) -> Result<Identity<'o>, IncompleteMetadata>;
}

/// Reads the identity of an object of a kind; fails if the metadata is incomplete.
pub(super) type IdentityOf<K> = fn(&K) -> Result<Identity<'_>, IncompleteMetadata>;

impl<K: Send + Sync + 'static> Identify for IdentityOf<K> {
    fn identity<'o>(&self, object: &'o Stored) -> Result<Identity<'o>, IncompleteMetadata> {
        // All objects of a store have the same type.
        let object = object.downcast_ref();
        object.map_or(Err(IncompleteMetadata::Name), self)
    }
}

pub(super) struct Store {
    identify: Box<dyn Identify>,
    state: RwLock<State>,
    progress: watch::Sender<Progress>,
    /// Wakes readers that wait for a state, after each event.
    changed: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Listing,
    Synced,
    Stopped,
}

/// Decides from the states of an object before and after a change whether the change concerns a subscriber.
pub(super) type ChangeFilter = dyn Fn(Option<&Stored>, Option<&Stored>) -> bool + Send + Sync;

struct Subscriber {
    mailbox: Weak<Mailbox<Stored>>,
    /// `None` if all changes concern the subscriber.
    filter: Option<Box<ChangeFilter>>,
}

impl Subscriber {
    fn wants(&self, change: &ObjectChange<Stored>) -> bool {
        let Some(filter) = &self.filter else {
            return true;
        };
        match change {
            ObjectChange::Applied(new, old) => filter(old.as_deref(), Some(&**new)),
            ObjectChange::Deleted(last) => filter(Some(&**last), None),
        }
    }
}

struct State {
    objects: Objects,
    /// The highest resourceVersion of all events and of all objects of complete lists.
    version: Option<ResourceVersion>,
    subscribers: Vec<Subscriber>,
    /// The hash of keys in the mailboxes of subscribers.
    hashes: RandomState,
    indexes: Vec<IndexState>,
    /// The namespace of the last object. The next key shares its memory if it has the same namespace, as most keys do.
    namespace: Arc<str>,
    stopped: bool,
}

impl Store {
    pub(super) fn new<K: Send + Sync + 'static>(identity: IdentityOf<K>) -> Self {
        let state = State {
            objects: Objects::default(),
            version: None,
            subscribers: Vec::new(),
            hashes: RandomState::new(),
            indexes: Vec::new(),
            namespace: Arc::default(),
            stopped: false,
        };
        Self {
            identify: Box::new(identity),
            state: RwLock::new(state),
            progress: watch::channel(Progress::Listing).0,
            changed: Notify::new(),
        }
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Option<Arc<Stored>> {
        self.read().objects.get(key).cloned()
    }

    pub(super) fn list(&self) -> Vec<Arc<Stored>> {
        let state = self.read();
        let all = state.objects.iter();
        taken(all.map(|(_, _, object)| object.clone()))
    }

    pub(super) fn list_in(&self, namespace: &str) -> Vec<Arc<Stored>> {
        let state = self.read();
        if state.objects.len() == 0 {
            return Vec::new();
        }
        let from = ObjectKey::new(namespace, "");
        let of_namespace = state.objects.from(from);
        let mine = of_namespace.take_while(|(key, ..)| *key.namespace == *namespace);
        taken(mine.map(|(_, _, object)| object.clone()))
    }

    pub(super) fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Waits until the first list is complete. Returns `false` if the cache stops before that.
    pub(super) async fn wait_synced(&self) -> bool {
        let mut progress = self.progress.subscribe();
        let reached = progress
            .wait_for(|progress| *progress != Progress::Listing)
            .await;
        reached.is_ok_and(|progress| *progress == Progress::Synced)
    }

    pub(super) fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Completes at the next event.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(super) fn subscribe(&self, filter: Option<Box<ChangeFilter>>) -> Arc<Mailbox<Stored>> {
        let mailbox = Arc::new(Mailbox::new());
        let subscriber = Subscriber {
            mailbox: Arc::downgrade(&mailbox),
            filter,
        };
        let mut state = self.write();
        for (key, _, object) in state.objects.iter() {
            let present = ObjectChange::Applied(object.clone(), None);
            if subscriber.wants(&present) {
                mailbox.push(&hashed(key, &state.hashes), present);
            }
        }
        if state.stopped {
            mailbox.close();
        } else {
            state.subscribers.push(subscriber);
        }
        mailbox
    }

    /// Adds an index; returns its number.
    pub(super) fn index(&self, terms: IndexTerms) -> usize {
        let mut state = self.write();
        let mut index = IndexState::new(terms);
        for (key, slot, object) in state.objects.iter() {
            index.insert(key, slot, object.as_ref());
        }
        state.indexes.push(index);
        state.indexes.len() - 1
    }

    /// The objects with the given term of an index, sorted by namespace and name.
    pub(super) fn find(&self, index: usize, term: &str) -> Vec<Arc<Stored>> {
        let state = self.read();
        let index = state.indexes.get(index);
        state.objects_of(index.into_iter().flat_map(|index| index.slots(term)))
    }

    /// Whether any object has the given term of an index.
    pub(super) fn has(&self, index: usize, term: &str) -> bool {
        let state = self.read();
        let index = state.indexes.get(index);
        index.is_some_and(|index| index.has(term))
    }

    /// The objects that have any term of a set. The set with the fewest objects is used. Sorted by namespace and name.
    pub(super) fn find_smallest(&self, index: usize, sets: &[Vec<String>]) -> Vec<Arc<Stored>> {
        let state = self.read();
        let index = state.indexes.get(index);
        let slots = index.map(|index| index.slots_of_smallest(sets));
        state.objects_of(slots.into_iter().flatten())
    }

    /// Whether the store includes the write with this resourceVersion.
    pub(super) fn has_reached(&self, version: ResourceVersion) -> bool {
        self.read().version >= Some(version)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Processes an event. After the end of a list, [`Store::sweep`] must finish before the next event. Fails without a
    /// change of the store if the metadata of the object is incomplete.
    pub(super) fn process_event(
        &self,
        event: Event<Arc<Stored>>,
        listing: &mut Listing,
    ) -> Result<(), IncompleteMetadata> {
        match event {
            Event::Init => *listing = Listing::default(),
            Event::InitApply(object) => {
                let (slot, version) = self.write().apply(object, &*self.identify)?;
                listing.add(slot, version);
            }
            Event::InitDone => listing.end(),
            Event::Apply(object) => {
                let mut state = self.write();
                let (_, version) = state.apply(object, &*self.identify)?;
                state.reach(Some(version));
            }
            Event::Delete(object) => {
                let key = self.identify.identity(object.as_ref())?.key();
                self.write().remove(&key, Some(object), &*self.identify);
            }
        }
        self.changed.notify_waiters();
        Ok(())
    }

    /// Removes the next portion of objects that are not in the complete list. Returns the units of work; 0 if nothing
    /// is left to do. With tens of thousands of objects, one step would block the thread for a long time.
    pub(super) fn sweep(&self, listing: &mut Listing) -> usize {
        let Some(from) = listing.rest.take() else {
            return 0;
        };
        let mut state = self.write();
        let (unlisted, rest) = state.not_listed(listing, from);
        listing.rest = rest;
        for key in &unlisted {
            state.remove(key, None, &*self.identify);
        }
        let is_over = listing.rest.is_none();
        if is_over {
            state.reach(listing.version);
        }
        drop(state);
        if is_over {
            *listing = Listing::default();
            self.progress.send_if_modified(|progress| {
                let first = *progress == Progress::Listing;
                *progress = Progress::Synced;
                first
            });
        }
        self.changed.notify_waiters();
        limits::SWEEP_UNITS + unlisted.len()
    }

    /// Processes the deletion of an object by its key.
    pub(super) fn process_deletion(&self, key: &ObjectKey) {
        self.write().remove(key, None, &*self.identify);
        self.changed.notify_waiters();
    }

    pub(super) fn stop(&self) {
        let mut state = self.write();
        state.stopped = true;
        for subscriber in state.subscribers.drain(..) {
            if let Some(mailbox) = subscriber.mailbox.upgrade() {
                mailbox.close();
            }
        }
        drop(state);
        self.progress.send_replace(Progress::Stopped);
        self.changed.notify_waiters();
    }
}

/// The objects that a task reads, counted as work of the task: a decision about many objects takes long.
fn taken(objects: impl Iterator<Item = Arc<Stored>>) -> Vec<Arc<Stored>> {
    let objects: Vec<Arc<Stored>> = objects.collect();
    note_spent(objects.len() / limits::READ_OBJECTS_PER_UNIT);
    objects
}

impl State {
    fn objects_of(&self, slots: impl Iterator<Item = ObjectSlot>) -> Vec<Arc<Stored>> {
        taken(slots.filter_map(|slot| self.objects.at(slot).cloned()))
    }

    fn reach(&mut self, version: Option<ResourceVersion>) {
        self.version = self.version.max(version);
    }

    /// The cached keys of the next portion that are not in the list, and the first key after the portion.
    fn not_listed(
        &self,
        listing: &Listing,
        from: ObjectKey,
    ) -> (Vec<ObjectKey>, Option<ObjectKey>) {
        let mut objects = self.objects.from(from);
        let portion = objects.by_ref().take(limits::SWEEP_OBJECTS);
        let unlisted = portion.filter(|(_, slot, _)| !listing.has(*slot));
        let unlisted = unlisted.map(|(key, ..)| key.clone()).collect();
        (unlisted, objects.next().map(|(key, ..)| key.clone()))
    }

    /// Stores the state of an object. Returns its slot and its version.
    fn apply(
        &mut self,
        object: Arc<Stored>,
        identify: &dyn Identify,
    ) -> Result<(ObjectSlot, ResourceVersion), IncompleteMetadata> {
        let new = identify.identity(object.as_ref())?;
        let version = new.version;
        if *self.namespace != *new.namespace {
            self.namespace = new.namespace.into();
        }
        let key = ObjectKey::new(self.namespace.clone(), new.name);
        let (slot, mut previous) = self.objects.insert(&key, object.clone());
        if let Some(old) = &previous {
            let old_identity = identify.identity(old.as_ref());
            if old_identity.is_ok_and(|old| old.version == version) {
                return Ok((slot, version));
            }
            for index in &mut self.indexes {
                index.replace(&key, slot, old.as_ref(), object.as_ref());
            }
        } else {
            for index in &mut self.indexes {
                index.insert(&key, slot, object.as_ref());
            }
        }
        // A new object has the same name: the cache missed the deletion of the old object.
        let is_other = |old: &mut Arc<Stored>| {
            let old = identify.identity(old.as_ref());
            old.is_ok_and(|old| !old.is_of_object(&new))
        };
        if let Some(old) = previous.take_if(is_other) {
            self.notify(&key, ObjectChange::Deleted(old));
        }
        self.notify(&key, ObjectChange::Applied(object, previous));
        Ok((slot, version))
    }

    /// Removes the object with the given key; `last` is its final state, if the event contains it.
    fn remove(&mut self, key: &ObjectKey, last: Option<Arc<Stored>>, identify: &dyn Identify) {
        let Some(old) = self.objects.remove(key) else {
            return;
        };
        for index in &mut self.indexes {
            index.remove(key, old.as_ref());
        }
        let last = last.filter(|last| {
            let identities = identify
                .identity(last.as_ref())
                .and_then(|last| Ok((last, identify.identity(old.as_ref())?)));
            identities.is_ok_and(|(last, old)| last.is_of_object(&old))
        });
        self.notify(key, ObjectChange::Deleted(last.unwrap_or(old)));
    }

    fn notify(&mut self, key: &ObjectKey, change: ObjectChange<Stored>) {
        // The hash is computed only if needed: few changes concern a subscriber.
        let hashed = LazyCell::new(|| hashed(key, &self.hashes));
        self.subscribers
            .retain(|subscriber| match subscriber.mailbox.upgrade() {
                Some(mailbox) => {
                    if subscriber.wants(&change) {
                        mailbox.push(&hashed, change.clone());
                    }
                    true
                }
                None => false,
            });
    }
}

fn hashed(key: &ObjectKey, hashes: &RandomState) -> HashedKey {
    HashedKey {
        hash: hashes.hash_one(key),
        key: key.clone(),
    }
}
