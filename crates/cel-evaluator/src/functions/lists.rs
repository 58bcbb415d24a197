//! Functions of lists: version 3 of cel-go's extension, the sums and extremes of Kubernetes, and sets.

use std::cmp::Ordering;

use crate::arithmetic::add;
use crate::call::Style::{Global, Member};
use crate::call::{DURATION_SUM, FunctionResult, Table, failed, no_overload, size};
use crate::compare::{contains, equal, order};
use crate::error::EvaluationError;
use crate::meter::Meter;
use crate::value::{List, Value};

pub(super) const TABLE: Table = &[
    (DURATION_SUM, Member, sum_of_durations, traversal_of_first),
    (
        "@sortByAssociatedKeys",
        Member,
        sort_by_keys,
        sorted_by_keys,
    ),
    ("distinct", Member, distinct, compared_with_itself),
    ("flatten", Member, flatten, flattened),
    ("isSorted", Member, is_sorted, traversal_of_first),
    ("lists.range", Global, range, built),
    ("max", Member, max, traversal_of_first),
    ("min", Member, min, traversal_of_first),
    ("reverse", Member, reverse, built),
    ("sets.contains", Global, set_contains, once),
    ("sets.equivalent", Global, set_equivalent, twice),
    ("sets.intersects", Global, set_intersects, once),
    ("slice", Member, slice, built),
    ("sort", Member, sort, compared_with_itself),
    ("sum", Member, sum, traversal_of_first),
];

/// The cost of a call and of a new list.
const CALL_AND_LIST_COST: u64 = 11;
/// Work of one element.
const ELEMENT_WORK: usize = 24;

/// The cost of reading all parts of the first argument.
pub(super) fn traversal_of_first(arguments: &[Value], _result: Option<&Value>) -> u64 {
    arguments.first().map_or(1, parts)
}

fn parts(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64 / 10,
        Value::Bytes(bytes) => bytes.len() as u64 / 10,
        Value::List(list) => list.items.iter().map(parts).sum(),
        Value::Map(map) => map
            .iter()
            .map(|(key, value)| parts(&key.to_value()).saturating_add(parts(value)))
            .sum(),
        _ => 1,
    }
}

fn built(_arguments: &[Value], result: Option<&Value>) -> u64 {
    result.map_or(1, Value::size) + CALL_AND_LIST_COST
}

fn flattened(arguments: &[Value], _result: Option<&Value>) -> u64 {
    let depth = match arguments.get(1) {
        Some(Value::Int(depth)) => u64::try_from(*depth).unwrap_or_default(),
        _ => 1,
    };
    let elements = size(arguments, 0).saturating_mul(depth);
    elements.saturating_add(CALL_AND_LIST_COST)
}

fn compared_with_itself(arguments: &[Value], _result: Option<&Value>) -> u64 {
    self_comparison(arguments.first())
}

fn sorted_by_keys(arguments: &[Value], _result: Option<&Value>) -> u64 {
    self_comparison(arguments.get(1))
}

fn self_comparison(list: Option<&Value>) -> u64 {
    let Some(Value::List(list)) = list else {
        return CALL_AND_LIST_COST;
    };
    let factor = match list.items.first() {
        Some(Value::String(_) | Value::Bytes(_)) => 2.1,
        _ => 2.0,
    };
    let count = list.items.len() as f64;
    ((count * count * factor) as u64).saturating_add(CALL_AND_LIST_COST)
}

fn once(arguments: &[Value], _result: Option<&Value>) -> u64 {
    let product = size(arguments, 0).saturating_mul(size(arguments, 1));
    product.saturating_add(1)
}

fn twice(arguments: &[Value], _result: Option<&Value>) -> u64 {
    let product = size(arguments, 0).saturating_mul(size(arguments, 1));
    product.saturating_mul(2).saturating_add(1)
}

fn position(index: usize) -> Value {
    Value::Int(i64::try_from(index).unwrap_or(i64::MAX))
}

/// The position of the first element that is equal to a value.
pub(super) fn first(list: &List, value: &Value, meter: &mut Meter) -> FunctionResult {
    for (index, item) in list.items.iter().enumerate() {
        meter.work(ELEMENT_WORK)?;
        if equal(item, value, meter)? {
            return Ok(position(index));
        }
    }
    Ok(Value::Int(-1))
}

/// The position of the last element that is equal to a value.
pub(super) fn last(list: &List, value: &Value, meter: &mut Meter) -> FunctionResult {
    for (index, item) in list.items.iter().enumerate().rev() {
        meter.work(ELEMENT_WORK)?;
        if equal(item, value, meter)? {
            return Ok(position(index));
        }
    }
    Ok(Value::Int(-1))
}

fn is_sorted(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    let [Value::List(list)] = arguments else {
        return no_overload();
    };
    for pair in list.items.windows(2) {
        meter.work(ELEMENT_WORK)?;
        if let [one, other] = pair
            && order(one, other)? == Ordering::Greater
        {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

/// The sum of durations; a duration also for an empty list.
fn sum_of_durations(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::List(list)] if list.items.is_empty() => Ok(Value::Duration(0)),
        _ => sum(arguments, meter),
    }
}

/// The sum; the number 0 for an empty list.
fn sum(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    let [Value::List(list)] = arguments else {
        return no_overload();
    };
    let mut total = match list.items.first() {
        None | Some(Value::Int(_)) => Value::Int(0),
        Some(Value::Uint(_)) => Value::Uint(0),
        Some(Value::Double(_)) => Value::Double(0.0),
        Some(Value::Duration(_)) => Value::Duration(0),
        Some(_) => return no_overload(),
    };
    for item in &list.items {
        total = add(total, item, meter)?;
    }
    Ok(total)
}

fn min(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    extreme("min", arguments, Ordering::Less, meter)
}

fn max(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    extreme("max", arguments, Ordering::Greater, meter)
}

fn extreme(name: &str, arguments: &[Value], wanted: Ordering, meter: &mut Meter) -> FunctionResult {
    let [Value::List(list)] = arguments else {
        return no_overload();
    };
    let mut items = list.items.iter();
    let mut best = items
        .next()
        .ok_or_else(|| failed(format!("{name} called on empty list")))?;
    for item in items {
        meter.work(ELEMENT_WORK)?;
        if order(item, best)? == wanted {
            best = item;
        }
    }
    Ok(best.clone())
}

fn range(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Int(end)] => {
            let count = usize::try_from(*end).unwrap_or_default();
            meter.work(count.saturating_mul(ELEMENT_WORK))?;
            Ok(Value::list((0..*end).map(Value::Int).collect()))
        }
        _ => no_overload(),
    }
}

/// The elements of a list, copied.
fn copied(list: &List, meter: &mut Meter) -> Result<Vec<Value>, EvaluationError> {
    meter.work(list.items.len() * ELEMENT_WORK)?;
    Ok(list.items.clone())
}

fn reverse(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::List(list)] => {
            let mut items = copied(list, meter)?;
            items.reverse();
            Ok(Value::list(items))
        }
        _ => no_overload(),
    }
}

fn slice(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = arguments else {
        return no_overload();
    };
    let wrong = |why: String| failed(format!("cannot slice({start}, {end}), {why}"));
    let (Ok(from), Ok(to)) = (usize::try_from(*start), usize::try_from(*end)) else {
        return Err(wrong("negative indexes not supported".to_owned()));
    };
    if from > to {
        let why = "start index must be less than or equal to end index";
        return Err(wrong(why.to_owned()));
    }
    let Some(items) = list.items.get(from..to) else {
        return Err(wrong(format!("list is length {}", list.items.len())));
    };
    meter.work(items.len() * ELEMENT_WORK)?;
    Ok(Value::list(items.to_vec()))
}

fn flatten(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    let (list, depth) = match arguments {
        [Value::List(list)] => (list, 1),
        [Value::List(list), Value::Int(depth)] => (list, *depth),
        _ => return no_overload(),
    };
    let depth = usize::try_from(depth).map_err(|_| failed("level must be non-negative"))?;
    let mut items = list.items.clone();
    // A list that is nested is taken from the front of the work, so that deep lists use no stack.
    for _ in 0..depth {
        meter.work(items.len() * ELEMENT_WORK)?;
        if !items.iter().any(|item| matches!(item, Value::List(_))) {
            break;
        }
        let mut next = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Value::List(inner) => {
                    meter.work(inner.items.len() * ELEMENT_WORK)?;
                    next.extend(inner.items.iter().cloned());
                }
                item => next.push(item),
            }
        }
        items = next;
    }
    Ok(Value::list(items))
}

fn distinct(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    let [Value::List(list)] = arguments else {
        return no_overload();
    };
    let mut items: Vec<Value> = Vec::new();
    for item in &list.items {
        if !contains(&items, item, meter)? {
            items.push(item.clone());
        }
    }
    Ok(Value::list(items))
}

fn sort(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::List(list)] => sorted(list, list, meter),
        _ => no_overload(),
    }
}

fn sort_by_keys(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::List(list), Value::List(keys)] => sorted(list, keys, meter),
        _ => no_overload(),
    }
}

/// The elements of a list in the order of their keys.
fn sorted(list: &List, keys: &List, meter: &mut Meter) -> FunctionResult {
    let (count, keys) = (list.items.len(), &keys.items);
    if count != keys.len() {
        return Err(failed(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {count} \
             and {} elements respectively",
            keys.len()
        )));
    }
    let Some(first) = keys.first() else {
        return Ok(Value::list(Vec::new()));
    };
    if order(first, first).is_err() {
        return Err(failed("list elements must be comparable"));
    }
    if keys.iter().any(|key| key.type_name() != first.type_name()) {
        return Err(failed("list elements must have the same type"));
    }
    let rounds = count.ilog2() as usize + 1;
    meter.work(count.saturating_mul(rounds).saturating_mul(ELEMENT_WORK))?;
    let mut entries: Vec<(&Value, &Value)> = keys.iter().zip(&list.items).collect();
    // Keys that have no order (NaN) stay where they are.
    entries.sort_by(|(one, _), (other, _)| order(one, other).unwrap_or(Ordering::Equal));
    let items = entries.into_iter().map(|(_, item)| item.clone());
    Ok(Value::list(items.collect()))
}

fn contains_all(list: &List, part: &List, meter: &mut Meter) -> Result<bool, EvaluationError> {
    for item in &part.items {
        if !contains(&list.items, item, meter)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn set_contains(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::List(list), Value::List(part)] => contains_all(list, part, meter).map(Value::Bool),
        _ => no_overload(),
    }
}

fn set_equivalent(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::List(one), Value::List(other)] => {
            let contained = contains_all(one, other, meter)? && contains_all(other, one, meter)?;
            Ok(Value::Bool(contained))
        }
        _ => no_overload(),
    }
}

fn set_intersects(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::List(one), Value::List(other)] => {
            for item in &one.items {
                if contains(&other.items, item, meter)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        _ => no_overload(),
    }
}
