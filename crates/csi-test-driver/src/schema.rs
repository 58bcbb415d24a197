//! The messages of CSI as JSON, by their published descriptors: fields have their published names, and values
//! of enumerations are numbers.
//!
//! Numbers, texts, maps and messages with their default value are omitted in both directions; an empty
//! message is present.

use std::sync::LazyLock;

use json_tree::{Value, json};
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions,
};

static CSI: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| {
    let descriptors = include_bytes!("csi_v1.descriptors");
    DescriptorPool::decode(descriptors.as_slice()).ok()
});

/// `None` for a message that the specification does not have.
fn descriptor(message: &str) -> Option<MessageDescriptor> {
    CSI.as_ref()?
        .get_message_by_name(&format!("csi.v1.{message}"))
}

/// The reason why a message is not encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("no message {0}")]
    NoMessage(String),
    /// The JSON does not match the message, or a value has no JSON.
    #[error("{0}")]
    Json(serde_json::Error),
    #[error("{0}")]
    Bytes(prost::DecodeError),
}

/// Encodes a message. A message that the specification does not have is empty.
///
/// # Errors
/// The JSON has another type than the field, or a field that the message does not have.
pub fn encode(message: &str, value: &Value) -> Result<Vec<u8>, SchemaError> {
    let Some(descriptor) = descriptor(message) else {
        return match value.as_object().is_none_or(|fields| fields.is_empty()) {
            true => Ok(Vec::new()),
            false => Err(SchemaError::NoMessage(message.to_owned())),
        };
    };
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message = DynamicMessage::deserialize_with_options(descriptor, value, &options);
    Ok(message.map_err(SchemaError::Json)?.encode_to_vec())
}

/// Decodes a message to JSON. Unknown fields are skipped.
///
/// # Errors
/// The bytes are not such a message.
pub fn decode(message: &str, bytes: &[u8]) -> Result<Value, SchemaError> {
    let Some(descriptor) = descriptor(message) else {
        return Ok(json!({}));
    };
    let message = DynamicMessage::decode(descriptor, bytes).map_err(SchemaError::Bytes)?;
    let options = SerializeOptions::new()
        .stringify_64_bit_integers(false)
        .use_enum_numbers(true)
        .use_proto_field_name(true);
    let value = message.serialize_with_options(serde_json::value::Serializer, &options);
    let value = value.and_then(json_tree::to_value);
    value.map_err(SchemaError::Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_the_same_after_it_was_written_and_read() {
        let message = json!({
            "name": "n", "capacity_range": {"required_bytes": 5}, "parameters": {"a": "b", "c": ""},
            "volume_capabilities": [{"block": {}, "access_mode": {"mode": 1}},
                {"mount": {"mount_flags": ["ro", ""]}}],
            "accessibility_requirements": {"preferred": [{"segments": {"z": "1"}}]}});
        let bytes = encode("CreateVolumeRequest", &message).unwrap();
        assert_eq!(decode("CreateVolumeRequest", &bytes).unwrap(), message);
        assert!(encode("CreateVolumeRequest", &json!({"nam": "n"})).is_err());
        assert!(encode("CreateVolumeRequest", &json!({"name": 5})).is_err());
        assert!(decode("CreateVolumeRequest", &[0x0a, 9]).is_err());
    }
}
