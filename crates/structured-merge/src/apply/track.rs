//! Ownership of the changes of a write that is not an apply.

use serde_json::{Map, Value};

use super::compare::{Changes, compare};
use super::form::Form;
use super::managers::{Entry, Manager, Managers, Operation, is_reset};
use super::set::FieldSet;
use super::versions::{ObjectType, OtherViews, View};
use super::{Reach, Writer};

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
    reach: Reach<'_>,
) {
    let object_type = object_type.into();
    let sent = take_managed(object);
    let managed = tracked(live, sent, object, object_type, writer, reach);
    set_managed(object, managed);
}

fn tracked(
    live: Option<&Value>,
    sent: Value,
    object: &Value,
    object_type: ObjectType<'_>,
    writer: &Writer<'_>,
    reach: Reach<'_>,
) -> Value {
    let mut managers = match known(live, sent, writer) {
        Some(managers) if live.is_none() || !managers.is_empty() => managers,
        _ => return Value::Null,
    };
    let nothing = Value::Object(Map::new());
    let old = live.unwrap_or(&nothing);
    let mut changes = compare(Form::of_type(object_type.own), old, object);
    changes.retain_top(|field| reach.has(field));
    let mut views = OtherViews::new(object_type, writer.api_version, reach, (old, object));
    note(&mut managers, changes, writer, &mut views);
    managers.cap();
    managers.encode()
}

/// The managers before the write: those in the request, unless it is for a sub-resource, where they
/// cannot be edited; those of the live object if the request has no valid ones.
fn known<'a>(live: Option<&Value>, sent: Value, writer: &Writer<'_>) -> Option<Managers<'a>> {
    let stored = live.map_or(&Value::Null, |live| &live["metadata"]["managedFields"]);
    if sent == *stored {
        return Managers::stored(sent);
    }
    if writer.subresource.is_empty() {
        if is_reset(&sent) {
            return Some(Managers::default());
        }
        if let Some(managers) = Managers::decode(sent).filter(|managers| !managers.is_empty()) {
            return Some(managers);
        }
    }
    Managers::stored(stored.clone())
}

/// Makes the writer the only owner of its changes.
pub(super) fn note<'a>(
    managers: &mut Managers<'a>,
    changes: Changes<'a>,
    writer: &Writer<'a>,
    views: &mut OtherViews<'_>,
) {
    if changes.is_empty() {
        return;
    }
    let (set, removed) = changes.split();
    let writer_id = Manager::of(writer, Operation::Update);
    managers.0.retain(|manager, entry| {
        if entry.api_version != writer.api_version {
            match views.of(&entry.api_version) {
                View::Changes(set, removed) => {
                    entry.lose(set);
                    entry.lose(removed);
                }
                View::Unknown => {}
                View::Gone => return false,
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
                let entry = Entry::new(own, writer.api_version, writer.now);
                managers.0.insert(writer_id, entry);
            }
        }
    }
    managers.forget_empty();
}

/// The set without fields that have no owner: the object's identity and fields that the server
/// sets.
pub(super) fn strip(mut set: FieldSet<'_>) -> FieldSet<'_> {
    const METADATA: [&str; 9] = [
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
    if let Some(metadata) = set.below_mut("metadata") {
        metadata.retain_members(|field| !METADATA.contains(&field));
    }
    set.retain_members(|field| !matches!(field, "apiVersion" | "kind" | "metadata"));
    set
}

/// Takes the managed fields out of an object.
pub(super) fn take_managed(object: &mut Value) -> Value {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    metadata
        .and_then(|metadata| metadata.shift_remove("managedFields"))
        .unwrap_or_default()
}

/// Writes managed fields into an object's metadata; null removes them.
pub(super) fn set_managed(object: &mut Value, managed: Value) {
    if managed.as_array().is_none_or(Vec::is_empty) {
        return;
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("managedFields".to_owned(), managed);
    }
}
