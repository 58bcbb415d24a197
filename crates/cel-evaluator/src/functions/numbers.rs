//! Functions of numbers (`math`), version 2 of cel-go's extension.

use std::cmp::Ordering;

use crate::call::Style::Global;
use crate::call::{FunctionResult, Table, failed, no_overload, nominal};
use crate::compare::order;
use crate::error::EvaluationError;
use crate::meter::Meter;
use crate::value::Value;

pub(super) const TABLE: Table = &[
    ("math.@max", Global, greatest, nominal),
    ("math.@min", Global, least, nominal),
    ("math.abs", Global, abs, nominal),
    ("math.bitAnd", Global, bit_and, nominal),
    ("math.bitNot", Global, bit_not, nominal),
    ("math.bitOr", Global, bit_or, nominal),
    ("math.bitShiftLeft", Global, shift_left, nominal),
    ("math.bitShiftRight", Global, shift_right, nominal),
    ("math.bitXor", Global, bit_xor, nominal),
    ("math.ceil", Global, ceil, nominal),
    ("math.floor", Global, floor, nominal),
    ("math.isFinite", Global, is_finite, nominal),
    ("math.isInf", Global, is_infinite, nominal),
    ("math.isNaN", Global, is_nan, nominal),
    ("math.round", Global, round, nominal),
    ("math.sign", Global, sign, nominal),
    ("math.sqrt", Global, sqrt, nominal),
    ("math.trunc", Global, trunc, nominal),
];

fn greatest(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    extreme("math.@max", arguments, Ordering::Less, meter)
}

fn least(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    extreme("math.@min", arguments, Ordering::Greater, meter)
}

/// The first of the extreme numbers; `worse` is the order of a number to a better one.
fn extreme(name: &str, arguments: &[Value], worse: Ordering, meter: &mut Meter) -> FunctionResult {
    let numbers = match arguments {
        [Value::List(list)] => &list.items,
        numbers => numbers,
    };
    let mut items = numbers.iter();
    let empty = || failed(format!("{name}(list) argument must not be empty"));
    let mut best = items.next().ok_or_else(empty)?;
    for item in items {
        meter.work(8)?;
        if order(best, item)? == worse {
            best = item;
        }
    }
    match best {
        Value::Int(_) | Value::Uint(_) | Value::Double(_) => Ok(best.clone()),
        _ => Err(failed(format!("no such overload: {name}"))),
    }
}

fn of_double(arguments: &[Value], compute: fn(f64) -> f64) -> FunctionResult {
    match arguments {
        [Value::Double(number)] => Ok(Value::Double(compute(*number))),
        _ => no_overload(),
    }
}

fn is(arguments: &[Value], test: fn(f64) -> bool) -> FunctionResult {
    match arguments {
        [Value::Double(number)] => Ok(Value::Bool(test(*number))),
        _ => no_overload(),
    }
}

fn ceil(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    of_double(arguments, f64::ceil)
}

fn floor(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    of_double(arguments, f64::floor)
}

fn round(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    of_double(arguments, f64::round)
}

fn trunc(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    of_double(arguments, f64::trunc)
}

fn is_finite(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    is(arguments, f64::is_finite)
}

fn is_infinite(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    is(arguments, f64::is_infinite)
}

fn is_nan(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    is(arguments, f64::is_nan)
}

fn sqrt(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Double(number)] => Ok(Value::Double(number.sqrt())),
        [Value::Int(number)] => Ok(Value::Double((*number as f64).sqrt())),
        [Value::Uint(number)] => Ok(Value::Double((*number as f64).sqrt())),
        _ => no_overload(),
    }
}

fn abs(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Double(number)] => Ok(Value::Double(number.abs())),
        [Value::Int(number)] => number
            .checked_abs()
            .map(Value::Int)
            .ok_or(EvaluationError::IntegerOverflow),
        [Value::Uint(number)] => Ok(Value::Uint(*number)),
        _ => no_overload(),
    }
}

fn sign(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Double(number)] if number.is_nan() => Ok(Value::Double(*number)),
        [Value::Double(number)] if *number == 0.0 => Ok(Value::Double(0.0)),
        [Value::Double(number)] => Ok(Value::Double(number.signum())),
        [Value::Int(number)] => Ok(Value::Int(number.signum())),
        [Value::Uint(number)] => Ok(Value::Uint((*number).min(1))),
        _ => no_overload(),
    }
}

fn bits(
    arguments: &[Value],
    of_ints: fn(i64, i64) -> i64,
    of_uints: fn(u64, u64) -> u64,
) -> FunctionResult {
    match arguments {
        [Value::Int(one), Value::Int(other)] => Ok(Value::Int(of_ints(*one, *other))),
        [Value::Uint(one), Value::Uint(other)] => Ok(Value::Uint(of_uints(*one, *other))),
        _ => no_overload(),
    }
}

fn bit_and(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    bits(
        arguments,
        |one, other| one & other,
        |one, other| one & other,
    )
}

fn bit_or(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    bits(
        arguments,
        |one, other| one | other,
        |one, other| one | other,
    )
}

fn bit_xor(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    bits(
        arguments,
        |one, other| one ^ other,
        |one, other| one ^ other,
    )
}

fn bit_not(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Int(number)] => Ok(Value::Int(!number)),
        [Value::Uint(number)] => Ok(Value::Uint(!number)),
        _ => no_overload(),
    }
}

/// Shifts the bits; a distance of 64 and more shifts all of them out.
fn shift(name: &str, arguments: &[Value], shifted: fn(u64, u32) -> Option<u64>) -> FunctionResult {
    let (bits, distance, is_signed) = match arguments {
        [Value::Int(number), Value::Int(distance)] => (number.cast_unsigned(), *distance, true),
        [Value::Uint(number), Value::Int(distance)] => (*number, *distance, false),
        _ => return no_overload(),
    };
    if distance < 0 {
        return Err(failed(format!("{name}() negative offset: {distance}")));
    }
    let distance = u32::try_from(distance).unwrap_or(u32::MAX);
    let result = shifted(bits, distance).unwrap_or_default();
    Ok(match is_signed {
        true => Value::Int(result.cast_signed()),
        false => Value::Uint(result),
    })
}

fn shift_left(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    shift("math.bitShiftLeft", arguments, u64::checked_shl)
}

fn shift_right(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    shift("math.bitShiftRight", arguments, u64::checked_shr)
}
