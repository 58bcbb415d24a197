//! The templates of a set, stored as ControllerRevisions.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use object_model::{IncompleteMetadata, Uid};
use resource_kinds::MetadataIdentity;
use resource_kinds::labels::CONTROLLER_REVISION_HASH;

use super::plan::ParsedDaemonSet;
use crate::pod_set::{PodState, owner_reference};
use crate::stateful_set::revisions;

/// Names to try before giving up until the next plan.
const COLLISIONS_MAX: i32 = 100;

/// A write to a ControllerRevision.
#[derive(Clone, Debug, PartialEq)]
pub enum RevisionAction {
    /// Create a revision for a template.
    Create(Box<ControllerRevision>),
    /// Give a revision the newest number, because its template is current again.
    Renumber {
        name: String,
        uid: Uid,
        /// The new revision number.
        revision: i64,
    },
    /// Adopt a revision without an owner.
    Adopt { name: String, uid: Uid },
    /// Delete a revision.
    Delete { name: String, uid: Uid },
}

/// The value of the label `controller-revision-hash` of a revision and of its pods; not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RevisionHash(String);

impl RevisionHash {
    /// `None` for a revision without the label.
    fn of(revision: &ControllerRevision) -> Option<Self> {
        let labels = revision.metadata.labels.as_ref()?;
        let hash = labels.get(CONTROLLER_REVISION_HASH)?;
        (!hash.is_empty()).then(|| Self(hash.clone()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pod was created from this revision.
    pub fn is_of(&self, pod: &PodState<'_>) -> bool {
        pod.label(CONTROLLER_REVISION_HASH) == Some(&self.0)
    }
}

/// The revision for new pods.
pub(super) struct ChosenRevision {
    pub hash: RevisionHash,
    pub collisions: Option<i32>,
    pub actions: Vec<RevisionAction>,
}

/// The revisions of the set, oldest first.
fn of_set<'a>(parsed: &ParsedDaemonSet<'a>) -> Vec<&'a Arc<ControllerRevision>> {
    let mine = parsed.observed.revisions.iter().filter(|revision| {
        parsed.owner.owns(&revision.metadata) || parsed.owner.claims(&revision.metadata)
    });
    let mut mine: Vec<&Arc<ControllerRevision>> = mine.collect();
    mine.sort_unstable_by_key(|revision| (revision.revision, revision.metadata.name.clone()));
    mine
}

/// Finds, renumbers or creates the revision of the template.
pub(super) fn choose(parsed: &ParsedDaemonSet<'_>) -> Result<ChosenRevision, IncompleteMetadata> {
    let all = of_set(parsed);
    let status = parsed.observed.set.status.as_ref();
    let mut collisions = status.and_then(|status| status.collision_count);
    let mut actions = Vec::new();
    for revision in all
        .iter()
        .filter(|revision| !parsed.owner.owns(&revision.metadata))
    {
        actions.push(RevisionAction::Adopt {
            name: revision.metadata.object_name()?.to_owned(),
            uid: revision.metadata.object_uid()?,
        });
    }
    let data = revisions::encode(&parsed.spec.template);
    let same = |revision: &ControllerRevision| {
        let stored = revision.data.as_ref().map(|data| &data.0);
        let means = || stored.and_then(revisions::decode);
        stored == Some(&data) || means().as_ref() == Some(&parsed.spec.template)
    };
    let newest = all.last().map_or(0, |revision| revision.revision);
    // Pods are assigned to revisions by the hash, so a revision without a hash is not used.
    let of_template = all.iter().rev().filter(|revision| same(revision));
    let mut of_template = of_template.filter_map(|one| Some((*one, RevisionHash::of(one)?)));
    if let Some((existing, hash)) = of_template.next() {
        if existing.revision < newest {
            actions.push(RevisionAction::Renumber {
                name: existing.metadata.object_name()?.to_owned(),
                uid: existing.metadata.object_uid()?,
                revision: newest.saturating_add(1),
            });
        }
        return Ok(ChosenRevision {
            hash,
            collisions,
            actions,
        });
    }
    let bytes = revisions::bytes(&data);
    let mut hash = revisions::hash(&bytes, collisions);
    for _ in 0..COLLISIONS_MAX {
        let name = revisions::name(parsed.owner.name, &hash);
        let mut other_revisions = parsed.observed.revisions.iter();
        if !other_revisions.any(|revision| revision.metadata.name.as_ref() == Some(&name)) {
            break;
        }
        collisions = Some(collisions.unwrap_or_default().saturating_add(1));
        hash = revisions::hash(&bytes, collisions);
    }
    let template = parsed.spec.template.metadata.clone().unwrap_or_default();
    let mut labels = template.labels.unwrap_or_default();
    labels.insert(CONTROLLER_REVISION_HASH.to_owned(), hash.clone());
    actions.push(RevisionAction::Create(Box::new(ControllerRevision {
        metadata: ObjectMeta {
            name: Some(revisions::name(parsed.owner.name, &hash)),
            namespace: Some(parsed.owner.namespace.to_owned()),
            labels: Some(labels),
            annotations: parsed.observed.set.metadata.annotations.clone(),
            owner_references: Some(vec![owner_reference(&parsed.owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: newest.saturating_add(1),
    })));
    Ok(ChosenRevision {
        hash: RevisionHash(hash),
        collisions,
        actions,
    })
}

/// Deletes the oldest revisions that no pod uses, beyond the limit.
pub(super) fn surplus(
    parsed: &ParsedDaemonSet<'_>,
    current: &RevisionHash,
) -> Result<Vec<RevisionAction>, IncompleteMetadata> {
    let limit = parsed.spec.revision_history_limit.unwrap_or(10);
    let Ok(limit) = usize::try_from(limit) else {
        return Ok(Vec::new());
    };
    let pods = parsed.by_node.values().flatten();
    let mut live: BTreeSet<&str> = pods
        .filter_map(|pod| pod.label(CONTROLLER_REVISION_HASH))
        .collect();
    live.insert(current.as_str());
    let past = of_set(parsed).into_iter().filter(|revision| {
        let hash = RevisionHash::of(revision);
        let is_live = hash.is_some_and(|hash| live.contains(hash.as_str()));
        !is_live && revision.metadata.deletion_timestamp.is_none()
    });
    let past: Vec<_> = past.collect();
    let surplus = past.len().saturating_sub(limit);
    let surplus = past.into_iter().take(surplus).map(|revision| {
        Ok(RevisionAction::Delete {
            name: revision.metadata.object_name()?.to_owned(),
            uid: revision.metadata.object_uid()?,
        })
    });
    surplus.collect()
}
