//! Compiled CEL expressions, and their evaluation.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use cel::Env;
use cel_evaluator::{CompileError, EvaluationError, Names, Program, Value as Cel, Variables};
use json_tree::Value;

use crate::authorization::{RequestAuthorizer, ResourceAccess};
use crate::authorizer_values;
use crate::cel_bounds;
use crate::cel_values::typed;
use crate::construction;
use crate::expression_error::ExpressionError;
use crate::lazy_object::LazyObject;

/// Maximum units of cost of one expression (upstream's value).
pub(crate) const RULE_UNITS_MAX: u64 = 1_000_000;
/// Maximum units of cost of all expressions about one object (upstream's value).
pub(crate) const OBJECT_UNITS_MAX: u64 = 10_000_000;

/// The macros of every expression.
static ENVIRONMENT: LazyLock<Env> = LazyLock::new(cel_evaluator::environment);

/// Parses an expression.
///
/// # Errors
/// A syntax error with its position, or an exceeded limit.
pub(crate) fn parse(source: &str) -> Result<cel::Program, ExpressionError> {
    cel_bounds::check(source)?;
    let program = ENVIRONMENT.compile(source);
    let program = program.map_err(|error| ExpressionError::Syntax(error.to_string()))?;
    cel_bounds::check_depth(program.expression())?;
    Ok(program)
}

/// A compiled expression.
#[derive(Clone)]
pub struct Expression {
    program: Arc<Program>,
    /// Whether the expression uses the previous value (`oldSelf`).
    pub(crate) compares: bool,
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

    /// Compiles a parsed rule of a definition. `duration_sums` has the identifiers of calls of `sum` on lists of
    /// durations.
    ///
    /// # Errors
    /// An undeclared name.
    pub(crate) fn of_rule(
        program: &cel::Program,
        duration_sums: &BTreeSet<u64>,
    ) -> Result<Self, ExpressionError> {
        let names = Names {
            variables: RULE_VARIABLES,
            constructs: |_| false,
            duration_sums,
        };
        Self::of_program(program, names)
    }

    /// Compiles an expression with these variables.
    ///
    /// # Errors
    /// A syntax error with its position, an undeclared name, or an exceeded limit.
    pub fn compile_with(source: &str, names: &[&str]) -> Result<Self, ExpressionError> {
        Self::untyped(source, names, |_| false)
    }

    /// Compiles an expression with these variables that may construct objects and patches: `Object{spec:
    /// Object.spec{replicas: 1}}`, `[JSONPatch{op: 'remove', path: '/a'}]`.
    ///
    /// # Errors
    /// A syntax error with its position, an undeclared name, or an exceeded limit.
    pub fn compile_constructing(source: &str, names: &[&str]) -> Result<Self, ExpressionError> {
        Self::untyped(source, names, construction::is_type)
    }

    fn untyped(
        source: &str,
        variables: &[&str],
        constructs: fn(&str) -> bool,
    ) -> Result<Self, ExpressionError> {
        let names = Names {
            variables,
            constructs,
            duration_sums: &BTreeSet::new(),
        };
        Self::of_program(&parse(source)?, names)
    }

    fn of_program(program: &cel::Program, names: Names<'_>) -> Result<Self, ExpressionError> {
        let program = Program::compile(program.expression(), names);
        let program = program.map_err(|error| match error {
            CompileError::Undeclared(name) => ExpressionError::Undeclared(name),
            CompileError::Incomplete => ExpressionError::Syntax(error.to_string()),
        })?;
        Ok(Self {
            compares: program.uses("oldSelf"),
            program: Arc::new(program),
        })
    }

    /// The literal keys in the expression: `a['key']`.
    pub(crate) fn literal_keys(&self) -> &BTreeSet<String> {
        self.program.literal_keys()
    }

    /// Evaluates the expression with these variables.
    ///
    /// # Errors
    /// A function failed, a field does not exist, or the budget of the expression or of all expressions about these
    /// values is exhausted.
    pub fn evaluate(&self, values: &Values) -> Result<EvaluationResult, ExpressionError> {
        let limit = values.units.load(Ordering::Relaxed).min(RULE_UNITS_MAX);
        let evaluation = self.program.evaluate(&values.all, limit);
        // The evaluation may have evaluated other expressions, which have used a part of the budget.
        let remaining = values.units.load(Ordering::Relaxed);
        let left = remaining.saturating_sub(evaluation.cost.min(limit));
        values.units.store(left, Ordering::Relaxed);
        match evaluation.result {
            Ok(result) => Ok(EvaluationResult(result)),
            Err(EvaluationError::CostLimit) => Err(ExpressionError::OutOfBudget),
            Err(error) => Err(ExpressionError::Evaluation(error.to_string())),
        }
    }

    /// Evaluates the expression with these variables, at most at this cost.
    pub(crate) fn evaluate_in(
        &self,
        variables: &Variables,
        limit: u64,
    ) -> cel_evaluator::Evaluation {
        self.program.evaluate(variables, limit)
    }
}

/// The variables of expressions by name, and the remaining budget of all expressions about these variables.
#[derive(Clone, Debug)]
pub struct Values {
    all: Variables,
    units: Arc<AtomicU64>,
}

impl Default for Values {
    fn default() -> Self {
        Self {
            all: Variables::default(),
            units: Arc::new(AtomicU64::new(OBJECT_UNITS_MAX)),
        }
    }
}

impl Values {
    /// Adds a variable. A null value declares the variable, too.
    pub fn add(&mut self, name: &str, value: &Value) {
        self.all.insert(name, typed(value, None));
    }

    /// Adds a CEL value.
    pub(crate) fn add_value(&mut self, name: &str, value: Cel) {
        self.all.insert(name, value);
    }

    /// Adds `authorizer` with the rights of the requesting user, and the check of the requested resource.
    pub fn add_authorizer(&mut self, request: &Arc<RequestAuthorizer>, resource: ResourceAccess) {
        let authorizer = authorizer_values::authorizer(request, resource);
        self.add_value(authorizer_values::AUTHORIZER, authorizer);
    }

    /// These variables with a budget of their own.
    pub fn with_budget(&self, units: u64) -> Self {
        Self {
            all: self.all.clone(),
            units: Arc::new(AtomicU64::new(units)),
        }
    }

    /// The remaining budget.
    #[cfg(test)]
    pub(crate) fn remaining(&self) -> u64 {
        self.units.load(Ordering::Relaxed)
    }

    /// Adds an object whose fields are expressions. A field is evaluated at its first use, with these variables and the
    /// fields before it.
    pub fn add_lazily(&mut self, name: &'static str, fields: &Arc<[(String, Expression)]>) {
        let names = fields.iter().map(|(name, _)| name.clone()).collect();
        let (fields, values) = (fields.clone(), self.clone());
        let object = LazyObject::value_of(names, move |position, before| {
            let mut values = values.clone();
            values.add_value(name, before);
            fields[position].1.evaluate(&values).map(|result| result.0)
        });
        self.add_value(name, object);
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

    pub fn is_null(&self) -> bool {
        matches!(self.0, Cel::Null)
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

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn what_cannot_be_compiled_is_refused_with_a_reason() {
        assert!(Expression::compile("self.a +").is_err());
        let error = Expression::compile("other.a == 1").unwrap_err();
        assert_eq!(error, ExpressionError::Undeclared("other".to_owned()));
        let error = Expression::compile("self.nosuch()").unwrap_err();
        assert_eq!(error, ExpressionError::Undeclared("nosuch".to_owned()));
    }

    #[test]
    fn expressions_may_be_about_other_values() {
        let evaluate = |source: &str, values: &Values| {
            let names = ["object", "params"];
            Expression::compile_with(source, &names)?.evaluate(values)
        };
        let mut values = Values::default();
        values.add("object", &json!({"spec": {"replicas": 3}, "kind": "X"}));
        values.add("params", &Value::Null);
        let kind = evaluate("object.kind + 'Y'", &values).unwrap();
        assert_eq!((kind.as_text(), kind.as_bool()), (Some("XY"), None));
        let both = "object.spec.replicas > 2 && params == null";
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
