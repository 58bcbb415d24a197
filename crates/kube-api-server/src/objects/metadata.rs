//! The metadata that the server sets: identity, times, generation.

use jiff::Timestamp;
use json_tree::{Map, Value, json};
use mvcc_store::Revision;
use object_model::{FieldError, FieldPath, ResourceVersion, Status, Uid};
use rand::RngExt;
use structured_merge::apply::same_but_for_times;

use crate::catalog::registry::Resource;
use crate::http::limits::GENERATE_NAME_PREFIX_MAX;

/// Letters of generated names: without vowels, so that they form no words, and without characters that look alike.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The metadata of an object; created if missing.
pub(crate) fn of(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    match &mut object["metadata"] {
        Value::Object(map) => map,
        // The lines above replaced any other value by an object.
        _ => unreachable!("metadata is an object"),
    }
}

/// A text field of the metadata; empty if missing.
pub(crate) fn text<'o>(object: &'o Value, field: &str) -> &'o str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The resource version that a client requires the stored object to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequiredVersion {
    /// The client sent none, or `0`.
    Any,
    Exact(ResourceVersion),
    /// The client sent a text that no stored object has as its resource version.
    Malformed,
}

impl RequiredVersion {
    pub(crate) fn of(object: &Value) -> Self {
        match text(object, "resourceVersion") {
            "" | "0" => Self::Any,
            text => text.parse().map_or(Self::Malformed, Self::Exact),
        }
    }

    pub(crate) fn permits(self, stored: Revision) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(version) => version.get() == stored.0,
            Self::Malformed => false,
        }
    }
}

/// The UID in the metadata of an object; `None` if a client did not send it.
pub(crate) fn uid(object: &Value) -> Option<Uid> {
    text(object, "uid").parse().ok()
}

pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Whether the object is being deleted.
pub(crate) fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// The grace period of an object in deletion; 0 for other objects.
pub(crate) fn grace_seconds(object: &Value) -> i64 {
    object["metadata"]["deletionGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(0)
}

/// A time as the API writes it.
pub(crate) fn time(at: Timestamp) -> Value {
    // A `Timestamp` prints no fraction if it has whole seconds. A format string would be parsed at each call.
    let seconds = Timestamp::from_second(at.as_second());
    Value::String(seconds.unwrap_or(at).to_string())
}

/// Sets the fields of a new object that the server decides. A generated name is added later.
///
/// *Errors.* 400 if the namespace differs from the path, or the object has a resource version.
pub(crate) fn prepare_create(
    resource: &Resource,
    namespace: &str,
    object: &mut Value,
    now: Timestamp,
) -> Result<(), Status> {
    let metadata = of(object);
    if metadata
        .get("resourceVersion")
        .and_then(Value::as_str)
        .is_some_and(|v| !v.is_empty())
    {
        let text = "resourceVersion should not be set on objects to be created";
        return Err(Status::bad_request(text));
    }
    set_namespace(resource, namespace, metadata)?;
    for field in SERVER_OWNED {
        metadata.remove(field);
    }
    let mut uid = uuid::Uuid::encode_buffer();
    let uid = &*uuid::Uuid::new_v4().hyphenated().encode_lower(&mut uid);
    metadata.insert("uid".to_owned(), uid.into());
    metadata.insert("creationTimestamp".to_owned(), time(now));
    let rules = resource.info().writes;
    if rules.has_generation {
        metadata.insert("generation".to_owned(), json!(1));
    }
    if !rules.finalizers.is_empty() {
        let list = metadata.entry("finalizers").or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            for finalizer in rules.finalizers {
                if !list.iter().any(|present| present == finalizer) {
                    list.push(json!(finalizer));
                }
            }
        }
    }
    Ok(())
}

/// Fields that clients cannot set. Clients may edit the managed fields, so these are not in the list.
const SERVER_OWNED: [&str; 7] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
];

fn set_namespace(
    resource: &Resource,
    namespace: &str,
    metadata: &mut Map<String, Value>,
) -> Result<(), Status> {
    let sent_namespace = metadata
        .get("namespace")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !sent_namespace.is_empty() && sent_namespace != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if resource.namespaced() {
        metadata.insert("namespace".to_owned(), json!(namespace));
    } else {
        metadata.remove("namespace");
    }
    Ok(())
}

/// The prefix and five random letters.
pub(crate) fn generate_name(prefix: &str) -> String {
    let mut name: String = prefix.chars().take(GENERATE_NAME_PREFIX_MAX).collect();
    let mut random = rand::rng();
    for _ in 0..5 {
        name.push(char::from(LETTERS[random.random_range(0..LETTERS.len())]));
    }
    name
}

/// Checks that the name of an object, if set, is the name in the URL.
///
/// *Errors.* 400 if the names differ.
pub(crate) fn check_name(object: &Value, name: &str) -> Result<(), Status> {
    let object_name = text(object, "name");
    if object_name.is_empty() || object_name == name {
        return Ok(());
    }
    Err(Status::bad_request(format!(
        "the name of the object ({object_name}) does not match the name on the URL ({name})"
    )))
}

/// Checks that the name of an object is set, and is the name in the URL.
///
/// *Errors.* 400 if not.
pub(crate) fn must_name(object: &Value, name: &str) -> Result<(), Status> {
    if text(object, "name").is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    check_name(object, name)
}

/// Restores the fields that the server manages, and checks immutable fields.
///
/// *Errors.* 400 for another name or namespace, 409 for another UID.
pub(crate) fn prepare_update(
    resource: &Resource,
    object: &mut Value,
    old: &Value,
) -> Result<(), Status> {
    let name = text(old, "name");
    check_name(object, name)?;
    if let Some(required) = uid(object)
        && required != *text(old, "uid")
    {
        let why = format!(
            "Precondition failed: UID in precondition: {required}, UID in object meta: {}",
            text(old, "uid")
        );
        return Err(resource.conflict(name, &why));
    }
    let errors = changes_of_deletion(object, old);
    if !errors.is_empty() {
        let info = resource.info();
        return Err(Status::invalid(info.group, info.kind, name, &errors));
    }
    let metadata = of(object);
    set_namespace(resource, text(old, "namespace"), metadata)?;
    metadata.insert("name".to_owned(), json!(name));
    for field in SERVER_OWNED.into_iter().chain(["generateName"]) {
        match old["metadata"].get(field) {
            Some(value) if metadata.get(field) == Some(value) => {}
            Some(value) => {
                metadata.insert(field.to_owned(), value.clone());
            }
            None => {
                metadata.remove(field);
            }
        }
    }
    metadata.remove("resourceVersion");
    Ok(())
}

/// The errors for fields of a deletion that a client sets: only a DELETE request sets them. A client may leave out the stored
/// values, and a stored time of the deletion replaces another (upstream's `BeforeUpdate`).
fn changes_of_deletion(object: &Value, old: &Value) -> Vec<FieldError> {
    let (new, old) = (&object["metadata"], &old["metadata"]);
    let is_changed = |field: &str| match field {
        "deletionTimestamp" => old[field].is_null() && !new[field].is_null(),
        _ => !new[field].is_null() && new[field] != old[field],
    };
    let fields = ["deletionTimestamp", "deletionGracePeriodSeconds"].into_iter();
    let path = |field| FieldPath::root("metadata").child(field);
    let error = |field| FieldError::invalid(&path(field), new[field].clone(), "field is immutable");
    fields
        .filter(|field| is_changed(field))
        .map(error)
        .collect()
}

/// Restores all fields except the metadata. A part that did not change is not copied.
pub(crate) fn restore_all_others(object: &mut Value, old: &Value) {
    let mut sent = object
        .as_object_mut()
        .map(std::mem::take)
        .unwrap_or_default();
    let before = old.as_object().into_iter().flatten();
    let restored = before.map(|(name, value)| match sent.swap_remove_entry(name) {
        Some((name, sent_value)) if name == "metadata" || sent_value == *value => {
            (name, sent_value)
        }
        _ => (name.clone(), value.clone()),
    });
    *object = Value::Object(restored.collect());
}

/// The errors of a change of the metadata, in addition to the kind's validation.
pub(crate) fn validate_update(object: &Value, old: &Value) -> Vec<FieldError> {
    if !is_deleting(old) {
        return Vec::new();
    }
    let before = finalizers(old);
    let new: Vec<&str> = finalizers(object)
        .into_iter()
        .filter(|name| !before.contains(name))
        .collect();
    if new.is_empty() {
        return Vec::new();
    }
    let list: Vec<String> = new.iter().map(|name| format!("{name:?}")).collect();
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers \
         []string{{{}}}",
        list.join(", ")
    );
    vec![FieldError::forbidden(
        &FieldPath::root("metadata").child("finalizers"),
        detail,
    )]
}

/// Increments the generation if anything besides metadata and status differs.
pub(crate) fn count_generation(object: &mut Value, old: &Value) {
    let ignored = |name: &str| matches!(name, "metadata" | "status" | "kind" | "apiVersion");
    let empty = Map::new();
    let before = old.as_object().unwrap_or(&empty);
    let after = object.as_object().unwrap_or(&empty);
    let differs = before
        .iter()
        .any(|(k, v)| !ignored(k) && after.get(k) != Some(v))
        || after.keys().any(|k| !ignored(k) && !before.contains_key(k));
    if differs {
        bump_generation(object);
    }
}

/// Increments the generation, if the object has a generation.
pub(crate) fn bump_generation(object: &mut Value) {
    if let Some(generation) = object["metadata"]["generation"].as_i64() {
        object["metadata"]["generation"] = json!(generation + 1);
    }
}

/// Whether two objects are equal except for their resource versions and the times of their managers.
pub(crate) fn same(one: &Value, other: &Value) -> bool {
    let metadata_is_same = {
        let (one, other) = (&one["metadata"], &other["metadata"]);
        same_but_for_times(&one["managedFields"], &other["managedFields"])
            && same_entries(one, other, |name, value| {
                !matches!(name, "resourceVersion" | "managedFields") && !is_void(value)
            })
    };
    metadata_is_same && same_entries(one, other, |name, _| name != "metadata")
}

/// Whether two maps have equal entries; `counts` selects the entries to compare.
fn same_entries(one: &Value, other: &Value, counts: impl Fn(&str, &Value) -> bool) -> bool {
    let empty = Map::new();
    let one = one.as_object().unwrap_or(&empty);
    let other = other.as_object().unwrap_or(&empty);
    let counted = |map: &Map<String, Value>| map.iter().filter(|(k, v)| counts(k, v)).count();
    counted(one) == counted(other)
        && one
            .iter()
            .filter(|(name, value)| counts(name, value))
            .all(|(name, value)| other.get(name) == Some(value))
}

fn is_void(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_seconds() {
        let at = |text: &str| time(text.parse().unwrap());
        assert_eq!(at("2026-01-02T03:04:05.999999999Z"), "2026-01-02T03:04:05Z");
        assert_eq!(at("2026-01-02T03:04:05Z"), "2026-01-02T03:04:05Z");
    }

    #[test]
    fn generated_names_fit_and_differ() {
        let long = "x".repeat(100);
        let name = generate_name(&long);
        assert_eq!(name.len(), 63);
        assert_ne!(generate_name("a-"), generate_name("a-"));
    }

    #[test]
    fn only_the_wish_counts_as_a_generation() {
        // statefulset.md 6.2
        let metadata = json!({"generation": 3, "labels": {"a": "b"}});
        let old = json!({"metadata": metadata, "spec": {"x": 1}, "status": {}});
        let mut new = old.clone();
        new["metadata"]["labels"]["a"] = json!("c");
        new["status"]["y"] = json!(2);
        count_generation(&mut new, &old);
        assert_eq!(new["metadata"]["generation"], 3);
        new["spec"]["x"] = json!(2);
        count_generation(&mut new, &old);
        assert_eq!(new["metadata"]["generation"], 4);
    }
}
