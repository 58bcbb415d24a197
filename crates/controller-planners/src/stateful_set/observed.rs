//! The observed state, and its parsed form.
//!
//! Any input is accepted: old, edited by hand, contradictory. A value that cannot be parsed becomes
//! the default or a reason to wait, never a failure.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use object_model::{IntOrPercent, LabelSelector};
use resource_kinds::pod_view::PodView;

use super::identity;
use super::member::{Member, Members};
use super::options::Options;

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
    /// Writes that the API server refused at their last attempt.
    pub refused: Vec<Refused>,
}

/// A write that the API server refused: by a quota, a webhook, Pod Security, validation, a missing
/// ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The action in words, as [`super::StatefulSetAction`] displays it.
    pub action: String,
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
    pub uid: &'a str,
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
    pub fn of(set: &'a StatefulSet) -> Self {
        let spec = set.spec.as_ref();
        let at_least_0 = |number: Option<i32>| i64::from(number.unwrap_or_default().max(0));
        let policy = spec.and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
        let limit = spec.and_then(|s| s.revision_history_limit).unwrap_or(10);
        Self {
            set,
            options: Options::of(set),
            name: set.metadata.name.as_deref().unwrap_or_default(),
            namespace: set.metadata.namespace.as_deref().unwrap_or_default(),
            uid: set.metadata.uid.as_deref().unwrap_or_default(),
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
        }
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
    pub orphans: Vec<&'a PodView>,
    /// Pods to release; they are not members.
    pub strays: Vec<&'a PodView>,
    /// Pods with a name of the set that belong to another owner, by name.
    pub taken: BTreeMap<&'a str, &'a PodView>,
    /// Claims and their names by ordinal and index of their template. The index is built once, because a search for
    /// 10,000 names would take longer than the rest of the plan.
    pub claims: BTreeMap<(i64, usize), (&'a str, &'a PersistentVolumeClaim)>,
    /// Names of the pods' revisions, stored once, so that comparisons are quick.
    revisions: Vec<&'a str>,
}

impl<'a> ParsedSet<'a> {
    pub fn of(observed: &'a Observed, now: Timestamp) -> Self {
        let mut world = Self {
            spec: Spec::of(&observed.set),
            observed,
            now,
            members: Members::default(),
            condemned: Members::default(),
            orphans: Vec::new(),
            strays: Vec::new(),
            taken: BTreeMap::new(),
            claims: BTreeMap::new(),
            revisions: Vec::new(),
        };
        world.claims = world.sorted_claims();
        let (mut members, mut condemned) = (Vec::new(), Vec::new());
        for pod in &observed.pods {
            if let Some(member) = world.sort_in(pod) {
                let is_desired = world.spec.in_range(member.ordinal);
                let members_of_kind = if is_desired {
                    &mut members
                } else {
                    &mut condemned
                };
                members_of_kind.push(member);
            }
        }
        world.members = Members::of(members);
        world.condemned = Members::of(condemned);
        world
    }

    /// The member for a pod of the set; pods that are not members are added to the other lists.
    fn sort_in(&mut self, pod: &'a PodView) -> Option<Member<'a>> {
        if *pod.namespace != *self.spec.namespace {
            return None;
        }
        let ordinal = identity::ordinal(self.spec.name, &pod.name);
        let ordinal = ordinal.filter(|_| self.spec.selects(|key| pod.label(key)));
        let ours = match &pod.controller {
            Some(owner) if *owner.uid == *self.spec.uid => {
                if ordinal.is_none() && !self.spec.deleting && self.spec.selector.is_some() {
                    self.strays.push(pod);
                }
                true
            }
            Some(_) => false,
            None => {
                let claimable = !self.spec.deleting && !pod.is_deleting();
                if claimable && ordinal.is_some() {
                    self.orphans.push(pod);
                }
                claimable
            }
        };
        let Some(ordinal) = ordinal.filter(|_| ours) else {
            self.taken.insert(&pod.name, pod);
            return None;
        };
        let mut member = Member::of(pod, ordinal, self.spec.min_ready, self.now);
        member.revision = self.one_place(member.revision);
        Some(member)
    }

    fn sorted_claims(&self) -> BTreeMap<(i64, usize), (&'a str, &'a PersistentVolumeClaim)> {
        let templates = self.spec.claim_templates.iter().enumerate();
        let templates: Vec<(usize, &str)> = templates
            .filter_map(|(index, template)| Some((index, template.metadata.name.as_deref()?)))
            .collect();
        let of_template = |claim: &str, template: &str| {
            let pod = claim.strip_prefix(template)?.strip_prefix('-')?;
            identity::ordinal(self.spec.name, pod)
        };
        let mut claims = Vec::new();
        for (name, claim) in &self.observed.claims {
            for (index, template) in &templates {
                if let Some(ordinal) = of_template(name, template) {
                    claims.push(((ordinal, *index), (name.as_str(), claim.as_ref())));
                }
            }
        }
        claims.into_iter().collect()
    }

    /// The existing claims of an ordinal, in the order of their templates.
    pub fn claims_of(
        &self,
        ordinal: i64,
    ) -> impl Iterator<Item = (&'a str, &'a PersistentVolumeClaim)> {
        let all = self.claims.range((ordinal, 0)..=(ordinal, usize::MAX));
        all.map(|(_, claim)| *claim)
    }

    fn one_place(&mut self, revision: &'a str) -> &'a str {
        /// The search through the list must stay quick, and more revisions are unusual.
        const REVISIONS_MAX: usize = 8;
        let stored = self
            .revisions
            .iter()
            .copied()
            .find(|stored| *stored == revision);
        if stored.is_none() && self.revisions.len() < REVISIONS_MAX {
            self.revisions.push(revision);
        }
        stored.unwrap_or(revision)
    }

    /// All pods of the set, including condemned pods.
    pub fn all(&self) -> impl Iterator<Item = &Member<'a>> {
        self.members.iter().chain(self.condemned.iter())
    }
}
