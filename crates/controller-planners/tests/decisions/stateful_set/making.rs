//! Created objects, field by field: pods, claims and revisions.

use std::collections::BTreeMap;

use controller_planners::stateful_set::{StatefulSetAction, StatefulSetPlan};
use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use super::cluster::Cluster;
use super::situation::{SET_UID, describe, revision_name, template};

fn pods(plan: &StatefulSetPlan) -> Vec<&Pod> {
    let created = plan.actions().filter_map(|action| match action {
        StatefulSetAction::CreatePod(pod) => Some(pod.as_ref()),
        _ => None,
    });
    created.collect()
}

fn claims(plan: &StatefulSetPlan) -> Vec<&PersistentVolumeClaim> {
    let created = plan.actions().filter_map(|action| match action {
        StatefulSetAction::CreateClaim(claim) => Some(claim.as_ref()),
        _ => None,
    });
    created.collect()
}

fn revisions(plan: &StatefulSetPlan) -> Vec<&ControllerRevision> {
    let created = plan.actions().filter_map(|action| match action {
        StatefulSetAction::CreateRevision(revision) => Some(revision.as_ref()),
        _ => None,
    });
    created.collect()
}

fn value(object: impl k8s_openapi::serde::Serialize) -> Value {
    json_tree::to_value(object).unwrap()
}

fn owner() -> Value {
    json!([{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": SET_UID,
        "controller": true, "blockOwnerDeletion": true }])
}

/// statefulset.md 1.1, 1.4, 1.5, 1.6: name, labels, host name and owner of a pod; all other fields come from the
/// template.
#[test]
fn a_pod_has_an_identity_and_the_template_for_the_rest() {
    let mut cluster = Cluster::new("set replicas=1 start=3 new");
    cluster.edit(|spec| {
        let meta = spec.template.metadata.get_or_insert_default();
        meta.annotations = Some(BTreeMap::from([("note".to_owned(), "n".to_owned())]));
        meta.finalizers = Some(vec!["example.com/hold".to_owned()]);
    });
    let plan = cluster.step();
    let revision = revisions(&plan)[0].metadata.name.clone().unwrap();
    let pod = value(pods(&plan)[0]);
    assert_eq!(
        pod["metadata"],
        json!({
            "name": "web-3", "generateName": "web-", "namespace": "default",
            "labels": { "app": "web", "apps.kubernetes.io/pod-index": "3",
                "controller-revision-hash": revision,
                "statefulset.kubernetes.io/pod-name": "web-3" },
            "annotations": { "note": "n" },
            "finalizers": ["example.com/hold"],
            "ownerReferences": owner(),
        })
    );
    assert!(revision.starts_with("web-"), "the whole name: {revision}");
    assert_eq!(
        (&pod["spec"]["hostname"], &pod["spec"]["subdomain"]),
        (&json!("web-3"), &json!("svc"))
    );
}

/// statefulset.md 1.5, 6.13: without a Service there is no subdomain.
#[test]
fn a_pod_without_a_service_has_no_subdomain() {
    for name in [None, Some(String::new())] {
        let mut cluster = Cluster::new("set replicas=1 new");
        cluster.edit(|spec| spec.service_name = name);
        let plan = cluster.step();
        let spec = pods(&plan)[0].spec.as_ref().unwrap();
        assert_eq!(spec.subdomain, None);
        assert_eq!(spec.hostname.as_deref(), Some("web-0"));
    }
}

/// statefulset.md 2.1, 2.2: the labels of the selector override those of the template; a claim has no owner.
#[test]
fn a_claim_is_its_template_with_the_labels_of_the_selector() {
    let mut cluster = Cluster::new("set replicas=1 start=2 new claims=www");
    cluster.edit(|spec| {
        let claim = json!({
            "metadata": { "name": "www", "labels": { "app": "mine", "kind": "data" },
                "annotations": { "note": "n" } },
            "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
                "resources": { "requests": { "storage": "1Gi" } } },
            "status": { "phase": "Pending" },
        });
        spec.volume_claim_templates = Some(vec![json_tree::from_value(claim).unwrap()]);
        let more = json!([{ "key": "extra", "operator": "DoesNotExist" }]);
        spec.selector.match_expressions = Some(json_tree::from_value(more).unwrap());
    });
    let plan = cluster.step();
    assert_eq!(
        value(claims(&plan)[0]),
        json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": "www-web-2", "namespace": "default",
                "labels": { "app": "web", "kind": "data" }, "annotations": { "note": "n" } },
            "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
                "resources": { "requests": { "storage": "1Gi" } } } })
    );
}

/// statefulset.md 4.2, 4.4, 4.5: the first revision of a set.
#[test]
fn a_revision_has_the_labels_of_its_template_and_the_notes_of_its_set() {
    let mut cluster = Cluster::new("set replicas=1 new");
    let notes = [
        ("kubernetes.io/change-cause", "because"),
        ("mainstay.dev/stuck-rollout", "Wait"),
        ("apps.mainstay.dev/removed-claim-templates", "[]"),
    ];
    let notes = notes.map(|(key, value)| (key.to_owned(), value.to_owned()));
    cluster.set.metadata.annotations = Some(BTreeMap::from(notes));
    let plan = cluster.step();
    let name = revision_name("a");
    let hash = name.strip_prefix("web-").unwrap();
    let mut revision = value(revisions(&plan)[0]);
    revision["data"] = json!(null);
    assert_eq!(
        revision,
        json!({ "apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 1,
            "data": null,
            "metadata": { "name": name, "namespace": "default",
                "labels": { "app": "web", "controller.kubernetes.io/hash": hash },
                "annotations": { "kubernetes.io/change-cause": "because" },
                "ownerReferences": owner() } })
    );
}

/// statefulset.md 4.5: two revisions with one number are ordered by age, then by name.
#[test]
fn the_newest_of_two_revisions_of_one_number_is_the_younger() {
    for (age_of_a, expected) in [("2026-01-01T10:00:00Z", "b"), ("2026-01-01T11:30:00Z", "a")] {
        let mut cluster = Cluster::new(
            "set replicas=1 template=a current=a
             revisions a=1 b=1
             pod 0 ready a",
        );
        for (image, created) in [("a", age_of_a), ("b", "2026-01-01T11:00:00Z")] {
            let meta = &mut cluster
                .revisions
                .get_mut(&revision_name(image))
                .unwrap()
                .metadata;
            meta.creation_timestamp = Some(json_tree::from_value(json!(created)).unwrap());
        }
        let plan = describe(&cluster.step());
        // An existing revision that is not the newest gets the next number.
        let renumbered = plan.contains("renumber revision a to 2");
        assert_eq!(renumbered, expected == "b", "{age_of_a}: {plan}");
    }
}

/// statefulset.md 4.7: the data of a revision decides, not its label.
#[test]
fn a_revision_is_known_by_its_data() {
    let mut cluster = Cluster::new("set replicas=1 new");
    cluster.settle();
    for revision in cluster.revisions.values_mut() {
        let labels = revision.metadata.labels.get_or_insert_default();
        labels.insert(
            "controller.kubernetes.io/hash".to_owned(),
            "other".to_owned(),
        );
    }
    assert!(cluster.step().is_idle());
}

/// statefulset.md 2.8, 4.1, T19: only the template makes a revision.
#[test]
fn nothing_but_the_template_makes_a_revision() {
    let mut cluster = Cluster::new("set replicas=1 new claims=www");
    cluster.settle();
    cluster.edit(|spec| {
        spec.replicas = Some(2);
        spec.min_ready_seconds = Some(1);
        spec.revision_history_limit = Some(3);
        spec.ordinals.get_or_insert_default().start = Some(0);
        spec.volume_claim_templates.as_mut().unwrap()[0]
            .metadata
            .name = Some("log".to_owned());
        spec.update_strategy.as_mut().unwrap().type_ = Some("OnDelete".to_owned());
    });
    cluster.settle();
    assert_eq!(cluster.revisions.len(), 1);
}

/// statefulset.md 5.8: an annotation in the template restarts the set, as with `kubectl rollout restart`.
#[test]
fn a_note_in_the_template_restarts_the_set() {
    let mut cluster = Cluster::new("set replicas=2 new");
    cluster.settle();
    cluster.log.clear();
    cluster.edit(|spec| {
        let meta = spec.template.metadata.get_or_insert_default();
        let at = (
            "kubectl.kubernetes.io/restartedAt".to_owned(),
            "now".to_owned(),
        );
        meta.annotations = Some(BTreeMap::from([at]));
    });
    cluster.settle();
    assert_eq!(cluster.log, ["-web-1", "+web-1:a", "-web-0", "+web-0:a"]);
    assert_eq!(cluster.revisions.len(), 2);
}

/// statefulset.md 5.6: a change that a user makes in a pod stays.
#[test]
fn a_pod_that_was_edited_is_left_alone() {
    let mut cluster = Cluster::new("set replicas=1 new");
    cluster.settle();
    let pod = cluster.pods.get_mut("web-0").unwrap();
    pod.spec.as_mut().unwrap().containers[0].image = Some("edited".to_owned());
    pod.metadata
        .labels
        .get_or_insert_default()
        .insert("more".to_owned(), "x".to_owned());
    assert!(cluster.step().is_idle());
}

/// statefulset.md 5.11, 3.5: the old template with the other fields of the present set.
#[test]
fn an_old_template_is_used_with_the_claims_of_the_set() {
    let mut cluster = Cluster::new("set replicas=2 new claims=www partition=2");
    cluster.settle();
    cluster.edit(|spec| {
        spec.template = template("b");
        spec.service_name = Some("other".to_owned());
    });
    cluster.settle();
    cluster.delete_pod("web-0");
    cluster.kubelet();
    let plan = cluster.step();
    let pod = value(pods(&plan)[0]);
    assert_eq!(pod["spec"]["containers"][0]["image"], "a");
    assert_eq!(pod["spec"]["subdomain"], "other");
    let claim = json!({ "name": "www", "persistentVolumeClaim": { "claimName": "www-web-0" } });
    assert_eq!(pod["spec"]["volumes"], json!([claim]));
    assert_eq!(
        pod["metadata"]["labels"]["controller-revision-hash"],
        json!(revision_name("a"))
    );
}

/// statefulset.md 4.9, 5.15: a status without a change is not written.
#[test]
fn a_status_is_written_only_if_a_number_or_a_name_differs() {
    let mut cluster = Cluster::new("set replicas=1 new");
    cluster.settle();
    let pod = cluster.pods.get_mut("web-0").unwrap();
    pod.metadata.annotations = Some(BTreeMap::from([("note".to_owned(), "n".to_owned())]));
    assert_eq!(cluster.step().status, None);
    // A different count of collisions alone is not written either: here the template's first name is used by another
    // revision, and the second name exists already.
    let mut cluster = Cluster::new("set replicas=0 new\ncollision a");
    let first = cluster.step().status.expect("the first status");
    assert_eq!(first.collision_count, Some(1));
    cluster.set.status.as_mut().unwrap().collision_count = None;
    cluster
        .revisions
        .retain(|name, _| *name == revision_name("a"));
    cluster.set.status.as_mut().unwrap().update_revision = first.update_revision.clone();
    let again = cluster.step();
    assert_eq!(
        revisions(&again).len(),
        1,
        "made anew under the second name"
    );
    assert_eq!(again.status, None);
}

/// statefulset.md 3.33: an annotation that stopped old versions has no effect any more.
#[test]
fn the_annotation_initialized_is_of_the_past() {
    let mut cluster = Cluster::new("set replicas=2\nrevisions a=1\npod 0 ready a");
    let note = (
        "pod.alpha.kubernetes.io/initialized".to_owned(),
        "false".to_owned(),
    );
    let pod = cluster.pods.get_mut("web-0").unwrap();
    pod.metadata.annotations = Some(BTreeMap::from([note]));
    assert_eq!(pods(&cluster.step()).len(), 1);
}

/// statefulset.md 8.5: a pod of an unknown revision is outdated.
#[test]
fn an_adopted_pod_of_another_revision_is_replaced() {
    let mut cluster = Cluster::new("set replicas=1 new\npod 0 ready f orphan");
    cluster.settle();
    assert_eq!(cluster.log, ["-web-0", "+web-0:a"]);
}
