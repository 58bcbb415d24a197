//! Trees of stored objects, with one table and one list of entries for each map: a map that grows
//! with its entries is allocated several times.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

/// The tree of a JSON text.
///
/// *Errors.* The text is not JSON, or is nested too deeply.
pub(super) fn tree(text: &str) -> Result<Value, serde_json::Error> {
    let open = Open::default();
    let mut source = serde_json::Deserializer::from_str(text);
    let value = Tree(&open).deserialize(&mut source)?;
    source.end()?;
    Ok(value)
}

/// The entries of the maps that are not complete, each behind those of the map around it.
type Open = RefCell<Vec<(String, Value)>>;

struct Tree<'o>(&'o Open);

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
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

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element_seed(Tree(self.0))? {
            list.push(element);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let first = self.0.borrow().len();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Tree(self.0))?;
            self.0.borrow_mut().push((key, value));
        }
        let map = self.0.borrow_mut().drain(first..).collect();
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_that_of_serde_json() {
        let deep = format!("{}1{}", "[".repeat(120), "]".repeat(120));
        for text in [
            "null",
            " {} ",
            r#"{"b":{"y":[1,-2,3.5,1e300,18446744073709551615],"x":{}},"a":{"b":{"c":"\u00e9\n"}},"c":[[],[{"a":null}],true]}"#,
            r#"{"a":1,"b":2,"a":3}"#,
            &deep,
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            let found = tree(text).unwrap();
            assert_eq!(found, expected);
            assert_eq!(found.to_string(), expected.to_string(), "the order");
        }
        let too_deep = "[".repeat(200);
        for text in ["", "{", "{} x", r#"{"a":1,}"#, "[1", "nul", &too_deep] {
            assert!(tree(text).is_err(), "{text:.10}");
        }
    }
}
