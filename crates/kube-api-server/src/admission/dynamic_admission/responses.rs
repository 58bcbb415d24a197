//! The decoder of webhook responses.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use json_tree::Value;
use structured_merge::json_patch;

/// The JSON body of a response.
pub(crate) fn body(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// The object after a JSON patch, which is a base64 text.
///
/// *Errors.* The error of the patch.
pub(crate) fn patched(object: Value, patch: &str) -> Result<Value, String> {
    let decoded = STANDARD.decode(patch).map_err(|error| error.to_string())?;
    let patch: Value = serde_json::from_slice(&decoded).map_err(|error| error.to_string())?;
    json_patch(object, &patch).map_err(|error| error.to_string())
}
