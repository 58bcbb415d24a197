//! Bindings of policies of either kind: the requests that a policy applies to, and its settings.

use std::sync::Arc;

use json_tree::Value;
use resource_kinds::ObjectReader;

use crate::matching::{rule_matches, selected};
use crate::request::{Request, ResourceAndKind};

/// Group and plural of a kind that is served, by its version (`apps/v1`) and name.
pub type PluralOf<'a> = dyn Fn(&str, &str) -> Option<(String, String)> + 'a;

/// The cluster as policies see it: the source of their parameters.
#[derive(Clone, Copy)]
pub struct ParameterSource<'a> {
    /// Reads any object of the cluster: parameter objects and namespaces.
    pub objects: &'a dyn ObjectReader,
    /// Finds the plural of a kind, for the path of parameter objects.
    pub plural_of: &'a PluralOf<'a>,
}

/// A policy, and one place where it holds.
#[derive(Clone, Debug)]
pub(crate) struct BoundPolicy<R> {
    pub policy: String,
    pub binding: String,
    /// `spec` of the policy and `spec` of its binding, in this order.
    pub spec: Value,
    pub bound: Value,
    /// The policy's rules, or the error of compiling them.
    pub rules: Result<R, String>,
}

impl<R> BoundPolicy<R> {
    /// The policies that are bound somewhere.
    pub fn all(
        policies: &[Value],
        bindings: &[Value],
        read: impl Fn(&Value) -> Result<R, String>,
    ) -> Vec<Self> {
        let name = |object: &Value| {
            let name = object["metadata"]["name"].as_str();
            name.unwrap_or_default().to_owned()
        };
        let mut bound = Vec::new();
        for binding in bindings {
            let wanted = &binding["spec"]["policyName"];
            let found = policies
                .iter()
                .find(|one| one["metadata"]["name"] == *wanted);
            let Some(policy) = found else { continue };
            bound.push(Self {
                policy: name(policy),
                binding: name(binding),
                spec: policy["spec"].clone(),
                bound: binding["spec"].clone(),
                rules: read(&policy["spec"]),
            });
        }
        bound
    }

    /// The subject of the request that the policy matches; `None` if the policy does not apply.
    pub fn wants(
        &self,
        request: &Request<'_>,
        subjects: &[ResourceAndKind<'_>],
    ) -> Result<Option<usize>, String> {
        let of_policy = holds(&self.spec["matchConstraints"], request, subjects, false)?;
        let of_binding = holds(&self.bound["matchResources"], request, subjects, true)?;
        Ok(of_policy.filter(|_| of_binding.is_some()))
    }

    /// Whether a failed evaluation lets the request pass: `failurePolicy: Ignore`.
    pub fn may_fail(&self) -> bool {
        self.spec["failurePolicy"] == "Ignore"
    }

    /// The policy's parameter objects; one null if the policy has no `paramKind`.
    pub fn settings(
        &self,
        request: &Request<'_>,
        cluster: &ParameterSource<'_>,
    ) -> Result<Vec<Value>, String> {
        let (kind, reference) = (&self.spec["paramKind"], &self.bound["paramRef"]);
        if !kind.is_object() || !reference.is_object() {
            return Ok(vec![Value::Null]);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, name) = (text(&kind["apiVersion"]), text(&kind["kind"]));
        let Some((group, plural)) = (cluster.plural_of)(&version, &name) else {
            return Err(format!("paramKind {version}, Kind={name} is not served"));
        };
        let namespace = match text(&reference["namespace"]) {
            none if none.is_empty() => request.namespace.to_owned(),
            namespace => namespace,
        };
        let found: Vec<Value> = match text(&reference["name"]) {
            name if !name.is_empty() => cluster
                .objects
                .get(&group, &plural, &namespace, &name)
                .map(Arc::unwrap_or_clone)
                .into_iter()
                .collect(),
            _ => {
                let selector = object_model::LabelSelector::from_json(&reference["selector"]);
                let selector = selector.map_err(|error| error.to_string())?;
                let mut all = cluster.objects.list(&group, &plural, &namespace);
                all.retain(|object| selector.matches_object(object));
                all.into_iter().map(Arc::unwrap_or_clone).collect()
            }
        };
        if found.is_empty() && reference["parameterNotFoundAction"] != "Allow" {
            return Err(
                "no params found for policy binding with `Deny` parameterNotFoundAction".to_owned(),
            );
        }
        Ok(found)
    }
}

/// The first of the subjects that matches; an empty list of rules matches all of them where that is
/// allowed.
fn holds(
    part: &Value,
    request: &Request<'_>,
    subjects: &[ResourceAndKind<'_>],
    all: bool,
) -> Result<Option<usize>, String> {
    if !part.is_object() {
        return Ok(all.then_some(0));
    }
    let subjects = if part["matchPolicy"] == "Exact" {
        subjects.get(..1).unwrap_or_default()
    } else {
        subjects
    };
    let first = |list: &Value| {
        let rules = list.as_array().map_or(&[][..], Vec::as_slice);
        let any = |subject: &ResourceAndKind<'_>| {
            let mut rules = rules.iter();
            rules.any(|rule| rule_matches(rule, &subject.target, request))
        };
        subjects.iter().position(any)
    };
    let rules = &part["resourceRules"];
    let unbounded = all && rules.as_array().is_none_or(Vec::is_empty);
    let matched = if unbounded { Some(0) } else { first(rules) };
    if matched.is_none() || first(&part["excludeResourceRules"]).is_some() {
        return Ok(None);
    }
    Ok(selected(part, request)?.then_some(0).and(matched))
}
