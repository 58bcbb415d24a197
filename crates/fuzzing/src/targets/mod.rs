//! The fuzz targets: the decoder, its valid inputs, and the properties of every result.

mod answers;
mod archives;
mod bodies;
mod claim_templates;
mod custom;
mod images;
mod names;
mod parts;
mod patches;
mod streams;
mod texts;
mod wires;

use json_tree::Value;
use kube_api_server::decoders;

/// A decoder of untrusted input.
pub struct Target {
    pub name: &'static str,
    /// Valid inputs, from which mutations start.
    pub seeds: &'static [&'static [u8]],
    /// Words with a meaning for the decoder.
    pub words: &'static [&'static str],
    /// Decodes an input. Must not panic, hang or exceed the memory bound; some targets also check properties of the
    /// result.
    pub run: fn(&[u8]),
}

/// The two values of a list; `None` for any other value.
fn pair(bytes: &[u8]) -> Option<(Value, Value)> {
    let Value::Array(pair) = decoders::json(bytes)? else {
        return None;
    };
    let [first, second] = <[Value; 2]>::try_from(pair).ok()?;
    Some((first, second))
}

pub const ALL: &[Target] = &[
    bodies::JSON,
    bodies::JSON_TEXT,
    bodies::YAML,
    bodies::PROTOBUF,
    patches::JSON,
    patches::MERGE,
    patches::STRATEGIC,
    patches::APPLY,
    patches::MANAGED_FIELDS,
    texts::LABEL_SELECTOR,
    texts::FIELD_SELECTOR,
    texts::QUANTITY,
    texts::SCHEDULE,
    texts::REQUEST,
    texts::GUARD_CHECK,
    claim_templates::CLAIM_TEMPLATES,
    texts::SNAPSHOT_HANDLE,
    texts::TOKEN,
    wires::SPDY,
    wires::WEB_SOCKET,
    wires::ETCD_MESSAGES,
    wires::CSI_ANSWERS,
    wires::SERVICE_ANSWERS,
    names::DNS,
    images::PAX,
    images::TAR_HEADER,
    images::MANIFEST,
    images::CHALLENGE,
    images::ANSWER,
    images::REFERENCE,
    images::PULL_SECRET,
    images::REDIRECT,
    images::PROBE_REDIRECT,
    images::ENV_FILE,
    archives::ARCHIVE,
    answers::WEBHOOK,
    answers::CONVERSION,
    answers::EXTENSION,
    answers::REQUEST,
    answers::CERTIFICATE,
    answers::BUNDLE,
    parts::PART,
    custom::CEL,
    custom::CEL_OBJECTS,
    custom::SCHEMA,
    custom::ANNOTATIONS,
    custom::JSON_PATH,
    streams::BTRFS,
];
