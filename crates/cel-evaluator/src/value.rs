//! Values of expressions.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use cel::common::ast::LiteralValue;
use ipnet::IpNet;
use jiff::Timestamp;
use object_model::{Quantity, Semver};

use crate::error::EvaluationError;
use crate::url::Url;

/// A value of an expression. A copy shares the content.
#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    Timestamp(Time),
    List(Arc<List>),
    Map(Arc<Map>),
    Optional(Option<Arc<Value>>),
    /// A type, by its name.
    Type(Arc<str>),
    /// A constructed object.
    Object(Arc<Object>),
    Url(Arc<Url>),
    Address(IpAddr),
    Range(IpNet),
    Quantity(Quantity),
    Version(Arc<Semver>),
    Format(Format),
    /// A value of the caller.
    Extension(Arc<dyn Extension>),
}

/// A moment, and the offset of the time zone that it was written in.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    pub moment: Timestamp,
    pub offset_seconds: i32,
}

/// A named format, by its position in the list of formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format(pub(crate) usize);

/// A list, and how the schema of the list compares it.
#[derive(Clone, Debug, Default)]
pub struct List {
    pub items: Vec<Value>,
    pub kind: ListKind,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, Default)]
pub enum ListKind {
    #[default]
    Atomic,
    Set,
    /// The names of the fields that identify an element.
    Keyed(Arc<[Arc<str>]>),
}

/// A map.
pub type Map = BTreeMap<Key, Value>;

/// The key of a map. Whole numbers of both types are one key.
#[derive(Clone, Debug)]
pub enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(Arc<str>),
}

/// A constructed object: `Object.spec{replicas: 1}`.
#[derive(Clone, Debug)]
pub struct Object {
    pub name: Arc<str>,
    pub fields: BTreeMap<Arc<str>, Value>,
}

/// A value of the caller, with fields and member functions of its own.
pub trait Extension: Debug + Send + Sync {
    fn type_name(&self) -> &'static str;

    /// Whether there is such a field (`has`); its value is not evaluated.
    fn has_field(&self, _name: &str) -> bool {
        false
    }

    /// The value of a field; `None` if there is no such field.
    ///
    /// # Errors
    /// The field has no value.
    fn field(&self, _name: &str) -> Result<Option<Value>, EvaluationError> {
        Ok(None)
    }

    /// The result of a member function.
    ///
    /// # Errors
    /// There is no such function for these arguments, or it failed.
    fn call(&self, _function: &str, _arguments: &[Value]) -> Result<Value, EvaluationError> {
        Err(EvaluationError::NoOverload)
    }
}

impl Value {
    pub fn text(text: &str) -> Self {
        Self::String(Arc::from(text))
    }

    pub fn bytes(bytes: &[u8]) -> Self {
        Self::Bytes(Arc::from(bytes))
    }

    pub fn list(items: Vec<Value>) -> Self {
        let kind = ListKind::Atomic;
        Self::List(Arc::new(List { items, kind }))
    }

    pub fn map(map: Map) -> Self {
        Self::Map(Arc::new(map))
    }

    pub fn some(value: Value) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// The value of a literal in an expression.
    pub(crate) fn of_literal(literal: &LiteralValue) -> Self {
        match literal {
            LiteralValue::Boolean(value) => Self::Bool(*value.inner()),
            LiteralValue::Bytes(value) => Self::bytes(value.inner()),
            LiteralValue::Double(value) => Self::Double(*value.inner()),
            LiteralValue::Int(value) => Self::Int(*value.inner()),
            LiteralValue::Null => Self::Null,
            LiteralValue::String(value) => Self::text(value.inner()),
            LiteralValue::UInt(value) => Self::Uint(*value.inner()),
        }
    }

    /// The name of the type.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Object(object) => &object.name,
            Self::Url(_) => "kubernetes.URL",
            Self::Address(_) => "net.IP",
            Self::Range(_) => "net.CIDR",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Version(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Extension(value) => value.type_name(),
        }
    }

    /// The size by which costs are computed: characters, bytes, elements or entries; 1 for other values.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::String(text) => text.chars().count() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(list) => list.items.len() as u64,
            Self::Map(map) => map.len() as u64,
            Self::Address(address) => address_bytes(*address),
            Self::Range(range) => address_bytes(range.addr()),
            _ => 1,
        }
    }

    /// Whether the value is the zero value of its type; `optional.ofNonZeroValue` converts the zero value to an empty
    /// optional.
    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(flag) => !flag,
            Self::Int(number) => *number == 0,
            Self::Uint(number) => *number == 0,
            Self::Double(number) => *number == 0.0,
            Self::String(text) => text.is_empty(),
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Duration(nanoseconds) => *nanoseconds == 0,
            Self::List(list) => list.items.is_empty(),
            Self::Map(map) => map.is_empty(),
            Self::Optional(value) => value.as_ref().is_none_or(|value| value.is_zero()),
            Self::Object(object) => object.fields.is_empty(),
            _ => false,
        }
    }
}

fn address_bytes(address: IpAddr) -> u64 {
    if address.is_ipv4() { 4 } else { 16 }
}

impl Key {
    pub fn text(text: &str) -> Self {
        Self::String(Arc::from(text))
    }

    /// The key with this value; `None` if no key has such a value.
    pub(crate) fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Bool(flag) => Self::Bool(*flag),
            Value::Int(number) => Self::Int(*number),
            Value::Uint(number) => Self::Uint(*number),
            Value::Double(number) => whole_key(*number)?,
            Value::String(text) => Self::String(text.clone()),
            _ => return None,
        })
    }

    pub fn to_value(&self) -> Value {
        match self {
            Self::Bool(flag) => Value::Bool(*flag),
            Self::Int(number) => Value::Int(*number),
            Self::Uint(number) => Value::Uint(*number),
            Self::String(text) => Value::String(text.clone()),
        }
    }

    /// The key in a message.
    pub(crate) fn printed(&self) -> String {
        match self {
            Self::Bool(flag) => flag.to_string(),
            Self::Int(number) => number.to_string(),
            Self::Uint(number) => number.to_string(),
            Self::String(text) => text.to_string(),
        }
    }

    /// The number of a key that is a number.
    fn number(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some(i128::from(*number)),
            Self::Uint(number) => Some(i128::from(*number)),
            _ => None,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Bool(_) => 0,
            Self::Int(_) | Self::Uint(_) => 1,
            Self::String(_) => 2,
        }
    }
}

/// The key of a whole number; `None` for a fraction, and for a number that no integer has.
fn whole_key(number: f64) -> Option<Key> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if number.fract() != 0.0 {
        return None;
    }
    if (-LIMIT..LIMIT).contains(&number) {
        return Some(Key::Int(number as i64));
    }
    (LIMIT..LIMIT * 2.0)
        .contains(&number)
        .then_some(Key::Uint(number as u64))
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::String(one), Self::String(other)) => one.cmp(other),
            (Self::Bool(one), Self::Bool(other)) => one.cmp(other),
            _ => self
                .rank()
                .cmp(&other.rank())
                .then_with(|| self.number().cmp(&other.number())),
        }
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key {}
