//! apiregistration.k8s.io/v1 APIService.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use crate::json::parts;
use crate::kind::info::{Names, STATUS, cluster};
use crate::kind::{Kind, KindInfo, Words};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::well_known::labels::API_SERVICE_AUTOMANAGED;

/// apiregistration.k8s.io/v1 APIService: one version of one group. All services are local: the server does not proxy
/// to extension API servers.
#[derive(Debug)]
pub struct APIService;

const INFO: KindInfo<'static> = KindInfo {
    subresources: &[STATUS],
    categories: Words::Fixed(&["api-extensions"]),
    ..cluster(Names {
        group: "apiregistration.k8s.io",
        kind: "APIService",
        list_kind: "APIServiceList",
        plural: "apiservices",
        singular: "apiservice",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Service", "Who serves it."),
    table::column("Available", "Whether it can be used."),
    table::AGE,
];

/// The object for a group and version that this server itself serves.
pub fn local_service(group: &str, version: &str) -> Value {
    let name = format!("{version}.{group}");
    let (first, next) = if group.is_empty() {
        (18_000, 1)
    } else {
        (17_000, 15)
    };
    json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": name, "labels": {API_SERVICE_AUTOMANAGED: "true"}},
        "spec": {"group": group, "version": version, "groupPriorityMinimum": first,
            "versionPriority": next},
    })
}

impl Kind for APIService {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        let since = object["metadata"]["creationTimestamp"].clone();
        let remote = object["spec"]["service"].is_object();
        if remote || since.is_null() {
            return;
        }
        let condition = json!({"type": "Available", "status": "True", "reason": "Local",
            "message": "Local APIServices are always available", "lastTransitionTime": since});
        if let Some(status) = parts::entry(object, "status") {
            parts::fill(status, "conditions", json!([condition]));
        }
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        // The name for the core group is `v1.`.
        names::path_segment(name)
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }
}

impl Printer for APIService {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let conditions = object["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten();
        let mut available = conditions.filter(|condition| condition["type"] == "Available");
        let status = available.next().map_or("Unknown".to_owned(), |condition| {
            let text = |field: &str| condition[field].as_str().unwrap_or_default();
            match text("status") {
                "True" => "True".to_owned(),
                other => format!("{other} ({})", text("reason")),
            }
        });
        vec![
            table::name(object),
            json!("Local"),
            json!(status),
            table::age(object, now),
        ]
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let root = Field::root(object);
    let (name, group) = (root.get_path("metadata.name"), root.get_path("spec.group"));
    let version = root.get_path("spec.version");
    let mut errors = Vec::new();
    let expected = format!("{}.{}", version.text(), group.text());
    if name.text() != expected {
        let text = format!("must be `spec.version+\".\"+spec.group`: {expected:?}");
        errors.push(name.invalid(text));
    }
    errors.check_text_if_set(&group, names::dns_subdomain);
    errors.check_text(&version, names::dns_1035_label);
    for (field, most) in [
        ("spec.groupPriorityMinimum", 20_000),
        ("spec.versionPriority", 1000),
    ] {
        let at = root.get_path(field);
        let number = at.int().unwrap_or(0);
        if number <= 0 || number > most {
            errors.push(at.invalid(format!("must be positive and less than {}", most + 1)));
        }
    }
    let service = root.get_path("spec.service");
    if service.is_set() {
        let text = "this server passes no requests on: install the kinds by a \
                    CustomResourceDefinition, or reach the service under its own address";
        errors.push(service.forbidden(text));
    }
    for field in ["spec.caBundle", "spec.insecureSkipTLSVerify"] {
        let at = root.get_path(field);
        if !at.is_empty() && at.value != false {
            errors.push(at.invalid("only remote APIServices have it"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_has_is_available() {
        for (group, version) in [("", "v1"), ("apps", "v1")] {
            let mut object = APIService.decode(local_service(group, version)).unwrap();
            object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
            APIService.default(&mut object);
            assert_eq!(APIService.validate_create(&object), []);
            let row = APIService.row(&object, Timestamp::UNIX_EPOCH);
            assert_eq!(row[1..3], [json!("Local"), json!("True")]);
        }
    }

    #[test]
    fn what_others_would_serve_is_refused() {
        let mut object = local_service("example.com", "v1");
        object["spec"]["service"] = json!({"namespace": "d", "name": "s"});
        let errors = APIService.validate_create(&object);
        assert!(
            errors[0]
                .to_string()
                .starts_with("spec.service: Forbidden: ")
        );
        object["metadata"]["name"] = json!("v2.example.com");
        assert_eq!(APIService.validate_create(&object).len(), 2);
    }
}
