//! Equality and order of values.

use std::cmp::Ordering;

use crate::error::EvaluationError;
use crate::meter::Meter;
use crate::value::{List, ListKind, Map, Value};

/// Work of the comparison of two elements.
const ELEMENT_WORK: usize = 8;

/// Whether two values are equal. Numbers of different types are equal if their numbers are. The left list decides how
/// two lists are compared.
///
/// # Errors
/// The comparison takes too long.
pub(crate) fn equal(
    one: &Value,
    other: &Value,
    meter: &mut Meter,
) -> Result<bool, EvaluationError> {
    Ok(match (one, other) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(one), Value::Bool(other)) => one == other,
        (
            Value::Int(_) | Value::Uint(_) | Value::Double(_),
            Value::Int(_) | Value::Uint(_) | Value::Double(_),
        ) => numbers(one, other) == Some(Ordering::Equal),
        (Value::String(one), Value::String(other)) => {
            meter.work(one.len().min(other.len()) / 16)?;
            one == other
        }
        (Value::Bytes(one), Value::Bytes(other)) => {
            meter.work(one.len().min(other.len()) / 16)?;
            one == other
        }
        (Value::Duration(one), Value::Duration(other)) => one == other,
        (Value::Timestamp(one), Value::Timestamp(other)) => one.moment == other.moment,
        (Value::List(one), Value::List(other)) => equal_lists(one, other, meter)?,
        (Value::Map(one), Value::Map(other)) => equal_maps(one, other, meter)?,
        (Value::Optional(one), Value::Optional(other)) => match (one, other) {
            (None, None) => true,
            (Some(one), Some(other)) => equal(one, other, meter)?,
            _ => false,
        },
        (Value::Type(one), Value::Type(other)) => one == other,
        (Value::Object(one), Value::Object(other)) => {
            if one.name != other.name || one.fields.len() != other.fields.len() {
                return Ok(false);
            }
            for ((name, value), (other_name, other_value)) in one.fields.iter().zip(&other.fields) {
                if name != other_name || !equal(value, other_value, meter)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Url(one), Value::Url(other)) => one == other,
        (Value::Address(one), Value::Address(other)) => one == other,
        (Value::Range(one), Value::Range(other)) => one == other,
        (Value::Quantity(one), Value::Quantity(other)) => one == other,
        (Value::Version(one), Value::Version(other)) => one == other,
        (Value::Format(one), Value::Format(other)) => one == other,
        _ => false,
    })
}

fn equal_lists(one: &List, other: &List, meter: &mut Meter) -> Result<bool, EvaluationError> {
    if one.items.len() != other.items.len() {
        return Ok(false);
    }
    for (index, item) in one.items.iter().enumerate() {
        meter.work(ELEMENT_WORK)?;
        let is_equal = match &one.kind {
            ListKind::Atomic => equal(item, &other.items[index], meter)?,
            ListKind::Set => contains(&other.items, item, meter)?,
            ListKind::Keyed(keys) => match position_by_keys(&other.items, item, keys, meter)? {
                Some(position) => equal(item, &other.items[position], meter)?,
                None => false,
            },
        };
        if !is_equal {
            return Ok(false);
        }
    }
    Ok(true)
}

fn equal_maps(one: &Map, other: &Map, meter: &mut Meter) -> Result<bool, EvaluationError> {
    if one.len() != other.len() {
        return Ok(false);
    }
    for ((key, value), (other_key, other_value)) in one.iter().zip(other) {
        meter.work(ELEMENT_WORK)?;
        if key != other_key || !equal(value, other_value, meter)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether an element of a list is equal to a value.
///
/// # Errors
/// As [`equal`].
pub(crate) fn contains(
    items: &[Value],
    value: &Value,
    meter: &mut Meter,
) -> Result<bool, EvaluationError> {
    for item in items {
        meter.work(ELEMENT_WORK)?;
        if equal(value, item, meter)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The position of the element with the keys of an element.
pub(crate) fn position_by_keys(
    items: &[Value],
    element: &Value,
    keys: &[std::sync::Arc<str>],
    meter: &mut Meter,
) -> Result<Option<usize>, EvaluationError> {
    let field = |value: &Value, key: &std::sync::Arc<str>| match value {
        Value::Map(map) => map.get(&crate::value::Key::String(key.clone())).cloned(),
        _ => None,
    };
    let wanted: Vec<Option<Value>> = keys.iter().map(|key| field(element, key)).collect();
    for (position, item) in items.iter().enumerate() {
        let mut is_same = true;
        for (key, wanted) in keys.iter().zip(&wanted) {
            meter.work(ELEMENT_WORK)?;
            is_same = match (field(item, key), wanted) {
                (None, None) => true,
                (Some(one), Some(other)) => equal(&one, other, meter)?,
                _ => false,
            };
            if !is_same {
                break;
            }
        }
        if is_same {
            return Ok(Some(position));
        }
    }
    Ok(None)
}

/// The order of two values.
///
/// # Errors
/// The values have no order.
pub(crate) fn order(one: &Value, other: &Value) -> Result<Ordering, EvaluationError> {
    Ok(match (one, other) {
        (Value::Bool(one), Value::Bool(other)) => one.cmp(other),
        (Value::String(one), Value::String(other)) => one.cmp(other),
        (Value::Bytes(one), Value::Bytes(other)) => one.cmp(other),
        (Value::Duration(one), Value::Duration(other)) => one.cmp(other),
        (Value::Timestamp(one), Value::Timestamp(other)) => one.moment.cmp(&other.moment),
        (
            Value::Int(_) | Value::Uint(_) | Value::Double(_),
            Value::Int(_) | Value::Uint(_) | Value::Double(_),
        ) => numbers(one, other)
            .ok_or_else(|| EvaluationError::Function("NaN values cannot be ordered".to_owned()))?,
        _ => return Err(EvaluationError::NoOverload),
    })
}

/// The order of two numbers; `None` if one of them is not a number.
fn numbers(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::Double(one), Value::Double(other)) => one.partial_cmp(other),
        (Value::Double(one), other) => with_whole(*one, whole(other)?),
        (one, Value::Double(other)) => with_whole(*other, whole(one)?).map(Ordering::reverse),
        (one, other) => Some(whole(one)?.cmp(&whole(other)?)),
    }
}

fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Int(number) => Some(i128::from(*number)),
        Value::Uint(number) => Some(i128::from(*number)),
        _ => None,
    }
}

/// The order of a number and a whole number, without a loss of digits.
fn with_whole(number: f64, whole: i128) -> Option<Ordering> {
    const LIMIT: f64 = 1e30;
    if number.is_nan() {
        return None;
    }
    if number.abs() > LIMIT {
        return Some(number.total_cmp(&0.0));
    }
    let floor = number.floor() as i128;
    Some(floor.cmp(&whole).then(if number.fract() == 0.0 {
        Ordering::Equal
    } else {
        Ordering::Greater
    }))
}
