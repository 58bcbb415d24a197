//! The decoder of webhook responses.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use json_tree::Value;
use structured_merge::{PatchError, json_patch};
use thiserror::Error;

/// The reason why a response cannot be decoded.
#[derive(Debug, Error)]
pub(crate) enum ResponseError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Base64(#[from] base64::DecodeError),
    #[error(transparent)]
    Patch(#[from] PatchError),
}

/// The JSON body of a response.
pub(crate) fn body(bytes: &[u8]) -> Result<Value, ResponseError> {
    Ok(serde_json::from_slice(bytes)?)
}

/// The JSON patch in a base64 text.
pub(crate) fn patch(text: &str) -> Result<Value, ResponseError> {
    let decoded = STANDARD.decode(text)?;
    Ok(serde_json::from_slice(&decoded)?)
}

/// The object after a JSON patch.
///
/// *Errors.* The error of the patch.
pub(crate) fn apply(object: Value, patch: &Value) -> Result<Value, ResponseError> {
    Ok(json_patch(object, patch)?)
}
