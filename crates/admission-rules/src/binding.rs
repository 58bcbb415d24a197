//! Bindings of policies of either kind: the requests to which a policy applies, and its parameters.

use std::sync::Arc;

use custom_resources::ExpressionError;
use json_tree::Value;
use object_model::LabelSelector;
use resource_kinds::ObjectReader;

use crate::error::{ConfigurationError, RuleError};
use crate::matching::{rule_matches, selected};
use crate::request::{Request, ResourceAndKind};

/// Returns group and plural of a served kind, from its version (`apps/v1`) and name.
pub type PluralOf<'a> = dyn Fn(&str, &str) -> Option<(String, String)> + 'a;

/// Read access for policies, to load their parameters.
#[derive(Clone, Copy)]
pub struct ParameterSource<'a> {
    /// Reads any object of the cluster: parameter objects and namespaces.
    pub objects: &'a dyn ObjectReader,
    /// Finds the plural of a kind, for the path of parameter objects.
    pub plural_of: &'a PluralOf<'a>,
}

/// A policy with one of its bindings.
#[derive(Clone, Debug)]
pub(crate) struct BoundPolicy<R> {
    pub policy: String,
    pub binding: String,
    /// `spec` of the policy and `spec` of its binding, in this order.
    pub spec: Value,
    pub bound: Value,
    /// The compiled rules of the policy, or the error of the compilation.
    pub rules: Result<R, ExpressionError>,
}

impl<R> BoundPolicy<R> {
    /// The policies with their bindings; a policy without a binding is not in the list.
    pub fn all(
        policies: &[Value],
        bindings: &[Value],
        read: impl Fn(&Value) -> Result<R, ExpressionError>,
    ) -> Vec<Self> {
        let name = |object: &Value| {
            let name = object["metadata"]["name"].as_str();
            name.unwrap_or_default().to_owned()
        };
        let mut bound = Vec::new();
        for binding in bindings {
            let policy_name = &binding["spec"]["policyName"];
            let matching = policies
                .iter()
                .find(|policy| policy["metadata"]["name"] == *policy_name);
            let Some(policy) = matching else { continue };
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

    /// The index of the subject that the policy matches; `None` if the policy does not apply.
    pub fn match_request(
        &self,
        request: &Request<'_>,
        subjects: &[ResourceAndKind<'_>],
    ) -> Result<Option<usize>, ConfigurationError> {
        let of_policy = holds(&self.spec["matchConstraints"], request, subjects, false)
            .map_err(ConfigurationError::Policy)?;
        let Some(index) = of_policy else {
            return Ok(None);
        };
        let of_binding = holds(&self.bound["matchResources"], request, subjects, true)
            .map_err(ConfigurationError::Binding)?;
        Ok(of_binding.map(|_| index))
    }

    /// The compiled rules.
    pub fn rules(&self) -> Result<&R, ConfigurationError> {
        let rules = self.rules.as_ref();
        rules.map_err(|error| ConfigurationError::Policy(error.clone().into()))
    }

    /// Whether the request passes if the evaluation fails: `failurePolicy: Ignore`.
    pub fn may_fail(&self) -> bool {
        self.spec["failurePolicy"] == "Ignore"
    }

    /// The policy's parameter objects; a single null if the policy has no `paramKind`.
    pub fn settings(
        &self,
        request: &Request<'_>,
        cluster: &ParameterSource<'_>,
    ) -> Result<Vec<Value>, ConfigurationError> {
        let (kind, reference) = (&self.spec["paramKind"], &self.bound["paramRef"]);
        if !kind.is_object() || !reference.is_object() {
            return Ok(vec![Value::Null]);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, name) = (text(&kind["apiVersion"]), text(&kind["kind"]));
        let Some((group, plural)) = (cluster.plural_of)(&version, &name) else {
            // As upstream, a version of the core group has a leading slash here.
            let version = match version.contains('/') {
                true => version,
                false => format!("/{version}"),
            };
            let error = RuleError::ParameterKind {
                version,
                kind: name,
            };
            return Err(ConfigurationError::Policy(error));
        };
        let namespace = match text(&reference["namespace"]) {
            none if none.is_empty() => request.namespace.to_owned(),
            namespace => namespace,
        };
        let objects: Vec<Value> = match text(&reference["name"]) {
            name if !name.is_empty() => cluster
                .objects
                .get(&group, &plural, &namespace, &name)
                .map(Arc::unwrap_or_clone)
                .into_iter()
                .collect(),
            _ => {
                let selector = LabelSelector::from_json(&reference["selector"])
                    .map_err(|error| ConfigurationError::Binding(error.into()))?;
                let mut all = cluster.objects.list(&group, &plural, &namespace);
                all.retain(|object| selector.matches_object(object));
                all.into_iter().map(Arc::unwrap_or_clone).collect()
            }
        };
        if objects.is_empty() && reference["parameterNotFoundAction"] != "Allow" {
            return Err(ConfigurationError::Binding(RuleError::NoParameters));
        }
        Ok(objects)
    }
}

/// The first subject that matches. An empty list of rules matches every subject if that is allowed.
fn holds(
    part: &Value,
    request: &Request<'_>,
    subjects: &[ResourceAndKind<'_>],
    all: bool,
) -> Result<Option<usize>, RuleError> {
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
