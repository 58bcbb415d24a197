//! The identities in a state, and their new numbers: histories that lead to an equal situation lead to an equal state.

use crate::state::{Id, KINDS, Kind, ModelState, Objects, Op, Owners};

/// A value that contains identities.
pub trait Ids {
    /// Calls `visit` for each identity, always in an equal order.
    fn ids(&mut self, visit: &mut dyn FnMut(Kind, &mut Id));
}

const IDS_MAX: usize = 64;

/// New numbers for identities, in the order of their first occurrence.
pub struct Renumbering {
    new: [[Id; IDS_MAX]; KINDS],
    old: [[Id; IDS_MAX]; KINDS],
    /// The number of new numbers of each kind.
    pub next: [Id; KINDS],
}

impl Default for Renumbering {
    fn default() -> Self {
        Self {
            new: [[Id::MAX; IDS_MAX]; KINDS],
            old: [[Id::MAX; IDS_MAX]; KINDS],
            next: [0; KINDS],
        }
    }
}

impl Renumbering {
    /// Replaces an identity by its new number.
    pub fn apply(&mut self, kind: Kind, id: &mut Id) {
        let kind = kind as usize;
        let new = &mut self.new[kind][usize::from(*id)];
        if *new == Id::MAX {
            *new = self.next[kind];
            self.old[kind][usize::from(*new)] = *id;
            self.next[kind] += 1;
        }
        *id = *new;
    }

    /// Replaces a new number by its original identity.
    pub fn undo(&self, kind: Kind, id: &mut Id) {
        *id = self.old[kind as usize][usize::from(*id)];
    }
}

impl Ids for ModelState {
    fn ids(&mut self, visit: &mut dyn FnMut(Kind, &mut Id)) {
        self.api.ids(visit);
        self.cached.ids(visit);
        if let Some(cached) = &mut self.former_cached {
            cached.ids(visit);
        }
        for work in [&mut self.work, &mut self.former].into_iter().flatten() {
            for (_, op) in &mut work.ops {
                op.ids(visit);
            }
        }
        for pod in self.late_results.iter_mut().flatten() {
            visit(Kind::Pod, pod);
        }
        for instance in &mut self.instances {
            visit(Kind::Pod, &mut instance.uid);
        }
    }
}

impl Ids for Objects {
    fn ids(&mut self, visit: &mut dyn FnMut(Kind, &mut Id)) {
        if let Some(set) = &mut self.set {
            visit(Kind::Set, &mut set.uid);
            visit(Kind::SetVersion, &mut set.version);
            visit(Kind::Generation, &mut set.generation);
            if let Some(status) = &mut set.status {
                visit(Kind::Generation, &mut status.observed);
            }
        }
        for pod in self.pods.iter_mut().flatten() {
            visit(Kind::Pod, &mut pod.uid);
            if let Some(owner) = &mut pod.owner {
                visit(Kind::Set, owner);
            }
        }
        for claim in self.claims.iter_mut().flatten() {
            visit(Kind::Claim, &mut claim.uid);
            visit(Kind::ClaimVersion, &mut claim.version);
            claim.owners.ids(visit);
        }
        for revision in self.revisions.iter_mut().flatten() {
            visit(Kind::Revision, &mut revision.uid);
            if let Some(owner) = &mut revision.owner {
                visit(Kind::Set, owner);
            }
        }
    }
}

impl Ids for Owners {
    fn ids(&mut self, visit: &mut dyn FnMut(Kind, &mut Id)) {
        if let Some(set) = &mut self.set {
            visit(Kind::Set, set);
        }
        if let Some(pod) = &mut self.pod {
            visit(Kind::Pod, pod);
        }
    }
}

impl Ids for Op {
    fn ids(&mut self, visit: &mut dyn FnMut(Kind, &mut Id)) {
        match self {
            Self::ConfirmSet { set }
            | Self::CreateRevision { set, .. }
            | Self::CreatePod { set, .. } => visit(Kind::Set, set),
            Self::AdoptRevision { uid, set, .. } => {
                visit(Kind::Revision, uid);
                visit(Kind::Set, set);
            }
            Self::AdoptPod { uid, set, .. } => {
                visit(Kind::Pod, uid);
                visit(Kind::Set, set);
            }
            Self::RenumberRevision { uid, .. }
            | Self::DeleteRevision { uid, .. }
            | Self::RejectRevision { uid, .. } => {
                visit(Kind::Revision, uid);
            }
            Self::CreateClaim { set, .. } => {
                if let Some(set) = set {
                    visit(Kind::Set, set);
                }
            }
            Self::SetClaimOwners {
                uid,
                version,
                owners,
                ..
            } => {
                visit(Kind::Claim, uid);
                visit(Kind::ClaimVersion, version);
                owners.ids(visit);
            }
            Self::EditClaim { uid, version, .. } => {
                visit(Kind::Claim, uid);
                visit(Kind::ClaimVersion, version);
            }
            Self::ReleasePod { uid, .. }
            | Self::LabelPod { uid, .. }
            | Self::DeletePod { uid, .. }
            | Self::EvictPod { uid, .. } => visit(Kind::Pod, uid),
            Self::WriteStatus {
                set,
                version,
                generation,
                ..
            } => {
                visit(Kind::Set, set);
                visit(Kind::SetVersion, version);
                visit(Kind::Generation, generation);
            }
        }
    }
}
