//! networking.k8s.io/v1 NetworkPolicy.

use std::net::IpAddr;

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use crate::json::parts;
use crate::kind::info::{Names, namespaced};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::{addresses, metadata, workload};

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
        let has_egress = spec["egress"].as_array();
        let types = match has_egress.is_some_and(|rules| !rules.is_empty()) {
            true => json!(["Ingress", "Egress"]),
            false => json!(["Ingress"]),
        };
        parts::fill(spec, "policyTypes", types);
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
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
    let spec = Field::of(object, "spec");
    let mut errors = metadata::label_selector(&spec.get("podSelector"));
    for (list, side) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get_path(list).items() {
            for port in rule.get("ports").items() {
                check_port(&port, &mut errors);
            }
            for peer in rule.get_path(side).items() {
                check_peer(&peer, &mut errors);
            }
        }
    }
    let types = spec.get("policyTypes");
    if types.len() > 2 {
        errors.push(types.invalid("may not specify more than two policyTypes"));
    }
    for kind in types.items() {
        errors.check_one_of(&kind, &["Egress", "Ingress"]);
    }
    errors
}

fn check_peer(peer: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
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
    if block.is_set() {
        check_block(&block, errors);
    }
}

/// Checks a port: a number, optionally with the end of a range, or a name.
fn check_port(port: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    errors.check_one_of(&port.get("protocol"), addresses::PROTOCOLS);
    let (first, last) = (port.get("port"), port.get("endPort"));
    match (first.value, first.int()) {
        (Value::String(_), _) => {
            errors.check_text(&first, names::port_name);
            if last.is_set() {
                errors.push(last.invalid("may not be specified when `port` is non-numeric"));
            }
        }
        (_, Some(number)) => {
            check_number(&first, errors);
            if last.is_set() {
                check_number(&last, errors);
            }
            if last.int().is_some_and(|last| last < number) {
                errors.push(last.invalid("must be greater than or equal to `port`"));
            }
        }
        _ if last.is_set() => {
            errors.push(last.invalid("may not be specified when `port` is not specified"));
        }
        _ => {}
    }
}

fn check_number(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    for clause in names::port_number(at.int().unwrap_or_default()) {
        errors.push(at.invalid(clause));
    }
}

fn check_block(block: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let invalid = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let range = block.get("cidr");
    if range.is_empty() {
        errors.push(range.required(""));
        return;
    }
    let Some(outer) = Block::read(range.text()) else {
        errors.push(range.invalid(invalid));
        return;
    };
    for except in block.get("except").items() {
        match Block::read(except.text()) {
            None => errors.push(except.invalid(invalid)),
            Some(inner) if !inner.is_strictly_inside(&outer) => {
                errors.push(except.invalid("must be a strict subset of `cidr`"));
            }
            Some(_) => {}
        }
    }
}

/// An address range of either family. The bits of the address are the most significant bits of the number.
struct Block {
    is_v4: bool,
    address: u128,
    prefix: u32,
}

impl Block {
    fn read(text: &str) -> Option<Block> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let prefix = prefix.parse().ok()?;
        let (address, bits) = match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        (prefix <= bits).then_some(Block {
            is_v4: bits == 32,
            address,
            prefix,
        })
    }

    fn is_strictly_inside(&self, outer: &Block) -> bool {
        let differing = (self.address ^ outer.address).leading_zeros();
        self.is_v4 == outer.is_v4 && self.prefix > outer.prefix && differing >= outer.prefix
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

    /// The errors of a policy with one rule.
    fn errors(rule: &Value) -> String {
        let mut policy = json!({"metadata": {"name": "a", "namespace": "d"},
            "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [rule]}});
        NetworkPolicy.default(&mut policy);
        let errors = NetworkPolicy.validate_create(&policy);
        let texts = errors.iter().map(ToString::to_string);
        texts.collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_port_is_a_number_a_range_or_a_name() {
        for (port, expected) in [
            (json!({}), ""),
            (json!({"port": 80, "endPort": 80}), ""),
            (json!({"port": "http", "protocol": "SCTP"}), ""),
            (
                json!({"port": 0}),
                "port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"port": 80, "endPort": 79}),
                "endPort: Invalid value: 79: must be greater than or equal to `port`",
            ),
            (
                json!({"port": "http", "endPort": 81}),
                "endPort: Invalid value: 81: may not be specified when `port` is non-numeric",
            ),
            (
                json!({"endPort": 81}),
                "endPort: Invalid value: 81: may not be specified when `port` is not specified",
            ),
            (
                json!({"port": "80"}),
                "port: Invalid value: \"80\": must contain at least one letter (a-z)",
            ),
        ] {
            let message = errors(&json!({"ports": [port]}));
            let expected = match expected {
                "" => String::new(),
                expected => format!("spec.egress[0].ports[0].{expected}"),
            };
            assert_eq!(message, expected, "{port}");
        }
    }

    #[test]
    fn an_exception_is_a_part_of_its_block() {
        let invalid = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        let outside = "must be a strict subset of `cidr`";
        for (range, except, expected) in [
            ("10.0.0.0/8", "10.1.0.0/16", ""),
            ("0.0.0.0/0", "255.0.0.0/8", ""),
            ("::/0", "2001:db8::/32", ""),
            ("10.0.0.0/8", "11.0.0.0/16", outside),
            ("10.0.0.0/8", "10.0.0.0/8", outside),
            ("10.0.0.0/8", "2001:db8::/32", outside),
            ("10.0.0.0/8", "10.0.0.0/33", invalid),
            ("10.0.0.0/8", "everything", invalid),
        ] {
            let block = json!({"cidr": range, "except": [except]});
            let message = errors(&json!({"to": [{"ipBlock": block}]}));
            let expected = match expected {
                "" => String::new(),
                expected => format!(
                    "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"{except}\": {expected}"
                ),
            };
            assert_eq!(message, expected, "{range} {except}");
        }
        let message = errors(&json!({"to": [{"ipBlock": {"cidr": "10.0.0.0"}}]}));
        assert!(message.ends_with(invalid), "{message}");
    }
}
