//! Garbage collection: an object is deleted when all its owners are deleted.
//!
//! **Goal**: objects whose owners have all been deleted are deleted, and an owner that waits for its dependents is
//! deleted after the last dependent. **Relies on**: a confirmation by the API server itself that an owner is absent.
//! **Guarantees**: an object with a remaining owner is never deleted; a dependent that is to be orphaned loses its
//! reference before its owner is deleted.

use object_model::Uid;

/// Finalizer of an owner whose dependents are orphaned.
pub const ORPHAN: &str = "orphan";
/// Finalizer of an owner that waits for its dependents' deletion.
pub const FOREGROUND: &str = "foregroundDeletion";

/// The state of an owner, which decides about its dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// The owner exists.
    Solid,
    /// The owner is being deleted and waits for its dependents.
    Waiting,
    /// The owner does not exist, or another object has its name.
    Absent,
}

/// An owner of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// UID of the owner.
    pub uid: Uid,
    /// Whether the owner exists, and whether it waits for its dependents.
    pub state: OwnerState,
}

/// An object that names the collected object as an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependent {
    /// UID of the dependent.
    pub uid: Uid,
    /// Whether its reference has `blockOwnerDeletion`.
    pub blocks: bool,
    /// Whether it is being deleted and waits for its own dependents.
    pub waiting: bool,
}

/// The facts of an object that the collector reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectedObject {
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its finalizers (`metadata.finalizers`).
    pub finalizers: Vec<String>,
    /// Its owners (`metadata.ownerReferences`).
    pub owners: Vec<Owner>,
    /// The objects that have it as an owner.
    pub dependents: Vec<Dependent>,
}

impl CollectedObject {
    /// Whether the decision depends on the dependents; the caller reads the dependents only then, because an owner may
    /// have many.
    pub fn needs_dependents(&self) -> bool {
        match self.deleting {
            true => self.has(ORPHAN) || self.has(FOREGROUND),
            false => {
                let mut owners = self.owners.iter();
                owners.any(|owner| owner.state == OwnerState::Waiting)
            }
        }
    }

    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|other| other == finalizer)
    }
}

/// The effect of an object's deletion on its dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// The dependents are deleted after the object.
    Background,
    /// The dependents are deleted before the object.
    Foreground,
    /// The dependents stay, without the owner.
    Orphan,
}

/// The decision about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CollectionDecision {
    /// No action.
    Keep,
    /// Remove the owner reference from its dependents, then remove the finalizer.
    OrphanDependents,
    /// Process these dependents: they block the object's deletion.
    AwaitDependents(Vec<Uid>),
    /// Remove the finalizer: no dependent blocks the object any more.
    Finish(&'static str),
    /// Remove these owner references.
    Strip(Vec<Uid>),
    Delete {
        /// The effect on its dependents.
        propagation: Propagation,
        /// Whether its references must first stop blocking, because it is part of a cycle.
        unblock: bool,
    },
}

/// Decides about one object. Total.
pub fn plan(item: &CollectedObject) -> CollectionDecision {
    if item.deleting {
        return finish(item);
    }
    let of = |state: OwnerState| item.owners.iter().filter(move |owner| owner.state == state);
    if of(OwnerState::Solid).next().is_some() {
        let rest = item
            .owners
            .iter()
            .filter(|owner| owner.state != OwnerState::Solid);
        let rest: Vec<Uid> = rest.map(|owner| owner.uid.clone()).collect();
        return if rest.is_empty() {
            CollectionDecision::Keep
        } else {
            CollectionDecision::Strip(rest)
        };
    }
    if item.owners.is_empty() {
        return CollectionDecision::Keep;
    }
    // An owner waits for this object, so this object must wait for its own dependents as well.
    if of(OwnerState::Waiting).next().is_some() && !item.dependents.is_empty() {
        let unblock = item.dependents.iter().any(|dependent| dependent.waiting);
        return CollectionDecision::Delete {
            propagation: Propagation::Foreground,
            unblock,
        };
    }
    let propagation = if item.has(ORPHAN) {
        Propagation::Orphan
    } else if item.has(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    CollectionDecision::Delete {
        propagation,
        unblock: false,
    }
}

/// The remaining action for an object that is being deleted.
fn finish(item: &CollectedObject) -> CollectionDecision {
    if item.has(ORPHAN) {
        return if item.dependents.is_empty() {
            CollectionDecision::Finish(ORPHAN)
        } else {
            CollectionDecision::OrphanDependents
        };
    }
    if !item.has(FOREGROUND) {
        return CollectionDecision::Keep;
    }
    let blocking = item.dependents.iter().filter(|dependent| dependent.blocks);
    let blocking: Vec<Uid> = blocking.map(|dependent| dependent.uid.clone()).collect();
    if blocking.is_empty() {
        CollectionDecision::Finish(FOREGROUND)
    } else {
        CollectionDecision::AwaitDependents(blocking)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(states: &[OwnerState]) -> CollectedObject {
        let owners = states.iter().enumerate();
        let owners = owners.map(|(n, state)| Owner {
            uid: format!("o{n}").parse().unwrap(),
            state: *state,
        });
        CollectedObject {
            owners: owners.collect(),
            ..CollectedObject::default()
        }
    }

    fn dependent(blocks: bool, waiting: bool) -> Dependent {
        Dependent {
            uid: "d".parse().unwrap(),
            blocks,
            waiting,
        }
    }

    const BACKGROUND: CollectionDecision = CollectionDecision::Delete {
        propagation: Propagation::Background,
        unblock: false,
    };

    /// statefulset.md 13.2: an object with one remaining owner stays; the references to absent owners are removed.
    #[test]
    fn one_solid_owner_keeps_an_object() {
        use OwnerState::{Absent, Solid, Waiting};
        assert_eq!(plan(&owned(&[])), CollectionDecision::Keep);
        assert_eq!(plan(&owned(&[Solid])), CollectionDecision::Keep);
        let strip = CollectionDecision::Strip(["o0", "o2"].map(|uid| uid.parse().unwrap()).into());
        assert_eq!(plan(&owned(&[Absent, Solid, Waiting])), strip);
    }

    /// statefulset.md 13.2: an object without a remaining owner is deleted, with the propagation that its finalizers
    /// demand.
    #[test]
    fn an_object_without_solid_owners_goes() {
        use OwnerState::{Absent, Waiting};
        assert_eq!(plan(&owned(&[Absent])), BACKGROUND);
        assert_eq!(plan(&owned(&[Absent, Waiting])), BACKGROUND);
        let mut item = owned(&[Absent]);
        item.finalizers = vec![ORPHAN.to_owned()];
        let orphan = CollectionDecision::Delete {
            propagation: Propagation::Orphan,
            unblock: false,
        };
        assert_eq!(plan(&item), orphan);
    }

    /// statefulset.md 13.2: a foreground deletion continues to the dependents of dependents, and ends in cycles of
    /// owners.
    #[test]
    fn foreground_goes_down() {
        let mut item = owned(&[OwnerState::Waiting]);
        item.dependents = vec![dependent(true, false)];
        let delete = |unblock| CollectionDecision::Delete {
            propagation: Propagation::Foreground,
            unblock,
        };
        assert_eq!(plan(&item), delete(false));
        item.dependents = vec![dependent(true, true)];
        assert_eq!(plan(&item), delete(true));
    }

    /// statefulset.md 8.6, 8.7: an object that is being deleted waits for its dependents, or orphans them.
    #[test]
    fn an_owner_goes_when_its_dependents_are_dealt_with() {
        let mut item = CollectedObject {
            deleting: true,
            ..CollectedObject::default()
        };
        assert_eq!(plan(&item), CollectionDecision::Keep);
        item.finalizers = vec![FOREGROUND.to_owned()];
        assert_eq!(plan(&item), CollectionDecision::Finish(FOREGROUND));
        item.dependents = vec![dependent(false, false)];
        assert_eq!(plan(&item), CollectionDecision::Finish(FOREGROUND));
        item.dependents = vec![dependent(true, false)];
        assert_eq!(
            plan(&item),
            CollectionDecision::AwaitDependents(vec!["d".parse().unwrap()])
        );
        item.finalizers = vec![ORPHAN.to_owned()];
        assert_eq!(plan(&item), CollectionDecision::OrphanDependents);
        item.dependents.clear();
        assert_eq!(plan(&item), CollectionDecision::Finish(ORPHAN));
    }
}
