//! `format` of texts, version 1 of cel-go's formatting, whose numbers are those of American English.

use std::fmt::Write;
use std::sync::Arc;

use super::conversions::printed;
use crate::call::{FunctionResult, failed, no_overload};
use crate::error::EvaluationError;
use crate::meter::Meter;
use crate::value::{Key, Value};

/// The digits after the point without a precision.
const DEFAULT_PRECISION: usize = 6;
/// Maximum number of computed digits after the point: all further digits of any number are zero.
const PRECISION_MAX: usize = 1_100;

pub(super) fn format(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    let [Value::String(source), Value::List(list)] = arguments else {
        return no_overload();
    };
    let mut result = String::with_capacity(source.len());
    let mut values = list.items.iter().enumerate();
    let mut rest: &str = source;
    while let Some(at) = rest.find('%') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            result.push('%');
            rest = after;
            continue;
        }
        let index = list.items.len();
        let value = values.next().map(|(_, value)| value);
        let value = value.ok_or_else(|| failed(format!("index {index} out of range")))?;
        let (clause, after) = clause(rest)?;
        let text = clause.apply(value)?;
        meter.work(text.len())?;
        result.push_str(&text);
        rest = after;
    }
    result.push_str(rest);
    meter.work(result.len())?;
    Ok(Value::String(Arc::from(result)))
}

struct Clause {
    letter: char,
    precision: usize,
}

/// The clause after a `%`, and the text after the clause.
fn clause(text: &str) -> Result<(Clause, &str), EvaluationError> {
    let wrong = |why: String| failed(format!("could not parse formatting clause: {why}"));
    let (precision, rest) = match text.strip_prefix('.') {
        None => (DEFAULT_PRECISION, text),
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit());
            let end = end.ok_or_else(|| {
                wrong(
                    "error while parsing precision: could not find end of precision specifier"
                        .to_owned(),
                )
            })?;
            let precision: usize = rest[..end].parse().map_err(|_| {
                wrong("error while parsing precision: the precision is no number".to_owned())
            })?;
            (precision.min(PRECISION_MAX), &rest[end..])
        }
    };
    let letter = rest.chars().next();
    let letter = letter.ok_or_else(|| failed("unexpected end of string"))?;
    if !"sdfebxXo".contains(letter) {
        return Err(wrong(format!(
            "unrecognized formatting clause \"{letter}\""
        )));
    }
    Ok((Clause { letter, precision }, &rest[letter.len_utf8()..]))
}

impl Clause {
    fn apply(&self, value: &Value) -> Result<String, EvaluationError> {
        let result = match self.letter {
            's' => plain(value),
            'd' => whole(value).ok_or("decimal clause can only be used on integers"),
            'f' => double(value)
                .map(|number| fixed(number, self.precision))
                .ok_or("fixed-point clause can only be used on doubles"),
            'e' => double(value)
                .map(|number| scientific(number, self.precision))
                .ok_or("scientific clause can only be used on doubles"),
            'b' => match value {
                Value::Bool(flag) => Ok(u8::from(*flag).to_string()),
                value => in_base(value, 2, false)
                    .ok_or("only integers and bools can be formatted as binary"),
            },
            'o' => in_base(value, 8, false).ok_or("octal clause can only be used on integers"),
            letter => hexadecimal(value, letter == 'X')
                .ok_or("only integers, byte buffers, and strings can be formatted as hex"),
        };
        result.map_err(|why| {
            let given = value.type_name();
            failed(format!("error during formatting: {why}, was given {given}"))
        })
    }
}

/// `%s`.
fn plain(value: &Value) -> Result<String, &'static str> {
    const WHY: &str = "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, \
                       durations, and timestamps";
    match value {
        Value::Null => Ok("null".to_owned()),
        Value::Type(name) => Ok(name.to_string()),
        Value::Bytes(bytes) => Ok(String::from_utf8_lossy(bytes).into_owned()),
        Value::List(_) | Value::Map(_) => nested(value),
        value => printed(value).ok_or(WHY),
    }
}

/// A value inside of a list or a map, as a literal of an expression.
fn nested(value: &Value) -> Result<String, &'static str> {
    Ok(match value {
        Value::String(text) => quoted(text),
        Value::Bytes(bytes) => format!("b{}", quoted(&String::from_utf8_lossy(bytes))),
        Value::Double(number) if number.is_finite() => format!("{number:.DEFAULT_PRECISION$}"),
        Value::Double(_) => quoted(&plain(value)?),
        Value::Timestamp(_) => format!("timestamp({})", quoted(&plain(value)?)),
        Value::Duration(_) => format!("duration({})", quoted(&plain(value)?)),
        Value::List(list) => {
            let items: Result<Vec<String>, _> = list.items.iter().map(nested).collect();
            format!("[{}]", items?.join(", "))
        }
        Value::Map(map) => {
            let mut entries = Vec::with_capacity(map.len());
            for (key, value) in map.iter() {
                let key = match key {
                    Key::String(text) => quoted(text),
                    other => other.printed(),
                };
                entries.push((key, nested(value)?));
            }
            entries.sort();
            let entries: Vec<String> = entries
                .into_iter()
                .map(|(key, value)| format!("{key}:{value}"))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        value => plain(value)?,
    })
}

fn whole(value: &Value) -> Option<String> {
    match value {
        Value::Int(number) => Some(number.to_string()),
        Value::Uint(number) => Some(number.to_string()),
        _ => None,
    }
}

fn double(value: &Value) -> Option<f64> {
    match value {
        Value::Double(number) => Some(*number),
        Value::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// The spelling of a number that is not finite.
fn special(number: f64) -> Option<String> {
    if number.is_nan() {
        return Some("NaN".to_owned());
    }
    let text = if number > 0.0 { "∞" } else { "-∞" };
    number.is_infinite().then(|| text.to_owned())
}

fn fixed(number: f64, precision: usize) -> String {
    special(number).unwrap_or_else(|| grouped(&format!("{number:.precision$}")))
}

/// A decimal number with a comma after each three digits before the point.
fn grouped(text: &str) -> String {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut result = sign.to_owned();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            result.push(',');
        }
        result.push(digit);
    }
    if !fraction.is_empty() {
        result.push('.');
        result.push_str(fraction);
    }
    result
}

/// `1.052033 × 10⁰³`.
fn scientific(number: f64, precision: usize) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    if let Some(special) = special(number) {
        return special;
    }
    let text = format!("{number:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ("⁻", exponent),
        None => ("", exponent),
    };
    let raised: String = format!("{exponent:0>2}")
        .chars()
        .filter_map(|digit| DIGITS.get(digit.to_digit(10)? as usize))
        .collect();
    format!("{mantissa}\u{202f}×\u{202f}10{sign}{raised}")
}

fn in_base(value: &Value, base: u32, is_upper: bool) -> Option<String> {
    let (sign, number) = match value {
        Value::Int(number) if *number < 0 => ("-", number.unsigned_abs()),
        Value::Int(number) => ("", number.unsigned_abs()),
        Value::Uint(number) => ("", *number),
        _ => return None,
    };
    Some(match (base, is_upper) {
        (2, _) => format!("{sign}{number:b}"),
        (8, _) => format!("{sign}{number:o}"),
        (_, true) => format!("{sign}{number:X}"),
        (_, false) => format!("{sign}{number:x}"),
    })
}

fn hexadecimal(value: &Value, is_upper: bool) -> Option<String> {
    let bytes = match value {
        Value::String(text) => text.as_bytes(),
        Value::Bytes(bytes) => bytes,
        other => return in_base(other, 16, is_upper),
    };
    let mut result = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let written = match is_upper {
            true => write!(result, "{byte:02X}"),
            false => write!(result, "{byte:02x}"),
        };
        debug_assert!(written.is_ok());
    }
    Some(result)
}

/// A text as a literal of an expression.
pub(super) fn quoted(text: &str) -> String {
    let mut result = String::with_capacity(text.len() + 2);
    result.push('"');
    for letter in text.chars() {
        match letter {
            '\u{7}' => result.push_str("\\a"),
            '\u{8}' => result.push_str("\\b"),
            '\u{c}' => result.push_str("\\f"),
            '\n' => result.push_str("\\n"),
            '\r' => result.push_str("\\r"),
            '\t' => result.push_str("\\t"),
            '\u{b}' => result.push_str("\\v"),
            '\\' => result.push_str("\\\\"),
            '"' => result.push_str("\\\""),
            letter => result.push(letter),
        }
    }
    result.push('"');
    result
}
