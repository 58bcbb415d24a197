//! Semantic versions. Their comparisons are those of quantities.

use std::sync::Arc;

use object_model::Semver;

use crate::call::Style::{Global, Member};
use crate::call::{FunctionResult, Table, failed, no_overload, nominal, reading};
use crate::meter::Meter;
use crate::value::Value;

pub(super) const TABLE: Table = &[
    ("isSemver", Global, is_version, reading),
    ("major", Member, major, nominal),
    ("minor", Member, minor, nominal),
    ("patch", Member, patch, nominal),
    ("semver", Global, version, reading),
];

/// The version in a text; `None` if the text is not a version.
fn parsed(text: &str, is_normalised: bool) -> Option<Semver> {
    match is_normalised {
        false => Semver::parse(text),
        true => Semver::parse(&normalised(text)?),
    }
}

/// A version without the letter `v` and leading zeros, with all three numbers.
fn normalised(text: &str) -> Option<String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text
        .splitn(3, '.')
        .map(|part| {
            let trimmed = part.trim_start_matches('0');
            match part.len() {
                0 | 1 => part.to_owned(),
                _ if trimmed.starts_with(|c: char| c.is_ascii_digit()) => trimmed.to_owned(),
                _ => format!("0{trimmed}"),
            }
        })
        .collect();
    let is_short = parts.len() < 3;
    if is_short && parts.last().is_some_and(|last| last.contains(['+', '-'])) {
        return None;
    }
    parts.resize(3, "0".to_owned());
    Some(parts.join("."))
}

/// The text and whether it is normalised.
fn text(arguments: &[Value]) -> Option<(&str, bool)> {
    match arguments {
        [Value::String(text)] => Some((text, false)),
        [Value::String(text), Value::Bool(is_normalised)] => Some((text, *is_normalised)),
        _ => None,
    }
}

fn version(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    let Some((text, is_normalised)) = text(arguments) else {
        return no_overload();
    };
    let version = parsed(text, is_normalised);
    let version = version.ok_or_else(|| failed(format!("{text:?} is not a semantic version")))?;
    Ok(Value::Version(Arc::new(version)))
}

fn is_version(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    let Some((text, is_normalised)) = text(arguments) else {
        return no_overload();
    };
    Ok(Value::Bool(parsed(text, is_normalised).is_some()))
}

fn number(arguments: &[Value], index: usize) -> FunctionResult {
    match arguments {
        [Value::Version(version)] => {
            let number = version.numbers()[index];
            Ok(Value::Int(i64::try_from(number).unwrap_or(i64::MAX)))
        }
        _ => no_overload(),
    }
}

fn major(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    number(arguments, 0)
}

fn minor(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    number(arguments, 1)
}

fn patch(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    number(arguments, 2)
}
