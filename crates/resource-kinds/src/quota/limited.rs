//! Resources and scopes that a namespace may use only if a quota covers them: `limitedResources` in the configuration
//! of the admission plug-in ResourceQuota.

use std::collections::BTreeSet;

use json_tree::Value;
use object_model::{FieldError, FieldPath};

use super::{
    Amounts, QuotaError, attributes_classes, concerns, fits, fits_claim, list, of, scopes,
};
use crate::configuration::{items, only, text, texts};

/// One element of `limitedResources`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitedResource {
    group: String,
    plural: String,
    /// A resource is limited if its name contains one of these texts.
    amounts: Vec<String>,
    /// Terms of a scope selector. Objects that match are limited.
    scopes: Vec<Value>,
}

impl LimitedResource {
    /// Reads an element of `limitedResources`. Records unknown fields, wrong types and values that would never limit
    /// anything.
    pub fn read(value: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) -> Self {
        let supported = ["apiGroup", "resource", "matchContains", "matchScopes"];
        only(value, &supported, at, errors);
        let plural = text(value, "resource", at, errors);
        if plural.is_empty() {
            errors.push(FieldError::required(&at.child("resource"), ""));
        }
        let scopes = items(value, "matchScopes", at, errors);
        for (index, term) in scopes.iter().enumerate() {
            let at = at.child("matchScopes").index(index);
            only(term, &["scopeName", "operator", "values"], &at, errors);
            text(term, "scopeName", &at, errors);
            text(term, "operator", &at, errors);
            texts(term, "values", &at, errors);
            errors.extend(scopes::term_errors(term, &at));
        }
        Self {
            group: text(value, "apiGroup", at, errors),
            plural,
            amounts: texts(value, "matchContains", at, errors),
            scopes: scopes.to_vec(),
        }
    }
}

/// Checks that quotas cover all limited resources and scopes that an object uses, or of which it uses more than
/// before.
///
/// *Errors.* Upstream's message, with the amounts or the scopes that no quota covers.
pub fn check_cover<'q>(
    limited: &[LimitedResource],
    quotas: impl Iterator<Item = &'q Value> + Clone,
    group: &str,
    plural: &str,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<(), QuotaError> {
    let Some(new) = new.filter(|_| !limited.is_empty()) else {
        return Ok(());
    };
    let usage = of(group, plural, new);
    if !is_more(&usage, old.map(|old| of(group, plural, old)).as_ref()) {
        return Ok(());
    }
    let relevant = limited
        .iter()
        .filter(|one| (one.group.as_str(), one.plural.as_str()) == (group, plural));
    let parts: Vec<&String> = relevant.flat_map(|one| &one.amounts).collect();
    let is_limited = |name: &str| parts.iter().any(|part| name.contains(part.as_str()));
    let mut uncovered: BTreeSet<&str> = usage
        .iter()
        .filter(|(name, amount)| !amount.is_zero() && is_limited(name))
        .map(|(name, _)| name.as_str())
        .collect();
    let pertinent = quotas
        .clone()
        .filter(|quota| concerns(quota, group, plural, new));
    for quota in pertinent {
        uncovered.retain(|name| quota["spec"]["hard"][*name].is_null());
    }
    if !uncovered.is_empty() {
        let names: Vec<&str> = uncovered.into_iter().collect();
        return Err(QuotaError::UncoveredResources(names.join(",")));
    }
    let covered: BTreeSet<&str> = quotas
        .flat_map(|quota| scopes_for(quota, group, plural, new))
        .collect();
    // As upstream, the scopes of every limited resource apply to every object that has scopes.
    let uncovered: Vec<String> = limited
        .iter()
        .flat_map(|one| &one.scopes)
        .filter(|term| is_matched(term, group, plural, new) && !covered.contains(scope_of(term)))
        .map(printed)
        .collect();
    if uncovered.is_empty() {
        return Ok(());
    }
    cov_mark::hit!(findings_2_s46);
    Err(QuotaError::UncoveredScopes(uncovered.join(" ")))
}

fn is_more(usage: &Amounts, before: Option<&Amounts>) -> bool {
    let was = |name: &String| before.and_then(|before| before.get(name)).copied();
    usage
        .iter()
        .any(|(name, amount)| *amount > was(name).unwrap_or_default())
}

fn scope_of(term: &Value) -> &str {
    term["scopeName"].as_str().unwrap_or_default()
}

fn is_matched(term: &Value, group: &str, plural: &str, object: &Value) -> bool {
    match (group, plural) {
        ("", "pods") => fits(term, object),
        ("", "persistentvolumeclaims") => fits_claim(term, &attributes_classes(object)),
        _ => false,
    }
}

/// The scopes of a quota that match an object.
fn scopes_for<'q>(quota: &'q Value, group: &str, plural: &str, object: &Value) -> Vec<&'q str> {
    let is_in = |scope: &Value| {
        let term = json_tree::json!({"scopeName": scope, "operator": "Exists"});
        is_matched(&term, group, plural, object)
    };
    let spec = &quota["spec"];
    let named = list(&spec["scopes"]).iter().filter(|scope| is_in(scope));
    let terms = list(&spec["scopeSelector"]["matchExpressions"]).iter();
    let terms = terms.filter(|term| is_matched(term, group, plural, object));
    named
        .filter_map(Value::as_str)
        .chain(terms.map(scope_of))
        .collect()
}

/// A term in the format of upstream's messages: `{PriorityClass In [a b]}`.
fn printed(term: &Value) -> String {
    let values = list(&term["values"]).iter().filter_map(Value::as_str);
    let values: Vec<&str> = values.collect();
    let operator = term["operator"].as_str().unwrap_or_default();
    format!("{{{} {operator} [{}]}}", scope_of(term), values.join(" "))
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn read(value: Value) -> Result<LimitedResource, Vec<String>> {
        let mut errors = Vec::new();
        let read = LimitedResource::read(&value, &FieldPath::root("a").index(0), &mut errors);
        match errors.as_slice() {
            [] => Ok(read),
            errors => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    fn limited(value: Value) -> Vec<LimitedResource> {
        vec![read(value).unwrap()]
    }

    fn pod(affinity: Value) -> Value {
        json!({"spec": {"affinity": affinity, "priorityClassName": "high",
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}})
    }

    fn reaching() -> Value {
        pod(
            json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"namespaceSelector": {}, "topologyKey": "kubernetes.io/hostname"}]}}),
        )
    }

    fn quota(hard: Value, selector: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard, "scopeSelector": selector},
            "status": {"hard": hard, "used": {}}})
    }

    // findings-2 S46
    #[test]
    fn a_limited_scope_needs_a_quota_with_it() {
        cov_mark::check!(findings_2_s46);
        let term = json!({"scopeName": "CrossNamespacePodAffinity", "operator": "Exists"});
        let limited = limited(json!({"resource": "pods", "matchScopes": [term]}));
        let check = |quotas: &[Value], pod: &Value| {
            check_cover(&limited, quotas.iter(), "", "pods", None, Some(pod))
                .map_err(|error| error.to_string())
        };
        let refused = "insufficient quota to match these scopes: \
                       [{CrossNamespacePodAffinity Exists []}]";
        assert_eq!(check(&[], &reaching()), Err(refused.to_owned()));
        assert_eq!(check(&[], &pod(Value::Null)), Ok(()));
        let other = quota(json!({"pods": "5"}), Value::Null);
        assert_eq!(
            check(std::slice::from_ref(&other), &reaching()),
            Err(refused.to_owned())
        );
        let same = quota(json!({"pods": "5"}), json!({"matchExpressions": [term]}));
        assert_eq!(check(&[other, same], &reaching()), Ok(()));
        let mut named = quota(json!({"pods": "5"}), Value::Null);
        named["spec"]["scopes"] = json!(["CrossNamespacePodAffinity"]);
        assert_eq!(check(&[named], &reaching()), Ok(()));
        // An update without a higher usage, and a deletion, need no quota.
        let (old, mut new) = (reaching(), reaching());
        new["status"] = json!({"phase": "Failed"});
        assert_eq!(
            check_cover(&limited, [].iter(), "", "pods", Some(&old), Some(&new)),
            Ok(())
        );
        assert_eq!(
            check_cover(&limited, [].iter(), "", "pods", Some(&old), None),
            Ok(())
        );
        assert_eq!(
            check_cover(&limited, [].iter(), "", "services", None, Some(&new)),
            Ok(())
        );
    }

    // findings-2 S46
    #[test]
    fn a_limited_amount_needs_a_quota_with_it() {
        let limited = limited(json!({"resource": "pods", "matchContains": ["cpu", "count/"]}));
        let check = |quotas: &[Value]| {
            check_cover(
                &limited,
                quotas.iter(),
                "",
                "pods",
                None,
                Some(&pod(Value::Null)),
            )
            .map_err(|error| error.to_string())
        };
        assert_eq!(
            check(&[]),
            Err("insufficient quota to consume: count/pods,cpu,requests.cpu".to_owned())
        );
        let one = quota(json!({"cpu": "5", "count/pods": "1"}), Value::Null);
        assert_eq!(
            check(std::slice::from_ref(&one)),
            Err("insufficient quota to consume: requests.cpu".to_owned())
        );
        let elsewhere = quota(
            json!({"requests.cpu": "5"}),
            json!({"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": "In", "values": ["low"]}]}),
        );
        assert!(check(&[one.clone(), elsewhere]).is_err());
        let other = quota(json!({"requests.cpu": "5"}), Value::Null);
        assert_eq!(check(&[one, other]), Ok(()));
    }

    // findings-2 S46
    #[test]
    fn several_uncovered_scopes_are_named() {
        let limited = limited(json!({"resource": "pods", "matchScopes": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["high", "higher"]},
            {"scopeName": "PriorityClass", "operator": "In", "values": ["low"]},
            {"scopeName": "CrossNamespacePodAffinity", "operator": "Exists"}]}));
        assert_eq!(
            check_cover(&limited, [].iter(), "", "pods", None, Some(&reaching())),
            Err(QuotaError::UncoveredScopes(
                "{PriorityClass In [high higher]} {CrossNamespacePodAffinity Exists []}".to_owned()
            ))
        );
    }

    // findings-2 S46
    #[test]
    fn a_limit_that_would_never_apply_is_refused() {
        for (value, expected) in [
            (json!({}), "a[0].resource: Required value"),
            (json!([]), "a[0]: Invalid value: []: must be an object"),
            (
                json!({"resource": "pods", "matchScope": []}),
                "a[0].matchScope: Forbidden: unknown field",
            ),
            (
                json!({"resource": "pods", "matchContains": ["a", 1]}),
                "a[0].matchContains[1]: Invalid value: 1: must be a string",
            ),
            (
                json!({"resource": "pods", "matchScopes": [{"scopeName": "X", "operator": "Exists"}]}),
                "a[0].matchScopes[0].scopeName: ",
            ),
            (
                json!({"resource": "pods", "matchScopes": [
                    {"scopeName": "PriorityClass", "operator": "In"}]}),
                "a[0].matchScopes[0].values: Required value: ",
            ),
            (
                json!({"resource": "pods", "matchScopes": [{"scopeName": "BestEffort", "operator": "In",
                    "values": ["x"]}]}),
                "a[0].matchScopes[0].operator: ",
            ),
            (
                json!({"resource": "pods", "matchScopes": [{"scopeName": "PriorityClass", "operator": "in",
                    "value": ["x"]}]}),
                "a[0].matchScopes[0].value: Forbidden: unknown field",
            ),
        ] {
            let errors = read(value.clone()).unwrap_err();
            let starts = errors
                .first()
                .is_some_and(|error| error.starts_with(expected));
            assert!(starts, "{value}: {errors:?}");
        }
    }
}
