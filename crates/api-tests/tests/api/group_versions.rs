//! The API groups that Kubernetes 1.36 publishes, and whether they are served.
//!
//! The table comes from the paths of the published OpenAPI document of 1.36.

use std::collections::BTreeSet;

use json_tree::Value;

use crate::harness::{Api, CONFIG_MAPS, config_map};

/// Group versions that are served.
const SERVED: &[&str] = &[
    "v1",
    "admissionregistration.k8s.io/v1",
    "apiextensions.k8s.io/v1",
    "apiregistration.k8s.io/v1",
    "apps/v1",
    "authentication.k8s.io/v1",
    "authorization.k8s.io/v1",
    "autoscaling/v1",
    "autoscaling/v2",
    "batch/v1",
    "certificates.k8s.io/v1",
    "coordination.k8s.io/v1",
    "discovery.k8s.io/v1",
    "events.k8s.io/v1",
    "flowcontrol.apiserver.k8s.io/v1",
    "networking.k8s.io/v1",
    "node.k8s.io/v1",
    "policy/v1",
    "rbac.authorization.k8s.io/v1",
    "resource.k8s.io/v1",
    "scheduling.k8s.io/v1",
    "storage.k8s.io/v1",
    "storagemigration.k8s.io/v1beta1",
];

/// Group versions that are not served, each with its reason in `docs/differences.md`, "Not served".
const NOT_SERVED: &[&str] = &[
    // Alpha and beta versions, which Kubernetes disables by default.
    "admissionregistration.k8s.io/v1alpha1",
    "admissionregistration.k8s.io/v1beta1",
    "certificates.k8s.io/v1alpha1",
    "certificates.k8s.io/v1beta1",
    "coordination.k8s.io/v1alpha2",
    "coordination.k8s.io/v1beta1",
    "internal.apiserver.k8s.io/v1alpha1",
    "networking.k8s.io/v1beta1",
    "resource.k8s.io/v1alpha3",
    "resource.k8s.io/v1beta1",
    "resource.k8s.io/v1beta2",
    "scheduling.k8s.io/v1alpha2",
    "storage.k8s.io/v1beta1",
];

/// Additions of this program: metrics of pods, which an extension server provides elsewhere, and snapshots, which are
/// custom kinds elsewhere.
const ADDED: &[&str] = &["metrics.k8s.io/v1beta1", "snapshot.storage.k8s.io/v1"];

/// findings C56
#[tokio::test]
async fn the_groups_that_are_served_are_those_of_the_table() {
    let api = Api::new().await;
    let groups = api.get("/apis").await.1;
    let core = api.get("/api").await.1;
    let named = groups["groups"].as_array().unwrap().iter();
    let versions = named.flat_map(|group| group["versions"].as_array().unwrap());
    let mut group_versions: BTreeSet<String> = versions
        .map(|version| version["groupVersion"].as_str().unwrap().to_owned())
        .collect();
    let core = core["versions"].as_array().unwrap();
    group_versions.extend(core.iter().filter_map(Value::as_str).map(str::to_owned));
    group_versions.retain(|group| !ADDED.contains(&group.as_str()));
    let expected: BTreeSet<String> = SERVED.iter().map(|group| (*group).to_owned()).collect();
    assert_eq!(group_versions, expected);
    for group in NOT_SERVED {
        assert_eq!(api.get(&format!("/apis/{group}")).await.0, 404, "{group}");
    }
}

/// findings C56: as Kubernetes without the feature ShardedListAndWatch.
#[tokio::test]
async fn a_selector_of_shards_selects_nothing() {
    let api = Api::new().await;
    for name in ["a", "b", "c", "d"] {
        api.create(CONFIG_MAPS, config_map(name)).await;
    }
    let none = "shardRange(object.metadata.uid, '0x0', '0x1')";
    let selector: String = none.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let path = format!("{CONFIG_MAPS}?shardSelector={selector}");
    let (code, list) = api.get(&path).await;
    assert_eq!(code, 200);
    assert_eq!(list["items"].as_array().unwrap().len(), 4);
    // A client that requested a shard detects by this that the list is complete.
    assert!(list["metadata"]["shardInfo"].is_null());
}
