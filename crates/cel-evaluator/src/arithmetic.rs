//! The arithmetic operators.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::compare::{contains, position_by_keys};
use crate::error::EvaluationError;
use crate::meter::Meter;
use crate::value::{List, ListKind, Time, Value};

type Outcome = Result<Value, EvaluationError>;

/// Work of one element that is copied.
const ELEMENT_WORK: usize = 24;

pub(crate) fn add(one: Value, other: &Value, meter: &mut Meter) -> Outcome {
    match (one, other) {
        (Value::Int(one), Value::Int(other)) => int(one.checked_add(*other)),
        (Value::Uint(one), Value::Uint(other)) => uint(one.checked_add(*other)),
        (Value::Double(one), Value::Double(other)) => Ok(Value::Double(one + other)),
        (Value::String(one), Value::String(other)) => {
            meter.work(one.len() + other.len())?;
            Ok(Value::String(Arc::from([&*one, &**other].concat())))
        }
        (Value::Bytes(one), Value::Bytes(other)) => {
            meter.work(one.len() + other.len())?;
            Ok(Value::Bytes(Arc::from([&*one, &**other].concat())))
        }
        (Value::List(one), Value::List(other)) => add_lists(one, other, meter),
        (Value::Duration(one), Value::Duration(other)) => duration(one.checked_add(*other)),
        (Value::Duration(duration), Value::Timestamp(time)) => moved(*time, duration),
        (Value::Timestamp(time), Value::Duration(duration)) => moved(time, *duration),
        _ => Err(EvaluationError::NoOverload),
    }
}

/// The left list decides: an atomic list is followed by the other, a set has each element once, and an element of a
/// keyed list replaces the element with the same key.
fn add_lists(mut one: Arc<List>, other: &List, meter: &mut Meter) -> Outcome {
    let copied = match Arc::get_mut(&mut one) {
        Some(_) => other.items.len(),
        None => one.items.len() + other.items.len(),
    };
    meter.work(copied.saturating_mul(ELEMENT_WORK))?;
    let list = Arc::make_mut(&mut one);
    match list.kind.clone() {
        ListKind::Atomic => list.items.extend(other.items.iter().cloned()),
        ListKind::Set => {
            for item in &other.items {
                if !contains(&list.items, item, meter)? {
                    list.items.push(item.clone());
                }
            }
        }
        ListKind::Keyed(keys) => {
            for item in &other.items {
                match position_by_keys(&list.items, item, &keys, meter)? {
                    Some(position) => list.items[position] = item.clone(),
                    None => list.items.push(item.clone()),
                }
            }
        }
    }
    Ok(Value::List(one))
}

pub(crate) fn subtract(one: &Value, other: &Value) -> Outcome {
    match (one, other) {
        (Value::Int(one), Value::Int(other)) => int(one.checked_sub(*other)),
        (Value::Uint(one), Value::Uint(other)) => uint(one.checked_sub(*other)),
        (Value::Double(one), Value::Double(other)) => Ok(Value::Double(one - other)),
        (Value::Duration(one), Value::Duration(other)) => duration(one.checked_sub(*other)),
        (Value::Timestamp(time), Value::Duration(nanoseconds)) => {
            let negative = nanoseconds.checked_neg();
            moved(*time, negative.ok_or(EvaluationError::DurationOverflow)?)
        }
        (Value::Timestamp(one), Value::Timestamp(other)) => {
            let between = one.moment.duration_since(other.moment).as_nanos();
            duration(i64::try_from(between).ok())
        }
        _ => Err(EvaluationError::NoOverload),
    }
}

pub(crate) fn multiply(one: &Value, other: &Value) -> Outcome {
    match (one, other) {
        (Value::Int(one), Value::Int(other)) => int(one.checked_mul(*other)),
        (Value::Uint(one), Value::Uint(other)) => uint(one.checked_mul(*other)),
        (Value::Double(one), Value::Double(other)) => Ok(Value::Double(one * other)),
        _ => Err(EvaluationError::NoOverload),
    }
}

pub(crate) fn divide(one: &Value, other: &Value) -> Outcome {
    match (one, other) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            Err(EvaluationError::DivisionByZero)
        }
        (Value::Int(one), Value::Int(other)) => int(one.checked_div(*other)),
        (Value::Uint(one), Value::Uint(other)) => Ok(Value::Uint(one / other)),
        (Value::Double(one), Value::Double(other)) => Ok(Value::Double(one / other)),
        _ => Err(EvaluationError::NoOverload),
    }
}

pub(crate) fn modulo(one: &Value, other: &Value) -> Outcome {
    match (one, other) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            Err(EvaluationError::ModulusByZero)
        }
        (Value::Int(one), Value::Int(other)) => int(one.checked_rem(*other)),
        (Value::Uint(one), Value::Uint(other)) => Ok(Value::Uint(one % other)),
        _ => Err(EvaluationError::NoOverload),
    }
}

pub(crate) fn negate(value: &Value) -> Outcome {
    match value {
        Value::Int(number) => int(number.checked_neg()),
        Value::Double(number) => Ok(Value::Double(-number)),
        Value::Duration(nanoseconds) => duration(nanoseconds.checked_neg()),
        _ => Err(EvaluationError::NoOverload),
    }
}

fn int(number: Option<i64>) -> Outcome {
    number
        .map(Value::Int)
        .ok_or(EvaluationError::IntegerOverflow)
}

fn uint(number: Option<u64>) -> Outcome {
    number
        .map(Value::Uint)
        .ok_or(EvaluationError::UnsignedOverflow)
}

fn duration(nanoseconds: Option<i64>) -> Outcome {
    nanoseconds
        .map(Value::Duration)
        .ok_or(EvaluationError::DurationOverflow)
}

fn moved(time: Time, nanoseconds: i64) -> Outcome {
    let moment = time
        .moment
        .checked_add(SignedDuration::from_nanos(nanoseconds));
    let moment = moment.ok().filter(|moment| is_in_range(*moment));
    let moment = moment.ok_or(EvaluationError::TimestampOverflow)?;
    Ok(Value::Timestamp(Time { moment, ..time }))
}

/// Whether a moment is in the years 1 to 9999.
pub(crate) fn is_in_range(moment: Timestamp) -> bool {
    const FIRST: i64 = -62_135_596_800;
    const LAST: i64 = 253_402_300_799;
    (FIRST..=LAST).contains(&moment.as_second())
}
