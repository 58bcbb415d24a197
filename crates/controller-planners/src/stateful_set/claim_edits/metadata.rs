//! Labels and annotations of claims that follow their template.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use resource_kinds::annotations::{TEMPLATE_METADATA, UNUSED_SINCE};
use serde::{Deserialize, Serialize};

use crate::stateful_set::observed::Spec;

/// The changed labels and annotations of a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataEdit {
    /// `None` removes the label.
    pub labels: BTreeMap<String, Option<String>>,
    /// `None` removes the annotation.
    pub annotations: BTreeMap<String, Option<String>>,
}

impl MetadataEdit {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Maximum size of the record of a template's metadata, in bytes. The annotations of an object have at most 256 KiB.
const RECORD_MAX: usize = 64 << 10;

/// The labels and annotations of a claim template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TemplateMetadata {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl TemplateMetadata {
    pub fn of(template: &PersistentVolumeClaim) -> Self {
        let meta = &template.metadata;
        Self {
            labels: meta.labels.clone().unwrap_or_default(),
            annotations: meta.annotations.clone().unwrap_or_default(),
        }
    }

    /// The text of the record. Without a record, the values of a claim count as those of the template.
    fn text(&self) -> Option<String> {
        let is_set = *self != Self::default();
        let text = is_set.then(|| serde_json::to_string(self).ok()).flatten();
        text.filter(|text| text.len() <= RECORD_MAX)
    }
}

/// The annotation of a new claim that has the metadata of its template.
pub(in crate::stateful_set) fn record_of(
    template: &PersistentVolumeClaim,
) -> Option<(String, String)> {
    let text = TemplateMetadata::of(template).text()?;
    Some((TEMPLATE_METADATA.to_owned(), text))
}

/// The labels and annotations that the template has now, and the claim has not. A value that somebody else has set
/// stays: it differs from the value that the claim had from its template. Without a record of that value, the claim's
/// values are those of the template.
pub(super) fn compare(
    spec: &Spec<'_>,
    template: &TemplateMetadata,
    claim: &PersistentVolumeClaim,
) -> MetadataEdit {
    let meta = &claim.metadata;
    let text = meta
        .annotations
        .as_ref()
        .and_then(|all| all.get(TEMPLATE_METADATA));
    let recorded = text.and_then(|text| serde_json::from_str::<TemplateMetadata>(text).ok());
    let selector = spec.set.spec.as_ref().map(|set| &set.selector);
    let selected = selector.and_then(|selector| selector.match_labels.as_ref());
    let mut edit = MetadataEdit {
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
    };
    // Labels of the selector come before those of the template.
    edit.labels
        .retain(|key, _| selected.is_none_or(|selected| !selected.contains_key(key)));
    let record = template.text();
    if text != record.as_ref() {
        edit.annotations
            .insert(TEMPLATE_METADATA.to_owned(), record);
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
