//! JSON patch and merge patch, with bounds on their cost.

use json_tree::{Map, Value};

use crate::PatchError;
use crate::error::type_name;

/// Maximum number of operations of a JSON patch (the API server's own bound).
const OPERATIONS_MAX: usize = 10_000;
/// Maximum number of bytes that the `copy` operations of one patch may add: repeated copies double
/// a document.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Maximum number of list elements that one patch may shift: an insertion at the front of a list
/// shifts all of it. This takes a tenth of a second, and is a hundred times the need of the largest
/// patch of a short list.
const SHIFTED_ELEMENTS_MAX: usize = 32 << 20;

/// Applies a JSON patch (RFC 6902): all of it or nothing.
///
/// # Errors
/// `Malformed` if the patch is not a list of objects; `TooManyOperations`; `DoesNotApply` if an
/// operation is invalid, a path is missing, or copies exceed their bound; `TestFailed`.
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

/// The operation with all its list indices counted from the start.
fn placed(document: &Value, operation: &Value) -> Value {
    let mut operation = operation.clone();
    let adds = matches!(operation["op"].as_str(), Some("add" | "copy"));
    let moves = operation["op"] == "move";
    for (field, adds) in [("from", false), ("path", adds)] {
        // The target of a move is resolved after the removal of its source.
        if let Some(path) = operation[field].as_str()
            && !(moves && field == "path")
        {
            operation[field] = from_the_start(document, path, adds).into();
        }
    }
    operation
}

/// The reason why an operation does not apply: the message after its number.
enum Misfit {
    /// The operation is a test, which failed.
    Test(String),
    Other(String),
}

fn apply_one(document: &mut Value, mut operation: Value) -> Result<(), Misfit> {
    if operation["op"] == "move" {
        let from = operation["from"].as_str().unwrap_or_default();
        let value = remove(document, from)
            .ok_or_else(|| Misfit::Other(format!(", at {from:?}: path is invalid")))?;
        let path = operation["path"]
            .as_str()
            .ok_or_else(|| Misfit::Other(": a move without a path".to_owned()))?;
        let path = from_the_start(document, path, true);
        return put(document, &path, value)
            .ok_or_else(|| Misfit::Other(format!(", at {path:?}: path is invalid")));
    }
    // A value that is left out is null, as in the library that Kubernetes uses.
    let value = operation.get_mut("value").map(Value::take);
    let value = value.unwrap_or_else(|| {
        cov_mark::hit!(findings_2_c29);
        Value::Null
    });
    let path = pointer(&operation, "path")?;
    let misfit = |why: &str| Misfit::Other(format!(", at {path:?}: {why}"));
    let invalid = || misfit("path is invalid");
    match operation["op"].as_str() {
        Some("add") => put(document, path, value).ok_or_else(invalid),
        Some("remove") => remove(document, path).map(drop).ok_or_else(invalid),
        Some("replace") if is_absent(document, path) => {
            cov_mark::hit!(findings_2_e10);
            put(document, path, value).ok_or_else(invalid)
        }
        Some("replace") => {
            *document.pointer_mut(path).ok_or_else(invalid)? = value;
            Ok(())
        }
        Some("copy") => {
            let source = document.pointer(pointer(&operation, "from")?).cloned();
            let source = source.ok_or_else(|| misfit("\"from\" path is invalid"))?;
            put(document, path, source).ok_or_else(invalid)
        }
        Some("test") if value.is_null() && is_absent(document, path) => Ok(()),
        Some("test") if *document.pointer(path).ok_or_else(invalid)? == value => Ok(()),
        Some("test") => Err(Misfit::Test(format!(", at {path:?}: value did not match"))),
        Some(other) => Err(Misfit::Other(format!(": unknown operation {other:?}"))),
        None => Err(Misfit::Other(": an operation without `op`".to_owned())),
    }
}

/// The JSON pointer (RFC 6901) in a field of an operation.
fn pointer<'o>(operation: &'o Value, field: &str) -> Result<&'o str, Misfit> {
    let pointer = operation[field].as_str();
    let pointer = pointer.ok_or_else(|| Misfit::Other(format!(": missing field `{field}`")))?;
    let is_valid = (pointer.is_empty() || pointer.starts_with('/'))
        && pointer
            .split('~')
            .skip(1)
            .all(|rest| rest.starts_with(['0', '1']));
    match is_valid {
        true => Ok(pointer),
        false => Err(Misfit::Other(format!(": {pointer:?} is no JSON pointer"))),
    }
}

/// Removes the value at a path from the document; `None` if there is none.
fn remove(document: &mut Value, path: &str) -> Option<Value> {
    let (parent, last) = path.rsplit_once('/')?;
    match document.pointer_mut(parent)? {
        Value::Object(fields) => fields.remove(&unescaped(last)),
        Value::Array(list) => {
            let index = index(last).filter(|index| *index < list.len())?;
            Some(list.remove(index))
        }
        _ => None,
    }
}

/// Sets the value at a path; `None` if the path does not exist.
fn put(document: &mut Value, path: &str, value: Value) -> Option<()> {
    let Some((parent, last)) = path.rsplit_once('/') else {
        *document = Some(value).filter(|_| path.is_empty())?;
        return Some(());
    };
    match document.pointer_mut(parent)? {
        Value::Object(fields) => drop(fields.insert(unescaped(last), value)),
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            let index = index(last).filter(|index| *index <= list.len())?;
            list.insert(index, value);
        }
        _ => return None,
    }
    Some(())
}

fn unescaped(word: &str) -> String {
    word.replace("~1", "/").replace("~0", "~")
}

/// A list index in the form of RFC 6901.
fn index(word: &str) -> Option<usize> {
    let index: usize = word.parse().ok()?;
    (index.to_string() == word).then_some(index)
}

/// The path with list indices that are counted from the end (`-1` is the last element) converted to indices from the
/// start, as in the library that Kubernetes uses. With `adds`, the last word is the index of an insertion: an insertion
/// has one more valid index.
fn from_the_start(document: &Value, path: &str, adds: bool) -> String {
    let mut value = Some(document);
    let mut words: Vec<String> = path.split('/').map(str::to_owned).collect();
    let last = words.len() - 1;
    for (at, word) in words.iter_mut().enumerate().skip(1) {
        if let Some(Value::Array(list)) = value {
            let length = list.len() + usize::from(adds && at == last);
            let back = word
                .strip_prefix('-')
                .and_then(|digits| digits.parse().ok());
            let back = back.filter(|back| (1..=length).contains(back));
            *word = back.map_or_else(|| word.clone(), |back: usize| (length - back).to_string());
        }
        value = value.and_then(|value| value.pointer(&format!("/{word}")));
    }
    words.join("/")
}

/// Whether the path names a field that its object does not have. The API server accepts a test for null of such a
/// field: clients test with it whether they are the first to write a list of finalizers. The API server also accepts a
/// replacement of such a field, by which the sidecars of CSI drivers write annotations and the status.
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

/// Merges by RFC 7396, with the values of the patch, and not copies.
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
