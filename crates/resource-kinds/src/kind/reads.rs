//! The fields of a stored object that the rules of a write read. A server need not decode the other fields.

pub use json_text::FieldRead;

/// A field that is read as a whole.
pub(crate) const fn whole(name: &'static str) -> FieldRead {
    FieldRead { name, below: &[] }
}

/// A part of an object of which rules read no field. (No field has an empty name.)
pub(crate) const fn unread(name: &'static str) -> FieldRead {
    const NONE: &[FieldRead] = &[whole("")];
    FieldRead { name, below: NONE }
}

/// Removes the fields that rules do not read, as a server does that does not decode them.
#[cfg(test)]
pub(crate) fn keep(object: &mut json_tree::Value, reads: &[FieldRead]) {
    use json_tree::Value;

    fn keep_below(value: &mut Value, reads: &[FieldRead]) {
        match value {
            Value::Array(list) => list.iter_mut().for_each(|one| keep_below(one, reads)),
            Value::Object(map) if !reads.is_empty() => {
                map.retain(|name, _| reads.iter().any(|read| read.name == name));
                keep(value, reads);
            }
            _ => {}
        }
    }
    for read in reads {
        if let Some(value) = object.get_mut(read.name) {
            keep_below(value, read.below);
        }
    }
}
