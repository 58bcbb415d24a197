//! Evaluations of policies, for metrics.

use std::time::Duration;

use custom_resources::ExpressionError;

use crate::error::RuleError;

/// A monotonic clock.
pub(crate) type Clock<'a> = dyn Fn() -> Duration + 'a;

/// Observes the evaluations of policies.
pub trait EvaluationObserver {
    /// The reading of a monotonic clock.
    fn now(&self) -> Duration;

    /// Called for each evaluation of a ValidatingAdmissionPolicy that has an effect, once for each effect. Upstream, too,
    /// counts no evaluation whose result is true.
    fn validated(&self, evaluation: &PolicyEvaluation<'_>);
}

/// An evaluation of an expression of a ValidatingAdmissionPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyEvaluation<'a> {
    pub policy: &'a str,
    pub binding: &'a str,
    /// Why the expression has no value; `None` for a false validation.
    pub failure: Option<EvaluationFailure>,
    pub action: EnforcementAction,
    pub took: Duration,
}

/// Why an expression has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EvaluationFailure {
    OutOfBudget,
    Invalid,
}

/// The effect of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EnforcementAction {
    /// The failure is ignored (`failurePolicy: Ignore`).
    Allow,
    Deny,
    Audit,
    Warn,
}

impl EvaluationFailure {
    pub(crate) fn of_expression(error: &ExpressionError) -> Self {
        match error {
            ExpressionError::OutOfBudget => Self::OutOfBudget,
            _ => Self::Invalid,
        }
    }

    /// The failure of an evaluation of a rule.
    pub fn of_rule(error: &RuleError) -> Self {
        match error {
            RuleError::Expression(error) | RuleError::Condition { error, .. } => {
                Self::of_expression(error)
            }
            _ => Self::Invalid,
        }
    }
}
