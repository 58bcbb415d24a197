//! The observed state, and its parsed form.
//!
//! Any specification and any status is accepted: old, edited by hand, contradictory. A value that cannot be parsed
//! becomes the default or a reason to wait. Only an incomplete identity, which no server sends, is an error.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use object_model::{IncompleteMetadata, IntOrPercent, LabelSelector, ResourceVersion, Uid};
use resource_kinds::pod_view::PodView;
use resource_kinds::stateful_set_policy::{
    ClaimRules, ClaimUpdates, Guard, PolicyHook, RoleSource, RolloutRules, StatefulSetPolicy,
    removed_claim_templates,
};
use resource_kinds::{MetadataIdentity, labels};

use super::group::GroupMember;
use super::member::{Member, Members};
use super::options::Options;
use super::plan::ActionTarget;
use super::revisions::RevisionName;
use super::{guard, identity};

/// The observed state of one StatefulSet.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The StatefulSet.
    pub set: Arc<StatefulSet>,
    /// Pods of its namespace: at least the pods that the set owns, the pods that its selector matches, and the pods
    /// with the name of one of its ordinals.
    pub pods: Vec<Arc<PodView>>,
    /// Revisions of its namespace: at least the revisions that the set owns, the revisions that its selector matches,
    /// and the revisions whose names begin with the set's name.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// Claims of its namespace by name: at least the claims of its ordinals.
    pub claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    /// The policy that is in force for the set.
    pub policy: Option<Arc<StatefulSetPolicy>>,
    /// The other sets that share the guard of the policy.
    pub group: Vec<GroupMember>,
    /// Writes that the API server refused at their last attempt.
    pub refused: Vec<Refused>,
}

impl Observed {
    /// The guard of the policy.
    pub(super) fn guard(&self) -> Option<&Guard> {
        self.policy.as_ref()?.spec.guard.as_ref()
    }

    /// The source of the roles of pods.
    pub(super) fn roles(&self) -> Option<&RoleSource> {
        self.policy.as_ref()?.spec.roles.as_ref()
    }

    /// The hooks of the policy.
    pub(super) fn hooks(&self) -> &[PolicyHook] {
        let policy = self.policy.as_ref();
        policy.map_or(&[], |policy| &policy.spec.hooks)
    }

    /// The rules of the policy for rollouts.
    pub(super) fn rollout(&self) -> Option<&RolloutRules> {
        self.policy.as_ref()?.spec.rollout.as_ref()
    }
}

/// A write that the API server refused: by a quota, a webhook, Pod Security, validation, a missing
/// ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub action: ActionTarget,
    /// The message of the API server's refusal.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retention {
    Retain,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    OnDelete,
    RollingUpdate(Option<Rolling>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rolling {
    pub partition: i64,
    pub max_unavailable: Option<IntOrPercent>,
}

/// The set's specification with defaults, parsed once.
pub(super) struct Spec<'a> {
    pub set: &'a StatefulSet,
    pub options: Options,
    pub name: &'a str,
    pub namespace: &'a str,
    pub uid: Uid,
    pub deleting: bool,
    pub replicas: i64,
    pub start: i64,
    pub ordered: bool,
    pub min_ready: SignedDuration,
    pub strategy: Strategy,
    pub when_deleted: Retention,
    pub when_scaled: Retention,
    /// `revisionHistoryLimit`; `None` keeps all revisions.
    pub history_limit: Option<usize>,
    pub template: &'a PodTemplateSpec,
    pub claim_templates: &'a [PersistentVolumeClaim],
    /// The selector; `None` if it is invalid or selects everything.
    pub selector: Option<LabelSelector>,
}

static NO_TEMPLATE: PodTemplateSpec = PodTemplateSpec {
    metadata: None,
    spec: None,
};

impl<'a> Spec<'a> {
    pub fn of(set: &'a StatefulSet) -> Result<Self, IncompleteMetadata> {
        let spec = set.spec.as_ref();
        let at_least_0 = |number: Option<i32>| i64::from(number.unwrap_or_default().max(0));
        let policy = spec.and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
        let limit = spec.and_then(|s| s.revision_history_limit).unwrap_or(10);
        Ok(Self {
            set,
            options: Options::of(set),
            name: set.metadata.object_name()?,
            namespace: set.metadata.object_namespace()?,
            uid: set.metadata.object_uid()?,
            deleting: set.metadata.deletion_timestamp.is_some(),
            replicas: spec.map_or(0, |s| i64::from(s.replicas.unwrap_or(1).max(0))),
            start: at_least_0(spec.and_then(|s| s.ordinals.as_ref()).and_then(|o| o.start)),
            ordered: spec.and_then(|s| s.pod_management_policy.as_deref()) != Some("Parallel"),
            min_ready: SignedDuration::from_secs(at_least_0(
                spec.and_then(|s| s.min_ready_seconds),
            )),
            strategy: strategy(set),
            when_deleted: retention(policy.and_then(|p| p.when_deleted.as_deref())),
            when_scaled: retention(policy.and_then(|p| p.when_scaled.as_deref())),
            history_limit: usize::try_from(limit).ok(),
            template: spec.map_or(&NO_TEMPLATE, |s| &s.template),
            claim_templates: spec
                .and_then(|s| s.volume_claim_templates.as_deref())
                .unwrap_or_default(),
            selector: selector(set),
        })
    }

    pub fn owner_reference(&self) -> OwnerReference {
        identity::reference_to(self.name, &self.uid)
    }

    /// Whether an owner reference names the set of this UID.
    pub fn is_owner(&self, owner: &OwnerReference) -> bool {
        self.uid == *owner.uid.as_str()
    }

    /// The desired ordinals. Ordinals beyond 32 bits cannot be part of a name.
    pub fn ordinals(&self) -> Range<i64> {
        let end = (self.start + self.replicas).min(i64::from(i32::MAX) + 1);
        self.start..end
    }

    pub fn in_range(&self, ordinal: i64) -> bool {
        self.ordinals().contains(&ordinal)
    }

    /// `maxUnavailable` of a rolling update; `None` if the field is not set: then pods are updated one by one.
    pub fn budget(&self) -> Option<i64> {
        let Strategy::RollingUpdate(Some(rolling)) = self.strategy else {
            return None;
        };
        let max = rolling.max_unavailable?;
        let replicas = i32::try_from(self.replicas).unwrap_or(i32::MAX);
        Some(i64::from(max.of(replicas, false).max(1)))
    }

    /// The lowest ordinal that a rolling update may touch.
    pub fn first_updatable(&self) -> i64 {
        match self.strategy {
            Strategy::RollingUpdate(Some(rolling)) => self.start + rolling.partition,
            _ => self.start,
        }
    }

    /// The ordinals that a rolling update may touch.
    pub fn updatable(&self) -> Range<i64> {
        self.first_updatable()..self.ordinals().end
    }

    pub fn selects<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        let selector = self.selector.as_ref();
        selector.is_some_and(|selector| selector.matches_by(label))
    }
}

pub(super) fn strategy(set: &StatefulSet) -> Strategy {
    let strategy = set
        .spec
        .as_ref()
        .and_then(|spec| spec.update_strategy.as_ref());
    if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        return Strategy::OnDelete;
    }
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    Strategy::RollingUpdate(rolling.map(|rolling| Rolling {
        partition: i64::from(rolling.partition.unwrap_or_default().max(0)),
        max_unavailable: rolling.max_unavailable.as_ref().and_then(int_or_percent),
    }))
}

fn int_or_percent(value: &IntOrString) -> Option<IntOrPercent> {
    IntOrPercent::from_json(&json_tree::to_value(value).ok()?)
}

fn retention(text: Option<&str>) -> Retention {
    // Any value except `Delete` keeps the data.
    if text == Some("Delete") {
        Retention::Delete
    } else {
        Retention::Retain
    }
}

fn selector(set: &StatefulSet) -> Option<LabelSelector> {
    let selector = LabelSelector::of(&set.spec.as_ref()?.selector)?;
    (!selector.is_everything()).then_some(selector)
}

/// The identity of a pod.
#[derive(Clone)]
pub(super) struct PodIdentity<'a> {
    pub name: &'a str,
    pub uid: Uid,
}

/// A claim with the state that was read.
#[derive(Clone)]
pub(super) struct ClaimState<'a> {
    pub name: &'a str,
    pub uid: Uid,
    pub version: ResourceVersion,
    pub claim: &'a PersistentVolumeClaim,
}

/// A revision with its identity.
pub(super) struct StoredRevision<'a> {
    pub name: &'a str,
    pub uid: Uid,
    pub object: &'a ControllerRevision,
}

/// The parsed set with its pods and claims.
pub(super) struct ParsedSet<'a> {
    pub spec: Spec<'a>,
    pub observed: &'a Observed,
    pub now: Timestamp,
    /// Pods with a desired ordinal.
    pub members: Members<'a>,
    /// Pods with an ordinal outside of the desired range.
    pub condemned: Members<'a>,
    /// Pods to adopt; they are members already.
    pub orphans: Vec<PodIdentity<'a>>,
    /// Pods to release; they are not members.
    pub strays: Vec<PodIdentity<'a>>,
    /// Pods with a name of the set that belong to another owner, by name.
    pub foreign_pods: BTreeMap<&'a str, &'a PodView>,
    /// Claims and their names by ordinal and index of their template. The index is built once, because a search for
    /// 10,000 names would take longer than the rest of the plan.
    pub claims: BTreeMap<(i64, usize), ClaimState<'a>>,
    /// The revisions in the observed order.
    pub stored_revisions: Vec<StoredRevision<'a>>,
    /// The checks that the node runs in the pods, by their annotation.
    pub checks: [(&'static str, Option<String>); 2],
    /// The effect of an edit of a claim template.
    pub claim_rules: ClaimRules,
    /// Claim templates that were removed from the set, oldest first.
    pub removed_templates: Vec<PersistentVolumeClaim>,
    /// Claims of removed templates by ordinal and index of their template.
    pub kept_claims: BTreeMap<(i64, usize), ClaimState<'a>>,
    /// Names of the pods' revisions, stored once, so that comparisons are quick.
    revisions: Vec<RevisionName>,
}

impl<'a> ParsedSet<'a> {
    /// The role of a pod by the policy; `None` if it is unknown.
    pub fn role<'r>(&'r self, member: &'r Member<'_>) -> Option<&'r str> {
        let policy = self.observed.policy.as_ref()?;
        policy.spec.role(|key| member.pod.label(key))
    }

    pub fn of(observed: &'a Observed, now: Timestamp) -> Result<Self, IncompleteMetadata> {
        let mut parsed = Self {
            spec: Spec::of(&observed.set)?,
            observed,
            now,
            members: Members::default(),
            condemned: Members::default(),
            orphans: Vec::new(),
            strays: Vec::new(),
            foreign_pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            stored_revisions: stored_revisions(observed)?,
            checks: guard::checks(observed),
            claim_rules: ClaimRules::of(
                observed.policy.as_deref(),
                observed.set.metadata.annotations.as_ref(),
            ),
            removed_templates: removed_templates(&observed.set),
            kept_claims: BTreeMap::new(),
            revisions: Vec::new(),
        };
        parsed.claims = sorted_claims(&parsed.spec, observed, parsed.spec.claim_templates)?;
        parsed.kept_claims = sorted_claims(&parsed.spec, observed, &parsed.removed_templates)?;
        let (mut members, mut condemned) = (Vec::new(), Vec::new());
        for pod in &observed.pods {
            if let Some(member) = parsed.sort_in(pod) {
                let is_desired = parsed.spec.in_range(member.ordinal);
                let members_of_kind = if is_desired {
                    &mut members
                } else {
                    &mut condemned
                };
                members_of_kind.push(member);
            }
        }
        parsed.members = Members::of(members);
        parsed.condemned = Members::of(condemned);
        Ok(parsed)
    }

    /// The member for a pod of the set; pods that are not members are added to the other lists.
    fn sort_in(&mut self, pod: &'a PodView) -> Option<Member<'a>> {
        if *pod.namespace != *self.spec.namespace {
            return None;
        }
        let identity = PodIdentity {
            name: &pod.name,
            uid: pod.uid.clone(),
        };
        let ordinal = identity::ordinal(self.spec.name, &pod.name);
        let ordinal = ordinal.filter(|_| self.spec.selects(|key| pod.label(key)));
        let ours = match &pod.controller {
            Some(owner) if self.spec.uid == owner.uid => {
                if ordinal.is_none() && !self.spec.deleting && self.spec.selector.is_some() {
                    self.strays.push(identity.clone());
                }
                true
            }
            Some(_) => false,
            None => {
                let claimable = !self.spec.deleting && !pod.is_deleting();
                if claimable && ordinal.is_some() {
                    self.orphans.push(identity.clone());
                }
                claimable
            }
        };
        let Some(ordinal) = ordinal.filter(|_| ours) else {
            self.foreign_pods.insert(&pod.name, pod);
            return None;
        };
        let revision = pod.label(labels::CONTROLLER_REVISION_HASH);
        let revision = self.shared_name(revision.unwrap_or_default());
        let min_ready = self.spec.min_ready;
        let member = Member::of(pod, ordinal, revision, min_ready, self.now);
        Some(Member {
            has_its_claims: self.has_its_claims(pod, ordinal),
            ..member
        })
    }

    /// Whether a pod has a volume of each claim template, and of no removed one. The names alone decide (rollouts.md
    /// C7): an edit of a template that stays changes no pod. The pod template may name a claim of a removed template.
    fn has_its_claims(&self, pod: &PodView, ordinal: i64) -> bool {
        if self.claim_rules.update != Some(ClaimUpdates::InPlace) {
            return true;
        }
        let claim_name = |template| identity::claim_name(template, self.spec.name, ordinal);
        let uses = |claim: &str| pod.claims.iter().any(|used| *used.name == *claim);
        let mut claims = template_names(self.spec.claim_templates).map(claim_name);
        let mut kept = template_names(&self.removed_templates).map(claim_name);
        claims.all(|claim| uses(&claim))
            && !kept.any(|claim| uses(&claim) && !names_claim(self.spec.template, &claim))
    }

    /// The existing claims of an ordinal, in the order of their templates.
    pub fn claims_of(&self, ordinal: i64) -> impl Iterator<Item = &ClaimState<'a>> {
        let all = self.claims.range((ordinal, 0)..=(ordinal, usize::MAX));
        all.map(|(_, claim)| claim)
    }

    /// The name of a revision, which members of equal revisions share.
    fn shared_name(&mut self, revision: &str) -> RevisionName {
        /// The search through the list must stay quick, and more revisions are unusual.
        const REVISIONS_MAX: usize = 8;
        if let Some(shared) = self.revisions.iter().find(|name| **name == *revision) {
            return shared.clone();
        }
        let name = RevisionName::new(revision);
        if self.revisions.len() < REVISIONS_MAX {
            self.revisions.push(name.clone());
        }
        name
    }

    /// All pods of the set, including condemned pods.
    pub fn all(&self) -> impl Iterator<Item = &Member<'a>> {
        self.members.iter().chain(self.condemned.iter())
    }
}

/// The names of claim templates.
pub(super) fn template_names(templates: &[PersistentVolumeClaim]) -> impl Iterator<Item = &str> {
    let names = templates.iter();
    names.filter_map(|template| template.metadata.name.as_deref())
}

/// Whether a volume of the pod template names that claim.
fn names_claim(template: &PodTemplateSpec, claim: &str) -> bool {
    let volumes = template
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let mut sources = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    sources.any(|source| source.claim_name == claim)
}

/// The claims of these templates, by ordinal and index of their template.
fn sorted_claims<'a>(
    spec: &Spec<'a>,
    observed: &'a Observed,
    templates: &[PersistentVolumeClaim],
) -> Result<BTreeMap<(i64, usize), ClaimState<'a>>, IncompleteMetadata> {
    let templates = templates.iter().enumerate();
    let templates: Vec<(usize, &str)> = templates
        .filter_map(|(index, template)| Some((index, template.metadata.name.as_deref()?)))
        .collect();
    let mut claims = Vec::new();
    if templates.is_empty() {
        return Ok(BTreeMap::new());
    }
    for (name, claim) in &observed.claims {
        for (index, template) in &templates {
            if let Some(ordinal) = identity::claim_ordinal(template, spec.name, name) {
                let state = ClaimState::of(name, claim)?;
                claims.push(((ordinal, *index), state));
            }
        }
    }
    Ok(claims.into_iter().collect())
}

/// The removed claim templates. A template of the set is not removed, whatever the record says.
fn removed_templates(set: &StatefulSet) -> Vec<PersistentVolumeClaim> {
    let mut removed = removed_claim_templates(set.metadata.annotations.as_ref());
    if removed.is_empty() {
        return removed;
    }
    let spec = set.spec.as_ref();
    let templates = spec.and_then(|spec| spec.volume_claim_templates.as_deref());
    let present: Vec<&str> = template_names(templates.unwrap_or_default()).collect();
    removed.retain(|template| {
        let name = template.metadata.name.as_deref();
        name.is_some_and(|name| !present.contains(&name))
    });
    removed
}

impl<'a> ClaimState<'a> {
    pub fn of(name: &'a str, claim: &'a PersistentVolumeClaim) -> Result<Self, IncompleteMetadata> {
        Ok(Self {
            name,
            uid: claim.metadata.object_uid()?,
            version: claim.metadata.object_version()?,
            claim,
        })
    }
}

fn stored_revisions(observed: &Observed) -> Result<Vec<StoredRevision<'_>>, IncompleteMetadata> {
    let revisions = observed.revisions.iter();
    let revisions = revisions.map(|revision| {
        Ok(StoredRevision {
            name: revision.metadata.object_name()?,
            uid: revision.metadata.object_uid()?,
            object: revision.as_ref(),
        })
    });
    revisions.collect()
}
