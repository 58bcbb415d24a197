//! Fields of CSI's messages: texts, maps and lists of them.

use std::collections::BTreeMap;

use object_model::protobuf::{Wire, WireError, Writer, bytes, fields};

/// Writes a text, unless it is empty, which is the default.
pub(crate) fn put_text(out: &mut Writer, field: u32, text: &str) {
    if !text.is_empty() {
        out.bytes(bytes(field), text.as_bytes());
    }
}

/// Writes a map of texts.
pub(crate) fn put_map(out: &mut Writer, field: u32, map: &BTreeMap<String, String>) {
    for (key, value) in map {
        out.message(bytes(field), |out| {
            out.bytes(bytes(1), key.as_bytes());
            out.bytes(bytes(2), value.as_bytes());
        });
    }
}

/// Reads a text. Drivers that send other bytes than UTF-8 are read with replacements.
pub(crate) fn text(wire: Wire<'_>) -> Result<String, WireError> {
    Ok(String::from_utf8_lossy(wire.bytes()?).into_owned())
}

/// Reads one entry of a map of texts.
pub(crate) fn entry(wire: Wire<'_>) -> Result<(String, String), WireError> {
    let mut pair = (String::new(), String::new());
    fields(wire.bytes()?, |field, wire| {
        match field {
            1 => pair.0 = text(wire)?,
            2 => pair.1 = text(wire)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(pair)
}
