//! Edits of claims that exist: with `InPlace`, they follow an edit of their template as far as a claim can be changed
//! (rollouts.md C).
//!
//! Labels and annotations are written at once, sizes and attributes classes from the highest ordinal down, a few at a
//! time. An edit depends on no pod and no pod waits for it. Nothing here deletes a claim or makes it smaller than its
//! volume.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec};
use object_model::{IncompleteMetadata, Quantity};
use resource_kinds::annotations::{TEMPLATE_METADATA, UNUSED_SINCE};
use resource_kinds::stateful_set_policy::{ClaimRules, ClaimUpdates};
use serde::{Deserialize, Serialize};

use super::draft::Draft;
use super::identity;
use super::observed::{ClaimState, ParsedSet, Spec};
use super::plan::{ActionKind, StatefulSetAction};
use super::waiting::Cause;

/// The changed fields of a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimEdit {
    /// `None` removes the label.
    pub labels: BTreeMap<String, Option<String>>,
    /// `None` removes the annotation.
    pub annotations: BTreeMap<String, Option<String>>,
    /// The requested size.
    pub storage: Option<String>,
    pub attributes_class: Option<String>,
}

impl ClaimEdit {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn changes_volume(&self) -> bool {
        self.storage.is_some() || self.attributes_class.is_some()
    }
}

/// The claims of a template, by how they fit it (the names are those of KEP-4650).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TemplateClaims {
    pub template: String,
    /// Claims that are as the template says.
    pub compatible: usize,
    /// Claims that change, or wait for their turn.
    pub updating: usize,
    /// Claims that are larger than the template says.
    pub over_sized: usize,
    /// Claims with another class, access mode, volume mode or selector.
    pub incompatible: usize,
    /// Claims whose change failed.
    pub failed: usize,
    /// The sum of the sizes of the volumes.
    pub capacity: Quantity,
}

impl TemplateClaims {
    pub fn all_fit(&self) -> bool {
        self.updating + self.over_sized + self.incompatible + self.failed == 0
    }
}

/// The labels and annotations of a claim template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct TemplateMetadata {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl TemplateMetadata {
    fn of(template: &PersistentVolumeClaim) -> Self {
        let meta = &template.metadata;
        Self {
            labels: meta.labels.clone().unwrap_or_default(),
            annotations: meta.annotations.clone().unwrap_or_default(),
        }
    }

    fn text(&self) -> Option<String> {
        let is_set = *self != Self::default();
        is_set.then(|| serde_json::to_string(self).ok()).flatten()
    }
}

/// The annotation of a new claim that has the metadata of its template.
pub(super) fn record_of(template: &PersistentVolumeClaim) -> Option<(String, String)> {
    let text = TemplateMetadata::of(template).text()?;
    Some((TEMPLATE_METADATA.to_owned(), text))
}

/// The state of a claim's volume beside the template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum VolumeFit {
    Compatible,
    /// The volume changes now, or changes when the claim is bound.
    Changing,
    OverSized,
    Incompatible,
    /// The claim is to be edited.
    Differs,
    /// The change to the present template failed, with this message.
    Failed(String),
}

/// A claim of a desired ordinal, beside its template.
struct Candidate<'p, 'a> {
    ordinal: i64,
    index: usize,
    claim: &'p ClaimState<'a>,
    edit: ClaimEdit,
    fit: VolumeFit,
    /// The API server's refusal of the last attempt.
    refusal: Option<&'p str>,
}

/// Plans the edits of claims, and counts for the status how claims fit.
pub(super) fn plan(parsed: &ParsedSet<'_>, draft: &mut Draft) {
    if parsed.claim_rules.update != Some(ClaimUpdates::InPlace) {
        return;
    }
    let mut candidates = candidates(parsed);
    let counts = count(parsed, &candidates);
    draft.template_claims = (!counts.is_empty()).then_some(counts);
    for candidate in &candidates {
        if let Some(cause) = candidate.failure() {
            draft.wait(candidate.ordinal, cause);
        }
    }
    hold_back(parsed.claim_rules, &mut candidates);
    for candidate in candidates {
        edit(candidate.claim, candidate.edit, draft);
    }
    mark_unused(parsed, draft);
}

fn edit(claim: &ClaimState<'_>, edit: ClaimEdit, draft: &mut Draft) {
    // A second write of one plan would be refused, because the first changes the resourceVersion.
    if !edit.is_empty() && !draft.writes_claim(claim.name) {
        draft.claim_edits.push(StatefulSetAction::EditClaim {
            name: claim.name.to_owned(),
            uid: claim.uid.clone(),
            version: claim.version,
            edit: Box::new(edit),
        });
    }
}

/// The claims of desired ordinals, highest first.
fn candidates<'p, 'a>(parsed: &'p ParsedSet<'a>) -> Vec<Candidate<'p, 'a>> {
    let spec = &parsed.spec;
    let templates: Vec<(TemplateMetadata, &PersistentVolumeClaim)> = spec
        .claim_templates
        .iter()
        .map(|template| (TemplateMetadata::of(template), template))
        .collect();
    let claims = parsed.claims.range((spec.start, 0)..).rev();
    let claims = claims.filter(|((ordinal, _), claim)| {
        spec.in_range(*ordinal) && claim.claim.metadata.deletion_timestamp.is_none()
    });
    let candidates = claims.filter_map(|((ordinal, index), claim)| {
        let (metadata, template) = templates.get(*index)?;
        let mut edit = metadata_edit(spec, metadata, claim.claim);
        let fit = volume_edit(template, claim.claim, &mut edit);
        Some(Candidate {
            ordinal: *ordinal,
            index: *index,
            claim,
            edit,
            fit,
            refusal: refusal(parsed, claim.name),
        })
    });
    candidates.collect()
}

fn refusal<'p>(parsed: &'p ParsedSet<'_>, claim: &str) -> Option<&'p str> {
    let mut refused = parsed.observed.refused.iter();
    let refused = refused.find(|refused| {
        refused.action.kind == ActionKind::EditClaim && refused.action.name == claim
    })?;
    Some(&refused.message)
}

impl Candidate<'_, '_> {
    fn failure(&self) -> Option<Cause> {
        let claim = self.claim.name.to_owned();
        let message = match (&self.fit, self.refusal) {
            (VolumeFit::Failed(message), _) => message.clone(),
            (_, Some(message)) if !self.edit.is_empty() => message.to_owned(),
            _ => return None,
        };
        let is_refused = self.refusal.is_some();
        Some(match is_refused {
            true => Cause::ClaimEditRefused { claim, message },
            false => Cause::ClaimEditFailed { claim, message },
        })
    }

    fn has_failed(&self) -> bool {
        matches!(self.fit, VolumeFit::Failed(_))
            || (self.refusal.is_some() && self.edit.changes_volume())
    }
}

/// Removes the changes of volumes that have to wait: at most `parallel` volumes change at once, and no further change
/// begins with more than `failures` failed ones (rollouts.md C5). A refused change is tried again each time.
fn hold_back(rules: ClaimRules, candidates: &mut [Candidate<'_, '_>]) {
    let count = |is: &dyn Fn(&Candidate<'_, '_>) -> bool| {
        u32::try_from(candidates.iter().filter(|candidate| is(candidate)).count())
            .unwrap_or(u32::MAX)
    };
    let mut changing = count(&|candidate| candidate.fit == VolumeFit::Changing);
    let may_begin = count(&|candidate| candidate.has_failed()) <= rules.failures;
    for candidate in candidates.iter_mut() {
        if !candidate.edit.changes_volume() || candidate.refusal.is_some() {
            continue;
        }
        if may_begin && changing < rules.parallel {
            changing += 1;
        } else {
            candidate.edit.storage = None;
            candidate.edit.attributes_class = None;
        }
    }
}

fn count(parsed: &ParsedSet<'_>, candidates: &[Candidate<'_, '_>]) -> Vec<TemplateClaims> {
    let templates = parsed.spec.claim_templates.iter();
    let mut counts: Vec<TemplateClaims> = templates
        .map(|template| TemplateClaims {
            template: template.metadata.name.clone().unwrap_or_default(),
            ..TemplateClaims::default()
        })
        .collect();
    for candidate in candidates {
        let Some(counts) = counts.get_mut(candidate.index) else {
            continue;
        };
        let capacity = capacity(candidate.claim.claim).unwrap_or_default();
        counts.capacity = counts.capacity.plus(&capacity);
        let has_metadata =
            candidate.edit.labels.is_empty() && candidate.edit.annotations.is_empty();
        let count = match candidate.fit {
            _ if candidate.has_failed() => &mut counts.failed,
            VolumeFit::Incompatible => &mut counts.incompatible,
            VolumeFit::OverSized => &mut counts.over_sized,
            VolumeFit::Compatible if has_metadata => &mut counts.compatible,
            _ => &mut counts.updating,
        };
        *count += 1;
    }
    counts
}

/// The labels and annotations that the template has now, and the claim has not. A value that somebody else has set
/// stays: it differs from the value that the claim had from its template. Without a record of that value, the claim's
/// values are those of the template.
fn metadata_edit(
    spec: &Spec<'_>,
    template: &TemplateMetadata,
    claim: &PersistentVolumeClaim,
) -> ClaimEdit {
    let meta = &claim.metadata;
    let text = meta
        .annotations
        .as_ref()
        .and_then(|all| all.get(TEMPLATE_METADATA));
    let recorded = text.and_then(|text| serde_json::from_str::<TemplateMetadata>(text).ok());
    let selector = spec.set.spec.as_ref().map(|set| &set.selector);
    let selected = selector.and_then(|selector| selector.match_labels.as_ref());
    let mut edit = ClaimEdit {
        labels: changes(
            &template.labels,
            recorded.as_ref().map(|recorded| &recorded.labels),
            meta.labels.as_ref(),
        ),
        annotations: changes(
            &template.annotations,
            recorded.as_ref().map(|recorded| &recorded.annotations),
            meta.annotations.as_ref(),
        ),
        ..ClaimEdit::default()
    };
    // Labels of the selector come before those of the template.
    edit.labels
        .retain(|key, _| selected.is_none_or(|selected| !selected.contains_key(key)));
    if recorded.unwrap_or_default() != *template {
        edit.annotations
            .insert(TEMPLATE_METADATA.to_owned(), template.text());
    }
    if meta
        .annotations
        .as_ref()
        .is_some_and(|all| all.contains_key(UNUSED_SINCE))
    {
        edit.annotations.insert(UNUSED_SINCE.to_owned(), None);
    }
    edit
}

type Pairs = BTreeMap<String, String>;

/// A three-way comparison: of the template, of the template at the last edit, and of the claim.
fn changes(
    template: &Pairs,
    recorded: Option<&Pairs>,
    present: Option<&Pairs>,
) -> BTreeMap<String, Option<String>> {
    let has = |key: &str| present.and_then(|all| all.get(key));
    let had = |key: &str| recorded.and_then(|all| all.get(key));
    let set = template.iter().filter(|(key, value)| {
        // The template says what it said before: a difference is somebody else's.
        let is_new = had(key) != Some(value);
        let is_ours = match has(key) {
            None => true,
            Some(present) => recorded.is_none() || had(key) == Some(present),
        };
        is_new && is_ours && has(key) != Some(value)
    });
    let set = set.map(|(key, value)| (key.clone(), Some(value.clone())));
    let removed = recorded
        .into_iter()
        .flatten()
        .filter(|(key, value)| !template.contains_key(*key) && has(key) == Some(*value));
    set.chain(removed.map(|(key, _)| (key.clone(), None)))
        .collect()
}

fn requested(spec: Option<&PersistentVolumeClaimSpec>) -> Option<Quantity> {
    let resources = spec?.resources.as_ref()?;
    resources.requests.as_ref()?.get("storage")?.0.parse().ok()
}

fn capacity(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let capacity = claim.status.as_ref()?.capacity.as_ref()?;
    capacity.get("storage")?.0.parse().ok()
}

/// The change of the claim's volume; adds it to the edit.
fn volume_edit(
    template: &PersistentVolumeClaim,
    claim: &PersistentVolumeClaim,
    edit: &mut ClaimEdit,
) -> VolumeFit {
    if !is_compatible(template.spec.as_ref(), claim.spec.as_ref()) {
        return VolumeFit::Incompatible;
    }
    let attributes = |claim: &PersistentVolumeClaim| {
        let spec = claim.spec.as_ref()?;
        spec.volume_attributes_class_name
            .clone()
            .filter(|name| !name.is_empty())
    };
    let class = attributes(template).filter(|class| attributes(claim).as_ref() != Some(class));
    let (wanted, has) = (
        requested(template.spec.as_ref()),
        requested(claim.spec.as_ref()),
    );
    let volume = capacity(claim);
    let failure = failure(claim);
    let (wanted, has) = match (wanted, has) {
        (Some(wanted), Some(has)) => (wanted, has),
        // Without a size there is nothing to compare.
        _ => Default::default(),
    };
    // A growth that failed may be taken back, but not to the size of the volume or below (statefulset.md 11.13).
    let is_taken_back =
        wanted < has && failure.is_some() && volume.is_some_and(|volume| wanted > volume);
    let storage = (wanted > has || is_taken_back).then(|| wanted.to_string());
    if storage.is_some() || class.is_some() {
        // Only the volume of a bound claim can be changed.
        if phase(claim) != Some("Bound") {
            return VolumeFit::Changing;
        }
        edit.storage = storage;
        edit.attributes_class = class;
        return VolumeFit::Differs;
    }
    if let Some(message) = failure {
        return VolumeFit::Failed(message);
    }
    if wanted < has {
        return VolumeFit::OverSized;
    }
    let grows = volume.is_some_and(|volume| volume < has);
    match grows || is_modified(claim) {
        true => VolumeFit::Changing,
        false => VolumeFit::Compatible,
    }
}

fn phase(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.status.as_ref()?.phase.as_deref()
}

/// Whether the volume gets the attributes of another class.
fn is_modified(claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    status.is_some_and(|status| status.modify_volume_status.is_some())
}

/// Whether the claim has the fields of the template that no claim can change.
fn is_compatible(
    template: Option<&PersistentVolumeClaimSpec>,
    claim: Option<&PersistentVolumeClaimSpec>,
) -> bool {
    let (Some(template), Some(claim)) = (template, claim) else {
        return template.is_none();
    };
    let mode = |spec: &PersistentVolumeClaimSpec| {
        let mode = spec.volume_mode.clone();
        mode.unwrap_or_else(|| "Filesystem".to_owned())
    };
    // The server fills in the default class.
    let class = template.storage_class_name.as_ref();
    class.is_none_or(|class| claim.storage_class_name.as_ref() == Some(class))
        && template.access_modes == claim.access_modes
        && mode(template) == mode(claim)
        && template.selector == claim.selector
}

/// The message of a change that failed.
fn failure(claim: &PersistentVolumeClaim) -> Option<String> {
    const FAILED: [&str; 3] = [
        "ControllerResizeError",
        "NodeResizeError",
        "ModifyVolumeError",
    ];
    let status = claim.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    let failed = conditions
        .find(|condition| FAILED.contains(&condition.type_.as_str()) && condition.status == "True");
    if let Some(failed) = failed {
        let text = failed.message.clone().or_else(|| failed.reason.clone());
        return Some(text.unwrap_or_else(|| failed.type_.clone()));
    }
    let mut states = status.allocated_resource_statuses.iter().flatten();
    let infeasible = states.find(|(_, state)| state.ends_with("Infeasible"));
    infeasible.map(|(_, state)| state.clone())
}

/// Marks the claims of removed templates that no pod of the set uses (rollouts.md C7). They are never deleted.
fn mark_unused(parsed: &ParsedSet<'_>, draft: &mut Draft) {
    let claims = match unused(parsed) {
        Ok(claims) => claims,
        Err(_) => return,
    };
    for claim in claims {
        let now = parsed.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mark = ClaimEdit {
            annotations: [(UNUSED_SINCE.to_owned(), Some(now))].into(),
            ..ClaimEdit::default()
        };
        edit(&claim, mark, draft);
    }
}

fn unused<'a>(parsed: &ParsedSet<'a>) -> Result<Vec<ClaimState<'a>>, IncompleteMetadata> {
    if parsed.removed_templates.is_empty() {
        return Ok(Vec::new());
    }
    let members = parsed.all();
    let used: BTreeSet<&str> = members
        .flat_map(|member| member.pod.claims.iter().map(|claim| &*claim.name))
        .collect();
    let is_of_removed = |claim: &str| {
        let mut templates = parsed.removed_templates.iter();
        templates
            .any(|template| identity::claim_ordinal(template, parsed.spec.name, claim).is_some())
    };
    let is_marked = |claim: &PersistentVolumeClaim| {
        let annotations = claim.metadata.annotations.as_ref();
        annotations.is_some_and(|all| all.contains_key(UNUSED_SINCE))
    };
    let claims = parsed.observed.claims.iter().filter(|(name, claim)| {
        is_of_removed(name) && !used.contains(name.as_str()) && !is_marked(claim)
    });
    claims
        .map(|(name, claim)| ClaimState::of(name, claim))
        .collect()
}
