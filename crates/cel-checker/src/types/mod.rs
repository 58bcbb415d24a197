//! Types of expressions.

mod unification;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub(crate) use unification::{Substitutions, most_general};

/// The name of the type of optional values.
const OPTIONAL: &str = "optional_type";

/// The type of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Any value; operations on it are checked at evaluation.
    Dyn,
    /// The type of an expression with an error.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    /// A simple type, or null.
    Wrapper(Arc<Type>),
    List(Arc<Type>),
    /// The types of the keys and of the values.
    Map(Arc<Type>, Arc<Type>),
    /// An object with named fields.
    Object(Arc<ObjectType>),
    /// A type of which only the name and the type arguments are visible, for instance `optional_type(int)`.
    Opaque(Arc<str>, Vec<Type>),
    /// The type of a type: `type(int)`.
    Type(Option<Arc<Type>>),
    /// A variable for a type.
    Parameter(Arc<str>),
}

/// An object type. Two object types with the same name are equal.
#[derive(Clone, Debug)]
pub struct ObjectType {
    pub name: Arc<str>,
    pub fields: Fields,
}

/// The fields of an object type.
#[derive(Clone, Debug)]
pub enum Fields {
    /// The object has functions, but no fields.
    Hidden,
    Known(BTreeMap<String, Type>),
}

impl PartialEq for ObjectType {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Type {
    pub fn list(element: Type) -> Self {
        Self::List(Arc::new(element))
    }

    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new(key), Arc::new(value))
    }

    pub fn optional(value: Type) -> Self {
        Self::Opaque(Arc::from(OPTIONAL), vec![value])
    }

    pub fn wrapper(simple: Type) -> Self {
        Self::Wrapper(Arc::new(simple))
    }

    pub fn type_of(of: Type) -> Self {
        Self::Type(Some(Arc::new(of)))
    }

    pub fn parameter(name: &str) -> Self {
        Self::Parameter(Arc::from(name))
    }

    /// An object type with these fields.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (String, Type)>) -> Self {
        Self::Object(Arc::new(ObjectType {
            name: Arc::from(name),
            fields: Fields::Known(fields.into_iter().collect()),
        }))
    }

    /// An object type without visible fields.
    pub fn sealed(name: &str) -> Self {
        Self::Object(Arc::new(ObjectType {
            name: Arc::from(name),
            fields: Fields::Hidden,
        }))
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// The value type of an optional type.
    pub(crate) fn optional_value(&self) -> Option<&Type> {
        match self {
            Self::Opaque(name, parameters) if &**name == OPTIONAL => parameters.first(),
            _ => None,
        }
    }

    /// The simple type of a wrapper; the type itself otherwise.
    fn unwrapped(&self) -> &Type {
        match self {
            Self::Wrapper(simple) => simple,
            other => other,
        }
    }

    /// Whether null is a value of the type.
    fn is_nullable(&self) -> bool {
        matches!(
            self,
            Self::Null
                | Self::Wrapper(_)
                | Self::Opaque(..)
                | Self::Object(_)
                | Self::Duration
                | Self::Timestamp
        )
    }

    /// The parameter types of the type.
    fn parameters(&self) -> Vec<&Type> {
        match self {
            Self::List(element) => vec![element],
            Self::Map(key, value) => vec![key, value],
            Self::Opaque(_, parameters) => parameters.iter().collect(),
            Self::Type(of) => of.as_deref().into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// The type with each of its immediate parameters replaced.
    pub(crate) fn with_parameters(&self, mut replace: impl FnMut(&Type) -> Type) -> Type {
        match self {
            Self::List(element) => Self::list(replace(element)),
            Self::Map(key, value) => Self::map(replace(key), replace(value)),
            Self::Opaque(name, parameters) => {
                Self::Opaque(name.clone(), parameters.iter().map(replace).collect())
            }
            Self::Type(Some(of)) => Self::type_of(replace(of)),
            other => other.clone(),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Dyn => "dyn",
            Self::Error => "!error!",
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Duration => "duration",
            Self::Timestamp => "timestamp",
            Self::Wrapper(simple) => return write!(f, "wrapper({simple})"),
            Self::List(element) => return write!(f, "list({element})"),
            Self::Map(key, value) => return write!(f, "map({key}, {value})"),
            Self::Object(object) => &object.name,
            Self::Opaque(name, parameters) if parameters.is_empty() => name,
            Self::Opaque(name, parameters) => {
                return write!(f, "{name}({})", Commas(parameters));
            }
            Self::Type(None) => "type",
            Self::Type(Some(of)) => return write!(f, "type({of})"),
            Self::Parameter(name) => name,
        };
        f.write_str(name)
    }
}

/// Types as a list in a message.
pub(crate) struct Commas<'t>(pub(crate) &'t [Type]);

impl fmt::Display for Commas<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{part}")?;
        }
        Ok(())
    }
}
