//! networking.k8s.io/v1 NetworkPolicy.

use jiff::Timestamp;
use object_model::FieldError;
use serde_json::{Value, json};

use crate::json::parts;
use crate::kind::info::{Names, namespaced};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::{advice, metadata, workload};

/// networking.k8s.io/v1 NetworkPolicy.
#[derive(Debug)]
pub struct NetworkPolicy;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },
    ..namespaced(Names {
        group: "networking.k8s.io",
        kind: "NetworkPolicy",
        list_kind: "NetworkPolicyList",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short: &["netpol"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Pod-Selector", "The pods that the policy is about."),
    table::AGE,
];

impl Kind for NetworkPolicy {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = parts::entry(object, "spec") else {
            return;
        };
        for list in ["ingress", "egress"] {
            for rule in parts::each(spec, list) {
                for port in parts::each(rule, "ports") {
                    parts::fill(port, "protocol", "TCP");
                }
            }
        }
        let types = match spec["egress"].is_array() {
            true => json!(["Ingress", "Egress"]),
            false => json!(["Ingress"]),
        };
        parts::fill(spec, "policyTypes", types);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = metadata::validate(self, object);
        errors.extend(validate(object));
        errors
    }

    fn validate_update(&self, object: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = metadata::validate_update(object);
        errors.extend(validate(object));
        errors
    }

    fn warnings(&self, _object: &Value, old: Option<&Value>) -> Vec<String> {
        advice::not_acted_on("NetworkPolicy", "it allows and denies nothing", old)
    }
}

impl Printer for NetworkPolicy {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            table::name(object),
            workload::selector_cell(&object["spec"]["podSelector"]),
            table::age(object, now),
        ]
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let spec = Field::root(object).get("spec");
    let mut errors = metadata::label_selector(&spec.get("podSelector"));
    for (list, side) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(list).items() {
            for port in rule.get("ports").items() {
                errors.check_one_of(&port.get("protocol"), &["SCTP", "TCP", "UDP"]);
            }
            for peer in rule.get(side).items() {
                check_peer(&peer, &mut errors);
            }
        }
    }
    for kind in spec.get("policyTypes").items() {
        errors.check_one_of(&kind, &["Egress", "Ingress"]);
    }
    errors
}

fn check_peer(peer: &Field<'_>, errors: &mut Vec<FieldError>) {
    let (pods, spaces, block) = (
        peer.get("podSelector"),
        peer.get("namespaceSelector"),
        peer.get("ipBlock"),
    );
    for selector in [&pods, &spaces] {
        errors.extend(metadata::label_selector(selector));
    }
    let selects = pods.is_set() || spaces.is_set();
    if block.is_set() && selects {
        let detail = "may not specify both ipBlock and another peer";
        errors.push(peer.forbidden(detail));
    } else if !block.is_set() && !selects {
        errors.push(peer.required("must specify a peer"));
    }
    let range = block.get("cidr");
    if block.is_set() && range.is_empty() {
        errors.push(range.required(""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_one_thing() {
        let policy = |peer: Value| {
            let mut policy = json!({"metadata": {"name": "a", "namespace": "d"},
                "spec": {"podSelector": {}, "ingress": [{"from": [peer], "ports": [{"port": 80}]}]}});
            NetworkPolicy.default(&mut policy);
            let errors = NetworkPolicy.validate_create(&policy);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(policy(json!({"podSelector": {}})).is_empty());
        assert_eq!(
            policy(json!({})),
            ["spec.ingress[0].from[0]: Required value: must specify a peer"]
        );
        assert_eq!(
            policy(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})).len(),
            1
        );
    }
}
