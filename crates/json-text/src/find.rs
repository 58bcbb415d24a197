//! Search for the value at a path of member names.

use std::borrow::Cow;
use std::ops::Range;

use crate::{Cursor, SyntaxError};

/// The position of a member in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The index at which the object with the member starts.
    pub within: usize,
    /// The member with its key and one adjacent comma. The text without this range is still an object.
    pub whole: Range<usize>,
    /// The bytes of the value.
    pub value: Range<usize>,
}

/// The text of the value at a path of member names, starting at the outermost object; `None` if there is no such value.
/// If several members have the same name, the first one counts.
///
/// # Errors
/// If the text in front of the value is not JSON.
pub fn find<'t>(text: &'t [u8], path: &[&str]) -> Result<Option<&'t [u8]>, SyntaxError> {
    let mut cursor = Cursor::new(text);
    if !go_to(&mut cursor, path)? {
        return Ok(None);
    }
    let value = cursor.skip()?;
    // A number at the end of the text may be truncated.
    if !path.is_empty() {
        cursor.peek()?;
    }
    Ok(Some(value))
}

/// The index at which the value at a path of member names begins; `None` if there is no such value.
///
/// # Errors
/// If the text in front of the value is not JSON.
pub fn find_start(text: &[u8], path: &[&str]) -> Result<Option<usize>, SyntaxError> {
    let mut cursor = Cursor::new(text);
    if !go_to(&mut cursor, path)? {
        return Ok(None);
    }
    cursor.peek()?;
    Ok(Some(cursor.offset()))
}

/// The string at a path of member names; `None` if there is no such value, or if it is not a string.
///
/// # Errors
/// If the text in front of the value is not JSON, or the string is invalid.
pub fn find_string<'t>(text: &'t [u8], path: &[&str]) -> Result<Option<Cow<'t, str>>, SyntaxError> {
    let mut cursor = Cursor::new(text);
    if !go_to(&mut cursor, path)? || cursor.peek()? != b'"' {
        return Ok(None);
    }
    cursor.string()?.decode().map(Some)
}

/// The position of the last member of a path; `None` if there is no such member, or if the path is empty.
///
/// # Errors
/// If the text in front of the member's end is not JSON.
pub fn find_member(text: &[u8], path: &[&str]) -> Result<Option<Member>, SyntaxError> {
    let Some((name, parents)) = path.split_last() else {
        return Ok(None);
    };
    let mut cursor = Cursor::new(text);
    if !go_to(&mut cursor, parents)? || cursor.peek()? != b'{' {
        return Ok(None);
    }
    let within = cursor.offset();
    let mut members = cursor.object()?;
    // The end of the previous member.
    let mut before = None;
    while members.next(&mut cursor)? {
        cursor.peek()?;
        let first = cursor.offset();
        let key = cursor.key()?;
        cursor.peek()?;
        let value = cursor.offset();
        cursor.skip()?;
        let value = value..cursor.offset();
        if key.is(name) {
            let comma = cursor.peek()? == b',';
            let whole = match before {
                Some(comma_before) => comma_before..value.end,
                None if comma => first..cursor.offset() + 1,
                None => first..value.end,
            };
            return Ok(Some(Member {
                within,
                whole,
                value,
            }));
        }
        before = Some(value.end);
    }
    Ok(None)
}

/// Moves to the value at a path. Returns whether the value exists.
#[inline]
fn go_to(cursor: &mut Cursor<'_>, path: &[&str]) -> Result<bool, SyntaxError> {
    for name in path {
        if cursor.peek()? != b'{' || !go_to_member(cursor, name)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn go_to_member(cursor: &mut Cursor<'_>, name: &str) -> Result<bool, SyntaxError> {
    let mut members = cursor.object()?;
    while let Some(key) = members.next_key(cursor)? {
        if key.is(name) {
            return Ok(true);
        }
        cursor.skip()?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &str = r#" { "a" : {"b":"}\"]{", "c":[1,[2]]} , "d":-1.5e3,"e":null, "f" : "x\\",
        "\u0067": {"h": true}, "a": 2 } "#;

    #[test]
    fn a_value_is_found_among_others() {
        let value = |path: &[&str]| {
            let result = find(OBJECT.as_bytes(), path).unwrap();
            result.map(|value| std::str::from_utf8(value).unwrap())
        };
        assert_eq!(value(&["a"]), Some(r#"{"b":"}\"]{", "c":[1,[2]]}"#));
        assert_eq!(value(&["a", "c"]), Some("[1,[2]]"));
        assert_eq!(value(&["d"]), Some("-1.5e3"));
        assert_eq!(value(&["e"]), Some("null"));
        assert_eq!(value(&["f"]), Some(r#""x\\""#));
        assert_eq!(value(&["g", "h"]), Some("true"));
        assert_eq!(value(&["b"]), None);
        assert_eq!(value(&["d", "x"]), None);
        assert_eq!(value(&[]), Some(OBJECT.trim()));
        assert_eq!(find(b"null", &["a"]), Ok(None));
        let start = |path: &[&str]| find_start(OBJECT.as_bytes(), path).unwrap();
        assert_eq!(
            start(&["a", "c"]).map(|at| &OBJECT[at..at + 3]),
            Some("[1,")
        );
        assert_eq!((start(&[]), start(&["d", "x"])), (Some(1), None));
    }

    #[test]
    fn a_string_is_found_without_escapes() {
        let string = |path: &[&str]| find_string(OBJECT.as_bytes(), path);
        assert_eq!(string(&["a", "b"]).unwrap().unwrap(), "}\"]{");
        assert_eq!(string(&["f"]).unwrap().unwrap(), "x\\");
        assert_eq!(string(&["d"]), Ok(None));
        assert_eq!(string(&["x"]), Ok(None));
        let bad = br#"{"a":{"b":"\x"}}"#;
        assert_eq!(find_string(bad, &["a", "b"]), Err(SyntaxError::String(11)));
    }

    #[test]
    fn a_member_is_cut_out_with_one_comma() {
        let without = |text: &str, path: &[&str]| {
            let member = find_member(text.as_bytes(), path).unwrap()?;
            let mut text = text.to_owned();
            assert_eq!(text.as_bytes()[member.within], b'{');
            text.replace_range(member.whole, "");
            Some(text)
        };
        let cut = |text: &str| without(text, &["m"]).unwrap();
        assert_eq!(cut(r#"{"m":1}"#), "{}");
        assert_eq!(cut(r#"{"m":1,"a":2}"#), r#"{"a":2}"#);
        assert_eq!(cut(r#"{"a":2,"m":1}"#), r#"{"a":2}"#);
        assert_eq!(cut(r#"{"a":2,"m":[1],"b":3}"#), r#"{"a":2,"b":3}"#);
        assert_eq!(cut(r#"{ "m" : 1 , "a" : 2 }"#), r#"{  "a" : 2 }"#);
        assert_eq!(
            without(r#"{"a":{"m":1},"b":0}"#, &["a", "m"]).unwrap(),
            r#"{"a":{},"b":0}"#
        );
        assert_eq!(without(r#"{"a":[1]}"#, &["a", "m"]), None);
        assert_eq!(without(r#"{"a":1}"#, &[]), None);
    }

    #[test]
    fn errors_are_counted_from_the_start_of_the_text() {
        use SyntaxError::{End, Unexpected};
        assert_eq!(find(br#"{"a":{"b" 1}}"#, &["a", "b"]), Err(Unexpected(10)));
        assert_eq!(find(br#"{"a":{"b":12"#, &["a", "b"]), Err(End(12)));
        assert_eq!(find(br#"{"a":{"c":12}"#, &["b"]), Err(End(13)));
        assert_eq!(find(b"", &["a"]), Err(End(0)));
        for text in [
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":}",
            "{a:1}",
            "{]",
            "{\"a\" 1}",
        ] {
            assert!(find(text.as_bytes(), &["a"]).is_err(), "{text}");
            assert!(find_member(text.as_bytes(), &["a"]).is_err(), "{text}");
        }
    }
}
