//! Trees of JSON text, built in one pass. The entries of each map are collected in one list, because a map that grows
//! entry by entry is allocated several times.

use std::ops::Range;

use json_tree::{Number, Value};

use crate::{Cursor, SyntaxError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldRead {
    /// The field's name in JSON.
    pub name: &'static str,
    /// The fields to read below this field, or below each element of a list; empty for the whole field.
    pub below: &'static [FieldRead],
}

/// The tree of a JSON text.
///
/// # Errors
/// The text is not JSON, or is nested too deeply.
pub fn tree(text: &str) -> Result<Value, SyntaxError> {
    Ok(partial_tree(text, &[], &[], None)?.tree)
}

/// A part of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct PartialTree {
    pub tree: Value,
    /// For each member that was read in part, its name and its range in the text.
    pub part_ranges: Vec<(&'static str, Range<usize>)>,
    /// The range of the omitted value in the text.
    pub left_out: Option<Range<usize>>,
}

/// Reads a part of an object. The top-level members in `reads` get only the fields that are listed there, and the value
/// at the path `without` is omitted. A caller that knows the range of the omitted value passes it, so that the value is
/// not even scanned.
///
/// # Errors
/// The errors of [`tree`]. Omitted fields may be nested to any depth, and are not validated.
pub fn partial_tree(
    text: &str,
    reads: &'static [FieldRead],
    without: &'static [&'static str],
    omitted_range_hint: Option<Range<usize>>,
) -> Result<PartialTree, SyntaxError> {
    let members = match reads {
        [] => Members::All,
        reads => Members::Parts(reads),
    };
    let mut reader = Reader {
        text,
        cursor: Cursor::new(text.as_bytes()),
        open: Vec::new(),
        part_ranges: Vec::new(),
        omitted_range_hint,
        left_out: None,
    };
    let tree = reader.value(Selection { members, without }, DEPTH_MAX)?;
    match reader.cursor.peek() {
        Ok(_) => Err(SyntaxError::Unexpected(reader.cursor.offset())),
        Err(_) => Ok(PartialTree {
            tree,
            part_ranges: reader.part_ranges,
            left_out: reader.left_out,
        }),
    }
}

/// The nesting limit of `serde_json`.
const DEPTH_MAX: usize = 127;

/// The parts of a value that the tree contains.
#[derive(Clone, Copy)]
struct Selection {
    members: Members,
    /// The path to the omitted value; empty if no value is omitted.
    without: &'static [&'static str],
}

/// The members of a map that the tree contains.
#[derive(Clone, Copy)]
enum Members {
    All,
    /// All members; the listed members only with some of their fields.
    Parts(&'static [FieldRead]),
    Only(&'static [FieldRead]),
}

impl Selection {
    /// The parts to read of the member with this name; `None` if the member is omitted.
    fn below(self, name: &str) -> Option<Self> {
        let without = match self.without.split_first() {
            Some((first, rest)) if *first == name => match rest {
                [] => return None,
                rest => rest,
            },
            _ => &[],
        };
        let (reads, others) = match self.members {
            Members::All => (&[][..], Some(Members::All)),
            Members::Parts(reads) => (reads, Some(Members::All)),
            Members::Only(reads) => (reads, None),
        };
        let read = reads.iter().find(|read| read.name == name);
        let members = read.map_or(others, |read| match read.below {
            [] => Some(Members::All),
            below => Some(Members::Only(below)),
        })?;
        Some(Self { members, without })
    }

    /// The name of the member, if only some of its fields are read.
    fn part(self, name: &str) -> Option<&'static str> {
        let Members::Parts(reads) = self.members else {
            return None;
        };
        let read = reads.iter().find(|read| read.name == name);
        read.map(|read| read.name)
    }
}

struct Reader<'t> {
    text: &'t str,
    cursor: Cursor<'t>,
    /// The entries of the incomplete maps. The entries of an inner map follow those of the outer map.
    open: Vec<(String, Value)>,
    part_ranges: Vec<(&'static str, Range<usize>)>,
    /// The range of the omitted value, if the caller has passed it.
    omitted_range_hint: Option<Range<usize>>,
    left_out: Option<Range<usize>>,
}

impl<'t> Reader<'t> {
    fn value(&mut self, selection: Selection, depth_left: usize) -> Result<Value, SyntaxError> {
        Ok(match self.cursor.peek()? {
            b'"' => Value::String(self.cursor.string()?.decode_in(self.text)?.into_owned()),
            b'{' | b'[' if depth_left == 0 => {
                return Err(SyntaxError::Unexpected(self.cursor.offset()));
            }
            b'{' => self.object(selection, depth_left - 1)?,
            b'[' => self.array(selection, depth_left - 1)?,
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
        // The usual case: a small whole number.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        if digits && (text.len() == 1 || (text.len() < 19 && !text.starts_with('0'))) {
            let add = |number: u64, digit: u8| number * 10 + u64::from(digit - b'0');
            return Ok(text.bytes().fold(0, add).into());
        }
        let at = self.cursor.offset() - text.len();
        serde_json::from_str(text).map_err(|_| SyntaxError::Unexpected(at))
    }

    fn array(&mut self, selection: Selection, depth_left: usize) -> Result<Value, SyntaxError> {
        let mut elements = self.cursor.array()?;
        let mut list = Vec::new();
        while elements.next(&mut self.cursor)? {
            list.push(self.value(selection, depth_left)?);
        }
        Ok(Value::Array(list))
    }

    fn object(&mut self, selection: Selection, depth_left: usize) -> Result<Value, SyntaxError> {
        let first = self.open.len();
        let mut members = self.cursor.object()?;
        while let Some(key) = members.next_key(&mut self.cursor)? {
            let name = key.decode_in(self.text)?;
            self.cursor.peek()?;
            let start = self.cursor.offset();
            let Some(below) = selection.below(&name) else {
                match &self.omitted_range_hint {
                    Some(range) if range.start == start => self.cursor.go_to(range.end),
                    _ => drop(self.cursor.skip()?),
                }
                if matches!(selection.without, [last] if *last == name) {
                    self.left_out = Some(start..self.cursor.offset());
                }
                continue;
            };
            let part = selection.part(&name);
            let name = name.into_owned();
            let value = self.value(below, depth_left)?;
            if let Some(part) = part {
                self.part_ranges.push((part, start..self.cursor.offset()));
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
            let result = tree(text).unwrap();
            assert_eq!(result, expected);
            assert_eq!(result.to_string(), expected.to_string(), "the order");
        }
        let too_deep = "[".repeat(200);
        assert!(partial_tree(&too_deep, &[], &[], None).is_err());
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
    fn a_value_is_left_out_at_its_place_alone() {
        let list = r#"[{"a":"]"}]"#;
        for (text, expected) in [
            (
                format!(r#"{{"m":{{"x":1,"f":{list}}},"s":{{"m":{{"f":2}},"f":3}}}}"#),
                r#"{"m":{"x":1},"s":{"m":{"f":2},"f":3}}"#,
            ),
            (
                format!(r#"{{"f":1,"m": {{"f": {list} ,"x":{{"f":1}}}}}}"#),
                r#"{"f":1,"m":{"x":{"f":1}}}"#,
            ),
        ] {
            let result = partial_tree(&text, &[], &["m", "f"], None).unwrap();
            assert_eq!(result.tree.to_string(), expected);
            let range = result.left_out.clone();
            assert_eq!(&text[range.clone().unwrap()], list);
            // A value in a range that the caller passes is not read.
            assert_eq!(partial_tree(&text, &[], &["m", "f"], range), Ok(result));
            let elsewhere = Some(0..text.len());
            let again = partial_tree(&text, &[], &["m", "f"], elsewhere).unwrap();
            assert_eq!(again.tree.to_string(), expected);
        }
        for text in [r#"{"m":{"x":1},"f":2}"#, r#"{"m":[],"f":2}"#, "1"] {
            let result = partial_tree(text, &[], &["m", "f"], None).unwrap();
            assert_eq!(result.tree.to_string(), text);
            assert_eq!(result.left_out, None);
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
        let PartialTree {
            tree: found,
            part_ranges,
            ..
        } = partial_tree(text, READS, &[], None).unwrap();
        assert_eq!(found.to_string(), expected);
        let parts = part_ranges
            .iter()
            .map(|(name, range)| (*name, &text[range.clone()]));
        let parts: Vec<_> = parts.collect();
        assert_eq!((parts[0].0, parts[1]), ("spec", ("status", "\"x\"")));
        assert!(parts[0].1.starts_with(r#"{"b":{"a":1}"#) && parts[0].1.ends_with("4]}"));
        assert_eq!(
            partial_tree(text, &[], &[], None).unwrap().tree,
            tree(text).unwrap()
        );
        for text in [r#"{"spec":{"a":{"b":}}}"#, r#"{"spec":{"b":[}}"#] {
            assert!(partial_tree(text, READS, &[], None).is_err());
        }
    }
}
