//! The type of JSON values.

use std::fmt::{self, Debug, Display, Formatter};
use std::io;

use crate::Number;
use crate::index::Index;
use crate::map::OrderedMap;

/// The members of a JSON object in the order of insertion.
pub type Map<K = String, V = Value> = OrderedMap<K, V>;

/// The map of a JSON object. Maps of other types come from [`Default`].
impl OrderedMap<String, Value> {
    /// An empty map.
    #[inline]
    pub const fn new() -> Self {
        Self::empty()
    }

    /// An empty map with space for entries.
    #[inline]
    pub fn with_capacity(capacity: usize) -> Self {
        Self::with_space(capacity)
    }
}

/// A value of JSON.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Value>),
    Object(Map),
}

impl Value {
    /// The element or the member at an index; `None` also if the value has another type.
    #[inline]
    pub fn get(&self, index: impl Index) -> Option<&Value> {
        index.get(self)
    }

    #[inline]
    pub fn get_mut(&mut self, index: impl Index) -> Option<&mut Value> {
        index.get_mut(self)
    }

    #[inline]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    #[inline]
    pub fn is_boolean(&self) -> bool {
        matches!(self, Self::Bool(_))
    }

    #[inline]
    pub fn is_number(&self) -> bool {
        matches!(self, Self::Number(_))
    }

    /// Whether the value is a number that an `i64` can represent.
    pub fn is_i64(&self) -> bool {
        self.as_number().is_some_and(Number::is_i64)
    }

    /// Whether the value is a number that a `u64` can represent.
    pub fn is_u64(&self) -> bool {
        self.as_number().is_some_and(Number::is_u64)
    }

    /// Whether the value is a number with a fraction or an exponent.
    pub fn is_f64(&self) -> bool {
        self.as_number().is_some_and(Number::is_f64)
    }

    #[inline]
    pub fn is_string(&self) -> bool {
        matches!(self, Self::String(_))
    }

    #[inline]
    pub fn is_array(&self) -> bool {
        matches!(self, Self::Array(_))
    }

    #[inline]
    pub fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    #[inline]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    #[inline]
    pub fn as_number(&self) -> Option<&Number> {
        match self {
            Self::Number(number) => Some(number),
            _ => None,
        }
    }

    pub fn as_i64(&self) -> Option<i64> {
        self.as_number()?.as_i64()
    }

    pub fn as_u64(&self) -> Option<u64> {
        self.as_number()?.as_u64()
    }

    /// The number, rounded if it is a large integer.
    pub fn as_f64(&self) -> Option<f64> {
        self.as_number()?.as_f64()
    }

    #[inline]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    #[inline]
    pub fn as_array(&self) -> Option<&Vec<Value>> {
        match self {
            Self::Array(elements) => Some(elements),
            _ => None,
        }
    }

    #[inline]
    pub fn as_array_mut(&mut self) -> Option<&mut Vec<Value>> {
        match self {
            Self::Array(elements) => Some(elements),
            _ => None,
        }
    }

    #[inline]
    pub fn as_object(&self) -> Option<&Map> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    #[inline]
    pub fn as_object_mut(&mut self) -> Option<&mut Map> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The value at a JSON pointer (RFC 6901).
    pub fn pointer(&self, pointer: &str) -> Option<&Value> {
        let mut value = self;
        for token in reference_tokens(pointer)? {
            value = match value {
                Self::Object(members) => match unescaped(token) {
                    Some(key) => members.get(&key)?,
                    None => members.get(token)?,
                },
                Self::Array(elements) => elements.get(offset(token)?)?,
                _ => return None,
            };
        }
        Some(value)
    }

    pub fn pointer_mut(&mut self, pointer: &str) -> Option<&mut Value> {
        let mut value = self;
        for token in reference_tokens(pointer)? {
            value = match value {
                Self::Object(members) => match unescaped(token) {
                    Some(key) => members.get_mut(&key)?,
                    None => members.get_mut(token)?,
                },
                Self::Array(elements) => elements.get_mut(offset(token)?)?,
                _ => return None,
            };
        }
        Some(value)
    }

    /// Replaces the value by null, and returns it.
    #[inline]
    pub fn take(&mut self) -> Value {
        std::mem::take(self)
    }
}

/// The tokens of a JSON pointer; `None` if it is not a pointer.
fn reference_tokens(pointer: &str) -> Option<impl Iterator<Item = &str>> {
    let mut tokens = pointer.split('/');
    // The empty pointer is the whole value.
    (tokens.next() == Some("")).then_some(tokens)
}

/// The key of a token; `None` if the token has no escapes.
fn unescaped(token: &str) -> Option<String> {
    let has_escapes = token.contains('~');
    has_escapes.then(|| token.replace("~1", "/").replace("~0", "~"))
}

/// The offset of a token in a list. A sign and a leading zero are not allowed.
fn offset(token: &str) -> Option<usize> {
    match token.as_bytes() {
        [b'+', ..] | [b'0', _, ..] => None,
        _ => token.parse().ok(),
    }
}

impl Debug for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Bool(value) => write!(f, "Bool({value})"),
            Self::Number(number) => write!(f, "Number({number})"),
            Self::String(text) => write!(f, "String({text:?})"),
            Self::Array(elements) => {
                f.write_str("Array ")?;
                elements.fmt(f)
            }
            Self::Object(members) => {
                f.write_str("Object ")?;
                members.fmt(f)
            }
        }
    }
}

/// JSON without white space; with indentation in the alternate form (`{:#}`).
impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let pretty = f.alternate();
        let text = Utf8Writer(f);
        let result = match pretty {
            true => serde_json::to_writer_pretty(text, self),
            false => serde_json::to_writer(text, self),
        };
        result.map_err(|_| fmt::Error)
    }
}

/// Passes the output of the JSON writer on, which is always valid UTF-8.
struct Utf8Writer<'a, 'b>(&'a mut Formatter<'b>);

impl io::Write for Utf8Writer<'_, '_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let error = |_| io::Error::from(io::ErrorKind::InvalidData);
        let characters = std::str::from_utf8(text).map_err(error)?;
        self.0.write_str(characters).map_err(io::Error::other)?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
