//! A path through a world, in words.

use std::fmt::Write as _;

use crate::environment::Progress;
use crate::model::{ControllerRole, ModelStep, StatefulSetModel, Watch};
use crate::plans::letter;
use crate::server;
use crate::state::{Health, ModelState, Objects, Op, Owners, Phase, Pod, Recovery, Volume};
use crate::world::{Edit, Fault};

/// The description of a path: each step, and the state after it.
pub fn story(model: &StatefulSetModel, path: &[(ModelState, Option<ModelStep>)]) -> String {
    let mut text = String::new();
    let mut line = |number: usize, step: &str, state: &ModelState| {
        let _ = writeln!(text, "{number:3}. {step}\n     {}", situation(state));
    };
    let mut before: Option<(&ModelState, ModelStep)> = None;
    for (number, (state, next)) in path.iter().enumerate() {
        match before {
            None => line(number, "the beginning", state),
            Some((last, step)) => line(number, &step_in_words(model, last, step), state),
        }
        before = next.map(|step| (state, step));
    }
    if let Some((state, _)) = path.last() {
        let _ = writeln!(text, "==> {}", verdict(model, state));
    }
    text
}

fn verdict(model: &StatefulSetModel, state: &ModelState) -> String {
    if let Some(rule) = &state.broken {
        return rule.to_string();
    }
    match model.reaches_idle_state(state) {
        Err(reason) => format!("from here: {reason}"),
        Ok(()) => "more than one running instance has an identity".to_owned(),
    }
}

fn step_in_words(model: &StatefulSetModel, before: &ModelState, step: ModelStep) -> String {
    match step {
        ModelStep::Lag(watch) => {
            format!("the controller's watch of {} lags", watched_objects(watch))
        }
        ModelStep::CatchUp(watch) => {
            format!("the controller sees {} again", watched_objects(watch))
        }
        ModelStep::Plan => {
            let (planned, ops) = model.plans.of(&before.cached);
            let ops: Vec<String> = ops.iter().map(|(_, op)| op_in_words(model, op)).collect();
            let reasons = planned.reasons.join("; ");
            format!("the controller plans: {} [{reasons}]", ops.join(", "))
        }
        ModelStep::Write(role, position) | ModelStep::WriteWithoutResponse(role, position) => {
            let (name, work) = match role {
                ControllerRole::Active => ("the controller", &before.work),
                ControllerRole::Former => ("the former controller", &before.former),
            };
            let ops = work.iter().flat_map(|work| &work.ops);
            let op = ops
                .into_iter()
                .find(|(op_position, _)| *op_position == position);
            let Some((_, op)) = op else {
                return format!("{name} writes");
            };
            let reply = server::write(&mut before.clone(), op, model.seeded.guards);
            let lost = match step {
                ModelStep::WriteWithoutResponse(..) => ", and the answer is lost",
                _ => "",
            };
            format!(
                "{name} writes: {} -> {reply:?}{lost}",
                op_in_words(model, op)
            )
        }
        ModelStep::TakeOver { former_continues } if former_continues => {
            "another controller takes over; the former one does not know".to_owned()
        }
        ModelStep::TakeOver { .. } => "the controller crashes; another takes over".to_owned(),
        ModelStep::SecondLeader => "a second leader begins; the former one goes on".to_owned(),
        ModelStep::FormerCatchesUp => "the former leader sees everything".to_owned(),
        ModelStep::FormerPlans => "the former leader plans".to_owned(),
        ModelStep::FormerStops => "the former leader learns that it leads no more".to_owned(),
        ModelStep::Edit(edit) => format!("a user sets {}", edit_in_words(edit)),
        ModelStep::Fault(fault, at) => fault_in_words(fault, at),
        ModelStep::Progress(step) => progress_in_words(step),
    }
}

fn watched_objects(watch: Watch) -> &'static str {
    match watch {
        Watch::Set => "the set",
        Watch::Pods => "the pods",
        Watch::Claims => "the claims",
        Watch::Revisions => "the revisions",
    }
}

fn edit_in_words(edit: Edit) -> String {
    let policy = |delete: bool| if delete { "Delete" } else { "Retain" };
    match edit {
        Edit::Replicas(replicas) => format!("replicas {replicas}"),
        Edit::Start(start) => format!("the start ordinal {start}"),
        Edit::Template(template) => format!("template {}", letter(template)),
        Edit::Partition(partition) => format!("partition {partition}"),
        Edit::WhenScaled(delete) => format!("whenScaled {}", policy(delete)),
        Edit::WhenDeleted(delete) => format!("whenDeleted {}", policy(delete)),
        Edit::ClaimSize(size) => format!("the size {size} of claims"),
        Edit::ClaimLabel(label) => format!("the label {label} of claims"),
        Edit::OnFailure(answer) => format!("onFailure {answer:?}"),
    }
}

fn fault_in_words(fault: Fault, at: usize) -> String {
    match fault {
        Fault::Fail => format!("web-{at} fails"),
        Fault::Unready => format!("web-{at} is not Ready any more"),
        Fault::Delete => format!("somebody deletes web-{at}"),
        Fault::Evict => format!("somebody evicts web-{at}"),
        Fault::Orphan => format!("somebody takes the owner of web-{at} away"),
        Fault::DeleteClaim => format!("somebody deletes data-web-{at}"),
        Fault::NodeLost => "node 0 is cut off".to_owned(),
        Fault::DeleteSet(None) => "somebody deletes the set in the background".to_owned(),
        Fault::DeleteSet(Some(deletion)) => format!("somebody deletes the set ({deletion:?})"),
        Fault::Slow => format!("web-{at} is not Ready in time"),
        Fault::Sick => format!("the health check fails in web-{at}"),
        Fault::Relapse => format!("web-{at} has not recovered any more"),
        Fault::LateResult => format!("the result of the recovery check of web-{at} is late"),
        Fault::Announce => format!("somebody evicts web-{at}, and nobody deletes it"),
        Fault::GrowthFails => format!("the growth of data-web-{at} fails"),
        Fault::Relabel => format!("somebody changes the label of data-web-{at}"),
        Fault::Pardon => format!("somebody removes the verdict about {}", letter_at(at)),
        Fault::EvictOther => "somebody evicts a pod of the other set".to_owned(),
        Fault::OtherFails => "a pod of the other set fails".to_owned(),
        Fault::CreateSet => "somebody makes the set anew".to_owned(),
    }
}

fn progress_in_words(step: Progress) -> String {
    match step {
        Progress::Start { ordinal, node } => format!("node {node} starts web-{ordinal}"),
        Progress::Ready(at) => format!("web-{at} becomes Ready"),
        Progress::Overdue(at) => format!("web-{at} is not Ready in time"),
        Progress::Healthy(at) => format!("web-{at} passes the health check"),
        Progress::Recovered(at) => format!("web-{at} has recovered"),
        Progress::Result(at) => format!("the late result about web-{at} arrives"),
        Progress::Grow(at) => format!("the storage or the file system of data-web-{at} grows"),
        Progress::GrowAfterFailure(at) => {
            format!("the growth of data-web-{at} that failed succeeds")
        }
        Progress::CountsAgain(at) => format!("web-{at} counts again"),
        Progress::Finish(at) => format!("the node confirms that web-{at} is gone"),
        Progress::Reap(_) => "a node ends what no pod stands for".to_owned(),
        Progress::Evict(at) => format!("web-{at} on the lost node is to be deleted"),
        Progress::NodeBack => "node 0 is back".to_owned(),
        Progress::ClaimDeleted(at) => format!("data-web-{at} is gone"),
        Progress::CollectClaim(at) => format!("the collector looks at data-web-{at}"),
        Progress::CollectPod(at) => format!("the collector deletes web-{at}"),
        Progress::CollectRevision(_) => "the collector deletes a revision".to_owned(),
        Progress::ReleaseDependents => "the collector releases what the set owns".to_owned(),
        Progress::SetDeleted => "the set is gone".to_owned(),
        Progress::OtherReady => "a pod of the other set becomes Ready".to_owned(),
        Progress::Tick => "time passes".to_owned(),
    }
}

fn op_in_words(model: &StatefulSetModel, op: &Op) -> String {
    match *op {
        Op::ConfirmSet { .. } => "confirm the set".to_owned(),
        Op::AdoptRevision { template, .. } => format!("adopt revision {}", letter(template)),
        Op::AdoptPod { ordinal, .. } => format!("adopt web-{ordinal}"),
        Op::ReleasePod { ordinal, .. } => format!("release web-{ordinal}"),
        Op::CreateRevision {
            template, number, ..
        } => format!("create revision {} as number {number}", letter(template)),
        Op::RenumberRevision {
            template, number, ..
        } => format!("give revision {} the number {number}", letter(template)),
        Op::DeleteRevision { template, .. } => format!("delete revision {}", letter(template)),
        Op::RejectRevision { template, .. } => format!("reject revision {}", letter(template)),
        Op::CreateClaim { ordinal, .. } => format!("create data-web-{ordinal}"),
        Op::EditClaim { ordinal, edit, .. } => format!("edit data-web-{ordinal}: {edit:?}"),
        Op::SetClaimOwners {
            ordinal, owners, ..
        } => format!("give data-web-{ordinal} {}", owners_in_words(owners)),
        Op::CreatePod {
            ordinal, revision, ..
        } => format!("create web-{ordinal} at {}", letter(revision)),
        Op::LabelPod { ordinal, .. } => format!("label web-{ordinal}"),
        Op::DeletePod { ordinal, uid, .. } => format!("delete web-{ordinal} (#{uid})"),
        Op::EvictPod { ordinal, uid, .. } => format!("evict web-{ordinal} (#{uid})"),
        Op::WriteStatus { text, .. } => {
            format!("write the status ({})", model.plans.status_in_words(text))
        }
    }
}

fn owners_in_words(owners: Owners) -> String {
    match (owners.set, owners.pod) {
        (None, None) => "to nobody".to_owned(),
        (Some(_), None) => "to the set".to_owned(),
        (None, Some(pod)) => format!("to pod #{pod}"),
        (Some(_), Some(pod)) => format!("to the set and to pod #{pod}"),
    }
}

/// The state, and the differences in the controller's caches.
fn situation(state: &ModelState) -> String {
    let mut text = objects(&state.api);
    let instances: Vec<String> = state
        .instances
        .iter()
        .map(|instance| {
            format!(
                "web-{}#{}@{}",
                instance.ordinal, instance.uid, instance.node
            )
        })
        .collect();
    let _ = write!(text, " | runs: {}", instances.join(" "));
    let mut without_lag = state.clone();
    without_lag.lagging = [false; 4];
    without_lag.deliver();
    if without_lag.cached != state.cached {
        let _ = write!(text, "\n     seen: {}", objects(&state.cached));
    }
    text
}

fn objects(objects: &Objects) -> String {
    let mut words = Vec::new();
    if let Some(set) = &objects.set {
        let spec = set.spec;
        words.push(format!(
            "replicas {} template {}",
            spec.replicas,
            letter(spec.template)
        ));
        if spec.claim_size > 0 {
            let (size, label) = (spec.claim_size, spec.claim_label);
            words.push(format!("claims of {size} with label {label}"));
        }
        if let Some(deletion) = set.deleting {
            words.push(format!("the set is being deleted ({deletion:?})"));
        }
        if spec.delete_when_scaled {
            words.push("whenScaled Delete".to_owned());
        }
        if spec.start > 0 {
            words.push(format!("start {}", spec.start));
        }
        if spec.partition > 0 {
            words.push(format!("partition {}", spec.partition));
        }
    }
    for (at, pod) in objects.pods.iter().enumerate() {
        words.extend(pod.as_ref().map(|pod| pod_in_words(at, pod)));
    }
    for (at, claim) in objects.claims.iter().enumerate() {
        let Some(claim) = claim else { continue };
        let deletion = if claim.terminating {
            " being deleted"
        } else {
            ""
        };
        let owners = match claim.owners {
            Owners {
                set: None,
                pod: None,
            } => String::new(),
            owners => format!(" given {}", owners_in_words(owners)),
        };
        let volume = volume_in_words(&claim.volume);
        words.push(format!("data-{at}{owners}{volume}{deletion}"));
    }
    for (at, revision) in objects.revisions.iter().enumerate() {
        let Some(revision) = revision else { continue };
        let verdict = match revision.rejected {
            Some(_) => " rejected",
            None => "",
        };
        words.push(format!("{}={}{verdict}", letter_at(at), revision.number));
    }
    words.join(", ")
}

fn volume_in_words(volume: &Volume) -> String {
    let Volume {
        request,
        capacity,
        storage,
        failed,
        label,
        recorded_label,
    } = *volume;
    if request == 0 {
        return String::new();
    }
    let mut text = format!(" {request} of {capacity} label {label} of {recorded_label}");
    if storage > 0 {
        let _ = write!(text, " storage {storage}");
    }
    if failed > 0 {
        let _ = write!(text, " failed at {failed}");
    }
    text
}

fn letter_at(at: usize) -> char {
    u8::try_from(at).map_or('?', letter)
}

fn pod_in_words(at: usize, pod: &Pod) -> String {
    let health = match (pod.phase, pod.health) {
        (Phase::Pending, _) => "pending",
        (Phase::Ended, _) => "failed",
        (Phase::Running, Health::Never) => "starting",
        (Phase::Running, Health::Lost) => "not ready",
        (Phase::Running, Health::Ready(_)) => "ready",
    };
    let deletion = if pod.terminating {
        " being deleted"
    } else {
        ""
    };
    let facts = [
        (pod.is_overdue, " overdue"),
        (pod.passes_health, " healthy"),
        (pod.recovery == Recovery::Passed, " recovered"),
        (
            pod.recovery == Recovery::Borrowed,
            " with the result of another",
        ),
        (pod.is_announced, " announced"),
    ];
    let facts = facts.into_iter().filter(|(holds, _)| *holds);
    let facts: String = facts.map(|(_, text)| text).collect();
    format!(
        "web-{at}#{}:{} {health}{facts}{deletion}",
        pod.uid,
        letter(pod.revision)
    )
}
