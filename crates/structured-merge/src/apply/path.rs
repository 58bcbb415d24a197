//! The steps from an object to one of its fields, in the form of managed fields.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::{self, Write as _};

use json_text::plain_length;
use json_tree::{Map, Number, Value};

use super::encode::FieldSetError;

/// One element of a path: a field, a key of a list, a value or an index. The order is that of managed fields.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PathElement<'a> {
    /// A field of an object, or an entry of a map.
    Field(Cow<'a, str>),
    /// The list element with these key fields, sorted by name.
    Key(Vec<(Cow<'a, str>, PathValue<'a>)>),
    /// The list element with this value.
    Value(PathValue<'a>),
    /// The list element at this index.
    Index(i64),
}

impl PathElement<'_> {
    /// A copy without borrowed data.
    pub fn into_owned(self) -> PathElement<'static> {
        match self {
            Self::Field(name) => PathElement::Field(Cow::Owned(name.into_owned())),
            Self::Key(fields) => PathElement::Key(
                fields
                    .into_iter()
                    .map(|(name, value)| (Cow::Owned(name.into_owned()), value.into_owned()))
                    .collect(),
            ),
            Self::Value(value) => PathElement::Value(value.into_owned()),
            Self::Index(index) => PathElement::Index(index),
        }
    }
}

/// Formats the step as upstream formats a path: `.spec.containers[name="a"].image`.
impl fmt::Display for PathElement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(fields) => {
                f.write_str("[")?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A value in a step. A whole number and a fraction of equal size are equal.
#[derive(Clone, Debug)]
pub(crate) enum PathValue<'a> {
    Number(Number),
    Text(Cow<'a, str>),
    Bool(bool),
    /// A value that is no key in any published type, but was sent by a client.
    Other(Box<Value>),
}

impl<'a> PathValue<'a> {
    pub fn from_value(value: &'a Value) -> Self {
        match value {
            Value::Number(number) => Self::Number(number.clone()),
            Value::String(text) => Self::Text(Cow::Borrowed(text)),
            Value::Bool(set) => Self::Bool(*set),
            value => Self::Other(Box::new(value.clone())),
        }
    }

    pub fn from_owned(value: Value) -> Self {
        match value {
            Value::Number(number) => Self::Number(number),
            Value::String(text) => Self::Text(Cow::Owned(text)),
            Value::Bool(set) => Self::Bool(set),
            other => Self::Other(Box::new(other)),
        }
    }

    fn into_owned(self) -> PathValue<'static> {
        match self {
            Self::Number(number) => PathValue::Number(number),
            Self::Text(text) => PathValue::Text(Cow::Owned(text.into_owned())),
            Self::Bool(set) => PathValue::Bool(set),
            Self::Other(value) => PathValue::Other(value),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Number(_) => 0,
            Self::Text(_) => 1,
            Self::Bool(_) => 2,
            Self::Other(_) => 3,
        }
    }
}

impl fmt::Display for PathValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(&Value::from(text.as_ref()).to_string()),
            Self::Bool(set) => write!(f, "{set}"),
            Self::Other(value) => write!(f, "{value}"),
        }
    }
}

impl Ord for PathValue<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(one), Self::Number(two)) => compare_numbers(one, two),
            (Self::Text(one), Self::Text(two)) => one.cmp(two),
            (Self::Bool(one), Self::Bool(two)) => one.cmp(two),
            (Self::Other(one), Self::Other(two)) => one.to_string().cmp(&two.to_string()),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for PathValue<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PathValue<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for PathValue<'_> {}

fn compare_numbers(one: &Number, two: &Number) -> Ordering {
    let whole = |number: &Number| {
        let signed = number.as_i64().map(i128::from);
        signed.or_else(|| number.as_u64().map(i128::from))
    };
    match (whole(one), whole(two)) {
        (Some(one), Some(two)) => one.cmp(&two),
        _ => {
            let float = |number: &Number| number.as_f64().unwrap_or(f64::NAN);
            // Adding zero makes both zeroes equal.
            (float(one) + 0.0).total_cmp(&(float(two) + 0.0))
        }
    }
}

/// Appends the step as a key of `fieldsV1`, which is a JSON string: `"f:spec"`,
/// `"k:{\"name\":\"a\"}"`, `"v:\"x\""`, `"i:0"`.
pub(crate) fn push_key(out: &mut String, step: &PathElement<'_>) {
    match step {
        PathElement::Field(name) => push_field(out, name),
        PathElement::Key(fields) if fields.iter().all(is_plain) => push_plain_key(out, fields),
        _ => push_text(out, &encode(step)),
    }
}

/// Whether the text of a key's field needs no escapes in a JSON string.
fn is_plain((name, value): &(Cow<'_, str>, PathValue<'_>)) -> bool {
    let is_plain = |text: &str| plain_length(text) == text.len();
    let has_plain_value = match value {
        PathValue::Text(text) => is_plain(text),
        PathValue::Number(_) | PathValue::Bool(_) => true,
        PathValue::Other(_) => false,
    };
    has_plain_value && is_plain(name)
}

/// Appends a key of plain fields, in which only the quotes need an escape. The text is written once, and not escaped
/// in a second pass.
fn push_plain_key(out: &mut String, fields: &[(Cow<'_, str>, PathValue<'_>)]) {
    out.push_str(r#""k:{"#);
    for (index, (name, value)) in fields.iter().enumerate() {
        out.push_str(if index == 0 { r#"\""# } else { r#",\""# });
        out.push_str(name);
        out.push_str(r#"\":"#);
        match value {
            PathValue::Text(text) => {
                out.push_str(r#"\""#);
                out.push_str(text);
                out.push_str(r#"\""#);
            }
            other => out.push_str(&other.to_string()),
        }
    }
    out.push_str(r#"}""#);
}

/// Appends the key of a step to a field.
pub(crate) fn push_field(out: &mut String, name: &str) {
    out.push_str("\"f:");
    push_content(out, name);
    out.push('"');
}

/// The step as a key of `fieldsV1`: `f:spec`, `k:{"name":"a"}`, `v:"x"`, `i:0`.
fn encode(step: &PathElement<'_>) -> String {
    match step {
        PathElement::Field(name) => ["f:", name].concat(),
        PathElement::Key(fields) => {
            let mut text = String::with_capacity(32);
            for (index, (name, value)) in fields.iter().enumerate() {
                text.push_str(if index == 0 { "k:{" } else { "," });
                push_text(&mut text, name);
                text.push(':');
                push_atom(&mut text, value);
            }
            if fields.is_empty() {
                text.push_str("k:{");
            }
            text.push('}');
            text
        }
        PathElement::Value(value) => {
            let mut text = String::from("v:");
            push_atom(&mut text, value);
            text
        }
        PathElement::Index(index) => format!("i:{index}"),
    }
}

fn push_atom(out: &mut String, atom: &PathValue<'_>) {
    match atom {
        PathValue::Text(text) => push_text(out, text),
        other => out.push_str(&other.to_string()),
    }
}

/// Appends a text as a JSON string.
pub(crate) fn push_text(out: &mut String, text: &str) {
    out.push('"');
    push_content(out, text);
    out.push('"');
}

/// Appends a text with the escapes of a JSON string, without quotes.
fn push_content(out: &mut String, text: &str) {
    let mut rest = text;
    loop {
        let (plain, behind) = rest.split_at(plain_length(rest));
        out.push_str(plain);
        let mut letters = behind.chars();
        let Some(letter) = letters.next() else { return };
        push_letter(out, letter);
        rest = letters.as_str();
    }
}

/// Appends a character with the escapes of `serde_json`.
fn push_letter(out: &mut String, letter: char) {
    let escape = match letter {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\u{8}' => "\\b",
        '\u{c}' => "\\f",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\0'..='\u{1f}' => {
            // Writing to a text never fails.
            let _ = write!(out, "\\u{:04x}", u32::from(letter));
            return;
        }
        _ => return out.push(letter),
    };
    out.push_str(escape);
}

/// Reads a key of `fieldsV1`; `None` for an unknown kind of step, which is skipped, as upstream does.
///
/// # Errors
/// The key is not a step.
pub(crate) fn decode(key: &str) -> Result<Option<PathElement<'_>>, FieldSetError> {
    let malformed = |error: serde_json::Error| FieldSetError::Key(error.to_string());
    let (kind, rest) = match key.as_bytes() {
        [kind, b':', ..] => (*kind, &key[2..]),
        _ => return Err(FieldSetError::NoColon(key.to_owned())),
    };
    let step = match kind {
        b'f' => PathElement::Field(Cow::Borrowed(rest)),
        b'k' => {
            let fields: Map<String, Value> = serde_json::from_str(rest).map_err(malformed)?;
            let mut fields: Vec<(Cow<'_, str>, PathValue<'_>)> = fields
                .into_iter()
                .map(|(name, value)| (Cow::Owned(name), PathValue::from_owned(value)))
                .collect();
            fields.sort_unstable();
            PathElement::Key(fields)
        }
        b'v' => {
            let value: Value = serde_json::from_str(rest).map_err(malformed)?;
            PathElement::Value(PathValue::from_owned(value))
        }
        b'i' => PathElement::Index(
            rest.parse()
                .map_err(|_| FieldSetError::NotNumber(rest.to_owned()))?,
        ),
        _ => return Ok(None),
    };
    Ok(Some(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_key_is_written_as_any_other() {
        let text = |text: &'static str| PathValue::Text(text.into());
        let number = |number: i64| PathValue::Number(number.into());
        for (fields, is_plain_key) in [
            (vec![("name", text("web"))], true),
            (
                vec![
                    ("a", text("")),
                    ("b", number(-80)),
                    ("c", PathValue::Bool(true)),
                ],
                true,
            ),
            (vec![("name", text("é"))], true),
            (vec![], true),
            (vec![("name", text("a\"b"))], false),
            (vec![("a\\", number(1))], false),
            (vec![("name", text("a\nb"))], false),
            (vec![("name", PathValue::Other(Box::default()))], false),
        ] {
            let fields = fields.into_iter();
            let fields: Vec<_> = fields.map(|(name, value)| (name.into(), value)).collect();
            assert_eq!(fields.iter().all(is_plain), is_plain_key);
            let step = PathElement::Key(fields);
            let (mut key, mut expected) = (String::new(), String::new());
            push_key(&mut key, &step);
            push_text(&mut expected, &encode(&step));
            assert_eq!(key, expected);
        }
    }
}
