//! From JSON text to protobuf without a tree.
//!
//! One walk over the text notes the values of each message at the places of their fields, with their encoded
//! sizes; a second walk over the notes writes them in the order of the fields. Texts stay where they are
//! until then. The memory of the notes serves the next object. Objects of a list have their fields in the
//! same order, so a name is compared with the one that came there last before it is looked up; and a field
//! that has the text of the last object's is not read again ([`Repeats`]).

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

/// The tag of the only field of a `Quantity`, of raw JSON, or of a list in a message.
const WRAPPED: u32 = ValueKind::Text.tag(1);

/// Transcodes objects, one after the other.
pub(super) struct Transcoder<'t> {
    messages: &'static Messages,
    cursor: Cursor<'t>,
    nodes: Vec<ValueNode<'t>>,
    places: Vec<FieldValues>,
    ready: Writer,
    /// The parts of the object that was read last.
    present: PartSet,
    /// The part that came last behind each part, by the slots of the messages.
    followers: Vec<u8>,
    repeats: Repeats<'t>,
}

/// The values of a field.
#[derive(Clone, Copy)]
struct FieldValues {
    /// The index of the first one.
    first: usize,
    /// Their encoded size. Messages and entries of maps have a place of their own for their length.
    size: usize,
    /// The index among the fields whose encoding is kept when they are written.
    missed: usize,
}

/// No node.
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
    /// The next value of the same list or map; the value of a key.
    next: usize,
}

/// The form of a value until it is written.
#[derive(Clone, Copy)]
enum ValueContent<'t> {
    /// A whole field, encoded already.
    Ready {
        start: usize,
        end: usize,
    },
    /// The same with the encoding of an earlier object.
    Repeated {
        start: usize,
        end: usize,
    },
    Text(&'t [u8]),
    /// A message with this text as its only field.
    Wrapped(&'t [u8]),
    /// A message: its index, its own place, in front of those of its parts, and the parts that it has.
    Message {
        index: usize,
        place: usize,
        present: PartSet,
    },
    /// An entry of a map, with its own place.
    Entry {
        place: usize,
    },
}

impl<'t> Transcoder<'t> {
    /// A transcoder for single objects: no encodings are kept.
    pub(super) fn new(messages: &'static Messages) -> Self {
        Self::with(messages, Repeats::default())
    }

    /// A transcoder for the objects of a list: encodings of equal fields are kept and reused.
    pub(super) fn of_list(messages: &'static Messages) -> Self {
        Self::with(messages, Repeats::new(messages.slots))
    }

    fn with(messages: &'static Messages, repeats: Repeats<'t>) -> Self {
        Self {
            messages,
            cursor: Cursor::new(b""),
            nodes: Vec::new(),
            places: Vec::new(),
            ready: Writer::default(),
            present: PartSet::default(),
            followers: vec![0; messages.slots],
            repeats,
        }
    }

    /// Reads an object as the message of that index; its encoded length.
    ///
    /// *Errors.* If the text is not JSON.
    pub(super) fn read(&mut self, index: usize, json: &'t [u8]) -> Result<usize, SyntaxError> {
        self.nodes.clear();
        self.places.clear();
        self.ready.0.clear();
        self.repeats.begin();
        self.cursor = Cursor::new(json);
        let (own, present) = self.message(index)?;
        self.present = present;
        Ok(self.places[own].size)
    }

    /// Writes the object that was read last.
    pub(super) fn write(&mut self, index: usize, out: &mut Writer) {
        let message = self.messages.get(index);
        self.write_parts(message, self.present, 1, out);
    }

    /// Reads an object; the index of its own place, and the parts that it has.
    fn message(&mut self, index: usize) -> Result<(usize, PartSet), SyntaxError> {
        let message = self.messages.get(index);
        let own = self.places.len();
        let end = own + 1 + message.parts.len();
        self.places.resize(end, FieldValues::EMPTY);
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
            let place = &mut self.places[own + 1 + part];
            // The last one of several members with the same name counts.
            size = size + values.size - place.size;
            *place = values;
            present.insert(part);
        }
        if !message.embedded.is_empty() {
            size = self.measure(message, present, own + 1);
        }
        self.places[own].size = size;
        Ok((own, present))
    }

    /// Reads the name of a member behind the part of a slot; `None` for a name that the message has not.
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
        // Names of fields have no escapes.
        let found = message.named(self.cursor.key()?.raw());
        if let Some(part) = found.and_then(|(part, _)| u8::try_from(part).ok()) {
            self.followers[slot] = part;
        }
        Ok(found)
    }

    /// The encoded size of parts of a message; embedded messages get their length.
    fn measure(&mut self, message: &Message, mut parts: PartSet, places: usize) -> usize {
        let mut size = 0;
        while let Some(part) = parts.take_first() {
            if let MessagePart::Embedded { tag, end } = message.parts[part] {
                let length = self.measure(message, parts.take_before(end), places);
                self.places[places + part].size = length;
                size += bytes_size(tag, length);
            } else {
                size += self.places[places + part].size;
            }
        }
        size
    }

    /// Reads the value of a field, unless it has the text of an earlier one.
    fn field(&mut self, field: &Field, slot: usize) -> Result<FieldValues, SyntaxError> {
        let occurrence = match self.cursor.peek()? {
            b'{' | b'[' => self.repeats.occurrence(slot),
            _ => None,
        };
        let Some(occurrence) = occurrence else {
            return self.values(field);
        };
        if let Some((start, end)) = self.repeats.take(occurrence, &mut self.cursor) {
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
            // Stored objects have the form of their kind.
            _ => {}
        }
        self.cursor.skip()?;
        Ok(FieldValues::EMPTY)
    }

    fn list(&mut self, field: &Field) -> Result<FieldValues, SyntaxError> {
        let (mut place, mut last) = (FieldValues::EMPTY, NONE);
        let mut elements = self.cursor.array()?;
        while elements.next(&mut self.cursor)? {
            if let Some((content, size)) = self.value(field.kind, field.tag)? {
                self.append(&mut place, &mut last, content, size);
            }
        }
        Ok(place)
    }

    fn map(&mut self, field: &Field) -> Result<FieldValues, SyntaxError> {
        let (mut place, mut last) = (FieldValues::EMPTY, NONE);
        let mut entries = self.cursor.object()?;
        while let Some(key) = entries.next_key(&mut self.cursor)? {
            let (key, mut length) = self.text(key, ValueKind::Text.tag(1))?;
            let key = self.node(key);
            if let Some((value, size)) = self.value(field.kind, field.kind.tag(2))? {
                self.nodes[key].next = self.node(value);
                length += size;
            }
            let own = self.places.len();
            self.places.push(FieldValues {
                first: key,
                size: length,
                missed: NONE,
            });
            let size = bytes_size(field.tag, length);
            self.append(
                &mut place,
                &mut last,
                ValueContent::Entry { place: own },
                size,
            );
        }
        Ok(place)
    }

    fn node(&mut self, content: ValueContent<'t>) -> usize {
        let next = NONE;
        self.nodes.push(ValueNode { content, next });
        self.nodes.len() - 1
    }

    /// Appends a value to those of a place.
    fn append(
        &mut self,
        place: &mut FieldValues,
        last: &mut usize,
        content: ValueContent<'t>,
        size: usize,
    ) {
        let node = self.node(content);
        match self.nodes.get_mut(*last) {
            Some(last) => last.next = node,
            None => place.first = node,
        }
        *last = node;
        place.size += size;
    }

    /// Reads a value, and its encoded size with the tag; `None` if there is nothing to write.
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
                let (place, present) = self.message(index)?;
                let size = bytes_size(tag, self.places[place].size);
                let content = ValueContent::Message {
                    index,
                    place,
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

    /// Reads a text; anything else counts as an empty one.
    fn string(&mut self, tag: u32) -> Result<(ValueContent<'t>, usize), SyntaxError> {
        if self.cursor.peek()? != b'"' {
            self.cursor.skip()?;
            return Ok((ValueContent::Text(b""), bytes_size(tag, 0)));
        }
        let text = self.cursor.string()?;
        self.text(text, tag)
    }

    /// A text, and its encoded size.
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

    /// A text, for reading it; anything else counts as an empty one.
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
        places: usize,
        out: &mut Writer,
    ) {
        while let Some(part) = parts.take_first() {
            let place = self.places[places + part];
            match &message.parts[part] {
                MessagePart::Embedded { tag, end } => {
                    out.head(*tag, place.size);
                    self.write_parts(message, parts.take_before(*end), places, out);
                }
                MessagePart::Field(field) => {
                    let start = out.0.len();
                    let mut next = place.first;
                    while let Some(node) = self.nodes.get(next).copied() {
                        self.write_value(node.content, field.kind, field.tag, out);
                        next = node.next;
                    }
                    if place.missed != NONE {
                        self.repeats.keep(place.missed, &out.0[start..]);
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
                place,
                present,
            } => {
                let message = self.messages.get(index);
                out.head(tag, self.places[place].size);
                self.write_parts(message, present, place + 1, out);
            }
            ValueContent::Entry { place } => {
                let entry = self.places[place];
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

/// A text in a message of its own, and its encoded size.
fn wrapped(tag: u32, text: &[u8]) -> (ValueContent<'_>, usize) {
    let size = bytes_size(tag, bytes_size(WRAPPED, text.len()));
    (ValueContent::Wrapped(text), size)
}

/// A whole number, also one that is written with a point; zero for anything else.
fn int(text: &[u8]) -> i64 {
    let whole = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok());
    whole
        .or_else(|| double(text).map(|number| number as i64))
        .unwrap_or_default()
}

fn double(text: &[u8]) -> Option<f64> {
    // Rust reads names of numbers, too.
    let starts = text
        .first()
        .is_some_and(|byte| matches!(byte, b'-' | b'0'..=b'9'));
    let text = std::str::from_utf8(text).ok().filter(|_| starts)?;
    text.parse().ok()
}

/// Seconds and nanoseconds; nothing for an absent time.
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

/// A time in the usual form, `2026-01-02T03:04:05Z`, which needs no general parser.
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
