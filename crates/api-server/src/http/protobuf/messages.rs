//! The messages of the API, prepared for writing: every field with its tag, in written order, and found by
//! its JSON name in one step.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use resource_kinds::api_types::{ApiTypes, Shape, Structure, ValueType};

/// The form of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueKind {
    Text,
    Bytes,
    Int,
    Bool,
    Double,
    Time,
    Duration,
    Quantity,
    Items,
    IntOrString,
    Raw,
    /// The index of a message.
    Message(usize),
}

impl ValueKind {
    /// The wire type of the value.
    const fn wire(self) -> u32 {
        match self {
            Self::Int | Self::Bool => 0,
            Self::Double => 1,
            _ => 2,
        }
    }

    /// The tag of a field with such a value.
    pub(super) const fn tag(self, number: u32) -> u32 {
        number << 3 | self.wire()
    }
}

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    /// Number and wire type; those of an entry for a map.
    pub(super) tag: u32,
    pub(super) kind: ValueKind,
    pub(super) shape: Shape,
}

/// A part of a message, in written order.
#[derive(Clone, Copy, Debug)]
pub(super) enum MessagePart {
    Field(Field),
    /// An embedded message. The parts after it, up to `end`, are its own; in JSON they are members of
    /// the outer object.
    Embedded {
        tag: u32,
        end: usize,
    },
}

/// A message of the API.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) parts: Vec<MessagePart>,
    pub(super) has_embedded: bool,
    names: Names,
}

impl Message {
    /// The index and the field of a JSON name.
    pub(super) fn named(&self, name: &[u8]) -> Option<(usize, &Field)> {
        let part = self.names.find(name)?;
        match self.parts.get(part)? {
            MessagePart::Field(field) => Some((part, field)),
            MessagePart::Embedded { .. } => None,
        }
    }
}

/// All messages.
#[derive(Debug)]
pub(super) struct Messages {
    all: Vec<Message>,
    by_name: BTreeMap<&'static str, usize>,
}

impl Messages {
    /// The messages of the served version; prepared at the first call.
    pub(super) fn published() -> &'static Self {
        static MESSAGES: OnceLock<Messages> = OnceLock::new();
        MESSAGES.get_or_init(|| Self::of(ApiTypes::published()))
    }

    fn of(types: &ApiTypes) -> Self {
        let by_name: BTreeMap<_, _> = types.names().zip(0..).collect();
        let structures = types.names().filter_map(|name| types.structure(name));
        let all = structures.map(|structure| {
            let (mut parts, mut names) = (Vec::new(), Vec::new());
            add_parts(types, structure, &mut parts, &mut names);
            let names = Names::new(&names);
            let has_embedded = parts
                .iter()
                .any(|part| matches!(part, MessagePart::Embedded { .. }));
            Message {
                parts,
                has_embedded,
                names,
            }
        });
        Self {
            all: all.collect(),
            by_name,
        }
    }

    /// The index of the message of a kind.
    pub(super) fn of_kind(&self, api_version: &str, kind: &str) -> Option<usize> {
        let name = ApiTypes::published().of_kind(api_version, kind)?;
        self.by_name.get(name).copied()
    }

    /// The index of a message of the table.
    pub(super) fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, index: usize) -> &Message {
        &self.all[index]
    }
}

fn add_parts(
    types: &ApiTypes,
    structure: &Structure,
    parts: &mut Vec<MessagePart>,
    names: &mut Vec<(&'static str, usize)>,
) {
    for field in &structure.fields {
        let embedded = types.of_value(field.value);
        if let Some(embedded) = embedded.filter(|_| field.json.is_empty()) {
            let start = parts.len();
            let tag = ValueKind::Message(0).tag(field.number);
            parts.push(MessagePart::Embedded { tag, end: 0 });
            add_parts(types, embedded, parts, names);
            let end = parts.len();
            parts[start] = MessagePart::Embedded { tag, end };
            continue;
        }
        let kind = match field.value {
            ValueType::String => ValueKind::Text,
            ValueType::Bytes => ValueKind::Bytes,
            ValueType::Int32 | ValueType::Int64 => ValueKind::Int,
            ValueType::Bool => ValueKind::Bool,
            ValueType::Double => ValueKind::Double,
            ValueType::Time | ValueType::MicroTime => ValueKind::Time,
            ValueType::Duration => ValueKind::Duration,
            ValueType::Quantity => ValueKind::Quantity,
            ValueType::Items => ValueKind::Items,
            ValueType::IntOrString => ValueKind::IntOrString,
            ValueType::Raw => ValueKind::Raw,
            // Messages have the order of the table.
            ValueType::Structure(index) => ValueKind::Message(index),
        };
        let tag = match field.shape {
            Shape::Map => ValueKind::Message(0).tag(field.number),
            Shape::One | Shape::List => kind.tag(field.number),
        };
        names.push((field.json, parts.len()));
        parts.push(MessagePart::Field(Field {
            tag,
            kind,
            shape: field.shape,
        }));
    }
}

/// A perfect hash of a message's names: each has a place of its own, so that one comparison finds it.
#[derive(Debug)]
struct Names {
    seed: u64,
    /// The unused bits of a hash.
    shift: u32,
    places: Vec<(&'static str, usize)>,
}

impl Names {
    /// Searches for a seed without collisions, in a larger table if there is none.
    fn new(names: &[(&'static str, usize)]) -> Self {
        /// Odd seeds are tried in this order; a message needs a few.
        const TRIES: u64 = 500;
        let mut bits = names.len().next_power_of_two().trailing_zeros() + 1;
        loop {
            let shift = u64::BITS - bits;
            let seeds = (1..TRIES).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let placed = |seed| Some((seed, Self::placed(names, seed, shift)?));
            if let Some((seed, places)) = seeds.clone().find_map(placed) {
                return Self {
                    seed,
                    shift,
                    places,
                };
            }
            bits += 1;
        }
    }

    fn placed(
        names: &[(&'static str, usize)],
        seed: u64,
        shift: u32,
    ) -> Option<Vec<(&'static str, usize)>> {
        let mut places = vec![("", 0); 1 << (u64::BITS - shift)];
        for (name, part) in names {
            let place = places.get_mut(hash(name.as_bytes(), seed, shift))?;
            if !place.0.is_empty() {
                return None;
            }
            *place = (name, *part);
        }
        Some(places)
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        let (found, part) = self.places.get(hash(name, self.seed, self.shift))?;
        (found.as_bytes() == name && !name.is_empty()).then_some(*part)
    }
}

/// The first and the last eight bytes tell the names of a message apart.
fn hash(name: &[u8], seed: u64, shift: u32) -> usize {
    let (first, last) = match (name.first_chunk(), name.last_chunk()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => (
            name.iter()
                .fold(0, |word, byte| word << 8 | u64::from(*byte)),
            0,
        ),
    };
    let mixed = (first ^ last.rotate_left(25)).wrapping_add(name.len() as u64);
    let mixed = mixed ^ mixed >> 32;
    (mixed.wrapping_mul(seed) >> shift) as usize
}
