//! The ReplicaSets of a Deployment: the ReplicaSet of the current template, and the ReplicaSets of earlier templates.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::{
    DESIRED_REPLICAS, LAST_APPLIED, MAX_REPLICAS, REVISION, REVISION_HISTORY,
};
use resource_kinds::labels::POD_TEMPLATE_HASH;

use super::observed::{ParsedDeployment, Set, same_template};
use super::plan::DeploymentAction;
use super::rollout;
use crate::pod_set::owner_reference;
use crate::stateful_set::revisions;

/// Names to try before giving up until the next plan.
const COLLISIONS_MAX: i32 = 100;
/// Maximum length of the list of former revisions, in characters.
const HISTORY_CHARS_MAX: usize = 2000;
/// Annotations of the Deployment that are not copied to its ReplicaSets.
const NOT_COPIED: &[&str] = &[
    LAST_APPLIED,
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// The new and the old ReplicaSets.
pub(super) struct Sets<'a> {
    /// The ReplicaSet of the current template.
    pub new: Option<Set<'a>>,
    /// ReplicaSets of earlier templates, the oldest first.
    pub old: Vec<Set<'a>>,
}

/// Finds the ReplicaSets of the Deployment, and plans adoptions and releases.
pub(super) fn sort<'a>(
    parsed: &ParsedDeployment<'a>,
) -> Result<(Sets<'a>, Vec<DeploymentAction>), IncompleteMetadata> {
    let (mut mine, mut actions, mut adopts) = (Vec::new(), Vec::new(), false);
    for set in &parsed.observed.sets {
        let meta = &set.metadata;
        let (name, uid) = (meta.object_name()?.to_owned(), meta.object_uid()?);
        if parsed.owner.owns(meta) {
            let stays = parsed.owner.selects(meta.labels.as_ref());
            if stays || parsed.owner.deleting || parsed.owner.selector.is_none() {
                mine.push(set);
            } else {
                actions.push(DeploymentAction::ReleaseSet { name, uid });
            }
        } else if parsed.owner.claims(meta) {
            adopts = true;
            mine.push(set);
            actions.push(DeploymentAction::AdoptSet { name, uid });
        }
    }
    if adopts {
        actions.insert(0, DeploymentAction::ConfirmDeployment);
    }
    mine.sort_unstable_by_key(|set| {
        let meta = &set.metadata;
        (meta.creation_timestamp.clone(), meta.name.clone())
    });
    // Of several sets with an equal template the oldest is the new set.
    let is_new = |set: &Arc<ReplicaSet>| {
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        template.is_some_and(|template| same_template(template, parsed.template))
    };
    let new = mine.iter().position(|set| is_new(set));
    let new = new.map(|at| Set::of(mine.remove(at))).transpose()?;
    let old = mine.into_iter().map(Set::of).collect::<Result<_, _>>()?;
    Ok((Sets { new, old }, actions))
}

impl<'a> Sets<'a> {
    /// All ReplicaSets, the oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Set<'a>> {
        self.old.iter().chain(&self.new)
    }

    /// The sum of all sets' `spec.replicas`.
    pub fn replicas(&self) -> i32 {
        let targets = self.all().map(|set| set.target);
        targets.fold(0, i32::saturating_add)
    }

    /// The highest existing revision plus one.
    fn next_revision(&self) -> i64 {
        let last = self.old.iter().map(Set::revision).max();
        last.unwrap_or_default().max(0).saturating_add(1)
    }

    /// Writes the revision number and the Deployment's annotations into the new set.
    pub fn number(&mut self, parsed: &ParsedDeployment<'_>) {
        let next = self.next_revision();
        let Some(new) = &mut self.new else {
            return;
        };
        let former = new.revision();
        if former < next {
            if former > 0 {
                let history = new.annotation(REVISION_HISTORY).unwrap_or_default();
                new.annotate(REVISION_HISTORY, with_former(history, former));
            }
            new.annotate(REVISION, next.to_string());
        }
        for (key, value) in inherited(parsed) {
            new.annotate(key, value.clone());
        }
        let stored = new.set.spec.as_ref().and_then(|s| s.min_ready_seconds);
        let desired = parsed.min_ready.unwrap_or_default();
        if stored.unwrap_or_default() != desired {
            new.min_ready = Some(desired);
        }
    }

    /// The revision of the new set, if the Deployment's annotation differs.
    pub fn revision_to_note(&self, parsed: &ParsedDeployment<'_>) -> Option<String> {
        let revision = match &self.new {
            Some(new) => new.annotation(REVISION)?.to_owned(),
            None => return None,
        };
        let annotations = parsed.deployment.metadata.annotations.as_ref();
        let noted = annotations.and_then(|all| all.get(REVISION));
        (noted != Some(&revision) && !parsed.owner.deleting).then_some(revision)
    }

    /// Deletes old sets beyond `revisionHistoryLimit`, if they are empty.
    pub fn surplus(&self, parsed: &ParsedDeployment<'_>) -> Vec<DeploymentAction> {
        let Some(limit) = parsed.history_limit else {
            return Vec::new();
        };
        let alive = |set: &&Set<'_>| set.set.metadata.deletion_timestamp.is_none();
        let mut past: Vec<&Set<'_>> = self.old.iter().filter(alive).collect();
        past.sort_by_key(|set| set.revision());
        let surplus = past.len().saturating_sub(limit);
        past.into_iter()
            .take(surplus)
            .filter(|set| set.actual() == 0 && set.stored() == 0 && set.target == 0)
            .filter(|set| {
                let status = set.set.status.as_ref();
                let observed_generation = status.and_then(|status| status.observed_generation);
                observed_generation.unwrap_or_default()
                    >= set.set.metadata.generation.unwrap_or_default()
            })
            .map(|set| DeploymentAction::DeleteSet {
                name: set.name.to_owned(),
                uid: set.uid.clone(),
                version: set.version,
            })
            .collect()
    }
}

/// The annotations that a ReplicaSet inherits from its Deployment.
fn inherited<'a>(
    parsed: &ParsedDeployment<'a>,
) -> impl Iterator<Item = (&'a str, &'a String)> + use<'a> {
    let annotations = parsed.deployment.metadata.annotations.iter().flatten();
    annotations
        .map(|(key, value)| (key.as_str(), value))
        .filter(|(key, _)| !NOT_COPIED.contains(key))
}

/// The list of former revisions with one revision added; the oldest revisions are dropped beyond the maximum length.
fn with_former(history: &str, former: i64) -> String {
    let former = former.to_string();
    let mut all: Vec<&str> = history.split(',').filter(|one| !one.is_empty()).collect();
    all.push(&former);
    while all.join(",").len() > HISTORY_CHARS_MAX {
        all.remove(0);
    }
    all.join(",")
}

/// Creates the ReplicaSet of the current template under the first free name.
pub(super) fn create(
    parsed: &ParsedDeployment<'_>,
    sets: &Sets<'_>,
    collisions: &mut Option<i32>,
) -> ReplicaSet {
    let mut hash = hash(parsed.template, *collisions);
    for _ in 0..COLLISIONS_MAX {
        let name = name(parsed, &hash);
        let has_name = |set: &Arc<ReplicaSet>| set.metadata.name.as_ref() == Some(&name);
        if !parsed.observed.sets.iter().any(has_name) {
            break;
        }
        *collisions = Some(collisions.unwrap_or_default().saturating_add(1));
        hash = self::hash(parsed.template, *collisions);
    }
    let mut template = parsed.template.clone();
    let meta = template.metadata.get_or_insert_default();
    let labels = meta.labels.get_or_insert_default();
    labels.insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let spec = parsed.deployment.spec.as_ref();
    let mut selector = spec.map(|spec| spec.selector.clone()).unwrap_or_default();
    let matched = selector.match_labels.get_or_insert_default();
    matched.insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
    let replicas = rollout::replicas_of_new(parsed, sets, 0);
    let computed = [
        (REVISION, sets.next_revision().to_string()),
        (DESIRED_REPLICAS, parsed.replicas.to_string()),
        (MAX_REPLICAS, (parsed.replicas + parsed.surge).to_string()),
    ];
    let annotations = inherited(parsed)
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .chain(computed.map(|(key, value)| (key.to_owned(), value)));
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name(parsed, &hash)),
            namespace: Some(parsed.owner.namespace.to_owned()),
            labels: Some(labels),
            annotations: Some(annotations.collect()),
            owner_references: Some(vec![owner_reference(&parsed.owner)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            min_ready_seconds: parsed.min_ready,
            replicas: Some(replicas),
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

fn name(parsed: &ParsedDeployment<'_>, hash: &str) -> String {
    format!("{}-{hash}", parsed.owner.name)
}

/// The hash of a template, computed from the bytes that a ControllerRevision would store.
fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    revisions::hash(&revisions::bytes(&revisions::encode(template)), collisions)
}
