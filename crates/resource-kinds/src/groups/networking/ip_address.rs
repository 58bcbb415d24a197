//! networking.k8s.io/v1 IPAddress.

use std::net::IpAddr;

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use crate::kind::info::{Names, cluster};
use crate::kind::{Kind, KindInfo, Selectable};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::well_known::labels::{IP_FAMILY, IP_MANAGED_BY};

/// networking.k8s.io/v1 IPAddress: one address and the object that uses it.
#[derive(Debug)]
pub struct IPAddress;

const INFO: KindInfo<'static> = cluster(Names {
    group: "networking.k8s.io",
    kind: "IPAddress",
    list_kind: "IPAddressList",
    plural: "ipaddresses",
    singular: "ipaddress",
    short: &["ip"],
});

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("ParentRef", "The object that has the address."),
    table::AGE,
];

impl Kind for IPAddress {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn name_errors(&self, name: &str) -> Vec<String> {
        match name.parse::<IpAddr>() {
            Ok(address) if address.to_string() == name => Vec::new(),
            Ok(address) => vec![format!(
                "must be in canonical form ({:?})",
                address.to_string()
            )],
            Err(_) => {
                vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
            }
        }
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let parent = |object| Field::of(object, "spec.parentRef");
        errors.check_unchanged(&parent(object), &parent(old));
        errors
    }

    fn selectable(&self) -> &dyn Selectable {
        self
    }
}

impl Printer for IPAddress {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            table::name(object),
            json!(parent(&object["spec"]["parentRef"])),
            table::age(object, now),
        ]
    }
}

impl Selectable for IPAddress {
    fn selectable_field(&self, object: &Value, field: &str) -> Option<String> {
        let part = field.strip_prefix("spec.parentRef.")?;
        let is_supported = ["group", "resource", "namespace", "name"].contains(&part);
        let text = object["spec"]["parentRef"][part].as_str();
        is_supported.then(|| text.unwrap_or_default().to_owned())
    }
}

/// The IPAddress for the address of an object of the core group.
pub(crate) fn address_of(address: &str, resource: &str, owner: &Value) -> Value {
    let metadata = &owner["metadata"];
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {"name": address, "labels": {
            IP_FAMILY: if address.contains(':') { "IPv6" } else { "IPv4" },
            IP_MANAGED_BY: "ipallocator.k8s.io",
        }},
        "spec": {"parentRef": {"resource": resource, "namespace": metadata["namespace"],
            "name": metadata["name"]}},
    })
}

/// For example `services/default/kubernetes`.
fn parent(parent: &Value) -> String {
    let text = |field: &str| parent[field].as_str().unwrap_or_default();
    if !parent.is_object() {
        return "<none>".to_owned();
    }
    let kind = match text("group") {
        "" => text("resource").to_owned(),
        group => format!("{}.{group}", text("resource")),
    };
    let mut printed = kind.to_lowercase();
    for word in [text("namespace"), text("name")] {
        if !word.is_empty() {
            printed = format!("{printed}/{word}");
        }
    }
    printed
}

fn validate(object: &Value) -> Vec<FieldError> {
    let parent = Field::of(object, "spec.parentRef");
    let mut errors = Vec::new();
    if !parent.is_set() {
        return vec![parent.required("")];
    }
    errors.check_text_if_set(&parent.get("group"), names::dns_subdomain);
    for field in ["resource", "name"] {
        let at = parent.get_path(field);
        errors.check_required_text(&at, names::path_segment);
    }
    errors.check_text_if_set(&parent.get("namespace"), names::path_segment);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Value {
        let owner = json!({"metadata": {"namespace": "default", "name": "kubernetes"}});
        address_of("10.96.0.1", "services", &owner)
    }

    #[test]
    fn the_name_is_the_address() {
        assert_eq!(IPAddress.validate_create(&address()), []);
        for (name, wrong) in [("x", "must be a valid IP"), ("::0001", "canonical")] {
            let errors = IPAddress.name_errors(name);
            assert!(errors[0].contains(wrong), "{errors:?}");
        }
    }

    #[test]
    fn the_owner_is_shown_and_stays() {
        let row = IPAddress.row(&address(), Timestamp::UNIX_EPOCH);
        assert_eq!(row[1], "services/default/kubernetes");
        let mut other = address();
        other["spec"]["parentRef"]["name"] = json!("x");
        let errors = IPAddress.validate_update(&other, &address());
        assert!(errors[0].to_string().ends_with("field is immutable"));
    }
}
