//! Tests of validating policies.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use resource_kinds::ObjectReader;

use super::*;
use crate::request::samples::{PODS, creation};

/// A cluster with two ConfigMaps.
struct Cluster;

fn settings(name: &str) -> Arc<Value> {
    Arc::new(json!({"metadata": {"name": name}, "data": {"team": name}}))
}

impl ObjectReader for Cluster {
    fn get(&self, _: &str, _: &str, _: &str, name: &str) -> Option<Arc<Value>> {
        (name == "red").then(|| settings(name))
    }

    fn list(&self, _: &str, _: &str, _: &str) -> Vec<Arc<Value>> {
        ["red", "blue"].map(settings).to_vec()
    }
}

/// Collects evaluations; each reading of its clock is a millisecond later.
#[derive(Default)]
struct Evaluations {
    readings: Cell<u64>,
    all: RefCell<Vec<(Option<EvaluationFailure>, EnforcementAction, Duration)>>,
}

impl EvaluationObserver for Evaluations {
    fn now(&self) -> Duration {
        self.readings.set(self.readings.get() + 1);
        Duration::from_millis(self.readings.get())
    }

    fn validated(&self, evaluation: &PolicyEvaluation<'_>) {
        assert_eq!((evaluation.policy, evaluation.binding), ("p", "b"));
        let (failure, action) = (evaluation.failure, evaluation.action);
        self.all
            .borrow_mut()
            .push((failure, action, evaluation.took));
    }
}

/// The judgement about a pod by policies with this spec, each with this binding.
fn judged(spec: &Value, binding: &Value) -> PolicyJudgement {
    judged_before(spec, binding, &Evaluations::default())
}

fn judged_before(spec: &Value, binding: &Value, observer: &Evaluations) -> PolicyJudgement {
    let mut full = json!({"failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [{"operations": ["*"], "apiGroups": [""],
            "apiVersions": ["v1"], "resources": ["pods"]}]}});
    let mut bound = json!({"policyName": "p", "validationActions": ["Deny"]});
    for (part, more) in [(&mut full, spec), (&mut bound, binding)] {
        for (field, value) in more.as_object().into_iter().flatten() {
            part[field] = value.clone();
        }
    }
    let policies = Policies::new(
        &[json!({"metadata": {"name": "p"}, "spec": full})],
        &[json!({"metadata": {"name": "b"}, "spec": bound})],
    );
    let object = json!({"metadata": {"name": "web"}, "spec": {"priority": 3}});
    let request = creation(&object);
    let plural_of =
        |_: &str, kind: &str| (kind == "ConfigMap").then(|| (String::new(), "configmaps".into()));
    let cluster = ParameterSource {
        objects: &Cluster,
        plural_of: &plural_of,
    };
    let unchanged = |_| {
        Ok(AdmissionObjects {
            object: object.clone(),
            old: Value::Null,
        })
    };
    policies.judge(&request, &[PODS], &unchanged, &cluster, observer)
}

fn message(judgement: &PolicyJudgement) -> &str {
    judgement
        .denied
        .as_ref()
        .map_or("", |status| &status.message)
}

#[test]
fn each_action_has_its_effect() {
    let spec = json!({"validations": [{"expression": "true"},
        {"expression": "object.spec.priority < 3", "messageExpression": "'is ' + string(object.spec.priority)"}]});
    let denied = judged(&spec, &json!({}));
    let text = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: is 3";
    assert!(message(&denied).ends_with(text), "{denied:?}");
    assert_eq!(denied.annotations, []);
    let noted = judged(&spec, &json!({"validationActions": ["Warn", "Audit"]}));
    assert_eq!(noted.denied, None);
    assert_eq!(
        noted.warnings,
        ["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': is 3"]
    );
    let value = "[{\"message\":\"is 3\",\"policy\":\"p\",\"binding\":\"b\",\"expressionIndex\":1,\
        \"validationActions\":[\"Warn\",\"Audit\"]}]";
    assert_eq!(
        noted.annotations,
        [(VALIDATION_FAILURE.to_owned(), value.to_owned())]
    );
}

#[test]
fn annotations_of_all_parameters_are_one_list() {
    let spec = |expression: &str| {
        json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "auditAnnotations": [{"key": "k", "valueExpression": expression}]})
    };
    let all = json!({"paramRef": {"selector": {}}});
    let annotations = |expression: &str| judged(&spec(expression), &all).annotations;
    let one = |value: &str| [("p/k".to_owned(), value.to_owned())];
    assert_eq!(annotations("params.data.team + '!'"), one("red!, blue!"));
    assert_eq!(annotations("' same '"), one("same"));
    assert_eq!(annotations("' '"), []);
    assert_eq!(
        annotations("params.data.team == 'red' ? 'r' : ''"),
        one("r")
    );
    let long = annotations("['ä'].map(a, a + a + a + a + a + a + a + a + a + a)[0] + 'x'");
    assert_eq!(long[0].1.chars().count(), 11);
}

#[test]
fn failures_count_as_the_policy_says() {
    let missing = json!([{"expression": "object.spec.missing == 1"}]);
    let annotation = json!([{"key": "k", "valueExpression": "object.spec.missing"}]);
    let condition = json!([{"name": "c", "expression": "object.spec.missing == 1"}]);
    let unknown = json!({"apiVersion": "acme.io/v1", "kind": "Team"});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let fine = json!([{"expression": "true"}]);
    for (spec, binding, expected) in [
        (
            json!({"validations": missing}),
            json!({}),
            "'p' with binding 'b' denied request: expression 'object.spec.missing == 1' resulted in error: ",
        ),
        (
            json!({"auditAnnotations": annotation}),
            json!({"validationActions": ["Warn"]}),
            "'p' with binding 'b' denied request: ",
        ),
        (
            json!({"validations": fine, "matchConditions": condition}),
            json!({}),
            "'p' with binding 'b' denied request: c: ",
        ),
        (
            json!({"validations": fine, "paramKind": unknown}),
            json!({"paramRef": {"name": "red"}}),
            "ValidatingAdmissionPolicy 'p' denied request: failed to configure policy: failed to find resource \
             referenced by paramKind: 'acme.io/v1, Kind=Team'",
        ),
        (
            json!({"validations": fine, "paramKind": map}),
            json!({"paramRef": {"name": "green"}, "validationActions": ["Audit"]}),
            "'p' with binding 'b' denied request: failed to configure binding: no params found for policy \
             binding with `Deny` parameterNotFoundAction",
        ),
    ] {
        let denied = judged(&spec, &binding);
        assert!(
            message(&denied).contains(expected),
            "{expected}: {denied:?}"
        );
        let mut ignoring = spec.clone();
        ignoring["failurePolicy"] = json!("Ignore");
        assert_eq!(
            judged(&ignoring, &binding),
            PolicyJudgement::default(),
            "{spec}"
        );
    }
    // A value of another type is an error of the policy, and never ignored.
    let number = json!({"failurePolicy": "Ignore",
        "auditAnnotations": [{"key": "k", "valueExpression": "object.spec.priority"}]});
    let denied = judged(&number, &json!({}));
    assert!(
        message(&denied).contains("unsupported return type"),
        "{denied:?}"
    );
}

#[test]
fn evaluations_with_an_effect_are_observed() {
    let evaluations = |spec: Value, binding: Value| {
        let observer = Evaluations::default();
        judged_before(&spec, &binding, &observer);
        observer.all.into_inner()
    };
    let validations = json!({"validations": [{"expression": "true"},
        {"expression": "object.spec.priority < 3"}, {"expression": "object.spec.missing == 1"}]});
    let invalid = Some(EvaluationFailure::Invalid);
    let took = Duration::from_millis(1);
    let both = json!({"validationActions": ["Warn", "Audit"]});
    assert_eq!(
        evaluations(validations.clone(), both),
        [
            (None, EnforcementAction::Warn, took),
            (None, EnforcementAction::Audit, took),
            (invalid, EnforcementAction::Warn, took),
            (invalid, EnforcementAction::Audit, took),
        ]
    );
    let mut ignoring = validations;
    ignoring["failurePolicy"] = json!("Ignore");
    assert_eq!(
        evaluations(ignoring, json!({})),
        [
            (None, EnforcementAction::Deny, took),
            (invalid, EnforcementAction::Allow, took),
        ]
    );
    let condition = json!({"validations": [{"expression": "true"}],
        "matchConditions": [{"name": "c", "expression": "object.spec.missing == 1"}]});
    assert_eq!(
        evaluations(condition, json!({})),
        [(invalid, EnforcementAction::Deny, took)]
    );
    let annotation =
        json!({"auditAnnotations": [{"key": "k", "valueExpression": "object.spec.priority"}]});
    assert_eq!(
        evaluations(annotation, json!({"validationActions": ["Warn"]})),
        [(invalid, EnforcementAction::Deny, took)]
    );
}
