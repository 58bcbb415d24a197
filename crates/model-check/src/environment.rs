//! The environment of the controller: users, faults, nodes, the garbage collector, the clock.

use crate::claim_edits::{self, Growth};
use crate::seeded::Guards;
use crate::server::{self, Reply, terminate};
use crate::state::{
    Checks, ClaimFate, Deletion, Health, Id, Instance, Kind, ModelState, ORDINALS, Owners, Phase,
    Pod, Recovery, Set, Spec, TEMPLATES,
};
use crate::verdicts;
use crate::world::{Edit, Fault, World};

/// A step of the environment. Each possible step is executed eventually.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A pod is bound to a node and started there.
    Start {
        /// The pod.
        ordinal: usize,
        node: u8,
    },
    /// A pod becomes Ready.
    Ready(usize),
    /// The deadline of a pod that never becomes Ready passes.
    Overdue(usize),
    /// The health check of the guard succeeds in a pod.
    Healthy(usize),
    /// The recovery check of the guard succeeds in a pod.
    Recovered(usize),
    /// A late result of the recovery check arrives.
    Result(usize),
    /// The storage of a claim grows, or its file system.
    Grow(usize),
    /// A growth that failed succeeds.
    GrowAfterFailure(usize),
    /// A pod counts again, because its announced deletion did not follow.
    CountsAgain(usize),
    /// The node confirms that a deleted pod has ended.
    Finish(usize),
    /// A running instance without a pod is stopped.
    Reap(usize),
    /// The pod of a lost node is deleted.
    Evict(usize),
    /// The lost node returns.
    NodeBack,
    /// A deleted claim is removed.
    ClaimDeleted(usize),
    /// The garbage collector processes a claim.
    CollectClaim(usize),
    /// The garbage collector deletes a pod without an owner.
    CollectPod(usize),
    /// The garbage collector deletes a revision without an owner.
    CollectRevision(usize),
    /// The garbage collector removes a set from the owners of its dependents, to orphan them.
    ReleaseDependents,
    /// The deleted set is removed, because it has no dependents any more.
    SetDeleted,
    /// A pod of the other set that shares the guard becomes Ready.
    OtherReady,
    /// Time passes.
    Tick,
}

/// The steps that are possible now.
pub fn possible(world: &World, state: &ModelState) -> Vec<Progress> {
    let mut steps = Vec::new();
    if state.node_lost {
        steps.push(Progress::NodeBack);
    }
    if state.api.healthy_others < world.others {
        steps.push(Progress::OtherReady);
    }
    for at in 0..ORDINALS {
        if let Some(pod) = &state.api.pods[at] {
            add_pod_steps(world, state, at, pod, &mut steps);
        }
        if state.late_results[at].is_some() {
            steps.push(Progress::Result(at));
        }
        if let Some(claim) = &state.api.claims[at] {
            if claim.terminating && !state.is_claim_used(at) {
                steps.push(Progress::ClaimDeleted(at));
            }
            let growth = claim_edits::possible(state, at, claim);
            steps.extend(growth.map(|growth| match growth {
                Growth::Next => Progress::Grow(at),
                Growth::AfterFailure => Progress::GrowAfterFailure(at),
            }));
            if !claim.terminating && dangling(state, at, claim.owners) != Owners::default() {
                steps.push(Progress::CollectClaim(at));
            }
        }
    }
    for (at, instance) in state.instances.iter().enumerate() {
        let cut_off = instance.node == 0 && state.node_lost;
        if !cut_off && state.pod_with(instance.ordinal, instance.uid).is_none() {
            steps.push(Progress::Reap(at));
        }
    }
    let set = solid_set(state);
    for (at, revision) in state.api.revisions.iter().enumerate() {
        if revision.is_some_and(|revision| revision.owner.is_some() && revision.owner != set) {
            steps.push(Progress::CollectRevision(at));
        }
    }
    match state.api.set {
        Some(set) if set.deleting.is_some() && !has_dependents(state, set.uid) => {
            steps.push(Progress::SetDeleted);
        }
        Some(set) if set.deleting == Some(Deletion::Orphan) => {
            steps.push(Progress::ReleaseDependents);
        }
        _ => {}
    }
    if is_time_relevant(world, state) {
        steps.push(Progress::Tick);
    }
    steps
}

/// The set, unless the garbage collector treats it as waiting for its dependents.
fn solid_set(state: &ModelState) -> Option<Id> {
    let set = state.api.set?;
    (set.deleting != Some(Deletion::Foreground)).then_some(set.uid)
}

fn has_dependents(state: &ModelState, set: Id) -> bool {
    let pods = state.api.pods.iter().flatten().map(|pod| pod.owner);
    let claims = state.api.claims.iter().flatten();
    let claims = claims.map(|claim| claim.owners.set);
    let revisions = state.api.revisions.iter().flatten();
    let revisions = revisions.map(|revision| revision.owner);
    pods.chain(claims)
        .chain(revisions)
        .any(|owner| owner == Some(set))
}

/// Removes the set from the owners of all its dependents.
fn release_dependents(state: &mut ModelState) {
    let Some(set) = state.api.set.map(|set| set.uid) else {
        return;
    };
    for pod in state.api.pods.iter_mut().flatten() {
        pod.owner = pod.owner.filter(|owner| *owner != set);
    }
    for revision in state.api.revisions.iter_mut().flatten() {
        revision.owner = revision.owner.filter(|owner| *owner != set);
    }
    for at in 0..ORDINALS {
        let version = state.fresh(Kind::ClaimVersion);
        if let Some(claim) = &mut state.api.claims[at]
            && claim.owners.set == Some(set)
        {
            claim.owners.set = None;
            claim.version = version;
        }
    }
}

fn add_pod_steps(
    world: &World,
    state: &ModelState,
    at: usize,
    pod: &Pod,
    steps: &mut Vec<Progress>,
) {
    let cut_off = pod.node == Some(0) && state.node_lost;
    let set = solid_set(state);
    if pod.terminating {
        if !cut_off {
            steps.push(Progress::Finish(at));
        }
        return;
    }
    if pod.owner.is_some() && pod.owner != set {
        steps.push(Progress::CollectPod(at));
    }
    if pod.is_announced {
        steps.push(Progress::CountsAgain(at));
    }
    if cut_off {
        steps.push(Progress::Evict(at));
        return;
    }
    match pod.phase {
        Phase::Pending => {
            let usable = state.api.claims[at].is_some_and(|claim| !claim.terminating);
            let nodes = u8::from(state.node_lost)..world.nodes;
            if usable || !world.claims {
                steps.extend(nodes.map(|node| Progress::Start { ordinal: at, node }));
            }
        }
        Phase::Running => {
            let can_be_ready = !world.bad_templates.contains(&pod.revision);
            if can_be_ready && !matches!(pod.health, Health::Ready(_)) {
                steps.push(Progress::Ready(at));
            }
            if matches!(pod.health, Health::Ready(_)) {
                add_check_steps(world, at, pod, steps);
            }
            if !can_be_ready && world.judges() && !pod.is_overdue {
                steps.push(Progress::Overdue(at));
            }
        }
        Phase::Ended => {}
    }
}

fn add_check_steps(world: &World, at: usize, pod: &Pod, steps: &mut Vec<Progress>) {
    let Checks { health, recovery } = world.spec.checks;
    if health && !pod.passes_health && !world.never_healthy.contains(&pod.revision) {
        steps.push(Progress::Healthy(at));
    }
    let may_recover = !world.never_recovered.contains(&pod.revision);
    if recovery && pod.recovery != Recovery::Passed && may_recover {
        steps.push(Progress::Recovered(at));
    }
}

/// The owners that do not exist any more.
fn dangling(state: &ModelState, at: usize, owners: Owners) -> Owners {
    let set = solid_set(state);
    let pod = state.api.pods[at].map(|pod| pod.uid);
    Owners {
        set: owners.set.filter(|owner| Some(*owner) != set),
        pod: owners.pod.filter(|owner| Some(*owner) != pod),
    }
}

fn is_time_relevant(world: &World, state: &ModelState) -> bool {
    let young = |pod: &Pod| matches!(pod.health, Health::Ready(age) if age < world.min_ready);
    let pods = state.api.pods.iter().chain(&state.cached.pods);
    pods.flatten().any(young)
}

/// Executes a possible step.
pub fn progress(world: &World, state: &mut ModelState, step: Progress, guards: Guards) {
    match step {
        Progress::Start { ordinal, node } => {
            if let Some(pod) = &mut state.api.pods[ordinal] {
                pod.node = Some(node);
                pod.phase = Phase::Running;
                let (uid, ordinal) = (pod.uid, u8::try_from(ordinal).unwrap_or(u8::MAX));
                state.instances.push(Instance { ordinal, uid, node });
            }
            claim_edits::bind(state, ordinal);
        }
        Progress::Ready(at) => with_pod(state, at, |pod| {
            pod.health = Health::Ready(0);
            pod.is_overdue = false;
        }),
        Progress::Overdue(at) => with_pod(state, at, |pod| pod.is_overdue = true),
        Progress::Healthy(at) => with_pod(state, at, |pod| pod.passes_health = true),
        Progress::Recovered(at) => with_pod(state, at, |pod| pod.recovery = Recovery::Passed),
        Progress::Result(at) => deliver_result(state, at, guards),
        Progress::Grow(at) => claim_edits::grow(state, at),
        Progress::GrowAfterFailure(at) => claim_edits::grow_after_failure(state, at),
        Progress::CountsAgain(at) => with_pod(state, at, |pod| pod.is_announced = false),
        Progress::Finish(at) => {
            stop_instance(state, at);
            state.api.pods[at] = None;
        }
        Progress::Reap(at) => {
            state.instances.remove(at);
        }
        Progress::Evict(at) | Progress::CollectPod(at) => terminate(state, at),
        Progress::NodeBack => state.node_lost = false,
        Progress::OtherReady => state.api.healthy_others += 1,
        Progress::ClaimDeleted(at) => state.api.claims[at] = None,
        Progress::CollectClaim(at) => collect_claim(world, state, at),
        Progress::CollectRevision(at) => state.api.revisions[at] = None,
        Progress::ReleaseDependents => release_dependents(state),
        Progress::SetDeleted => state.api.set = None,
        Progress::Tick => {
            let (api, cached) = (&mut state.api.pods, &mut state.cached.pods);
            for pod in api.iter_mut().chain(cached).flatten() {
                if let Health::Ready(age) = &mut pod.health {
                    *age = (*age + 1).min(world.min_ready);
                }
            }
        }
    }
}

/// A late result counts for its pod alone. A node that writes it by name gives it to the successor of the pod.
fn deliver_result(state: &mut ModelState, at: usize, guards: Guards) {
    let of_pod = state.late_results[at].take();
    with_pod(state, at, |pod| {
        if Some(pod.uid) == of_pod {
            pod.recovery = Recovery::Passed;
        } else if !guards.results_by_uid {
            pod.recovery = Recovery::Borrowed;
        }
    });
}

fn with_pod(state: &mut ModelState, at: usize, change: impl FnOnce(&mut Pod)) {
    if let Some(pod) = &mut state.api.pods[at] {
        change(pod);
    }
}

fn stop_instance(state: &mut ModelState, at: usize) {
    let uid = state.api.pods[at].map(|pod| pod.uid);
    state.instances.retain(|instance| Some(instance.uid) != uid);
}

/// Deletes a claim whose owners are all deleted, or removes the deleted owners from its list. Only this function loses
/// data, so the function checks the loss against the specification.
fn collect_claim(world: &World, state: &mut ModelState, at: usize) {
    let version = state.fresh(Kind::ClaimVersion);
    let Some(mut claim) = state.api.claims[at] else {
        return;
    };
    let remaining = dangling(state, at, claim.owners);
    if remaining != claim.owners {
        claim.owners.set = claim.owners.set.filter(|_| remaining.set.is_none());
        claim.owners.pod = claim.owners.pod.filter(|_| remaining.pod.is_none());
        claim.version = version;
        state.api.claims[at] = Some(claim);
        return;
    }
    let is_retained = state.fates[at] == ClaimFate::Retained || !world.ever_deletes_when_scaled();
    if remaining.pod.is_some() && is_retained {
        state.breaks(format!(
            "the claim data-web-{at} is deleted though it was to be kept"
        ));
    }
    // Without delayed writes no pod is created on such a claim.
    if remaining.pod.is_some() && state.is_claim_used(at) && world.budget.takeovers == 0 {
        state.breaks(format!(
            "the claim data-web-{at} goes while the successor of its pod runs on it"
        ));
    }
    if remaining.set.is_some() && !world.ever_deletes_when_deleted() {
        state.breaks(format!(
            "the claim data-web-{at} is deleted against the policy"
        ));
    }
    delete_claim(state, at);
}

fn delete_claim(state: &mut ModelState, at: usize) {
    if state.is_claim_used(at) {
        let version = state.fresh(Kind::ClaimVersion);
        if let Some(claim) = &mut state.api.claims[at] {
            claim.terminating = true;
            claim.version = version;
        }
    } else {
        state.api.claims[at] = None;
    }
}

/// Changes the specification. `false` if the specification has the value already.
pub fn edit(state: &mut ModelState, edit: Edit) -> bool {
    let (version, generation) = (state.fresh(Kind::SetVersion), state.fresh(Kind::Generation));
    let Some(set) = &mut state.api.set else {
        return false;
    };
    let spec = edit.of(set.spec);
    if spec == set.spec || set.deleting.is_some() {
        return false;
    }
    if matches!(edit, Edit::OnFailure(_)) {
        set.spec = spec;
        return true;
    }
    *set = Set {
        version,
        generation,
        spec,
        ..*set
    };
    open_fates(state, spec);
    true
}

/// The fates of claims become open under a new specification, until a controller has observed it.
fn open_fates(state: &mut ModelState, spec: Spec) {
    for at in 0..ORDINALS {
        let before = state.fates[at];
        state.open_fate(at);
        let is_decided = match before {
            ClaimFate::Retained => spec.desires(at),
            ClaimFate::Open => false,
            ClaimFate::Deleted => spec.fate(at) == ClaimFate::Deleted,
        };
        if is_decided {
            state.fates[at] = before;
        }
    }
}

/// The possible faults, each with the index of its object.
pub fn faults(world: &World, state: &ModelState) -> Vec<(Fault, usize)> {
    let mut possible = Vec::new();
    for fault in world.faults {
        match fault {
            Fault::NodeLost if !state.node_lost => possible.push((*fault, 0)),
            Fault::DeleteSet(_) if state.api.set.is_some_and(|set| set.deleting.is_none()) => {
                possible.push((*fault, 0));
            }
            Fault::CreateSet if state.api.set.is_none() => possible.push((*fault, 0)),
            Fault::EvictOther | Fault::OtherFails if state.api.healthy_others > 0 => {
                possible.push((*fault, 0));
            }
            Fault::NodeLost
            | Fault::DeleteSet(_)
            | Fault::CreateSet
            | Fault::EvictOther
            | Fault::OtherFails => {}
            Fault::Pardon => {
                let rejected = (0..TEMPLATES).filter(|at| verdicts::is_rejected(state, *at));
                possible.extend(rejected.map(|at| (*fault, at)));
            }
            _ => {
                let indexes = (0..ORDINALS).filter(|at| applies_to(state, *fault, *at));
                possible.extend(indexes.map(|at| (*fault, at)));
            }
        }
    }
    possible
}

fn applies_to(state: &ModelState, fault: Fault, at: usize) -> bool {
    let pod = state.api.pods[at].filter(|pod| !pod.terminating);
    let cut_off = |pod: &Pod| pod.node == Some(0) && state.node_lost;
    match fault {
        Fault::Fail => pod.is_some_and(|pod| pod.phase == Phase::Running && !cut_off(&pod)),
        Fault::Unready => pod.is_some_and(|pod| matches!(pod.health, Health::Ready(_))),
        Fault::Evict => pod.is_some_and(|pod| !pod.terminating),
        Fault::Delete => pod.is_some(),
        Fault::Orphan => pod.is_some_and(|pod| pod.owner.is_some()),
        Fault::DeleteClaim => state.api.claims[at].is_some_and(|claim| !claim.terminating),
        Fault::Slow => pod.is_some_and(|pod| {
            let is_down = !matches!(pod.health, Health::Ready(_));
            pod.phase == Phase::Running && is_down && !pod.is_overdue
        }),
        Fault::Sick => pod.is_some_and(|pod| pod.passes_health),
        Fault::Relapse => pod.is_some_and(|pod| pod.recovery == Recovery::Passed),
        Fault::LateResult => pod.is_some_and(|pod| {
            let is_ready = matches!(pod.health, Health::Ready(_));
            is_ready && pod.recovery == Recovery::Pending && state.late_results[at].is_none()
        }),
        Fault::Announce => pod.is_some_and(|pod| !pod.is_announced),
        Fault::GrowthFails => state.api.claims[at].is_some_and(|claim| claim.volume.grows()),
        Fault::Relabel => state.api.claims[at].is_some_and(|claim| !claim.terminating),
        Fault::NodeLost
        | Fault::DeleteSet(_)
        | Fault::CreateSet
        | Fault::Pardon
        | Fault::EvictOther
        | Fault::OtherFails => true,
    }
}

/// Executes a fault.
pub fn fail(world: &World, state: &mut ModelState, fault: Fault, at: usize, guards: Guards) {
    match fault {
        Fault::Fail => {
            stop_instance(state, at);
            with_pod(state, at, |pod| {
                pod.phase = Phase::Ended;
                pod.health = Health::Lost;
            });
        }
        Fault::Unready => with_pod(state, at, |pod| pod.health = Health::Lost),
        Fault::Delete => terminate(state, at),
        Fault::Sick => with_pod(state, at, |pod| pod.passes_health = false),
        Fault::Relapse => with_pod(state, at, |pod| pod.recovery = Recovery::Pending),
        Fault::LateResult => state.late_results[at] = state.api.pods[at].map(|pod| pod.uid),
        Fault::Announce => {
            if let (Some(pod), Ok(ordinal)) = (state.api.pods[at], u8::try_from(at))
                && server::permits_eviction(state, ordinal, pod.uid, guards) == Reply::Done
            {
                with_pod(state, at, |pod| pod.is_announced = true);
            }
        }
        Fault::GrowthFails => claim_edits::fail(state, at),
        Fault::Relabel => claim_edits::relabel(state, at),
        Fault::Slow => with_pod(state, at, |pod| pod.is_overdue = true),
        Fault::Pardon => {
            if let Some(revision) = &mut state.api.revisions[at] {
                revision.rejected = None;
            }
        }
        Fault::Evict => {
            if let (Some(pod), Ok(ordinal)) = (state.api.pods[at], u8::try_from(at)) {
                server::evict_pod(state, ordinal, pod.uid, guards);
            }
        }
        Fault::EvictOther => server::evict_other(state, guards),
        Fault::OtherFails => state.api.healthy_others -= 1,
        Fault::Orphan => {
            with_pod(state, at, |pod| pod.owner = None);
            state.open_fate(at);
        }
        Fault::DeleteClaim => {
            state.open_fate(at);
            delete_claim(state, at);
        }
        Fault::NodeLost => {
            state.node_lost = true;
            for pod in state.api.pods.iter_mut().flatten() {
                if pod.node == Some(0) && matches!(pod.health, Health::Ready(_)) {
                    pod.health = Health::Lost;
                }
            }
        }
        Fault::DeleteSet(deletion) => {
            // As in the API server, a deletion changes the generation.
            let version = state.fresh(Kind::SetVersion);
            let generation = state.fresh(Kind::Generation);
            state.api.set = state.api.set.filter(|_| deletion.is_some());
            if let Some(set) = &mut state.api.set {
                *set = Set {
                    version,
                    generation,
                    deleting: deletion,
                    ..*set
                };
            }
            // Without its set, the last owners of a claim decide whether the claim is deleted.
            (0..ORDINALS).for_each(|at| state.open_fate(at));
        }
        Fault::CreateSet => {
            state.api.set = Some(Set {
                uid: state.fresh(Kind::Set),
                version: state.fresh(Kind::SetVersion),
                generation: state.fresh(Kind::Generation),
                spec: world.spec,
                status: None,
                deleting: None,
            });
        }
    }
}
