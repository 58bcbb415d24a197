//! The messages of the API, prepared for writing: every field with its tag, in written order. A hash table finds a
//! field by its JSON name.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use resource_kinds::api_types::{ApiTypes, Shape, Structure, ValueType};

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

    /// The tag of a field that has a value of this kind.
    pub(super) const fn tag(self, number: u32) -> u32 {
        number << 3 | self.wire()
    }
}

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    /// Field number and wire type; for a map, those of an entry.
    pub(super) tag: u32,
    pub(super) kind: ValueKind,
    pub(super) shape: Shape,
}

/// A part of a message, in written order.
#[derive(Clone, Copy, Debug)]
pub(super) enum MessagePart {
    Field(Field),
    /// An embedded message. The parts after it, up to `end`, belong to it. In JSON they are members of the outer
    /// object.
    Embedded {
        tag: u32,
        end: usize,
    },
}

/// A set of parts of a message, by their indices. No message has more than 64 parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PartSet(u64);

impl PartSet {
    #[inline]
    pub(super) fn insert(&mut self, part: usize) {
        self.0 |= 1 << part;
    }

    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Removes and returns the first part.
    #[inline]
    pub(super) fn take_first(&mut self) -> Option<usize> {
        let first = self.0.trailing_zeros() as usize;
        let rest = self.0 & self.0.wrapping_sub(1);
        let has_part = !self.is_empty();
        self.0 = rest;
        has_part.then_some(first)
    }

    /// Removes and returns the parts before an index.
    pub(super) fn take_before(&mut self, end: usize) -> Self {
        let before = 1_u64
            .checked_shl(end as u32)
            .map_or(u64::MAX, |bit| bit - 1);
        let removed = Self(self.0 & before);
        self.0 &= !before;
        removed
    }
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) parts: Vec<MessagePart>,
    /// The embedded messages. They are written even if none of their fields is present.
    pub(super) embedded: PartSet,
    /// The index of the first slot of the message. A message has one slot for the start of an object, and one slot
    /// for each part.
    pub(super) slot: usize,
    names: Names,
}

impl Message {
    #[inline]
    pub(super) fn field(&self, part: usize) -> Option<&Field> {
        match self.parts.get(part)? {
            MessagePart::Field(field) => Some(field),
            MessagePart::Embedded { .. } => None,
        }
    }

    /// The index and the field for a JSON name.
    pub(super) fn named(&self, name: &[u8]) -> Option<(usize, &Field)> {
        let part = self.names.find(name)?;
        Some((part, self.field(part)?))
    }
}

/// The messages of all kinds that have a protobuf form.
#[derive(Debug)]
pub(super) struct Messages {
    all: Vec<Message>,
    by_name: BTreeMap<&'static str, usize>,
    /// The number of slots of all messages.
    pub(super) slots: usize,
}

impl Messages {
    /// The messages of the served version; built at the first call.
    pub(super) fn published() -> &'static Self {
        static MESSAGES: OnceLock<Messages> = OnceLock::new();
        MESSAGES.get_or_init(|| Self::of(ApiTypes::published()))
    }

    fn of(types: &ApiTypes) -> Self {
        let by_name: BTreeMap<_, _> = types.names().zip(0..).collect();
        let structures = types.names().filter_map(|name| types.structure(name));
        let (mut all, mut slots) = (Vec::new(), 0);
        for structure in structures {
            let (mut parts, mut names) = (Vec::new(), Vec::new());
            add_parts(types, structure, &mut parts, &mut names);
            let mut embedded = PartSet::default();
            for (index, part) in parts.iter().enumerate() {
                if matches!(part, MessagePart::Embedded { .. }) {
                    embedded.insert(index);
                }
            }
            let slot = slots;
            slots += parts.len() + 1;
            all.push(Message {
                parts,
                embedded,
                slot,
                names: Names::new(&names),
            });
        }
        Self {
            all,
            by_name,
            slots,
        }
    }

    pub(super) fn of_kind(&self, api_version: &str, kind: &str) -> Option<usize> {
        let structure = ApiTypes::published().of_kind(api_version, kind)?;
        self.by_name.get(structure.name).copied()
    }

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
            // The messages have the order of the table.
            ValueType::Structure(index) => ValueKind::Message(index),
        };
        let tag = match field.shape {
            Shape::Map => ValueKind::Message(0).tag(field.number),
            Shape::One | Shape::List => kind.tag(field.number),
        };
        names.push((field.json, parts.len()));
        parts.push(MessagePart::Field(Field {
            name: field.json,
            tag,
            kind,
            shape: field.shape,
        }));
    }
}

/// A perfect hash of the field names of a message: each name has its own slot, so that one comparison finds the
/// field.
#[derive(Debug)]
struct Names {
    seed: u64,
    /// The number of unused bits of a hash.
    shift: u32,
    slots: Vec<(&'static str, usize)>,
}

impl Names {
    /// Searches for a seed of the hash that gives each name a slot of its own; without such a seed the table is enlarged.
    fn new(names: &[(&'static str, usize)]) -> Self {
        /// The number of seeds for one size of the table; a message usually needs a few of them.
        const TRIES: u64 = 500;
        let mut bits = names.len().next_power_of_two().trailing_zeros() + 1;
        loop {
            let shift = u64::BITS - bits;
            let seeds = (1..TRIES).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let placed = |seed| Some((seed, Self::placed(names, seed, shift)?));
            if let Some((seed, slots)) = seeds.clone().find_map(placed) {
                return Self { seed, shift, slots };
            }
            bits += 1;
        }
    }

    fn placed(
        names: &[(&'static str, usize)],
        seed: u64,
        shift: u32,
    ) -> Option<Vec<(&'static str, usize)>> {
        let mut slots = vec![("", 0); 1 << (u64::BITS - shift)];
        for (name, part) in names {
            let slot = slots.get_mut(hash(name.as_bytes(), seed, shift))?;
            if !slot.0.is_empty() {
                return None;
            }
            *slot = (name, *part);
        }
        Some(slots)
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        let (candidate, part) = self.slots.get(hash(name, self.seed, self.shift))?;
        (candidate.as_bytes() == name && !name.is_empty()).then_some(*part)
    }
}

/// The first and the last eight bytes distinguish all field names of a message.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_a_set_of_its_parts() {
        let messages = Messages::published();
        let most = messages.all.iter().map(|message| message.parts.len()).max();
        assert!(most.is_some_and(|most| most <= 64), "{most:?}");
        for message in &messages.all {
            for (index, part) in message.parts.iter().enumerate() {
                if let MessagePart::Field(field) = part {
                    let named = message.named(field.name.as_bytes());
                    assert_eq!(named.map(|(part, _)| part), Some(index), "{}", field.name);
                }
            }
        }
    }

    #[test]
    fn parts_are_taken_in_order() {
        let mut set = PartSet::default();
        for part in [63, 0, 5, 7, 5] {
            set.insert(part);
        }
        assert_eq!(set.take_first(), Some(0));
        let mut before = set.take_before(7);
        assert_eq!([before.take_first(), before.take_first()], [Some(5), None]);
        let mut rest = set.take_before(64);
        assert_eq!(
            [rest.take_first(), rest.take_first(), rest.take_first()],
            [Some(7), Some(63), None]
        );
        assert!(set.is_empty());
    }
}
