//! Revisions: the templates of pods, stored as ControllerRevisions.
//!
//! Only the template is stored, as a patch that replaces the template. The name of a revision contains a hash of the
//! patch, so equal templates always get equal names.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use resource_kinds::stateful_set_policy::OnFailure;
use resource_kinds::{annotations, labels};
use serde_json::{Map, Value, json};

use crate::ownership::controller;

use super::draft::Draft;
use super::observed::{ParsedSet, StoredRevision};
use super::plan::StatefulSetAction;

/// Maximum length of a set's name in the name of a revision.
const NAME_PREFIX_BYTES_MAX: usize = 223;
/// Annotations of a set and of a revision that no new revision gets from the set.
const NOT_COPIED: [&str; 4] = [
    annotations::REMOVED_CLAIM_TEMPLATES,
    annotations::REJECTED,
    annotations::ROLLOUT_STEP,
    annotations::APPROVED_STEP,
];
/// Names to try before giving up until the next plan.
const COLLISIONS_MAX: i32 = 100;

/// The name of a ControllerRevision. Clones share the text. Empty for a pod without the label
/// `controller-revision-hash`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RevisionName(Arc<str>);

impl RevisionName {
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for RevisionName {
    fn eq(&self, name: &str) -> bool {
        &*self.0 == name
    }
}

impl fmt::Display for RevisionName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The template in the form of a revision: `{"spec":{"template":{…,"$patch":"replace"}}}`, with all
/// keys in order.
pub fn encode(template: &PodTemplateSpec) -> Value {
    sorted(unsorted(template))
}

/// The encoded template with its keys in any order, because a comparison needs no order.
fn unsorted(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if let Value::Object(fields) = &mut template {
        fields.insert("$patch".to_owned(), Value::from("replace"));
    }
    json!({ "spec": { "template": template } })
}

/// The template in a revision's data; `None` if the data is not a template.
pub fn decode(data: &Value) -> Option<PodTemplateSpec> {
    let template = data.pointer("/spec/template")?.as_object()?;
    // The template is decoded from text: a decoder for JSON values would be used only here, and would be a seventh of
    // this crate's code. `$patch` is no field of the type, and is ignored.
    let text = serde_json::to_vec(template).ok()?;
    object_decoders::from_slice(&text).ok()
}

/// The bytes to hash: compact JSON with Go's escapes.
pub fn bytes(data: &Value) -> String {
    let plain = data.to_string();
    if !plain.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return plain;
    }
    let mut escaped = String::with_capacity(plain.len() + 16);
    for c in plain.chars() {
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The hash in a revision's name: FNV-1 of the bytes and the number of collisions, in letters and digits that form no
/// words.
pub fn hash(bytes: &str, collisions: Option<i32>) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let probe = collisions
        .map(|count| count.to_string())
        .unwrap_or_default();
    let mut hash: u32 = 2_166_136_261;
    for byte in bytes.bytes().chain(probe.bytes()) {
        hash = hash.wrapping_mul(16_777_619) ^ u32::from(byte);
    }
    let digits = hash.to_string();
    digits
        .bytes()
        .map(|digit| char::from(ALPHABET[usize::from(digit) % 27]))
        .collect()
}

/// The name of a revision.
pub fn name(set: &str, hash: &str) -> String {
    let end = set.floor_char_boundary(NAME_PREFIX_BYTES_MAX);
    format!("{}-{hash}", &set[..end])
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut entries: Vec<(String, Value)> = fields.into_iter().collect();
            entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            Value::Object(
                entries
                    .into_iter()
                    .map(|(k, v)| (k, sorted(v)))
                    .collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

/// The revisions for new pods.
pub(super) struct ChosenRevisions {
    pub current: RevisionName,
    pub update: RevisionName,
    /// The number of hash collisions.
    pub collisions: Option<i32>,
    /// The answer to the verdict about the update revision, if that revision is rejected.
    pub rejected: Option<OnFailure>,
    /// The maximum number of pods at the update revision, from the partition on, if the rollout has steps.
    pub limit: Option<i64>,
    /// The template of the current revision, parsed at first use.
    template: OnceCell<Option<PodTemplateSpec>>,
}

impl ChosenRevisions {
    /// The revision that pods get by a rollout.
    pub fn target(&self) -> &RevisionName {
        match self.rolls_back() {
            true => &self.current,
            false => &self.update,
        }
    }

    /// Whether no pod is replaced by a rollout.
    pub fn is_held(&self) -> bool {
        self.rejected == Some(OnFailure::Hold)
    }

    pub fn rolls_back(&self) -> bool {
        self.rejected == Some(OnFailure::Rollback)
    }

    /// The template of the current revision, if it can be parsed.
    pub fn current_template(&self, parsed: &ParsedSet<'_>) -> Option<&PodTemplateSpec> {
        let read = || {
            let mut revisions = parsed.stored_revisions.iter();
            let current = revisions.find(|revision| self.current == *revision.name)?;
            decode(current.data()?)
        };
        self.template.get_or_init(read).as_ref()
    }
}

/// Selects, renumbers or creates the revision of the template, and selects the current revision.
pub(super) fn choose(parsed: &ParsedSet<'_>, draft: &mut Draft) -> ChosenRevisions {
    let history = history(parsed);
    let stored = parsed.spec.set.status.as_ref();
    let mut collisions = stored.and_then(|status| status.collision_count);
    let frozen = parsed.spec.deleting || parsed.spec.selector.is_none();
    if !frozen {
        adopt(&history, draft);
    }
    let candidate = unsorted(parsed.spec.template);
    let update = match pick(&history, &candidate, parsed.spec.template) {
        Picked::Newest(revision) => RevisionName::new(revision.name),
        Picked::Older(revision) if frozen => RevisionName::new(revision.name),
        Picked::Older(revision) => {
            draft.prepare.push(StatefulSetAction::RenumberRevision {
                name: revision.name.to_owned(),
                uid: revision.uid.clone(),
                revision: next_number(&history),
            });
            RevisionName::new(revision.name)
        }
        Picked::None if frozen => {
            let last = stored.and_then(|status| status.update_revision.as_deref());
            RevisionName::new(last.unwrap_or_default())
        }
        Picked::None => create(parsed, &history, sorted(candidate), &mut collisions, draft),
    };
    let named = stored.and_then(|status| status.current_revision.as_deref());
    let current = named.filter(|named| {
        frozen || history.iter().any(|revision| revision.name == *named) || update == **named
    });
    ChosenRevisions {
        current: current.map_or_else(|| update.clone(), RevisionName::new),
        update,
        collisions,
        rejected: None,
        limit: None,
        template: OnceCell::new(),
    }
}

/// The revisions of the set, oldest first.
fn history<'w>(parsed: &'w ParsedSet<'_>) -> Vec<&'w StoredRevision<'w>> {
    let mut history: Vec<&StoredRevision<'_>> = parsed
        .stored_revisions
        .iter()
        .filter(|revision| {
            let meta = &revision.object.metadata;
            meta.namespace.as_deref() == Some(parsed.spec.namespace)
                && match controller(meta.owner_references.as_deref()) {
                    Some(owner) => parsed.spec.is_owner(owner),
                    None => {
                        parsed
                            .spec
                            .selects(|key| Some(meta.labels.as_ref()?.get(key)?.as_str()))
                            && meta.deletion_timestamp.is_none()
                    }
                }
        })
        .collect();
    history.sort_unstable_by(|a, b| {
        let key = |stored: &StoredRevision<'_>| {
            let revision = stored.object;
            (
                revision.revision,
                revision.metadata.creation_timestamp.clone(),
            )
        };
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(b.name))
    });
    history
}

fn adopt(history: &[&StoredRevision<'_>], draft: &mut Draft) {
    for revision in history {
        if controller(revision.object.metadata.owner_references.as_deref()).is_none() {
            draft.prepare.push(StatefulSetAction::AdoptRevision {
                name: revision.name.to_owned(),
                uid: revision.uid.clone(),
            });
        }
    }
}

enum Picked<'a> {
    Newest(&'a StoredRevision<'a>),
    Older(&'a StoredRevision<'a>),
    None,
}

fn pick<'a>(
    history: &[&'a StoredRevision<'a>],
    candidate: &Value,
    template: &PodTemplateSpec,
) -> Picked<'a> {
    if let Some(newest) = history.last() {
        // Another version of the program may have encoded an equal template differently.
        let same_meaning = || {
            newest
                .data()
                .and_then(decode)
                .is_some_and(|t| t == *template)
        };
        if newest.data() == Some(candidate) || same_meaning() {
            return Picked::Newest(newest);
        }
    }
    let older = history
        .iter()
        .rev()
        .find(|revision| revision.data() == Some(candidate));
    older.map_or(Picked::None, |revision| Picked::Older(revision))
}

/// Creates a revision with the first free name, or uses the existing revision of that name if its data is equal.
fn create(
    parsed: &ParsedSet<'_>,
    history: &[&StoredRevision<'_>],
    data: Value,
    collisions: &mut Option<i32>,
    draft: &mut Draft,
) -> RevisionName {
    let bytes = bytes(&data);
    let name_and_hash = |collisions: &Option<i32>| {
        // In a set without a collision the count is zero.
        let hash = hash(&bytes, Some(collisions.unwrap_or_default()));
        (name(parsed.spec.name, &hash), hash)
    };
    let (mut full_name, mut hash) = name_and_hash(collisions);
    for _ in 0..COLLISIONS_MAX {
        let existing = parsed.stored_revisions.iter().find(|revision| {
            revision.name == full_name
                && revision.object.metadata.namespace.as_deref() == Some(parsed.spec.namespace)
        });
        match existing {
            None => break,
            Some(revision) if revision.data() == Some(&data) => {
                return RevisionName::new(&full_name);
            }
            Some(_) => {
                *collisions = Some(collisions.unwrap_or_default().saturating_add(1));
                (full_name, hash) = name_and_hash(collisions);
            }
        }
    }
    let meta = parsed.spec.template.metadata.as_ref();
    let mut all_labels = meta
        .and_then(|meta| meta.labels.clone())
        .unwrap_or_default();
    all_labels.insert(labels::REVISION_HASH.to_owned(), hash);
    draft
        .prepare
        .push(StatefulSetAction::CreateRevision(Box::new(
            ControllerRevision {
                metadata: ObjectMeta {
                    name: Some(full_name.clone()),
                    namespace: Some(parsed.spec.namespace.to_owned()),
                    labels: Some(all_labels),
                    annotations: noted(parsed.spec.set.metadata.annotations.as_ref()),
                    owner_references: Some(vec![parsed.spec.owner_reference()]),
                    ..ObjectMeta::default()
                },
                data: Some(RawExtension(data)),
                revision: next_number(history),
            },
        )));
    RevisionName::new(&full_name)
}

/// The annotations of the set that are copied to a revision: all annotations except mainstay's options, and the record of
/// removed claim templates, which is the set's alone and may be large. A verdict belongs to its revision.
fn noted(all: Option<&BTreeMap<String, String>>) -> Option<BTreeMap<String, String>> {
    let copied = all?
        .iter()
        .filter(|(key, _)| !key.starts_with(annotations::OWN_PREFIX))
        .filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()));
    Some(copied.map(|(k, v)| (k.clone(), v.clone())).collect())
}

fn next_number(history: &[&StoredRevision<'_>]) -> i64 {
    history
        .last()
        .map_or(1, |newest| newest.object.revision.saturating_add(1))
}

/// Deletes the oldest unused revisions beyond the limit.
pub(super) fn truncate(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    cleanup: &mut Vec<StatefulSetAction>,
) {
    let Some(limit) = parsed.spec.history_limit else {
        return;
    };
    let history = history(parsed);
    if history.len() <= limit {
        return;
    }
    let mut live: BTreeSet<&str> = parsed
        .all()
        .map(|member| member.revision.as_str())
        .collect();
    live.extend([chosen.current.as_str(), chosen.update.as_str()]);
    let past: Vec<_> = history.iter().filter(|r| !live.contains(r.name)).collect();
    let surplus = past.len().saturating_sub(limit);
    for revision in past.into_iter().take(surplus) {
        if revision.object.metadata.deletion_timestamp.is_none() {
            cleanup.push(StatefulSetAction::DeleteRevision {
                name: revision.name.to_owned(),
                uid: revision.uid.clone(),
            });
        }
    }
}

impl<'a> StoredRevision<'a> {
    fn data(&self) -> Option<&'a Value> {
        self.object.data.as_ref().map(|data| &data.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: &str = concat!(
        r#"{"spec":{"template":{"$patch":"replace","metadata":{"annotations":{"test":"value"},"#,
        r#""labels":{"app":"foo"}},"spec":{"containers":[{"image":"test","imagePullPolicy":"#,
        r#""Always","name":"test","resources":{},"terminationMessagePath":"/dev/termination-log","#,
        r#""terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","restartPolicy":"#,
        r#""Always","schedulerName":"default-scheduler","securityContext":{},"#,
        r#""terminationGracePeriodSeconds":30}}}}"#
    );

    /// statefulset.md 4.1, 4.2, 4.3, T21: the names are equal to those of other implementations.
    #[test]
    fn names_are_those_that_other_implementations_give() {
        assert_eq!(hash(STORED, Some(0)), "776999688b");
        let former = STORED.replace(
            r#""labels":{"app":"foo"}}"#,
            r#""creationTimestamp":null,"labels":{"app":"foo"}}"#,
        );
        assert_eq!(hash(&former, Some(0)), "c77f6d978");
        assert_eq!(name("web", "c77f6d978"), "web-c77f6d978");
        assert_eq!(name(&"x".repeat(300), "h").len(), 225);
    }

    /// statefulset.md 4.1: encoding a decoded template gives equal bytes.
    #[test]
    fn encoding_a_decoded_template_gives_the_same_bytes() {
        let data: Value = serde_json::from_str(STORED).unwrap();
        let template = decode(&data).unwrap();
        assert_eq!(bytes(&encode(&template)), STORED);
    }

    #[test]
    fn characters_that_go_escapes_are_escaped() {
        assert_eq!(
            bytes(&json!({"a": "<&>\u{2028}"})),
            r#"{"a":"\u003c\u0026\u003e\u2028"}"#
        );
    }

    /// statefulset.md 4.6: data that cannot be decoded is not equal to any template.
    #[test]
    fn foreign_data_is_no_template() {
        for data in [
            json!(null),
            json!({}),
            json!({"spec": {"template": {"spec": 3}}}),
        ] {
            assert_eq!(decode(&data), None);
        }
    }
}
