//! A schema of a definition as JSON. A value of another type than that of its field counts as absent, because the
//! decoder of definitions refuses such a value.

use json_tree::{Map, Value};

/// One schema inside of an `openAPIV3Schema`.
#[derive(Clone, Copy)]
pub(crate) struct Node<'s> {
    map: &'s Map,
}

/// `additionalProperties`.
#[derive(Clone, Copy)]
pub(crate) enum Additional<'s> {
    Bool(bool),
    Schema(Node<'s>),
}

/// The schema for JSON null.
static EMPTY: Map = Map::new();

impl<'s> Node<'s> {
    /// `None` if the value is neither an object nor null.
    pub(crate) fn new(value: &'s Value) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self { map }),
            Value::Null => Some(Self { map: &EMPTY }),
            _ => None,
        }
    }

    pub(crate) fn map(self) -> &'s Map {
        self.map
    }

    /// The value of a keyword; `None` if it is absent or null.
    pub(crate) fn get(self, name: &str) -> Option<&'s Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A text; empty if it is absent.
    pub(crate) fn text(self, name: &str) -> &'s str {
        self.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn flag(self, name: &str) -> bool {
        self.get(name) == Some(&Value::Bool(true))
    }

    /// The elements of a list; none if it is absent.
    pub(crate) fn list(self, name: &str) -> &'s [Value] {
        let list = self.get(name).and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    }

    pub(crate) fn texts(self, name: &str) -> impl Iterator<Item = &'s str> + use<'s> {
        self.list(name).iter().filter_map(Value::as_str)
    }

    /// A single schema, such as `items` or `not`.
    pub(crate) fn part(self, name: &str) -> Option<Self> {
        let value = self.get(name).filter(|value| value.is_object())?;
        Self::new(value)
    }

    /// A list of schemas, such as `allOf`.
    pub(crate) fn parts(self, name: &str) -> impl Iterator<Item = Self> + use<'s> {
        self.list(name).iter().filter_map(Self::new)
    }

    /// A map of schemas, such as `properties`.
    pub(crate) fn entries(self, name: &str) -> impl Iterator<Item = (&'s str, Self)> + use<'s> {
        let map = self.get(name).and_then(Value::as_object);
        let entries = map.into_iter().flatten();
        entries.filter_map(|(name, value)| Some((name.as_str(), Self::new(value)?)))
    }

    /// A schema of `properties`.
    pub(crate) fn property(self, name: &str) -> Option<Self> {
        Self::new(self.get("properties")?.as_object()?.get(name)?)
    }

    pub(crate) fn has_properties(self) -> bool {
        let map = self.get("properties").and_then(Value::as_object);
        map.is_some_and(|map| !map.is_empty())
    }

    pub(crate) fn additional(self) -> Option<Additional<'s>> {
        match self.get("additionalProperties")? {
            Value::Bool(allowed) => Some(Additional::Bool(*allowed)),
            value @ Value::Object(_) => Self::new(value).map(Additional::Schema),
            _ => None,
        }
    }

    /// The schema of `additionalProperties`; `None` if it is absent or a boolean.
    pub(crate) fn additional_schema(self) -> Option<Self> {
        match self.additional()? {
            Additional::Schema(node) => Some(node),
            Additional::Bool(_) => None,
        }
    }
}
