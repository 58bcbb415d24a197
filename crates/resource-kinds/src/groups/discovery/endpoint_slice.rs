//! discovery.k8s.io/v1 EndpointSlice.

use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::discovery::v1 as api;
use object_model::{FieldError, FieldErrorType, names};

use crate::json::decode::DecodeError;
use crate::json::parts;
use crate::kind::info::{Names, namespaced};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::addresses::{PROTOCOLS, check_endpoint_ip, check_family};
use crate::validation::field::{Field, Rules};
use crate::validation::metadata;
use crate::well_known::{labels, limits};

/// Namespace and name of the Service of a slice; `None` if the slice belongs to no Service.
pub fn service_of(slice: &api::EndpointSlice) -> Option<(&str, &str)> {
    let name = slice.metadata.labels.as_ref()?.get(labels::SERVICE_NAME)?;
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    Some((namespace, name))
}

#[derive(Debug)]
pub struct EndpointSlice;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },
    ..namespaced(Names {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        list_kind: "EndpointSliceList",
        plural: "endpointslices",
        singular: "endpointslice",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("AddressType", "IPv4, IPv6 or FQDN."),
    table::column("Ports", "Ports of all endpoints."),
    table::column("Endpoints", "Addresses of the endpoints."),
    table::AGE,
];

/// Maximum number of ports or endpoints in a table row.
const ROW_ITEMS_MAX: usize = 3;

impl Kind for EndpointSlice {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    /// An empty list of endpoints is written, too.
    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        let mut slice = self.info().decode(object)?;
        parts::fill(&mut slice, "endpoints", json!([]));
        Ok(slice)
    }

    fn default(&self, object: &mut Value) {
        for port in parts::each(object, "ports") {
            parts::fill(port, "name", "");
            parts::fill(port, "protocol", "TCP");
        }
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let kinds = ["IPv4", "IPv6", "FQDN"];
        errors.check_one_of(&Field::of(object, "addressType"), &kinds);
        errors.extend(validate(object));
        errors
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (new, old) = (Field::root(object), Field::root(old));
        errors.check_unchanged(&new.get("addressType"), &old.get("addressType"));
        errors.extend(validate(object));
        errors
    }
}

impl Printer for EndpointSlice {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let ports: Vec<String> = Field::of(object, "ports")
            .items()
            .map(|port| match port.get("port").int() {
                Some(number) => number.to_string(),
                None => "*".to_owned(),
            })
            .collect();
        let mut addresses: Vec<String> = Vec::new();
        for endpoint in Field::of(object, "endpoints").items() {
            let listed = endpoint.get("addresses");
            addresses.extend(listed.items().map(|address| address.text().to_owned()));
        }
        vec![
            table::name(object),
            object["addressType"].clone(),
            json!(some_of(&ports, "<unset>")),
            json!(some_of(&addresses, "<unset>")),
            table::age(object, now),
        ]
    }
}

fn some_of(all: &[String], none: &str) -> String {
    match all.len() {
        0 => none.to_owned(),
        1..=ROW_ITEMS_MAX => all.join(","),
        more => format!(
            "{} + {} more...",
            all[..ROW_ITEMS_MAX].join(","),
            more - ROW_ITEMS_MAX
        ),
    }
}

fn too_many(at: &Field<'_, '_>, max: usize) -> FieldError {
    FieldError {
        kind: FieldErrorType::TooMany,
        field: at.path(),
        value: Some(json!(table::count(at.value))),
        detail: format!("must have at most {max} items"),
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let root = Field::root(object);
    let kind = root.get("addressType").text();
    let mut errors = Vec::new();
    let endpoints = root.get("endpoints");
    if endpoints
        .value
        .as_array()
        .is_some_and(|list| list.len() > limits::ENDPOINTS_MAX)
    {
        errors.push(too_many(&endpoints, limits::ENDPOINTS_MAX));
        return errors;
    }
    for endpoint in endpoints.items() {
        let addresses = endpoint.get("addresses");
        match addresses.value.as_array().map_or(0, Vec::len) {
            0 => errors.push(addresses.required("must contain at least 1 address")),
            count if count > limits::ENDPOINT_ADDRESSES_MAX => {
                errors.push(too_many(&addresses, limits::ENDPOINT_ADDRESSES_MAX));
            }
            _ => {}
        }
        for address in addresses.items() {
            match kind {
                "FQDN" => errors.check_text(&address, names::dns_subdomain),
                _ => {
                    check_family(&mut errors, &address, kind);
                    check_endpoint_ip(&mut errors, &address);
                }
            }
        }
        errors.check_text_if_set(&endpoint.get("nodeName"), names::dns_subdomain);
        errors.check_text_if_set(&endpoint.get("hostname"), names::dns_label);
    }
    let ports = root.get("ports");
    errors.extend(metadata::duplicates(&ports, "name"));
    for port in ports.items() {
        errors.check_text_if_set(&port.get("name"), names::dns_label);
        errors.check_one_of(&port.get("protocol"), PROTOCOLS);
        errors.check_text_if_set(&port.get("appProtocol"), names::qualified_name);
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_whose_a_slice_is() {
        let slice = |labels: Value| -> api::EndpointSlice {
            let metadata = json!({"namespace": "shop", "name": "web-x", "labels": labels});
            let slice = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": []});
            json_tree::from_value(slice).unwrap()
        };
        let labelled = slice(json!({"kubernetes.io/service-name": "web"}));
        assert_eq!(service_of(&labelled), Some(("shop", "web")));
        assert_eq!(service_of(&slice(json!({"app": "web"}))), None);
        assert_eq!(service_of(&slice(Value::Null)), None);
    }

    fn slice(address: &str) -> Value {
        let mut slice = EndpointSlice
            .decode(
                json!({"metadata": {"name": "a", "namespace": "b"}, "addressType": "IPv4",
                "endpoints": [{"addresses": [address]}], "ports": [{"port": 80}]}),
            )
            .unwrap();
        EndpointSlice.default(&mut slice);
        slice
    }

    #[test]
    fn endpoints_have_reachable_addresses() {
        assert_eq!(EndpointSlice.validate_create(&slice("10.0.0.1")), []);
        let errors = EndpointSlice.validate_create(&slice("127.0.0.1"));
        assert_eq!(
            errors[0].to_string(),
            "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback \
             range (127.0.0.0/8, ::1/128)"
        );
    }

    // findings S15
    #[test]
    fn endpoints_have_addresses_of_their_slice_s_family() {
        let mut mapped = slice("::ffff:127.0.0.1");
        let clauses = |object: &Value| {
            let errors = EndpointSlice.validate_create(object);
            let clause = |error: &FieldError| error.detail.clone();
            errors.iter().map(clause).collect::<Vec<_>>()
        };
        let not_mapped = "must not be an IPv4-mapped IPv6 address";
        assert_eq!(
            clauses(&mapped),
            ["must be a valid IPv4 address", not_mapped]
        );
        mapped["addressType"] = json!("IPv6");
        assert_eq!(clauses(&mapped), [not_mapped]);
        assert_eq!(
            clauses(&slice("2001:db8::1")),
            ["must be a valid IPv4 address"]
        );
        mapped["endpoints"][0]["addresses"][0] = json!("2001:db8::1");
        assert!(clauses(&mapped).is_empty());
    }

    #[test]
    fn a_row_shows_three_endpoints() {
        let mut object = slice("10.0.0.1");
        let list = json!([{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]},
            {"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.4"]}]);
        object["endpoints"] = list;
        let row = EndpointSlice.row(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[2], "80");
        assert_eq!(row[3], "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more...");
    }
}
