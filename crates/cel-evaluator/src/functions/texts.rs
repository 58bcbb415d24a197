//! Functions of texts, version 2 of cel-go's extension. Positions are counted in characters.

use std::sync::Arc;

use super::{formatting, lists};
use crate::call::Style::{Global, Member};
use crate::call::{
    FunctionResult, Table, failed, no_overload, nominal, reading, reading_twice, scaled, size,
    traversal,
};
use crate::error::EvaluationError;
use crate::meter::Meter;
use crate::value::Value;

pub(super) const TABLE: Table = &[
    ("charAt", Member, char_at, nominal),
    ("contains", Member, contains, searched),
    ("endsWith", Member, ends_with, reading),
    ("format", Member, formatting::format, reading),
    ("indexOf", Member, index_of, lists::traversal_of_first),
    ("join", Member, join, joined),
    (
        "lastIndexOf",
        Member,
        last_index_of,
        lists::traversal_of_first,
    ),
    ("lowerAscii", Member, lower, reading),
    ("replace", Member, replace, reading_twice),
    ("split", Member, split, reading_twice),
    ("startsWith", Member, starts_with, reading),
    ("strings.quote", Global, quote, reading),
    ("substring", Member, substring, reading),
    ("trim", Member, trim, reading),
    ("upperAscii", Member, upper, reading),
];

/// Work of one element of a list.
const ELEMENT_WORK: usize = 48;

fn searched(arguments: &[Value], _result: Option<&Value>) -> u64 {
    traversal(size(arguments, 0)).saturating_mul(traversal(size(arguments, 1)))
}

fn joined(_arguments: &[Value], result: Option<&Value>) -> u64 {
    scaled(result.map_or(1, Value::size), 0.2)
}

fn out_of_range(index: i64) -> EvaluationError {
    failed(format!("index out of range: {index}"))
}

/// The position as a count of characters, at most the length of the text.
fn position(index: i64, length: usize) -> Result<usize, EvaluationError> {
    let position = usize::try_from(index).ok();
    position
        .filter(|position| *position <= length)
        .ok_or_else(|| out_of_range(index))
}

/// The byte at which a character begins.
fn byte_of(text: &str, character: usize) -> usize {
    let mut starts = text.char_indices().map(|(byte, _)| byte);
    starts.nth(character).unwrap_or(text.len())
}

fn char_at(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text), Value::Int(index)] => {
            let position = position(*index, text.chars().count())?;
            let letter = text.chars().nth(position);
            let letter = letter.map(String::from).unwrap_or_default();
            Ok(Value::text(&letter))
        }
        _ => no_overload(),
    }
}

fn contains(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text), Value::String(part)] => {
            meter.work(text.len())?;
            Ok(Value::Bool(text.contains(&**part)))
        }
        _ => no_overload(),
    }
}

fn starts_with(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text), Value::String(part)] => Ok(Value::Bool(text.starts_with(&**part))),
        _ => no_overload(),
    }
}

fn ends_with(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text), Value::String(part)] => Ok(Value::Bool(text.ends_with(&**part))),
        _ => no_overload(),
    }
}

fn index_of(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text), Value::String(part)] => first(text, part, 0, meter),
        [Value::String(text), Value::String(part), Value::Int(from)] => {
            first(text, part, *from, meter)
        }
        [Value::List(list), value] => lists::first(list, value, meter),
        _ => no_overload(),
    }
}

fn first(text: &str, part: &str, from: i64, meter: &mut Meter) -> FunctionResult {
    meter.work(text.len())?;
    let length = text.chars().count();
    let Ok(start) = usize::try_from(from) else {
        return Err(out_of_range(from));
    };
    if part.is_empty() {
        return Ok(number(start.min(length)));
    }
    if start >= length {
        return Ok(Value::Int(-1));
    }
    let begin = byte_of(text, start);
    Ok(match text[begin..].find(part) {
        Some(offset) => number(start + text[begin..begin + offset].chars().count()),
        None => Value::Int(-1),
    })
}

fn last_index_of(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text), Value::String(part)] => {
            let length = text.chars().count();
            if part.is_empty() {
                return Ok(number(length));
            }
            if text.len() < part.len() {
                return Ok(Value::Int(-1));
            }
            last(text, part, length.saturating_sub(1), meter)
        }
        [Value::String(text), Value::String(part), Value::Int(from)] => {
            let Ok(from) = usize::try_from(*from) else {
                return Err(out_of_range(*from));
            };
            let length = text.chars().count();
            if part.is_empty() {
                return Ok(number(from.min(length)));
            }
            if from >= length {
                return Ok(Value::Int(-1));
            }
            last(text, part, from, meter)
        }
        [Value::List(list), value] => lists::last(list, value, meter),
        _ => no_overload(),
    }
}

/// The last position of a part that begins at a character or before it.
fn last(text: &str, part: &str, from: usize, meter: &mut Meter) -> FunctionResult {
    meter.work(text.len())?;
    let mut limit = (byte_of(text, from) + part.len()).min(text.len());
    // The limit can be in the middle of a character, where no part ends.
    while !text.is_char_boundary(limit) {
        limit -= 1;
    }
    Ok(match text[..limit].rfind(part) {
        Some(byte) => number(text[..byte].chars().count()),
        None => Value::Int(-1),
    })
}

fn number(position: usize) -> Value {
    Value::Int(i64::try_from(position).unwrap_or(i64::MAX))
}

fn join(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    let (list, separator) = match arguments {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, &**separator),
        _ => return no_overload(),
    };
    let mut text = String::new();
    for (index, item) in list.items.iter().enumerate() {
        let Value::String(item) = item else {
            return Err(failed(format!("join: invalid input: {}", item.type_name())));
        };
        meter.work(ELEMENT_WORK + item.len() + separator.len())?;
        if index > 0 {
            text.push_str(separator);
        }
        text.push_str(item);
    }
    Ok(Value::String(Arc::from(text)))
}

fn mapped(arguments: &[Value], meter: &mut Meter, map: fn(&str) -> String) -> FunctionResult {
    match arguments {
        [Value::String(text)] => {
            meter.work(text.len())?;
            Ok(Value::String(Arc::from(map(text))))
        }
        _ => no_overload(),
    }
}

fn lower(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    mapped(arguments, meter, str::to_ascii_lowercase)
}

fn upper(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    mapped(arguments, meter, str::to_ascii_uppercase)
}

fn trim(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    mapped(arguments, meter, |text| text.trim().to_owned())
}

fn replace(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    let (text, part, by, limit) = match arguments {
        [Value::String(text), Value::String(part), Value::String(by)] => (text, part, by, -1),
        [
            Value::String(text),
            Value::String(part),
            Value::String(by),
            Value::Int(limit),
        ] => (text, part, by, *limit),
        _ => return no_overload(),
    };
    // As in Go, a negative limit means no limit.
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let count = text.matches(&**part).take(limit).count();
    meter.work(
        text.len()
            .saturating_add(count.saturating_mul(by.len() + 1)),
    )?;
    Ok(Value::text(&text.replacen(&**part, by, count)))
}

fn split(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    let (text, separator, limit) = match arguments {
        [Value::String(text), Value::String(separator)] => (text, separator, -1),
        [
            Value::String(text),
            Value::String(separator),
            Value::Int(limit),
        ] => (text, separator, *limit),
        _ => return no_overload(),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    meter.work(text.len())?;
    let mut items = Vec::new();
    let mut rest: &str = text;
    while limit > 0 && items.len() + 1 < limit {
        let next = match separator.is_empty() {
            true => rest.chars().next().map(|letter| (letter.len_utf8(), 0)),
            false => rest.find(&**separator).map(|at| (at, separator.len())),
        };
        let Some((end, skipped)) = next else { break };
        meter.work(ELEMENT_WORK)?;
        items.push(Value::text(&rest[..end]));
        rest = &rest[end + skipped..];
    }
    // Without a separator, nothing is left after the last character.
    if limit > 0 && !(separator.is_empty() && rest.is_empty()) {
        items.push(Value::text(rest));
    }
    Ok(Value::list(items))
}

fn substring(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    let (text, start, end) = match arguments {
        [Value::String(text), Value::Int(start)] => (text, *start, None),
        [Value::String(text), Value::Int(start), Value::Int(end)] => (text, *start, Some(*end)),
        _ => return no_overload(),
    };
    meter.work(text.len())?;
    let length = text.chars().count();
    if let Some(end) = end
        && start > end
    {
        let text = format!("invalid substring range. start: {start}, end: {end}");
        return Err(failed(text));
    }
    let start = position(start, length)?;
    let end = end.map_or(Ok(length), |end| position(end, length))?;
    Ok(Value::text(&text[byte_of(text, start)..byte_of(text, end)]))
}

fn quote(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text)] => {
            meter.work(text.len() * 2)?;
            Ok(Value::text(&formatting::quoted(text)))
        }
        _ => no_overload(),
    }
}
