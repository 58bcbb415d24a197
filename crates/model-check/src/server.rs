//! The API server: each write is one step, and is refused if the real server would refuse it.
//!
//! The model also checks rules about the objects of the API server, not about a controller's caches, so that no
//! controller can violate a rule unnoticed.

use controller_planners::stateful_set::write_schedule::WriteOutcome;

use crate::claim_edits;
use crate::seeded::Guards;
use crate::state::{
    Claim, ClaimFate, Health, Kind, ModelState, Op, Phase, Pod, Recovery, Revision, Set, Status,
    Volume,
};

/// The reply to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Done,
    /// An object has the name already.
    AlreadyExists,
    /// The object does not exist.
    NotFound,
    /// The object has another UID or another version.
    Conflict,
    /// The guard of the set's policy holds the pod.
    Held,
}

impl Reply {
    /// The executor's interpretation of the reply; equal to that of the real API server's replies.
    pub fn outcome(self, op: &Op) -> WriteOutcome {
        let harmless = match op {
            // Another writer was faster.
            Op::DeletePod { .. } | Op::EvictPod { .. } | Op::DeleteRevision { .. } => {
                matches!(self, Self::NotFound | Self::Conflict)
            }
            Op::WriteStatus { .. } => self == Self::NotFound,
            _ => false,
        };
        if self == Self::Done || harmless {
            WriteOutcome::Done
        } else {
            WriteOutcome::Refused
        }
    }
}

/// Executes a write.
pub fn write(state: &mut ModelState, op: &Op, guards: Guards) -> Reply {
    match *op {
        Op::ConfirmSet { set } => match &state.api.set {
            Some(live) if live.uid == set && live.deleting.is_none() => Reply::Done,
            _ => Reply::Conflict,
        },
        Op::AdoptRevision { template, uid, set } => {
            patch_revision(state, template, uid, |revision| {
                let is_adoptable = revision.owner.is_none_or(|owner| owner == set);
                revision.owner = if is_adoptable {
                    Some(set)
                } else {
                    revision.owner
                };
                is_adoptable
            })
        }
        Op::RenumberRevision {
            template,
            uid,
            number,
        } => patch_revision(state, template, uid, |revision| {
            revision.number = number;
            true
        }),
        Op::RejectRevision {
            template,
            uid,
            verdict,
        } => patch_revision(state, template, uid, |revision| {
            revision.rejected = Some(verdict);
            true
        }),
        Op::CreateRevision {
            template,
            number,
            set,
        } => {
            if state.api.revisions[usize::from(template)].is_some() {
                return Reply::AlreadyExists;
            }
            let uid = state.fresh(Kind::Revision);
            state.api.revisions[usize::from(template)] = Some(Revision {
                uid,
                owner: Some(set),
                number,
                rejected: None,
            });
            Reply::Done
        }
        Op::DeleteRevision { template, uid } => {
            match state.api.revisions[usize::from(template)] {
                None => return Reply::NotFound,
                Some(revision) if revision.uid != uid => return Reply::Conflict,
                Some(_) => {}
            }
            state.api.revisions[usize::from(template)] = None;
            Reply::Done
        }
        Op::AdoptPod { ordinal, uid, set } => patch_pod(state, ordinal, uid, |pod| {
            let is_adoptable = pod.owner.is_none_or(|owner| owner == set);
            pod.owner = if is_adoptable { Some(set) } else { pod.owner };
            is_adoptable
        }),
        Op::ReleasePod { ordinal, uid } => patch_pod(state, ordinal, uid, |pod| {
            pod.owner = None;
            true
        }),
        Op::LabelPod { ordinal, uid } => patch_pod(state, ordinal, uid, |_| true),
        Op::CreatePod {
            ordinal,
            revision,
            set,
        } => create_pod(state, ordinal, revision, set, guards),
        Op::DeletePod { ordinal, uid, .. } => delete_pod(state, ordinal, uid, guards),
        Op::EvictPod { ordinal, uid, .. } => evict_pod(state, ordinal, uid, guards),
        Op::CreateClaim {
            ordinal,
            set,
            volume,
        } => create_claim(state, ordinal, set, volume),
        Op::EditClaim { .. } => edit_claim(state, op, guards),
        Op::SetClaimOwners { .. } => set_owners(state, op, guards),
        Op::WriteStatus { .. } => write_status(state, op, guards),
    }
}

fn patch_revision(
    state: &mut ModelState,
    template: u8,
    uid: u8,
    change: impl FnOnce(&mut Revision) -> bool,
) -> Reply {
    match &mut state.api.revisions[usize::from(template)] {
        None => Reply::NotFound,
        Some(revision) if revision.uid != uid => Reply::Conflict,
        Some(revision) => patch_reply(change(revision)),
    }
}

fn patch_reply(is_allowed: bool) -> Reply {
    if is_allowed {
        Reply::Done
    } else {
        Reply::Conflict
    }
}

fn patch_pod(
    state: &mut ModelState,
    ordinal: u8,
    uid: u8,
    change: impl FnOnce(&mut Pod) -> bool,
) -> Reply {
    match &mut state.api.pods[usize::from(ordinal)] {
        None => Reply::NotFound,
        Some(pod) if pod.uid != uid => Reply::Conflict,
        Some(pod) => patch_reply(change(pod)),
    }
}

fn create_pod(state: &mut ModelState, ordinal: u8, revision: u8, set: u8, guards: Guards) -> Reply {
    let index = usize::from(ordinal);
    if state.api.pods[index].is_some() && guards.create_by_name {
        return Reply::AlreadyExists;
    }
    let recreates = state.api.set.is_some_and(|set| set.spec.recreate);
    let mut others = state.api.pods.iter().flatten();
    if recreates && others.any(|other| other.revision != revision) {
        state.breaks("pods of two revisions exist at once");
    }
    let uid = state.fresh(Kind::Pod);
    state.api.pods[index] = Some(Pod {
        uid,
        owner: Some(set),
        revision,
        phase: Phase::Pending,
        health: Health::Never,
        is_overdue: false,
        passes_health: false,
        recovery: Recovery::Pending,
        is_announced: false,
        terminating: false,
        node: None,
    });
    Reply::Done
}

fn delete_pod(state: &mut ModelState, ordinal: u8, uid: u8, guards: Guards) -> Reply {
    let index = usize::from(ordinal);
    let Some(pod) = state.api.pods[index] else {
        return Reply::NotFound;
    };
    if pod.uid != uid {
        if guards.delete_by_uid {
            return Reply::Conflict;
        }
        state.breaks(format!(
            "the pod web-{ordinal} that is deleted is not the one that was meant"
        ));
    }
    let spec = state.api.set.map(|set| set.spec);
    let was_healthy = spec.is_some_and(|spec| pod.is_healthy(spec.checks));
    if guards.delete_gracefully {
        terminate(state, index);
    } else {
        state.api.pods[index] = None;
    }
    let needed = spec.map_or(0, |spec| usize::from(spec.min_healthy));
    if was_healthy && state.healthy_in_group() < needed {
        state.breaks("fewer healthy pods than the guard demands");
    }
    let mut healthy = state.healthy_pods();
    let recovering = healthy.find(|(_, pod)| pod.recovery != Recovery::Passed);
    let recovering = recovering.map(|(at, _)| at);
    drop(healthy);
    if let Some(at) = recovering
        && was_healthy
        && spec.is_some_and(|spec| spec.checks.recovery)
    {
        state.breaks(format!(
            "the healthy pod web-{ordinal} is deleted while web-{at} has not recovered"
        ));
    }
    Reply::Done
}

/// Evicts a pod for the controller or for a user (rollouts.md R28).
pub fn evict_pod(state: &mut ModelState, ordinal: u8, uid: u8, guards: Guards) -> Reply {
    match permits_eviction(state, ordinal, uid, guards) {
        Reply::Done => delete_pod(state, ordinal, uid, guards),
        refusal => refusal,
    }
}

/// Evicts a pod of the other set that shares the guard, if the guard permits it (rollouts.md R28).
pub fn evict_other(state: &mut ModelState, guards: Guards) {
    let needed = state.api.set.map_or(0, |set| set.spec.min_healthy);
    let needed = usize::from(needed);
    if guards.eviction_counts && state.healthy_in_group() <= needed {
        return;
    }
    state.api.healthy_others -= 1;
    if state.healthy_in_group() < needed {
        state.breaks("fewer healthy pods than the guard demands");
    }
}

/// The decision about an eviction: `Done` if the guard permits it.
pub fn permits_eviction(state: &ModelState, ordinal: u8, uid: u8, guards: Guards) -> Reply {
    let (Some(set), Some(pod)) = (state.api.set, state.pod_with(ordinal, uid)) else {
        return Reply::NotFound;
    };
    let others = || {
        state
            .healthy_pods()
            .filter(|(at, _)| *at != usize::from(ordinal))
    };
    let healthy = others().count() + usize::from(state.api.healthy_others);
    let is_enough = healthy >= usize::from(set.spec.min_healthy);
    let awaits_recovery = set.spec.checks.recovery && guards.eviction_awaits_recovery;
    let is_recovering = others().any(|(_, pod)| pod.recovery == Recovery::Pending);
    let is_held = !is_enough || (awaits_recovery && is_recovering);
    if guards.eviction_counts && pod.is_healthy(set.spec.checks) && is_held {
        return Reply::Held;
    }
    Reply::Done
}

/// Marks a pod for deletion. A pod without a node is removed at once.
pub fn terminate(state: &mut ModelState, index: usize) {
    let pod = &mut state.api.pods[index];
    match pod {
        Some(existing) if existing.node.is_none() => *pod = None,
        Some(existing) => existing.terminating = true,
        None => {}
    }
}

fn create_claim(state: &mut ModelState, ordinal: u8, set: Option<u8>, volume: Volume) -> Reply {
    let index = usize::from(ordinal);
    if state.api.claims[index].is_some() {
        return Reply::AlreadyExists;
    }
    let uid = state.fresh(Kind::Claim);
    let version = state.fresh(Kind::ClaimVersion);
    state.api.claims[index] = Some(Claim {
        uid,
        version,
        owners: crate::state::Owners { set, pod: None },
        terminating: false,
        volume,
    });
    let is_desired = state.api.set.is_some_and(|set| set.spec.desires(index));
    state.fates[index] = if is_desired {
        ClaimFate::Retained
    } else {
        ClaimFate::Open
    };
    Reply::Done
}

fn edit_claim(state: &mut ModelState, op: &Op, guards: Guards) -> Reply {
    let Op::EditClaim {
        ordinal,
        uid,
        version,
        edit,
    } = *op
    else {
        return Reply::NotFound;
    };
    let index = usize::from(ordinal);
    let Some(claim) = state.api.claims[index] else {
        return Reply::NotFound;
    };
    if claim.uid != uid || (guards.edits_by_version && claim.version != version) {
        return Reply::Conflict;
    }
    claim_edits::edit(state, index, edit);
    Reply::Done
}

fn set_owners(state: &mut ModelState, op: &Op, guards: Guards) -> Reply {
    let Op::SetClaimOwners {
        ordinal,
        uid,
        version,
        owners,
    } = *op
    else {
        return Reply::NotFound;
    };
    let index = usize::from(ordinal);
    let next = state.fresh(Kind::ClaimVersion);
    let Some(claim) = &mut state.api.claims[index] else {
        return Reply::NotFound;
    };
    let is_current = (claim.uid, claim.version) == (uid, version);
    if guards.owners_by_version && !is_current {
        return Reply::Conflict;
    }
    if claim.owners == owners {
        return Reply::Done;
    }
    let removes_pod_owner = claim.owners.pod.is_some() && owners.pod.is_none();
    claim.owners = owners;
    claim.version = next;
    if removes_pod_owner && state.api.set.is_some_and(|set| set.spec.desires(index)) {
        state.fates[index] = ClaimFate::Retained;
    }
    // A controller with old caches may still add owners to a claim that must be retained.
    if is_current && owners.pod.is_some() {
        state.open_fate(index);
    }
    Reply::Done
}

fn write_status(state: &mut ModelState, op: &Op, guards: Guards) -> Reply {
    let Op::WriteStatus {
        set: uid,
        version,
        generation,
        text,
    } = *op
    else {
        return Reply::NotFound;
    };
    let next = state.fresh(Kind::SetVersion);
    let Some(set) = &mut state.api.set else {
        return Reply::NotFound;
    };
    if set.uid != uid || (guards.status_by_version && set.version != version) {
        return Reply::Conflict;
    }
    let is_up_to_date = |set: &Set| set.status.is_some_and(|s| s.observed == set.generation);
    let was_current = is_up_to_date(set);
    set.status = Some(Status {
        observed: generation,
        text,
    });
    set.version = next;
    let is_current = is_up_to_date(set);
    if was_current && !is_current {
        state.breaks("the status goes back to a generation that is past");
    }
    Reply::Done
}
