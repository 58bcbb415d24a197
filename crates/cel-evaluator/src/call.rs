//! Functions as data: the name, the implementation and the cost.

use crate::error::EvaluationError;
use crate::meter::Meter;
use crate::value::Value;

pub(crate) type FunctionResult = Result<Value, EvaluationError>;

/// The name of the function of `transformMap` after its namespace.
pub(crate) const MAP_INSERT_NAME: &str = "@mapInsert";
/// The function of `transformMap`.
pub(crate) const MAP_INSERT: &str = "cel.@mapInsert";
/// `sum` of a list of durations.
pub(crate) const DURATION_SUM: &str = "@sumOfDurations";
/// The member function that checks a permission.
pub(crate) const CHECK: &str = "check";

/// The member functions of values of the caller (`authorizer`).
pub(crate) const METHODS: [&str; 14] = [
    "allowed",
    CHECK,
    "error",
    "errored",
    "fieldSelector",
    "group",
    "labelSelector",
    "name",
    "namespace",
    "path",
    "reason",
    "resource",
    "serviceAccount",
    "subresource",
];

/// A function with all of its overloads.
#[derive(Debug)]
pub(crate) struct Function {
    pub name: &'static str,
    pub body: Body,
    pub price: Price,
    /// Whether the function converts a value to another type.
    pub is_conversion: bool,
}

/// The implementation. The first argument of a member function is its target.
pub(crate) type Body = fn(&[Value], &mut Meter) -> FunctionResult;

/// The cost of a call, from its arguments and its result.
pub(crate) type Price = fn(&[Value], Option<&Value>) -> u64;

/// Where a function is called from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// `f(x)`
    Global,
    /// `x.f()`
    Member,
    /// `f(x)` and `x.f()`
    Both,
}

/// The functions of a library.
pub(crate) type Table = &'static [(&'static str, Style, Body, Price)];

/// The cost of reading a text of this size.
pub(crate) fn traversal(size: u64) -> u64 {
    scaled(size, 0.1)
}

/// A size times a factor, rounded up.
pub(crate) fn scaled(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

/// The cost of a function that takes one step.
pub(crate) fn nominal(_arguments: &[Value], _result: Option<&Value>) -> u64 {
    1
}

/// The cost of reading the first argument.
pub(crate) fn reading(arguments: &[Value], _result: Option<&Value>) -> u64 {
    traversal(size(arguments, 0))
}

/// The cost of reading the first argument twice.
pub(crate) fn reading_twice(arguments: &[Value], _result: Option<&Value>) -> u64 {
    scaled(size(arguments, 0), 0.2)
}

pub(crate) fn size(arguments: &[Value], index: usize) -> u64 {
    arguments.get(index).map_or(1, Value::size)
}

pub(crate) fn no_overload() -> FunctionResult {
    Err(EvaluationError::NoOverload)
}

pub(crate) fn failed(text: impl Into<String>) -> EvaluationError {
    EvaluationError::Function(text.into())
}
