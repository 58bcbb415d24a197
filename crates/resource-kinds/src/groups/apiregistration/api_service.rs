//! apiregistration.k8s.io/v1 APIService.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use crate::json::parts;
use crate::kind::info::{Names, STATUS, cluster};
use crate::kind::{Kind, KindInfo, StatusUpdate, Words};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::well_known::labels::API_SERVICE_AUTOMANAGED;

/// apiregistration.k8s.io/v1 APIService: one version of one group, which this server serves, or to which it proxies
/// requests for an extension API server (`spec.service`).
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

/// The port of an extension API server's Service if the APIService names none.
const DEFAULT_PORT: u16 = 443;

/// The groups of this server, which no extension API server may serve. `metrics.k8s.io` is not in the list: a metrics
/// server may replace the metrics of this server.
const OWN_GROUPS: [&str; 23] = [
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "snapshot.storage.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
];

/// The condition of an APIService about its availability.
const AVAILABLE: &str = "Available";

/// The reason of the condition `Available` of a group version that this server itself serves.
const LOCAL: &str = "Local";

impl Kind for APIService {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        if object["spec"]["service"].is_object() {
            if let Some(spec) = parts::entry(object, "spec")
                && let Some(service) = parts::entry(spec, "service")
            {
                parts::fill(service, "port", DEFAULT_PORT);
            }
            return;
        }
        let since = object["metadata"]["creationTimestamp"].clone();
        let conditions = &object["status"]["conditions"];
        let mut stored = conditions.as_array().into_iter().flatten();
        let is_set = stored.any(|one| one["type"] == AVAILABLE && one["reason"] == LOCAL);
        if is_set || since.is_null() {
            return;
        }
        let condition = json!({"type": AVAILABLE, "status": "True", "reason": LOCAL,
            "message": "Local APIServices are always available", "lastTransitionTime": since});
        if let Some(status) = parts::entry(object, "status") {
            // An APIService that named a Service before has a condition about the Service.
            status["conditions"] = json!([condition]);
        }
    }

    fn name_errors(&self, name: &str) -> Vec<String> {
        // The name for the core group is `v1.`.
        names::path_segment(name)
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn status_update(&self) -> &dyn StatusUpdate {
        self
    }
}

impl StatusUpdate for APIService {
    fn validate_status_update(&self, object: &Value, _old: &Value) -> Vec<FieldError> {
        let conditions = Field::of(object, "status.conditions");
        let mut errors = Vec::new();
        for condition in conditions.items() {
            let status = condition.get("status");
            if !["True", "False", "Unknown"].contains(&status.text()) {
                errors.push(status.not_supported(&["True", "False", "Unknown"]));
            }
        }
        errors
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
        let mut available = conditions.filter(|condition| condition["type"] == AVAILABLE);
        let status = available.next().map_or("Unknown".to_owned(), |condition| {
            let text = |field: &str| condition[field].as_str().unwrap_or_default();
            match text("status") {
                "True" => "True".to_owned(),
                other => format!("{other} ({})", text("reason")),
            }
        });
        let service = &object["spec"]["service"];
        let service = match (service["namespace"].as_str(), service["name"].as_str()) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => LOCAL.to_owned(),
        };
        vec![
            table::name(object),
            json!(service),
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
    if group.text().is_empty() && version.text() != "v1" {
        errors.push(group.required("only v1 may have an empty group and it better be legacy kube"));
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
            errors.push(at.invalid(format!("must be positive and less than {most}")));
        }
    }
    let (bundle, insecure) = (
        root.get_path("spec.caBundle"),
        root.get_path("spec.insecureSkipTLSVerify"),
    );
    let service = root.get_path("spec.service");
    if !service.is_set() {
        if !bundle.is_empty() {
            errors.push(bundle.invalid("local APIServices may not have a caBundle"));
        }
        if insecure.is_true() {
            errors.push(insecure.invalid("local APIServices may not have insecureSkipTLSVerify"));
        }
        return errors;
    }
    if OWN_GROUPS.contains(&group.text()) {
        let text = format!("the group {:?} is served by this server", group.text());
        errors.push(service.forbidden(text));
    }
    for name in ["namespace", "name"] {
        let at = service.get(name);
        if at.text().is_empty() {
            errors.push(at.required(""));
        }
    }
    let port = service.get("port");
    if port.int().is_some_and(|port| !(1..=65_535).contains(&port)) {
        errors.push(port.invalid("must be between 1 and 65535, inclusive"));
    }
    if insecure.is_true() && !bundle.is_empty() {
        errors.push(insecure.invalid("may not be true if caBundle is present"));
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

    fn remote(group: &str) -> Value {
        let mut object = local_service(group, "v1");
        object["metadata"]["labels"] = Value::Null;
        object["spec"]["service"] = json!({"namespace": "d", "name": "s"});
        object
    }

    fn fields(object: &Value) -> Vec<String> {
        let errors = APIService.validate_create(object);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_service_of_another_server_has_a_port_and_waits_for_its_check() {
        let mut object = APIService.decode(remote("example.com")).unwrap();
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        APIService.default(&mut object);
        assert_eq!(fields(&object), [""; 0]);
        assert_eq!(object["spec"]["service"]["port"], 443);
        assert!(object["status"]["conditions"].is_null());
        let row = APIService.row(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..3], [json!("d/s"), json!("Unknown")]);
        let failed = json!({"type": "Available", "status": "False", "reason": "ServiceNotFound"});
        object["status"] = json!({ "conditions": [failed] });
        let row = APIService.row(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[2], json!("False (ServiceNotFound)"));
        // Without its Service, the group version is served by this server.
        object["spec"]["service"] = Value::Null;
        APIService.default(&mut object);
        assert_eq!(object["status"]["conditions"][0]["reason"], "Local");
    }

    #[test]
    fn groups_of_the_server_and_contradicting_trust_are_refused() {
        for group in OWN_GROUPS {
            let errors = fields(&remote(group));
            assert!(
                errors[0].starts_with("spec.service: Forbidden: "),
                "{errors:?}"
            );
        }
        assert_eq!(fields(&remote("metrics.k8s.io")), [""; 0]);
        let cases: [(&[(&str, Value)], &str); 9] = [
            (
                &[
                    ("caBundle", json!("YQ==")),
                    ("insecureSkipTLSVerify", json!(true)),
                ],
                "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present",
            ),
            (
                &[("service", Value::Null), ("caBundle", json!("YQ=="))],
                "local APIServices may not have a caBundle",
            ),
            (
                &[
                    ("service", Value::Null),
                    ("insecureSkipTLSVerify", json!(true)),
                ],
                "local APIServices may not have insecureSkipTLSVerify",
            ),
            (
                &[("service", json!({"name": "s"}))],
                "spec.service.namespace: Required value",
            ),
            (
                &[("service", json!({"namespace": "d"}))],
                "spec.service.name: Required value",
            ),
            (
                &[(
                    "service",
                    json!({"namespace": "d", "name": "s", "port": 65_536}),
                )],
                "must be between 1 and 65535, inclusive",
            ),
            (
                &[("groupPriorityMinimum", json!(0))],
                "must be positive and less than 20000",
            ),
            (
                &[("versionPriority", json!(1001))],
                "must be positive and less than 1000",
            ),
            (&[("version", json!("v2"))], "must be `spec.version"),
        ];
        for (changes, expected) in cases {
            let mut object = remote("example.com");
            for (field, value) in changes {
                object["spec"][*field] = value.clone();
            }
            let errors = fields(&object);
            assert!(
                errors.len() == 1 && errors[0].contains(expected),
                "{errors:?}"
            );
        }
    }

    #[test]
    fn the_list_of_groups_is_complete() {
        let more = [
            "apiextensions.k8s.io",
            "authentication.k8s.io",
            "authorization.k8s.io",
            // The definitions that every cluster has.
            "snapshot.storage.k8s.io",
        ];
        let kinds = crate::all(&crate::ClusterConfig::default());
        let groups = kinds.iter().map(|kind| kind.info().group).chain(more);
        let groups: std::collections::BTreeSet<&str> = groups.collect();
        assert_eq!(groups, OWN_GROUPS.into_iter().collect());
    }
}
