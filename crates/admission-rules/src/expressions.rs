//! Expressions in webhooks and policies. They are compiled at the creation, so that invalid expressions are refused.

use custom_resources::{Expression, ExpressionError, Values};
use json_tree::Value;
use object_model::{FieldError, FieldPath, Status};
use resource_kinds::ObjectReader;
use resource_kinds::admission::{Admission, AdmissionRequest, Operation};
use resource_kinds::admissionregistration::GROUP;

use crate::error::RuleError;

/// The variables of conditions and rules.
const ABOUT: [&str; 4] = ["object", "oldObject", "request", "namespaceObject"];
/// The variable of policies with parameters.
const PARAMS: &str = "params";
/// The variable that contains the policy's computed variables.
const VARIABLES: &str = "variables";

/// A match condition: a CEL expression, and its name for messages.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub(crate) name: String,
    expression: Expression,
}

/// A policy's variables by name.
#[derive(Clone, Debug)]
pub(crate) struct Variables(Vec<(String, Expression)>);

impl Variables {
    /// Compiles the variables of a policy.
    ///
    /// # Errors
    /// The first variable that does not compile.
    pub fn read(list: &Value, names: &[&str]) -> Result<Self, ExpressionError> {
        let list = list.as_array().into_iter().flatten();
        let variables = list.map(|variable| {
            let name = variable["name"].as_str().unwrap_or_default().to_owned();
            Ok((name, compile(&variable["expression"], names)?))
        });
        variables.collect::<Result<_, ExpressionError>>().map(Self)
    }

    /// Evaluates the variables in order, and adds their values.
    pub fn add_to(&self, values: &mut Values) {
        for (name, expression) in &self.0 {
            // A failed variable is absent, so a rule that uses it fails.
            if let Ok(result) = expression.evaluate(values) {
                values.add_entry(VARIABLES, name, &result);
            }
        }
    }
}

/// The result of match conditions.
pub(crate) enum MatchResult {
    Yes,
    No,
    /// The evaluation of a condition failed, and no other condition is false.
    Unknown(RuleError),
}

/// Compiles the conditions of a webhook or policy.
///
/// # Errors
/// The first condition that does not compile. (Stored conditions always compile.)
pub(crate) fn conditions(list: &Value, params: bool) -> Result<Vec<Condition>, ExpressionError> {
    let list = list.as_array().into_iter().flatten();
    list.map(|condition| {
        Ok(Condition {
            name: condition["name"].as_str().unwrap_or_default().to_owned(),
            expression: compile(&condition["expression"], &names(params, false))?,
        })
    })
    .collect()
}

/// Whether all conditions are true. An error counts only if no condition is false.
pub(crate) fn met(conditions: &[Condition], values: &Values) -> MatchResult {
    let mut unknown = None;
    for condition in conditions {
        match condition.expression.evaluate(values) {
            Ok(result) if result.as_bool() == Some(true) => {}
            Ok(result) if result.as_bool() == Some(false) => return MatchResult::No,
            Ok(_) => unknown = Some(RuleError::ConditionNotBoolean(condition.name.clone())),
            Err(error) => {
                unknown = Some(RuleError::Condition {
                    condition: condition.name.clone(),
                    error,
                });
            }
        }
    }
    unknown.map_or(MatchResult::Yes, MatchResult::Unknown)
}

pub(crate) fn names(params: bool, variables: bool) -> Vec<&'static str> {
    let mut names = ABOUT.to_vec();
    names.extend(params.then_some(PARAMS));
    names.extend(variables.then_some(VARIABLES));
    names
}

pub(crate) fn compile(source: &Value, names: &[&str]) -> Result<Expression, ExpressionError> {
    Expression::compile_with(source.as_str().unwrap_or_default(), names)
}

/// Compiles an expression that may construct objects and patches.
pub(crate) fn compile_constructing(
    source: &Value,
    names: &[&str],
) -> Result<Expression, ExpressionError> {
    Expression::compile_constructing(source.as_str().unwrap_or_default(), names)
}

/// Refuses an object if there are errors.
pub(crate) fn refuse(group: &str, object: &Value, errors: &[FieldError]) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    let kind = object["kind"].as_str().unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Err(Status::invalid(group, kind, name, errors))
}

/// The plug-in that refuses webhooks and policies with expressions that do not compile.
#[derive(Debug)]
pub struct Expressions;

impl Admission for Expressions {
    fn name(&self) -> &'static str {
        "AdmissionExpressions"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        _cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if request.group != GROUP || !writes || !request.subresource.is_empty() {
            return Ok(());
        }
        refuse(GROUP, object, &unreadable(object))
    }
}

/// The errors of all expressions of an object that do not compile.
fn unreadable(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let root = FieldPath::default();
    for (index, hook) in items(&object["webhooks"]) {
        let at = root.child("webhooks").index(index).child("matchConditions");
        check(
            &hook["matchConditions"],
            &at,
            "expression",
            &names(false, false),
            &mut errors,
        );
    }
    let spec = &object["spec"];
    let (at, params) = (root.child("spec"), spec["paramKind"].is_object());
    let (plain, all) = (names(params, false), names(params, true));
    for (index, mutation) in items(&spec["mutations"]) {
        let at = at.child("mutations").index(index);
        for patch in ["applyConfiguration", "jsonPatch"] {
            let field = at.child(patch).child("expression");
            let read = |source: &Value| compile_constructing(source, &all);
            check_one(&mutation[patch]["expression"], &field, read, &mut errors);
        }
    }
    for (list, field, names) in [
        ("matchConditions", "expression", &plain),
        ("variables", "expression", &all),
        ("validations", "expression", &all),
        ("validations", "messageExpression", &all),
        ("auditAnnotations", "valueExpression", &all),
    ] {
        check(&spec[list], &at.child(list), field, names, &mut errors);
    }
    errors
}

fn items(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().into_iter().flatten().enumerate()
}

fn check(list: &Value, at: &FieldPath, field: &str, names: &[&str], errors: &mut Vec<FieldError>) {
    for (index, item) in items(list) {
        let path = at.index(index).child(field);
        check_one(&item[field], &path, |source| compile(source, names), errors);
    }
}

/// Records the errors of an expression. The kind's validation reports a missing expression.
fn check_one(
    source: &Value,
    field: &FieldPath,
    read: impl Fn(&Value) -> Result<Expression, ExpressionError>,
    errors: &mut Vec<FieldError>,
) {
    let text = source.as_str().unwrap_or_default();
    if text.trim().is_empty() {
        return;
    }
    if let Err(why) = read(source) {
        let text = format!("compilation failed: {why}");
        errors.push(FieldError::invalid(field, source.clone(), text));
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_named() {
        let object = json!({"webhooks": [{"matchConditions": [
            {"name": "a", "expression": "request.operation == 'CREATE'"},
            {"name": "b", "expression": "params.x"}]}],
            "spec": {"validations": [{"expression": "variables.a ==", "messageExpression": "1"}],
                "mutations": [{"jsonPatch": {"expression": "[JSONPatch{op: variables.op}]"}},
                    {"applyConfiguration": {"expression": "Thing{a: object}"}}],
                "variables": [{"name": "a", "expression": "authorizer.path('/')"}]}});
        let errors: Vec<String> = unreadable(&object)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(errors.len(), 4, "{errors:?}");
        assert!(errors[0].starts_with("webhooks[0].matchConditions[1].expression: Invalid value"));
        assert!(
            errors[1].starts_with("spec.mutations[1].applyConfiguration.expression")
                && errors[1].contains("undeclared reference to 'Thing'"),
            "{errors:?}"
        );
        assert!(
            errors[2].contains("undeclared reference to 'authorizer'"),
            "{errors:?}"
        );
        assert!(
            errors[3].starts_with("spec.validations[0].expression"),
            "{errors:?}"
        );
    }
}
