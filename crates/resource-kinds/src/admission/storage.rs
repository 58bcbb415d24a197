//! The default StorageClass of claims, and the check that the class of a claim allows its expansion (`statefulset.md`
//! 11.2, 11.12).

use std::sync::Arc;

use json_tree::Value;
use object_model::{Quantity, Status};

use super::plugin::{Admission, AdmissionRequest, Operation, creates, forbidden};
use crate::admission::ObjectReader;
use crate::groups::storage::is_default;
use crate::json::parts;
use crate::well_known::annotations::STORAGE_CLASS;

const GROUP: &str = "storage.k8s.io";

pub(super) struct DefaultStorageClass;

impl Admission for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        let named = object["spec"]["storageClassName"].is_string()
            || object["metadata"]["annotations"][STORAGE_CLASS].is_string();
        if !creates(request, "persistentvolumeclaims") || named {
            return Ok(());
        }
        if let (Some(class), Some(spec)) = (default_class(cluster), object.get_mut("spec")) {
            parts::set(spec, "storageClassName", class);
        }
        Ok(())
    }
}

/// The name of the default class.
pub(super) fn default_class(cluster: &dyn ObjectReader) -> Option<String> {
    let mut all = cluster.list(GROUP, "storageclasses", "");
    all.retain(|class| is_default(class));
    newest_of(all)
}

/// The name of the newest class; of several newest classes, the first by name.
pub(super) fn newest_of(mut all: Vec<Arc<Value>>) -> Option<String> {
    let text = |class: &Value, field: &str| {
        class["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    all.sort_by_key(|class| text(class, "name"));
    let newest = all
        .iter()
        .map(|class| text(class, "creationTimestamp"))
        .max()?;
    let class = all
        .iter()
        .find(|class| text(class, "creationTimestamp") == newest)?;
    Some(text(class, "name"))
}

pub(super) struct PersistentVolumeClaimResize;

impl Admission for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        let claim = request.group.is_empty() && request.plural == "persistentvolumeclaims";
        let update = request.operation == Operation::Update && request.subresource.is_empty();
        let Some(old) = request.old.filter(|_| claim && update) else {
            return Ok(());
        };
        let size = |claim: &Value| {
            Quantity::from_json(&claim["spec"]["resources"]["requests"]["storage"]).ok()
        };
        let bound = old["status"]["phase"] == "Bound";
        if size(object) <= size(old) || !bound {
            return Ok(());
        }
        let beta = object["metadata"]["annotations"][STORAGE_CLASS].as_str();
        let class = beta.or_else(|| object["spec"]["storageClassName"].as_str());
        let class = class.and_then(|name| cluster.get(GROUP, "storageclasses", "", name));
        if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that \
                   provisions the pvc must support resize";
        Err(forbidden(request, object, why))
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::super::testing::{Objects, request};
    use super::*;

    fn class(name: &str, default: &str, created: &str, expands: bool) -> Value {
        json!({"metadata": {"name": name, "creationTimestamp": created, "annotations":
            {"storageclass.kubernetes.io/is-default-class": default}},
            "allowVolumeExpansion": expands})
    }

    fn classes() -> Objects {
        Objects::default()
            .with(
                "storageclasses",
                class("a", "true", "2024-01-01T00:00:00Z", false),
            )
            .with(
                "storageclasses",
                class("b", "true", "2024-01-02T00:00:00Z", true),
            )
            .with(
                "storageclasses",
                class("c", "true", "2024-01-02T00:00:00Z", true),
            )
            .with(
                "storageclasses",
                class("d", "false", "2024-01-03T00:00:00Z", true),
            )
    }

    /// `statefulset.md` 11.2
    #[test]
    fn a_claim_without_a_class_gets_the_newest_default() {
        let admit = |spec: Value| {
            let mut claim = json!({"spec": spec});
            let request = request(Operation::Create, "persistentvolumeclaims");
            DefaultStorageClass
                .admit(&request, &mut claim, &classes())
                .unwrap();
            claim["spec"]["storageClassName"].clone()
        };
        assert_eq!(admit(json!({})), "b");
        assert_eq!(admit(json!({"storageClassName": ""})), "");
        assert_eq!(admit(json!({"storageClassName": "a"})), "a");
    }

    /// `statefulset.md` 11.12
    #[test]
    fn a_claim_grows_where_its_class_can() {
        let claim = |class: &str, size: &str| {
            json!({"spec": {"storageClassName": class,
                "resources": {"requests": {"storage": size}}}, "status": {"phase": "Bound"}})
        };
        let admit = |class: &str, size: &str| {
            let old = claim(class, "1Gi");
            let mut request = request(Operation::Update, "persistentvolumeclaims");
            request.old = Some(&old);
            request.name = "c";
            PersistentVolumeClaimResize.admit(&request, &mut claim(class, size), &classes())
        };
        assert!(admit("b", "2Gi").is_ok());
        assert!(admit("a", "1024Mi").is_ok());
        assert!(admit("a", "2Gi").unwrap_err().message.starts_with(
            "persistentvolumeclaims \"c\" is forbidden: only dynamically provisioned pvc"
        ));
    }
}
