//! Faults that tests order. Each is a file `faults/NAME.json` in the driver's state, with the method, the
//! point in the method, the kind of fault, and optionally the volume, the role and the number of times:
//!
//! `{"method": "NodeStageVolume", "at": "after", "kind": "die", "times": 2, "role": "node n1"}`
//!
//! The parameter `faults` of a class creates such files for each of its volumes: `METHOD:AT:KIND`, separated
//! by commas.

use std::fs;
use std::io;
use std::path::Path;

use json_tree::{Value, json};

use crate::state::State;

/// The fault that a call must execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The call fails with this code.
    Fail(u32),
    /// The process ends.
    Die,
    /// The call gets no response.
    Hang,
    /// The call is delayed, in milliseconds.
    Slow(u64),
    /// The call is executed twice; the second response is sent.
    Repeat,
}

impl Fault {
    /// Parses `die`, `hang`, `repeat`, `fail-14`, `slow-500`.
    fn parse(kind: &str) -> Option<Self> {
        let (word, number) = kind.split_once('-').unwrap_or((kind, ""));
        Some(match word {
            "die" => Self::Die,
            "hang" => Self::Hang,
            "repeat" => Self::Repeat,
            "fail" => Self::Fail(number.parse().ok()?),
            "slow" => Self::Slow(number.parse().ok()?),
            _ => return None,
        })
    }
}

/// The next ordered fault of a call at a point. The fault is counted before it is executed.
pub(crate) fn next_fault(
    state: &State,
    role: &str,
    (method, at, volume): (&str, &str, &str),
) -> io::Result<Option<Fault>> {
    for (name, fault) in state.all("faults")? {
        let is =
            |key: &str, value: &str| fault[key].as_str().is_none_or(|expected| expected == value);
        let of_call = is("method", method) && is("at", at) && is("volume", volume);
        if !of_call || !is("role", role) {
            continue;
        }
        let Some(kind) = fault["kind"].as_str().and_then(Fault::parse) else {
            continue;
        };
        // Only the process that renames the file executes the fault.
        let file = state.directory("faults").join(format!("{name}.json"));
        let claimed = file.with_extension("taken");
        if fs::rename(&file, &claimed).is_err() {
            continue;
        }
        let times = fault["times"].as_u64().unwrap_or(1);
        if times > 1 {
            let mut rest = fault.clone();
            rest["times"] = json!(times - 1);
            state.write("faults", &name, &rest)?;
        }
        return Ok(Some(kind));
    }
    Ok(None)
}

/// Orders a fault.
///
/// # Errors
/// The file cannot be written.
pub fn order(dir: &Path, name: &str, fault: &Value) -> io::Result<()> {
    State::open(dir)?.write("faults", name, fault)
}

/// The faults in a volume's parameter; `None` if the parameter is malformed.
pub(crate) fn parse(orders: &str, volume: &str) -> Option<Vec<Value>> {
    let orders = orders.split(',').filter(|order| !order.is_empty());
    let parse_order = |order: &str| {
        let mut parts = order.split(':');
        let (method, at, kind) = (parts.next()?, parts.next()?, parts.next()?);
        let is_supported =
            ["before", "middle", "after"].contains(&at) && Fault::parse(kind).is_some();
        (is_supported && parts.next().is_none())
            .then(|| json!({"method": method, "at": at, "kind": kind, "volume": volume}))
    };
    orders.map(parse_order).collect()
}
