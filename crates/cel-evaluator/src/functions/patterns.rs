//! Searches with regular expressions.

use crate::call::Style::{Both, Member};
use crate::call::{FunctionResult, Table, no_overload, scaled, size};
use crate::error::EvaluationError;
use crate::meter::Meter;
use crate::pattern::CompiledPattern;
use crate::value::Value;

pub(super) const TABLE: Table = &[
    ("matches", Both, matches, searching),
    ("find", Member, find, searching),
    ("findAll", Member, find_all, searching),
];

/// The size of the text times the size of the pattern.
fn searching(arguments: &[Value], _result: Option<&Value>) -> u64 {
    let text = scaled(size(arguments, 0) + 1, 0.1);
    text.saturating_mul(scaled(size(arguments, 1), 0.25))
}

/// Whether a function searches with a pattern, its second argument.
pub(crate) fn is_search(function: &str) -> bool {
    TABLE.iter().any(|(name, ..)| *name == function)
}

fn compiled(name: &str, arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(_), Value::String(source), ..] => {
            let pattern = CompiledPattern::compile(source, meter)?;
            search(name, &pattern, arguments, meter)
        }
        _ => no_overload(),
    }
}

pub(crate) fn search(
    name: &str,
    pattern: &CompiledPattern,
    arguments: &[Value],
    meter: &mut Meter,
) -> FunctionResult {
    let text = match arguments {
        [Value::String(text), ..] => text,
        _ => return no_overload(),
    };
    meter.work(text.len().saturating_mul(pattern.work_per_byte))?;
    match (name, arguments) {
        ("matches", [_, _]) => Ok(Value::Bool(pattern.regex.is_match(text))),
        ("find", [_, _]) => {
            let first = pattern.regex.find(text);
            Ok(Value::text(first.map_or("", |first| first.as_str())))
        }
        ("findAll", [_, _]) => all(pattern, text, usize::MAX, meter),
        ("findAll", [_, _, Value::Int(limit)]) => {
            // As in Go, a negative limit means no limit.
            let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
            all(pattern, text, limit, meter)
        }
        _ => no_overload(),
    }
}

fn all(pattern: &CompiledPattern, text: &str, limit: usize, meter: &mut Meter) -> FunctionResult {
    const MATCH_WORK: usize = 64;
    let mut items = Vec::new();
    for found in pattern.regex.find_iter(text).take(limit) {
        meter.work(MATCH_WORK + found.len())?;
        items.push(Value::text(found.as_str()));
    }
    Ok(Value::list(items))
}

fn matches(arguments: &[Value], meter: &mut Meter) -> Result<Value, EvaluationError> {
    compiled("matches", arguments, meter)
}

fn find(arguments: &[Value], meter: &mut Meter) -> Result<Value, EvaluationError> {
    compiled("find", arguments, meter)
}

fn find_all(arguments: &[Value], meter: &mut Meter) -> Result<Value, EvaluationError> {
    compiled("findAll", arguments, meter)
}
