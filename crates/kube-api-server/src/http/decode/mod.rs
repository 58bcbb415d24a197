//! Decoding of request bodies: JSON, YAML and protobuf, with the duplicate fields.

mod tree;

use std::str::Utf8Error;

use http::HeaderMap;
use json_tree::Value;
use object_model::protobuf::WireError;
use object_model::{Status, StatusReason};
use resource_kinds::bodies;
use serde::de::DeserializeSeed;
use thiserror::Error;

use crate::http::limits::{DEPTH_MAX, NODES_MAX, YAML_NODES_MAX};
use crate::http::negotiate::content_type;
use crate::http::protobuf::{self, PROTOBUF};
use tree::{DecodeFindings, Seed};

/// A body, with the paths of duplicate fields.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) value: Value,
    pub(crate) duplicates: Vec<String>,
}

impl From<Value> for Decoded {
    /// An object that was not decoded from a text, so it has no duplicate fields.
    fn from(value: Value) -> Self {
        Self {
            value,
            duplicates: Vec::new(),
        }
    }
}

/// Decodes a body by its content type; `expected` is the kind at the request path.
///
/// *Errors.* 415 for an unsupported content type, 400 if the body cannot be parsed.
pub(crate) fn body(headers: &HeaderMap, bytes: &[u8], expected: &str) -> Result<Decoded, Status> {
    let decoded = match content_type(headers).as_str() {
        "application/json" | "text/json" => json(bytes),
        "application/yaml" | "text/yaml" | "application/x-yaml" => yaml(bytes),
        PROTOBUF => protobuf::read(bytes),
        _ => {
            return Err(unsupported(&[
                "application/json",
                "application/yaml",
                PROTOBUF,
            ]));
        }
    };
    let decoded = decoded.map_err(|text| {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {expected}): {text}"
        ))
    })?;
    if decoded.value.is_object() {
        return Ok(decoded);
    }
    Err(Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {expected}): \
         the body is not an object"
    )))
}

/// Decodes a body of a kind that is never stored (a Binding, a review), and checks the types of its fields.
///
/// *Errors.* As [`body`]; 400 for another kind.
pub(crate) fn part(headers: &HeaderMap, bytes: &[u8], kind: &str) -> Result<Decoded, Status> {
    let mut decoded = body(headers, bytes, kind)?;
    decoded.value = typed(kind, decoded.value)?;
    Ok(decoded)
}

/// Decodes such a body again after admission may have changed it.
///
/// *Errors.* 400 for another kind.
pub(crate) fn typed(kind: &str, value: Value) -> Result<Value, Status> {
    let actual = value["kind"].as_str().filter(|text| !text.is_empty());
    let actual = actual.unwrap_or(kind).to_owned();
    bodies::decode(kind, value).map_err(|why| {
        Status::bad_request(format!("{actual} cannot be handled as a {kind}: {why}"))
    })
}

/// 415 with the list of supported types.
pub(crate) fn unsupported(accepted: &[&str]) -> Status {
    let text = format!(
        "the body of the request was in an unknown format - accepted media types include: {}",
        accepted.join(", ")
    );
    Status::new(StatusReason::UnsupportedMediaType, text)
}

/// The reason why a body cannot be decoded.
#[derive(Debug, Error)]
pub(crate) enum BodyError {
    #[error("the body is empty")]
    Empty,
    #[error("json parse error: {0}")]
    Json(String),
    #[error("yaml: not UTF-8: {0}")]
    YamlEncoding(Utf8Error),
    /// The first line of the parser's message.
    #[error("yaml: {0}")]
    Yaml(String),
    #[error("provided data does not appear to be a protobuf message")]
    NotProtobuf,
    #[error("no kind {kind:?} is known in version {api_version:?}")]
    UnknownKind { api_version: String, kind: String },
    #[error("nested more than {DEPTH_MAX} deep")]
    TooDeep,
    #[error("a text that is not UTF-8")]
    TextEncoding,
    #[error("time: {0}")]
    Time(jiff::Error),
    /// The bytes are not a message.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Decodes JSON; duplicate fields are listed in the result.
pub(crate) fn json(bytes: &[u8]) -> Result<Decoded, BodyError> {
    if bytes.is_empty() {
        return Err(BodyError::Empty);
    }
    // One UTF-8 check of the whole text is faster than a check of each string.
    let text = std::str::from_utf8(bytes).map_err(|error| BodyError::Json(error.to_string()))?;
    let notes = DecodeFindings::new(NODES_MAX);
    let mut source = serde_json::Deserializer::from_str(text);
    let read = Seed::root(&notes).deserialize(&mut source);
    let value = read.and_then(|value| source.end().map(|()| value));
    let value = value.map_err(|error| BodyError::Json(error.to_string()))?;
    Ok(Decoded {
        value,
        duplicates: notes.duplicates(),
    })
}

/// Decodes one YAML document. Aliases are expanded within the limits of [`tree`].
pub(crate) fn yaml(bytes: &[u8]) -> Result<Decoded, BodyError> {
    let text = std::str::from_utf8(bytes).map_err(BodyError::YamlEncoding)?;
    let notes = DecodeFindings::new(YAML_NODES_MAX);
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        // Manifests are YAML 1.1, in which `mode: 0644` is octal.
        legacy_octal_numbers: true,
    };
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |source| {
        Seed::root(&notes).deserialize(source)
    });
    let value = read.map_err(|error| BodyError::Yaml(first_line(&error.to_string()).to_owned()))?;
    Ok(Decoded {
        value,
        duplicates: notes.duplicates(),
    })
}

/// Decodes JSON or YAML; `None` if the bytes are neither.
pub(crate) fn yaml_or_json(bytes: &[u8]) -> Option<Value> {
    let decoded = json(bytes).or_else(|_| yaml(bytes)).ok()?;
    Some(decoded.value)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use json_tree::json;

    #[test]
    fn duplicates_are_found_in_both_forms() {
        let in_json = json(br#"{"spec":{"a":[{"x":1,"x":2}],"b":1},"spec":{"b":2}}"#).unwrap();
        assert_eq!(in_json.duplicates, ["spec.a[0].x", "spec"]);
        assert_eq!(in_json.value, json!({"spec": {"b": 2}}));
        let in_yaml = yaml(b"spec:\n  a: 1\n  a: 0644\nn: null\nt: \"1\"\nf: 1.5\n").unwrap();
        assert_eq!(in_yaml.duplicates, ["spec.a"]);
        assert_eq!(
            in_yaml.value,
            json!({"spec": {"a": 420}, "n": null, "t": "1", "f": 1.5})
        );
    }

    #[test]
    fn what_does_not_parse_is_refused_and_never_costs_much() {
        let deep = "[".repeat(100_000);
        let deep_object = "{\"a\":".repeat(1000);
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..10 {
            let before = format!("*a{},", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        for bad in ["", "{", "nope", "{}x", &deep, &deep_object] {
            assert!(json(bad.as_bytes()).is_err(), "{bad:.10}");
        }
        assert!(json(b"{\"a\":\"\xff\"}").is_err());
        for bad in ["a: [", "a: *b", &bomb, "a: 1\n---\nb: 2\n"] {
            assert!(yaml(bad.as_bytes()).is_err(), "{bad:.10}");
        }
        assert!(yaml(b"a: \xff").is_err());
    }
}
