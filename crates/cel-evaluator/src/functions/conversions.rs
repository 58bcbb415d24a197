//! Conversions between types, and the functions of each value.

use std::sync::Arc;

use super::times;
use crate::call::Style::{Both, Global};
use crate::call::{FunctionResult, Table, failed, no_overload, nominal, reading};
use crate::error::EvaluationError;
use crate::meter::Meter;
use crate::value::Value;

pub(super) const TABLE: Table = &[
    ("bool", Global, to_bool, nominal),
    ("bytes", Global, to_bytes, text_cost),
    ("double", Global, to_double, nominal),
    ("duration", Global, times::to_duration, nominal),
    ("dyn", Global, identity, nominal),
    ("int", Global, to_int, nominal),
    ("string", Global, to_text, bytes_cost),
    ("timestamp", Global, times::to_timestamp, nominal),
    ("type", Global, type_of, nominal),
    ("uint", Global, to_uint, nominal),
    ("size", Both, size, nominal),
];

pub(super) fn is_conversion(name: &str) -> bool {
    const CONVERSIONS: [&str; 9] = [
        "bool",
        "bytes",
        "double",
        "duration",
        "dyn",
        "int",
        "string",
        "timestamp",
        "uint",
    ];
    CONVERSIONS.contains(&name)
}

/// A text is read as a whole.
fn text_cost(arguments: &[Value], result: Option<&Value>) -> u64 {
    match arguments {
        [Value::String(_)] => reading(arguments, result),
        _ => 1,
    }
}

/// Bytes are read as a whole.
fn bytes_cost(arguments: &[Value], result: Option<&Value>) -> u64 {
    match arguments {
        [Value::Bytes(_)] => reading(arguments, result),
        _ => 1,
    }
}

fn identity(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [value] => Ok(value.clone()),
        _ => no_overload(),
    }
}

fn type_of(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [value] => Ok(Value::Type(Arc::from(value.type_name()))),
        _ => no_overload(),
    }
}

fn size(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [value @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_))] => {
            if let Value::String(text) = value {
                meter.work(text.len() / 16)?;
            }
            Ok(Value::Int(i64::try_from(value.size()).unwrap_or(i64::MAX)))
        }
        _ => no_overload(),
    }
}

fn conversion_error(value: &Value, to: &str) -> EvaluationError {
    failed(format!(
        "type conversion error from '{}' to '{to}'",
        value.type_name()
    ))
}

fn to_bool(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Bool(flag)] => Ok(Value::Bool(*flag)),
        [value @ Value::String(text)] => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => Err(conversion_error(value, "bool")),
        },
        _ => no_overload(),
    }
}

fn to_bytes(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Bytes(bytes)] => Ok(Value::Bytes(bytes.clone())),
        [Value::String(text)] => {
            meter.work(text.len())?;
            Ok(Value::bytes(text.as_bytes()))
        }
        _ => no_overload(),
    }
}

fn to_double(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Double(number)] => Ok(Value::Double(*number)),
        [Value::Int(number)] => Ok(Value::Double(*number as f64)),
        [Value::Uint(number)] => Ok(Value::Double(*number as f64)),
        [value @ Value::String(text)] => parsed_double(text)
            .map(Value::Double)
            .ok_or_else(|| conversion_error(value, "double")),
        _ => no_overload(),
    }
}

/// The number in a text; the spellings of infinity and of what is no number are those of Go.
fn parsed_double(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned.to_ascii_lowercase().as_str() {
        "inf" | "infinity" if text.starts_with('-') => return Some(f64::NEG_INFINITY),
        "inf" | "infinity" => return Some(f64::INFINITY),
        "nan" if unsigned.len() == text.len() => return Some(f64::NAN),
        _ => {}
    }
    let parsed: f64 = text.parse().ok()?;
    parsed.is_finite().then_some(parsed)
}

fn to_int(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    match arguments {
        [Value::Int(number) | Value::Duration(number)] => Ok(Value::Int(*number)),
        [Value::Uint(number)] => i64::try_from(*number)
            .map(Value::Int)
            .map_err(|_| EvaluationError::IntegerOverflow),
        [Value::Double(number)] => {
            let fits = *number > -LIMIT && *number < LIMIT;
            fits.then_some(Value::Int(*number as i64))
                .ok_or(EvaluationError::IntegerOverflow)
        }
        [value @ Value::String(text)] => {
            let number = text.parse().map(Value::Int);
            number.map_err(|_| conversion_error(value, "int"))
        }
        [Value::Timestamp(time)] => Ok(Value::Int(time.moment.as_second())),
        _ => no_overload(),
    }
}

fn to_uint(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    const LIMIT: f64 = 18_446_744_073_709_551_616.0;
    match arguments {
        [Value::Uint(number)] => Ok(Value::Uint(*number)),
        [Value::Int(number)] => u64::try_from(*number)
            .map(Value::Uint)
            .map_err(|_| EvaluationError::UnsignedOverflow),
        [Value::Double(number)] => {
            let fits = *number >= 0.0 && *number < LIMIT;
            fits.then_some(Value::Uint(*number as u64))
                .ok_or(EvaluationError::UnsignedOverflow)
        }
        [value @ Value::String(text)] => {
            let number = text.parse().map(Value::Uint);
            number.map_err(|_| conversion_error(value, "uint"))
        }
        _ => no_overload(),
    }
}

fn to_text(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Bytes(bytes)] => {
            meter.work(bytes.len())?;
            std::str::from_utf8(bytes)
                .map(Value::text)
                .map_err(|_| failed("invalid UTF-8 in bytes, cannot convert to string"))
        }
        [Value::Address(address)] => Ok(Value::text(&address.to_string())),
        [Value::Range(range)] => Ok(Value::text(&range.to_string())),
        [value] => {
            let text = printed(value).ok_or(EvaluationError::NoOverload)?;
            Ok(Value::text(&text))
        }
        _ => no_overload(),
    }
}

/// A scalar as a text.
pub(super) fn printed(value: &Value) -> Option<String> {
    Some(match value {
        Value::Bool(flag) => flag.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        Value::Double(number) => printed_double(*number),
        Value::String(text) => text.to_string(),
        Value::Duration(nanoseconds) => times::printed_duration(*nanoseconds),
        Value::Timestamp(time) => times::printed_time(*time),
        _ => return None,
    })
}

/// A number as Go prints it with `%g`: the shortest digits, with an exponent for large and for small numbers.
fn printed_double(number: f64) -> String {
    const EXPONENT_MAX: i32 = 5;
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..=EXPONENT_MAX).contains(&exponent) {
        return number.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
