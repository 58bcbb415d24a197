//! Quantities, and the comparisons that quantities and versions have.

use std::cmp::Ordering;

use object_model::Quantity;
use object_model::quantity::Format;

use crate::call::Style::{Global, Member};
use crate::call::{FunctionResult, Table, failed, no_overload, nominal, reading};
use crate::error::EvaluationError;
use crate::meter::Meter;
use crate::value::Value;

pub(super) const TABLE: Table = &[
    ("add", Member, add, nominal),
    ("asApproximateFloat", Member, approximate, nominal),
    ("asInteger", Member, as_integer, nominal),
    ("compareTo", Member, compare_to, nominal),
    ("isGreaterThan", Member, is_greater, nominal),
    ("isInteger", Member, is_integer, nominal),
    ("isLessThan", Member, is_less, nominal),
    ("isQuantity", Global, is_quantity, reading),
    ("quantity", Global, quantity, reading),
    ("sign", Global, sign, nominal),
    ("sub", Member, subtract, nominal),
];

fn quantity(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text)] => {
            let quantity = text.parse::<Quantity>();
            let quantity = quantity.map_err(|error| failed(error.to_string()))?;
            Ok(Value::Quantity(quantity))
        }
        _ => no_overload(),
    }
}

fn is_quantity(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text)] => Ok(Value::Bool(text.parse::<Quantity>().is_ok())),
        _ => no_overload(),
    }
}

/// The order of two quantities or of two versions.
fn order(arguments: &[Value]) -> Result<Ordering, EvaluationError> {
    match arguments {
        [Value::Quantity(one), Value::Quantity(other)] => Ok(one.cmp(other)),
        [Value::Version(one), Value::Version(other)] => Ok(one.cmp(other)),
        _ => Err(EvaluationError::NoOverload),
    }
}

fn is_less(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    order(arguments).map(|order| Value::Bool(order == Ordering::Less))
}

fn is_greater(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    order(arguments).map(|order| Value::Bool(order == Ordering::Greater))
}

fn compare_to(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    order(arguments).map(|order| Value::Int(order as i64))
}

/// The second operand of a sum or difference.
fn operand(value: &Value) -> Option<Quantity> {
    match value {
        Value::Quantity(quantity) => Some(*quantity),
        Value::Int(number) => Some(Quantity::new(*number, Format::Exponent)),
        _ => None,
    }
}

fn add(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Quantity(one), other] => {
            let other = operand(other).ok_or(EvaluationError::NoOverload)?;
            Ok(Value::Quantity(one.plus(&other)))
        }
        _ => no_overload(),
    }
}

fn subtract(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Quantity(one), other] => {
            let other = operand(other).ok_or(EvaluationError::NoOverload)?;
            Ok(Value::Quantity(one.minus(&other)))
        }
        _ => no_overload(),
    }
}

fn sign(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Quantity(quantity)] if quantity.is_zero() => Ok(Value::Int(0)),
        [Value::Quantity(quantity)] if quantity.is_negative() => Ok(Value::Int(-1)),
        [Value::Quantity(_)] => Ok(Value::Int(1)),
        _ => no_overload(),
    }
}

/// The whole number; `None` for a fraction, and for an amount at the limit of what a quantity can be.
fn whole(quantity: &Quantity) -> Option<i64> {
    let value = quantity.value();
    let fits = quantity.is_integer() && value.unsigned_abs() < i64::MAX.unsigned_abs();
    fits.then_some(value)
}

fn is_integer(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Quantity(quantity)] => Ok(Value::Bool(whole(quantity).is_some())),
        _ => no_overload(),
    }
}

fn as_integer(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Quantity(quantity)] => whole(quantity)
            .map(Value::Int)
            .ok_or_else(|| failed("cannot convert value to integer")),
        _ => no_overload(),
    }
}

fn approximate(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Quantity(quantity)] => Ok(Value::Double(quantity.approximate())),
        _ => no_overload(),
    }
}
