//! Optional values. `or` and `orValue` are operators of the evaluation.

use crate::call::Style::{Global, Member};
use crate::call::{FunctionResult, Table, no_overload, nominal};
use crate::error::EvaluationError;
use crate::meter::Meter;
use crate::value::Value;

pub(super) const TABLE: Table = &[
    ("optional.of", Global, of, nominal),
    ("optional.ofNonZeroValue", Global, of_non_zero, nominal),
    ("optional.none", Global, none, nominal),
    ("hasValue", Member, has_value, nominal),
    ("value", Member, value, nominal),
];

fn of(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [value] => Ok(Value::some(value.clone())),
        _ => no_overload(),
    }
}

fn of_non_zero(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [value] if value.is_zero() => Ok(Value::Optional(None)),
        [value] => Ok(Value::some(value.clone())),
        _ => no_overload(),
    }
}

fn none(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [] => Ok(Value::Optional(None)),
        _ => no_overload(),
    }
}

fn has_value(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
        _ => no_overload(),
    }
}

fn value(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Optional(Some(value))] => Ok((**value).clone()),
        [Value::Optional(None)] => Err(EvaluationError::EmptyOptional),
        _ => no_overload(),
    }
}
