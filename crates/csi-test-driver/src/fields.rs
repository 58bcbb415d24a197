//! A message as a list of numbered fields. Decoded apart from the product's messages, so that a wrong
//! number there is noticed.

use std::collections::BTreeMap;

use object_model::protobuf::{Reader, Wire, Writer};

/// The fields of a message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(Vec<(u32, Field)>);

#[derive(Clone, Debug)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Fields {
    /// `None` if the bytes are no message.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut fields = Vec::new();
        while let Some((number, wire)) = reader.field().ok()? {
            match wire {
                Wire::Varint(value) => fields.push((number, Field::Number(value))),
                Wire::Bytes(bytes) => fields.push((number, Field::Bytes(bytes.to_vec()))),
                Wire::Fixed64(_) | Wire::Fixed32 => return None,
            }
        }
        Some(Self(fields))
    }

    fn all(&self, number: u32) -> impl Iterator<Item = &Field> {
        let all = self.0.iter();
        all.filter(move |(own, _)| *own == number)
            .map(|(_, field)| field)
    }

    pub(crate) fn text(&self, number: u32) -> String {
        match self.all(number).last() {
            Some(Field::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        }
    }

    pub(crate) fn number(&self, number: u32) -> u64 {
        match self.all(number).last() {
            Some(Field::Number(value)) => *value,
            _ => 0,
        }
    }

    pub(crate) fn message(&self, number: u32) -> Option<Self> {
        match self.all(number).last() {
            Some(Field::Bytes(bytes)) => Self::read(bytes),
            _ => None,
        }
    }

    pub(crate) fn map(&self, number: u32) -> BTreeMap<String, String> {
        let entries = self.all(number).filter_map(|field| match field {
            Field::Bytes(bytes) => Self::read(bytes),
            Field::Number(_) => None,
        });
        entries
            .map(|entry| (entry.text(1), entry.text(2)))
            .collect()
    }
}

/// A message of texts, by the numbers of their fields.
pub(crate) fn texts(fields: &[(u32, &str)]) -> Vec<u8> {
    let mut out = Writer::default();
    for (number, text) in fields {
        out.bytes(number << 3 | 2, text.as_bytes());
    }
    out.0
}
