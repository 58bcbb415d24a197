use json_tree::Value;
use resource_kinds::annotations::VOLUME_REPLICATION;

use super::*;

fn volume(change: Value) -> Value {
    let mut volume = json!({
        "metadata": {"name": "pvc-1", "annotations": {
            "pv.kubernetes.io/provisioned-by": "mainstay.dev/local"}},
        "spec": {"storageClassName": "local", "volumeMode": "Filesystem",
            "local": {"path": "/a/pvc-1"},
            "nodeAffinity": resource_kinds::storage::volume_move::affinity_to("one")},
    });
    json_patch(&mut volume, change);
    volume
}

fn json_patch(target: &mut Value, change: Value) {
    for (at, value) in change.as_object().expect("an object") {
        let (parent, key) = at.rsplit_once('/').expect("a pointer");
        target.pointer_mut(parent).expect("a parent")[key] = value.clone();
    }
}

fn node(change: Value) -> Value {
    let mut node = json!({"metadata": {"name": "two"}, "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    json_patch(&mut node, change);
    node
}

fn objects(volume: Value, node: Value, owner: Value) -> MoveObjects {
    let claim = json!({"metadata": {"name": "data-web-0"}, "status": {"phase": "Bound"}});
    let pod = json!({
        "metadata": {"name": "web-0", "namespace": "d", "uid": "u", "resourceVersion": "1",
            "ownerReferences": owner},
        "spec": {"nodeName": "one", "containers": [],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data-web-0"}}]}});
    let pod: Pod = json_tree::from_value(pod).expect("a pod");
    MoveObjects {
        claim: json_tree::from_value(claim).expect("a claim"),
        volume: Some(json_tree::from_value(volume).expect("a volume")),
        pods: vec![PodView::try_from(&pod).expect("a pod")],
        destination: json_tree::from_value(node).ok(),
        contents: Vec::new(),
    }
}

fn set() -> Value {
    json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "s",
        "controller": true}])
}

fn refusal(volume: Value, node: Value, owner: Value, to: &str) -> String {
    match decide(&objects(volume, node, owner), to) {
        Decision::Refused(why) => why.to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_volume_that_can_move_is_requested_once() {
    let same = || volume(json!({}));
    let decided = decide(&objects(same(), node(json!({})), set()), "two");
    let from = "one".to_owned();
    assert_eq!(decided, Decision::Request { from });
    let record = VolumeMove::request("a1", "one", "two");
    let moving = |record: &VolumeMove| {
        let mut volume = same();
        volume["metadata"]["annotations"][VOLUME_MOVE] = json!(record.to_text());
        volume
    };
    let again = objects(moving(&record), node(json!({})), set());
    assert_eq!(decide(&again, "two"), Decision::UnderWay);
    assert!(
        matches!(decide(&again, "three"), Decision::Refused(why) if why.to_string().contains("two"))
    );
    let mut cow = same();
    cow["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"] =
        json!("mainstay.dev/local-cow");
    let decided = decide(&objects(cow, node(json!({})), set()), "two");
    assert!(matches!(decided, Decision::Request { .. }), "{decided:?}");
    let failed = objects(
        moving(&record.in_stage(MoveStage::Failed)),
        node(json!({})),
        set(),
    );
    assert!(matches!(decide(&failed, "two"), Decision::Request { .. }));
}

#[test]
fn a_refusal_names_its_reason() {
    let same = || volume(json!({}));
    let ready = || node(json!({}));
    let mut without_class = same();
    without_class["metadata"]["annotations"] = json!({});
    let not_ready = node(json!({"/status/conditions": []}));
    let cordoned = node(json!({"/spec/unschedulable": true}));
    let block = volume(json!({"/spec/volumeMode": "Block"}));
    for (volume, node, owner, to, expected) in [
        (
            without_class,
            ready(),
            set(),
            "two",
            "only volumes of the classes local",
        ),
        (block, ready(), set(), "two", "block device"),
        (same(), ready(), set(), "one", "already"),
        (same(), Value::Null, set(), "two", "does not exist"),
        (same(), not_ready, set(), "two", "not ready"),
        (same(), cordoned, set(), "two", "cordoned"),
        (same(), ready(), json!([]), "two", "no controller"),
    ] {
        let reason = refusal(volume, node, owner, to);
        assert!(reason.contains(expected), "{reason}");
    }
}

// docs/storage.md: the refusal states how to continue.
#[test]
fn a_volume_with_snapshots_or_a_replica_is_not_moved() {
    let mut moving = objects(volume(json!({})), node(json!({})), set());
    let name = moving
        .volume
        .as_ref()
        .and_then(|volume| volume.metadata.name.clone());
    let content = json!({"metadata": {"name": "snapcontent-1"}, "spec": {
        "source": {"volumeHandle": name},
        "volumeSnapshotRef": {"namespace": "d", "name": "monday"}}});
    moving.contents = vec![json_tree::from_value(content).expect("a content")];
    let refused = decide(&moving, "two");
    let says = |why: &str| why.contains("d/monday") && why.contains("make a claim from it");
    assert!(
        matches!(&refused, Decision::Refused(why) if says(&why.to_string())),
        "{refused:?}"
    );
    let mut replicated = volume(json!({}));
    let record = json!({"epoch": 1, "primary": "one", "replica": "three", "intervalSeconds": 10,
        "stage": "Replicating"});
    replicated["metadata"]["annotations"][VOLUME_REPLICATION] = json!(record.to_string());
    let why = refusal(replicated, node(json!({})), set(), "two");
    assert!(why.contains("has a replica"), "{why}");
}

#[test]
fn a_stage_is_shown_with_its_reason() {
    let record = VolumeMove::request("a1", "one", "two");
    let waiting = VolumeMove {
        message: Some("pod \"web-0\" on node \"one\" ends".to_owned()),
        ..record.in_stage(MoveStage::Stopping)
    };
    let line = "Stopping: the pods of the claim end. Waiting: pod \"web-0\" on node \"one\" ends.";
    assert_eq!(progress(&waiting, "c"), Progress::Waiting(line.to_owned()));
    let failed = record.abandoned("no room").in_stage(MoveStage::Failed);
    assert!(matches!(progress(&failed, "c"), Progress::Failed(_)));
    let moved = progress(&record.in_stage(MoveStage::Moved), "c");
    assert!(matches!(moved, Progress::Moved(line) if line.contains("two")));
}
