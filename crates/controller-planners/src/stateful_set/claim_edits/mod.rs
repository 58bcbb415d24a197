//! Edits of claims that exist: with `InPlace`, they follow an edit of their template as far as a claim can be changed
//! (rollouts.md C).
//!
//! Labels and annotations are written at once, sizes and attributes classes from the highest ordinal down, a few at a
//! time. An edit depends on no pod and no pod waits for it. Nothing here deletes a claim or makes it smaller than its
//! volume.

mod metadata;
mod volume;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use object_model::Quantity;
use resource_kinds::annotations::UNUSED_SINCE;
use resource_kinds::stateful_set_policy::{ClaimRules, ClaimUpdates};

use crate::claim_size;

use super::draft::Draft;
use super::member::Phase;
use super::observed::{ClaimState, ParsedSet};
use super::plan::{ActionKind, StatefulSetAction};
use super::waiting::Cause;
pub use metadata::MetadataEdit;
use metadata::TemplateMetadata;
pub(super) use metadata::record_of;
pub use volume::VolumeEdit;
pub(super) use volume::has_failed;
use volume::{Circumstances, VolumeFit};

/// The changed fields of a claim. The two parts are written one after the other, so that a refusal of one does not hold
/// back the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimEdit {
    Metadata(MetadataEdit),
    Volume(VolumeEdit),
}

/// Maximum number of edits of one plan; the next plan continues.
const EDITS_MAX: usize = 500;

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

/// A claim of a desired ordinal, beside its template.
struct Candidate<'p, 'a> {
    ordinal: i64,
    index: usize,
    claim: &'p ClaimState<'a>,
    metadata: MetadataEdit,
    volume: VolumeFit,
    /// The API server's refusal of the last attempt.
    refusal: Option<&'p str>,
}

/// Plans the edits of claims, and counts for the status how claims fit.
pub(super) fn plan(parsed: &ParsedSet<'_>, draft: &mut Draft) {
    if parsed.claim_rules.update != Some(ClaimUpdates::InPlace) {
        return;
    }
    let candidates = candidates(parsed);
    let counts = count(parsed, &candidates);
    draft.template_claims = (!counts.is_empty()).then_some(counts);
    for candidate in &candidates {
        if let Some(cause) = candidate.failure() {
            draft.wait(candidate.ordinal, cause);
        }
    }
    let may_change = volumes_that_may_change(parsed.claim_rules, &candidates);
    for candidate in candidates {
        let may_change = may_change.contains(candidate.claim.name);
        let edit = match candidate.volume {
            _ if !candidate.metadata.is_empty() => ClaimEdit::Metadata(candidate.metadata),
            VolumeFit::Differs { edit, .. } if may_change => ClaimEdit::Volume(edit),
            _ => continue,
        };
        draft_edit(candidate.claim, edit, draft);
    }
    mark_unused(parsed, draft);
}

fn draft_edit(claim: &ClaimState<'_>, edit: ClaimEdit, draft: &mut Draft) {
    // A second write of one plan would be refused, because the first changes the resourceVersion.
    if draft.writes_claim(claim.name) {
        return;
    }
    if draft.claim_edits.len() >= EDITS_MAX {
        return;
    }
    draft.claim_edits.push(StatefulSetAction::EditClaim {
        name: claim.name.to_owned(),
        uid: claim.uid.clone(),
        version: claim.version,
        edit: Box::new(edit),
    });
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
    let grows_to = parsed.claim_rules.autogrow.map(|rules| rules.max);
    let candidates = claims.filter_map(|((ordinal, index), claim)| {
        let (metadata, template) = templates.get(*index)?;
        let is_used = parsed
            .members
            .get(*ordinal)
            .is_some_and(|member| member.pod.node.is_some() && member.phase != Phase::Ended);
        Some(Candidate {
            ordinal: *ordinal,
            index: *index,
            claim,
            metadata: metadata::compare(spec, metadata, claim.claim),
            volume: volume::compare(template, claim.claim, Circumstances { is_used, grows_to }),
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
        match (&self.volume, self.refusal) {
            (VolumeFit::Failed(message), _) => {
                let message = message.clone();
                Some(Cause::ClaimEditFailed { claim, message })
            }
            (_, Some(message)) if self.is_edited() => {
                let message = message.to_owned();
                Some(Cause::ClaimEditRefused { claim, message })
            }
            _ => None,
        }
    }

    fn volume_differs(&self) -> bool {
        matches!(self.volume, VolumeFit::Differs { .. })
    }

    fn is_edited(&self) -> bool {
        !self.metadata.is_empty() || self.volume_differs()
    }

    /// Whether the API server refused the change of the volume.
    fn is_volume_refused(&self) -> bool {
        self.refusal.is_some() && self.metadata.is_empty() && self.volume_differs()
    }

    fn has_failed(&self) -> bool {
        matches!(self.volume, VolumeFit::Failed(_)) || self.is_volume_refused()
    }

    fn is_changing(&self) -> bool {
        match self.volume {
            VolumeFit::Changing => true,
            VolumeFit::Differs { is_changing, .. } | VolumeFit::OverSized { is_changing } => {
                is_changing
            }
            _ => false,
        }
    }
}

/// The claims whose volumes may change now: at most `parallel` volumes change at once, and no further change begins with
/// more than `failures` failed ones (rollouts.md C5). A refused change is tried again each time.
fn volumes_that_may_change<'p>(
    rules: ClaimRules,
    candidates: &[Candidate<'p, '_>],
) -> BTreeSet<&'p str> {
    let all = || candidates.iter();
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let mut changing = number(all().filter(|candidate| candidate.is_changing()).count());
    let failed = number(all().filter(|candidate| candidate.has_failed()).count());
    let may_begin = failed <= rules.failures;
    let mut names = BTreeSet::new();
    for candidate in all().filter(|candidate| candidate.volume_differs()) {
        let begins = !candidate.is_changing();
        let has_turn = may_begin && (!begins || changing < rules.parallel);
        if candidate.is_volume_refused() || has_turn {
            names.insert(candidate.claim.name);
            changing += u32::from(begins && !candidate.is_volume_refused());
        }
    }
    names
}

fn count(parsed: &ParsedSet<'_>, candidates: &[Candidate<'_, '_>]) -> Vec<TemplateClaims> {
    let ordinals = parsed.spec.ordinals();
    let desired = usize::try_from(ordinals.end - ordinals.start).unwrap_or_default();
    let templates = parsed.spec.claim_templates.iter();
    let mut counts: Vec<TemplateClaims> = templates
        .map(|template| TemplateClaims {
            template: template.metadata.name.clone().unwrap_or_default(),
            // Until they are found: claims that do not exist yet.
            updating: desired,
            ..TemplateClaims::default()
        })
        .collect();
    for candidate in candidates {
        let Some(counts) = counts.get_mut(candidate.index) else {
            continue;
        };
        counts.updating = counts.updating.saturating_sub(1);
        let capacity = claim_size::capacity(candidate.claim.claim).unwrap_or_default();
        counts.capacity = counts.capacity.plus(&capacity);
        let count = match candidate.volume {
            _ if candidate.has_failed() => &mut counts.failed,
            VolumeFit::Incompatible => &mut counts.incompatible,
            VolumeFit::OverSized { .. } => &mut counts.over_sized,
            VolumeFit::Compatible if candidate.metadata.is_empty() => &mut counts.compatible,
            _ => &mut counts.updating,
        };
        *count += 1;
    }
    counts
}

/// Marks the claims of removed templates that no pod of the set uses (rollouts.md C7). They are never deleted.
fn mark_unused(parsed: &ParsedSet<'_>, draft: &mut Draft) {
    if parsed.kept_claims.is_empty() {
        return;
    }
    let members = parsed.all();
    let used: BTreeSet<&str> = members
        .flat_map(|member| member.pod.claims.iter().map(|claim| &*claim.name))
        .collect();
    for kept in parsed.kept_claims.values() {
        let annotations = kept.claim.metadata.annotations.as_ref();
        let is_marked = annotations.is_some_and(|all| all.contains_key(UNUSED_SINCE));
        let is_used = used.contains(kept.name);
        if is_marked == is_used {
            let now = parsed.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let mark = MetadataEdit {
                annotations: [(UNUSED_SINCE.to_owned(), (!is_used).then_some(now))].into(),
                ..MetadataEdit::default()
            };
            draft_edit(kept, ClaimEdit::Metadata(mark), draft);
        }
    }
}
