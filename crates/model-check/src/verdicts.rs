//! Rules about revisions whose rollout fails (rollouts.md R11–R16): a rejected revision gets no further pod, a pod is
//! taken back only after the evidence is stored, and a set with a bad template comes to rest.

use crate::plans::{Planned, letter};
use crate::state::{Aim, Answer, Health, ModelState, ORDINALS, Op, Set};
use crate::world::{Edit, Fault, World};

/// Whether the stored revision of a template is rejected.
pub fn is_rejected(state: &ModelState, template: usize) -> bool {
    let revision = &state.api.revisions[template];
    revision.is_some_and(|revision| revision.rejected.is_some())
}

/// Whether the caches of the controller lack a stored verdict.
pub fn is_any_unseen(state: &ModelState) -> bool {
    let cached = &state.cached.revisions;
    let mut stored = state.api.revisions.iter().zip(cached);
    stored.any(|(stored, cached)| {
        let is_rejected = stored.is_some_and(|stored| stored.rejected.is_some());
        is_rejected && cached.is_none_or(|cached| cached.rejected.is_none())
    })
}

/// Checks an executed write.
pub fn check(world: &World, state: &mut ModelState, op: &Op) {
    let rejects = |template: u8| is_rejected(state, usize::from(template));
    let is_released = |template: u8| rejects(template) && !has_old_plans(world);
    let broken = match *op {
        Op::DeletePod {
            ordinal,
            aim: Some(Aim::Return(template)),
            ..
        }
        | Op::EvictPod {
            ordinal,
            aim: Some(Aim::Return(template)),
            ..
        } if !rejects(template) && !world.faults.contains(&Fault::Pardon) => {
            format!("web-{ordinal} is taken back before the evidence is stored")
        }
        Op::DeletePod {
            ordinal,
            aim: Some(Aim::Update(template)),
            ..
        }
        | Op::EvictPod {
            ordinal,
            aim: Some(Aim::Update(template)),
            ..
        } if is_released(template) => {
            let revision = letter(template);
            format!("web-{ordinal} is deleted for the rejected revision {revision}")
        }
        Op::CreatePod {
            ordinal, revision, ..
        } if is_released(revision) => {
            let revision = letter(revision);
            format!("web-{ordinal} is created at the rejected revision {revision}")
        }
        _ => return,
    };
    state.breaks(broken);
}

/// Whether a plan may be executed that another controller made before a verdict, or under another policy. The API
/// server cannot refuse the writes of such a plan.
fn has_old_plans(world: &World) -> bool {
    let changes_answer = |edit: &Edit| matches!(edit, Edit::OnFailure(_));
    world.budget.takeovers > 0 || world.edits.iter().any(changes_answer)
}

/// The revisions that the status of an idle state names.
#[derive(Clone, Copy, Debug)]
pub struct IdleRevisions {
    /// The template of the revision before the rollout.
    pub current: Option<u8>,
    /// Whether the status gives the rejection as the reason why the set is stalled.
    pub names_rejection: bool,
}

/// Whether an idle state of a judged rollout is as specified; `None` if there is no failed rollout.
pub fn idle_rollout(
    world: &World,
    state: &ModelState,
    set: &Set,
    revisions: IdleRevisions,
    planned: &Planned,
) -> Option<Result<(), String>> {
    let answer = set.spec.on_failure?;
    let update = set.spec.template;
    let current = revisions.current.filter(|current| *current != update)?;
    let is_bad = |template: u8| world.bad_templates.contains(&template);
    if !is_rejected(state, usize::from(update)) {
        return is_bad(update).then(|| Err("rest with a bad template that is not rejected".into()));
    }
    let is_named = planned
        .reasons
        .iter()
        .any(|reason| reason.contains("is rejected"));
    if !is_named || !revisions.names_rejection {
        return Some(Err("rest with a rejected template that nobody names".into()));
    }
    let has_returned = |at: usize| {
        let pod = &state.api.pods[at];
        pod.is_some_and(|pod| pod.revision == current && matches!(pod.health, Health::Ready(_)))
    };
    let mut desired = (0..ORDINALS).filter(|at| set.spec.desires(*at));
    let returns = answer == Answer::Rollback && !is_bad(current);
    match desired.find(|at| returns && !has_returned(*at)) {
        Some(at) => Some(Err(format!("rest, but web-{at} has not returned"))),
        None => Some(Ok(())),
    }
}
