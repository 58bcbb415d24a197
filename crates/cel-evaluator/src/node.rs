//! The tree of a compiled expression.

use std::sync::{Arc, OnceLock};

use crate::call::Function;
use crate::pattern::CompiledPattern;
use crate::value::{Key, Value};

#[derive(Debug)]
pub(crate) enum Node {
    Constant(Value),
    /// A variable of a loop or of `cel.bind`, by its position on the stack.
    Local(usize),
    /// The last use of an accumulator in the step of its loop. The value is moved, so that the step can change it
    /// without a copy.
    LastUse(usize),
    Variable(Arc<str>),
    Select(Box<Select>),
    Index(Box<Index>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Not(Box<Node>),
    Negate(Box<Node>),
    NotStrictlyFalse(Box<Node>),
    Conditional(Box<[Node; 3]>),
    Binary(Operator, Box<[Node; 2]>),
    /// Membership in a list of constants, which costs nothing.
    WithinConstants(Box<Node>, Value),
    /// `or` and `orValue`, which evaluate their argument only if they need it.
    Otherwise(Box<Otherwise>),
    Call(Box<Call>),
    /// A member function of a value of the caller.
    Method(Box<Method>),
    List(Vec<Element>),
    Map(Vec<MapEntry>),
    Object(Box<ObjectLiteral>),
    /// A value and the expression that uses it.
    Bind(Box<[Node; 2]>),
    Fold(Box<Fold>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    In,
    Equal,
    Less,
    Greater,
    NotEqual,
    LessOrEqual,
    GreaterOrEqual,
}

#[derive(Debug)]
pub(crate) struct Select {
    pub operand: Node,
    pub field: Key,
    pub name: Arc<str>,
    pub access: Access,
    /// Whether the operand is neither a variable nor a part of a variable.
    pub is_relative: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The value; its absence is an error.
    Value,
    /// An optional value.
    Optional,
    /// Whether there is a value.
    Presence,
}

#[derive(Debug)]
pub(crate) struct Index {
    pub operand: Node,
    pub index: Node,
    pub is_optional: bool,
    pub is_relative: bool,
}

#[derive(Debug)]
pub(crate) struct Otherwise {
    pub optional: Node,
    pub other: Node,
    /// Whether the result is the value inside of the optional.
    pub unwraps: bool,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub function: &'static Function,
    pub arguments: Vec<Node>,
    /// The compiled pattern of a call with a constant pattern.
    pub pattern: OnceLock<Option<CompiledPattern>>,
}

#[derive(Debug)]
pub(crate) struct Method {
    pub name: Arc<str>,
    pub arguments: Vec<Node>,
}

#[derive(Debug)]
pub(crate) struct Element {
    pub value: Node,
    pub is_optional: bool,
}

#[derive(Debug)]
pub(crate) struct MapEntry {
    pub key: Node,
    pub value: Node,
    pub is_optional: bool,
}

#[derive(Debug)]
pub(crate) struct ObjectLiteral {
    pub name: Arc<str>,
    pub fields: Vec<(Arc<str>, Node, bool)>,
}

/// A loop. Its variables are on the stack: the accumulator, and then one or two variables for each element.
#[derive(Debug)]
pub(crate) struct Fold {
    pub range: Node,
    pub initial: Node,
    pub condition: Node,
    pub step: Node,
    pub result: Node,
    pub has_two_variables: bool,
}
