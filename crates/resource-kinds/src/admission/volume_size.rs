//! A new claim, or a StatefulSet with claim templates, is accepted with a warning if its volumes can hold more data
//! than their size.

use std::collections::BTreeSet;

use json_tree::Value;
use object_model::Status;

use super::plugin::{Admission, AdmissionRequest, Operation, creates};
use super::storage::default_class;
use crate::admission::ObjectReader;
use crate::groups::storage::Driver;
use crate::groups::storage::nfs_class::is_nfs_provisioner;
use crate::groups::storage::volume_size::NOT_ENFORCED;
use crate::well_known::annotations::{LOCAL_VOLUME_SIZE, STORAGE_CLASS};

/// Maximum number of nodes in a warning.
const NAMED_MAX: usize = 3;

pub(super) struct VolumeSize;

impl Admission for VolumeSize {
    fn name(&self) -> &'static str {
        "VolumeSize"
    }

    fn admit(
        &self,
        _request: &AdmissionRequest<'_>,
        _object: &mut Value,
        _cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        Ok(())
    }

    fn warnings(
        &self,
        request: &AdmissionRequest<'_>,
        object: &Value,
        cluster: &dyn ObjectReader,
    ) -> Vec<String> {
        let classes: BTreeSet<String> = new_claims(request, object)
            .into_iter()
            .filter_map(|claim| class_of(claim, cluster))
            .collect();
        let warn = |class: &String| warning(class, cluster);
        classes.iter().filter_map(warn).collect()
    }
}

/// The claims that the request creates, directly or through a StatefulSet.
fn new_claims<'o>(request: &AdmissionRequest<'_>, object: &'o Value) -> Vec<&'o Value> {
    let makes_set = request.operation == Operation::Create
        && (request.group, request.plural, request.subresource) == ("apps", "statefulsets", "");
    if creates(request, "persistentvolumeclaims") {
        vec![object]
    } else if makes_set {
        let templates = object["spec"]["volumeClaimTemplates"].as_array();
        templates.into_iter().flatten().collect()
    } else {
        Vec::new()
    }
}

/// The StorageClass that provides a volume with files for a claim.
fn class_of(claim: &Value, cluster: &dyn ObjectReader) -> Option<String> {
    let spec = &claim["spec"];
    let names_volume = spec["volumeName"]
        .as_str()
        .is_some_and(|name| !name.is_empty());
    if names_volume || spec["volumeMode"] == "Block" {
        return None;
    }
    let beta = claim["metadata"]["annotations"][STORAGE_CLASS].as_str();
    match beta.or_else(|| spec["storageClassName"].as_str()) {
        Some(named) => Some(named.to_owned()),
        None => default_class(cluster),
    }
}

fn warning(class: &str, cluster: &dyn ObjectReader) -> Option<String> {
    let object = cluster.get("storage.k8s.io", "storageclasses", "", class)?;
    let provisioner = object["provisioner"].as_str()?;
    if is_nfs_provisioner(provisioner) {
        return Some(format!(
            "the StorageClass {class:?} makes directories of an NFS export: a volume can hold more \
             than its size"
        ));
    }
    if Driver::of_provisioner(provisioner) != Some(Driver::Local) {
        return None;
    }
    let nodes = cluster.list("", "nodes", "");
    let limits = |node: &Value| node["metadata"]["annotations"][LOCAL_VOLUME_SIZE] != NOT_ENFORCED;
    let without = nodes.iter().filter(|node| !limits(node));
    let names: Vec<&str> = without
        .filter_map(|node| node["metadata"]["name"].as_str())
        .collect();
    let more = match names.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>();
    (!names.is_empty()).then(|| {
        format!(
            "the StorageClass {class:?} does not enforce the size of volumes on {}{more}: the file \
             system there has no quotas",
            named.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::super::testing::{Objects, request};
    use super::*;

    fn cluster(limits: &[&str]) -> Objects {
        let class = |name: &str, provisioner: &str| {
            json!({"metadata": {"name": name, "annotations":
                {"storageclass.kubernetes.io/is-default-class": (name == "local").to_string()}},
                "provisioner": provisioner})
        };
        let objects = Objects::default()
            .with("storageclasses", class("local", "mainstay.dev/local"))
            .with(
                "storageclasses",
                class("local-cow", "mainstay.dev/local-cow"),
            )
            .with("storageclasses", class("files", "mainstay.dev/nfs"))
            .with("storageclasses", class("driver", "csi.example.com"));
        limits.iter().enumerate().fold(objects, |all, (at, limit)| {
            let name = format!("n{at}");
            let annotations = json!({LOCAL_VOLUME_SIZE: limit});
            all.with(
                "nodes",
                json!({"metadata": {"name": name, "annotations": annotations}}),
            )
        })
    }

    fn warnings(spec: Value, limits: &[&str]) -> Vec<String> {
        let claim = json!({"spec": spec});
        let request = request(Operation::Create, "persistentvolumeclaims");
        VolumeSize.warnings(&request, &claim, &cluster(limits))
    }

    #[test]
    fn a_claim_without_a_limit_is_accepted_with_a_warning() {
        let of_class = |class: &str| json!({"storageClassName": class});
        let both = ["NotEnforced", "Enforced"];
        let text = "the StorageClass \"local\" does not enforce the size of volumes on n0: the file \
                    system there has no quotas";
        assert_eq!(warnings(of_class("local"), &both), [text]);
        assert_eq!(warnings(json!({}), &both), [text], "the default class");
        let many = ["NotEnforced"; 5];
        assert!(warnings(json!({}), &many)[0].contains(" on n0, n1, n2 and 2 more: "));
        assert!(warnings(of_class("files"), &[])[0].contains("NFS"));
        for quiet in [
            of_class("local-cow"),
            of_class("driver"),
            of_class("unknown"),
            of_class(""),
            json!({"volumeMode": "Block"}),
            json!({"volumeName": "made-by-hand"}),
        ] {
            assert_eq!(warnings(quiet.clone(), &both), [""; 0], "{quiet}");
        }
        assert_eq!(warnings(json!({}), &["Enforced", "Unknown"]), [""; 0]);
    }

    #[test]
    fn a_set_warns_once_for_each_class_of_its_claims() {
        let templates = json!([{"spec": {}}, {"spec": {"storageClassName": "local"}},
            {"spec": {"storageClassName": "files"}}]);
        let set = json!({"spec": {"volumeClaimTemplates": templates}});
        let mut request = request(Operation::Create, "statefulsets");
        request.group = "apps";
        let cluster = cluster(&["NotEnforced"]);
        assert_eq!(VolumeSize.warnings(&request, &set, &cluster).len(), 2);
        request.operation = Operation::Update;
        assert_eq!(VolumeSize.warnings(&request, &set, &cluster), [""; 0]);
    }
}
