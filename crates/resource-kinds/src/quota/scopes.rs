//! The scopes of quotas: the validation of scopes, and the affinity of pods to pods of other namespaces.

use json_tree::Value;
use object_model::{FieldError, FieldPath};

use super::{ATTRIBUTES, list};
use crate::validation::field::Field;

/// The scope of pods with an affinity to pods of other namespaces.
pub(crate) const CROSS_NAMESPACE: &str = "CrossNamespacePodAffinity";

/// The scopes of pods that have no values.
const WITHOUT_VALUES: [&str; 5] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    CROSS_NAMESPACE,
];

/// Pairs of scopes that no object can both have.
const OPPOSITE: [[&str; 2]; 2] = [
    ["BestEffort", "NotBestEffort"],
    ["Terminating", "NotTerminating"],
];

/// The amounts of pods that a quota with scopes may limit.
const COMPUTE: [&str; 6] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];

/// The amounts of claims that a quota with scopes may limit.
const OF_CLAIMS: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];

/// The other standard amounts.
const STANDARD: [&str; 11] = [
    "ephemeral-storage",
    "requests.ephemeral-storage",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

/// Whether an affinity or anti-affinity of a pod selects pods of other namespaces.
pub(super) fn names_other_namespaces(affinity: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let required = list(&affinity[kind]["requiredDuringSchedulingIgnoredDuringExecution"]);
        let preferred = list(&affinity[kind]["preferredDuringSchedulingIgnoredDuringExecution"]);
        let preferred = preferred
            .iter()
            .map(|weighted| &weighted["podAffinityTerm"]);
        let mut terms = required.iter().chain(preferred);
        terms.any(|term| {
            !list(&term["namespaces"]).is_empty() || term["namespaceSelector"].is_object()
        })
    })
}

/// The errors of a quota's scopes.
pub(crate) fn validate(spec: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let hard: Vec<&str> = {
        let hard = spec.value["hard"].as_object().into_iter().flatten();
        hard.map(|(name, _)| name.as_str()).collect()
    };
    let scopes = spec.get("scopes");
    let mut named = Vec::new();
    for scope in scopes.items() {
        named.push(scope.text());
        if !is_standard(scope.text()) {
            errors.push(scopes.invalid("unsupported scope"));
        }
        for _ in misfits(scope.text(), &hard) {
            errors.push(scopes.invalid("unsupported scope applied to resource"));
        }
    }
    conflicts(&named, &scopes, &mut errors);
    let selector = spec.get("scopeSelector");
    let terms = selector.get("matchExpressions");
    let mut named = Vec::new();
    for term in terms.items() {
        let scope = term.get("scopeName").text();
        named.push(scope);
        for _ in misfits(scope, &hard) {
            let detail = "unsupported scope applied to resource";
            let whole = selector.value.clone();
            errors.push(FieldError::invalid(&terms.path(), whole, detail));
        }
        // As upstream, the paths do not contain the indices of the terms.
        errors.extend(term_errors(term.value, &terms.path()));
    }
    conflicts(&named, &terms, &mut errors);
    errors
}

/// The errors of a term of a scope selector.
pub(super) fn term_errors(term: &Value, at: &FieldPath) -> Vec<FieldError> {
    let text = |field: &str| term[field].as_str().unwrap_or_default();
    let (scope, operator) = (text("scopeName"), text("operator"));
    let invalid = |field: &str, detail: &str| {
        FieldError::invalid(&at.child(field), term[field].clone(), detail)
    };
    let mut errors = Vec::new();
    if !is_standard(scope) {
        errors.push(invalid("scopeName", "unsupported scope"));
    }
    if WITHOUT_VALUES.contains(&scope) && operator != "Exists" {
        errors.push(invalid("operator", EXISTS_ONLY));
    }
    let has_values = !list(&term["values"]).is_empty();
    match operator {
        "In" | "NotIn" if !has_values => {
            let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for \
                          scope selector";
            errors.push(FieldError::required(&at.child("values"), detail));
        }
        "Exists" | "DoesNotExist" if has_values => errors.push(invalid(
            "values",
            "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => errors.push(invalid("operator", "not a valid selector operator")),
    }
    errors
}

const EXISTS_ONLY: &str = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, \
     ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
     ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

fn is_standard(scope: &str) -> bool {
    WITHOUT_VALUES.contains(&scope) || matches!(scope, "PriorityClass" | ATTRIBUTES)
}

/// The limited amounts to which a scope does not apply.
fn misfits<'h>(scope: &str, hard: &[&'h str]) -> Vec<&'h str> {
    let is_supported = |name: &str| {
        COMPUTE.contains(&name) || OF_CLAIMS.contains(&name) || STANDARD.contains(&name)
    };
    let fits = |name: &str| match scope {
        "BestEffort" => name == "pods",
        ATTRIBUTES => OF_CLAIMS.contains(&name),
        _ if is_standard(scope) => name == "pods" || COMPUTE.contains(&name),
        // An unsupported scope is reported separately.
        _ => true,
    };
    let supported = hard.iter().copied().filter(|name| is_supported(name));
    supported.filter(|name| !fits(name)).collect()
}

fn conflicts(named: &[&str], at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    for pair in OPPOSITE {
        if pair.iter().all(|scope| named.contains(scope)) {
            errors.push(at.invalid("conflicting scopes"));
        }
    }
}
