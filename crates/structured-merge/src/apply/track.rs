//! Ownership of the changes of a write that is not an apply.

use json_tree::{Map, Value};

use super::added;
use super::compare::{Changes, compare};
use super::form::MergeForm;
use super::managers::{Manager, ManagerFields, Managers, Operation, is_reset};
use super::set::FieldSet;
use super::versions::{ObjectType, OtherVersions, VersionChanges};
use super::{OwnableFields, Writer};

/// Records the writer's changes in the managed fields of `object`: the writer becomes their only
/// owner. `live` is the object before, `None` for a new one.
///
/// `object` may contain managed fields (clients send back what they read, and may edit it); an
/// empty list, or one empty entry, resets them. An object without managed fields is not tracked
/// until the first apply.
pub fn track<'t>(
    live: Option<&Value>,
    object: &mut Value,
    object_type: impl Into<ObjectType<'t>>,
    writer: &Writer<'_>,
    reach: OwnableFields<'_>,
) {
    let stored = live.map(|live| live["metadata"]["managedFields"].to_string());
    let managed = track_apart(
        (live, stored.as_deref()),
        object,
        object_type,
        writer,
        reach,
    );
    set_managed(object, managed.as_deref());
}

/// Tracks the fields of objects whose managed fields are kept apart, as the JSON text of their list: `live`
/// is the object before and its managed fields. Returns the managed fields after the write, if there are any.
/// Those that `object` contains are taken out.
pub fn track_apart<'t>(
    (live, stored): (Option<&Value>, Option<&str>),
    object: &mut Value,
    object_type: impl Into<ObjectType<'t>>,
    writer: &Writer<'_>,
    reach: OwnableFields<'_>,
) -> Option<String> {
    let object_type = object_type.into();
    let stored = stored.unwrap_or("null");
    let sent = edited(&take_managed(object), stored, writer);
    let mut managers = known(stored, sent.as_ref())?;
    if live.is_some() && managers.is_empty() {
        return None;
    }
    let form = MergeForm::of_type(object_type.own);
    if live.is_none() && managers.is_empty() {
        let fields = added::fields_v1(form, object, reach)?;
        let entry = ManagerFields::encoded(&fields, writer.api_version, writer.now);
        let manager = Manager::of(writer, Operation::Update);
        managers.0.insert(manager, entry);
        return managers.encode();
    }
    let nothing = Value::Object(Map::new());
    let sides = (live.unwrap_or(&nothing), &*object);
    let mut changes = compare(form, sides.0, sides.1);
    changes.retain_top(|field| reach.has(field));
    let mut views = OtherVersions::new(object_type, writer.api_version, reach, sides);
    note(&mut managers, changes, writer, &mut views);
    managers.cap();
    managers.encode()
}

/// Managed fields from a client.
enum Edit {
    /// They are to be forgotten.
    Reset,
    /// The JSON text of the list.
    List(String),
}

/// The edit of the managed fields in a request, if there is one. They cannot be edited by a write
/// of a sub-resource.
fn edited(sent: &Value, stored: &str, writer: &Writer<'_>) -> Option<Edit> {
    if sent.is_null() || !writer.subresource.is_empty() {
        return None;
    }
    let text = sent.to_string();
    // Most clients keep the order of what they read, so that the texts are equal and need not be parsed.
    let parsed = || serde_json::from_str::<Value>(stored);
    if text == stored || parsed().is_ok_and(|stored| stored == *sent) {
        return None;
    }
    Some(match is_reset(sent) {
        true => Edit::Reset,
        false => Edit::List(text),
    })
}

/// The managers before the write: those in the request; those of the live object if the request has
/// no valid ones.
fn known<'a>(stored: &'a str, sent: Option<&'a Edit>) -> Option<Managers<'a>> {
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
    let writer_id = Manager::of(writer, Operation::Update);
    managers.0.retain(|manager, entry| {
        if entry.api_version != writer.api_version {
            match views.of(&entry.api_version) {
                VersionChanges::Changes(set, removed) => {
                    entry.lose(set);
                    entry.lose(removed);
                }
                VersionChanges::Unknown => {}
                VersionChanges::Gone => return false,
            }
            return true;
        }
        if *manager != writer_id {
            entry.lose(&set);
        }
        entry.lose(&removed);
        true
    });
    let own = strip(set);
    if !own.is_empty() {
        match managers.0.get_mut(&writer_id) {
            Some(entry) => {
                entry.gain(own);
                entry.time = Some(writer.now.into());
            }
            None => {
                let entry = ManagerFields::new(own, writer.api_version, writer.now);
                managers.0.insert(writer_id, entry);
            }
        }
    }
    managers.forget_empty();
}

/// Outermost fields that have no owner themselves.
pub(super) const IDENTITY: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Fields of the metadata that have no owner: the object's identity and fields that the server sets.
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

/// The set without fields that have no owner.
pub(super) fn strip(mut set: FieldSet<'_>) -> FieldSet<'_> {
    if let Some(metadata) = set.below_mut("metadata") {
        metadata.retain_members(|field| !SET_BY_SERVER.contains(&field));
    }
    set.retain_members(|field| !IDENTITY.contains(&field));
    set
}

/// Takes the managed fields out of an object.
pub(super) fn take_managed(object: &mut Value) -> Value {
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
