//! Sets of fields as `fieldsV1` writes them: an object per step, `.` for a member that also has
//! members below it.

use serde_json::{Map, Value};

use super::path;
use super::set::{FieldSet, Node};

impl<'a> FieldSet<'a> {
    /// The set as `fieldsV1`.
    pub fn to_fields_v1(&self) -> Value {
        let mut fields = Map::with_capacity(self.nodes().len());
        for node in self.nodes() {
            fields.insert(path::encode(&node.step), encoded(node));
        }
        Value::Object(fields)
    }

    /// Reads `fieldsV1`. Steps of a kind that is not known are left out.
    ///
    /// # Errors
    /// *Errors.* A message if the value is not a set of fields.
    pub fn from_fields_v1(fields: &'a Value) -> Result<Self, String> {
        Ok(decode(fields)?.0)
    }

    /// Whether any of these fields is in an encoded set.
    pub(crate) fn overlaps(&self, fields: &Value) -> bool {
        self.nodes().iter().any(|node| {
            let found = fields.get(path::encode(&node.step));
            found.is_some_and(|found| {
                (node.member && is_member(found)) || node.below.overlaps(found)
            })
        })
    }

    /// Whether all of these fields are in an encoded set.
    pub(crate) fn is_within(&self, fields: &Value) -> bool {
        self.nodes().iter().all(|node| {
            let found = fields.get(path::encode(&node.step));
            found.is_some_and(|found| {
                (!node.member || is_member(found)) && node.below.is_within(found)
            })
        })
    }
}

fn is_member(fields: &Value) -> bool {
    match fields {
        Value::Object(fields) => fields.is_empty() || fields.contains_key("."),
        _ => true,
    }
}

fn encoded(node: &Node<'_>) -> Value {
    let mut fields = match node.below.to_fields_v1() {
        Value::Object(fields) => fields,
        other => return other,
    };
    if node.member && !fields.is_empty() {
        fields.shift_insert(0, ".".to_owned(), Value::Object(Map::new()));
    }
    Value::Object(fields)
}

/// The set below a step, and whether the step itself is a member.
fn decode(fields: &Value) -> Result<(FieldSet<'_>, bool), String> {
    let fields = match fields {
        Value::Object(fields) => fields,
        Value::Null => return Ok((FieldSet::default(), true)),
        other => return Err(format!("expected an object, found {other}")),
    };
    let mut member = false;
    let mut nodes = Vec::with_capacity(fields.len());
    for (key, below) in fields {
        if key == "." {
            member = true;
            continue;
        }
        let Some(step) = path::decode(key)? else {
            continue;
        };
        let (below, member) = decode(below)?;
        nodes.push(Node {
            step,
            member,
            below,
        });
    }
    let set = FieldSet::of(nodes);
    member |= set.is_empty();
    Ok((set, member))
}
