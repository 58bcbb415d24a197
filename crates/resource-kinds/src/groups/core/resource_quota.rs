//! core/v1 ResourceQuota.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, Quantity, names};

use crate::json::parts;
use crate::kind::info::{Names, STATUS, namespaced};
use crate::kind::{Kind, KindInfo};
use crate::printing::{Cell, Column, Printer, table};
use crate::quota::scopes;
use crate::validation::field::{Field, Rules};

#[derive(Debug)]
pub struct ResourceQuota;

const INFO: KindInfo<'static> = KindInfo {
    subresources: &[STATUS],
    ..namespaced(Names {
        group: "",
        kind: "ResourceQuota",
        list_kind: "ResourceQuotaList",
        plural: "resourcequotas",
        singular: "resourcequota",
        short: &["quota"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Request", "What is used of what may be requested."),
    table::column("Limit", "What is used of the limits."),
    table::AGE,
];

impl Kind for ResourceQuota {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn prepare_create(&self, object: &mut Value) {
        parts::set(object, "status", json!({}));
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_content(object);
        errors.check_unchanged(
            &Field::of(object, "spec.scopes"),
            &Field::of(old, "spec.scopes"),
        );
        errors
    }
}

impl Printer for ResourceQuota {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let used = |limits: bool| {
            let hard = Field::of(object, "status.hard");
            let amounts: Vec<String> = hard
                .entries()
                .filter(|(name, _)| name.starts_with("limits.") == limits)
                .map(|(name, amount)| {
                    let used = object["status"]["used"][name].as_str().unwrap_or("0");
                    format!("{name}: {used}/{}", amount.text())
                })
                .collect();
            json!(amounts.join(", "))
        };
        vec![
            table::name(object),
            used(false),
            used(true),
            table::age(object, now),
        ]
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (name, amount) in Field::of(object, "spec.hard").entries() {
        for clause in names::qualified_name(name) {
            errors.push(amount.invalid(clause));
        }
        if Quantity::from_json(amount.value).is_ok_and(|amount| amount.is_negative()) {
            errors.push(amount.invalid("must be greater than or equal to 0"));
        }
    }
    errors.extend(scopes::validate(&Field::of(object, "spec")));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::core::Pod;
    use crate::quota::charge;
    use crate::quota::scopes::CROSS_NAMESPACE;

    fn affine(kind: &str, term: Value, preferred: bool) -> Value {
        let (field, terms) = if preferred {
            let weighted = json!([{"weight": 1, "podAffinityTerm": term}]);
            ("preferredDuringSchedulingIgnoredDuringExecution", weighted)
        } else {
            let required = json!([term]);
            ("requiredDuringSchedulingIgnoredDuringExecution", required)
        };
        json!({"metadata": {"name": "p"}, "spec": {"affinity": {kind: {field: terms}},
            "containers": [{"name": "c", "image": "i"}]}})
    }

    /// findings-2 S46: with a quota on this scope, no pod of a namespace can prevent the scheduling of pods of other
    /// namespaces.
    #[test]
    fn a_quota_counts_pods_with_an_affinity_to_other_namespaces() {
        let by_scopes = json!({"hard": {"pods": "0"}, "scopes": [CROSS_NAMESPACE]});
        let by_selector = json!({"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [
            {"scopeName": CROSS_NAMESPACE, "operator": "Exists"}]}});
        let key = json!({"topologyKey": "kubernetes.io/hostname"});
        let with = |field: &str, value: Value| {
            let mut term = key.clone();
            term[field] = value;
            term
        };
        for spec in [by_scopes, by_selector] {
            let quota = json!({"metadata": {"name": "q", "namespace": "n"}, "spec": spec});
            assert_eq!(ResourceQuota.validate_content(&quota), []);
            for kind in ["podAffinity", "podAntiAffinity"] {
                for preferred in [false, true] {
                    let charged = |term: Value| {
                        let pod = affine(kind, term, preferred);
                        charge(&quota, "", "pods", None, Some(&pod))
                            .map(|_| ())
                            .map_err(|error| error.to_string())
                    };
                    for term in [
                        with("namespaces", json!(["other"])),
                        with("namespaceSelector", json!({})),
                        with("namespaceSelector", json!({"matchLabels": {"a": "b"}})),
                    ] {
                        let refused =
                            "exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0";
                        assert_eq!(charged(term.clone()), Err(refused.to_owned()), "{term}");
                    }
                    assert_eq!(charged(key.clone()), Ok(()));
                    assert_eq!(charged(with("namespaces", json!([]))), Ok(()));
                }
            }
            let plain = json!({"spec": {"containers": []}});
            assert_eq!(charge(&quota, "", "pods", None, Some(&plain)), Ok(None));
        }
        // Kubernetes decodes a pod and sets its defaults before it charges the quota.
        let term = with("namespaceSelector", json!({}));
        let pod = affine("podAntiAffinity", term, false);
        let mut pod = Pod.decode(pod).unwrap();
        Pod.default(&mut pod);
        let quota = json!({"metadata": {"name": "q"}, "spec":
            {"hard": {"pods": "0"}, "scopes": [CROSS_NAMESPACE]}});
        assert!(charge(&quota, "", "pods", None, Some(&pod)).is_err());
    }

    /// findings-2 S46
    #[test]
    fn scopes_are_checked_as_upstream_does() {
        let errors = |spec: Value| {
            let quota = json!({"metadata": {"name": "q", "namespace": "n"}, "spec": spec});
            let errors = ResourceQuota.validate_content(&quota);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let term = |scope: &str, operator: &str, values: Value| {
            json!({"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [
                {"scopeName": scope, "operator": operator, "values": values}]}})
        };
        assert_eq!(errors(term("PriorityClass", "In", json!(["a"]))), [""; 0]);
        for (spec, path, detail) in [
            (
                json!({"scopes": ["Other"]}),
                "spec.scopes: ",
                "unsupported scope",
            ),
            (
                json!({"hard": {"services": "1"}, "scopes": [CROSS_NAMESPACE]}),
                "spec.scopes: ",
                "unsupported scope applied to resource",
            ),
            (
                json!({"hard": {"requests.cpu": "1"}, "scopes": ["BestEffort"]}),
                "spec.scopes: ",
                "unsupported scope applied to resource",
            ),
            (
                json!({"scopes": ["Terminating", "NotTerminating"]}),
                "spec.scopes: ",
                "conflicting scopes",
            ),
            (
                term(CROSS_NAMESPACE, "DoesNotExist", json!([])),
                "spec.scopeSelector.matchExpressions.operator: ",
                "must be 'Exist' when scope is any of",
            ),
            (
                term("PriorityClass", "In", json!([])),
                "spec.scopeSelector.matchExpressions.values: Required",
                "must be at least one value",
            ),
            (
                term("PriorityClass", "Exists", json!(["a"])),
                "spec.scopeSelector.matchExpressions.values: ",
                "must be no value",
            ),
            (
                term("PriorityClass", "Gt", json!([])),
                "spec.scopeSelector.matchExpressions.operator: ",
                "not a valid selector operator",
            ),
            (
                term("Other", "Exists", json!([])),
                "spec.scopeSelector.matchExpressions.scopeName: ",
                "unsupported scope",
            ),
        ] {
            let actual = errors(spec.clone());
            assert!(
                matches!(actual.as_slice(), [one] if one.starts_with(path) && one.contains(detail)),
                "{spec}: {actual:?}"
            );
        }
        // A resource that is unknown to quotas may have any scope.
        let unknown_amount =
            json!({"hard": {"count/widgets.example.com": "1"}, "scopes": ["BestEffort"]});
        assert_eq!(errors(unknown_amount), [""; 0]);
    }
}
