//! Snapshots, situation by situation (statefulset.md §11.15).

use controller_planners::volume_snapshot::{
    ContentStep, Handle, ObservedSnapshot, SnapshotAction, SnapshotPlan, plan_on_node,
    plan_snapshot,
};
use jiff::Timestamp;
use json_tree::{Value, json};
use resource_kinds::snapshot::{
    BEING_DELETED, BOUND_PROTECTION, CONTENT_PROTECTION, DEFAULT_CLASS, SOURCE_PROTECTION,
    VolumeSnapshotClass, VolumeSnapshotContent,
};
use resource_kinds::storage::Driver;

fn typed<T: k8s_openapi::serde::de::DeserializeOwned>(value: &Value) -> T {
    json_tree::from_value(value.clone()).unwrap()
}

/// A cluster in which the claim `data` is bound and its snapshot `s` has its finalizers.
struct Cluster {
    snapshot: Value,
    content: Option<Value>,
    claim: Option<Value>,
    volume: Value,
    classes: Value,
    restoring: Option<&'static str>,
}

impl Cluster {
    fn new() -> Self {
        Self {
            snapshot: json!({
                "metadata": {"name": "s", "namespace": "d", "uid": "u1",
                    "finalizers": [SOURCE_PROTECTION, BOUND_PROTECTION]},
                "spec": {"source": {"persistentVolumeClaimName": "data"},
                    "volumeSnapshotClassName": "local-cow"},
            }),
            content: None,
            claim: Some(
                json!({"metadata": {"name": "data"}, "spec": {"volumeName": "pvc-1"},
                "status": {"phase": "Bound"}}),
            ),
            volume: json!({
                "metadata": {"name": "pvc-1", "annotations":
                    {"pv.kubernetes.io/provisioned-by": "mainstay.dev/local-cow"}},
                "spec": {"capacity": {"storage": "1Gi"}, "volumeMode": "Filesystem"},
            }),
            classes: json!([
                {"metadata": {"name": "local-cow", "annotations": {DEFAULT_CLASS: "true"}},
                    "driver": "mainstay.dev/local-cow", "deletionPolicy": "Delete"},
                {"metadata": {"name": "other"}, "driver": "example.org", "deletionPolicy": "Retain"},
            ]),
            restoring: None,
        }
    }

    fn plan(&self) -> SnapshotPlan {
        let content: Option<VolumeSnapshotContent> = self.content.as_ref().map(typed);
        let claim = self.claim.as_ref().map(typed);
        let classes: Vec<VolumeSnapshotClass> = typed(&self.classes);
        let view = ObservedSnapshot {
            snapshot: &typed(&self.snapshot),
            content: content.as_ref(),
            claim: claim.as_ref(),
            volume: Some(&typed(&self.volume)),
            classes: &classes,
            restoring: self.restoring,
        };
        plan_snapshot(&view, Timestamp::UNIX_EPOCH).unwrap()
    }

    /// The content that a plan creates.
    fn created_content(&self) -> Value {
        match &self.plan().actions[..] {
            [SnapshotAction::CreateContent(content)] => json!(content),
            other => panic!("{other:?}"),
        }
    }

    fn error(&self) -> String {
        match &self.plan().actions[..] {
            [SnapshotAction::SetStatus(status)] => {
                status.error.clone().unwrap().message.unwrap_or_default()
            }
            other => panic!("{other:?}"),
        }
    }
}

fn step(content: &Value, volume: Option<&Value>, node: &str) -> ContentStep {
    let volume = volume.map(typed);
    plan_on_node(
        &typed(content),
        volume.as_ref().map(|volume| (volume, "n1")),
        node,
    )
}

#[test]
fn finalizers_come_first() {
    let mut cluster = Cluster::new();
    cluster.snapshot["metadata"]["finalizers"] = json!(["other"]);
    let expected = ["other", SOURCE_PROTECTION, BOUND_PROTECTION].map(str::to_owned);
    assert_eq!(
        cluster.plan().actions,
        [SnapshotAction::SetFinalizers(expected.to_vec())]
    );
}

#[test]
fn the_default_class_of_the_volumes_driver_is_taken() {
    let mut cluster = Cluster::new();
    cluster.snapshot["spec"]["volumeSnapshotClassName"] = Value::Null;
    let assign = SnapshotAction::AssignClass("local-cow".to_owned());
    assert_eq!(cluster.plan().actions, [assign]);
    cluster.classes = json!([]);
    assert!(
        cluster
            .error()
            .contains("cannot find default snapshot class")
    );
    cluster.snapshot["spec"]["volumeSnapshotClassName"] = "other".into();
    assert!(cluster.error().contains("\"other\" not found"));
}

#[test]
fn a_snapshot_becomes_ready_with_its_content() {
    let mut cluster = Cluster::new();
    let content = cluster.created_content();
    assert_eq!(content["metadata"]["name"], "snapcontent-u1");
    assert_eq!(content["spec"]["source"]["volumeHandle"], "pvc-1");
    assert_eq!(content["spec"]["deletionPolicy"], "Delete");
    let handle = Handle {
        node: "n1".to_owned(),
        name: "snapshot-u1".to_owned(),
    };
    let create_snapshot = ContentStep::Create {
        driver: Driver::LocalCow,
        volume: "pvc-1".to_owned(),
        handle,
        bytes: 1 << 30,
    };
    assert_eq!(step(&content, Some(&cluster.volume), "n1"), create_snapshot);
    assert_eq!(
        step(&content, Some(&cluster.volume), "n2"),
        ContentStep::Nothing
    );

    // Bound, but not ready yet.
    cluster.content = Some(content.clone());
    let plan = cluster.plan();
    let [SnapshotAction::SetStatus(status)] = &plan.actions[..] else {
        panic!("{plan:?}");
    };
    assert_eq!(status.ready_to_use, Some(false));
    cluster.snapshot["status"] = json!(status);
    assert_eq!(cluster.plan().actions, []);

    let mut ready = content;
    ready["status"] = json!({"snapshotHandle": "n1/snapshot-u1", "readyToUse": true,
        "restoreSize": 1_u64 << 30, "creationTime": 1_500_000_000_i64});
    assert_eq!(
        step(&ready, Some(&cluster.volume), "n1"),
        ContentStep::Nothing
    );
    cluster.content = Some(ready);
    let plan = cluster.plan();
    let [SnapshotAction::SetStatus(status)] = &plan.actions[..] else {
        panic!("{plan:?}");
    };
    let status = json!(status);
    assert_eq!(status["readyToUse"], true);
    assert_eq!(status["restoreSize"], "1Gi");
    assert_eq!(status["creationTime"], "1970-01-01T00:00:01Z");
    assert_eq!(plan.notes[0].reason, "SnapshotReady");
    cluster.snapshot["status"] = status;
    assert_eq!(cluster.plan(), SnapshotPlan::default());
}

#[test]
fn what_cannot_be_is_said_once() {
    let mut cluster = Cluster::new();
    cluster.claim = None;
    let plan = cluster.plan();
    assert_eq!(plan.notes[0].reason, "SnapshotContentCreationFailed");
    let [SnapshotAction::SetStatus(status)] = &plan.actions[..] else {
        panic!("{plan:?}");
    };
    cluster.snapshot["status"] = json!(status);
    let again = cluster.plan();
    assert_eq!((again.actions, again.notes), (vec![], vec![]));
    assert!(again.waiting_on.is_some());

    let mut unbound = Cluster::new();
    unbound.claim.as_mut().unwrap()["status"]["phase"] = "Pending".into();
    assert!(unbound.error().contains("not yet bound to a PV"));
    let mut by_hand = Cluster::new();
    by_hand.volume["metadata"]["annotations"] = Value::Null;
    assert!(by_hand.error().contains("was not made by a provisioner"));
    let mut mixed = Cluster::new();
    mixed.snapshot["spec"]["volumeSnapshotClassName"] = "other".into();
    assert!(mixed.error().contains("the class is of driver example.org"));
}

#[test]
fn a_lost_content_is_not_made_anew() {
    let mut cluster = Cluster::new();
    cluster.snapshot["status"] = json!({"boundVolumeSnapshotContentName": "snapcontent-u1",
        "readyToUse": true});
    assert_eq!(cluster.error(), "VolumeSnapshotContent is missing");
}

#[test]
fn a_content_that_was_there_first_is_bound_to_the_snapshot_that_it_names() {
    let mut cluster = Cluster::new();
    cluster.snapshot["spec"]["source"] = json!({"volumeSnapshotContentName": "old"});
    assert!(cluster.error().contains("VolumeSnapshotContent is missing"));
    let content = json!({"metadata": {"name": "old", "finalizers": [CONTENT_PROTECTION]},
        "spec": {"driver": "mainstay.dev/local-cow", "deletionPolicy": "Retain",
            "source": {"snapshotHandle": "n1/snapshot-u0"},
            "volumeSnapshotRef": {"namespace": "d", "name": "s"}}});
    cluster.content = Some(content.clone());
    let bind = SnapshotAction::BindContent {
        uid: "u1".parse().unwrap(),
    };
    assert_eq!(cluster.plan().actions, [bind]);
    let find = ContentStep::Find {
        driver: Driver::LocalCow,
        handle: Handle::parse("n1/snapshot-u0").unwrap(),
    };
    assert_eq!(step(&content, None, "n1"), find);
    let mut unprotected = content.clone();
    unprotected["metadata"]["finalizers"] = Value::Null;
    assert_eq!(step(&unprotected, None, "n1"), ContentStep::Protect);
    assert_eq!(step(&unprotected, None, "n2"), ContentStep::Nothing);
    cluster.content.as_mut().unwrap()["spec"]["volumeSnapshotRef"]["name"] = "another".into();
    assert!(cluster.error().contains("is bound to another snapshot"));
}

#[test]
fn what_is_kept_goes_with_the_snapshot_if_the_policy_says_so() {
    let mut cluster = Cluster::new();
    let mut content = cluster.created_content();
    content["status"] = json!({"snapshotHandle": "n1/snapshot-u1", "readyToUse": true});
    content["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    // A content that a user deletes while its snapshot exists waits.
    assert_eq!(
        step(&content, Some(&cluster.volume), "n1"),
        ContentStep::Nothing
    );
    content["metadata"]["deletionTimestamp"] = Value::Null;

    cluster.content = Some(content.clone());
    cluster.snapshot["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    cluster.restoring = Some("copy");
    assert_eq!(cluster.plan().notes[0].reason, "SnapshotDeletePending");
    assert_eq!(cluster.plan().actions, []);
    cluster.restoring = None;
    assert_eq!(cluster.plan().actions, [SnapshotAction::DeleteContent]);

    content["metadata"]["annotations"] = json!({BEING_DELETED: "yes"});
    content["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let remove = ContentStep::Remove {
        driver: Driver::LocalCow,
        handle: Handle::parse("n1/snapshot-u1").unwrap(),
    };
    assert_eq!(step(&content, None, "n1"), remove);
    cluster.content = Some(content.clone());
    assert_eq!(cluster.plan().actions, []);
    cluster.content = None;
    assert_eq!(
        cluster.plan().actions,
        [SnapshotAction::SetFinalizers(vec![])]
    );

    content["spec"]["deletionPolicy"] = "Retain".into();
    assert_eq!(step(&content, None, "n1"), ContentStep::LetGo);
    cluster.content = Some(content);
    assert_eq!(
        cluster.plan().actions,
        [SnapshotAction::SetFinalizers(vec![])]
    );
}

#[test]
fn handles_are_a_node_and_a_name() {
    for wrong in ["", "n1", "n1/", "/a", "n1/a/b"] {
        assert_eq!(Handle::parse(wrong), None, "{wrong}");
    }
    let handle = Handle::parse("n1/a").unwrap();
    assert_eq!(handle.to_string(), "n1/a");
}

/// The content names the volume and the secret as the driver does, because the driver's snapshotter knows no other
/// names.
#[test]
fn a_content_of_another_driver_has_its_handle_and_its_secret() {
    let mut cluster = Cluster::new();
    cluster.snapshot["spec"]["volumeSnapshotClassName"] = "other".into();
    cluster.volume["spec"]["csi"] = json!({"driver": "example.org", "volumeHandle": "disk-7"});
    let content = cluster.created_content();
    assert_eq!(content["spec"]["source"]["volumeHandle"], "disk-7");
    assert!(content["metadata"]["annotations"].is_null());
    let (name, namespace) = (
        "csi.storage.k8s.io/snapshotter-secret-name",
        "csi.storage.k8s.io/snapshotter-secret-namespace",
    );
    cluster.classes[1]["parameters"] =
        json!({name: "key-of-${volumesnapshot.name}", namespace: "${volumesnapshot.namespace}"});
    let annotations = cluster.created_content()["metadata"]["annotations"].clone();
    assert_eq!(
        annotations,
        json!({"snapshot.storage.kubernetes.io/deletion-secret-name": "key-of-s",
            "snapshot.storage.kubernetes.io/deletion-secret-namespace": "d"})
    );
    for (parameters, expected) in [
        (json!({name: "key"}), "needs both"),
        (
            json!({name: "key", namespace: "${volumesnapshot.name}"}),
            "invalid tokens",
        ),
        (
            json!({name: "${volumesnapshot.name", namespace: "d"}),
            "no end of a word",
        ),
        (json!({name: "Key", namespace: "d"}), "valid secret name"),
    ] {
        cluster.classes[1]["parameters"] = parameters;
        assert!(cluster.error().contains(expected), "{}", cluster.error());
    }
}
