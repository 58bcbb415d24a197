//! Writes messages in the protobuf wire format, each from a JSON value and a table of the message's fields. Only the
//! features that the documents need: no groups, no packed numbers.
//!
//! As in proto3, a field with its type's zero value (`false`, `0`, `""`) is not written; an empty message is written.
//! Members of a JSON object that are not in the table are skipped.

use json_tree::{Map, Value};
use object_model::varint;

/// The wire type of a field.
#[derive(Clone, Copy)]
enum WireType {
    Varint = 0,
    Fixed64 = 1,
    Length = 2,
}

/// The fields of a message, in the order of their numbers.
pub(crate) struct Shape {
    pub fields: &'static [Field],
    /// The number of the repeated field for all members whose name starts with `x-`.
    pub extensions: Option<u32>,
}

/// A field of a message, and its JSON member.
pub(crate) struct Field {
    pub member: &'static str,
    pub number: u32,
    pub form: FieldType,
}

/// The type of a field of the OpenAPI protobuf messages.
pub(crate) enum FieldType {
    Text,
    Texts,
    Flag,
    Integer,
    Double,
    /// A value of any form, as text.
    Any,
    Anys,
    Message(&'static Shape),
    Messages(&'static Shape),
    /// A message whose form differs from the JSON value.
    Made(fn(&Value) -> Message),
    EachMade(fn(&Value) -> Message),
}

/// The encoded content of a message.
#[derive(Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// Encodes a JSON object as the message that `shape` describes.
    pub fn of(shape: &Shape, value: &Value) -> Self {
        let mut message = Self::default();
        let Value::Object(members) = value else {
            return message;
        };
        for field in shape.fields {
            if let Some(value) = members.get(field.member) {
                message.field(field, value);
            }
        }
        if let Some(number) = shape.extensions {
            message.extensions(number, members);
        }
        message
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Adds a message as a field of this message.
    pub fn message(&mut self, number: u32, inner: &Self) {
        self.bytes(number, &inner.0);
    }

    /// Adds one entry of a map, which is a list of messages `{name = 1, value = 2}`.
    pub fn pair(&mut self, number: u32, name: &str, value: &Self) {
        let mut pair = Self::default();
        pair.text(1, name);
        pair.message(2, value);
        self.message(number, &pair);
    }

    pub fn text(&mut self, number: u32, text: &str) {
        if !text.is_empty() {
            self.bytes(number, text.as_bytes());
        }
    }

    /// Adds a flag that is one of several alternatives; it is written even if it is `false`.
    pub fn chosen_flag(&mut self, number: u32, flag: bool) {
        self.tag(number, WireType::Varint);
        self.varint(flag.into());
    }

    fn field(&mut self, field: &Field, value: &Value) {
        let number = field.number;
        match &field.form {
            FieldType::Text => self.text(number, value.as_str().unwrap_or_default()),
            FieldType::Texts => {
                for text in list(value).iter().filter_map(Value::as_str) {
                    self.bytes(number, text.as_bytes());
                }
            }
            FieldType::Flag => self.integer(number, value.as_bool().unwrap_or_default().into()),
            FieldType::Integer => self.integer(number, value.as_i64().unwrap_or_default()),
            FieldType::Double => self.double(number, value.as_f64().unwrap_or_default()),
            FieldType::Any => self.message(number, &any(value)),
            FieldType::Anys => list(value)
                .iter()
                .for_each(|one| self.message(number, &any(one))),
            FieldType::Message(shape) => self.message(number, &Self::of(shape, value)),
            FieldType::Messages(shape) => list(value)
                .iter()
                .for_each(|one| self.message(number, &Self::of(shape, one))),
            FieldType::Made(make) => self.message(number, &make(value)),
            FieldType::EachMade(make) => list(value)
                .iter()
                .for_each(|one| self.message(number, &make(one))),
        }
    }

    fn extensions(&mut self, number: u32, members: &Map<String, Value>) {
        for (name, value) in members {
            if name.starts_with("x-") {
                self.pair(number, name, &any(value));
            }
        }
    }

    fn integer(&mut self, number: u32, value: i64) {
        if value != 0 {
            self.tag(number, WireType::Varint);
            // A negative number is written in two's complement.
            self.varint(value.cast_unsigned());
        }
    }

    fn double(&mut self, number: u32, value: f64) {
        if value != 0.0 {
            self.tag(number, WireType::Fixed64);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.tag(number, WireType::Length);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn tag(&mut self, number: u32, wire_type: WireType) {
        self.varint(u64::from(number) << 3 | wire_type as u64);
    }

    fn varint(&mut self, value: u64) {
        varint::put(&mut self.0, value);
    }
}

/// `Any {yaml = 2}`: JSON is valid YAML.
fn any(value: &Value) -> Message {
    let mut message = Message::default();
    message.text(2, &format!("{value}\n"));
    message
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
