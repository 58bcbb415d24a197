//! What is fed, with what, and what must hold whatever it is.

mod bodies;
mod custom;
mod patches;
mod texts;
mod wires;

/// Something that decodes what strangers send.
pub struct Target {
    pub name: &'static str,
    /// Good inputs to begin with.
    pub seeds: &'static [&'static [u8]],
    /// Words that mean something there.
    pub words: &'static [&'static str],
    /// Decodes an input. Must not panic, hang or take memory past all bounds; some also check what
    /// must hold of the result.
    pub run: fn(&[u8]),
}

pub const ALL: &[Target] = &[
    bodies::JSON,
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
    texts::TOKEN,
    wires::SPDY,
    wires::WEB_SOCKET,
    custom::CEL,
    custom::SCHEMA,
    custom::JSON_PATH,
];
