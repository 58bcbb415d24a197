//! The row of a Service (`kubectl.md` 1.8).

use jiff::Timestamp;
use json_tree::{Value, json};

use crate::printing::table;
use crate::printing::{Cell, Column};
use crate::validation::field::Field;

/// Columns of the table of Services.
pub(super) const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Type", "How the Service is reached."),
    table::column("Cluster-IP", "Address inside the cluster."),
    table::column("External-IP", "Address outside the cluster."),
    table::column("Port(s)", "Ports, with those on the nodes."),
    table::AGE,
    table::wide("Selector", "Labels of the pods behind the Service."),
];

/// The cells of a Service's row.
pub(super) fn row(object: &Value, now: Timestamp) -> Vec<Cell> {
    let spec = &object["spec"];
    vec![
        table::name(object),
        table::text_or(&spec["type"], ""),
        table::text_or(&spec["clusterIP"], "<none>"),
        json!(external_address(object)),
        json!(ports(spec)),
        table::age(object, now),
        json!(table::labels(&spec["selector"])),
    ]
}

fn external_address(object: &Value) -> String {
    let spec = Field::of(object, "spec");
    let mut addresses: Vec<&str> = spec
        .get("externalIPs")
        .items()
        .map(|address| address.value.as_str().unwrap_or_default())
        .collect();
    match spec.get("type").text() {
        "ExternalName" => return spec.get("externalName").text().to_owned(),
        "LoadBalancer" => {
            let ingress = Field::of(object, "status.loadBalancer.ingress");
            let named = ingress.items().map(|at| match at.get("ip").text() {
                "" => at.get("hostname").text(),
                address => address,
            });
            let named: Vec<&str> = named.collect();
            addresses = named.into_iter().chain(addresses).collect();
            if addresses.is_empty() {
                return "<pending>".to_owned();
            }
        }
        _ => {}
    }
    if addresses.is_empty() {
        "<none>".to_owned()
    } else {
        addresses.join(",")
    }
}

fn ports(spec: &Value) -> String {
    let numbers: Vec<String> = Field::of(spec, "ports")
        .items()
        .map(|port| {
            let number = port.get("port").int().unwrap_or_default();
            let protocol = port.get("protocol").text();
            match port.get("nodePort").int() {
                Some(node) if node > 0 => format!("{number}:{node}/{protocol}"),
                _ => format!("{number}/{protocol}"),
            }
        })
        .collect();
    if numbers.is_empty() {
        "<none>".to_owned()
    } else {
        numbers.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(spec: Value) -> Vec<Value> {
        row(
            &json!({"metadata": {"name": "s"}, "spec": spec}),
            Timestamp::UNIX_EPOCH,
        )
    }

    /// `kubectl.md` 1.8
    #[test]
    fn a_row_shows_addresses_and_ports() {
        let row = cells(json!({"type": "NodePort", "clusterIP": "10.0.0.1",
            "selector": {"b": "2", "a": "1"},
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"},
                {"port": 53, "protocol": "UDP"}]}));
        let expected = ["s", "NodePort", "10.0.0.1", "<none>", "80:30080/TCP,53/UDP"];
        assert_eq!(row[..5], expected.map(|text| json!(text)));
        assert_eq!(row[6], "a=1,b=2");
        let row = cells(json!({"type": "ExternalName", "externalName": "x.y"}));
        assert_eq!(
            row[2..5],
            ["<none>", "x.y", "<none>"].map(|text| json!(text))
        );
        assert_eq!(cells(json!({"type": "LoadBalancer"}))[3], "<pending>");
    }
}
