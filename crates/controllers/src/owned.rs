//! What objects are found by: their controller's uid or that they have none, and their name up to
//! the last dash.

use kube::Resource;
use planners::ownership::controller;
use reconcile::{Cache, Change, Key, Object};

/// The terms of an object, for an index.
pub(crate) fn terms<K: Resource>(object: &K) -> Vec<String> {
    let meta = object.meta();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let by_owner = match controller(meta.owner_references.as_deref()) {
        Some(owner) => owned_by(&owner.uid),
        None => orphan_in(namespace),
    };
    vec![
        by_owner,
        named(namespace, stem(meta.name.as_deref().unwrap_or_default())),
    ]
}

/// The term of what is controlled by the object with that uid.
pub(crate) fn owned_by(uid: &str) -> String {
    format!("uid:{uid}")
}

/// The term of what nothing controls.
pub(crate) fn orphan_in(namespace: &str) -> String {
    format!("orphan:{namespace}")
}

/// The term of what has that name but for its last part.
pub(crate) fn named(namespace: &str, stem: &str) -> String {
    format!("name:{namespace}/{stem}")
}

/// `web-3` and `web-776999688b` are of `web`.
pub(crate) fn stem(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(stem, _)| stem)
}

/// The owners of a kind that a change of an object may concern: those that control it, now or
/// before; all of the namespace if nothing does.
pub(crate) fn owners_of<K: Object, O: Object>(
    change: &Change<K>,
    owners: &Cache<O>,
    kind: &str,
) -> Vec<Key> {
    let mut keys = owners_now(change.object().as_ref(), owners, kind);
    if let Change::Applied(_, Some(previous)) = change {
        for key in owners_now(previous.as_ref(), owners, kind) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

fn owners_now<K: Resource, O: Object>(object: &K, owners: &Cache<O>, kind: &str) -> Vec<Key> {
    let meta = object.meta();
    let namespace = meta.namespace.clone().unwrap_or_default();
    match controller(meta.owner_references.as_deref()) {
        Some(owner) if owner.kind == kind => {
            let key = Key::new(namespace, owner.name.clone());
            owners.get_key(&key).map(|_| key).into_iter().collect()
        }
        Some(_) => Vec::new(),
        None => {
            let candidates = owners.list_in(&namespace).into_iter();
            candidates.map(|owner| Key::of(owner.as_ref())).collect()
        }
    }
}

/// The key of an object that has changed in what it asks for; its status is its controller's own.
pub(crate) fn key_if_asked<K: Object>(change: &Change<K>) -> Option<Key> {
    if let Change::Applied(new, Some(old)) = change {
        let (new, old) = (new.meta(), old.meta());
        let same = new.uid == old.uid
            && new.generation == old.generation
            && new.deletion_timestamp == old.deletion_timestamp
            && new.annotations == old.annotations
            && new.labels == old.labels
            && new.finalizers == old.finalizers;
        if same {
            return None;
        }
    }
    Some(Key::of(change.object().as_ref()))
}
