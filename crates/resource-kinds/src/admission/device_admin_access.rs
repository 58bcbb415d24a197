//! Claims may request administrative access to devices only in namespaces with the label for such access. (In
//! Kubernetes the registry of the kinds refuses such claims.)

use json_tree::Value;
use object_model::{FieldError, FieldPath, Status};

use super::plugin::{Admission, AdmissionRequest, Operation};
use crate::admission::ObjectReader;
use crate::groups::resource::{ADMIN_ACCESS_LABEL, GROUP};

pub(super) struct DeviceAdminAccess;

impl Admission for DeviceAdminAccess {
    fn name(&self) -> &'static str {
        "DeviceAdminAccess"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        if request.group != GROUP || request.operation == Operation::Delete {
            return Ok(());
        }
        let requested = match (request.plural, request.subresource) {
            ("resourceclaims", "") => requested_access(&object["spec"], "spec"),
            ("resourceclaimtemplates", "") => {
                requested_access(&object["spec"]["spec"], "spec.spec")
            }
            ("resourceclaims", "status") => {
                // The access of an allocated claim stays; a second check would refuse access that was allowed before.
                let before = request.old.and_then(granted).is_some();
                granted(object).filter(|_| !before)
            }
            _ => None,
        };
        // The spec of a claim is immutable, so only a new claim can request access.
        let new = request.operation == Operation::Create || request.subresource == "status";
        let Some(field) = requested.filter(|_| new) else {
            return Ok(());
        };
        let namespace = cluster.get("", "namespaces", "", request.namespace);
        let label = namespace.map(|namespace| {
            let labels = &namespace["metadata"]["labels"];
            labels[ADMIN_ACCESS_LABEL] == "true"
        });
        if label == Some(true) {
            return Ok(());
        }
        cov_mark::hit!(findings_c45);
        let why = format!(
            "admin access to devices requires the `{ADMIN_ACCESS_LABEL}: true` label on the \
             containing namespace"
        );
        let kind = object["kind"].as_str().unwrap_or_default();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let errors = [FieldError::forbidden(&field, why)];
        Err(Status::invalid(GROUP, kind, name, &errors))
    }
}

fn first(list: &Value, is_match: impl Fn(&Value) -> bool) -> Option<usize> {
    list.as_array()?.iter().position(is_match)
}

/// The field of a claim's spec that requests administrative access.
fn requested_access(spec: &Value, path: &str) -> Option<FieldPath> {
    let is_requested = |request: &Value| request["exactly"]["adminAccess"] == true;
    let index = first(&spec["devices"]["requests"], is_requested)?;
    let at = FieldPath::root(path).child("devices").child("requests");
    Some(at.index(index).child("adminAccess"))
}

/// The field of a claim's status that grants administrative access.
fn granted(claim: &Value) -> Option<FieldPath> {
    let results = &claim["status"]["allocation"]["devices"]["results"];
    let index = first(results, |result| result["adminAccess"] == true)?;
    let at = FieldPath::root("status.allocation.devices.results");
    Some(at.index(index).child("adminAccess"))
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::super::testing::{Objects, request};
    use super::*;

    /// findings C45
    #[test]
    fn only_a_namespace_with_the_label_has_administrative_access() {
        cov_mark::check!(findings_c45);
        let plain = json!({"metadata": {"name": "d"}});
        let labelled = json!({"metadata": {"name": "d", "labels": {ADMIN_ACCESS_LABEL: "true"}}});
        let spec = json!({"devices": {"requests": [{"name": "a", "exactly": {
            "deviceClassName": "c", "adminAccess": true}}]}});
        let status = json!({"allocation": {"devices": {"results": [{"adminAccess": true}]}}});
        let cases = [
            ("resourceclaims", "", json!({"spec": spec})),
            (
                "resourceclaimtemplates",
                "",
                json!({"spec": {"spec": spec}}),
            ),
            ("resourceclaims", "status", json!({"status": status})),
        ];
        for (plural, subresource, object) in cases {
            for (namespace, allowed) in [(&plain, false), (&labelled, true)] {
                let objects = Objects::default().with("namespaces", namespace.clone());
                let operation = match subresource {
                    "" => Operation::Create,
                    _ => Operation::Update,
                };
                let write = AdmissionRequest {
                    group: GROUP,
                    subresource,
                    ..request(operation, plural)
                };
                let admitted = DeviceAdminAccess.admit(&write, &mut object.clone(), &objects);
                assert_eq!(admitted.is_ok(), allowed, "{plural}/{subresource}");
            }
        }
    }

    /// findings C45
    #[test]
    fn access_that_was_given_stays() {
        let claim = json!({"status": {"allocation": {"devices": {"results": [
            {"adminAccess": true}]}}}});
        let write = AdmissionRequest {
            group: GROUP,
            subresource: "status",
            old: Some(&claim),
            ..request(Operation::Update, "resourceclaims")
        };
        let admitted = DeviceAdminAccess.admit(&write, &mut claim.clone(), &Objects::default());
        assert!(admitted.is_ok());
    }
}
