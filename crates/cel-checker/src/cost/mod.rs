//! The estimated cost of an expression (cel-go, `checker/cost.go`; k8s.io/apiserver, `pkg/cel/library/cost.go`).

mod calls;
mod kubernetes;
mod range;
mod sizes;

use std::collections::BTreeMap;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, MapExpr,
    SelectExpr, StructExpr,
};

pub use range::Range;
pub use sizes::{Content, FieldSize, ValueSize};

use sizes::PathStep;

use crate::check::Checked;
use crate::types::Type;

const ACCESS_COST: Range = Range::ONE;
const LIST_COST: Range = Range::fixed(10);
const MAP_COST: Range = Range::fixed(30);
const OBJECT_COST: Range = Range::fixed(40);
/// The names of accumulators of loops; the accumulator of `cel.bind` has the name of its variable.
const ACCUMULATORS: [&str; 2] = ["@result", "__result__"];

/// Estimates the cost of a checked expression. `root` has the sizes of `self` and `oldSelf`.
pub fn estimate(expression: &IdedExpr, checked: &Checked, root: &ValueSize) -> Range {
    let mut coster = Coster {
        checked,
        root,
        paths: BTreeMap::new(),
        sizes: BTreeMap::new(),
        entries: BTreeMap::new(),
        locals: Vec::new(),
    };
    coster.cost(expression)
}

/// The path from a variable to a value; `None` if the value is no part of a variable.
type Path = Option<Vec<PathStep>>;

/// The sizes of the elements of a list or of the entries of a map.
#[derive(Clone, Copy, Debug)]
struct EntrySize {
    is_list: bool,
    key: Range,
    value: Range,
}

impl EntrySize {
    fn union(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let (one, other) = (one?, other?);
        Some(Self {
            is_list: one.is_list,
            key: one.key.union(other.key),
            value: one.value.union(other.value),
        })
    }
}

struct Local {
    name: String,
    path: Path,
    size: Option<Range>,
    entries: Option<EntrySize>,
}

/// An argument or a target of a call.
struct Argument<'e> {
    expression: &'e IdedExpr,
    path: Path,
    size: Option<Range>,
}

struct Coster<'c> {
    checked: &'c Checked,
    root: &'c ValueSize,
    /// The paths, sizes and sizes of entries that are known, by the identifiers of the expressions.
    paths: BTreeMap<u64, Path>,
    sizes: BTreeMap<u64, Range>,
    entries: BTreeMap<u64, EntrySize>,
    locals: Vec<Local>,
}

impl<'c> Coster<'c> {
    fn cost(&mut self, expression: &IdedExpr) -> Range {
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => Range::ZERO,
            Expr::Ident(name) => {
                let path = match self.local(name) {
                    Some(local) => local.path.clone(),
                    None => Some(Vec::new()),
                };
                self.paths.insert(expression.id, path);
                ACCESS_COST
            }
            Expr::Select(select) => self.select(expression, select),
            Expr::Call(call) => self.call(expression, call),
            Expr::List(list) => self.list(expression, list),
            Expr::Map(map) => self.map(expression, map),
            Expr::Struct(literal) => self.object(literal),
            Expr::Comprehension(all) if is_binding(all) => self.bind(expression, all),
            Expr::Comprehension(all) => self.comprehension(expression, all),
        }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| local.name == name)
    }

    fn type_of(&self, expression: &IdedExpr) -> &'c Type {
        self.checked.types.get(&expression.id).unwrap_or(&Type::Dyn)
    }

    /// A test for a field has no cost of its own.
    fn select(&mut self, expression: &IdedExpr, select: &SelectExpr) -> Range {
        let operand = self.cost(&select.operand);
        if select.test {
            return operand;
        }
        let of = self.type_of(&select.operand);
        let is_field = matches!(of, Type::Map(..) | Type::Object(_) | Type::Parameter(_));
        let path = self.below(&select.operand, PathStep::Field(select.field.clone()));
        self.paths.insert(expression.id, path);
        match is_field {
            true => operand.plus(ACCESS_COST),
            false => operand,
        }
    }

    fn call(&mut self, expression: &IdedExpr, call: &CallExpr) -> Range {
        if let ("dyn", [argument]) = (call.func_name.as_str(), call.args.as_slice()) {
            let cost = self.cost(argument);
            self.copy_sizes(expression, argument);
            return cost.plus(Range::ONE);
        }
        let mut costs = Vec::with_capacity(call.args.len());
        let mut arguments = Vec::with_capacity(call.args.len());
        for argument in &call.args {
            costs.push(self.cost(argument));
            arguments.push(self.argument(argument));
        }
        let checked = self.checked;
        let Some(overloads) = checked.overloads.get(&expression.id) else {
            return Range::ZERO;
        };
        // The target of a function with a qualified name is no value, and has no type.
        let target = call.target.as_deref();
        let target = target.filter(|target| checked.types.contains_key(&target.id));
        let mut sum = Range::ZERO;
        let target = target.map(|target| {
            sum = self.cost(target);
            self.argument(target)
        });
        let mut total = Range {
            min: u64::MAX,
            max: 0,
        };
        let mut result: Option<Range> = None;
        for overload in overloads {
            let called = calls::Call {
                expression,
                function: &call.func_name,
                overload,
                target: target.as_ref(),
                arguments: &arguments,
                costs: &costs,
            };
            let (cost, size) = self.overload_cost(&called);
            total = total.union(cost);
            if let Some(size) = size {
                result = Some(result.map_or(size, |result| result.union(size)));
            }
            if let ("index_list" | "index_map", Some(container)) = (&**overload, call.args.first())
            {
                result = self.entry_size(container).map(|entries| entries.value);
                let step = match &**overload {
                    "index_list" => PathStep::Elements,
                    _ => PathStep::Values,
                };
                let path = self.below(container, step);
                self.paths.insert(expression.id, path);
            }
            if result.is_none() {
                result = self.size(expression);
            }
        }
        self.set_size(expression, result);
        sum.plus(total)
    }

    fn list(&mut self, expression: &IdedExpr, list: &ListExpr) -> Range {
        let mut cost = LIST_COST;
        let mut value = Range {
            min: if list.elements.is_empty() {
                0
            } else {
                u64::MAX
            },
            max: 0,
        };
        for element in &list.elements {
            cost = cost.plus(self.cost(element));
            value = value.union(self.size_or_unknown(element));
        }
        let entries = EntrySize {
            is_list: true,
            key: Range::ONE,
            value,
        };
        self.entries.insert(expression.id, entries);
        cost
    }

    fn map(&mut self, expression: &IdedExpr, map: &MapExpr) -> Range {
        let mut cost = MAP_COST;
        let start = Range {
            min: if map.entries.is_empty() { 0 } else { u64::MAX },
            max: 0,
        };
        let (mut keys, mut values) = (start, start);
        for entry in &map.entries {
            if let EntryExpr::MapEntry(entry) = &entry.expr {
                cost = cost
                    .plus(self.cost(&entry.key))
                    .plus(self.cost(&entry.value));
                keys = keys.union(self.size_or_unknown(&entry.key));
                values = values.union(self.size_or_unknown(&entry.value));
            }
        }
        let entries = EntrySize {
            is_list: false,
            key: keys,
            value: values,
        };
        self.entries.insert(expression.id, entries);
        cost
    }

    fn object(&mut self, literal: &StructExpr) -> Range {
        let mut cost = OBJECT_COST;
        for entry in &literal.entries {
            if let EntryExpr::StructField(field) = &entry.expr {
                cost = cost.plus(self.cost(&field.value));
            }
        }
        cost
    }

    fn bind(&mut self, expression: &IdedExpr, all: &ComprehensionExpr) -> Range {
        let mut sum = self.cost(&all.iter_range);
        sum = sum.plus(self.cost(&all.accu_init));
        let outer = self.locals.len();
        self.push_value(&all.accu_var, &all.accu_init);
        sum = sum.plus(self.cost(&all.result));
        self.locals.truncate(outer);
        self.copy_sizes(expression, &all.result);
        sum
    }

    fn comprehension(&mut self, expression: &IdedExpr, all: &ComprehensionExpr) -> Range {
        let mut sum = self.cost(&all.iter_range);
        sum = sum.plus(self.cost(&all.accu_init));
        let outer = self.locals.len();
        self.push_value(&all.accu_var, &all.accu_init);
        self.push_elements(all);
        let condition = self.cost(&all.loop_cond);
        let step = self.cost(&all.loop_step);
        self.locals.truncate(outer + 1);
        sum = sum.plus(self.cost(&all.result));
        self.locals.truncate(outer);
        let count = self.size_or_unknown(&all.iter_range);
        sum = sum.plus(count.times(condition.plus(step)));
        match &all.accu_init.expr {
            Expr::Literal(_) => {
                let size = self.size(&all.accu_init);
                self.set_size(expression, size);
            }
            Expr::List(_) | Expr::Map(_) => {
                self.set_size(expression, Some(count));
                if let Some(entries) = self.entry_size(&all.loop_step) {
                    self.entries.insert(expression.id, entries);
                }
            }
            _ => {}
        }
        sum
    }

    /// The variable of `cel.bind`, or an accumulator.
    fn push_value(&mut self, name: &str, value: &IdedExpr) {
        let local = Local {
            name: name.to_owned(),
            path: self.path(value),
            size: self.size(value),
            entries: self.entry_size(value),
        };
        self.locals.push(local);
    }

    /// The variables for the elements of a loop.
    fn push_elements(&mut self, all: &ComprehensionExpr) {
        let range = &all.iter_range;
        let entries = self.entry_size(range);
        let is_list = match entries {
            Some(entries) => entries.is_list,
            None => matches!(self.type_of(range), Type::List(_)),
        };
        let key = entries.map(|entries| entries.key);
        let value = entries.map(|entries| entries.value);
        let (keys, values) = match is_list {
            true => (PathStep::Indices, PathStep::Elements),
            false => (PathStep::Keys, PathStep::Values),
        };
        let variables = match (&all.iter_var2, is_list) {
            (Some(second), _) => vec![(&all.iter_var, keys, key), (second, values, value)],
            (None, true) => vec![(&all.iter_var, values, value)],
            (None, false) => vec![(&all.iter_var, keys, key)],
        };
        for (name, step, size) in variables {
            let path = self.below(range, step);
            self.locals.push(Local {
                name: name.clone(),
                path,
                size,
                entries: None,
            });
        }
    }

    fn path(&self, expression: &IdedExpr) -> Path {
        if let Expr::Ident(name) = &expression.expr
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expression.id).cloned().flatten()
    }

    fn below(&self, expression: &IdedExpr, step: PathStep) -> Path {
        let mut path = self.path(expression)?;
        path.push(step);
        Some(path)
    }

    fn argument<'e>(&mut self, expression: &'e IdedExpr) -> Argument<'e> {
        Argument {
            expression,
            path: self.path(expression),
            size: self.size(expression),
        }
    }

    fn set_size(&mut self, expression: &IdedExpr, size: Option<Range>) {
        if let Some(size) = size {
            self.sizes.insert(expression.id, size);
        }
    }

    fn copy_sizes(&mut self, to: &IdedExpr, from: &IdedExpr) {
        let size = self.size(from);
        self.set_size(to, size);
        if let Some(entries) = self.entry_size(from) {
            self.entries.insert(to.id, entries);
        }
    }

    fn size_or_unknown(&mut self, expression: &IdedExpr) -> Range {
        self.size(expression).unwrap_or(Range::UNKNOWN)
    }

    /// The size of a value, from the expression, the schema, the type or the variable.
    fn size(&mut self, expression: &IdedExpr) -> Option<Range> {
        if let Some(size) = self.sizes.get(&expression.id) {
            return Some(*size);
        }
        if let Some(size) = literal_size(expression) {
            return Some(size);
        }
        if let Some(path) = self.path(expression)
            && let Some(max) = self.root.max_elements_at(&path)
        {
            let size = Range::up_to(max);
            self.sizes.insert(expression.id, size);
            return Some(size);
        }
        if is_scalar(self.type_of(expression)) {
            return Some(Range::ONE);
        }
        match &expression.expr {
            Expr::Ident(name) => self.local(name)?.size,
            _ => None,
        }
    }

    fn entry_size(&self, expression: &IdedExpr) -> Option<EntrySize> {
        if let Some(entries) = self.entries.get(&expression.id) {
            return Some(*entries);
        }
        match &expression.expr {
            Expr::Ident(name) => self.local(name)?.entries,
            _ => None,
        }
    }
}

/// The size of a literal.
fn literal_size(expression: &IdedExpr) -> Option<Range> {
    let size = match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => text.inner().chars().count(),
        Expr::Literal(LiteralValue::Bytes(bytes)) => bytes.inner().len(),
        Expr::Literal(_) => 1,
        Expr::List(list) => list.elements.len(),
        Expr::Map(map) => map.entries.len(),
        _ => return None,
    };
    Some(Range::fixed(size as u64))
}

fn is_scalar(of: &Type) -> bool {
    match of {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => {
            true
        }
        other => other.optional_value().is_some_and(is_scalar),
    }
}

/// Whether a comprehension has the form of `cel.bind`.
fn is_binding(all: &ComprehensionExpr) -> bool {
    let is_empty = matches!(&all.iter_range.expr, Expr::List(list) if list.elements.is_empty());
    let never = matches!(&all.loop_cond.expr,
        Expr::Literal(LiteralValue::Boolean(flag)) if !*flag.inner());
    is_empty && never && !ACCUMULATORS.contains(&all.accu_var.as_str())
}
