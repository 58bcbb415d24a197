//! Compiled CEL expressions, and their evaluation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr, LiteralValue, operators};
use cel::objects::{Key, Map};
use cel::{Context, Env, Program, Value as Cel};
use json_tree::Value;

use crate::cel_bounds;
use crate::cel_library::{add_functions, environment};
use crate::cel_meter::{self, Meter, OBJECT_UNITS_MAX, metered};
use crate::cel_values::{size, typed};
use crate::construction;
use crate::expression_error::ExpressionError;

/// The functions and macros of every expression.
pub(crate) static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(environment()));

/// Parses an expression.
///
/// # Errors
/// A syntax error with its position, or an exceeded limit.
pub(crate) fn parse(source: &str) -> Result<Program, ExpressionError> {
    cel_bounds::check(source)?;
    let program = ENVIRONMENT.compile(source);
    program.map_err(|error| ExpressionError::Syntax(error.to_string()))
}

/// A compiled expression.
#[derive(Clone)]
pub struct Expression {
    /// The metered syntax tree.
    tree: Arc<IdedExpr>,
    /// The number of nodes outside of its loops.
    nodes: u64,
    environment: Arc<Env>,
    /// Whether the expression uses the previous value (`oldSelf`).
    pub(crate) compares: bool,
    /// The literal keys in the expression: `a['key']`.
    keys: Arc<BTreeSet<String>>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expression").finish_non_exhaustive()
    }
}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// A syntax error with its position, an undeclared name, or an exceeded limit.
    pub fn compile(source: &str) -> Result<Self, ExpressionError> {
        Self::compile_with(source, RULE_VARIABLES)
    }

    /// Compiles a parsed rule of a definition.
    ///
    /// # Errors
    /// An undeclared name.
    pub(crate) fn of_rule(program: &Program) -> Result<Self, ExpressionError> {
        Self::of_program(program, RULE_VARIABLES)
    }

    /// Compiles an expression with these variables.
    ///
    /// # Errors
    /// A syntax error with its position, an undeclared name, or an exceeded limit.
    pub fn compile_with(source: &str, names: &[&str]) -> Result<Self, ExpressionError> {
        Self::of_program(&parse(source)?, names)
    }

    fn of_program(program: &Program, names: &[&str]) -> Result<Self, ExpressionError> {
        let (expression, types) = Self::read(program, names)?;
        match types.first() {
            None => Ok(expression),
            Some(name) => Err(ExpressionError::Undeclared(name.clone())),
        }
    }

    /// Compiles an expression with these variables that may construct objects and patches: `Object{spec:
    /// Object.spec{replicas: 1}}`, `[JSONPatch{op: 'remove', path: '/a'}]`.
    ///
    /// # Errors
    /// A syntax error with its position, an undeclared name, or an exceeded limit.
    pub fn compile_constructing(source: &str, names: &[&str]) -> Result<Self, ExpressionError> {
        let names = [names, &["jsonpatch"]].concat();
        let (expression, types) = Self::read(&parse(source)?, &names)?;
        Ok(Self {
            environment: Arc::new(construction::environment_with(&types)?),
            ..expression
        })
    }

    /// A compiled expression, and the names of the types that it constructs.
    fn read(
        program: &Program,
        names: &[&str],
    ) -> Result<(Self, BTreeSet<String>), ExpressionError> {
        let references = program.references();
        let mut shape = Shape::default();
        shape.visit(program.expression());
        let is_declared = |name: &str| {
            LIBRARIES.contains(&name)
                || names.contains(&name)
                || shape.bound.iter().any(|bound| bound == name)
        };
        let mut strangers = references.variables().into_iter();
        if let Some(stranger) = strangers.find(|name| !is_declared(name)) {
            return Err(ExpressionError::Undeclared(stranger.to_owned()));
        }
        let constructed = std::mem::take(&mut shape.constructed);
        let (tree, nodes) = metered(program.expression());
        let expression = Self {
            compares: references.has_variable("oldSelf"),
            keys: Arc::new(std::mem::take(&mut shape.keys)),
            tree: Arc::new(tree),
            nodes,
            environment: ENVIRONMENT.clone(),
        };
        Ok((expression, constructed))
    }

    /// The literal keys in the expression: `a['key']`.
    pub(crate) fn literal_keys(&self) -> &BTreeSet<String> {
        &self.keys
    }

    /// Evaluates the expression with these variables.
    ///
    /// # Errors
    /// A function failed, a field does not exist, or the budget of the expression or of all expressions about these
    /// values is exhausted.
    pub fn evaluate(&self, values: &Values) -> Result<EvaluationResult, ExpressionError> {
        let meter = Arc::new(Meter::new(values.units.load(Ordering::Relaxed)));
        let mut context = context(&self.environment, &meter);
        for (name, value) in &values.all {
            context.add_variable_from_value(name.as_str(), value.clone());
        }
        let result = self.evaluate_in(&context, &meter, values.nodes);
        values.units.store(meter.units_left(), Ordering::Relaxed);
        result.map(EvaluationResult)
    }

    /// Evaluates the expression with the variables of a context that [`context`] created with this meter; `size` is
    /// the number of values of these variables.
    pub(crate) fn evaluate_in(
        &self,
        context: &Context<'_, '_>,
        meter: &Meter,
        size: u64,
    ) -> Result<Cel, ExpressionError> {
        let begun = meter.begin(self.nodes, size);
        let result = begun.and_then(|()| Cel::resolve(&self.tree, context));
        if meter.is_spent() {
            return Err(ExpressionError::OutOfBudget);
        }
        result.map_err(|error| ExpressionError::Evaluation(error.to_string()))
    }
}

/// The context of expressions, with the functions that they may call.
pub(crate) fn context(environment: &Arc<Env>, meter: &Arc<Meter>) -> Context<'static, 'static> {
    let mut context = Context::with_env(environment.clone());
    add_functions(&mut context);
    cel_meter::add_functions(&mut context, meter);
    context
}

/// The context of the validation rules of definitions.
pub(crate) fn rules_context(meter: &Arc<Meter>) -> Context<'static, 'static> {
    context(&ENVIRONMENT, meter)
}

/// The variables of expressions by name, and the remaining budget of all expressions about these variables.
#[derive(Clone, Debug)]
pub struct Values {
    all: BTreeMap<String, Cel>,
    nodes: u64,
    units: Arc<AtomicU64>,
}

impl Default for Values {
    fn default() -> Self {
        Self {
            all: BTreeMap::new(),
            nodes: 0,
            units: Arc::new(AtomicU64::new(OBJECT_UNITS_MAX)),
        }
    }
}

impl Values {
    /// Adds a variable. A null value declares the variable, too.
    pub fn add(&mut self, name: &str, value: &Value) {
        self.nodes += size(value) as u64;
        self.all.insert(name.to_owned(), typed(value, None));
    }

    /// Adds a CEL value, and the number of values inside of it.
    pub(crate) fn add_value(&mut self, name: &str, value: Cel, nodes: u64) {
        self.nodes += nodes;
        self.all.insert(name.to_owned(), value);
    }

    /// Adds the result of an expression as an entry of the map with this name.
    pub fn add_entry(&mut self, name: &str, key: &str, result: &EvaluationResult) {
        let mut entries = match self.all.remove(name) {
            Some(Cel::Map(map)) => Arc::unwrap_or_clone(map.map),
            _ => Default::default(),
        };
        entries.insert(Key::String(Arc::new(key.to_owned())), result.0.clone());
        let map = Map {
            map: Arc::new(entries),
        };
        self.all.insert(name.to_owned(), Cel::Map(map));
    }
}

/// The result of an expression.
#[derive(Clone, Debug)]
pub struct EvaluationResult(Cel);

impl EvaluationResult {
    /// The boolean; `None` if the result has another type.
    pub fn as_bool(&self) -> Option<bool> {
        match self.0 {
            Cel::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The constructed object, as JSON.
    ///
    /// # Errors
    /// The result is not an object, a part has the type of another field, or has no JSON form.
    pub fn to_object(&self) -> Result<Value, ExpressionError> {
        construction::object(&self.0)
    }

    /// The constructed JSON patch.
    ///
    /// # Errors
    /// As [`to_object`](Self::to_object).
    pub fn to_patch(&self) -> Result<Value, ExpressionError> {
        construction::patch(&self.0)
    }

    /// The text; `None` if the result has another type.
    pub fn as_text(&self) -> Option<&str> {
        match &self.0 {
            Cel::String(text) => Some(text),
            _ => None,
        }
    }
}

/// The variables of the rules of a definition.
const RULE_VARIABLES: &[&str] = &["self", "oldSelf"];

/// The namespaces of types and libraries that every expression may use.
const LIBRARIES: [&str; 18] = [
    "base64",
    "bool",
    "bytes",
    "cel",
    "double",
    "duration",
    "dyn",
    "google",
    "int",
    "list",
    "lists",
    "map",
    "math",
    "null_type",
    "optional",
    "string",
    "strings",
    "uint",
];

/// The properties of an expression's syntax tree.
#[derive(Default)]
struct Shape {
    /// The variable names of its loops.
    bound: Vec<String>,
    /// The types of which the expression constructs values.
    constructed: BTreeSet<String>,
    /// The literal keys of lookups.
    keys: BTreeSet<String>,
}

impl Shape {
    fn visit(&mut self, expression: &IdedExpr) {
        match &expression.expr {
            Expr::Comprehension(all) => {
                self.visit(&all.iter_range);
                self.bound.push(all.iter_var.clone());
                self.bound.extend(all.iter_var2.clone());
                self.bound.push(all.accu_var.clone());
                for part in [&all.accu_init, &all.loop_cond, &all.loop_step, &all.result] {
                    self.visit(part);
                }
            }
            Expr::Call(call) => {
                if let Some(target) = &call.target {
                    self.visit(target);
                }
                if call.func_name == operators::INDEX
                    && let Some(Expr::Literal(LiteralValue::String(key))) =
                        call.args.get(1).map(|key| &key.expr)
                {
                    self.keys.insert(key.inner().to_owned());
                }
                call.args.iter().for_each(|part| self.visit(part));
            }
            Expr::List(list) => list.elements.iter().for_each(|part| self.visit(part)),
            Expr::Map(map) => map.entries.iter().for_each(|entry| self.visit_entry(entry)),
            Expr::Struct(all) => {
                self.constructed.insert(all.type_name.clone());
                all.entries.iter().for_each(|entry| self.visit_entry(entry));
            }
            Expr::Select(select) => self.visit(&select.operand),
            Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
        }
    }

    fn visit_entry(&mut self, entry: &IdedEntryExpr) {
        match &entry.expr {
            EntryExpr::StructField(field) => self.visit(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key);
                self.visit(&entry.value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn what_cannot_be_compiled_is_refused_with_a_reason() {
        assert!(Expression::compile("self.a +").is_err());
        let error = Expression::compile("other.a == 1").unwrap_err();
        assert_eq!(error, ExpressionError::Undeclared("other".to_owned()));
    }

    #[test]
    fn expressions_may_be_about_other_values() {
        let evaluate = |source: &str, values: &Values| {
            let names = ["object", "params", "variables"];
            Expression::compile_with(source, &names)?.evaluate(values)
        };
        let mut values = Values::default();
        values.add("object", &json!({"spec": {"replicas": 3}, "kind": "X"}));
        values.add("params", &Value::Null);
        let many = evaluate("object.spec.replicas > 2", &values).unwrap();
        assert_eq!(many.as_bool(), Some(true));
        values.add_entry("variables", "many", &many);
        let kind = evaluate("object.kind + 'Y'", &values).unwrap();
        assert_eq!((kind.as_text(), kind.as_bool()), (Some("XY"), None));
        values.add_entry("variables", "kind", &kind);
        let both = "variables.many && variables.kind == 'XY' && params == null";
        assert_eq!(evaluate(both, &values).unwrap().as_bool(), Some(true));
        assert!(evaluate("object.spec.missing > 1", &values).is_err());
        let unknown = evaluate("self.a", &values).unwrap_err();
        assert_eq!(unknown, ExpressionError::Undeclared("self".to_owned()));
        values.add("object", &json!(vec![1; 1000]));
        let costly = "object.all(a, object.all(b, object.all(c, a + b + c > 0)))";
        let error = evaluate(costly, &values).unwrap_err();
        assert_eq!(error, ExpressionError::OutOfBudget);
        assert!(error.to_string().contains("cost budget"));
    }
}
