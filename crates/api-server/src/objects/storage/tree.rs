//! Trees of stored objects, with one table and one list of entries for each map: a map that grows
//! with its entries is allocated several times.

use std::cell::RefCell;
use std::fmt;

use resource_kinds::FieldRead;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

/// The tree of a JSON text.
///
/// *Errors.* The text is not JSON, or is nested too deeply.
pub(super) fn tree(text: &str) -> Result<Value, serde_json::Error> {
    decode(text, Wanted::All)
}

/// Decodes a part of an object: the outermost members that `reads` names have only the fields that are named
/// there.
///
/// *Errors.* As of [`tree`]. The other fields may be nested to any depth.
pub(super) fn partial_tree(
    text: &str,
    reads: &'static [FieldRead],
) -> Result<Value, serde_json::Error> {
    decode(text, Wanted::Parts(reads))
}

fn decode(text: &str, wanted: Wanted) -> Result<Value, serde_json::Error> {
    let open = Open::default();
    let mut source = serde_json::Deserializer::from_str(text);
    let tree = Tree {
        open: &open,
        wanted,
    };
    let value = tree.deserialize(&mut source)?;
    source.end()?;
    Ok(value)
}

/// The members of a map that its tree is to have.
#[derive(Clone, Copy)]
enum Wanted {
    All,
    /// All, but some fields only of those that are named.
    Parts(&'static [FieldRead]),
    Only(&'static [FieldRead]),
}

impl Wanted {
    /// The wanted members of a member; `None` if it is not wanted itself.
    fn of(self, name: &str) -> Option<Self> {
        let (reads, others) = match self {
            Self::All => return Some(Self::All),
            Self::Parts(reads) => (reads, Some(Self::All)),
            Self::Only(reads) => (reads, None),
        };
        let read = reads.iter().find(|read| read.name == name);
        read.map_or(others, |read| match read.below {
            [] => Some(Self::All),
            below => Some(Self::Only(below)),
        })
    }
}

/// The entries of the maps that are not complete, each behind those of the map around it.
type Open = RefCell<Vec<(String, Value)>>;

#[derive(Clone, Copy)]
struct Tree<'o> {
    open: &'o Open,
    wanted: Wanted,
}

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
        while let Some(element) = elements.next_element_seed(self)? {
            list.push(element);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let first = self.open.borrow().len();
        while let Some(key) = entries.next_key_seed(Key(self.wanted))? {
            let Some((key, wanted)) = key else {
                entries.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = entries.next_value_seed(Tree { wanted, ..self })?;
            self.open.borrow_mut().push((key, value));
        }
        let map = self.open.borrow_mut().drain(first..).collect();
        Ok(Value::Object(map))
    }
}

/// The key of a member, if that is wanted, and the members of it that are wanted.
struct Key(Wanted);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<(String, Wanted)>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Self::Value, D::Error> {
        source.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<(String, Wanted)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.of(name).map(|wanted| (name.to_owned(), wanted)))
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
        assert!(partial_tree(&too_deep, &[]).is_err());
        for text in ["", "{", "{} x", r#"{"a":1,}"#, "[1", "nul", &too_deep] {
            assert!(tree(text).is_err(), "{text:.10}");
        }
    }

    #[test]
    fn a_part_has_the_fields_that_are_read() {
        const A: FieldRead = FieldRead {
            name: "a",
            below: &[],
        };
        const READS: &[FieldRead] = &[
            FieldRead {
                name: "spec",
                below: &[
                    A,
                    FieldRead {
                        name: "list",
                        below: &[A],
                    },
                ],
            },
            FieldRead {
                name: "status",
                below: &[A],
            },
        ];
        let text = r#"{"kind":"K","metadata":{"b":1,"a":{"b":2}},"spec":{"b":{"a":1},"a":{"b":[2]},
            "list":[{"b":"\u00e9","a":"\u00e9"},{"c":3},4]},"status":"x","other":{"a":1,"b":2}}"#;
        let expected = r#"{"kind":"K","metadata":{"b":1,"a":{"b":2}},"spec":{"a":{"b":[2]},"list":[{"a":"é"},{},4]},"status":"x","other":{"a":1,"b":2}}"#;
        assert_eq!(partial_tree(text, READS).unwrap().to_string(), expected);
        assert_eq!(partial_tree(text, &[]).unwrap(), tree(text).unwrap());
        for text in [r#"{"spec":{"b":{"a":}}}"#, r#"{"spec":{"b":[}}"#] {
            assert!(partial_tree(text, READS).is_err());
        }
    }
}
