//! Ownership of the changes of a write that is not an apply.

use json_tree::{Map, Value};

use super::added;
use super::compare::{Changes, compare};
use super::form::MergeForm;
use super::managers::{Manager, ManagerFields, Managers, Operation, is_reset};
use super::set::FieldSet;
use super::versions::{ObjectType, OtherVersions, VersionChanges};
use super::{OwnableFields, Writer};

/// Records the writer's changes in the managed fields of `object`: the writer becomes the only owner of the changed
/// fields. `live` is the object before the write, `None` for a new object.
///
/// `object` may contain managed fields (clients send back the fields that they read, and may edit them). A
/// single empty entry resets the managed fields. An object without managed fields is not tracked until
/// the first apply.
pub fn track<'t>(
    live: Option<&Value>,
    object: &mut Value,
    object_type: impl Into<ObjectType<'t>>,
    writer: &Writer<'_>,
    reach: OwnableFields<'_>,
) {
    let stored = live.map(|live| live["metadata"]["managedFields"].to_string());
    let managed = track_apart(live, stored.as_deref(), object, object_type, writer, reach);
    set_managed(object, managed.as_deref());
}

/// Tracks the fields of objects whose managed fields are separate, as the JSON text of their list. `live` is the
/// object before the write, and `stored` are its managed fields. Returns the managed fields after the write; `None` if there are
/// none. Managed fields inside of `object` are removed from it.
pub fn track_apart<'t>(
    live: Option<&Value>,
    stored: Option<&str>,
    object: &mut Value,
    object_type: impl Into<ObjectType<'t>>,
    writer: &Writer<'_>,
    reach: OwnableFields<'_>,
) -> Option<String> {
    let object_type = object_type.into();
    let stored = stored.unwrap_or("null");
    let sent = edited(&remove_managed(object), stored, writer);
    let mut managers = managers_before(stored, sent.as_ref())?;
    if live.is_some() && managers.is_empty() {
        return None;
    }
    let form = MergeForm::of_type(object_type.base_type);
    if live.is_none() && managers.is_empty() {
        let fields = added::fields_v1(form, object, reach)?;
        let entry = ManagerFields::encoded(&fields, writer.api_version, writer.now);
        let manager = Manager::new(writer, Operation::Update);
        managers.0.insert(manager, entry);
        return managers.encode();
    }
    let nothing = Value::Object(Map::new());
    let (old, new) = (live.unwrap_or(&nothing), &*object);
    let mut changes = compare(form, old, new);
    changes.retain_top(|field| reach.has(field));
    let mut views = OtherVersions::new(object_type, writer.api_version, reach, old, new);
    note(&mut managers, changes, writer, &mut views);
    managers.cap();
    managers.encode()
}

/// An edit of the managed fields by a client.
enum Edit {
    /// The managed fields are reset.
    Reset,
    /// The JSON text of the list.
    List(String),
}

/// The edit of the managed fields in a request; `None` without an edit. The write of a sub-resource cannot edit them.
fn edited(sent: &Value, stored: &str, writer: &Writer<'_>) -> Option<Edit> {
    if sent.is_null() || !writer.subresource.is_empty() {
        return None;
    }
    let text = sent.to_string();
    // Most clients keep the order of the list, so that the texts are equal and need not be parsed.
    let parsed = || serde_json::from_str::<Value>(stored);
    if text == stored || parsed().is_ok_and(|stored| stored == *sent) {
        return None;
    }
    Some(match is_reset(sent) {
        true => Edit::Reset,
        false => Edit::List(text),
    })
}

/// The managers before the write: those in the request, if valid; otherwise those of the live object.
fn managers_before<'a>(stored: &'a str, sent: Option<&'a Edit>) -> Option<Managers<'a>> {
    let sent = match sent {
        Some(Edit::Reset) => return Some(Managers::default()),
        Some(Edit::List(list)) => Managers::decode(list),
        None => None,
    };
    match sent.filter(|managers| !managers.is_empty()) {
        Some(managers) => Some(managers),
        None => Managers::stored(stored),
    }
}

/// Makes the writer the only owner of its changes.
pub(super) fn note<'a>(
    managers: &mut Managers<'a>,
    changes: Changes<'a>,
    writer: &Writer<'a>,
    views: &mut OtherVersions<'_>,
) {
    let (set, removed) = changes.split();
    let writer_id = Manager::new(writer, Operation::Update);
    managers.0.retain(|manager, entry| {
        if entry.api_version != writer.api_version {
            match views.changes(&entry.api_version) {
                VersionChanges::Changes(set, removed) => {
                    entry.lose(set);
                    entry.lose(removed);
                }
                VersionChanges::Unknown => {}
                VersionChanges::Removed => return false,
            }
            return true;
        }
        if *manager != writer_id {
            entry.lose(&set);
        }
        entry.lose(&removed);
        true
    });
    let owned = strip(set);
    if !owned.is_empty() {
        match managers.0.get_mut(&writer_id) {
            Some(entry) => {
                entry.gain(owned);
                entry.time = Some(writer.now.into());
            }
            None => {
                let entry = ManagerFields::new(owned, writer.api_version, writer.now);
                managers.0.insert(writer_id, entry);
            }
        }
    }
    managers.forget_empty();
}

/// Top-level fields that have no owner themselves.
pub(super) const IDENTITY: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Fields of the metadata that have no owner: the object's identity, and fields that the server sets.
pub(super) const SET_BY_SERVER: [&str; 9] = [
    "clusterName",
    "creationTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The set without the fields that have no owner.
pub(super) fn strip(mut set: FieldSet<'_>) -> FieldSet<'_> {
    if let Some(metadata) = set.below_mut("metadata") {
        metadata.retain_members(|field| !SET_BY_SERVER.contains(&field));
    }
    set.retain_members(|field| !IDENTITY.contains(&field));
    set
}

/// Removes the managed fields from an object, and returns them.
pub(super) fn remove_managed(object: &mut Value) -> Value {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    metadata
        .and_then(|metadata| metadata.shift_remove("managedFields"))
        .unwrap_or_default()
}

/// Writes managed fields, as the JSON text of their list, into an object's metadata.
pub(super) fn set_managed(object: &mut Value, managed: Option<&str>) {
    let list = managed.and_then(|text| serde_json::from_str(text).ok());
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    if let (Some(list), Some(metadata)) = (list, metadata) {
        metadata.insert("managedFields".to_owned(), list);
    }
}
