//! The evaluation of a compiled expression, with the costs of cel-go (`interpreter/runtimecost.go`).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::arithmetic::{add, divide, modulo, multiply, negate, subtract};
use crate::call::{CHECK, MAP_INSERT, traversal};
use crate::compare::{contains, equal, order};
use crate::compile::Program;
use crate::error::EvaluationError;
use crate::functions::maps::insert_into;
use crate::functions::patterns;
use crate::meter::Meter;
use crate::node::{
    Access, Call, Fold, Index, Method, Node, ObjectLiteral, Operator, Otherwise, Select,
};
use crate::pattern::CompiledPattern;
use crate::value::{Key, Map, Object, Value};

/// The cost of a name and of a selection.
const ACCESS_COST: u64 = 1;
const LIST_COST: u64 = 10;
const MAP_COST: u64 = 30;
const OBJECT_COST: u64 = 40;
/// The cost of a permission check, which allows for two checks in one expression.
const CHECK_COST: u64 = 350_000;
/// Work of one element of a loop or of a literal.
const ELEMENT_WORK: usize = 16;

type Outcome = Result<Value, EvaluationError>;

/// The variables of an expression by name.
#[derive(Clone, Debug, Default)]
pub struct Variables(BTreeMap<String, Value>);

impl Variables {
    pub fn insert(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
}

/// The result of an evaluation, and its cost.
#[derive(Debug)]
pub struct Evaluation {
    pub result: Result<Value, EvaluationError>,
    /// The cost; more than the limit if the evaluation was stopped.
    pub cost: u64,
}

impl Program {
    /// Evaluates the expression. The evaluation stops when it costs more than `limit`.
    pub fn evaluate(&self, variables: &Variables, limit: u64) -> Evaluation {
        let mut evaluator = Evaluator {
            variables,
            locals: Vec::new(),
            meter: Meter::new(limit),
        };
        let result = evaluator.evaluate(&self.root);
        Evaluation {
            result,
            cost: evaluator.meter.cost(),
        }
    }
}

struct Evaluator<'v> {
    variables: &'v Variables,
    /// The variables of loops. An accumulator may have an error in place of a value.
    locals: Vec<Outcome>,
    meter: Meter,
}

impl Evaluator<'_> {
    fn evaluate(&mut self, node: &Node) -> Outcome {
        match node {
            Node::Constant(value) => Ok(value.clone()),
            Node::Local(position) => {
                self.meter.charge(ACCESS_COST)?;
                self.locals[*position].clone()
            }
            Node::LastUse(position) => {
                self.meter.charge(ACCESS_COST)?;
                std::mem::replace(&mut self.locals[*position], Ok(Value::Null))
            }
            Node::Variable(name) => {
                self.meter.charge(ACCESS_COST)?;
                let value = self.variables.get(name).cloned();
                value.ok_or_else(|| EvaluationError::NoAttribute(name.to_string()))
            }
            Node::Select(select) => self.select(select),
            Node::Index(index) => self.index(index),
            Node::And(parts) => self.logical(parts, false),
            Node::Or(parts) => self.logical(parts, true),
            Node::Not(part) => {
                let flag = self.boolean(part)?;
                self.meter.charge(1)?;
                Ok(Value::Bool(!flag))
            }
            Node::Negate(part) => {
                let value = self.evaluate(part)?;
                self.meter.charge(1)?;
                negate(&value)
            }
            Node::NotStrictlyFalse(part) => {
                let value = self.evaluate(part);
                self.meter.charge(1)?;
                Ok(Value::Bool(!matches!(value, Ok(Value::Bool(false)))))
            }
            Node::Conditional(parts) => {
                let [condition, one, other] = parts.as_ref();
                match self.boolean(condition)? {
                    true => self.evaluate(one),
                    false => self.evaluate(other),
                }
            }
            Node::Binary(operator, parts) => self.binary(*operator, parts),
            Node::WithinConstants(part, constants) => {
                let value = self.evaluate(part)?;
                self.is_within(&value, constants).map(Value::Bool)
            }
            Node::Otherwise(otherwise) => self.otherwise(otherwise),
            Node::Call(call) => self.call(call),
            Node::Method(method) => self.method(method),
            Node::List(_) | Node::Map(_) | Node::Object(_) => self.literal(node),
            Node::Bind(parts) => self.bind(parts),
            Node::Fold(fold) => self.fold(fold),
        }
    }

    fn boolean(&mut self, node: &Node) -> Result<bool, EvaluationError> {
        match self.evaluate(node)? {
            Value::Bool(flag) => Ok(flag),
            _ => Err(EvaluationError::NoOverload),
        }
    }

    /// `&&` and `||`: an operand with the deciding value decides, also if the other operand is an error.
    fn logical(&mut self, parts: &[Node; 2], deciding: bool) -> Outcome {
        let [one, other] = parts;
        let first = self.boolean(one);
        match &first {
            Ok(flag) if *flag == deciding => return Ok(Value::Bool(deciding)),
            Err(error) if error.is_cost_limit() => return first.map(Value::Bool),
            _ => {}
        }
        match self.boolean(other) {
            Ok(flag) if flag == deciding => Ok(Value::Bool(deciding)),
            Err(error) if error.is_cost_limit() => Err(error),
            second => first.and(second).map(Value::Bool),
        }
    }

    fn select(&mut self, select: &Select) -> Outcome {
        let operand = self.evaluate(&select.operand)?;
        let is_presence = select.access == Access::Presence;
        let cost = u64::from(!is_presence) + u64::from(select.is_relative);
        self.meter.charge(cost * ACCESS_COST)?;
        let (operand, is_optional) = match operand {
            Value::Optional(Some(value)) => ((*value).clone(), true),
            Value::Optional(None) if is_presence => return Ok(Value::Bool(false)),
            Value::Optional(None) => return Ok(Value::Optional(None)),
            other => (other, select.access == Access::Optional),
        };
        let value = match &operand {
            Value::Map(map) => map.get(&select.field).cloned(),
            Value::Object(object) => object.fields.get(&select.name).cloned(),
            Value::Extension(value) if is_presence => {
                return Ok(Value::Bool(value.has_field(&select.name)));
            }
            Value::Extension(value) => value.field(&select.name)?,
            _ => return Err(EvaluationError::NoOverload),
        };
        match (value, is_presence, is_optional) {
            (value, true, _) => Ok(Value::Bool(value.is_some())),
            (value, _, true) => Ok(Value::Optional(value.map(Arc::new))),
            (Some(value), ..) => Ok(value),
            (None, ..) => Err(EvaluationError::NoKey(select.name.to_string())),
        }
    }

    fn index(&mut self, index: &Index) -> Outcome {
        let operand = self.evaluate(&index.operand)?;
        let key = self.evaluate(&index.index)?;
        self.meter
            .charge(ACCESS_COST + u64::from(index.is_relative))?;
        let (operand, is_optional) = match operand {
            Value::Optional(Some(value)) => ((*value).clone(), true),
            Value::Optional(None) => return Ok(Value::Optional(None)),
            other => (other, index.is_optional),
        };
        let value = element(&operand, &key);
        if !is_optional {
            return value;
        }
        match value {
            Ok(value) => Ok(Value::some(value)),
            Err(EvaluationError::NoKey(_) | EvaluationError::OutOfBounds(_)) => {
                Ok(Value::Optional(None))
            }
            Err(error) => Err(error),
        }
    }

    fn binary(&mut self, operator: Operator, parts: &[Node; 2]) -> Outcome {
        let [one, other] = parts;
        let one = self.evaluate(one)?;
        let other = self.evaluate(other)?;
        self.meter.charge(operator_cost(operator, &one, &other))?;
        let compared = |wanted: &[Ordering]| {
            let order = order(&one, &other)?;
            Ok(Value::Bool(wanted.contains(&order)))
        };
        match operator {
            Operator::Equal => equal(&one, &other, &mut self.meter).map(Value::Bool),
            Operator::NotEqual => {
                let is_equal = equal(&one, &other, &mut self.meter)?;
                Ok(Value::Bool(!is_equal))
            }
            Operator::Less => compared(&[Ordering::Less]),
            Operator::LessOrEqual => compared(&[Ordering::Less, Ordering::Equal]),
            Operator::Greater => compared(&[Ordering::Greater]),
            Operator::GreaterOrEqual => compared(&[Ordering::Greater, Ordering::Equal]),
            Operator::In => self.is_within(&one, &other).map(Value::Bool),
            Operator::Add => add(one, &other, &mut self.meter),
            Operator::Subtract => subtract(&one, &other),
            Operator::Multiply => multiply(&one, &other),
            Operator::Divide => divide(&one, &other),
            Operator::Modulo => modulo(&one, &other),
        }
    }

    fn is_within(&mut self, value: &Value, container: &Value) -> Result<bool, EvaluationError> {
        match container {
            Value::List(list) => contains(&list.items, value, &mut self.meter),
            Value::Map(map) => Ok(Key::of(value).is_some_and(|key| map.contains_key(&key))),
            _ => Err(EvaluationError::NoOverload),
        }
    }

    fn otherwise(&mut self, otherwise: &Otherwise) -> Outcome {
        match self.evaluate(&otherwise.optional)? {
            Value::Optional(Some(value)) if otherwise.unwraps => Ok((*value).clone()),
            Value::Optional(Some(value)) => Ok(Value::Optional(Some(value))),
            Value::Optional(None) => {
                let other = self.evaluate(&otherwise.other)?;
                let fits = otherwise.unwraps || matches!(other, Value::Optional(_));
                fits.then_some(other).ok_or(EvaluationError::NoOverload)
            }
            _ => Err(EvaluationError::NoOverload),
        }
    }

    fn call(&mut self, call: &Call) -> Outcome {
        let arguments = self.arguments(&call.arguments)?;
        if call.function.name == MAP_INSERT {
            self.meter.charge(1)?;
            return insert_into(arguments, &mut self.meter);
        }
        let result = match self.searched(call, &arguments) {
            Some(result) => result,
            None => (call.function.body)(&arguments, &mut self.meter),
        };
        if let Err(error) = &result
            && error.is_cost_limit()
        {
            return result;
        }
        let price = call.function.price;
        self.meter.charge(price(&arguments, result.as_ref().ok()))?;
        result
    }

    /// The result of a search with a constant pattern, which is compiled once; `None` for other calls.
    fn searched(&mut self, call: &Call, arguments: &[Value]) -> Option<Outcome> {
        let name = call.function.name;
        let source = match call.arguments.get(1) {
            Some(Node::Constant(Value::String(source))) if patterns::is_search(name) => source,
            _ => return None,
        };
        // A malformed pattern is an error of each evaluation.
        let compile = || CompiledPattern::compile(source, &mut Meter::new(0)).ok();
        let pattern = call.pattern.get_or_init(compile).as_ref()?;
        Some(patterns::search(name, pattern, arguments, &mut self.meter))
    }

    fn arguments(&mut self, nodes: &[Node]) -> Result<Vec<Value>, EvaluationError> {
        nodes.iter().map(|node| self.evaluate(node)).collect()
    }

    fn method(&mut self, method: &Method) -> Outcome {
        let arguments = self.arguments(&method.arguments)?;
        self.meter.charge(match &*method.name {
            CHECK => CHECK_COST,
            _ => 1,
        })?;
        match arguments.split_first() {
            Some((Value::Extension(target), arguments)) => target.call(&method.name, arguments),
            _ => Err(EvaluationError::NoOverload),
        }
    }

    fn literal(&mut self, node: &Node) -> Outcome {
        match node {
            Node::List(elements) => {
                let mut items = Vec::with_capacity(elements.len());
                for element in elements {
                    let value = self.evaluate(&element.value)?;
                    items.extend(present(value, element.is_optional)?);
                }
                self.meter.charge(LIST_COST)?;
                self.meter.work(items.len() * ELEMENT_WORK)?;
                Ok(Value::list(items))
            }
            Node::Map(entries) => {
                let mut map = Map::new();
                for entry in entries {
                    let key = self.evaluate(&entry.key)?;
                    let key = Key::of(&key).ok_or_else(|| unsuitable_key(&key))?;
                    let value = self.evaluate(&entry.value)?;
                    if let Some(value) = present(value, entry.is_optional)?
                        && map.insert(key.clone(), value).is_some()
                    {
                        let text = format!("Failed with repeated key {}", key.printed());
                        return Err(EvaluationError::Function(text));
                    }
                }
                self.meter.charge(MAP_COST)?;
                self.meter.work(map.len() * ELEMENT_WORK)?;
                Ok(Value::map(map))
            }
            Node::Object(literal) => self.object(literal),
            _ => Err(EvaluationError::NoOverload),
        }
    }

    fn object(&mut self, literal: &ObjectLiteral) -> Outcome {
        let mut fields = BTreeMap::new();
        for (name, value, is_optional) in &literal.fields {
            let value = self.evaluate(value)?;
            if let Some(value) = present(value, *is_optional)? {
                fields.insert(name.clone(), value);
            }
        }
        self.meter.charge(OBJECT_COST)?;
        let name = literal.name.clone();
        Ok(Value::Object(Arc::new(Object { name, fields })))
    }

    fn bind(&mut self, parts: &[Node; 2]) -> Outcome {
        let [value, result] = parts;
        let value = self.evaluate(value);
        if let Err(error) = &value
            && error.is_cost_limit()
        {
            return value;
        }
        let outer = self.locals.len();
        self.locals.push(value);
        let result = self.evaluate(result);
        self.locals.truncate(outer);
        result
    }

    fn fold(&mut self, fold: &Fold) -> Outcome {
        let initial = self.evaluate(&fold.initial)?;
        let range = self.evaluate(&fold.range)?;
        let outer = self.locals.len();
        self.locals.push(Ok(initial));
        let result = self
            .iterate(fold, &range)
            .and_then(|()| self.evaluate(&fold.result));
        self.locals.truncate(outer);
        result
    }

    fn iterate(&mut self, fold: &Fold, range: &Value) -> Result<(), EvaluationError> {
        match range {
            Value::List(list) => {
                for (index, item) in list.items.iter().enumerate() {
                    let index = i64::try_from(index).unwrap_or(i64::MAX);
                    let first = match fold.has_two_variables {
                        true => Value::Int(index),
                        false => item.clone(),
                    };
                    if !self.step(fold, first, item)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for (key, value) in map.iter() {
                    if !self.step(fold, key.to_value(), value)? {
                        break;
                    }
                }
            }
            _ => return Err(EvaluationError::NoOverload),
        }
        Ok(())
    }

    /// One step of a loop, whose accumulator is the last variable. Returns whether the loop continues.
    fn step(&mut self, fold: &Fold, first: Value, second: &Value) -> Result<bool, EvaluationError> {
        self.meter.work(ELEMENT_WORK)?;
        let accumulator = self.locals.len() - 1;
        self.locals.push(Ok(first));
        if fold.has_two_variables {
            self.locals.push(Ok(second.clone()));
        }
        let goes_on = self.boolean(&fold.condition);
        let step = match &goes_on {
            Ok(true) => Some(self.evaluate(&fold.step)),
            _ => None,
        };
        self.locals.truncate(accumulator + 1);
        let Some(step) = step else {
            return goes_on;
        };
        if let Err(error) = &step
            && error.is_cost_limit()
        {
            return Err(error.clone());
        }
        self.locals[accumulator] = step;
        Ok(true)
    }
}

/// The element of a list, or the value of a map.
fn element(operand: &Value, key: &Value) -> Outcome {
    match operand {
        Value::List(list) => {
            let position = match Key::of(key) {
                Some(Key::Int(position)) => position,
                Some(Key::Uint(position)) => i64::try_from(position).unwrap_or(i64::MAX),
                _ => return Err(EvaluationError::NoOverload),
            };
            let item = usize::try_from(position)
                .ok()
                .and_then(|position| list.items.get(position));
            item.cloned().ok_or(EvaluationError::OutOfBounds(position))
        }
        Value::Map(map) => {
            let Some(key) = Key::of(key) else {
                return Err(unsuitable_key(key));
            };
            let value = map.get(&key).cloned();
            value.ok_or_else(|| EvaluationError::NoKey(key.printed()))
        }
        Value::Extension(value) => match key {
            Value::String(name) => value
                .field(name)?
                .ok_or_else(|| EvaluationError::NoKey(name.to_string())),
            _ => Err(EvaluationError::NoOverload),
        },
        _ => Err(EvaluationError::NoOverload),
    }
}

fn unsuitable_key(key: &Value) -> EvaluationError {
    let text = format!("unsupported key type: {}", key.type_name());
    EvaluationError::Function(text)
}

/// The value of an element or a field of a literal; `None` for an optional without a value.
fn present(value: Value, is_optional: bool) -> Result<Option<Value>, EvaluationError> {
    if !is_optional {
        return Ok(Some(value));
    }
    match value {
        Value::Optional(value) => Ok(value.map(|value| (*value).clone())),
        _ => Err(EvaluationError::NoOverload),
    }
}

fn operator_cost(operator: Operator, one: &Value, other: &Value) -> u64 {
    let is_text = |value: &Value| matches!(value, Value::String(_) | Value::Bytes(_));
    match operator {
        Operator::Equal | Operator::NotEqual => match one {
            Value::Quantity(_)
            | Value::Address(_)
            | Value::Range(_)
            | Value::Format(_)
            | Value::Url(_)
            | Value::Version(_)
            | Value::Extension(_) => 1,
            _ => traversal(one.size().min(other.size())),
        },
        Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual
            if is_text(one) =>
        {
            traversal(one.size().min(other.size()))
        }
        Operator::In => match other {
            Value::List(list) => list.items.len() as u64,
            _ => 1,
        },
        Operator::Add if is_text(one) => traversal(one.size() + other.size()),
        _ => 1,
    }
}
