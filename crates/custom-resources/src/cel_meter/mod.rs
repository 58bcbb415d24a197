//! The cost of an evaluation, counted during the evaluation.
//!
//! The interpreter has no hook, so the syntax tree of an expression is changed before the evaluation ([`metered`]):
//! each loop counts its steps, and each call counts the sizes of its values. A unit is one node of the tree, ten
//! bytes of text, or five values that are read, because a unit of kube-apiserver is about one step. An operator such
//! as `error || true` can ignore an error, but this does not help an expression whose budget is exhausted: all
//! further steps fail as well, and the result is ignored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cel::common::types::{CelBytes, CelList, CelMap, CelOptional, CelString, CelStruct};
use cel::common::value::{CowVal, Val};
use cel::{Context, ExecutionError, FunctionContext};

pub(crate) use rewrite::metered;

mod functions;
mod rewrite;

/// Maximum units of one expression (upstream's value).
pub(crate) const RULE_UNITS_MAX: u64 = 1_000_000;
/// Maximum units of all expressions about one object (upstream's value).
pub(crate) const OBJECT_UNITS_MAX: u64 = 10_000_000;

/// Costs are counted in tenths of a unit.
const TENTHS: u64 = 10;
/// The cost of reading a value, in tenths.
const READ_COST: u64 = 2;
/// The cost of a value that is copied and stored, in tenths.
const COPY_COST: u64 = TENTHS;

/// The remaining budgets of an evaluation, in tenths of a unit.
#[derive(Debug)]
pub(crate) struct Meter {
    rule: AtomicU64,
    object: AtomicU64,
}

impl Meter {
    /// `units` is the remaining budget of the object.
    pub(crate) fn new(units: u64) -> Self {
        Self {
            rule: AtomicU64::new(0),
            object: AtomicU64::new(units * TENTHS),
        }
    }

    /// Gives the next expression its budget, and charges the cost of its start: its nodes and the values of its
    /// variables.
    ///
    /// # Errors
    /// The budget is exhausted.
    pub(crate) fn begin(&self, nodes: u64, values: u64) -> Result<(), ExecutionError> {
        self.rule.store(RULE_UNITS_MAX * TENTHS, Ordering::Relaxed);
        self.charge(nodes * TENTHS + values * READ_COST)
    }

    /// Whether the budget of the present expression is exhausted.
    pub(crate) fn is_spent(&self) -> bool {
        self.rule.load(Ordering::Relaxed) == 0
    }

    /// Whether the budget of the object is exhausted.
    pub(crate) fn is_object_spent(&self) -> bool {
        self.object.load(Ordering::Relaxed) == 0
    }

    /// The remaining units of the object.
    pub(crate) fn units_left(&self) -> u64 {
        self.object.load(Ordering::Relaxed) / TENTHS
    }

    fn charge(&self, tenths: u64) -> Result<(), ExecutionError> {
        // Only one thread evaluates, so the two counters need no common lock.
        for budget in [&self.object, &self.rule] {
            let remaining = budget.load(Ordering::Relaxed).saturating_sub(tenths);
            budget.store(remaining, Ordering::Relaxed);
            if remaining == 0 {
                self.rule.store(0, Ordering::Relaxed);
                return Err(ExecutionError::function_error("cost", "out of budget"));
            }
        }
        Ok(())
    }
}

/// The type of functions for [`Context::add_function`].
type Function = Box<
    dyn for<'context, 'call> Fn(
            &mut FunctionContext<'context, 'call>,
        ) -> Result<CowVal<'context, 'call>, ExecutionError>
        + Send
        + Sync,
>;

/// Adds the functions that the metered trees call.
pub(crate) fn add_functions(context: &mut Context<'_, '_>, meter: &Arc<Meter>) {
    functions::add(context, meter);
}

/// The text; `None` if the value has another type.
fn text(value: &dyn Val) -> Option<&str> {
    value
        .downcast_ref::<CelString<'_>>()
        .map(|text| text.inner())
}

/// The cost of reading a whole value, in tenths: `each` for each value inside of it, and one for each byte of text. A
/// scalar costs nothing.
fn weight(value: &dyn Val, each: u64) -> u64 {
    if let Some(text) = text(value) {
        return text.len() as u64;
    }
    if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        let items = list.inner().iter();
        return items.map(|item| each + weight(item.as_ref(), each)).sum();
    }
    if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        let entries = map.inner().iter();
        let keyed = entries
            .map(|(key, value)| each + weight(key.inner(), each) + weight(value.as_ref(), each));
        return keyed.sum();
    }
    if let Some(bytes) = value.downcast_ref::<CelBytes<'_>>() {
        return bytes.inner().len() as u64;
    }
    if let Some(optional) = value.downcast_ref::<CelOptional<'_>>() {
        return optional
            .option()
            .map_or(0, |value| each + weight(value, each));
    }
    if let Some(structure) = value.downcast_ref::<CelStruct<'_>>() {
        let fields = structure.field_values();
        let fields = fields.iter();
        return fields
            .map(|(_, value)| each + weight(value.as_ref(), each))
            .sum();
    }
    0
}
