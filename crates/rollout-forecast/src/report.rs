//! The forecast of a rollout for the reader: pods that are deleted and made again are one restart.

use std::collections::BTreeMap;

use controller_planners::stateful_set::forecast::{Forecast, ForecastEnd, Objects, RolloutChange};
use controller_planners::stateful_set::{Cause, ClaimEdit, Waiting};
use json_tree::Value;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use resource_kinds::stateful_set_policy::Purpose;
use serde::Serialize;

use crate::difference::{Difference, differences};
use crate::versions::Versions;

/// The input of a report.
pub(crate) struct Compared<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    /// The set; `None` if it does not exist.
    pub before: Option<&'a Value>,
    /// The set as it would be.
    pub after: &'a Value,
    /// The objects at the beginning of the forecast.
    pub objects: &'a Objects,
    /// The name of the policy that is in force.
    pub policy: Option<&'a str>,
    pub versions: &'a Versions,
}

/// The answer of `mainstay plan`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub namespace: String,
    pub name: String,
    /// Whether the set does not exist yet.
    pub is_new: bool,
    /// The name of the policy that is in force.
    pub policy: Option<String>,
    /// The changed fields of the set.
    pub differences: Vec<Difference>,
    /// The revision of the template.
    pub update_revision: String,
    /// The reasons why something waits at present.
    pub waiting_now: Vec<String>,
    /// The changes of pods in order. The next group begins when the pods of a group are available.
    pub rollout: Vec<ChangeGroup>,
    pub claims: Vec<ClaimChange>,
    /// The pods that keep another revision than that of the template, by name.
    pub kept: BTreeMap<String, String>,
    pub end: EndState,
    /// The versions of the set and of its policy, as `--apply` takes them.
    pub versions: String,
    /// Warnings of the server about the manifests.
    pub warnings: Vec<String>,
}

/// Changes that are made together.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ChangeGroup {
    Pods(Vec<PodChange>),
    /// Nothing happens until these have ended by themselves.
    Wait(Vec<String>),
    /// The revision is rejected, for this reason.
    Rejected(String),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodChange {
    pub pod: String,
    pub action: PodAction,
    /// The revision before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The revision after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Whether the guard of the policy decides again when it happens.
    pub guarded: bool,
    /// The name of the hook that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum PodAction {
    Create,
    /// Deleted, and created again.
    Restart,
    /// Deleted, because the set has fewer replicas.
    Remove,
    /// Deleted, and not created again.
    Delete,
    Adopt,
    Release,
    /// A hook runs in the pod before it goes.
    RunHook,
    /// The pod does not go any more, and its hook is taken back.
    CancelHook,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimChange {
    pub claim: String,
    pub action: ClaimAction,
    /// The size or the attributes class before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ClaimAction {
    Create,
    /// Gets another size.
    Resize,
    /// Gets another attributes class.
    Modify,
    /// Gets other labels or annotations.
    Label,
    /// Deleted with its data, as the retention policy of the set demands.
    Delete,
}

/// The end of the rollout.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EndState {
    /// Nothing is left to do.
    Complete,
    /// Something is left to do, and waits for these reasons.
    Held(Vec<String>),
    /// The rollout is longer than the forecast.
    Unfinished,
}

impl Report {
    pub(crate) fn of(compared: &Compared<'_>, told: &Forecast, warnings: Vec<String>) -> Self {
        let kept = told.pods.iter();
        let kept = kept.filter(|(_, revision)| **revision != told.update_revision);
        Self {
            namespace: compared.namespace.to_owned(),
            name: compared.name.to_owned(),
            is_new: compared.before.is_none(),
            policy: compared.policy.map(str::to_owned),
            // All fields of a new set are new.
            differences: match compared.before {
                Some(before) => differences(before, compared.after),
                None => Vec::new(),
            },
            update_revision: told.update_revision.clone(),
            waiting_now: texts(&told.waiting_now),
            rollout: rollout(told),
            claims: claims(compared.objects, told),
            kept: kept
                .map(|(pod, revision)| (pod.clone(), revision.clone()))
                .collect(),
            end: match &told.end {
                ForecastEnd::Complete => EndState::Complete,
                ForecastEnd::Held(causes) => EndState::Held(texts(causes)),
                ForecastEnd::Unfinished => EndState::Unfinished,
            },
            versions: compared.versions.to_string(),
            warnings,
        }
    }

    /// Whether anything changes: the set, a pod or a claim.
    pub fn has_changes(&self) -> bool {
        let is_change = |group: &ChangeGroup| !matches!(group, ChangeGroup::Wait(_));
        self.is_new
            || !self.differences.is_empty()
            || self.rollout.iter().any(is_change)
            || !self.claims.is_empty()
    }
}

/// The texts of causes, but for the order of pods, which the rollout has.
fn texts(causes: &[Waiting]) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for waiting in causes {
        let is_order = matches!(
            waiting.cause,
            Cause::After { .. } | Cause::Unavailable { .. }
        );
        let text = waiting.cause.to_string();
        if !is_order && !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts
}

/// Groups the changes of pods. A pod that is deleted and created again has one change, in the round of its deletion.
fn rollout(told: &Forecast) -> Vec<ChangeGroup> {
    let mut groups: Vec<(usize, ChangeGroup)> = Vec::new();
    // The group and the offset of each deleted pod that has not been created again.
    let mut deleted: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for step in &told.steps {
        let change = match &step.change {
            RolloutChange::CreatePod { pod, revision } => {
                if let Some((group, offset)) = deleted.remove(pod.as_str())
                    && let (_, ChangeGroup::Pods(pods)) = &mut groups[group]
                {
                    let change = &mut pods[offset];
                    change.action = PodAction::Restart;
                    change.to = Some(revision.clone());
                    continue;
                }
                PodChange {
                    to: Some(revision.clone()),
                    ..PodChange::new(pod, PodAction::Create)
                }
            }
            RolloutChange::DeletePod {
                pod,
                revision,
                purpose,
                is_guarded,
            } => PodChange {
                from: Some(revision.clone()),
                guarded: *is_guarded,
                ..PodChange::new(
                    pod,
                    match purpose {
                        Purpose::ScaleDown => PodAction::Remove,
                        Purpose::Update => PodAction::Delete,
                    },
                )
            },
            RolloutChange::RunHook {
                pod,
                hook,
                is_cancelled,
            } => PodChange {
                hook: Some(hook.clone()),
                ..PodChange::new(
                    pod,
                    match is_cancelled {
                        true => PodAction::CancelHook,
                        false => PodAction::RunHook,
                    },
                )
            },
            RolloutChange::AdoptPod { pod } => PodChange::new(pod, PodAction::Adopt),
            RolloutChange::ReleasePod { pod } => PodChange::new(pod, PodAction::Release),
            RolloutChange::Wait { causes } => {
                let causes = causes.iter().map(ToString::to_string).collect();
                groups.push((step.round, ChangeGroup::Wait(causes)));
                continue;
            }
            RolloutChange::RejectRevision {
                revision,
                pod,
                message,
            } => {
                let text =
                    format!("revision {revision} is rejected, because pod {pod} fails: {message}");
                groups.push((step.round, ChangeGroup::Rejected(text)));
                continue;
            }
            RolloutChange::CreateClaim { .. }
            | RolloutChange::EditClaim { .. }
            | RolloutChange::DeleteClaim { .. } => {
                continue;
            }
        };
        if !matches!(groups.last(), Some((round, ChangeGroup::Pods(_))) if *round == step.round) {
            groups.push((step.round, ChangeGroup::Pods(Vec::new())));
        }
        let index = groups.len() - 1;
        if let Some((_, ChangeGroup::Pods(pods))) = groups.last_mut() {
            pods.push(change);
            if let RolloutChange::DeletePod { pod, .. } = &step.change {
                deleted.insert(pod, (index, pods.len() - 1));
            }
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

impl PodChange {
    fn new(pod: &str, action: PodAction) -> Self {
        Self {
            pod: pod.to_owned(),
            action,
            from: None,
            to: None,
            guarded: false,
            hook: None,
        }
    }
}

fn claims(objects: &Objects, told: &Forecast) -> Vec<ClaimChange> {
    let mut changes = Vec::new();
    for step in &told.steps {
        let change = |claim: &str, action, from, to| ClaimChange {
            claim: claim.to_owned(),
            action,
            from,
            to,
        };
        match &step.change {
            RolloutChange::CreateClaim { claim } => {
                changes.push(change(claim, ClaimAction::Create, None, None));
            }
            RolloutChange::DeleteClaim { claim } => {
                changes.push(change(claim, ClaimAction::Delete, None, None));
            }
            RolloutChange::EditClaim { claim, edit } => {
                let present = objects.claims.get(claim);
                match edit {
                    ClaimEdit::Metadata(_) => {
                        changes.push(change(claim, ClaimAction::Label, None, None));
                    }
                    ClaimEdit::Volume(edit) => {
                        if let Some(size) = &edit.storage {
                            let from = present.and_then(requested);
                            let to = Some(size.clone());
                            changes.push(change(claim, ClaimAction::Resize, from, to));
                        }
                        if let Some(class) = &edit.attributes_class {
                            let from = present.and_then(attributes_class);
                            let to = Some(class.clone());
                            changes.push(change(claim, ClaimAction::Modify, from, to));
                        }
                    }
                }
            }
            _ => {}
        }
    }
    changes
}

fn requested(claim: &PersistentVolumeClaim) -> Option<String> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    Some(resources.requests.as_ref()?.get("storage")?.0.clone())
}

fn attributes_class(claim: &PersistentVolumeClaim) -> Option<String> {
    claim.spec.as_ref()?.volume_attributes_class_name.clone()
}
