//! The plan for the desired ordinals: missing pods are created, ended pods are deleted, and an unhealthy pod blocks the
//! following ordinals (in `OrderedReady`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use object_model::ResourceVersion;
use resource_kinds::labels;
use resource_kinds::pod_view::PodView;

use pod_lifecycle::diagnosis::{self, Reason};

use super::claims;
use super::draft::{Draft, PlanFlow};
use super::hooks;
use super::identity;
use super::member::{Member, Phase};
use super::observed::{ParsedSet, Strategy, template_names};
use super::plan::StatefulSetAction;
use super::recreate;
use super::revisions::{ChosenRevisions, RevisionName};
use super::steps;
use super::waiting::Cause;

/// Maximum number of creations of one plan; the next plan continues. As kube-controller-manager's
/// largest batch.
const CREATIONS_MAX: usize = 500;

pub(super) fn walk(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    draft: &mut Draft,
) -> PlanFlow {
    let mut created = 0;
    let beside = recreate::beside(parsed, chosen);
    for ordinal in parsed.spec.ordinals() {
        if let Some(other) = beside
            && !parsed.members.contains(ordinal)
        {
            draft.block(other.name());
            return PlanFlow::Stop;
        }
        let step = match parsed.members.get(ordinal) {
            Some(member) => keep(parsed, member, draft),
            None => create(parsed, chosen, ordinal, draft),
        };
        created += usize::from(step == Step::Created);
        let batch_full = created >= CREATIONS_MAX;
        if batch_full {
            draft.wake(parsed.now);
        }
        // In `Parallel` no pod blocks another.
        let holds_up = step == Step::Hopeless || (parsed.spec.ordered && step != Step::Fine);
        if batch_full || holds_up {
            draft.block(&identity::pod_name(parsed.spec.name, ordinal));
            return PlanFlow::Stop;
        }
    }
    PlanFlow::Go
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Fine,
    Created,
    Busy,
    /// No pod of the set can be created.
    Hopeless,
}

fn keep(parsed: &ParsedSet<'_>, member: &Member<'_>, draft: &mut Draft) -> Step {
    if member.phase == Phase::Ended {
        if member.terminating {
            draft.wait(
                member.ordinal,
                Cause::PodTerminating {
                    pod: member.name().to_owned(),
                },
            );
        } else {
            delete(member, draft);
        }
        return Step::Busy;
    }
    if member.phase == Phase::Pending && !member.terminating {
        restore_claims(parsed, member, draft);
    }
    if let Some(cause) = unhealthy(member) {
        draft.wait(member.ordinal, cause);
        // A hook may have made the pod not ready, and it goes when the hook is done.
        if parsed.spec.ordered && !hooks::is_held(member) {
            return Step::Busy;
        }
    }
    if !member.terminating {
        repair(parsed, member, draft);
    }
    Step::Fine
}

/// The reason why the pod is not available; `None` if the pod is available.
pub(super) fn unhealthy(member: &Member<'_>) -> Option<Cause> {
    if !member.unavailable() {
        return None;
    }
    let pod = member.name().to_owned();
    if member.terminating {
        return Some(Cause::PodTerminating { pod });
    }
    let Some(at) = member.available_at else {
        let diagnosis = diagnosis::pod(member.pod);
        let reason = diagnosis
            .as_ref()
            .map_or(Reason::Unknown, |report| report.reason);
        let message = diagnosis.map(|report| report.message);
        return Some(Cause::PodNotReady {
            pod,
            reason,
            message: message.unwrap_or_else(|| "its phase contradicts its conditions".to_owned()),
        });
    };
    (!member.available).then_some(Cause::PodNotAvailable { pod, at })
}

/// Creates a deleted claim that a pod waits for again.
fn restore_claims(parsed: &ParsedSet<'_>, member: &Member<'_>, draft: &mut Draft) {
    let kept = claims::kept_of(parsed, member);
    if let Some(claim) = claims::terminating(parsed, &kept, member.ordinal) {
        draft.wait(member.ordinal, Cause::ClaimTerminating { claim });
        return;
    }
    claims::create_missing(parsed, &kept, member.ordinal, draft);
}

fn repair(parsed: &ParsedSet<'_>, member: &Member<'_>, draft: &mut Draft) {
    let differs = |key: &str, value: Option<&str>| member.pod.annotations.get(key) != value;
    let checks = parsed.checks.iter();
    let checks: BTreeMap<&'static str, Option<String>> = checks
        .filter(|(key, value)| differs(key, value.as_deref()))
        .cloned()
        .collect();
    if !checks.is_empty() {
        draft.act(
            member.ordinal,
            StatefulSetAction::AnnotatePod {
                name: member.name().to_owned(),
                uid: member.uid.clone(),
                version: None,
                annotations: checks,
            },
        );
    }
    if !member.labelled {
        draft.act(
            member.ordinal,
            StatefulSetAction::LabelPod {
                name: member.name().to_owned(),
                uid: member.uid.clone(),
                labels: [(labels::POD_NAME.to_owned(), member.name().to_owned())].into(),
            },
        );
    }
}

fn create(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    ordinal: i64,
    draft: &mut Draft,
) -> Step {
    let name = identity::pod_name(parsed.spec.name, ordinal);
    if let Some(holder) = parsed.foreign_pods.get(name.as_str()) {
        draft.wait(ordinal, name_taken(parsed, holder, name));
        return Step::Busy;
    }
    let source = PodSource::of(parsed, chosen, ordinal, draft);
    let restored = source
        .as_ref()
        .map(|source| &source.restored[..])
        .unwrap_or_default();
    if let Some(cause) = claims::obstacle(parsed, restored, ordinal) {
        draft.wait(ordinal, cause);
        return Step::Busy;
    }
    let Some(source) = source else {
        let revision = chosen.current.to_string();
        draft.wait(ordinal, Cause::RevisionUnreadable { revision });
        return Step::Hopeless;
    };
    claims::confirm_present(parsed, &source.restored, ordinal, draft);
    claims::create_missing(parsed, &source.restored, ordinal, draft);
    let pod = new_pod(parsed, &source, ordinal);
    let is_updatable = ordinal >= parsed.spec.first_updatable();
    draft.updates.created += i64::from(is_updatable && *source.revision == chosen.update);
    draft.act(ordinal, StatefulSetAction::CreatePod(Box::new(pod)));
    Step::Created
}

/// The reason if another pod has the name: whether that pod will be deleted automatically or not.
fn name_taken(parsed: &ParsedSet<'_>, holder: &PodView, pod: String) -> Cause {
    if holder.is_deleting() {
        return Cause::PodTerminating { pod };
    }
    let owner = holder.controller.as_deref();
    let other = owner.filter(|owner| parsed.spec.uid != owner.uid);
    match other {
        // The garbage collector will delete the pod, because its owner does not exist any more.
        Some(other) if *other.kind == *identity::KIND && *other.name == *parsed.spec.name => {
            Cause::FormerPod { pod }
        }
        _ => Cause::NameTaken {
            pod,
            owner: other.map(|other| format!("{} {}", other.kind, other.name)),
        },
    }
}

/// The origin of a new pod.
struct PodSource<'p> {
    template: &'p PodTemplateSpec,
    revision: &'p RevisionName,
    /// The removed claim templates that the pod template mounts.
    restored: Vec<&'p PersistentVolumeClaim>,
}

impl<'p> PodSource<'p> {
    /// The desired revision of an ordinal; `None` if the revision cannot be parsed.
    fn of(
        parsed: &'p ParsedSet<'_>,
        chosen: &'p ChosenRevisions,
        ordinal: i64,
        draft: &Draft,
    ) -> Option<Self> {
        // No further pod gets a rejected revision (rollouts.md R13).
        let needs_current = chosen.rejected.is_some()
            || needs_current(parsed, ordinal)
            || steps::is_beyond(parsed, chosen, ordinal, draft);
        let is_updated = !needs_current || chosen.current == chosen.update;
        let (template, revision) = match is_updated {
            true => (parsed.spec.template, &chosen.update),
            false => (chosen.current_template(parsed)?, &chosen.current),
        };
        let restored = claims::restored(parsed, template);
        Some(Self {
            template,
            revision,
            restored,
        })
    }
}

/// The pod of an ordinal.
fn new_pod(parsed: &ParsedSet<'_>, source: &PodSource<'_>, ordinal: i64) -> Pod {
    let owner = parsed.spec.owner_reference();
    let restored = source
        .restored
        .iter()
        .filter_map(|template| template.metadata.name.as_deref());
    let claims: Vec<&str> = template_names(parsed.spec.claim_templates)
        .chain(restored)
        .collect();
    let (set, revision) = (parsed.spec.set, source.revision.as_str());
    let mut pod = identity::pod_of(set, owner, source.template, &claims, ordinal, revision);
    for (key, check) in &parsed.checks {
        if let Some(check) = check {
            let annotations = pod.metadata.annotations.get_or_insert_default();
            annotations.insert((*key).to_owned(), check.clone());
        }
    }
    pod
}

/// Whether a new pod of that ordinal gets the current revision instead of the update revision.
fn needs_current(parsed: &ParsedSet<'_>, ordinal: i64) -> bool {
    match parsed.spec.strategy {
        Strategy::OnDelete => false,
        Strategy::RollingUpdate(Some(_)) => ordinal < parsed.spec.first_updatable(),
        // No pod of the current revision is left when the first one is created.
        Strategy::RollingUpdate(None) if recreate::is_demanded(parsed) => false,
        Strategy::RollingUpdate(None) => {
            let status = parsed.spec.set.status.as_ref();
            let current = status
                .and_then(|status| status.current_replicas)
                .unwrap_or_default();
            ordinal < parsed.spec.start + i64::from(current)
        }
    }
}

/// Deletes a pod. Its claims already have their desired owners ([`claims::settle_owners`]).
pub(super) fn delete(member: &Member<'_>, draft: &mut Draft) {
    delete_at(member, None, draft);
}

/// Deletes a pod, if it still has that version.
pub(super) fn delete_at(member: &Member<'_>, version: Option<ResourceVersion>, draft: &mut Draft) {
    draft.act(
        member.ordinal,
        StatefulSetAction::DeletePod {
            name: member.name().to_owned(),
            uid: member.uid.clone(),
            version,
        },
    );
}
