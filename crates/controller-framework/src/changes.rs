//! A subscription to a cache: a stream of changes, merged by key.
//!
//! A slow subscriber does not block the cache and is not disconnected: changes that wait for it are merged. At most two
//! changes per key wait: a deletion, then the creation of the next object with that name. A subscriber may miss
//! intermediate states, but never the last state.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures::Stream;
use futures::task::AtomicWaker;
use tokio::task::coop;

use object_model::ObjectKey;

/// An object in a cache without its static type, which only the interface of the cache knows.
pub(crate) type Stored = dyn Any + Send + Sync;

/// Converts an object to its stored form.
pub(crate) fn stored<K: Send + Sync + 'static>(object: K) -> Arc<Stored> {
    Arc::new(object)
}

/// Converts a stored object to its type. All objects of one cache have the same type.
pub(crate) fn typed<K: Send + Sync + 'static>(object: Arc<Stored>) -> Option<Arc<K>> {
    object.downcast().ok()
}

/// Converts stored objects to their type.
pub(crate) fn all_typed<K: Send + Sync + 'static>(objects: Vec<Arc<Stored>>) -> Vec<Arc<K>> {
    objects.into_iter().filter_map(typed).collect()
}

/// The change of an object that a subscriber of a cache receives.
#[derive(Debug)]
pub enum ObjectChange<K: ?Sized> {
    /// The object was created or changed, or it exists at the time of the subscription. The second state is the last
    /// state that this subscriber received.
    Applied(Arc<K>, Option<Arc<K>>),
    /// The object was deleted; the last known state.
    Deleted(Arc<K>),
}

impl<K: ?Sized> Clone for ObjectChange<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Applied(object, previous) => Self::Applied(object.clone(), previous.clone()),
            Self::Deleted(object) => Self::Deleted(object.clone()),
        }
    }
}

impl<K: ?Sized> ObjectChange<K> {
    /// The last known state of the object.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Applied(object, _) | Self::Deleted(object) => object,
        }
    }
}

/// The capacity that an empty mailbox keeps, in changes.
const RETAINED_ENTRIES_MAX: usize = 32;

/// A key with its hash, which is computed once for the mailboxes of all subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HashedKey {
    pub hash: u64,
    pub key: ObjectKey,
}

impl Hash for HashedKey {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.hash);
    }
}

/// A hasher that returns the hash that is stored in the key.
#[derive(Default)]
struct PresetHash(u64);

impl Hasher for PresetHash {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0.rotate_left(8) ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type ByKey<T> = HashMap<HashedKey, T, BuildHasherDefault<PresetHash>>;

/// The changes that wait for a subscriber.
pub(crate) struct Mailbox<K: ?Sized> {
    state: Mutex<State<K>>,
    waker: AtomicWaker,
}

struct State<K: ?Sized> {
    order: VecDeque<HashedKey>,
    pending: ByKey<Pending<K>>,
    closed: bool,
}

/// Invariant: not both empty.
struct Pending<K: ?Sized> {
    deleted: Option<Arc<K>>,
    applied: Option<(Arc<K>, Option<Arc<K>>)>,
}

impl<K: ?Sized> Mailbox<K> {
    pub(crate) fn new() -> Self {
        let state = State {
            order: VecDeque::new(),
            pending: ByKey::default(),
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            waker: AtomicWaker::new(),
        }
    }

    pub(crate) fn push(&self, key: &HashedKey, change: ObjectChange<K>) {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            // The usual case: no change waits for the key.
            let waiting = match state.pending.is_empty() {
                true => None,
                false => state.pending.remove(key),
            };
            let is_waiting = waiting.is_some();
            let merged = merge(waiting, change);
            if let Some(pending) = merged {
                state.pending.insert(key.clone(), pending);
                if !is_waiting {
                    state.order.push_back(key.clone());
                }
            } else if is_waiting {
                state.order.retain(|other| other != key);
            }
        }
        self.waker.wake();
    }

    pub(crate) fn close(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.waker.wake();
    }

    /// The next change. If there is none: whether more changes can arrive.
    fn next_change(&self) -> Result<ObjectChange<K>, bool> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(key) = state.order.pop_front() else {
            // Releases the memory of a burst.
            if state.pending.capacity() > RETAINED_ENTRIES_MAX {
                state.pending = ByKey::default();
                state.order = VecDeque::new();
            }
            return Err(!state.closed);
        };
        let Some(mut pending) = state.pending.remove(&key) else {
            return Err(!state.closed);
        };
        if let Some(object) = pending.deleted.take() {
            if pending.applied.is_some() {
                state.pending.insert(key.clone(), pending);
                state.order.push_front(key);
            }
            return Ok(ObjectChange::Deleted(object));
        }
        match pending.applied {
            Some((object, previous)) => Ok(ObjectChange::Applied(object, previous)),
            None => Err(!state.closed),
        }
    }
}

impl ObjectChange<Stored> {
    fn typed<K: Send + Sync + 'static>(self) -> Option<ObjectChange<K>> {
        match self {
            Self::Applied(object, previous) => Some(ObjectChange::Applied(
                typed(object)?,
                previous.and_then(typed),
            )),
            Self::Deleted(object) => typed(object).map(ObjectChange::Deleted),
        }
    }
}

/// Merges a change with the changes that wait for the same key.
fn merge<K: ?Sized>(waiting: Option<Pending<K>>, change: ObjectChange<K>) -> Option<Pending<K>> {
    let waiting = waiting.unwrap_or(Pending {
        deleted: None,
        applied: None,
    });
    match (change, waiting.applied) {
        (ObjectChange::Applied(object, previous), None) => Some(Pending {
            deleted: waiting.deleted,
            applied: Some((object, previous)),
        }),
        (ObjectChange::Applied(object, _), Some((_, previous))) => Some(Pending {
            deleted: waiting.deleted,
            applied: Some((object, previous)),
        }),
        // The subscriber never received the waiting object, so only the deletion of the former object is reported.
        (ObjectChange::Deleted(_), Some((_, None))) => waiting.deleted.map(|deleted| Pending {
            deleted: Some(deleted),
            applied: None,
        }),
        (ObjectChange::Deleted(object), _) => Some(Pending {
            deleted: Some(object),
            applied: None,
        }),
    }
}

/// The receiver of a subscription: a stream that ends when the cache ends.
pub struct Changes<K> {
    mailbox: Arc<Mailbox<Stored>>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Send + Sync + 'static> Changes<K> {
    pub(crate) fn new(mailbox: Arc<Mailbox<Stored>>) -> Self {
        Self {
            mailbox,
            kind: PhantomData,
        }
    }

    /// A waiting change, if there is one. It serves readers that must process all changes of the cache first.
    pub fn ready(&mut self) -> Option<ObjectChange<K>> {
        self.mailbox.next_change().ok()?.typed()
    }

    /// The next change; `None` when the cache has stopped.
    pub async fn next(&mut self) -> Option<ObjectChange<K>> {
        std::future::poll_fn(|context| self.poll_change(context)).await
    }

    /// Each change counts as one unit of work (see [`polls::spend`](process_telemetry::polls::spend)).
    fn poll_change(&self, context: &mut Context<'_>) -> Poll<Option<ObjectChange<K>>> {
        let work = ready!(coop::poll_proceed(context));
        self.mailbox.waker.register(context.waker());
        match self.mailbox.next_change() {
            Ok(change) => {
                work.made_progress();
                Poll::Ready(change.typed())
            }
            Err(true) => Poll::Pending,
            Err(false) => Poll::Ready(None),
        }
    }
}

impl<K: Send + Sync + 'static> Stream for Changes<K> {
    type Item = ObjectChange<K>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_change(context)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(revision: &str) -> Arc<ConfigMap> {
        let mut object = ConfigMap::default();
        object.metadata.resource_version = Some(revision.to_owned());
        Arc::new(object)
    }

    fn taken(mailbox: &Mailbox<ConfigMap>) -> Vec<String> {
        let text = |o: &Arc<ConfigMap>| o.metadata.resource_version.clone().unwrap_or_default();
        std::iter::from_fn(|| mailbox.next_change().ok())
            .map(|change| match change {
                ObjectChange::Applied(new, None) => format!("+{}", text(&new)),
                ObjectChange::Applied(new, Some(old)) => format!("{}>{}", text(&old), text(&new)),
                ObjectChange::Deleted(old) => format!("-{}", text(&old)),
            })
            .collect()
    }

    #[test]
    fn what_waits_is_merged_to_at_most_two_changes_per_key() {
        let key = HashedKey {
            hash: 1,
            key: ObjectKey::new("a", "b"),
        };
        let mailbox = Mailbox::new();
        mailbox.push(&key, ObjectChange::Applied(object("2"), Some(object("1"))));
        mailbox.push(&key, ObjectChange::Applied(object("3"), Some(object("2"))));
        assert_eq!(taken(&mailbox), ["1>3"]);
        mailbox.push(&key, ObjectChange::Applied(object("4"), Some(object("3"))));
        mailbox.push(&key, ObjectChange::Deleted(object("4")));
        mailbox.push(&key, ObjectChange::Applied(object("5"), None));
        mailbox.push(&key, ObjectChange::Deleted(object("5")));
        mailbox.push(&key, ObjectChange::Applied(object("6"), None));
        assert_eq!(taken(&mailbox), ["-4", "+6"]);
        mailbox.push(&key, ObjectChange::Applied(object("7"), None));
        mailbox.push(&key, ObjectChange::Deleted(object("7")));
        assert!(taken(&mailbox).is_empty());
    }
}
