use serde_json::{Value, json};

use super::*;

fn claim(change: Value) -> PersistentVolumeClaim {
    let mut claim = json!({
        "metadata": {"name": "data-web-0", "namespace": "default", "uid": "c1",
            "annotations": {STORAGE_PROVISIONER: "mainstay.dev/local", SELECTED_NODE: "n"}},
        "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}},
    });
    json_merge(&mut claim, &change);
    serde_json::from_value(claim).unwrap()
}

fn json_merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(patch) => {
            for (key, value) in patch {
                json_merge(&mut target[key.as_str()], value);
            }
        }
        other => *target = other.clone(),
    }
}

fn class(mode: &str) -> StorageClass {
    serde_json::from_value(json!({"metadata": {"name": "local"},
        "provisioner": "mainstay.dev/local", "volumeBindingMode": mode}))
    .unwrap()
}

fn asked(change: Value, mode: &str) -> Provisioning {
    provisioning(&claim(change), Some(&class(mode)), "n")
}

#[test]
fn a_claim_is_served_on_the_selected_node() {
    let late = "WaitForFirstConsumer";
    assert_eq!(asked(json!({}), late), Provisioning::Here);
    let select = |node: Value| json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
    assert_eq!(asked(select("other".into()), late), Provisioning::None);
    let mut unselected = claim(json!({}));
    unselected
        .metadata
        .annotations
        .as_mut()
        .unwrap()
        .remove(SELECTED_NODE);
    assert_eq!(
        provisioning(&unselected, Some(&class(late)), "n"),
        Provisioning::None
    );
    assert_eq!(
        provisioning(&unselected, Some(&class("Immediate")), "n"),
        Provisioning::Anywhere
    );
}

#[test]
fn others_claims_and_bound_ones_are_none_of_ours() {
    let by = json!({"metadata": {"annotations": {STORAGE_PROVISIONER: "example.org/nfs"}}});
    assert_eq!(asked(by, "Immediate"), Provisioning::None);
    assert_eq!(
        asked(json!({"spec": {"volumeName": "v"}}), "Immediate"),
        Provisioning::None
    );
    assert_eq!(
        provisioning(&claim(json!({})), None, "n"),
        Provisioning::None
    );
}

#[test]
fn directories_of_an_nfs_export_are_made_by_any_node() {
    let nfs: StorageClass = serde_json::from_value(json!({"metadata": {"name": "nfs"},
        "provisioner": "mainstay.dev/nfs", "parameters": {"server": "s", "path": "/srv"}}))
    .unwrap();
    let annotations = json!({STORAGE_PROVISIONER: "mainstay.dev/nfs"});
    let mut asked = claim(json!({"metadata": {"annotations": annotations}}));
    asked
        .metadata
        .annotations
        .as_mut()
        .unwrap()
        .remove(SELECTED_NODE);
    assert_eq!(
        provisioning(&asked, Some(&nfs), "n"),
        Provisioning::Anywhere
    );
    let spec = asked.spec.as_mut().unwrap();
    spec.volume_mode = Some("Block".to_owned());
    assert!(matches!(
        provisioning(&asked, Some(&nfs), "n"),
        Provisioning::Unsupported(_)
    ));
}

#[test]
fn what_cannot_be_made_is_refused() {
    let block = json!({"spec": {"volumeMode": "Block"}});
    assert_eq!(asked(block.clone(), "Immediate"), Provisioning::Here);
    let mut of_pool = class("Immediate");
    of_pool.provisioner = "mainstay.dev/local-cow".to_owned();
    let mut block = claim(block);
    let annotations = block.metadata.annotations.as_mut().unwrap();
    annotations.insert(STORAGE_PROVISIONER.to_owned(), of_pool.provisioner.clone());
    assert!(matches!(
        provisioning(&block, Some(&of_pool), "n"),
        Provisioning::Unsupported(_)
    ));
    let selector = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}});
    assert!(matches!(
        asked(selector, "Immediate"),
        Provisioning::Unsupported(_)
    ));
}

/// statefulset.md §11.7.
#[test]
fn the_volume_is_named_for_the_claim_and_tied_to_the_node() {
    let made = volume(
        &claim(json!({})),
        &class("Immediate"),
        "n",
        Path::new("/v/pvc-c1"),
    );
    let made = serde_json::to_value(made).unwrap();
    assert_eq!(made["metadata"]["name"], "pvc-c1");
    assert_eq!(
        made["metadata"]["annotations"][PROVISIONED_BY],
        "mainstay.dev/local"
    );
    assert_eq!(made["spec"]["local"]["path"], "/v/pvc-c1");
    assert_eq!(made["spec"]["persistentVolumeReclaimPolicy"], "Delete");
    assert_eq!(made["spec"]["claimRef"]["uid"], "c1");
    assert_eq!(made["spec"]["capacity"]["storage"], "1Gi");
    let term = &made["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0];
    assert_eq!(term["matchExpressions"][0]["values"], json!(["n"]));
}

#[test]
fn a_block_device_is_made_of_its_like_only() {
    let files = claim(json!({}));
    let block = claim(json!({"spec": {"volumeMode": "Block"}}));
    let made = volume(
        &block,
        &class("Immediate"),
        "n",
        Path::new("/v/pvc-c1/image"),
    );
    assert_eq!(
        made.spec.as_ref().unwrap().volume_mode.as_deref(),
        Some("Block")
    );
    assert_eq!(volume_mode(&made), VolumeMode::Block);
    assert_eq!(other_mode(&block, Some("Block")), None);
    assert_eq!(other_mode(&files, None), None);
    assert!(other_mode(&block, Some("Filesystem")).is_some());
    assert!(other_mode(&files, Some("Block")).is_some());
}

/// statefulset.md §11.8.
#[test]
fn only_released_volumes_with_policy_delete_are_removed() {
    let made = volume(
        &claim(json!({})),
        &class("Immediate"),
        "n",
        Path::new("/v/pvc-c1"),
    );
    let with = |phase: &str, policy: &str, going: bool| {
        let mut made = serde_json::to_value(&made).unwrap();
        made["status"]["phase"] = phase.into();
        made["spec"]["persistentVolumeReclaimPolicy"] = policy.into();
        if going {
            made["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        reclaim_action(&serde_json::from_value(made).unwrap(), "n")
    };
    assert_eq!(with("Bound", "Delete", false), ReclaimAction::Keep);
    assert_eq!(with("Bound", "Delete", true), ReclaimAction::Keep);
    // findings R16
    assert_eq!(with("Available", "Delete", false), ReclaimAction::Keep);
    assert_eq!(with("Available", "Delete", true), ReclaimAction::Remove);
    assert_eq!(
        with("Available", "Retain", true),
        ReclaimAction::RemoveFinalizer
    );
    assert_eq!(with("Released", "Retain", false), ReclaimAction::Keep);
    assert_eq!(
        with("Released", "Retain", true),
        ReclaimAction::RemoveFinalizer
    );
    assert_eq!(with("Released", "Delete", false), ReclaimAction::Remove);
    assert_eq!(with("Failed", "Delete", true), ReclaimAction::Remove);
    let mut foreign = made.clone();
    foreign.metadata.annotations = None;
    foreign.status.get_or_insert_default().phase = Some("Released".to_owned());
    assert_eq!(reclaim_action(&foreign, "n"), ReclaimAction::Keep);
    let mut elsewhere = made;
    elsewhere.status.get_or_insert_default().phase = Some("Released".to_owned());
    assert_eq!(reclaim_action(&elsewhere, "other"), ReclaimAction::Keep);
}
