//! Fields of a definition that several modules read.

use json_tree::Value;

pub(crate) fn versions(object: &Value) -> &[Value] {
    object["spec"]["versions"]
        .as_array()
        .map_or(&[], Vec::as_slice)
}

pub(crate) fn storage_version(object: &Value) -> Option<Value> {
    let stored = versions(object)
        .iter()
        .find(|version| version["storage"] == true);
    stored.map(|version| version["name"].clone())
}

pub(crate) fn is_terminating(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// The status of the condition of this type.
pub(crate) fn condition<'o>(object: &'o Value, kind: &str) -> Option<&'o str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions
        .iter()
        .find(|condition| condition["type"] == kind)?["status"]
        .as_str()
}
