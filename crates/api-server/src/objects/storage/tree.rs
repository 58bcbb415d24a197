//! Trees of stored objects, read from their text in one walk. Each map has one list of entries: a map that grows
//! with its entries is allocated several times.

use std::ops::Range;

use json_text::{Cursor, SyntaxError};
use resource_kinds::FieldRead;
use serde_json::{Number, Value};

/// The tree of a JSON text.
///
/// *Errors.* The text is not JSON, or is nested too deeply.
pub(super) fn tree(text: &str) -> Result<Value, SyntaxError> {
    Ok(decode(text, Wanted::All)?.0)
}

/// The places of members in the text of their object, by name.
pub(super) type Places = Vec<(&'static str, Range<usize>)>;

/// Decodes a part of an object: the outermost members that `reads` names have only the fields that are named
/// there. Returns the places of these members, too.
///
/// *Errors.* As of [`tree`]. The other fields may be nested to any depth, and their text is not checked.
pub(super) fn partial_tree(
    text: &str,
    reads: &'static [FieldRead],
) -> Result<(Value, Places), SyntaxError> {
    decode(text, Wanted::Parts(reads))
}

fn decode(text: &str, wanted: Wanted) -> Result<(Value, Places), SyntaxError> {
    let mut reader = Reader {
        cursor: Cursor::new(text.as_bytes()),
        open: Vec::new(),
        places: Vec::new(),
    };
    let value = reader.value(wanted, DEPTH_MAX)?;
    match reader.cursor.peek() {
        Ok(_) => Err(SyntaxError::Unexpected(reader.cursor.offset())),
        Err(_) => Ok((value, reader.places)),
    }
}

/// The depth that `serde_json` reads, too.
const DEPTH_MAX: usize = 127;

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

    /// The member, if it is a part of which some fields are wanted.
    fn part(self, name: &str) -> Option<&'static str> {
        let Self::Parts(reads) = self else {
            return None;
        };
        let read = reads.iter().find(|read| read.name == name);
        read.map(|read| read.name)
    }
}

struct Reader<'t> {
    cursor: Cursor<'t>,
    /// The entries of the maps that are not complete, each behind those of the map around it.
    open: Vec<(String, Value)>,
    places: Places,
}

impl Reader<'_> {
    fn value(&mut self, wanted: Wanted, depth_left: usize) -> Result<Value, SyntaxError> {
        Ok(match self.cursor.peek()? {
            b'"' => Value::String(self.cursor.string()?.decode()?.into_owned()),
            b'{' | b'[' if depth_left == 0 => {
                return Err(SyntaxError::Unexpected(self.cursor.offset()));
            }
            b'{' => self.object(wanted, depth_left - 1)?,
            b'[' => self.array(wanted, depth_left - 1)?,
            b't' | b'f' => Value::Bool(self.cursor.bool()?),
            b'n' => {
                self.cursor.null()?;
                Value::Null
            }
            _ => Value::Number(self.number()?),
        })
    }

    fn number(&mut self) -> Result<Number, SyntaxError> {
        let text = self.cursor.number()?;
        // Nearly all numbers are small and whole.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        if digits && (text.len() == 1 || (text.len() < 19 && !text.starts_with('0'))) {
            let add = |number: u64, digit: u8| number * 10 + u64::from(digit - b'0');
            return Ok(text.bytes().fold(0, add).into());
        }
        let at = self.cursor.offset() - text.len();
        serde_json::from_str(text).map_err(|_| SyntaxError::Unexpected(at))
    }

    fn array(&mut self, wanted: Wanted, depth_left: usize) -> Result<Value, SyntaxError> {
        let mut elements = self.cursor.array()?;
        let mut list = Vec::new();
        while elements.next(&mut self.cursor)? {
            list.push(self.value(wanted, depth_left)?);
        }
        Ok(Value::Array(list))
    }

    fn object(&mut self, wanted: Wanted, depth_left: usize) -> Result<Value, SyntaxError> {
        let first = self.open.len();
        let mut members = self.cursor.object()?;
        while let Some(key) = members.next_key(&mut self.cursor)? {
            let name = key.decode()?;
            let Some(below) = wanted.of(&name) else {
                self.cursor.skip()?;
                continue;
            };
            let part = wanted.part(&name);
            let name = name.into_owned();
            self.cursor.peek()?;
            let start = self.cursor.offset();
            let value = self.value(below, depth_left)?;
            if let Some(part) = part {
                self.places.push((part, start..self.cursor.offset()));
            }
            self.open.push((name, value));
        }
        Ok(Value::Object(self.open.drain(first..).collect()))
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
            "[0,10,-0,-7,0.10,1e2,999999999999999999,9999999999999999999,99999999999999999999]",
            &deep,
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            let found = tree(text).unwrap();
            assert_eq!(found, expected);
            assert_eq!(found.to_string(), expected.to_string(), "the order");
        }
        let too_deep = "[".repeat(200);
        assert!(partial_tree(&too_deep, &[]).is_err());
        for text in [
            "",
            "{",
            "{} x",
            r#"{"a":1,}"#,
            "[1",
            "nul",
            "01",
            "-",
            "1x",
            &too_deep,
        ] {
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
        let (found, places) = partial_tree(text, READS).unwrap();
        assert_eq!(found.to_string(), expected);
        let parts = places
            .iter()
            .map(|(name, place)| (*name, &text[place.clone()]));
        let parts: Vec<_> = parts.collect();
        assert_eq!((parts[0].0, parts[1]), ("spec", ("status", "\"x\"")));
        assert!(parts[0].1.starts_with(r#"{"b":{"a":1}"#) && parts[0].1.ends_with("4]}"));
        assert_eq!(partial_tree(text, &[]).unwrap().0, tree(text).unwrap());
        for text in [r#"{"spec":{"a":{"b":}}}"#, r#"{"spec":{"b":[}}"#] {
            assert!(partial_tree(text, READS).is_err());
        }
    }
}
