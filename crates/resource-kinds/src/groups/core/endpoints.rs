//! core/v1 Endpoints.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use crate::json::parts;
use crate::kind::info::{Names, namespaced};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::addresses::{check_endpoint_ip, check_port_and_protocol};
use crate::validation::field::{Field, Rules};

#[derive(Debug)]
pub struct Endpoints;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        create_on_update: true,
        ..WriteRules::ORDINARY
    },
    ..namespaced(Names {
        group: "",
        kind: "Endpoints",
        list_kind: "EndpointsList",
        plural: "endpoints",
        singular: "endpoints",
        short: &["ep"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Endpoints", "Addresses and ports that are ready."),
    table::AGE,
];

/// Maximum number of endpoints in a table row.
const ROW_ENDPOINTS_MAX: usize = 3;

impl Kind for Endpoints {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn deprecation(&self) -> Option<&str> {
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
    }

    fn default(&self, object: &mut Value) {
        for subset in parts::each(object, "subsets") {
            for port in parts::each(subset, "ports") {
                parts::fill(port, "protocol", "TCP");
            }
        }
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }
}

impl Printer for Endpoints {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            table::name(object),
            json!(endpoints_text(object)),
            table::age(object, now),
        ]
    }
}

fn endpoints_text(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in Field::of(object, "subsets").items() {
        let addresses: Vec<&str> = subset
            .get("addresses")
            .items()
            .filter_map(|address| address.value["ip"].as_str())
            .collect();
        if subset.get("ports").is_empty() {
            all.extend(addresses.iter().map(|address| (*address).to_owned()));
        }
        for port in subset.get("ports").items() {
            let number = port.get("port").int().unwrap_or_default();
            all.extend(
                addresses
                    .iter()
                    .map(|address| format!("{address}:{number}")),
            );
        }
    }
    match all.len() {
        0 => "<none>".to_owned(),
        1..=ROW_ENDPOINTS_MAX => all.join(","),
        more => format!(
            "{} + {} more...",
            all[..ROW_ENDPOINTS_MAX].join(","),
            more - ROW_ENDPOINTS_MAX
        ),
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for subset in Field::of(object, "subsets").items() {
        let (ready, others) = (subset.get("addresses"), subset.get("notReadyAddresses"));
        if ready.is_empty() && others.is_empty() {
            errors.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
        }
        for address in ready.items().chain(others.items()) {
            check_endpoint_ip(&mut errors, &address.get("ip"));
            errors.check_text_if_set(&address.get("hostname"), names::dns_label);
            errors.check_text_if_set(&address.get("nodeName"), names::dns_subdomain);
        }
        let ports = subset.get("ports");
        let several = ports.value.as_array().is_some_and(|list| list.len() > 1);
        for port in ports.items() {
            let name = port.get("name");
            if name.is_empty() && several {
                errors.push(name.required(""));
            }
            errors.check_text_if_set(&name, names::dns_label);
            check_port_and_protocol(&mut errors, &port);
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_addresses_with_ports() {
        let object = json!({"metadata": {"name": "a"}, "subsets": [{"ports": [{"port": 80}],
            "addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}]});
        let row = Endpoints.row(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1], "10.0.0.1:80,10.0.0.2:80");
        assert_eq!(
            Endpoints.row(&json!({}), Timestamp::UNIX_EPOCH)[1],
            "<none>"
        );
    }

    #[test]
    fn a_subset_has_addresses() {
        let object = json!({"metadata": {"name": "a", "namespace": "b"}, "subsets": [{}]});
        assert_eq!(
            Endpoints.validate_create(&object)[0].to_string(),
            "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"
        );
    }
}
