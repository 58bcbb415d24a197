//! An object whose fields are expressions, such as the variables of an admission policy (KEP-3488): a field is evaluated
//! at its first use.

use std::fmt;
use std::sync::{Arc, OnceLock};

use cel_evaluator::{EvaluationError, Extension, Value as Cel};

use crate::expression_error::ExpressionError;

/// Maximum number of evaluations within each other. A chain of fields that is longer is evaluated in order, so that the
/// stack stays small.
const DEPTH_MAX: usize = 8;

type Evaluated = Result<Cel, ExpressionError>;

/// The first fields of an object. A copy shares the values that were evaluated.
pub(crate) struct LazyObject {
    shared: Arc<Shared>,
    /// The number of fields: an expression sees the fields before it.
    count: usize,
    /// The number of running evaluations of fields.
    depth: usize,
}

struct Shared {
    names: Vec<String>,
    /// Evaluates the field at a position, with the object of the fields before it.
    evaluate: Box<dyn Fn(usize, Cel) -> Evaluated + Send + Sync>,
    results: Vec<OnceLock<Evaluated>>,
}

impl LazyObject {
    /// An object with fields of these names. `evaluate` gets the position of a field, and the object of the fields before
    /// it.
    pub(crate) fn value_of(
        names: Vec<String>,
        evaluate: impl Fn(usize, Cel) -> Evaluated + Send + Sync + 'static,
    ) -> Cel {
        let count = names.len();
        let shared = Shared {
            results: names.iter().map(|_| OnceLock::new()).collect(),
            names,
            evaluate: Box::new(evaluate),
        };
        Cel::Extension(Arc::new(Self {
            shared: Arc::new(shared),
            count,
            depth: 0,
        }))
    }

    fn position(&self, name: &str) -> Option<usize> {
        let names = self.shared.names.get(..self.count)?;
        names.iter().rposition(|field| field == name)
    }

    /// The value of a field; `None` if there is no such field.
    fn value(&self, position: usize) -> Option<&Evaluated> {
        if self.depth >= DEPTH_MAX {
            for before in 0..position {
                self.evaluated(before)?;
            }
        }
        self.evaluated(position)
    }

    fn evaluated(&self, position: usize) -> Option<&Evaluated> {
        let evaluate = || {
            let before = Self {
                shared: self.shared.clone(),
                count: position,
                depth: self.depth + 1,
            };
            (self.shared.evaluate)(position, Cel::Extension(Arc::new(before)))
        };
        Some(self.shared.results.get(position)?.get_or_init(evaluate))
    }
}

impl fmt::Debug for LazyObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyObject").finish_non_exhaustive()
    }
}

impl Extension for LazyObject {
    fn type_name(&self) -> &'static str {
        "kubernetes.variables"
    }

    fn has_field(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    fn field(&self, name: &str) -> Result<Option<Cel>, EvaluationError> {
        let value = self.position(name).and_then(|at| self.value(at));
        match value {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value.clone())),
            Some(Err(ExpressionError::OutOfBudget)) => Err(EvaluationError::CostLimit),
            Some(Err(error)) => {
                let text = format!("composited variable {name:?} fails to evaluate: {error}");
                Err(EvaluationError::Function(text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;
    use crate::expression::{Expression, Values};

    const NAMES: [&str; 2] = ["object", "variables"];

    /// Values with `object.count` and lazy variables.
    fn values(variables: &[(&str, &str)]) -> Values {
        let mut values = Values::default();
        values.add("object", &json!({"count": 3}));
        let fields = variables.iter().map(|(name, source)| {
            let expression = Expression::compile_with(source, &NAMES).unwrap();
            ((*name).to_owned(), expression)
        });
        values.add_lazily("variables", &fields.collect());
        values
    }

    fn evaluate(source: &str, values: &Values) -> Result<Option<bool>, ExpressionError> {
        let expression = Expression::compile_with(source, &NAMES)?;
        expression.evaluate(values).map(|result| result.as_bool())
    }

    // edge.md §3: variables are evaluated at their first use.
    #[test]
    fn a_field_is_evaluated_at_its_use_only() {
        let values = values(&[
            ("failing", "object.missing"),
            ("many", "object.count > 2"),
            ("both", "variables.many && object.count < 9"),
        ]);
        assert_eq!(evaluate("variables.both", &values), Ok(Some(true)));
        let guarded = "object.count < 3 && variables.failing == 1";
        assert_eq!(evaluate(guarded, &values), Ok(Some(false)));
        assert_eq!(evaluate("has(variables.failing)", &values), Ok(Some(true)));
        assert_eq!(evaluate("has(variables.absent)", &values), Ok(Some(false)));
        let error = evaluate("variables.failing == 1", &values).unwrap_err();
        assert_eq!(
            error.to_string(),
            "composited variable \"failing\" fails to evaluate: no such key: missing"
        );
        assert!(evaluate("variables.absent == 1", &values).is_err());
    }

    #[test]
    fn a_field_sees_the_fields_before_it() {
        let values = values(&[("one", "variables.two"), ("two", "true")]);
        let error = evaluate("variables.one", &values).unwrap_err();
        assert!(error.to_string().ends_with("no such key: two"), "{error}");
    }

    #[test]
    fn a_long_chain_of_fields_needs_no_long_stack() {
        let names: Vec<String> = (0..3000).map(|number| format!("v{number}")).collect();
        let sources: Vec<String> = (0..3000)
            .map(|number| match number {
                0 => "true".to_owned(),
                _ => format!("variables.v{}", number - 1),
            })
            .collect();
        let variables = names.iter().zip(&sources);
        let variables: Vec<_> = variables
            .map(|(name, source)| (&**name, &**source))
            .collect();
        let values = values(&variables);
        assert_eq!(evaluate("variables.v2999", &values), Ok(Some(true)));
    }

    #[test]
    fn the_costs_of_fields_count() {
        let costly = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10].all(a, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].all(b, \
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].all(c, a + b + c > 0)))";
        let values = values(&[("costly", costly)]);
        let before = values.remaining();
        assert_eq!(evaluate("variables.costly", &values), Ok(Some(true)));
        let cost = before - values.remaining();
        assert!(cost > 3000, "{cost}");
        // The second use costs the access alone.
        assert_eq!(evaluate("variables.costly", &values), Ok(Some(true)));
        assert!(before - values.remaining() < cost + 10);
    }
}
