//! Claims that follow edits of their template (rollouts.md C3–C8): the writes, the growth of volumes, and the rules.

use resource_kinds::reasons::stateful_set as reasons;

use crate::plans::Planned;
use crate::seeded::Guards;
use crate::state::{
    Budget, Claim, Kind, ModelState, ORDINALS, Op, Phase, Set, Volume, VolumeChange,
};
use crate::world::{Edit, Fault, World};

/// The label that users give to claims.
const LABEL_OF_USERS: u8 = 9;
/// `claims.parallel`, its default.
const PARALLEL: usize = 1;
/// `claims.failures`, its default.
const FAILURES: usize = 1;

impl Volume {
    /// Whether the storage of a bound claim is to grow, and has not failed to.
    pub fn grows(&self) -> bool {
        self.capacity > 0
            && self.request > self.capacity.max(self.storage)
            && self.failed != self.request
    }

    /// Whether only the file system of the volume is to grow.
    fn has_new_storage(&self) -> bool {
        self.storage > 0 && self.failed == 0
    }

    fn has_failed(&self) -> bool {
        self.capacity > 0 && self.request > self.capacity && self.failed == self.request
    }
}

/// Changes a claim, which gets a new version.
fn with_volume(state: &mut ModelState, at: usize, change: impl FnOnce(&mut Volume)) {
    let version = state.fresh(Kind::ClaimVersion);
    if let Some(claim) = &mut state.api.claims[at] {
        change(&mut claim.volume);
        claim.version = version;
    }
}

/// Checks a write before it is executed: an edit of a claim deletes no pod, does not shrink a volume, and does not change
/// too many volumes at once.
pub fn check(world: &World, state: &mut ModelState, op: &Op, guards: Guards) {
    match *op {
        Op::DeletePod { ordinal, uid, .. } | Op::EvictPod { ordinal, uid, .. }
            if only_edits_claims(world) =>
        {
            let pod = state.pod_with(ordinal, uid);
            if pod.is_some_and(|pod| pod.phase != Phase::Ended && !pod.terminating) {
                state.breaks(format!("web-{ordinal} is deleted for an edit of its claim"));
            }
        }
        Op::EditClaim {
            ordinal,
            uid,
            version,
            edit: VolumeChange::Request(request),
        } => {
            let at = usize::from(ordinal);
            let applies = |claim: &Claim| {
                claim.uid == uid && (claim.version == version || !guards.edits_by_version)
            };
            if let Some(claim) = state.api.claims[at].filter(applies) {
                check_request(state, at, &claim.volume, request, Counted::of(world));
            }
        }
        _ => {}
    }
}

/// The changes of volumes that are counted.
#[derive(Clone, Copy)]
struct Counted {
    is_counted: bool,
    /// Whether the growth of a file system counts.
    file_systems: bool,
}

impl Counted {
    /// A plan from an old view may change another volume, because the version of a claim says nothing about the others. A
    /// file system may wait for a pod that comes after the plan.
    fn of(world: &World) -> Self {
        let Budget {
            takeovers, lags, ..
        } = world.budget;
        let is_of_claim = |fault: &Fault| matches!(fault, Fault::GrowthFails | Fault::Relabel);
        Self {
            is_counted: takeovers == 0 && lags == 0,
            file_systems: only_edits_claims(world) && world.faults.iter().all(is_of_claim),
        }
    }
}

/// Whether users change nothing but the claim template.
fn only_edits_claims(world: &World) -> bool {
    let edits_claim = |edit: &Edit| matches!(edit, Edit::ClaimSize(_) | Edit::ClaimLabel(_));
    world.edits_claims() && world.edits.iter().all(edits_claim)
}

/// Executes an edit of a claim that the server accepts.
pub fn edit(state: &mut ModelState, at: usize, edit: VolumeChange) {
    with_volume(state, at, |volume| match edit {
        VolumeChange::Metadata {
            label,
            recorded_label,
        } => {
            volume.label = label.unwrap_or(volume.label);
            volume.recorded_label = recorded_label.unwrap_or(volume.recorded_label);
        }
        VolumeChange::Request(request) => volume.request = request,
    });
}

fn check_request(
    state: &mut ModelState,
    at: usize,
    volume: &Volume,
    request: u8,
    counted: Counted,
) {
    let is_changing =
        |volume: &Volume| volume.grows() || (counted.file_systems && volume.has_new_storage());
    let size = volume.capacity.max(volume.storage);
    if request < volume.request && request <= size {
        state.breaks(format!("data-web-{at} gets less room than its volume has"));
    }
    let desires = |other: usize| state.api.set.is_some_and(|set| set.spec.desires(other));
    let follows = is_changing(volume) || volume.has_new_storage();
    if !counted.is_counted || follows || !desires(at) {
        return;
    }
    let claims = state.api.claims.iter().enumerate();
    let others = claims.filter(|(other, claim)| {
        let is_other = *other != at && desires(*other);
        is_other && claim.is_some_and(|claim| is_changing(&claim.volume))
    });
    let all = others.count() + 1;
    if all > PARALLEL {
        state.breaks(format!("{all} volumes change at once"));
    }
}

/// A possible growth of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    Next,
    AfterFailure,
}

/// The possible growth of the volume of a claim.
pub fn possible(state: &ModelState, at: usize, claim: &Claim) -> Option<Growth> {
    let volume = &claim.volume;
    if volume.grows() || (volume.storage > 0 && state.is_claim_used(at)) {
        return Some(Growth::Next);
    }
    volume.has_failed().then_some(Growth::AfterFailure)
}

/// The storage of the claim grows, or the file system that has not grown yet.
pub fn grow(state: &mut ModelState, at: usize) {
    with_volume(state, at, |volume| {
        if volume.grows() {
            volume.storage = volume.request;
            volume.failed = 0;
        } else {
            volume.capacity = volume.storage;
            volume.storage = 0;
        }
    });
}

/// A growth that failed succeeds at once: it is no change that could be counted (C5).
pub fn grow_after_failure(state: &mut ModelState, at: usize) {
    with_volume(state, at, |volume| {
        volume.capacity = volume.request;
        (volume.storage, volume.failed) = (0, 0);
    });
}

/// A claim gets its volume with its first pod.
pub fn bind(state: &mut ModelState, at: usize) {
    let claim = state.api.claims[at];
    if claim.is_some_and(|claim| claim.volume.capacity == 0 && claim.volume.request > 0) {
        with_volume(state, at, |volume| volume.capacity = volume.request);
    }
}

/// The growth of a volume fails.
pub fn fail(state: &mut ModelState, at: usize) {
    with_volume(state, at, |volume| volume.failed = volume.request);
}

/// A user changes the label of a claim.
pub fn relabel(state: &mut ModelState, at: usize) {
    with_volume(state, at, |volume| volume.label = LABEL_OF_USERS);
}

/// Whether the claims of an idle state are as their template says, or the status tells why not.
///
/// # Errors
///
/// The claim that is not as specified.
pub fn idle_claims(
    state: &ModelState,
    set: &Set,
    condition: Option<&str>,
    planned: &Planned,
) -> Result<(), String> {
    let (size, label) = (set.spec.claim_size, set.spec.claim_label);
    let desired = (0..ORDINALS).filter(|at| set.spec.desires(*at));
    let volumes = desired.filter_map(|at| Some((at, state.api.claims[at]?.volume)));
    let volumes: Vec<(usize, Volume)> = volumes.collect();
    let failed = volumes.iter().filter(|(_, volume)| volume.has_failed());
    let failed = failed.count();
    let mut over_sized = 0;
    for (at, volume) in &volumes {
        let is_labelled = [label, LABEL_OF_USERS].contains(&volume.label);
        if !is_labelled || volume.recorded_label != label {
            return Err(format!(
                "rest, but data-web-{at} has not the label of its template"
            ));
        }
        let is_told = |reason: &String| reason.contains(&format!("data-web-{at} does not change"));
        let fits = volume.request == size && volume.capacity == size;
        over_sized += usize::from(volume.request > size && !volume.has_failed());
        let is_explained = if volume.has_failed() {
            planned.reasons.iter().any(is_told)
        } else {
            volume.request > size || failed > FAILURES
        };
        if !fits && !is_explained {
            return Err(format!(
                "rest, but data-web-{at} has not the size of its template"
            ));
        }
    }
    let expected = match (failed, over_sized) {
        (0, 0) => reasons::CLAIMS_MATCH,
        (0, _) => reasons::CLAIMS_DIFFER,
        _ => reasons::CLAIM_EDIT_IMPOSSIBLE,
    };
    match condition {
        Some(reason) if reason == expected => Ok(()),
        other => Err(format!(
            "rest with {other:?} about the claims, not {expected}"
        )),
    }
}
