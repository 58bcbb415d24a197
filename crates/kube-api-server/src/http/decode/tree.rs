//! A JSON tree from any format, within limits on depth and size, with the duplicate fields.

use std::cell::{Cell, RefCell};
use std::fmt;

use json_tree::{Map, Number, Value};
use openapi_documents::ValuePath;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::http::limits::DEPTH_MAX;

/// Maximum number of recorded duplicate fields.
const DUPLICATES_MAX: usize = 20;

/// The duplicate fields and the number of decoded values.
pub(super) struct DecodeFindings {
    duplicates: RefCell<Vec<String>>,
    nodes: Cell<usize>,
    nodes_max: usize,
}

impl DecodeFindings {
    /// `nodes_max` is the maximum number of values in the tree.
    pub(super) fn new(nodes_max: usize) -> Self {
        Self {
            duplicates: RefCell::default(),
            nodes: Cell::default(),
            nodes_max,
        }
    }

    pub(super) fn duplicates(self) -> Vec<String> {
        self.duplicates.into_inner()
    }
}

/// Decodes the JSON value at one path of the tree.
pub(super) struct Seed<'p> {
    notes: &'p DecodeFindings,
    path: ValuePath<'p>,
    depth: usize,
}

impl<'p> Seed<'p> {
    pub(super) fn root(notes: &'p DecodeFindings) -> Self {
        Self {
            notes,
            path: ValuePath::Root,
            depth: 0,
        }
    }

    fn child<'c>(&'c self, path: ValuePath<'c>) -> Seed<'c> {
        Seed {
            notes: self.notes,
            path,
            depth: self.depth + 1,
        }
    }

    fn count<E: Error>(&self) -> Result<(), E> {
        let nodes = self.notes.nodes.get() + 1;
        self.notes.nodes.set(nodes);
        let max = self.notes.nodes_max;
        if nodes > max {
            return Err(E::custom(format!("more than {max} values")));
        }
        if self.depth > DEPTH_MAX {
            return Err(E::custom(format!("nested more than {DEPTH_MAX} deep")));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        self.count()?;
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value);
        number
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that JSON does not have"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = ValuePath::Element(&self.path, list.len());
            match elements.next_element_seed(self.child(path))? {
                Some(element) => list.push(element),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.is_empty() {
                // Most objects have few fields; a map that grows step by step is slower.
                map = Map::with_capacity(FIELDS_LIKELY);
            }
            let path = ValuePath::Field(&self.path, &key);
            if map.contains_key(&key) {
                let mut duplicates = self.notes.duplicates.borrow_mut();
                let path = path.to_string();
                if duplicates.len() < DUPLICATES_MAX && !duplicates.contains(&path) {
                    duplicates.push(path);
                }
            }
            let value = entries.next_value_seed(self.child(path))?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Capacity of a new object, in fields.
const FIELDS_LIKELY: usize = 4;
