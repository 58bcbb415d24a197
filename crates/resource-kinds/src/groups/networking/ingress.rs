//! networking.k8s.io/v1 Ingress.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use crate::json::parts;
use crate::kind::info::{Names, STATUS, namespaced};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::advice;
use crate::validation::field::{Field, Rules};

#[derive(Debug)]
pub struct Ingress;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },

    subresources: &[STATUS],
    ..namespaced(Names {
        group: "networking.k8s.io",
        kind: "Ingress",
        list_kind: "IngressList",
        plural: "ingresses",
        singular: "ingress",
        short: &["ing"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Class", "The class of the Ingress."),
    table::column("Hosts", "Hosts that it is for."),
    table::column("Address", "Where it is reached."),
    table::column("Ports", "Ports that it is reached on."),
    table::AGE,
];

impl Kind for Ingress {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn prepare_create(&self, object: &mut Value) {
        parts::set(object, "status", json!({"loadBalancer": {}}));
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn warnings(&self, _object: &Value, old: Option<&Value>) -> Vec<String> {
        advice::not_acted_on(
            "Ingress",
            "an Ingress controller in the cluster has to",
            old,
        )
    }
}

impl Printer for Ingress {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = Field::of(object, "spec");
        let rules = spec.get("rules");
        let hosts: Vec<&str> = rules
            .items()
            .map(|rule| rule.get("host").text())
            .filter(|host| !host.is_empty())
            .collect();
        let hosts = match hosts.is_empty() {
            true => "*".to_owned(),
            false => hosts.join(","),
        };
        let addresses = Field::of(object, "status.loadBalancer.ingress");
        let addresses: Vec<&str> = addresses
            .items()
            .map(|one| match one.get("ip").text() {
                "" => one.get("hostname").text(),
                ip => ip,
            })
            .collect();
        let ports = match spec.get("tls").is_empty() {
            true => "80",
            false => "80, 443",
        };
        vec![
            table::name(object),
            table::text_or(spec.get("ingressClassName").value, "<none>"),
            json!(hosts),
            json!(addresses.join(",")),
            json!(ports),
            table::age(object, now),
        ]
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let (rules, backend) = (spec.get("rules"), spec.get("defaultBackend"));
    let mut errors = Vec::new();
    if rules.is_empty() && !backend.is_set() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(
            &spec.path(),
            Value::Array(Vec::new()),
            detail,
        ));
    }
    if backend.is_set() {
        check_backend(&backend, &mut errors);
    }
    for rule in rules.items() {
        let host = rule.get("host");
        match host.text().strip_prefix("*.") {
            None => errors.check_text_if_set(&host, names::dns_subdomain),
            Some(rest) => {
                let clauses = names::dns_subdomain(rest).into_iter();
                errors.extend(clauses.map(|clause| host.invalid(clause)));
            }
        }
        let http = rule.get("http");
        if http.is_set() && http.get("paths").is_empty() {
            errors.push(http.get("paths").required(""));
        }
        for path in http.get("paths").items() {
            check_path(&path, &mut errors);
        }
    }
    errors.check_text_if_set(&spec.get("ingressClassName"), names::dns_subdomain);
    errors
}

fn check_path(path: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let kind = path.get("pathType");
    let text = path.get("path");
    if !kind.is_set() {
        errors.push(kind.required("pathType must be specified"));
    } else {
        let kinds = ["Exact", "ImplementationSpecific", "Prefix"];
        errors.check_one_of(&kind, &kinds);
    }
    let needs = matches!(kind.text(), "Exact" | "Prefix") || !text.is_empty();
    if needs && !text.text().starts_with('/') {
        errors.push(FieldError::invalid(
            &text.path(),
            text.text(),
            "must be an absolute path",
        ));
    }
    check_backend(&path.get("backend"), errors);
}

fn check_backend(backend: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let (service, resource) = (backend.get("service"), backend.get("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => {
            let detail = "cannot set both resource and service backends";
            errors.push(backend.invalid(detail));
        }
        (false, false) => {
            errors.push(backend.required("resource or service backend is required"));
        }
        (true, false) => check_service(&service, errors),
        (false, true) => {}
    }
}

fn check_service(service: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let name = service.get("name");
    errors.check_required_text(&name, names::dns_1035_label);
    let (number, port) = (
        service.get_path("port.number"),
        service.get_path("port.name"),
    );
    match (number.int(), port.text()) {
        (None, "") => errors.push(service.required("port name or number is required")),
        (Some(_), text) if !text.is_empty() => {
            errors.push(service.invalid("cannot set both port name & port number"));
        }
        (Some(value), _) => {
            let clauses = names::port_number(value).into_iter();
            errors.extend(clauses.map(|clause| number.invalid(clause)));
        }
        (None, _) => errors.check_text(&port, names::port_name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(spec: Value) -> Vec<String> {
        let ingress = json!({"metadata": {"name": "a", "namespace": "d"}, "spec": spec});
        let errors = Ingress.validate_create(&ingress);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_path_leads_somewhere() {
        let path =
            |path: Value| checked(json!({"rules": [{"host": "*.a.b", "http": {"paths": [path]}}]}));
        let service = json!({"service": {"name": "web", "port": {"number": 80}}});
        assert!(path(json!({"path": "/", "pathType": "Prefix", "backend": service})).is_empty());
        assert_eq!(
            path(json!({"path": "x", "pathType": "Exact", "backend": service})),
            ["spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path"]
        );
        assert_eq!(
            path(json!({"path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": "web"}}})),
            [
                "spec.rules[0].http.paths[0].backend.service: Required value: port name or \
                 number is required"
            ]
        );
        assert_eq!(
            checked(json!({})),
            ["spec: Invalid value: []: either `defaultBackend` or `rules` must be specified"]
        );
    }
}
