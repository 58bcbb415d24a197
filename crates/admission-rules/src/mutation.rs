//! MutatingAdmissionPolicies: their matching and their mutations.

use std::fmt::Display;

use custom_resources::{Expression, ExpressionError};
use json_tree::Value;
use object_model::{Cause, Status, StatusReason};

use crate::binding::{BoundPolicy, ParameterSource};
use crate::environment::names;
use crate::error::{ConfigurationError, RuleError};
use crate::expressions::{
    Condition, MatchResult, Variables, compile_constructing, conditions, met,
};
use crate::matching::TargetResource;
use crate::request::{Request, ResourceAndKind};

/// All mutating policies with their bindings.
#[derive(Clone, Debug, Default)]
pub struct MutatingPolicies {
    bound: Vec<MutatingPolicy>,
}

/// A policy with one of its bindings.
#[derive(Clone, Debug)]
pub struct MutatingPolicy(BoundPolicy<Changes>);

/// The mutations of a policy.
#[derive(Clone, Debug)]
struct Changes {
    conditions: Vec<Condition>,
    variables: Variables,
    mutations: Vec<Mutation>,
}

#[derive(Clone, Debug)]
enum Mutation {
    Apply(Expression),
    Json(Expression),
}

/// The result of one mutation of a policy.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// An apply configuration to merge into the object.
    Apply(Value),
    /// A JSON patch.
    Json(Value),
}

/// The object in the message of a refusal.
#[derive(Clone, Copy, Debug)]
pub struct RefusedObject<'a> {
    /// The resource of the refused request.
    pub target: TargetResource<'a>,
    pub name: &'a str,
}

impl MutatingPolicies {
    /// The policies with their bindings, sorted by the names of the policies, then by the names of the bindings.
    pub fn new(policies: &[Value], bindings: &[Value]) -> Self {
        let mut bound = BoundPolicy::all(policies, bindings, Changes::read);
        bound.sort_unstable_by(|one, two| {
            (&one.policy, &one.binding).cmp(&(&two.policy, &two.binding))
        });
        Self {
            bound: bound.into_iter().map(MutatingPolicy).collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.bound.is_empty()
    }

    /// The policies in their order of execution.
    pub fn iter(&self) -> impl Iterator<Item = &MutatingPolicy> {
        self.bound.iter()
    }
}

impl Changes {
    fn read(spec: &Value) -> Result<Self, ExpressionError> {
        let params = spec["paramKind"].is_object();
        let all = names(params, true);
        let list = spec["mutations"].as_array().into_iter().flatten();
        let mutations = list.map(|mutation| match mutation["patchType"].as_str() {
            Some("JSONPatch") => {
                compile_constructing(&mutation["jsonPatch"]["expression"], &all).map(Mutation::Json)
            }
            _ => compile_constructing(&mutation["applyConfiguration"]["expression"], &all)
                .map(Mutation::Apply),
        });
        Ok(Self {
            conditions: conditions(&spec["matchConditions"], params)?,
            variables: Variables::read(&spec["variables"], &all)?,
            mutations: mutations.collect::<Result<_, ExpressionError>>()?,
        })
    }
}

impl MutatingPolicy {
    /// Whether the policy is evaluated again after other plug-ins have changed the object (`reinvocationPolicy`).
    pub fn is_reinvoked(&self) -> bool {
        self.0.spec["reinvocationPolicy"] == "IfNeeded"
    }

    /// The names of the policy and of the binding.
    pub fn names(&self) -> (&str, &str) {
        (&self.0.policy, &self.0.binding)
    }

    /// The message of a refusal.
    fn denial(&self, why: &dyn Display) -> String {
        let BoundPolicy {
            policy, binding, ..
        } = &self.0;
        format!("policy '{policy}' with binding '{binding}' denied request: {why}")
    }

    /// The number of mutations.
    pub fn changes(&self) -> usize {
        self.0
            .rules
            .as_ref()
            .map_or(0, |rules| rules.mutations.len())
    }

    /// The index of the subject that the policy matches (index 0 is the resource of the request itself), and the
    /// parameter objects: a single null if the policy has no parameters. `None` if the policy does not apply.
    ///
    /// # Errors
    /// The match could not be evaluated, or the parameters do not exist.
    pub fn match_request(
        &self,
        request: &Request<'_>,
        subjects: &[ResourceAndKind<'_>],
        cluster: &ParameterSource<'_>,
    ) -> Result<Option<(usize, Vec<Value>)>, ConfigurationError> {
        let Some(index) = self.0.match_request(request, subjects)? else {
            return Ok(None);
        };
        self.0.rules()?;
        Ok(Some((index, self.0.settings(request, cluster)?)))
    }

    /// Whether the match conditions are true with these parameters.
    ///
    /// # Errors
    /// A condition could not be evaluated, and no other condition is false.
    pub fn applies(&self, request: &Request<'_>, settings: &Value) -> Result<bool, RuleError> {
        let Ok(rules) = &self.0.rules else {
            return Ok(false);
        };
        let mut values = request.values();
        values.add("params", settings);
        match met(&rules.conditions, &values) {
            MatchResult::Yes => Ok(true),
            MatchResult::No => Ok(false),
            MatchResult::Unknown(why) => Err(why),
        }
    }

    /// Evaluates one mutation for a request's object.
    ///
    /// # Errors
    /// The evaluation error.
    pub fn change(
        &self,
        number: usize,
        request: &Request<'_>,
        settings: &Value,
    ) -> Result<Option<Patch>, RuleError> {
        let rules = self.0.rules.as_ref().map_err(Clone::clone)?;
        let mut values = request.values();
        values.add("params", settings);
        rules.variables.add_to(&mut values);
        match rules.mutations.get(number) {
            None => Ok(None),
            Some(Mutation::Apply(expression)) => {
                let object = expression.evaluate(&values)?.to_object()?;
                Ok(Some(Patch::Apply(object)))
            }
            Some(Mutation::Json(expression)) => {
                let patch = expression.evaluate(&values)?.to_patch()?;
                Ok(Some(Patch::Json(patch)))
            }
        }
    }
}

/// The failures of mutating policies for a request. The request is refused for all of them together.
#[derive(Debug, Default)]
pub struct PolicyFailures {
    /// The messages in the order of the policies.
    messages: Vec<String>,
    /// The reason of the refusal, from the first failure.
    reason: Option<StatusReason>,
}

impl PolicyFailures {
    /// Adds the failure of a policy's evaluation, unless its `failurePolicy` is `Ignore`.
    pub fn add(&mut self, policy: &MutatingPolicy, error: &dyn Display) {
        let message = policy.denial(error);
        self.push(policy, message, StatusReason::Invalid);
    }

    /// Adds a failure of the configuration of a policy, unless its `failurePolicy` is `Ignore`.
    pub fn add_configuration(&mut self, policy: &MutatingPolicy, error: &ConfigurationError) {
        let message = match error {
            ConfigurationError::Policy(_) => {
                let name = &policy.0.policy;
                format!("policy {name:?} denied request: {error}")
            }
            ConfigurationError::Binding(_) => policy.denial(error),
        };
        self.push(policy, message, StatusReason::Forbidden);
    }

    fn push(&mut self, policy: &MutatingPolicy, message: String, reason: StatusReason) {
        if policy.0.may_fail() {
            return;
        }
        self.messages.push(message);
        self.reason.get_or_insert(reason);
    }

    /// Refuses the request if there are failures.
    ///
    /// # Errors
    /// The refusal: the message of the first failure, with a cause for each.
    pub fn settle(&self, about: &RefusedObject<'_>) -> Result<(), Status> {
        let (Some(first), Some(reason)) = (self.messages.first(), self.reason) else {
            return Ok(());
        };
        let target = &about.target;
        let mut status = Status::forbidden(target.group, target.plural, about.name, first);
        status.reason = reason;
        status.message.clone_from(first);
        for message in &self.messages {
            status = status.with_cause(Cause {
                message: message.clone(),
                ..Cause::default()
            });
        }
        Err(status)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use json_tree::json;
    use resource_kinds::ObjectReader;

    use super::*;
    use crate::request::samples::{PODS, creation};

    /// A cluster with one parameter object.
    struct Settings;

    impl ObjectReader for Settings {
        fn get(&self, _: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
            let is_settings = (plural, namespace, name) == ("configmaps", "d", "settings");
            let settings = json!({"metadata": {"name": "settings"}, "data": {"team": "red"}});
            is_settings.then(|| Arc::new(settings))
        }

        fn list(&self, _: &str, _: &str, _: &str) -> Vec<Arc<Value>> {
            Vec::new()
        }
    }

    fn policy(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "p"}, "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""],
                "apiVersions": ["v1"], "resources": ["pods"]}]}}});
        for (field, value) in spec.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
        object
    }

    /// The patches of a policy for a pod.
    fn patches(spec: Value, binding: Value) -> Result<Vec<Patch>, Status> {
        let mut bound = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p"}});
        for (field, value) in binding.as_object().into_iter().flatten() {
            bound["spec"][field] = value.clone();
        }
        let policies = MutatingPolicies::new(&[policy(spec)], &[bound]);
        let object = json!({"metadata": {"name": "web"}, "spec": {"priority": 3}});
        let request = creation(&object);
        let plural_of = |_: &str, kind: &str| {
            (kind == "ConfigMap").then(|| (String::new(), "configmaps".into()))
        };
        let cluster = ParameterSource {
            objects: &Settings,
            plural_of: &plural_of,
        };
        let mut patches = Vec::new();
        let mut failures = PolicyFailures::default();
        for policy in policies.iter() {
            let all = match policy.match_request(&request, &[PODS], &cluster) {
                Ok(Some((_, all))) => all,
                Ok(None) => continue,
                Err(error) => {
                    failures.add_configuration(policy, &error);
                    continue;
                }
            };
            for settings in all {
                match policy.applies(&request, &settings) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error) => failures.add(policy, &error),
                }
                for number in 0..policy.changes() {
                    match policy.change(number, &request, &settings) {
                        Ok(patch) => patches.extend(patch),
                        Err(error) => failures.add(policy, &error),
                    }
                }
            }
        }
        let about = RefusedObject {
            target: PODS.target,
            name: request.name,
        };
        failures.settle(&about).map(|()| patches)
    }

    fn applying(expression: &str) -> Value {
        json!([{"patchType": "ApplyConfiguration", "applyConfiguration":
            {"expression": expression}}])
    }

    #[test]
    fn changes_are_made_of_the_request_settings_and_variables() {
        let spec = json!({
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "variables": [{"name": "next", "expression": "object.spec.priority + 1"}],
            "mutations": [
                {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                    "Object{metadata: Object.metadata{labels: {'team': params.data.team}}}"}},
                {"patchType": "JSONPatch", "jsonPatch": {"expression":
                    "[JSONPatch{op: 'replace', path: '/spec/priority', value: variables.next}]"}},
            ],
        });
        let bound = json!({"paramRef": {"name": "settings"}});
        assert_eq!(
            patches(spec.clone(), bound).unwrap(),
            [
                Patch::Apply(json!({"metadata": {"labels": {"team": "red"}}})),
                Patch::Json(json!([{"op": "replace", "path": "/spec/priority", "value": 4}])),
            ]
        );
        let other = patches(spec, json!({"paramRef": {"name": "other"}})).unwrap_err();
        assert_eq!(
            (other.reason, other.message.as_str()),
            (
                StatusReason::Forbidden,
                "policy 'p' with binding 'b' denied request: failed to configure binding: no params found for policy \
                 binding with `Deny` parameterNotFoundAction"
            )
        );
    }

    #[test]
    fn conditions_and_places_say_where_it_holds() {
        let spec = |condition: &str| {
            json!({"matchConditions": [{"name": "c", "expression": condition}],
                "mutations": applying("Object{}")})
        };
        assert_eq!(
            patches(spec("object.spec.priority > 2"), json!({}))
                .unwrap()
                .len(),
            1
        );
        assert_eq!(
            patches(spec("object.spec.priority > 3"), json!({}))
                .unwrap()
                .len(),
            0
        );
        let elsewhere = json!({"matchResources": {"resourceRules": [{"operations": ["UPDATE"],
            "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}});
        assert_eq!(patches(spec("true"), elsewhere).unwrap().len(), 0);
    }

    #[test]
    fn what_cannot_be_worked_out_counts_as_the_policy_says() {
        let spec = |policy: &str| {
            json!({"failurePolicy": policy,
                "mutations": applying("Object{spec: Object.spec{a: object.spec.missing}}")})
        };
        let refused = patches(spec("Fail"), json!({})).unwrap_err();
        assert_eq!((refused.code, refused.reason), (403, StatusReason::Invalid));
        assert!(
            refused
                .message
                .starts_with("policy 'p' with binding 'b' denied request: "),
            "{}",
            refused.message
        );
        assert_eq!(patches(spec("Ignore"), json!({})), Ok(Vec::new()));
    }

    #[test]
    fn all_failures_are_in_one_refusal() {
        let failing =
            |field: &str| format!("Object{{spec: Object.spec{{a: object.spec.{field}}}}}");
        let mutations: Vec<Value> = ["one", "two"]
            .iter()
            .flat_map(|field| {
                applying(&failing(field))
                    .as_array()
                    .cloned()
                    .unwrap_or_default()
            })
            .collect();
        let refused = patches(json!({"mutations": mutations}), json!({})).unwrap_err();
        let causes: Vec<&str> = refused
            .details
            .iter()
            .flat_map(|details| &details.causes)
            .map(|cause| cause.message.as_str())
            .collect();
        assert_eq!(causes.len(), 2, "{refused:?}");
        assert_eq!(refused.message, causes[0]);
        assert!(causes[1].contains("two"), "{causes:?}");
    }
}
