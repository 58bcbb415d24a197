//! Index terms of objects: the UID of their controller or its absence, and their name up to the
//! last dash.

use controller_framework::{Cache, Changes, Object, ObjectChange, object_key};
use controller_planners::ownership;
use kube_api_client::Resource;
use object_model::ObjectKey;
use resource_kinds::pod_view::PodView;

/// An object that may have a controller.
pub(crate) struct OwnedObject<'o> {
    pub key: ObjectKey,
    pub controller: Option<Controller<'o>>,
}

/// The controller of an object.
pub(crate) struct Controller<'o> {
    pub kind: &'o str,
    pub name: &'o str,
    pub uid: &'o str,
}

impl<'o> OwnedObject<'o> {
    pub fn of<K: Resource>(object: &'o K) -> Self {
        let controller = ownership::controller(object.meta().owner_references.as_deref());
        Self {
            key: object_key(object),
            controller: controller.map(|owner| Controller {
                kind: &owner.kind,
                name: &owner.name,
                uid: owner.uid.as_str(),
            }),
        }
    }

    pub fn of_pod(pod: &'o PodView) -> Self {
        Self {
            key: pod.key(),
            controller: pod.controller.as_ref().map(|owner| Controller {
                kind: &owner.kind,
                name: &owner.name,
                uid: owner.uid.as_str(),
            }),
        }
    }

    /// Its index terms.
    fn terms(&self) -> Vec<String> {
        let by_owner = match &self.controller {
            Some(owner) => owned_by(owner.uid),
            None => orphan_in(&self.key.namespace),
        };
        vec![by_owner, named(&self.key.namespace, stem(&self.key.name))]
    }
}

/// The index terms of an object.
pub(crate) fn terms<K: Resource>(object: &K) -> Vec<String> {
    OwnedObject::of(object).terms()
}

/// The index terms of a pod.
pub(crate) fn pod_terms(pod: &PodView) -> Vec<String> {
    OwnedObject::of_pod(pod).terms()
}

/// The index term of objects whose controller has that UID.
pub(crate) fn owned_by(uid: &str) -> String {
    format!("uid:{uid}")
}

/// The index term of objects without a controller.
pub(crate) fn orphan_in(namespace: &str) -> String {
    format!("orphan:{namespace}")
}

/// The index term of objects whose name begins with that stem.
pub(crate) fn named(namespace: &str, stem: &str) -> String {
    format!("name:{namespace}/{stem}")
}

/// The name up to the last dash: `web` of `web-3` and of `web-776999688b`.
pub(crate) fn stem(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(stem, _)| stem)
}

/// The owners of a kind that a change of an object affects: its controllers, now or before the change; all owners of
/// the namespace if the object has no controller.
pub(crate) fn owners_of<K: Resource, O: Object>(
    change: &ObjectChange<K>,
    owners: &Cache<O>,
    kind: &str,
) -> Vec<ObjectKey> {
    owners_now_and_before(change, |object| OwnedObject::of(object), owners, kind)
}

/// The owners that a change of a pod affects.
pub(crate) fn owners_of_pod<O: Object>(
    change: &ObjectChange<PodView>,
    owners: &Cache<O>,
    kind: &str,
) -> Vec<ObjectKey> {
    owners_now_and_before(change, |pod| OwnedObject::of_pod(pod), owners, kind)
}

/// The changes of pods that can affect an owner of a kind: changes of the owner's pods and of orphans.
pub(crate) fn pods_for_owners(kind: &'static str, pods: &Cache<PodView>) -> Changes<PodView> {
    pods.subscribe_to_changes(move |old, new| {
        let states = old.into_iter().chain(new);
        let mut controllers = states.map(|pod| pod.controller.as_ref());
        controllers.any(|controller| controller.is_none_or(|owner| *owner.kind == *kind))
    })
}

fn owners_now_and_before<K, O: Object>(
    change: &ObjectChange<K>,
    owned: impl Fn(&K) -> OwnedObject<'_>,
    owners: &Cache<O>,
    kind: &str,
) -> Vec<ObjectKey> {
    let mut keys = owners_now(&owned(change.object()), owners, kind);
    if let ObjectChange::Applied(_, Some(previous)) = change {
        for key in owners_now(&owned(previous), owners, kind) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

fn owners_now<O: Object>(
    object: &OwnedObject<'_>,
    owners: &Cache<O>,
    kind: &str,
) -> Vec<ObjectKey> {
    match &object.controller {
        Some(owner) if owner.kind == kind => {
            let key = ObjectKey::new(object.key.namespace.clone(), owner.name);
            owners.get_key(&key).map(|_| key).into_iter().collect()
        }
        Some(_) => Vec::new(),
        None => {
            let candidates = owners.list_in(&object.key.namespace).into_iter();
            candidates.map(|owner| object_key(owner.as_ref())).collect()
        }
    }
}

/// The key of a changed object. A change of the status counts too, because the controller corrects writes of other
/// programs to the status.
pub(crate) fn key_of<K: Object>(change: &ObjectChange<K>) -> ObjectKey {
    object_key(change.object().as_ref())
}

/// The key of a new object.
pub(crate) fn key_if_new<K: Object>(change: &ObjectChange<K>) -> Option<ObjectKey> {
    match change {
        ObjectChange::Applied(new, None) => Some(object_key(new.as_ref())),
        _ => None,
    }
}

/// The key of an object whose specification changed; changes of the status are ignored, because only its controller
/// writes the status.
pub(crate) fn key_if_spec_changed<K: Object>(change: &ObjectChange<K>) -> Option<ObjectKey> {
    if let ObjectChange::Applied(new, Some(old)) = change {
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
    Some(object_key(change.object().as_ref()))
}
