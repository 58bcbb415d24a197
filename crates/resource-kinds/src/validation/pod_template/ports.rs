//! Validation of the ports of containers.

use std::collections::BTreeSet;

use object_model::{FieldError, names};

use crate::validation::addresses::PROTOCOLS;
use crate::validation::field::{Field, Rules};
use crate::validation::text_set::TextSet;

/// Checks the ports of one container by themselves.
pub(super) fn validate(container: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let mut unique = TextSet::default();
    for port in container.get("ports").items() {
        let name = port.get("name");
        if !name.is_empty() {
            let before = errors.len();
            errors.check_text(&name, names::port_name);
            if errors.len() == before && !unique.insert(name.text()) {
                errors.push(name.duplicate());
            }
        }
        let number = port.get("containerPort");
        if number.int().unwrap_or_default() == 0 {
            errors.push(number.required(""));
        } else {
            in_range(&number, errors);
        }
        let host = port.get("hostPort");
        if host.int().unwrap_or_default() != 0 {
            in_range(&host, errors);
        }
        errors.check_one_of(&port.get("protocol"), PROTOCOLS);
    }
}

fn in_range(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let clauses = names::port_number(at.int().unwrap_or_default()).into_iter();
    errors.extend(clauses.map(|clause| at.invalid(clause)));
}

/// Checks that containers that run at the same time use different host ports.
pub(super) fn differ<'a, 'p>(
    containers: impl Iterator<Item = Field<'a, 'p>>,
    errors: &mut Vec<FieldError>,
) {
    let mut used = BTreeSet::new();
    for container in containers {
        for port in container.get("ports").items() {
            let host = port.get("hostPort");
            let Some(number) = host.int().filter(|number| *number != 0) else {
                continue;
            };
            let (protocol, address) = (port.get("protocol"), port.get("hostIP"));
            let key = format!("{}/{}/{number}", protocol.text(), address.text());
            if !used.insert(key.clone()) {
                errors.push(FieldError::duplicate(&host.path(), key));
            }
        }
    }
}

/// Checks that each port of a pod on the host network equals its host port.
pub(super) fn of_host(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if !spec.get("hostNetwork").is_true() {
        return;
    }
    for container in spec.get("containers").items() {
        for port in container.get("ports").items() {
            let (host, inner) = (port.get("hostPort"), port.get("containerPort"));
            let number = host.int().filter(|number| *number != 0);
            if number.is_some() && number != inner.int() {
                errors.push(host.invalid("must match `containerPort` when `hostNetwork` is true"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn check(spec: Value) -> Vec<String> {
        let mut errors = Vec::new();
        let spec = Field::root(&spec);
        for container in spec.get("containers").items() {
            validate(&container, &mut errors);
        }
        differ(spec.get("containers").items(), &mut errors);
        of_host(&spec, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ports_are_numbers_in_range() {
        let range = "must be between 1 and 65535, inclusive";
        let table: Vec<(Value, Vec<String>)> = vec![
            (
                json!([{}]),
                vec!["containerPort: Required value".to_owned()],
            ),
            (
                json!([{"containerPort": 70_000}]),
                vec![format!("containerPort: Invalid value: 70000: {range}")],
            ),
            (
                json!([{"containerPort": 1, "hostPort": -1}]),
                vec![format!("hostPort: Invalid value: -1: {range}")],
            ),
            (
                json!([{"containerPort": 1, "protocol": "ICMP"}]),
                vec![
                    "protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \
                     \"UDP\""
                        .to_owned(),
                ],
            ),
        ];
        for (mut ports, expected) in table {
            if ports[0]["protocol"].is_null() {
                ports[0]["protocol"] = json!("TCP");
            }
            let expected: Vec<String> = expected
                .iter()
                .map(|error| format!("containers[0].ports[0].{error}"))
                .collect();
            assert_eq!(check(json!({"containers": [{"ports": ports}]})), expected);
        }
    }

    #[test]
    fn ports_do_not_collide() {
        let port = |host: u16, name: &str| json!({"containerPort": 1, "hostPort": host, "name": name, "protocol": "TCP"});
        let spec = json!({"containers": [{"ports": [port(5, "a"), port(6, "a")]},
            {"ports": [port(5, "a")]}]});
        assert_eq!(
            check(spec),
            [
                "containers[0].ports[1].name: Duplicate value: \"a\"",
                "containers[1].ports[0].hostPort: Duplicate value: \"TCP//5\"",
            ]
        );
        let spec = json!({"hostNetwork": true, "containers": [{"ports": [port(5, "a")]}]});
        assert_eq!(
            check(spec),
            [
                "containers[0].ports[0].hostPort: Invalid value: 5: must match `containerPort` \
                 when `hostNetwork` is true"
            ]
        );
    }
}
