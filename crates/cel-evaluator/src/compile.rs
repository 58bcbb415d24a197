//! From a syntax tree to a tree whose names are resolved.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, LiteralValue,
    SelectExpr, StructExpr, operators,
};
use thiserror::Error;

use crate::call::{DURATION_SUM, MAP_INSERT};
use crate::functions;
use crate::meter::Meter;
use crate::node::{
    Access, Call, Element, Fold, Index, MapEntry, Method, Node, ObjectLiteral, Operator, Otherwise,
    Select,
};
use crate::value::{Key, List, Map, Value};

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompileError {
    #[error("undeclared reference to '{0}'")]
    Undeclared(String),
    #[error("the syntax tree has no value at this place")]
    Incomplete,
}

/// The names that an expression may use.
#[derive(Clone, Copy, Debug)]
pub struct Names<'n> {
    pub variables: &'n [&'n str],
    /// Whether an expression may construct values of the type with this name.
    pub constructs: fn(&str) -> bool,
    /// The identifiers of calls of `sum` on lists of durations, whose sum is a duration also if the list is empty.
    pub duration_sums: &'n BTreeSet<u64>,
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    pub(crate) root: Node,
    variables: BTreeSet<Arc<str>>,
    literal_keys: BTreeSet<String>,
}

impl Program {
    /// Compiles a parsed expression.
    ///
    /// # Errors
    /// The first name that is not declared.
    pub fn compile(expression: &IdedExpr, names: Names<'_>) -> Result<Self, CompileError> {
        let mut compiler = Compiler {
            names,
            locals: Vec::new(),
            variables: BTreeSet::new(),
            literal_keys: BTreeSet::new(),
        };
        let root = compiler.node(expression)?;
        Ok(Self {
            root,
            variables: compiler.variables,
            literal_keys: compiler.literal_keys,
        })
    }

    /// Whether the expression uses a variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// The texts that are used as keys: `a['key']`.
    pub fn literal_keys(&self) -> &BTreeSet<String> {
        &self.literal_keys
    }
}

/// The names of types.
const TYPES: [&str; 16] = [
    "bool",
    "bytes",
    "double",
    "google.protobuf.Duration",
    "google.protobuf.Timestamp",
    "int",
    "list",
    "map",
    "net.CIDR",
    "net.IP",
    "null_type",
    "optional_type",
    "string",
    "type",
    "uint",
    "kubernetes.Quantity",
];

struct Compiler<'n> {
    names: Names<'n>,
    /// The variables of the loops around the present node, from the outermost.
    locals: Vec<String>,
    variables: BTreeSet<Arc<str>>,
    literal_keys: BTreeSet<String>,
}

type Compiled = Result<Node, CompileError>;

impl Compiler<'_> {
    fn node(&mut self, expression: &IdedExpr) -> Compiled {
        match &expression.expr {
            Expr::Unspecified => Err(CompileError::Incomplete),
            Expr::Literal(literal) => Ok(Node::Constant(Value::of_literal(literal))),
            Expr::Ident(name) => self.identifier(name),
            Expr::Select(select) => self.select(expression, select),
            Expr::Call(call) => self.call(expression.id, call),
            Expr::List(list) => {
                let mut elements = Vec::with_capacity(list.elements.len());
                for (index, element) in list.elements.iter().enumerate() {
                    elements.push(Element {
                        value: self.node(element)?,
                        is_optional: list.optional_indices.contains(&index),
                    });
                }
                Ok(constant_list(elements))
            }
            Expr::Map(map) => self.map(&map.entries),
            Expr::Struct(literal) => self.object(literal),
            Expr::Comprehension(all) => self.comprehension(all),
        }
    }

    fn nodes<'e>(
        &mut self,
        expressions: impl IntoIterator<Item = &'e IdedExpr>,
    ) -> Result<Vec<Node>, CompileError> {
        let expressions = expressions.into_iter();
        expressions.map(|part| self.node(part)).collect()
    }

    fn local(&self, name: &str) -> Option<usize> {
        self.locals.iter().rposition(|local| local == name)
    }

    fn is_variable(&self, name: &str) -> bool {
        self.local(name).is_some() || self.names.variables.contains(&name)
    }

    fn identifier(&mut self, name: &str) -> Compiled {
        let global = name.strip_prefix('.');
        if global.is_none()
            && let Some(position) = self.local(name)
        {
            return Ok(Node::Local(position));
        }
        let name = global.unwrap_or(name);
        if self.names.variables.contains(&name) {
            let name: Arc<str> = Arc::from(name);
            self.variables.insert(name.clone());
            return Ok(Node::Variable(name));
        }
        type_constant(name).ok_or_else(|| CompileError::Undeclared(name.to_owned()))
    }

    fn select(&mut self, expression: &IdedExpr, select: &SelectExpr) -> Compiled {
        if let Some(name) = qualified_name(expression)
            && !self.is_variable(name.split('.').next().unwrap_or_default())
            && let Some(constant) = type_constant(&name)
        {
            return Ok(constant);
        }
        let access = match select.test {
            true => Access::Presence,
            false => Access::Value,
        };
        self.field(&select.operand, &select.field, access)
    }

    fn field(&mut self, operand: &IdedExpr, field: &str, access: Access) -> Compiled {
        let operand = self.node(operand)?;
        let name: Arc<str> = Arc::from(field);
        Ok(Node::Select(Box::new(Select {
            is_relative: is_computed(&operand),
            operand,
            field: Key::String(name.clone()),
            name,
            access,
        })))
    }

    fn map(&mut self, entries: &[IdedEntryExpr]) -> Compiled {
        let mut compiled = Vec::with_capacity(entries.len());
        for entry in entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else {
                return Err(CompileError::Incomplete);
            };
            compiled.push(MapEntry {
                key: self.node(&entry.key)?,
                value: self.node(&entry.value)?,
                is_optional: entry.optional,
            });
        }
        Ok(constant_map(compiled))
    }

    fn object(&mut self, literal: &StructExpr) -> Compiled {
        let name = literal.type_name.as_str();
        if !(self.names.constructs)(name) {
            return Err(CompileError::Undeclared(name.to_owned()));
        }
        let mut fields = Vec::with_capacity(literal.entries.len());
        for entry in &literal.entries {
            let EntryExpr::StructField(field) = &entry.expr else {
                return Err(CompileError::Incomplete);
            };
            let value = self.node(&field.value)?;
            fields.push((Arc::from(field.field.as_str()), value, field.optional));
        }
        Ok(Node::Object(Box::new(ObjectLiteral {
            name: Arc::from(name),
            fields,
        })))
    }

    fn comprehension(&mut self, all: &ComprehensionExpr) -> Compiled {
        let initial = self.node(&all.accu_init)?;
        let outer = self.locals.len();
        if is_binding(all) {
            self.locals.push(all.accu_var.clone());
            let result = self.node(&all.result);
            self.locals.truncate(outer);
            return Ok(Node::Bind(Box::new([initial, result?])));
        }
        let range = self.node(&all.iter_range)?;
        self.locals.push(all.accu_var.clone());
        self.locals.push(all.iter_var.clone());
        self.locals.extend(all.iter_var2.clone());
        let condition = self.node(&all.loop_cond);
        let step = self.node(&all.loop_step);
        self.locals.truncate(outer + 1);
        let result = self.node(&all.result);
        self.locals.truncate(outer);
        let mut step = step?;
        move_accumulator(&mut step, outer);
        Ok(Node::Fold(Box::new(Fold {
            range,
            initial,
            condition: condition?,
            step,
            result: result?,
            has_two_variables: all.iter_var2.is_some(),
        })))
    }

    fn call(&mut self, id: u64, call: &CallExpr) -> Compiled {
        if let Some(target) = &call.target {
            if self.names.duration_sums.contains(&id) {
                let target = self.node(target)?;
                return function_call(DURATION_SUM, vec![target], true);
            }
            return self.member_call(target, call);
        }
        let name = call.func_name.strip_prefix('.').unwrap_or(&call.func_name);
        match (name, call.args.as_slice()) {
            (operators::OPT_SELECT, [operand, field]) => {
                let Expr::Literal(LiteralValue::String(field)) = &field.expr else {
                    return Err(CompileError::Incomplete);
                };
                self.field(operand, field.inner(), Access::Optional)
            }
            (operators::INDEX, [operand, index]) => self.index(operand, index, false),
            (operators::OPT_INDEX, [operand, index]) => self.index(operand, index, true),
            (operators::CONDITIONAL, [condition, one, other]) => {
                let parts = [self.node(condition)?, self.node(one)?, self.node(other)?];
                Ok(Node::Conditional(Box::new(parts)))
            }
            (operators::LOGICAL_NOT, [part]) => Ok(Node::Not(Box::new(self.node(part)?))),
            (operators::NEGATE, [part]) => Ok(Node::Negate(Box::new(self.node(part)?))),
            (operators::NOT_STRICTLY_FALSE, [part]) => {
                Ok(Node::NotStrictlyFalse(Box::new(self.node(part)?)))
            }
            (name, [one, other]) if is_binary(name) => {
                let parts = [self.node(one)?, self.node(other)?];
                Ok(binary(name, parts))
            }
            (name, arguments) => {
                let arguments = self.nodes(arguments)?;
                function_call(name, arguments, false)
            }
        }
    }

    fn member_call(&mut self, target: &IdedExpr, call: &CallExpr) -> Compiled {
        // As in cel-go, a target that spells the qualified name of a function together with the name is no value.
        if let Some(prefix) = qualified_name(target) {
            let prefix = prefix.strip_prefix('.').unwrap_or(&prefix);
            let qualified = format!("{prefix}.{}", call.func_name);
            if functions::find(&qualified, false).is_some() {
                let arguments = self.nodes(&call.args)?;
                return function_call(&qualified, arguments, false);
            }
        }
        let arguments = self.nodes(std::iter::once(target).chain(&call.args))?;
        if let ("or" | "orValue", 2) = (call.func_name.as_str(), arguments.len()) {
            let mut arguments = arguments.into_iter();
            if let (Some(optional), Some(other)) = (arguments.next(), arguments.next()) {
                let unwraps = call.func_name == "orValue";
                let otherwise = Otherwise {
                    optional,
                    other,
                    unwraps,
                };
                return Ok(Node::Otherwise(Box::new(otherwise)));
            }
            return Err(CompileError::Incomplete);
        }
        function_call(&call.func_name, arguments, true)
    }

    fn index(&mut self, operand: &IdedExpr, index: &IdedExpr, is_optional: bool) -> Compiled {
        if let Expr::Literal(LiteralValue::String(key)) = &index.expr {
            self.literal_keys.insert(key.inner().to_owned());
        }
        let operand = self.node(operand)?;
        Ok(Node::Index(Box::new(Index {
            is_relative: is_computed(&operand),
            operand,
            index: self.node(index)?,
            is_optional,
        })))
    }
}

fn function_call(name: &str, arguments: Vec<Node>, is_member: bool) -> Compiled {
    let Some(function) = functions::find(name, is_member) else {
        if is_member && functions::is_method(name) {
            let name = Arc::from(name);
            return Ok(Node::Method(Box::new(Method { name, arguments })));
        }
        return Err(CompileError::Undeclared(name.to_owned()));
    };
    // Conversions of constants are computed once, and cost nothing, as in cel-go.
    if function.is_conversion
        && let [Node::Constant(constant)] = arguments.as_slice()
        && let Ok(value) = (function.body)(std::slice::from_ref(constant), &mut Meter::new(0))
    {
        return Ok(Node::Constant(value));
    }
    Ok(Node::Call(Box::new(Call {
        function,
        arguments,
        pattern: OnceLock::new(),
    })))
}

/// Whether a comprehension has the form of `cel.bind`: no elements, and a condition that is false.
fn is_binding(all: &ComprehensionExpr) -> bool {
    let is_empty = matches!(&all.iter_range.expr, Expr::List(list) if list.elements.is_empty());
    let never = matches!(&all.loop_cond.expr,
        Expr::Literal(LiteralValue::Boolean(flag)) if !*flag.inner());
    is_empty && never
}

/// Marks the uses of the accumulator that come last in a step, where the step extends a list or a map.
fn move_accumulator(step: &mut Node, accumulator: usize) {
    let take = |node: &mut Node| {
        if matches!(node, Node::Local(position) if *position == accumulator) {
            *node = Node::LastUse(accumulator);
        }
    };
    match step {
        Node::Conditional(parts) => {
            let [_, one, other] = parts.as_mut();
            move_accumulator(one, accumulator);
            move_accumulator(other, accumulator);
        }
        Node::Binary(Operator::Add, parts) if !uses(&parts[1], accumulator) => {
            take(&mut parts[0]);
        }
        Node::Call(call) if call.function.name == MAP_INSERT => {
            if let Some((first, others)) = call.arguments.split_first_mut()
                && !others.iter().any(|other| uses(other, accumulator))
            {
                take(first);
            }
        }
        _ => {}
    }
}

/// Whether a node of the form of the macros uses a variable outside of nested loops. A user's expression cannot name
/// an accumulator, so only the macros' own nodes are visited.
fn uses(node: &Node, position: usize) -> bool {
    match node {
        Node::Local(other) => *other == position,
        Node::List(elements) => elements
            .iter()
            .any(|element| uses(&element.value, position)),
        _ => false,
    }
}

/// Whether a value is computed, and is neither a variable nor a part of one.
fn is_computed(node: &Node) -> bool {
    !matches!(
        node,
        Node::Local(_)
            | Node::LastUse(_)
            | Node::Variable(_)
            | Node::Select(_)
            | Node::Index(_)
            | Node::Conditional(_)
    )
}

fn type_constant(name: &str) -> Option<Node> {
    let is_type = TYPES.contains(&name);
    is_type.then(|| Node::Constant(Value::Type(Arc::from(name))))
}

fn constant_list(elements: Vec<Element>) -> Node {
    let values: Option<Vec<Value>> = elements
        .iter()
        .map(|element| match &element.value {
            Node::Constant(value) if !element.is_optional => Some(value.clone()),
            _ => None,
        })
        .collect();
    match values {
        Some(items) => Node::Constant(Value::list(items)),
        None => Node::List(elements),
    }
}

fn constant_map(entries: Vec<MapEntry>) -> Node {
    let mut map = Map::new();
    for entry in &entries {
        let constant = match (&entry.key, &entry.value) {
            (Node::Constant(key), Node::Constant(value)) if !entry.is_optional => {
                Key::of(key).map(|key| (key, value.clone()))
            }
            _ => None,
        };
        match constant {
            Some((key, value)) if !map.contains_key(&key) => map.insert(key, value),
            // A duplicate key is an error of the evaluation.
            _ => return Node::Map(entries),
        };
    }
    Node::Constant(Value::map(map))
}

fn is_binary(name: &str) -> bool {
    operator(name).is_some() || [operators::LOGICAL_AND, operators::LOGICAL_OR].contains(&name)
}

fn binary(name: &str, parts: [Node; 2]) -> Node {
    match operator(name) {
        Some(Operator::In) => match parts {
            [value, Node::Constant(Value::List(list))] if is_scalar_list(&list) => {
                Node::WithinConstants(Box::new(value), Value::List(list))
            }
            parts => Node::Binary(Operator::In, Box::new(parts)),
        },
        Some(operator) => Node::Binary(operator, Box::new(parts)),
        None if name == operators::LOGICAL_AND => Node::And(Box::new(parts)),
        None => Node::Or(Box::new(parts)),
    }
}

fn is_scalar_list(list: &List) -> bool {
    list.items.iter().all(|item| Key::of(item).is_some())
}

fn operator(name: &str) -> Option<Operator> {
    Some(match name {
        operators::EQUALS => Operator::Equal,
        operators::NOT_EQUALS => Operator::NotEqual,
        operators::LESS => Operator::Less,
        operators::LESS_EQUALS => Operator::LessOrEqual,
        operators::GREATER => Operator::Greater,
        operators::GREATER_EQUALS => Operator::GreaterOrEqual,
        operators::IN => Operator::In,
        operators::ADD => Operator::Add,
        operators::SUBSTRACT => Operator::Subtract,
        operators::MULTIPLY => Operator::Multiply,
        operators::DIVIDE => Operator::Divide,
        operators::MODULO => Operator::Modulo,
        _ => return None,
    })
}

/// The name that a chain of selections spells: `a.b.c`.
fn qualified_name(expression: &IdedExpr) -> Option<String> {
    let mut segments = Vec::new();
    let mut next = expression;
    while let Expr::Select(select) = &next.expr {
        if select.test {
            return None;
        }
        segments.push(select.field.as_str());
        next = &select.operand;
    }
    let Expr::Ident(first) = &next.expr else {
        return None;
    };
    segments.push(first);
    segments.reverse();
    Some(segments.join("."))
}
