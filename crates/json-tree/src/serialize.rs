//! Serialisation: values to JSON text, and other types to values.

use std::fmt::Display;

use serde::ser::{self, Error as _, Serialize, Serializer};

use crate::{Error, Map, Value};

/// Converts a value of another type to a tree.
///
/// # Errors
/// A map has a key that is neither a text nor a number nor a boolean, or a type refuses to be serialised.
pub fn to_value<T: Serialize>(value: T) -> Result<Value, Error> {
    value.serialize(TreeSerializer)
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => number.serialize(serializer),
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(elements) => elements.serialize(serializer),
            Self::Object(members) => members.serialize(serializer),
        }
    }
}

impl<K: Serialize, V: Serialize> Serialize for Map<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (key, value) in self {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

struct TreeSerializer;

macro_rules! scalars {
    ($($function:ident($scalar:ty))+) => {$(
        #[inline]
        fn $function(self, value: $scalar) -> Result<Value, Error> {
            Ok(value.into())
        }
    )+};
}

impl Serializer for TreeSerializer {
    type Ok = Value;
    type Error = Error;
    type SerializeSeq = Elements;
    type SerializeTuple = Elements;
    type SerializeTupleStruct = Elements;
    type SerializeTupleVariant = Elements;
    type SerializeMap = Members;
    type SerializeStruct = Members;
    type SerializeStructVariant = Members;

    scalars! {
        serialize_bool(bool)
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64)
        serialize_f32(f32) serialize_f64(f64)
        serialize_str(&str) serialize_bytes(&[u8])
    }

    fn serialize_char(self, value: char) -> Result<Value, Error> {
        Ok(Value::String(value.into()))
    }

    fn serialize_none(self) -> Result<Value, Error> {
        Ok(Value::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value, Error> {
        Ok(Value::Null)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Value, Error> {
        Ok(Value::Null)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Value, Error> {
        Ok(variant.into())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Value, Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value, Error> {
        Ok(within(Some(variant), value.serialize(self)?))
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Elements, Error> {
        Ok(Elements::new(length.unwrap_or(0), None))
    }

    fn serialize_tuple(self, length: usize) -> Result<Elements, Error> {
        Ok(Elements::new(length, None))
    }

    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<Elements, Error> {
        Ok(Elements::new(length, None))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Elements, Error> {
        Ok(Elements::new(length, Some(variant)))
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Members, Error> {
        Ok(Members::new(length.unwrap_or(0), None))
    }

    fn serialize_struct(self, _: &'static str, length: usize) -> Result<Members, Error> {
        Ok(Members::new(length, None))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Members, Error> {
        Ok(Members::new(length, Some(variant)))
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<Value, Error> {
        Ok(Value::String(value.to_string()))
    }
}

/// The content of a variant of an enum, below the name of the variant.
fn within(variant: Option<&'static str>, content: Value) -> Value {
    match variant {
        Some(variant) => Value::from_iter([(variant, content)]),
        None => content,
    }
}

/// An incomplete array.
struct Elements {
    elements: Vec<Value>,
    variant: Option<&'static str>,
}

impl Elements {
    fn new(length: usize, variant: Option<&'static str>) -> Self {
        let elements = Vec::with_capacity(length);
        Self { elements, variant }
    }

    fn push<T: Serialize + ?Sized>(&mut self, element: &T) -> Result<(), Error> {
        self.elements.push(to_value(element)?);
        Ok(())
    }

    fn complete(self) -> Value {
        within(self.variant, Value::Array(self.elements))
    }
}

macro_rules! elements {
    ($($form:ident::$function:ident)+) => {$(
        impl ser::$form for Elements {
            type Ok = Value;
            type Error = Error;

            fn $function<T: Serialize + ?Sized>(&mut self, element: &T) -> Result<(), Error> {
                self.push(element)
            }

            fn end(self) -> Result<Value, Error> {
                Ok(self.complete())
            }
        }
    )+};
}

elements! {
    SerializeSeq::serialize_element
    SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field
    SerializeTupleVariant::serialize_field
}

/// An incomplete object.
struct Members {
    members: Map,
    /// The key whose value is next.
    key: String,
    variant: Option<&'static str>,
}

impl Members {
    fn new(length: usize, variant: Option<&'static str>) -> Self {
        Self {
            members: Map::with_capacity(length),
            key: String::new(),
            variant,
        }
    }

    fn insert<T: Serialize + ?Sized>(&mut self, key: String, value: &T) -> Result<(), Error> {
        self.members.insert(key, to_value(value)?);
        Ok(())
    }

    fn complete(self) -> Value {
        within(self.variant, Value::Object(self.members))
    }
}

impl ser::SerializeMap for Members {
    type Ok = Value;
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.key = match to_value(key)? {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            _ => return Err(Error::custom("key must be a string")),
        };
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let key = std::mem::take(&mut self.key);
        self.insert(key, value)
    }

    fn end(self) -> Result<Value, Error> {
        Ok(self.complete())
    }
}

macro_rules! members {
    ($($form:ident)+) => {$(
        impl ser::$form for Members {
            type Ok = Value;
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), Error> {
                self.insert(key.to_owned(), value)
            }

            fn end(self) -> Result<Value, Error> {
                Ok(self.complete())
            }
        }
    )+};
}

members!(SerializeStruct SerializeStructVariant);
