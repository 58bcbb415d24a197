//! Times in JSON.

use jiff::Timestamp;
use serde_json::Value;

use crate::json::api_types::ValueType;

/// Writes a time in universal time: in whole seconds, or in microseconds.
pub(super) fn canonical(value: &mut Value, kind: ValueType) -> Result<(), String> {
    let Value::String(text) = value else {
        return Ok(());
    };
    let at: Timestamp = text.parse().map_err(|error: jiff::Error| {
        format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": {error}")
    })?;
    let form = match kind {
        ValueType::MicroTime => "%Y-%m-%dT%H:%M:%S%.6fZ",
        _ => "%Y-%m-%dT%H:%M:%SZ",
    };
    *text = at.strftime(form).to_string();
    Ok(())
}
