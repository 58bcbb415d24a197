//! Rules of all calls, and of Identity (csi.md).

use super::*;

// csi.md 1.1
#[tokio::test(flavor = "multi_thread")]
async fn each_required_field_is_missed() {
    let cluster = Cluster::new();
    let stage = cluster.attached("v", 7).await;
    let id = &stage["volume_id"];
    let publish = publication(&stage, "pod");
    let whole: &[(&str, Value, &[&str])] = &[
        (
            "CreateVolume",
            create("w", 7),
            &["name", "volume_capabilities"],
        ),
        ("DeleteVolume", json!({"volume_id": id}), &["volume_id"]),
        (
            "ControllerPublishVolume",
            attach("v", "n1", 7),
            &["volume_id", "node_id", "volume_capability"],
        ),
        (
            "ControllerUnpublishVolume",
            json!({"volume_id": id, "node_id": "n1"}),
            &["volume_id"],
        ),
        (
            "ValidateVolumeCapabilities",
            json!({"volume_id": id, "volume_capabilities": [capability(7)]}),
            &["volume_id", "volume_capabilities"],
        ),
        (
            "ControllerGetVolume",
            json!({"volume_id": id}),
            &["volume_id"],
        ),
        (
            "ControllerExpandVolume",
            json!({"volume_id": id, "capacity_range": {"required_bytes": MIB}}),
            &["volume_id", "capacity_range"],
        ),
        (
            "ControllerModifyVolume",
            json!({"volume_id": id}),
            &["volume_id"],
        ),
        (
            "CreateSnapshot",
            json!({"name": "s", "source_volume_id": id}),
            &["name", "source_volume_id"],
        ),
        (
            "DeleteSnapshot",
            json!({"snapshot_id": "s"}),
            &["snapshot_id"],
        ),
        (
            "NodeStageVolume",
            stage.clone(),
            &["volume_id", "staging_target_path", "volume_capability"],
        ),
        (
            "NodeUnstageVolume",
            json!({"volume_id": id, "staging_target_path": "/kubelet/stage"}),
            &["volume_id", "staging_target_path"],
        ),
        (
            "NodePublishVolume",
            publish,
            &["volume_id", "target_path", "volume_capability"],
        ),
        (
            "NodeUnpublishVolume",
            json!({"volume_id": id, "target_path": "/kubelet/pod"}),
            &["volume_id", "target_path"],
        ),
        (
            "NodeGetVolumeStats",
            json!({"volume_id": id, "volume_path": "/kubelet/pod"}),
            &["volume_id", "volume_path"],
        ),
        (
            "NodeExpandVolume",
            json!({"volume_id": id, "volume_path": "/kubelet/pod"}),
            &["volume_id", "volume_path"],
        ),
    ];
    for (method, request, fields) in whole {
        for field in *fields {
            let without = with(request, field, Value::Null);
            cluster.check(method, without, INVALID_ARGUMENT).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_all_calls() {
    let cluster = Cluster::new();
    // csi.md 1.2
    let unknown = with(&create("v", 7), "parameters", json!({"colour": "blue"}));
    cluster
        .check("CreateVolume", unknown, INVALID_ARGUMENT)
        .await;
    let bad = [
        json!({"access_mode": {"mode": 7}}),
        json!({"mount": {}}),
        json!({"mount": {}, "block": {}, "access_mode": {"mode": 7}}),
        json!({"mount": {}, "access_mode": {"mode": 4}}),
        json!({"mount": {"fs_type": "fat"}, "access_mode": {"mode": 7}}),
    ];
    for capability in bad {
        let request = with(&create("v", 7), "volume_capabilities", json!([capability]));
        cluster
            .check("CreateVolume", request, INVALID_ARGUMENT)
            .await;
    }
    let listed = cluster.check("ListVolumes", json!({}), OK).await;
    assert_eq!(listed["entries"], Value::Null, "nothing was made");

    // csi.md 1.3
    let name = "n".repeat(128);
    cluster.check("CreateVolume", create(&name, 7), OK).await;
    cluster
        .check(
            "CreateVolume",
            create(&format!("{name}n"), 7),
            INVALID_ARGUMENT,
        )
        .await;
    let large = with(&create("v", 7), "secrets", json!({"k": "v".repeat(4096)}));
    cluster.check("CreateVolume", large, INVALID_ARGUMENT).await;
    for (flags, code) in [(vec!["x"; 4095], OK), (vec!["x"; 4096], INVALID_ARGUMENT)] {
        let capability = json!({"mount": {"mount_flags": flags}, "access_mode": {"mode": 7}});
        let request = with(
            &create("flags", 7),
            "volume_capabilities",
            json!([capability]),
        );
        cluster.check("CreateVolume", request, code).await;
    }

    // csi.md 1.4
    let id = cluster.volume("v", 7).await;
    cluster.fail("ControllerPublishVolume", "before", "slow-2000");
    let (slow, second) = tokio::join!(
        cluster.try_to("ControllerPublishVolume", attach(&id, "n1", 7)),
        async {
            // The first call has taken the order when it is in progress.
            while cluster.state().join("faults/fault.json").exists() {
                tokio::task::yield_now().await;
            }
            cluster
                .try_to("ControllerPublishVolume", attach(&id, "n1", 7))
                .await
        }
    );
    assert_eq!((slow.0, second.0), (OK, ABORTED), "{second:?}");

    // csi.md 1.5
    cluster
        .check("ControllerGetSnapshot", json!({}), UNIMPLEMENTED)
        .await;
    let elsewhere = cluster.nodes[0]
        .call("Controller/ListVolumes", &json!({}))
        .await;
    assert_eq!(
        elsewhere.expect_err("a node is no controller").0,
        UNIMPLEMENTED
    );

    // csi.md 1.7
    let secret = with(
        &create("secret", 7),
        "secrets",
        json!({"password": "open sesame"}),
    );
    cluster.check("CreateVolume", secret, OK).await;
    let lines = journal(&cluster.state()).expect("the journal");
    let all = json!(lines).to_string();
    assert!(all.contains("password") && !all.contains("sesame"), "{all}");
}

/// csi.md 1.6: each call of a volume's life dies at each instant, and is repeated.
#[tokio::test(flavor = "multi_thread")]
async fn a_life_in_which_every_call_dies_at_every_instant() {
    let cluster = Cluster::new();
    let id = cluster.volume("v", 7).await;
    let attachment = cluster
        .check("ControllerPublishVolume", attach(&id, "n1", 7), OK)
        .await;
    cluster
        .check(
            "ControllerUnpublishVolume",
            json!({"volume_id": id, "node_id": "n1"}),
            OK,
        )
        .await;
    cluster
        .check("DeleteVolume", json!({"volume_id": id}), OK)
        .await;
    let stage = json!({"volume_id": id, "staging_target_path": "/kubelet/stage",
        "volume_capability": capability(7), "publish_context": attachment["publish_context"],
        "volume_context": {"name": "v"}});
    let grown = json!({"required_bytes": 2 * MIB});
    let life = [
        ("CreateVolume", create("v", 7)),
        ("ControllerPublishVolume", attach(&id, "n1", 7)),
        ("NodeStageVolume", stage.clone()),
        ("NodePublishVolume", publication(&stage, "pod")),
        (
            "ControllerExpandVolume",
            json!({"volume_id": id, "capacity_range": grown}),
        ),
        (
            "NodeExpandVolume",
            json!({"volume_id": id, "volume_path": "/kubelet/pod", "capacity_range": grown}),
        ),
        (
            "ControllerModifyVolume",
            json!({"volume_id": id, "mutable_parameters": {"iops": "5"}}),
        ),
        (
            "CreateSnapshot",
            json!({"name": "s", "source_volume_id": id}),
        ),
        (
            "NodeUnpublishVolume",
            json!({"volume_id": id, "target_path": "/kubelet/pod"}),
        ),
        (
            "NodeUnstageVolume",
            json!({"volume_id": id, "staging_target_path": "/kubelet/stage"}),
        ),
        (
            "ControllerUnpublishVolume",
            json!({"volume_id": id, "node_id": "n1"}),
        ),
        ("DeleteVolume", json!({"volume_id": id})),
    ];
    let before = cluster.events("mounted");
    for (method, request) in &life {
        for at in ["before", "middle", "after"] {
            cluster.fail(method, at, "die");
            let (code, words) = cluster.try_to(method, request.clone()).await;
            let happened = !cluster.state().join("faults/fault.json").exists();
            // A repetition may have nothing left to do between its steps.
            assert_eq!(
                code,
                if happened { BROKEN } else { OK },
                "{method} {at}: {words}"
            );
        }
        drop(std::fs::remove_file(
            cluster.state().join("faults/fault.json"),
        ));
        cluster.fail(method, "before", "repeat");
        cluster.check(method, request.clone(), OK).await;
    }
    assert_eq!(
        cluster.events("mounted") - before,
        2,
        "one mount to stage, one to publish"
    );
    assert_eq!(cluster.events("mounted"), cluster.events("unmounted"));
    let uses = std::fs::read_dir(cluster.state().join("uses"))
        .expect("the uses")
        .count();
    assert_eq!(uses, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_identity() {
    let cluster = Cluster::new();
    // csi.md 2.1
    let info = cluster.check("GetPluginInfo", json!({}), OK).await;
    assert_eq!(
        (&info["name"], &info["vendor_version"]),
        (&json!(NAME), &json!("1.0"))
    );
    // csi.md 2.2
    let capabilities = cluster
        .check("GetPluginCapabilities", json!({}), OK)
        .await
        .to_string();
    for capability in [
        r#"{"service":{"type":1}}"#,
        r#"{"service":{"type":2}}"#,
        "volume_expansion",
    ] {
        assert!(capabilities.contains(capability), "{capabilities}");
    }
    // csi.md 2.3
    let ready = cluster.check("Probe", json!({}), OK).await;
    assert_eq!(ready["ready"], true);
}
