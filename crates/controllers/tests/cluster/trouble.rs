//! Manual changes of a set's objects: the set waits with a reason, or repairs them, and continues afterwards.

use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube_api_client::{Api, DeleteParams, Patch, PatchParams, ResourceExt};

use crate::stateful_sets::{claims, image, set, status};
use crate::support::{Cluster, names, play_node, pods, wait_for};

/// `Stalled=True NameTaken: text` of the first set.
fn stalled(sets: &[StatefulSet]) -> String {
    let status = sets[0].status.clone().unwrap_or_default();
    let mut conditions = status.conditions.into_iter().flatten();
    let stalled = conditions.find(|condition| condition.type_ == "Stalled");
    stalled.map_or_else(String::new, |condition| {
        let (reason, message) = (condition.reason.unwrap_or_default(), condition.message);
        format!(
            "{} {reason}: {}",
            condition.status,
            message.unwrap_or_default()
        )
    })
}

const FINE: &str = "False NotStalled: ";

async fn wait_for_event(cluster: &Cluster, reason: &str, message: &str) {
    wait_for::<Event>(cluster, "true", |events| {
        let is_reported = events.iter().any(|event| {
            event.reason.as_deref() == Some(reason) && event.message.as_deref() == Some(message)
        });
        is_reported.to_string()
    })
    .await;
}

/// Applies a JSON patch, so that no fields are merged.
async fn edit<K>(cluster: &Cluster, name: &str, operations: Value)
where
    K: kube_api_client::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let patch = Patch::Json(operations);
    let params = PatchParams::default();
    cluster
        .api::<K>()
        .patch(name, &params, &patch)
        .await
        .unwrap();
}

async fn uid(cluster: &Cluster, pod: &str) -> Option<String> {
    cluster.api::<Pod>().get(pod).await.unwrap().uid()
}

fn bare_pod(name: &str, app: &str, owners: Value) -> Value {
    json!({ "metadata": { "name": name, "labels": { "app": app }, "ownerReferences": owners },
        "spec": { "containers": [{ "name": "c", "image": "a" }] } })
}

async fn revision_of(cluster: &Cluster, number: i64) -> ControllerRevision {
    let all = cluster
        .api::<ControllerRevision>()
        .list(&Default::default())
        .await
        .unwrap();
    all.into_iter()
        .find(|revision| revision.revision == number)
        .unwrap()
}

/// Another program replaces a revision that is needed for new pods by invalid data, then deletes it.
#[tokio::test]
async fn a_revision_that_cannot_be_read_is_told_and_may_be_deleted() {
    let cluster = Cluster::without_controllers().await;
    tokio::spawn(play_node(cluster.client.clone(), cluster.shutdown.clone()));
    let first = cluster.shutdown.child_token();
    let running = cluster.start_controllers(&first);
    let partition = |from: i32| {
        json!({ "updateStrategy": { "type": "RollingUpdate",
        "rollingUpdate": { "partition": from } } })
    };
    cluster
        .create::<StatefulSet>(set(2, "a", partition(1)))
        .await;
    wait_for(&cluster, "2 2 2 2 2", status).await;
    cluster.patch::<StatefulSet>("web", image("b")).await;
    wait_for(&cluster, "web-0:a web-1:b", pods).await;
    wait_for(&cluster, "2 2 2 1 1", status).await;

    // The controller is stopped: a running controller would observe the deletion, and make the update revision the
    // current revision.
    first.cancel();
    running.await.unwrap();
    let old = revision_of(&cluster, 1).await;
    let revisions: Api<ControllerRevision> = cluster.api();
    revisions
        .delete(&old.name_any(), &DeleteParams::default())
        .await
        .unwrap();
    let nonsense = json!({
        "metadata": { "name": old.name_any(), "labels": old.labels(),
            "ownerReferences": old.owner_references() },
        "data": { "spec": { "template": ["no", "template"] } }, "revision": 1 });
    cluster.create::<ControllerRevision>(nonsense).await;
    cluster.start_controllers(&cluster.shutdown);
    cluster
        .delete::<Pod>("web-0", DeleteParams::default())
        .await;
    let name = old.name_any();
    let expected = format!(
        "True RevisionUnreadable: the template in ControllerRevision {name} cannot be read"
    );
    wait_for(&cluster, &expected, stalled).await;
    wait_for::<Pod>(&cluster, "web-1:b", pods).await;

    revisions
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    wait_for(&cluster, "web-0:b web-1:b", pods).await;
    wait_for(&cluster, FINE, stalled).await;
}

/// Revisions that are deleted, or lose their labels or owner, are created or adopted again; no pod is changed.
#[tokio::test]
async fn revisions_that_are_lost_are_made_again() {
    let cluster = Cluster::new().await;
    cluster.create::<StatefulSet>(set(2, "a", json!({}))).await;
    wait_for(&cluster, "2 2 2 2 2", status).await;
    let before = (uid(&cluster, "web-0").await, uid(&cluster, "web-1").await);
    let revision = revision_of(&cluster, 1).await;
    let (name, first) = (revision.name_any(), revision.uid());
    let owned = |count: usize| {
        let name = name.clone();
        move |all: &[ControllerRevision]| {
            let recreated = all.iter().find(|revision| revision.name_any() == name);
            recreated
                .is_some_and(|r| r.owner_references().len() == count)
                .to_string()
        }
    };

    // statefulset.md 4.6: created again with the former name.
    cluster
        .delete::<ControllerRevision>(&name, DeleteParams::default())
        .await;
    wait_for::<ControllerRevision>(&cluster, "true", |all| {
        all.iter()
            .any(|r| r.name_any() == name && r.uid() != first)
            .to_string()
    })
    .await;
    // statefulset.md 4.12: a revision without an owner is adopted.
    let disown = json!([{ "op": "remove", "path": "/metadata/ownerReferences" }]);
    edit::<ControllerRevision>(&cluster, &name, disown.clone()).await;
    wait_for(&cluster, "true", owned(1)).await;
    // A revision with neither label nor owner is not a revision of the set any more, but its data is still used.
    let other = json!([{ "op": "replace", "path": "/metadata/labels/app", "value": "other" }]);
    edit::<ControllerRevision>(&cluster, &name, other).await;
    edit::<ControllerRevision>(&cluster, &name, disown).await;
    cluster
        .patch::<StatefulSet>("web", json!({ "spec": { "replicas": 3 } }))
        .await;
    wait_for(&cluster, "3 3 3 3 3", status).await;
    wait_for(&cluster, "true", owned(0)).await;
    let after = (uid(&cluster, "web-0").await, uid(&cluster, "web-1").await);
    assert_eq!(before, after);
}

/// statefulset.md 4.8, T22: a foreign revision has the name of a new revision.
#[tokio::test]
async fn a_revision_of_somebody_else_is_left_alone() {
    let cluster = Cluster::new().await;
    cluster.create::<StatefulSet>(set(1, "a", json!({}))).await;
    wait_for(&cluster, "1 1 1 1 1", status).await;
    let name = revision_of(&cluster, 1).await.name_any();
    cluster
        .delete::<StatefulSet>("web", DeleteParams::default())
        .await;
    wait_for::<ControllerRevision>(&cluster, "", names).await;
    wait_for::<Pod>(&cluster, "", names).await;
    // The owner must exist, because otherwise the garbage collector would delete the revision.
    let owner: k8s_openapi::api::core::v1::ConfigMap = cluster
        .create(json!({ "metadata": { "name": "owner" } }))
        .await;
    let owner = json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
        "uid": owner.uid(), "controller": true }]);
    let foreign = json!({ "metadata": { "name": name, "labels": { "app": "web" },
        "ownerReferences": owner }, "data": { "other": true }, "revision": 7 });
    let foreign: ControllerRevision = cluster.create(foreign).await;
    cluster.create::<StatefulSet>(set(1, "a", json!({}))).await;
    wait_for(&cluster, "1 1 1 1 1", status).await;
    let after = cluster
        .api::<ControllerRevision>()
        .get(&name)
        .await
        .unwrap();
    assert_eq!(after.metadata, foreign.metadata);
    let pod = cluster.api::<Pod>().get("web-0").await.unwrap();
    assert_ne!(pod.labels()["controller-revision-hash"], name);
}

/// statefulset.md 1.7, 5.6, 8.1: labels and owners of a pod that a user edited.
#[tokio::test]
async fn an_edited_pod_is_repaired_adopted_or_replaced() {
    let cluster = Cluster::new().await;
    cluster.create::<StatefulSet>(set(1, "a", json!({}))).await;
    wait_for(&cluster, "1 1 1 1 1", status).await;
    let before = uid(&cluster, "web-0").await;
    let at = |label: &str| format!("/metadata/labels/{}", label.replace('/', "~1"));

    let name_label = "statefulset.kubernetes.io/pod-name";
    let remove = json!([{ "op": "remove", "path": at(name_label) }]);
    edit::<Pod>(&cluster, "web-0", remove).await;
    wait_for::<Pod>(&cluster, "web-0", |pods| {
        pods[0]
            .labels()
            .get(name_label)
            .cloned()
            .unwrap_or_default()
    })
    .await;
    let updated = "update Pod web-0 in StatefulSet web successful";
    wait_for_event(&cluster, "SuccessfulUpdate", updated).await;

    let remove = json!([{ "op": "remove", "path": "/metadata/ownerReferences" }]);
    edit::<Pod>(&cluster, "web-0", remove).await;
    wait_for::<Pod>(&cluster, "1", |pods| {
        pods[0].owner_references().len().to_string()
    })
    .await;
    assert_eq!(
        uid(&cluster, "web-0").await,
        before,
        "nothing of this replaces the pod"
    );

    let remove = json!([{ "op": "remove", "path": at("controller-revision-hash") }]);
    edit::<Pod>(&cluster, "web-0", remove).await;
    wait_for::<Pod>(&cluster, "true", |pods| {
        let replaced = pods.first().is_some_and(|pod| pod.uid() != before);
        replaced.to_string()
    })
    .await;
    wait_for(&cluster, "1 1 1 1 1", status).await;
}

/// The set waits for a pod with a foreign finalizer; no second pod is created.
#[tokio::test]
async fn a_pod_that_is_held_is_waited_for() {
    let cluster = Cluster::new().await;
    cluster.create::<StatefulSet>(set(2, "a", json!({}))).await;
    wait_for(&cluster, "2 2 2 2 2", status).await;
    let hold = json!({ "metadata": { "finalizers": ["example.com/hold"] } });
    cluster.patch::<Pod>("web-1", hold).await;
    cluster.patch::<StatefulSet>("web", image("b")).await;
    wait_for::<Pod>(&cluster, "web-0 web-1~", |pods| {
        let mut printed: Vec<String> = pods
            .iter()
            .map(|pod| {
                let dying = pod.metadata.deletion_timestamp.is_some();
                format!("{}{}", pod.name_any(), if dying { "~" } else { "" })
            })
            .collect();
        printed.sort();
        printed.join(" ")
    })
    .await;
    let release = json!([{ "op": "remove", "path": "/metadata/finalizers" }]);
    edit::<Pod>(&cluster, "web-1", release).await;
    wait_for(&cluster, "web-0:b web-1:b", pods).await;
}

/// statefulset.md 3.32, 8.4, T34: a user created a pod with a name that the set needs.
#[tokio::test]
async fn a_pod_in_the_way_is_told_of_and_waited_for() {
    let cluster = Cluster::new().await;
    cluster
        .create::<Pod>(bare_pod("web-1", "other", json!([])))
        .await;
    cluster.create::<StatefulSet>(set(2, "a", json!({}))).await;
    let nobody = "True NameTaken: a pod that is not of the set has the name web-1";
    wait_for(&cluster, nobody, stalled).await;
    let message = nobody.strip_prefix("True NameTaken: ").unwrap();
    wait_for_event(&cluster, "NameTaken", message).await;
    cluster
        .delete::<Pod>("web-1", DeleteParams::default())
        .await;
    wait_for(&cluster, "2 2 2 2 2", status).await;
    wait_for(&cluster, FINE, stalled).await;

    // A foreign owner, though the labels match.
    let owner: k8s_openapi::api::core::v1::ConfigMap = cluster
        .create(json!({ "metadata": { "name": "owner" } }))
        .await;
    let owner = json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
        "uid": owner.uid(), "controller": true }]);
    let foreign: Pod = cluster.create(bare_pod("web-2", "web", owner)).await;
    cluster
        .patch::<StatefulSet>("web", json!({ "spec": { "replicas": 3 } }))
        .await;
    let theirs = "True NameTaken: a pod of ConfigMap owner has the name web-2";
    wait_for(&cluster, theirs, stalled).await;
    assert_eq!(uid(&cluster, "web-2").await, foreign.uid());
    // Without its owner the pod is adopted by the set; an outdated pod is replaced.
    let disown = json!([{ "op": "remove", "path": "/metadata/ownerReferences" }]);
    edit::<Pod>(&cluster, "web-2", disown).await;
    wait_for(&cluster, "3 3 3 3 3", status).await;
    wait_for(&cluster, FINE, stalled).await;
}

/// statefulset.md 2.4, 2.5, T30: a user created claims with names that the set needs.
#[tokio::test]
async fn claims_that_are_there_are_used_and_dying_ones_waited_for() {
    let cluster = Cluster::new().await;
    let claim = |name: &str, finalizers: Value| {
        json!({ "metadata": { "name": name, "labels": { "mine": "yes" },
            "finalizers": finalizers },
            "spec": { "accessModes": ["ReadWriteMany"],
                "resources": { "requests": { "storage": "5Gi" } } } })
    };
    let mine: PersistentVolumeClaim = cluster.create(claim("www-web-0", json!([]))).await;
    let blocked = claim("www-web-1", json!(["example.com/hold"]));
    let blocked: PersistentVolumeClaim = cluster.create(blocked).await;
    cluster
        .delete::<PersistentVolumeClaim>("www-web-1", DeleteParams::default())
        .await;
    let more = json!({ "volumeClaimTemplates": claims() });
    cluster.create::<StatefulSet>(set(2, "a", more)).await;
    let text = "create Pod web-1 in StatefulSet web failed error: pvc www-web-1 is being deleted";
    wait_for_event(&cluster, "FailedCreate", text).await;
    wait_for(&cluster, "web-0:a", pods).await;
    let used = cluster
        .api::<PersistentVolumeClaim>()
        .get("www-web-0")
        .await
        .unwrap();
    assert_eq!((used.uid(), used.spec), (mine.uid(), mine.spec));

    let release = json!([{ "op": "replace", "path": "/metadata/finalizers", "value": [] }]);
    edit::<PersistentVolumeClaim>(&cluster, "www-web-1", release).await;
    wait_for(&cluster, "2 2 2 2 2", status).await;
    let fresh = cluster
        .api::<PersistentVolumeClaim>()
        .get("www-web-1")
        .await
        .unwrap();
    assert_ne!(fresh.uid(), blocked.uid());
}

/// statefulset.md 2.16, 7.3, T29: a claim that another controller manages is not changed.
#[tokio::test]
async fn a_claim_of_somebody_else_is_left_alone() {
    let cluster = Cluster::new().await;
    let owner: k8s_openapi::api::core::v1::ConfigMap = cluster
        .create(json!({ "metadata": { "name": "owner" } }))
        .await;
    let owners = json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
        "uid": owner.uid(), "controller": true }]);
    let claim = json!({ "metadata": { "name": "www-web-0", "ownerReferences": owners },
        "spec": { "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } } } });
    let claim: PersistentVolumeClaim = cluster.create(claim).await;
    let policy = json!({ "whenDeleted": "Delete", "whenScaled": "Delete" });
    let more = json!({ "volumeClaimTemplates": claims(),
        "persistentVolumeClaimRetentionPolicy": policy });
    cluster.create::<StatefulSet>(set(1, "a", more)).await;
    wait_for(&cluster, "1 1 1 1 1", status).await;
    let text = "PersistentVolumeClaim www-web-0 has a conflicting OwnerReference that acts as a \
        manging controller, the retention policy is ignored for this claim";
    wait_for_event(&cluster, "ConflictingController", text).await;
    cluster
        .patch::<StatefulSet>("web", json!({ "spec": { "replicas": 0 } }))
        .await;
    wait_for(&cluster, "0 0 0 0 0", status).await;
    let after = cluster
        .api::<PersistentVolumeClaim>()
        .get("www-web-0")
        .await
        .unwrap();
    assert_eq!(after.owner_references(), claim.owner_references());
}

/// statefulset.md 5.13, 5.15: a status by another writer is corrected.
#[tokio::test]
async fn a_status_by_hand_is_put_right() {
    let cluster = Cluster::new().await;
    cluster.create::<StatefulSet>(set(2, "a", json!({}))).await;
    wait_for(&cluster, "2 2 2 2 2", status).await;
    let before = (uid(&cluster, "web-0").await, uid(&cluster, "web-1").await);
    let wrong = json!({ "status": { "replicas": 9, "readyReplicas": 7, "availableReplicas": 5,
        "currentReplicas": 0, "updatedReplicas": 0, "currentRevision": "no-such",
        "updateRevision": "nor-this", "observedGeneration": 0 } });
    let patch = Patch::Merge(&wrong);
    let sets = cluster.api::<StatefulSet>();
    sets.patch_status("web", &PatchParams::default(), &patch)
        .await
        .unwrap();
    wait_for(&cluster, "2 2 2 2 2", status).await;
    let revision = revision_of(&cluster, 1).await.name_any();
    wait_for::<StatefulSet>(&cluster, &format!("{revision} {revision}"), |sets| {
        let status = sets[0].status.clone().unwrap();
        let names = [status.current_revision, status.update_revision];
        names.map(Option::unwrap_or_default).join(" ")
    })
    .await;
    let after = (uid(&cluster, "web-0").await, uid(&cluster, "web-1").await);
    assert_eq!(before, after, "no pod goes for it");
}

/// statefulset.md 6.6: no pod can be created for a set with a too long name; the set reports the reason and can be
/// deleted.
#[tokio::test]
async fn a_name_that_is_too_long_is_told() {
    let cluster = Cluster::new().await;
    let name = "x".repeat(60);
    let mut long = set(1, "a", json!({}));
    long["metadata"]["name"] = json!(name);
    cluster.create::<StatefulSet>(long).await;
    wait_for::<Event>(&cluster, "true", |events| {
        let start = format!(
            "create Pod {name}-0 in StatefulSet {name} failed error: Pod \"{name}-0\" is invalid: \
             metadata.labels: Invalid value: \"{name}-"
        );
        let is_reported = events.iter().any(|event| {
            let message = event.message.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some("FailedCreate")
                && message.starts_with(&start)
                && message.ends_with("must be no more than 63 bytes")
        });
        is_reported.to_string()
    })
    .await;
    cluster.create::<StatefulSet>(set(1, "a", json!({}))).await;
    wait_for(&cluster, "web-0:a", pods).await;
    cluster
        .delete::<StatefulSet>(&name, DeleteParams::default())
        .await;
    wait_for::<StatefulSet>(&cluster, "web", names).await;
}

/// statefulset.md 2.4, 7.2: a claim that cannot be created is reported, and its pod is not created.
#[tokio::test]
async fn a_claim_that_cannot_be_made_is_told() {
    let cluster = Cluster::new().await;
    let long = "x".repeat(250);
    let mut templates = claims();
    templates[0]["metadata"]["name"] = json!(long);
    let more = json!({ "volumeClaimTemplates": templates });
    cluster.create::<StatefulSet>(set(1, "a", more)).await;
    let start = format!(
        "create Claim {long}-web-0 for Pod web-0 in StatefulSet web failed error: \
         PersistentVolumeClaim \"{long}-web-0\" is invalid: metadata.name: "
    );
    wait_for::<Event>(&cluster, "true", |events| {
        let is_reported = events.iter().any(|event| {
            let message = event.message.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some("FailedCreate") && message.starts_with(&start)
        });
        is_reported.to_string()
    })
    .await;
    wait_for::<Pod>(&cluster, "", names).await;
    cluster
        .delete::<StatefulSet>("web", DeleteParams::default())
        .await;
    wait_for::<StatefulSet>(&cluster, "", names).await;
}

/// statefulset.md 8.9, T35: a second set with an equal selector adopts no pods of the first.
#[tokio::test]
async fn sets_with_one_selector_keep_to_their_own() {
    let cluster = Cluster::new().await;
    cluster.create::<StatefulSet>(set(2, "a", json!({}))).await;
    wait_for(&cluster, "web-0:a web-1:a", pods).await;
    let before = (uid(&cluster, "web-0").await, uid(&cluster, "web-1").await);
    for name in ["other", "web-x"] {
        let mut second = set(1, "b", json!({}));
        second["metadata"]["name"] = json!(name);
        cluster.create::<StatefulSet>(second).await;
    }
    wait_for(&cluster, "other-0:b web-0:a web-1:a web-x-0:b", pods).await;
    cluster.patch::<StatefulSet>("other", image("c")).await;
    wait_for(&cluster, "other-0:c web-0:a web-1:a web-x-0:b", pods).await;
    cluster
        .delete::<StatefulSet>("other", DeleteParams::default())
        .await;
    wait_for(&cluster, "web-0:a web-1:a web-x-0:b", pods).await;
    let after = (uid(&cluster, "web-0").await, uid(&cluster, "web-1").await);
    assert_eq!(before, after);
}
