//! JSON patch and merge patch, with limits on their cost.

use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::{Map, Value};

use crate::PatchError;
use crate::error::type_name;

/// Maximum number of operations of a JSON patch (the limit of kube-apiserver).
const OPERATIONS_MAX: usize = 10_000;
/// Maximum number of bytes that the `copy` operations of one patch may add, because repeated copies double a
/// document.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Maximum number of list elements that one patch may shift: an insertion at the front of a list shifts the whole
/// list. Shifting the maximum takes a tenth of a second, and is a hundred times the need of the largest patch of a
/// short list.
const SHIFTED_ELEMENTS_MAX: usize = 32 << 20;

/// Applies a JSON patch (RFC 6902): all of its operations or nothing.
///
/// # Errors
/// `Malformed` if the patch is not a list of objects; `TooManyOperations`; `DoesNotApply` if an operation is invalid,
/// a path is missing, or copies exceed their limit; `TestFailed`.
pub fn json_patch(document: Value, patch: &Value) -> Result<Value, PatchError> {
    let Some(operations) = patch.as_array() else {
        let text = format!(
            "json: cannot unmarshal {} into a JSON patch",
            type_name(patch)
        );
        return Err(PatchError::Malformed(text));
    };
    if operations.len() > OPERATIONS_MAX {
        let count = operations.len();
        return Err(PatchError::TooManyOperations {
            count,
            max: OPERATIONS_MAX,
        });
    }
    if let Some(other) = operations.iter().find(|one| !one.is_object()) {
        let text = format!(
            "json: cannot unmarshal {} into a JSON patch operation",
            type_name(other)
        );
        return Err(PatchError::Malformed(text));
    }
    let mut document = document;
    let (mut copied, mut shifted) = (0, 0);
    for (index, operation) in operations.iter().enumerate() {
        let fails = |why: String| PatchError::DoesNotApply(format!("operation {index}{why}"));
        let operation = placed(&document, operation);
        copied += copied_bytes(&document, &operation);
        if copied > COPIED_BYTES_MAX {
            return Err(fails(format!(
                ": copies add more than {COPIED_BYTES_MAX} bytes"
            )));
        }
        shifted += shifted_elements(&document, &operation);
        if shifted > SHIFTED_ELEMENTS_MAX {
            return Err(fails(format!(
                ": moves more than {SHIFTED_ELEMENTS_MAX} list elements aside"
            )));
        }
        apply_one(&mut document, operation).map_err(|misfit| match misfit {
            Misfit::Test(why) => PatchError::TestFailed(format!("operation {index}{why}")),
            Misfit::Other(why) => fails(why),
        })?;
    }
    Ok(document)
}

/// The operation, with its list indices counted from the start of the list.
fn placed(document: &Value, operation: &Value) -> Value {
    let mut operation = operation.clone();
    let adds = matches!(operation["op"].as_str(), Some("add" | "copy"));
    let moves = operation["op"] == "move";
    for (field, adds) in [("from", false), ("path", adds)] {
        // The target of a `move` is resolved after its source was removed.
        if let Some(path) = operation[field].as_str()
            && !(moves && field == "path")
        {
            operation[field] = from_the_start(document, path, adds).into();
        }
    }
    operation
}

/// The reason why an operation does not apply: the part of the message after the operation's number.
enum Misfit {
    /// The operation is a test that fails.
    Test(String),
    Other(String),
}

fn apply_one(document: &mut Value, operation: Value) -> Result<(), Misfit> {
    if operation["op"] == "move" {
        let from = operation["from"].as_str().unwrap_or_default();
        let value = removed_value(document, from)
            .ok_or_else(|| Misfit::Other(format!(", at {from:?}: path is invalid")))?;
        let path = operation["path"]
            .as_str()
            .ok_or_else(|| Misfit::Other(": a move without a path".to_owned()))?;
        let path = from_the_start(document, path, true);
        return put(document, &path, value)
            .ok_or_else(|| Misfit::Other(format!(", at {path:?}: path is invalid")));
    }
    let operation: PatchOperation = serde_json::from_value(with_value(operation))
        .map_err(|error| Misfit::Other(format!(": {error}")))?;
    match &operation {
        PatchOperation::Test(test)
            if test.value.is_null() && is_absent(document, test.path.as_str()) =>
        {
            return Ok(());
        }
        PatchOperation::Replace(replace) if is_absent(document, replace.path.as_str()) => {
            let path = replace.path.as_str();
            return put(document, path, replace.value.clone())
                .ok_or_else(|| Misfit::Other(format!(", at {path:?}: path is invalid")));
        }
        _ => {}
    }
    json_patch::patch(document, std::slice::from_ref(&operation)).map_err(|error| {
        let why = format!(", at \"{}\": {}", error.path, error.kind);
        match error.kind {
            PatchErrorKind::TestFailed => Misfit::Test(why),
            _ => Misfit::Other(why),
        }
    })
}

/// The operation with its value; an absent value is null, as in the library that Kubernetes uses.
fn with_value(mut operation: Value) -> Value {
    if matches!(operation["op"].as_str(), Some("add" | "replace" | "test"))
        && let Value::Object(fields) = &mut operation
    {
        fields.entry("value").or_insert(Value::Null);
    }
    operation
}

/// Removes the value at a path from the document and returns it; `None` if the path does not exist. (The library
/// would copy the value of a `move`.)
fn removed_value(document: &mut Value, path: &str) -> Option<Value> {
    let (parent, last) = path.rsplit_once('/')?;
    match document.pointer_mut(parent)? {
        Value::Object(fields) => fields.remove(&unescaped(last)),
        Value::Array(list) => {
            let index = list_index(last).filter(|index| *index < list.len())?;
            Some(list.remove(index))
        }
        _ => None,
    }
}

/// Puts a value at a path; `None` if the parent of the path does not exist.
fn put(document: &mut Value, path: &str, value: Value) -> Option<()> {
    let Some((parent, last)) = path.rsplit_once('/') else {
        *document = Some(value).filter(|_| path.is_empty())?;
        return Some(());
    };
    match document.pointer_mut(parent)? {
        Value::Object(fields) => drop(fields.insert(unescaped(last), value)),
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            let index = list_index(last).filter(|index| *index <= list.len())?;
            list.insert(index, value);
        }
        _ => return None,
    }
    Some(())
}

fn unescaped(word: &str) -> String {
    word.replace("~1", "/").replace("~0", "~")
}

/// A list index in the notation of RFC 6901.
fn list_index(word: &str) -> Option<usize> {
    let index: usize = word.parse().ok()?;
    (index.to_string() == word).then_some(index)
}

/// The path with all list indices counted from the start. Indices from the end (`-1` is the last) are supported as in
/// the library that Kubernetes uses. `adds` is whether the last segment is an insert position, of which a list has
/// one more than elements.
fn from_the_start(document: &Value, path: &str, adds: bool) -> String {
    let mut node = Some(document);
    let mut words: Vec<String> = path.split('/').map(str::to_owned).collect();
    let last = words.len() - 1;
    for (at, word) in words.iter_mut().enumerate().skip(1) {
        if let Some(Value::Array(list)) = node {
            let length = list.len() + usize::from(adds && at == last);
            let back = word
                .strip_prefix('-')
                .and_then(|digits| digits.parse().ok());
            let back = back.filter(|back| (1..=length).contains(back));
            *word = back.map_or_else(|| word.clone(), |back: usize| (length - back).to_string());
        }
        node = node.and_then(|node| node.pointer(&format!("/{word}")));
    }
    words.join("/")
}

/// Whether the path leads to an absent field of an existing object. kube-apiserver accepts a test for null there;
/// clients use such a test to be the first writer of a list of finalizers. It also accepts a replacement there; the
/// sidecars of CSI drivers write annotations and status this way.
fn is_absent(document: &Value, path: &str) -> bool {
    let Some((parent, field)) = path.rsplit_once('/') else {
        return false;
    };
    let object = document.pointer(parent).and_then(Value::as_object);
    object.is_some_and(|object| !object.contains_key(&unescaped(field)))
}

/// The maximum number of list elements that an operation shifts.
fn shifted_elements(document: &Value, operation: &Value) -> usize {
    let length = |field: &str| {
        let (parent, _) = operation[field].as_str()?.rsplit_once('/')?;
        document.pointer(parent)?.as_array().map(Vec::len)
    };
    match operation["op"].as_str() {
        Some("add" | "copy" | "remove") => length("path").unwrap_or(0),
        Some("move") => length("from").unwrap_or(0) + length("path").unwrap_or(0),
        _ => 0,
    }
}

fn copied_bytes(document: &Value, operation: &Value) -> usize {
    let from = operation["from"]
        .as_str()
        .filter(|_| operation["op"] == "copy");
    from.and_then(|from| document.pointer(from))
        .map_or(0, |value| value.to_string().len())
}

/// Applies a merge patch (RFC 7396): null deletes, objects merge, other values replace.
///
/// # Errors
/// `Malformed` if the patch is not an object (every API object is one).
pub fn merge_patch(document: Value, patch: Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        let text = format!(
            "json: cannot unmarshal {} into a merge patch",
            type_name(&patch)
        );
        return Err(PatchError::Malformed(text));
    }
    let mut document = document;
    merge(&mut document, patch);
    Ok(document)
}

/// Merges by RFC 7396. The values of the patch are moved, not copied.
pub(crate) fn merge(document: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *document = patch;
        return;
    };
    if !document.is_object() {
        *document = Value::Object(Map::with_capacity(patch.len()));
    }
    let Value::Object(map) = document else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(&key);
        } else {
            merge(map.entry(key).or_insert(Value::Null), value);
        }
    }
}
