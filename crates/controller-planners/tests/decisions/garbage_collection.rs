//! The garbage collector's decisions, executed on random graphs of owners.

use std::collections::{BTreeMap, BTreeSet};

use controller_planners::garbage_collection::{
    CollectedObject, CollectionDecision, Dependent, FOREGROUND, ORPHAN, Owner, OwnerState,
    Propagation, plan,
};
use proptest::prelude::*;

#[derive(Clone, Debug, Default)]
struct Object {
    /// Owners; the value is true if the reference blocks.
    owners: BTreeMap<usize, bool>,
    deleting: bool,
    finalizers: BTreeSet<&'static str>,
}

#[derive(Clone, Debug, Default)]
struct Cluster {
    objects: BTreeMap<usize, Object>,
}

impl Cluster {
    fn waits(&self, id: usize) -> bool {
        let object = self.objects.get(&id);
        object.is_some_and(|object| object.deleting && object.finalizers.contains(FOREGROUND))
    }

    fn item(&self, id: usize) -> CollectedObject {
        let object = &self.objects[&id];
        let state = |owner: usize| match self.objects.get(&owner) {
            None => OwnerState::Absent,
            Some(_) if self.waits(owner) => OwnerState::Waiting,
            Some(_) => OwnerState::Solid,
        };
        let owners = object.owners.keys();
        let dependents = self.objects.iter().filter_map(|(other, object)| {
            let blocks = *object.owners.get(&id)?;
            Some(Dependent {
                uid: other.to_string().parse().unwrap(),
                blocks,
                waiting: self.waits(*other),
            })
        });
        CollectedObject {
            deleting: object.deleting,
            finalizers: object
                .finalizers
                .iter()
                .map(|text| (*text).to_owned())
                .collect(),
            owners: owners
                .map(|owner| Owner {
                    uid: owner.to_string().parse().unwrap(),
                    state: state(*owner),
                })
                .collect(),
            dependents: dependents.collect(),
        }
    }

    /// Deletes an object as the API server does.
    fn delete(&mut self, id: usize, propagation: Propagation) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        if object.deleting {
            return;
        }
        match propagation {
            Propagation::Background => {}
            Propagation::Foreground => {
                object.finalizers.insert(FOREGROUND);
            }
            Propagation::Orphan => {
                object.finalizers.insert(ORPHAN);
            }
        }
        object.deleting = true;
        self.remove_if_free(id);
    }

    fn remove_if_free(&mut self, id: usize) {
        let free = |object: &Object| object.deleting && object.finalizers.is_empty();
        if self.objects.get(&id).is_some_and(free) {
            self.objects.remove(&id);
        }
    }

    /// Executes the decision about one object; returns whether an object has changed.
    fn step(&mut self, id: usize) -> bool {
        match plan(&self.item(id)) {
            CollectionDecision::Keep | CollectionDecision::AwaitDependents(_) => false,
            CollectionDecision::OrphanDependents => {
                self.objects.values_mut().for_each(|object| {
                    object.owners.remove(&id);
                });
                true
            }
            CollectionDecision::Finish(finalizer) => {
                self.objects
                    .get_mut(&id)
                    .unwrap()
                    .finalizers
                    .remove(finalizer);
                self.remove_if_free(id);
                true
            }
            CollectionDecision::Strip(uids) => {
                let object = self.objects.get_mut(&id).unwrap();
                object
                    .owners
                    .retain(|owner, _| !uids.iter().any(|uid| *uid == *owner.to_string().as_str()));
                true
            }
            CollectionDecision::Delete {
                propagation,
                unblock,
            } => {
                let object = self.objects.get_mut(&id).unwrap();
                if unblock && object.owners.values().any(|blocks| *blocks) {
                    object
                        .owners
                        .values_mut()
                        .for_each(|blocks| *blocks = false);
                } else {
                    self.delete(id, propagation);
                }
                true
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            let ids: Vec<usize> = self.objects.keys().copied().collect();
            let step = |id: usize| self.objects.contains_key(&id) && self.step(id);
            if ids.into_iter().map(step).filter(|changed| *changed).count() == 0 {
                return;
            }
        }
        panic!("does not come to rest: {self:?}");
    }
}

fn graph() -> impl Strategy<Value = Cluster> {
    let owners = prop::collection::btree_map(0_usize..9, any::<bool>(), 0..3);
    prop::collection::vec(owners, 8).prop_map(|all| {
        let objects = all.into_iter().enumerate().map(|(id, mut owners)| {
            owners.remove(&id);
            (
                id,
                Object {
                    owners,
                    ..Object::default()
                },
            )
        });
        Cluster {
            objects: objects.collect(),
        }
    })
}

fn propagation() -> impl Strategy<Value = Propagation> {
    prop::sample::select(vec![
        Propagation::Background,
        Propagation::Foreground,
        Propagation::Orphan,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// After any deletion the collector becomes idle, deleted objects are removed, and no remaining object has only
    /// absent owners.
    #[test]
    fn deletions_come_to_an_end(
        mut cluster in graph(),
        deletions in prop::collection::vec((0_usize..8, propagation()), 1..4),
    ) {
        cluster.settle();
        for (id, propagation) in deletions {
            cluster.delete(id, propagation);
            cluster.settle();
        }
        for (id, object) in &cluster.objects {
            prop_assert!(!object.deleting, "{id} is not gone: {cluster:?}");
            prop_assert!(object.owners.keys().all(|owner| cluster.objects.contains_key(owner)));
        }
    }

    /// An object with an owner that stays is never deleted, and an object without an owner is never deleted either.
    #[test]
    fn what_has_an_owner_stays(mut cluster in graph(), id in 0_usize..8, how in propagation()) {
        cluster.settle();
        let before = cluster.clone();
        cluster.delete(id, how);
        cluster.settle();
        for (other, object) in &before.objects {
            let is_deleted = !cluster.objects.contains_key(other);
            if *other == id || !is_deleted {
                continue;
            }
            prop_assert!(how != Propagation::Orphan, "{other} went with an orphaning owner");
            let owner_left = object.owners.keys().any(|owner| cluster.objects.contains_key(owner));
            prop_assert!(!owner_left && !object.owners.is_empty(), "{other} went: {before:?}");
        }
    }
}
