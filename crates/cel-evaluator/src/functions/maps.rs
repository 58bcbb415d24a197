//! The function of the macros that build maps.

use std::sync::Arc;

use crate::call::Style::Global;
use crate::call::{FunctionResult, MAP_INSERT, Table, failed, no_overload, nominal};
use crate::error::EvaluationError;
use crate::meter::Meter;
use crate::value::{Key, Map, Value};

pub(super) const TABLE: Table = &[(MAP_INSERT, Global, shared_insert, nominal)];

/// Work of an entry that is copied.
const ENTRY_WORK: usize = 64;

fn shared_insert(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    insert_into(arguments.to_vec(), meter)
}

/// A map with one entry more, or with the entries of another map. A map that is used nowhere else is not copied.
///
/// # Errors
/// A key exists already, or the arguments have other types.
pub(crate) fn insert_into(arguments: Vec<Value>, meter: &mut Meter) -> FunctionResult {
    let mut arguments = arguments.into_iter();
    let Some(Value::Map(mut map)) = arguments.next() else {
        return no_overload();
    };
    if Arc::get_mut(&mut map).is_none() {
        meter.work(map.len() * ENTRY_WORK)?;
    }
    let target = Arc::make_mut(&mut map);
    match (arguments.next(), arguments.next()) {
        (Some(key), Some(value)) => {
            meter.work(ENTRY_WORK)?;
            insert(
                target,
                Key::of(&key).ok_or(EvaluationError::NoOverload)?,
                value,
            )?;
        }
        (Some(Value::Map(entries)), None) => {
            meter.work(entries.len() * ENTRY_WORK)?;
            for (key, value) in entries.iter() {
                insert(target, key.clone(), value.clone())?;
            }
        }
        _ => return no_overload(),
    }
    Ok(Value::Map(map))
}

fn insert(map: &mut Map, key: Key, value: Value) -> Result<(), EvaluationError> {
    if map.contains_key(&key) {
        let text = format!("insert failed: key {} already exists", key.printed());
        return Err(failed(text));
    }
    map.insert(key, value);
    Ok(())
}
