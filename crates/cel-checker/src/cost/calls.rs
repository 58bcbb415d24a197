//! The costs of the language's functions and of cel-go's extensions.

use std::sync::Arc;

use cel::common::ast::{Expr, IdedExpr, LiteralValue};

use super::kubernetes;
use super::{Argument, Coster, EntrySize, Range};

/// The cost of each character of a text that is read.
pub(super) const TEXT_FACTOR: f64 = 0.1;
/// The cost of each character of a pattern, for each ten characters of the text.
pub(super) const PATTERN_FACTOR: f64 = 0.25;
/// The cost of a call and of a new list.
const CALL_AND_LIST_COST: Range = Range::fixed(11);

/// A call of one overload.
pub(super) struct Call<'e, 'c> {
    pub expression: &'e IdedExpr,
    pub function: &'c str,
    pub overload: &'c Arc<str>,
    pub target: Option<&'c Argument<'e>>,
    pub arguments: &'c [Argument<'e>],
    /// The costs of the arguments.
    pub costs: &'c [Range],
}

/// A cost, and the size of the result.
pub(super) type Estimate = (Range, Option<Range>);

impl Argument<'_> {
    pub(super) fn known(&self) -> Range {
        self.size.unwrap_or(Range::UNKNOWN)
    }

    /// The number of a literal.
    fn number(&self) -> Option<u64> {
        match &self.expression.expr {
            Expr::Literal(LiteralValue::Int(number)) => {
                Some(u64::try_from(*number.inner()).unwrap_or_default())
            }
            _ => None,
        }
    }
}

impl Call<'_, '_> {
    fn arguments_cost(&self) -> Range {
        let costs = self.costs.iter().copied();
        costs.fold(Range::ZERO, Range::plus)
    }
}

impl Coster<'_> {
    /// The cost of a call with its arguments, and the size of its result.
    pub(super) fn overload_cost(&mut self, call: &Call<'_, '_>) -> Estimate {
        let extended = extension_cost(call).or_else(|| self.kubernetes_cost(call));
        if let Some((cost, size)) = extended {
            return (cost.plus(call.arguments_cost()), size);
        }
        match &**call.overload {
            "logical_or" | "logical_and" => {
                // A first operand that decides is the least cost.
                let sum = call.arguments_cost();
                let min = call.costs.first().map_or(0, |first| first.min);
                (Range { min, max: sum.max }, None)
            }
            "conditional" => self.conditional(call),
            "add_string" | "add_bytes" | "add_list" => self.sum(call),
            _ => {
                let (cost, size) = language_cost(call).unwrap_or((Range::ONE, None));
                (cost.plus(call.arguments_cost()), size)
            }
        }
    }

    fn conditional(&mut self, call: &Call<'_, '_>) -> Estimate {
        let ([_, one, other], [condition, one_cost, other_cost]) = (call.arguments, call.costs)
        else {
            return (call.arguments_cost(), None);
        };
        let entries = EntrySize::union(
            self.entry_size(one.expression),
            self.entry_size(other.expression),
        );
        if let Some(entries) = entries {
            self.entries.insert(call.expression.id, entries);
        }
        let cost = condition.plus(one_cost.union(*other_cost));
        (cost, Some(one.known().union(other.known())))
    }

    fn sum(&mut self, call: &Call<'_, '_>) -> Estimate {
        let [one, other] = call.arguments else {
            return (call.arguments_cost(), None);
        };
        let size = one.known().plus(other.known());
        let entries = EntrySize::union(
            self.entry_size(one.expression),
            self.entry_size(other.expression),
        );
        if let Some(entries) = entries {
            self.entries.insert(call.expression.id, entries);
        }
        let cost = match &**call.overload {
            "add_list" => Range::ONE,
            _ => size.scaled(TEXT_FACTOR),
        };
        (cost.plus(call.arguments_cost()), Some(size))
    }

    fn kubernetes_cost(&self, call: &Call<'_, '_>) -> Option<Estimate> {
        kubernetes::cost(
            call,
            |argument| self.type_of(argument.expression),
            self.root,
        )
    }
}

fn language_cost(call: &Call<'_, '_>) -> Option<Estimate> {
    let reading = |size: Range| size.scaled(TEXT_FACTOR);
    Some(match (&**call.overload, call.target, call.arguments) {
        ("string_format", Some(target), _) => (reading(target.known()), None),
        ("string_to_bytes", _, [text]) => {
            let size = text.known();
            let max = size.max.saturating_mul(4);
            (reading(size), Some(Range { max, ..size }))
        }
        ("bytes_to_string", _, [bytes]) => {
            let size = bytes.known();
            let min = size.min / 4;
            (reading(size), Some(Range { min, ..size }))
        }
        ("strings_quote", _, [text]) => {
            let size = text.known();
            let quoted = Range {
                min: size.min.saturating_add(2),
                max: size.max.saturating_mul(2).saturating_add(2),
            };
            (reading(size), Some(quoted))
        }
        ("starts_with_string" | "ends_with_string", _, [part]) => (reading(part.known()), None),
        ("in_list", _, [_, list]) => (list.known(), None),
        ("matches_string", Some(target), [pattern]) => {
            (pattern_cost(target.known(), pattern.known()), None)
        }
        ("contains_string", Some(target), [part]) => {
            (reading(target.known()).times(reading(part.known())), None)
        }
        (overload, _, [one, other]) if is_comparison(overload) => {
            let max = one.known().max.min(other.known().max);
            let min = u64::from(max > 0);
            (reading(Range { min, max }), None)
        }
        _ => return None,
    })
}

/// The cost of a search. One is added, because the search in an empty text has a cost, too.
pub(super) fn pattern_cost(text: Range, pattern: Range) -> Range {
    let text = text.plus(Range::ONE).scaled(TEXT_FACTOR);
    text.times(pattern.scaled(PATTERN_FACTOR))
}

fn is_comparison(overload: &str) -> bool {
    matches!(
        overload,
        "less_string"
            | "greater_string"
            | "less_equals_string"
            | "greater_equals_string"
            | "less_bytes"
            | "greater_bytes"
            | "less_equals_bytes"
            | "greater_equals_bytes"
            | "equals"
            | "not_equals"
    )
}

/// The costs that cel-go's extensions state for their own overloads.
fn extension_cost(call: &Call<'_, '_>) -> Option<Estimate> {
    let built = |factor: f64, size: Range| {
        let cost = size.scaled(factor).plus(CALL_AND_LIST_COST);
        Some((cost, Some(size)))
    };
    let overload = &**call.overload;
    match (overload, call.target, call.arguments) {
        ("list_slice", Some(list), [start, end]) => {
            let start = start.number().unwrap_or(0);
            let end = end.number().unwrap_or(list.known().max);
            built(1.0, Range::fixed(end.saturating_sub(start)))
        }
        ("list_flatten", Some(list), []) => built(1.0, list.known()),
        ("list_flatten_int", Some(list), [depth]) => {
            built(depth.number().unwrap_or(u64::MAX) as f64, list.known())
        }
        ("lists_range", None, [end]) => built(1.0, Range::fixed(end.number().unwrap_or(u64::MAX))),
        ("list_reverse", Some(list), []) => built(1.0, list.known()),
        ("list_distinct", Some(list), []) => built(2.0, list.known().times(list.known())),
        (overload, Some(list), []) if overload.ends_with("_sort") => {
            built(sort_factor(overload), list.known().times(list.known()))
        }
        (overload, Some(_), [keys]) if overload.ends_with("_sortByAssociatedKeys") => {
            built(sort_factor(overload), keys.known().times(keys.known()))
        }
        ("list_sets_contains_list" | "list_sets_intersects_list", None, [one, other]) => {
            let cost = one.known().times(other.known()).plus(Range::ONE);
            Some((cost, None))
        }
        ("list_sets_equivalent_list", None, [one, other]) => {
            let product = one.known().times(other.known());
            Some((product.scaled(2.0).plus(Range::ONE), None))
        }
        _ => None,
    }
}

fn sort_factor(overload: &str) -> f64 {
    match overload.starts_with("list_string_") || overload.starts_with("list_bytes_") {
        true => 2.1,
        false => 2.0,
    }
}
