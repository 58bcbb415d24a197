//! Custom kinds: their names are accepted, their objects are collected with their owners, and are deleted before their
//! definition.

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use k8s_openapi::api::storagemigration::v1beta1::StorageVersionMigration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_api_client::{
    Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, ResourceExt,
};
use mvcc_store::{Operation, Range, Store, Txn};

use crate::support::{Cluster, eventually, names, wait_for};

const ACCEPTED: &str = "NamesAccepted=True Established=True";

fn definition(name: &str, kind: &str, version: &str) -> CustomResourceDefinition {
    let definition = json!({
        "metadata": {"name": format!("{name}.example.org")},
        "spec": {"group": "example.org", "scope": "Namespaced",
            "names": {"plural": name, "kind": kind},
            "versions": [{"name": version, "served": true, "storage": true, "schema":
                {"openAPIV3Schema": {"type": "object"}}}]}});
    json_tree::from_value(definition).unwrap()
}

async fn define(cluster: &Cluster, name: &str, kind: &str) -> Api<CustomResourceDefinition> {
    define_in(cluster, name, kind, "v1").await
}

/// Defines boats and waits until their names are accepted.
async fn define_boats(cluster: &Cluster) -> Api<CustomResourceDefinition> {
    let api = define(cluster, "boats", "Boat").await;
    wait_for_conditions(&api, "boats.example.org", ACCEPTED).await;
    api
}

async fn define_in(
    cluster: &Cluster,
    name: &str,
    kind: &str,
    version: &str,
) -> Api<CustomResourceDefinition> {
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    api.create(&PostParams::default(), &definition(name, kind, version))
        .await
        .unwrap();
    api
}

fn condition_texts(definition: &CustomResourceDefinition) -> String {
    let conditions = definition
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    conditions
        .map(|c| format!("{}={}", c.type_, c.status))
        .collect::<Vec<_>>()
        .join(" ")
}

async fn wait_for_conditions(api: &Api<CustomResourceDefinition>, name: &str, expected: &str) {
    for _ in 0..12_000 {
        let definition = api.get_opt(name).await.unwrap();
        if definition.as_ref().map(condition_texts).unwrap_or_default() == expected {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{name} never told {expected:?}");
}

fn boats(cluster: &Cluster) -> Api<DynamicObject> {
    let kind = ApiResource::new("example.org", "v1", "Boat", "boats");
    Api::default_namespaced_with(cluster.client.clone(), &kind)
}

async fn boat(cluster: &Cluster, name: &str) -> DynamicObject {
    let object: Value =
        json!({"apiVersion": "example.org/v1", "kind": "Boat", "metadata": {"name": name}});
    let object: DynamicObject = json_tree::from_value(object).unwrap();
    boats(cluster)
        .create(&PostParams::default(), &object)
        .await
        .unwrap()
}

/// The stored object with this key.
async fn stored(cluster: &Cluster, key: &[u8]) -> Value {
    let range = Range {
        start: key.to_vec(),
        ..Range::default()
    };
    let stored = cluster.store.range(range).await.unwrap().items.remove(0);
    serde_json::from_slice(&stored.value).unwrap()
}

#[tokio::test]
async fn names_are_accepted_unless_another_has_them() {
    let cluster = Cluster::without_node().await;
    let api = define_boats(&cluster).await;
    boat(&cluster, "a").await;
    define(&cluster, "ships", "Boat").await;
    wait_for_conditions(
        &api,
        "ships.example.org",
        "NamesAccepted=False Established=False",
    )
    .await;
    // The name becomes free, and the other definition gets it.
    api.delete("boats.example.org", &DeleteParams::default())
        .await
        .unwrap();
    wait_for_conditions(&api, "boats.example.org", "").await;
    wait_for_conditions(&api, "ships.example.org", ACCEPTED).await;
}

#[tokio::test]
async fn what_a_custom_object_owns_goes_with_it() {
    let cluster = Cluster::without_node().await;
    define_boats(&cluster).await;
    let owner = boat(&cluster, "a").await;
    let owned = json!({"metadata": {"name": "owned", "ownerReferences": [{
        "apiVersion": "example.org/v1", "kind": "Boat", "name": "a", "uid": owner.uid()}]}});
    cluster.create::<ConfigMap>(owned).await;
    cluster
        .create::<ConfigMap>(json!({"metadata": {"name": "free"}}))
        .await;
    boats(&cluster)
        .delete("a", &DeleteParams::default())
        .await
        .unwrap();
    wait_for::<ConfigMap>(&cluster, "free", |maps| {
        let all = names(maps);
        let is_created = |name: &&str| *name != "kube-root-ca.crt";
        all.split(' ')
            .filter(is_created)
            .collect::<Vec<_>>()
            .join(" ")
    })
    .await;
}

/// A group prefers its most stable version; another kind of the group may not be served in that version.
#[tokio::test]
async fn a_kind_outside_of_the_preferred_version_is_collected() {
    let cluster = Cluster::without_node().await;
    let api = define_boats(&cluster).await;
    define_in(&cluster, "rafts", "Raft", "v1beta1").await;
    wait_for_conditions(&api, "rafts.example.org", ACCEPTED).await;
    let owner = boat(&cluster, "a").await;
    let raft = json!({"apiVersion": "example.org/v1beta1", "kind": "Raft",
        "metadata": {"name": "r", "ownerReferences": [{
        "apiVersion": "example.org/v1", "kind": "Boat", "name": "a", "uid": owner.uid()}]}});
    let kind = ApiResource::new("example.org", "v1beta1", "Raft", "rafts");
    let rafts: Api<DynamicObject> = Api::default_namespaced_with(cluster.client.clone(), &kind);
    let raft: DynamicObject = json_tree::from_value(raft).unwrap();
    rafts.create(&PostParams::default(), &raft).await.unwrap();
    let params = DeleteParams::default();
    boats(&cluster).delete("a", &params).await.unwrap();
    eventually(async || rafts.get_opt("r").await.unwrap().is_none()).await;
}

#[tokio::test]
async fn a_definition_goes_after_its_objects() {
    let cluster = Cluster::without_node().await;
    let api = define_boats(&cluster).await;
    for name in ["a", "b"] {
        boat(&cluster, name).await;
    }
    api.delete("boats.example.org", &DeleteParams::default())
        .await
        .unwrap();
    wait_for_conditions(&api, "boats.example.org", "").await;
    // The deletion of the definition may be visible a moment before the removal of its kind.
    for _ in 0..12_000 {
        if boats(&cluster).list(&Default::default()).await.is_err() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let listed = boats(&cluster).list(&Default::default()).await;
    assert!(listed.is_err(), "not served any more");
    define(&cluster, "boats", "Boat").await;
    wait_for_conditions(&api, "boats.example.org", ACCEPTED).await;
    assert!(
        boats(&cluster)
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

// findings-2 R27
#[tokio::test]
async fn objects_of_a_definition_without_a_served_version_go_with_it() {
    let cluster = Cluster::without_node().await;
    let api = define_boats(&cluster).await;
    let blocked = boat(&cluster, "a").await;
    let params = PatchParams::default();
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["example.org/hold"]}}));
    boats(&cluster).patch("a", &params, &hold).await.unwrap();
    boat(&cluster, "b").await;
    let mut withdrawn = api.get("boats.example.org").await.unwrap();
    withdrawn.spec.versions[0].served = false;
    let put = PostParams::default();
    api.replace("boats.example.org", &put, &withdrawn)
        .await
        .unwrap();
    assert!(boats(&cluster).get_opt("a").await.unwrap().is_none());
    api.delete("boats.example.org", &DeleteParams::default())
        .await
        .unwrap();
    // The definition stays while an object is left, and no further object can be created.
    eventually(async || {
        let second_boat = boats(&cluster).get_opt("b").await.unwrap();
        let left = boats(&cluster).get_opt("a").await.unwrap();
        second_boat.is_none() && left.is_some_and(|left| left.metadata.deletion_timestamp.is_some())
    })
    .await;
    assert!(api.get_opt("boats.example.org").await.unwrap().is_some());
    let other: DynamicObject = json_tree::from_value(json!({"apiVersion": "example.org/v1",
        "kind": "Boat", "metadata": {"name": "c"}}))
    .unwrap();
    let refused = boats(&cluster).create(&put, &other).await;
    assert!(refused.is_err(), "{refused:?}");
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    boats(&cluster).patch("a", &params, &free).await.unwrap();
    eventually(async || api.get_opt("boats.example.org").await.unwrap().is_none()).await;
    define(&cluster, "boats", "Boat").await;
    wait_for_conditions(&api, "boats.example.org", ACCEPTED).await;
    let again = boats(&cluster).get_opt("a").await.unwrap();
    assert!(again.is_none(), "{:?} came back", blocked.uid());
}

// findings-2 E2
#[tokio::test]
async fn an_object_with_malformed_metadata_is_named_in_one_event() {
    let cluster = Cluster::without_node().await;
    define_boats(&cluster).await;
    let boat = json!({"apiVersion": "example.org/v1", "kind": "Boat", "metadata": {"name": "b"}});
    let boat = json_tree::from_value(boat).unwrap();
    let api = boats(&cluster);
    api.create(&PostParams::default(), &boat).await.unwrap();
    let key = b"/registry/example.org/boats/default/b".to_vec();
    let mut object = stored(&cluster, &key).await;
    object["metadata"]["labels"] = json!({"a": 1});
    object["metadata"]["annotations"] = json!("x");
    let put = Operation::Put {
        key,
        value: mvcc_store::Value::Plain(object.to_string().into_bytes().into()),
        lease: None,
    };
    let txn = Txn {
        operations: vec![put],
        ..Txn::default()
    };
    cluster.store.txn(txn).await.unwrap();
    let reported = |events: &[Event]| {
        let about = events
            .iter()
            .filter(|event| event.involved_object.kind.as_deref() == Some("Boat"));
        let reported = about.map(|event| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let name = text(&event.involved_object.name);
            format!(
                "{name} {}: {} ({:?})",
                text(&event.reason),
                text(&event.message),
                event.count
            )
        });
        reported.collect::<Vec<_>>().join(" ")
    };
    let expected = "b MalformedMetadata: the stored metadata are malformed: labels, annotations left out; the next write \
                  of the object replaces them (Some(1))";
    wait_for::<Event>(&cluster, expected, reported).await;
    // Another change of the object causes no further event.
    let label = Patch::Merge(json!({"spec": {"a": 1}}));
    let _ = api.patch("b", &PatchParams::default(), &label).await;
    wait_for::<Event>(&cluster, expected, reported).await;
}

/// Creates a migration of the resource and waits for its end; returns the conditions `Type=message`.
async fn migrate(cluster: &Cluster, name: &str, group: &str, resource: &str) -> Vec<String> {
    let api: Api<StorageVersionMigration> = Api::all(cluster.client.clone());
    let migration = json!({"metadata": {"name": name},
        "spec": {"resource": {"group": group, "resource": resource}}});
    let migration = json_tree::from_value(migration).unwrap();
    api.create(&PostParams::default(), &migration)
        .await
        .unwrap();
    let conditions = async || {
        let status = api.get(name).await.unwrap().status;
        let conditions = status.and_then(|status| status.conditions);
        let conditions = conditions.unwrap_or_default().into_iter();
        let texts = conditions.map(|c| format!("{}={}", c.type_, c.message));
        texts.collect::<Vec<String>>()
    };
    let has_ended = async || {
        let now = conditions().await;
        now.len() == 1 && !now[0].starts_with("Running")
    };
    eventually(has_ended).await;
    conditions().await
}

/// KEP-4192, edge.md §1.3.
#[tokio::test]
async fn a_migration_stores_the_objects_in_the_storage_version_and_trims_the_stored_versions() {
    let cluster = Cluster::without_node().await;
    let api = define_boats(&cluster).await;
    for name in ["a", "b"] {
        boat(&cluster, name).await;
    }
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object"}}})
    };
    let versions = json!({"spec": {"versions": [version("v1", false), version("v2", true)]}});
    let params = PatchParams::default();
    api.patch("boats.example.org", &params, &Patch::Merge(versions))
        .await
        .unwrap();
    let stored_as = async || {
        let object = stored(&cluster, b"/registry/example.org/boats/default/a").await;
        object["apiVersion"].as_str().unwrap().to_owned()
    };
    assert_eq!(stored_as().await, "example.org/v1");
    assert_eq!(
        migrate(&cluster, "one", "example.org", "boats").await,
        ["Succeeded=2 objects are stored in v2"]
    );
    assert_eq!(stored_as().await, "example.org/v2");
    let definition = api.get("boats.example.org").await.unwrap();
    let texts = condition_texts(&definition);
    assert_eq!(texts, format!("{ACCEPTED} StorageMigrating=False"));
    assert_eq!(definition.status.unwrap().stored_versions.unwrap(), ["v2"]);
}

#[tokio::test]
async fn a_migration_of_any_resource_ends() {
    let cluster = Cluster::without_node().await;
    cluster
        .create::<ConfigMap>(json!({"metadata": {"name": "a"}}))
        .await;
    let ended = migrate(&cluster, "built-in", "", "configmaps").await;
    assert!(ended[0].ends_with("objects are stored in v1"), "{ended:?}");
    for (name, group) in [("no-group", "example.org"), ("no-resource", "apps")] {
        assert_eq!(
            migrate(&cluster, name, group, "boats").await,
            ["Failed=resource does not exist in discovery"]
        );
    }
}
