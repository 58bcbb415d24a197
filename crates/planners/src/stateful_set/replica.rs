//! The walk over the wanted ordinals: what is missing is created, what has ended is deleted,
//! what is broken holds up the rest (in `OrderedReady`).

use k8s_openapi::api::core::v1::Pod;
use resource_kinds::labels;
use resource_kinds::reasons::stateful_set as reasons;

use super::claims;
use super::draft::{Draft, Flow};
use super::identity;
use super::observed::{Member, Phase, Strategy, World};
use super::plan::{Action, Notice};
use super::revisions::Chosen;
use super::waiting::Cause;

/// Pods that one plan creates at most; the next plan goes on. As kube-controller-manager's
/// largest batch.
const CREATIONS_MAX: usize = 500;

pub(super) fn walk(world: &World<'_>, chosen: &Chosen, draft: &mut Draft) -> Flow {
    let mut created = 0;
    let mut flow = Flow::Go;
    for ordinal in world.spec.ordinals() {
        let step = match world.members.get(&ordinal) {
            Some(member) => keep(world, member, draft),
            None => {
                let step = create(world, chosen, ordinal, draft);
                created += usize::from(step == Step::Created);
                step
            }
        };
        match step {
            Step::Fine => {}
            Step::Hopeless => return Flow::Stop,
            Step::Created | Step::Busy if world.spec.ordered => return Flow::Stop,
            Step::Created | Step::Busy => flow = Flow::Stop,
        }
        if created >= CREATIONS_MAX {
            draft.wake(world.now);
            return Flow::Stop;
        }
    }
    flow_of_pace(world, flow)
}

/// In `Parallel` nothing holds up anything else.
fn flow_of_pace(world: &World<'_>, flow: Flow) -> Flow {
    if world.spec.ordered { flow } else { Flow::Go }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Fine,
    Created,
    Busy,
    /// No pod can be made at all.
    Hopeless,
}

fn keep(world: &World<'_>, member: &Member<'_>, draft: &mut Draft) -> Step {
    if member.phase == Phase::Ended {
        if member.terminating {
            draft.wait(
                member.ordinal,
                Cause::PodTerminating {
                    pod: member.name().to_owned(),
                },
            );
        } else {
            draft.act(member.ordinal, delete(member));
        }
        return Step::Busy;
    }
    if member.phase == Phase::Pending && !member.terminating {
        restore_claims(world, member, draft);
    }
    if let Some(cause) = unhealthy(member) {
        draft.wait(member.ordinal, cause);
        if world.spec.ordered {
            return Step::Busy;
        }
    }
    if !member.terminating {
        repair(world, member, draft);
    }
    Step::Fine
}

/// Why the pod is not available, if it is not.
pub(super) fn unhealthy(member: &Member<'_>) -> Option<Cause> {
    let pod = member.name().to_owned();
    if member.terminating {
        return Some(Cause::PodTerminating { pod });
    }
    let Some(at) = member.available_at else {
        let condition = member.ready_condition();
        let message = condition.and_then(|condition| condition.message.clone());
        return Some(Cause::PodNotReady {
            pod,
            message: message.unwrap_or_default(),
        });
    };
    (!member.available).then_some(Cause::PodNotAvailable { pod, at })
}

/// A pod that waits for a claim that somebody deleted gets it back.
fn restore_claims(world: &World<'_>, member: &Member<'_>, draft: &mut Draft) {
    let terminating = claims::names(&world.spec, member.ordinal)
        .into_iter()
        .find(|name| {
            let claim = world.observed.claims.get(name);
            claim.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some())
        });
    if let Some(claim) = terminating {
        draft.wait(member.ordinal, Cause::ClaimTerminating { claim });
        return;
    }
    claims::create_missing(world, member.ordinal, draft);
    claims::correct_owners(world, member, draft);
}

fn repair(world: &World<'_>, member: &Member<'_>, draft: &mut Draft) {
    let labels = member.pod.metadata.labels.as_ref();
    let own_name = labels.and_then(|labels| labels.get(labels::POD_NAME));
    if own_name.map(String::as_str) != Some(member.name()) {
        draft.act(
            member.ordinal,
            Action::LabelPod {
                name: member.name().to_owned(),
                uid: member.uid().to_owned(),
                labels: [(labels::POD_NAME.to_owned(), member.name().to_owned())].into(),
            },
        );
    }
    if member.phase != Phase::Pending {
        claims::correct_owners(world, member, draft);
    }
}

fn create(world: &World<'_>, chosen: &Chosen, ordinal: i64, draft: &mut Draft) -> Step {
    let name = identity::pod_name(world.spec.name, ordinal);
    if world.taken.contains(name.as_str()) {
        draft.wait(ordinal, Cause::NameTaken { pod: name });
        return Step::Busy;
    }
    if let Some(cause) = claims::obstacle(world, ordinal) {
        if let Cause::ClaimTerminating { .. } = cause {
            draft.notices.push(refused(world, &name, &cause));
        }
        draft.wait(ordinal, cause);
        return Step::Busy;
    }
    let Some(pod) = new_pod(world, chosen, ordinal) else {
        let revision = chosen.current.clone();
        draft.wait(ordinal, Cause::RevisionUnreadable { revision });
        return Step::Hopeless;
    };
    claims::create_missing(world, ordinal, draft);
    draft.act(ordinal, Action::CreatePod(Box::new(pod)));
    Step::Created
}

fn refused(world: &World<'_>, pod: &str, cause: &Cause) -> Notice {
    Notice {
        warning: true,
        reason: reasons::FAILED_CREATE,
        message: format!(
            "create Pod {pod} in StatefulSet {} failed error: {cause}",
            world.spec.name
        ),
    }
}

/// The pod of an ordinal at the revision it is to have; none if that cannot be read.
fn new_pod(world: &World<'_>, chosen: &Chosen, ordinal: i64) -> Option<Pod> {
    let set = world.spec.set;
    if !needs_current(world, ordinal) || chosen.current == chosen.update {
        return Some(identity::pod(
            set,
            world.spec.template,
            ordinal,
            &chosen.update,
        ));
    }
    let template = chosen.current_template(world)?;
    Some(identity::pod(set, &template, ordinal, &chosen.current))
}

/// Whether a new pod of that ordinal is made at the current revision, not at the update.
fn needs_current(world: &World<'_>, ordinal: i64) -> bool {
    match world.spec.strategy {
        Strategy::OnDelete => false,
        Strategy::RollingUpdate(Some(_)) => ordinal < world.spec.first_updatable(),
        Strategy::RollingUpdate(None) => {
            let status = world.spec.set.status.as_ref();
            let current = status
                .and_then(|status| status.current_replicas)
                .unwrap_or_default();
            ordinal < world.spec.start + i64::from(current)
        }
    }
}

pub(super) fn delete(member: &Member<'_>) -> Action {
    Action::DeletePod {
        name: member.name().to_owned(),
        uid: member.uid().to_owned(),
    }
}
