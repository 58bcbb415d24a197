//! Encoder from JSON text to protobuf without a tree.
//!
//! The first pass over the text fills a record for each field of a message: its values and their encoded size; the
//! second pass over the records writes the values in the order of the fields. Texts are not copied
//! before the second pass. The memory of the records is reused for the next object. Objects of a list have their
//! fields in equal order, so a name is first compared with the name that followed in the previous object, and only
//! then looked up. A field with the text of the previous object is not parsed again ([`Repeats`]).

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};
use json_text::{Cursor, StringSlice, SyntaxError};
use resource_kinds::api_types::Shape;

use super::messages::{Field, Message, MessagePart, Messages, PartSet, ValueKind};
use super::repeats::Repeats;
use object_model::protobuf::{Writer, bytes_size};

/// The tag of the only field of a `Quantity`, of raw JSON, or of a list inside of a message.
const WRAPPED: u32 = ValueKind::Text.tag(1);

/// Encodes objects one after the other.
pub(super) struct Transcoder<'t> {
    messages: &'static Messages,
    cursor: Cursor<'t>,
    nodes: Vec<ValueNode<'t>>,
    records: Vec<FieldValues>,
    ready: Writer,
    /// The parts of the object that was read last.
    present: PartSet,
    /// The part that followed each part last, by the slots of the messages.
    followers: Vec<u8>,
    repeats: Repeats<'t>,
}

/// The values of a field.
#[derive(Clone, Copy)]
struct FieldValues {
    /// The index of the first value.
    first: usize,
    /// The encoded size. Messages and map entries have a separate record for their length.
    size: usize,
    /// The index of the field in [`Repeats`], if its encoding is stored after it is written.
    missed: usize,
}

/// The index for "no node".
const NONE: usize = usize::MAX;

impl FieldValues {
    const EMPTY: Self = Self {
        first: NONE,
        size: 0,
        missed: NONE,
    };
}

#[derive(Clone, Copy)]
struct ValueNode<'t> {
    content: ValueContent<'t>,
    /// The next value of the list or map; for a key, its value.
    next: usize,
}

/// The form of a value until it is written.
#[derive(Clone, Copy)]
enum ValueContent<'t> {
    /// A whole field that is already encoded.
    Ready {
        start: usize,
        end: usize,
    },
    /// A whole field that equals a field of an earlier object; `start` and `end` are the bytes of the earlier encoding.
    Repeated {
        start: usize,
        end: usize,
    },
    Text(&'t [u8]),
    /// A message whose only field is this text.
    Wrapped(&'t [u8]),
    /// A message: its index, its own record, which is in front of the records of its parts, and the parts that it
    /// contains.
    Message {
        index: usize,
        record: usize,
        present: PartSet,
    },
    /// A map entry with its own record.
    Entry {
        record: usize,
    },
}

impl<'t> Transcoder<'t> {
    /// An encoder for single objects; no encodings are stored.
    pub(super) fn new(messages: &'static Messages) -> Self {
        Self::with(messages, Repeats::default())
    }

    /// An encoder for the objects of a list; the encodings of equal fields are stored and reused.
    pub(super) fn of_list(messages: &'static Messages) -> Self {
        Self::with(messages, Repeats::new(messages.slots))
    }

    fn with(messages: &'static Messages, repeats: Repeats<'t>) -> Self {
        Self {
            messages,
            cursor: Cursor::new(b""),
            nodes: Vec::new(),
            records: Vec::new(),
            ready: Writer::default(),
            present: PartSet::default(),
            followers: vec![0; messages.slots],
            repeats,
        }
    }

    /// Reads an object as the message with this index; returns the encoded length.
    ///
    /// *Errors.* The text is not JSON.
    pub(super) fn read(&mut self, index: usize, json: &'t [u8]) -> Result<usize, SyntaxError> {
        self.nodes.clear();
        self.records.clear();
        self.ready.0.clear();
        self.repeats.begin();
        self.cursor = Cursor::new(json);
        let (record, present) = self.message(index)?;
        self.present = present;
        Ok(self.records[record].size)
    }

    pub(super) fn write(&mut self, index: usize, out: &mut Writer) {
        let message = self.messages.get(index);
        self.write_parts(message, self.present, 1, out);
    }

    /// Reads an object; returns the index of its record, and the parts that it contains.
    fn message(&mut self, index: usize) -> Result<(usize, PartSet), SyntaxError> {
        let message = self.messages.get(index);
        let record = self.records.len();
        let end = record + 1 + message.parts.len();
        self.records.resize(end, FieldValues::EMPTY);
        let (mut present, mut size) = (message.embedded, 0);
        let mut slot = message.slot;
        let mut members = self.cursor.object()?;
        while members.next(&mut self.cursor)? {
            let Some((part, field)) = self.name(message, slot)? else {
                self.cursor.skip()?;
                continue;
            };
            slot = message.slot + 1 + part;
            let values = self.field(field, slot)?;
            let field_values = &mut self.records[record + 1 + part];
            // If several members have one name, the last member counts.
            size = size + values.size - field_values.size;
            *field_values = values;
            present.insert(part);
        }
        if !message.embedded.is_empty() {
            size = self.measure(message, present, record + 1);
        }
        self.records[record].size = size;
        Ok((record, present))
    }

    /// Reads the name of a member that follows the part of a slot; `None` for a name that is not in the message.
    #[inline]
    fn name<'m>(
        &mut self,
        message: &'m Message,
        slot: usize,
    ) -> Result<Option<(usize, &'m Field)>, SyntaxError> {
        let expected = usize::from(self.followers[slot]);
        if let Some(field) = message.field(expected)
            && self.cursor.take_key(field.name)
        {
            return Ok(Some((expected, field)));
        }
        // The field names of messages contain no escapes.
        let field = message.named(self.cursor.key()?.raw());
        if let Some(part) = field.and_then(|(part, _)| u8::try_from(part).ok()) {
            self.followers[slot] = part;
        }
        Ok(field)
    }

    /// The encoded size of parts of a message. Stores the lengths of embedded messages.
    fn measure(&mut self, message: &Message, mut parts: PartSet, first_record: usize) -> usize {
        let mut size = 0;
        while let Some(part) = parts.take_first() {
            if let MessagePart::Embedded { tag, end } = message.parts[part] {
                let length = self.measure(message, parts.take_before(end), first_record);
                self.records[first_record + part].size = length;
                size += bytes_size(tag, length);
            } else {
                size += self.records[first_record + part].size;
            }
        }
        size
    }

    /// Reads the value of a field, unless the text equals the text in an earlier object.
    fn field(&mut self, field: &Field, slot: usize) -> Result<FieldValues, SyntaxError> {
        let occurrence = match self.cursor.peek()? {
            b'{' | b'[' => self.repeats.occurrence(slot),
            _ => None,
        };
        let Some(occurrence) = occurrence else {
            return self.values(field);
        };
        if let Some((start, end)) = self.repeats.skip_repeated(occurrence, &mut self.cursor) {
            return Ok(FieldValues {
                first: self.node(ValueContent::Repeated { start, end }),
                size: end - start,
                missed: NONE,
            });
        }
        let start = self.cursor.offset();
        let mut values = self.values(field)?;
        let text = self.cursor.since(start);
        values.missed = self.repeats.missed(occurrence, text);
        Ok(values)
    }

    fn values(&mut self, field: &Field) -> Result<FieldValues, SyntaxError> {
        match (field.shape, self.cursor.peek()?) {
            // Null.
            (Shape::One, b'n') => {}
            (Shape::One, _) => {
                return Ok(match self.value(field.kind, field.tag)? {
                    Some((content, size)) => {
                        let first = self.node(content);
                        FieldValues {
                            first,
                            size,
                            missed: NONE,
                        }
                    }
                    None => FieldValues::EMPTY,
                });
            }
            (Shape::List, b'[') => return self.list(field),
            (Shape::Map, b'{') => return self.map(field),
            // Other values cannot occur, because stored objects have the form of their kind.
            _ => {}
        }
        self.cursor.skip()?;
        Ok(FieldValues::EMPTY)
    }

    fn list(&mut self, field: &Field) -> Result<FieldValues, SyntaxError> {
        let (mut values, mut last) = (FieldValues::EMPTY, NONE);
        let mut elements = self.cursor.array()?;
        while elements.next(&mut self.cursor)? {
            if let Some((content, size)) = self.value(field.kind, field.tag)? {
                self.append(&mut values, &mut last, content, size);
            }
        }
        Ok(values)
    }

    fn map(&mut self, field: &Field) -> Result<FieldValues, SyntaxError> {
        let (mut values, mut last) = (FieldValues::EMPTY, NONE);
        let mut entries = self.cursor.object()?;
        while let Some(key) = entries.next_key(&mut self.cursor)? {
            let (key, mut length) = self.text(key, ValueKind::Text.tag(1))?;
            let key = self.node(key);
            if let Some((value, size)) = self.value(field.kind, field.kind.tag(2))? {
                self.nodes[key].next = self.node(value);
                length += size;
            }
            let record = self.records.len();
            self.records.push(FieldValues {
                first: key,
                size: length,
                missed: NONE,
            });
            let size = bytes_size(field.tag, length);
            self.append(&mut values, &mut last, ValueContent::Entry { record }, size);
        }
        Ok(values)
    }

    fn node(&mut self, content: ValueContent<'t>) -> usize {
        let next = NONE;
        self.nodes.push(ValueNode { content, next });
        self.nodes.len() - 1
    }

    /// Appends a value to the values of a record.
    fn append(
        &mut self,
        values: &mut FieldValues,
        last: &mut usize,
        content: ValueContent<'t>,
        size: usize,
    ) {
        let node = self.node(content);
        match self.nodes.get_mut(*last) {
            Some(last) => last.next = node,
            None => values.first = node,
        }
        *last = node;
        values.size += size;
    }

    /// Reads a value; returns it with its encoded size, including the tag. `None` if nothing is to be written.
    fn value(
        &mut self,
        kind: ValueKind,
        tag: u32,
    ) -> Result<Option<(ValueContent<'t>, usize)>, SyntaxError> {
        let start = self.ready.0.len();
        match kind {
            ValueKind::Message(index) => {
                if self.cursor.peek()? != b'{' {
                    self.cursor.skip()?;
                    return Ok(None);
                }
                let (record, present) = self.message(index)?;
                let size = bytes_size(tag, self.records[record].size);
                let content = ValueContent::Message {
                    index,
                    record,
                    present,
                };
                return Ok(Some((content, size)));
            }
            ValueKind::Text => return self.string(tag).map(Some),
            ValueKind::Raw => return Ok(Some(wrapped(tag, self.cursor.skip()?))),
            ValueKind::Quantity => {
                if self.cursor.peek()? != b'"' {
                    return Ok(Some(wrapped(tag, self.cursor.skip()?)));
                }
                let amount = self.cursor.string()?;
                if !amount.is_escaped() {
                    return Ok(Some(wrapped(tag, amount.raw())));
                }
                let amount = amount.decode()?;
                self.ready
                    .message(tag, |inner| inner.bytes(WRAPPED, amount.as_bytes()));
            }
            ValueKind::Bytes => {
                let text = self.any_text()?;
                let bytes = STANDARD.decode(text.as_bytes()).unwrap_or_default();
                self.ready.bytes(tag, &bytes);
            }
            ValueKind::Int => {
                let number = int(self.cursor.skip()?);
                self.ready.varint(tag, number.cast_unsigned());
            }
            ValueKind::Bool => {
                let is_set = self.cursor.skip()? == b"true";
                self.ready.varint(tag, u64::from(is_set));
            }
            ValueKind::Double => {
                let number = double(self.cursor.skip()?).unwrap_or_default();
                self.ready.double(tag, number);
            }
            ValueKind::Time => {
                let text = self.any_text()?;
                self.ready.message(tag, |inner| time(&text, inner));
            }
            ValueKind::Duration => {
                let text = self.any_text()?;
                let length = text.parse::<SignedDuration>().unwrap_or_default();
                let nanos = i64::try_from(length.as_nanos()).unwrap_or(i64::MAX);
                let number = ValueKind::Int.tag(1);
                self.ready
                    .message(tag, |inner| inner.varint(number, nanos.cast_unsigned()));
            }
            ValueKind::Items => self.items(tag)?,
            ValueKind::IntOrString => self.int_or_string(tag)?,
        }
        let end = self.ready.0.len();
        Ok(Some((ValueContent::Ready { start, end }, end - start)))
    }

    /// Reads a text; any other value counts as an empty text.
    fn string(&mut self, tag: u32) -> Result<(ValueContent<'t>, usize), SyntaxError> {
        if self.cursor.peek()? != b'"' {
            self.cursor.skip()?;
            return Ok((ValueContent::Text(b""), bytes_size(tag, 0)));
        }
        let text = self.cursor.string()?;
        self.text(text, tag)
    }

    /// A text and its encoded size.
    fn text(
        &mut self,
        text: StringSlice<'t>,
        tag: u32,
    ) -> Result<(ValueContent<'t>, usize), SyntaxError> {
        if !text.is_escaped() {
            let raw = text.raw();
            return Ok((ValueContent::Text(raw), bytes_size(tag, raw.len())));
        }
        let start = self.ready.0.len();
        self.ready.bytes(tag, text.decode()?.as_bytes());
        let end = self.ready.0.len();
        Ok((ValueContent::Ready { start, end }, end - start))
    }

    /// Reads a text that is parsed further; any other value counts as an empty text.
    fn any_text(&mut self) -> Result<Cow<'t, str>, SyntaxError> {
        if self.cursor.peek()? == b'"' {
            return self.cursor.string()?.decode();
        }
        self.cursor.skip()?;
        Ok(Cow::Borrowed(""))
    }

    fn items(&mut self, tag: u32) -> Result<(), SyntaxError> {
        let mut items = Vec::new();
        if self.cursor.peek()? == b'[' {
            let mut elements = self.cursor.array()?;
            while elements.next(&mut self.cursor)? {
                items.push(self.any_text()?);
            }
        } else {
            self.cursor.skip()?;
        }
        self.ready.message(tag, |inner| {
            for item in &items {
                inner.bytes(WRAPPED, item.as_bytes());
            }
        });
        Ok(())
    }

    fn int_or_string(&mut self, tag: u32) -> Result<(), SyntaxError> {
        let is_text = self.cursor.peek()? == b'"';
        let (number, text) = match is_text {
            true => (0, self.cursor.string()?.decode()?),
            false => (int(self.cursor.skip()?), Cow::Borrowed("")),
        };
        self.ready.message(tag, |inner| {
            inner.varint(ValueKind::Int.tag(1), u64::from(is_text));
            inner.varint(ValueKind::Int.tag(2), number.cast_unsigned());
            inner.bytes(ValueKind::Text.tag(3), text.as_bytes());
        });
        Ok(())
    }

    fn write_parts(
        &mut self,
        message: &Message,
        mut parts: PartSet,
        first_record: usize,
        out: &mut Writer,
    ) {
        while let Some(part) = parts.take_first() {
            let values = self.records[first_record + part];
            match &message.parts[part] {
                MessagePart::Embedded { tag, end } => {
                    out.head(*tag, values.size);
                    self.write_parts(message, parts.take_before(*end), first_record, out);
                }
                MessagePart::Field(field) => {
                    let start = out.0.len();
                    let mut next = values.first;
                    while let Some(node) = self.nodes.get(next).copied() {
                        self.write_value(node.content, field.kind, field.tag, out);
                        next = node.next;
                    }
                    if values.missed != NONE {
                        self.repeats.keep(values.missed, &out.0[start..]);
                    }
                }
            }
        }
    }

    fn write_value(
        &mut self,
        content: ValueContent<'_>,
        kind: ValueKind,
        tag: u32,
        out: &mut Writer,
    ) {
        match content {
            ValueContent::Ready { start, end } => {
                out.0.extend_from_slice(&self.ready.0[start..end])
            }
            ValueContent::Repeated { start, end } => {
                out.0.extend_from_slice(self.repeats.encoding(start, end))
            }
            ValueContent::Text(text) => out.bytes(tag, text),
            ValueContent::Wrapped(text) => {
                out.head(tag, bytes_size(WRAPPED, text.len()));
                out.bytes(WRAPPED, text);
            }
            ValueContent::Message {
                index,
                record,
                present,
            } => {
                let message = self.messages.get(index);
                out.head(tag, self.records[record].size);
                self.write_parts(message, present, record + 1, out);
            }
            ValueContent::Entry { record } => {
                let entry = self.records[record];
                out.head(tag, entry.size);
                let Some(key) = self.nodes.get(entry.first).copied() else {
                    return;
                };
                self.write_value(key.content, ValueKind::Text, ValueKind::Text.tag(1), out);
                if let Some(value) = self.nodes.get(key.next).copied() {
                    self.write_value(value.content, kind, kind.tag(2), out);
                }
            }
        }
    }
}

/// A text inside of its own message, and the encoded size.
fn wrapped(tag: u32, text: &[u8]) -> (ValueContent<'_>, usize) {
    let size = bytes_size(tag, bytes_size(WRAPPED, text.len()));
    (ValueContent::Wrapped(text), size)
}

/// A whole number, which may be written with a decimal point; zero for any other text.
fn int(text: &[u8]) -> i64 {
    let whole = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok());
    whole
        .or_else(|| double(text).map(|number| number as i64))
        .unwrap_or_default()
}

fn double(text: &[u8]) -> Option<f64> {
    // The parser of Rust also accepts names such as `inf`.
    let starts = text
        .first()
        .is_some_and(|byte| matches!(byte, b'-' | b'0'..=b'9'));
    let text = std::str::from_utf8(text).ok().filter(|_| starts)?;
    text.parse().ok()
}

/// Writes seconds and nanoseconds; writes nothing for an absent time.
fn time(text: &str, out: &mut Writer) {
    if let Some(at) = timestamp(text) {
        out.varint(ValueKind::Int.tag(1), at.as_second().cast_unsigned());
        let nanos = i64::from(at.subsec_nanosecond());
        out.varint(ValueKind::Int.tag(2), nanos.cast_unsigned());
    }
}

fn timestamp(text: &str) -> Option<Timestamp> {
    second(text.as_bytes()).or_else(|| text.parse().ok())
}

/// Parses a time in the usual form `2026-01-02T03:04:05Z` without the general parser.
fn second(text: &[u8]) -> Option<Timestamp> {
    let text: &[u8; 20] = text.try_into().ok()?;
    let fixed = [text[4], text[7], text[10], text[13], text[16], text[19]];
    let two = |at: usize| -> Option<i8> {
        let digit = |byte: u8| byte.is_ascii_digit().then(|| (byte - b'0').cast_signed());
        Some(digit(text[at])? * 10 + digit(text[at + 1])?)
    };
    let year = i16::from(two(0)?) * 100 + i16::from(two(2)?);
    let date = DateTime::new(year, two(5)?, two(8)?, two(11)?, two(14)?, two(17)?, 0).ok()?;
    let is_utc = fixed == *b"--T::Z";
    is_utc
        .then(|| Offset::UTC.to_timestamp(date).ok())
        .flatten()
}
