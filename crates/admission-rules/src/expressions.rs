//! Expressions in webhooks and policies. They are compiled at the creation, so that invalid expressions are refused.

use std::sync::Arc;

use custom_resources::{Expression, ExpressionError, Values};
use json_tree::{Value, json};
use object_model::{FieldError, FieldPath, Status};
use resource_kinds::ObjectReader;
use resource_kinds::admission::{Admission, AdmissionRequest, Operation};
use resource_kinds::admissionregistration::GROUP;

use crate::environment::{CheckFailure, Environment, Expected, VARIABLES, names};
use crate::error::RuleError;
use crate::type_checking::{KindTypes, type_checking};

/// A match condition: a CEL expression, and its name for messages.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub(crate) name: String,
    expression: Expression,
}

/// A policy's variables by name.
#[derive(Clone, Debug)]
pub(crate) struct Variables(Arc<[(String, Expression)]>);

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

    /// Adds the variables, which are evaluated at their first use.
    pub fn add_to(&self, values: &mut Values) {
        values.add_lazily(VARIABLES, &self.0);
    }
}

/// Maximum units of cost of all match conditions of a webhook or policy for one request (upstream's value).
const CONDITION_UNITS_MAX: u64 = 2_500_000;

/// The result of match conditions.
#[derive(Debug)]
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

/// Whether all conditions are true. An error counts only if no condition is false. The conditions have a budget of their own.
pub(crate) fn met(conditions: &[Condition], values: &Values) -> MatchResult {
    let values = values.with_budget(CONDITION_UNITS_MAX);
    let mut unknown = None;
    for condition in conditions {
        match condition.expression.evaluate(&values) {
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

/// The resource in whose status the type check has its warnings.
const CHECKED: &str = "validatingadmissionpolicies";

/// The plug-in that refuses webhooks and policies with expressions that do not compile, and that checks the
/// expressions of a ValidatingAdmissionPolicy against the schemas of the matched kinds.
#[derive(Debug)]
pub struct Expressions {
    kinds: Box<dyn KindTypes>,
}

impl Expressions {
    pub fn new(kinds: impl KindTypes + 'static) -> Self {
        Self {
            kinds: Box::new(kinds),
        }
    }
}

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
        // Stored expressions were checked when they were written; later versions may check more.
        let is_same = |old: &Value| {
            ["spec", "webhooks"]
                .iter()
                .all(|part| old[*part] == object[*part])
        };
        if request.old.is_some_and(is_same) {
            return Ok(());
        }
        refuse(GROUP, object, &unreadable(object))?;
        if request.plural == CHECKED {
            let generation = request.old.map_or(Some(1), |old| {
                let before = old["metadata"]["generation"].as_i64()?;
                before.checked_add(1)
            });
            object["status"]["typeChecking"] = type_checking(&object["spec"], self.kinds.as_ref());
            if let Some(generation) = generation {
                object["status"]["observedGeneration"] = json!(generation);
            }
        }
        Ok(())
    }
}

/// The errors of all expressions of an object.
fn unreadable(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let root = FieldPath::default();
    for (index, hook) in items(&object["webhooks"]) {
        let at = root.child("webhooks").index(index);
        let environment = Environment::of_any_object(false);
        check_conditions(hook, &at, &environment, &mut errors);
    }
    let (spec, at) = (&object["spec"], root.child("spec"));
    let params = spec["paramKind"].is_object();
    let mut environment = Environment::of_any_object(params);
    check_conditions(spec, &at, &environment, &mut errors);
    if items(&spec["variables"]).next().is_some() {
        environment = environment.with_variables();
    }
    let compile: Compile = Expression::compile_with;
    for (index, variable) in items(&spec["variables"]) {
        let name = variable["name"].as_str().unwrap_or_default();
        let source = variable["expression"].as_str().unwrap_or_default();
        let checked = environment.add_variable(name, source);
        let field = at.child("variables").index(index).child("expression");
        record(source, &field, checked, compile, &mut errors);
    }
    check_mutations(spec, &at, &environment, &mut errors);
    let mut check = |list: &str, name: &str, expected, has_authorizer| {
        for (index, item) in items(&spec[list]) {
            let source = item[name].as_str().unwrap_or_default();
            let field = at.child(list).index(index).child(name);
            let checked = environment.check(source, expected, has_authorizer);
            record(source, &field, checked, compile, &mut errors);
        }
    };
    check("validations", "expression", Expected::Bool, true);
    check("validations", "messageExpression", Expected::Text, false);
    check(
        "auditAnnotations",
        "valueExpression",
        Expected::TextOrNull,
        true,
    );
    errors
}

/// Checks the match conditions, which do not see the variables of a policy.
fn check_conditions(
    part: &Value,
    at: &FieldPath,
    environment: &Environment,
    errors: &mut Vec<FieldError>,
) {
    let at = at.child("matchConditions");
    for (index, condition) in items(&part["matchConditions"]) {
        let source = condition["expression"].as_str().unwrap_or_default().trim();
        let checked = environment.check(source, Expected::Bool, true);
        record(
            source,
            &at.index(index).child("expression"),
            checked,
            Expression::compile_with,
            errors,
        );
    }
}

fn check_mutations(
    spec: &Value,
    at: &FieldPath,
    environment: &Environment,
    errors: &mut Vec<FieldError>,
) {
    let patches = [
        ("applyConfiguration", Expected::Object),
        ("jsonPatch", Expected::Patch),
    ];
    for (index, mutation) in items(&spec["mutations"]) {
        let at = at.child("mutations").index(index);
        for (patch, expected) in patches {
            let source = mutation[patch]["expression"].as_str().unwrap_or_default();
            let checked = environment.check(source, expected, true);
            let field = at.child(patch).child("expression");
            record(
                source,
                &field,
                checked,
                Expression::compile_constructing,
                errors,
            );
        }
    }
}

fn items(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().into_iter().flatten().enumerate()
}

/// The compilation of an expression for its evaluation.
type Compile = fn(&str, &[&str]) -> Result<Expression, ExpressionError>;

/// Records the error of an expression. The kind's validation reports a missing expression.
fn record(
    source: &str,
    field: &FieldPath,
    checked: Result<(), CheckFailure>,
    compile: Compile,
    errors: &mut Vec<FieldError>,
) {
    if source.trim().is_empty() {
        return;
    }
    // The evaluation may lack a function of the type check, and has bounds of its own.
    let compiled = || compile(source, &names(true, true)).map(drop);
    let checked = checked.and_then(|()| compiled().map_err(CheckFailure::Compilation));
    if let Err(failure) = checked {
        errors.push(FieldError::invalid(field, source, failure.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct NoKinds;

    impl KindTypes for NoKinds {
        fn kind(&self, _: &str, _: &str, _: &str) -> Option<String> {
            None
        }

        fn document(&self, _: &str) -> Option<Value> {
            None
        }
    }

    struct NoObjects;

    impl ObjectReader for NoObjects {
        fn get(&self, _: &str, _: &str, _: &str, _: &str) -> Option<std::sync::Arc<Value>> {
            None
        }

        fn list(&self, _: &str, _: &str, _: &str) -> Vec<std::sync::Arc<Value>> {
            Vec::new()
        }
    }

    fn admitted(plural: &str, object: Value, old: Option<&Value>) -> Result<Value, String> {
        let mut object = object;
        let request = AdmissionRequest {
            operation: if old.is_some() {
                Operation::Update
            } else {
                Operation::Create
            },
            group: GROUP,
            plural,
            subresource: "",
            namespace: "",
            name: "p",
            user: "me",
            old,
        };
        let plugin = Expressions::new(NoKinds);
        let admitted = plugin.admit(&request, &mut object, &NoObjects);
        admitted.map(|()| object).map_err(|status| status.message)
    }

    #[test]
    fn expressions_with_errors_are_named() {
        let object = json!({"webhooks": [{"matchConditions": [
            {"name": "a", "expression": "request.operation == 'CREATE' && \
                authorizer.requestResource.check('get').allowed()"},
            {"name": "b", "expression": " params.x "}]}],
            "spec": {
                "variables": [{"name": "a", "expression": "authorizer.path('/').nope()"},
                    {"name": "b", "expression": "variables.c"}, {"name": "c", "expression": "1"}],
                "matchConditions": [{"name": "c", "expression": "variables.c == 1"}],
                "validations": [{"expression": "variables.c", "messageExpression": "1"},
                    {"expression": "variables.c ==", "messageExpression": "string(authorizer)"}],
                "auditAnnotations": [{"key": "k", "valueExpression": "has(object.a) ? 'a' : ''"},
                    {"key": "l", "valueExpression": "variables.c"}],
                "mutations": [{"jsonPatch": {"expression": "[JSONPatch{op: string(variables.c)}]"}},
                    {"applyConfiguration": {"expression": "Thing{a: object}"}},
                    {"applyConfiguration": {"expression": "object"}}]}});
        let errors = unreadable(&object);
        let named: Vec<(String, String)> = errors
            .iter()
            .map(|error| (error.field.to_string(), error.to_string()))
            .collect();
        let expected = [
            (
                "webhooks[0].matchConditions[1].expression",
                "undeclared reference to 'params'",
            ),
            (
                "spec.matchConditions[0].expression",
                "undeclared reference to 'variables'",
            ),
            (
                "spec.variables[0].expression",
                "undeclared reference to 'nope'",
            ),
            ("spec.variables[1].expression", "undefined field 'c'"),
            (
                "spec.mutations[1].applyConfiguration.expression",
                "undeclared reference to 'Thing'",
            ),
            (
                "spec.mutations[2].applyConfiguration.expression",
                "must evaluate to Object but got dyn",
            ),
            (
                "spec.validations[0].expression",
                "\"variables.c\": must evaluate to bool but got int",
            ),
            ("spec.validations[1].expression", "compilation failed: "),
            (
                "spec.validations[0].messageExpression",
                "must evaluate to string but got int",
            ),
            (
                "spec.validations[1].messageExpression",
                "undeclared reference to 'authorizer'",
            ),
            (
                "spec.auditAnnotations[1].valueExpression",
                "must evaluate to one of [string null_type] but got int",
            ),
        ];
        assert_eq!(named.len(), expected.len(), "{named:#?}");
        for ((field, text), (expected_field, expected_text)) in named.iter().zip(expected) {
            assert_eq!(field, expected_field, "{text}");
            assert!(text.contains(expected_text), "{text}");
        }
    }

    #[test]
    fn a_conditional_of_two_types_has_an_error() {
        let object = json!({"spec": {"auditAnnotations": [{"key": "k",
            "valueExpression": "has(object.a) ? 'a' : 1"}]}});
        let errors = unreadable(&object);
        assert!(
            errors[0]
                .to_string()
                .contains("no matching overload for '_?_:_'")
        );
    }

    #[test]
    fn a_stored_spec_is_not_checked_again() {
        let wrong = json!({"kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p", "generation": 3},
            "spec": {"validations": [{"expression": "object.a"}]}});
        assert!(admitted(CHECKED, wrong.clone(), None).is_err());
        let mut labelled = wrong.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        assert_eq!(
            admitted(CHECKED, labelled.clone(), Some(&wrong)),
            Ok(labelled)
        );
        let mut changed = wrong.clone();
        changed["spec"]["validations"][0]["expression"] = json!("object.b");
        assert!(admitted(CHECKED, changed.clone(), Some(&wrong)).is_err());
        changed["spec"]["validations"][0]["expression"] = json!("has(object.b)");
        let status = admitted(CHECKED, changed, Some(&wrong)).unwrap()["status"].clone();
        assert_eq!(status, json!({"typeChecking": {}, "observedGeneration": 4}));
    }

    #[test]
    fn the_status_of_a_validating_policy_has_the_type_check() {
        let policy = json!({"metadata": {"name": "p"},
            "spec": {"validations": [{"expression": "has(object.a)"}]}});
        let status =
            |plural: &str| admitted(plural, policy.clone(), None).unwrap()["status"].clone();
        let checked = json!({"typeChecking": {}, "observedGeneration": 1});
        assert_eq!(status(CHECKED), checked);
        assert_eq!(status("mutatingadmissionpolicies"), Value::Null);
    }

    /// findings E7: upstream's budget of match conditions.
    #[test]
    fn match_conditions_have_a_budget_of_their_own() {
        let of = |count: usize, last: &str| {
            let costly = json!({"name": "c", "expression":
                "object.l.all(x, object.l.all(y, x == y || x != y))"});
            let mut list = vec![costly; count];
            list.push(json!({"name": "last", "expression": last}));
            conditions(&json!(list), false).unwrap()
        };
        let mut values = Values::default();
        values.add("object", &json!({"l": vec![1; 350]}));
        let result = met(&of(1, "true"), &values);
        assert!(matches!(result, MatchResult::Yes), "{result:?}");
        let result = met(&of(20, "true"), &values);
        let MatchResult::Unknown(error) = result else {
            panic!("{result:?}");
        };
        let text = error.to_string();
        assert!(
            text.contains(&ExpressionError::OutOfBudget.to_string()),
            "{text}"
        );
        // A condition that is false decides in any case.
        let result = met(&of(2, "false"), &values);
        assert!(matches!(result, MatchResult::No), "{result:?}");
        // The rules that follow have their whole budget.
        let rule = compile(&json!("object.l.all(x, x == 1)"), &["object"]).unwrap();
        assert_eq!(rule.evaluate(&values).unwrap().as_bool(), Some(true));
    }
}
