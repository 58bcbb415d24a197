//! Rules of volumes on nodes (csi.md).

use std::path::Path;
use std::time::Duration;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_staging() {
    let cluster = Cluster::new();
    let stage = cluster.attached("v", 7).await;
    let id = &stage["volume_id"];
    let method = "NodeStageVolume";
    // csi.md 6.2
    cluster
        .check(
            method,
            with(&stage, "volume_id", json!("vol-none")),
            NOT_FOUND,
        )
        .await;
    cluster
        .check_on(1, method, stage.clone(), FAILED_PRECONDITION)
        .await;
    // csi.md 6.3
    for context in ["publish_context", "volume_context"] {
        cluster
            .check(method, with(&stage, context, json!({})), INVALID_ARGUMENT)
            .await;
    }
    // csi.md 6.5
    let publish = publication(&stage, "pod");
    cluster
        .check("NodePublishVolume", publish.clone(), FAILED_PRECONDITION)
        .await;
    // csi.md 6.1
    for _ in 0..2 {
        cluster.check(method, stage.clone(), OK).await;
    }
    let changed = with(&stage, "volume_capability", capability(5));
    cluster.check(method, changed, ALREADY_EXISTS).await;
    let without = with(&publish, "staging_target_path", Value::Null);
    cluster
        .check("NodePublishVolume", without, FAILED_PRECONDITION)
        .await;
    // csi.md 6.4
    cluster.check("NodePublishVolume", publish, OK).await;
    let unstage = json!({"volume_id": id, "staging_target_path": "/kubelet/stage"});
    cluster
        .check("NodeUnstageVolume", unstage.clone(), FAILED_PRECONDITION)
        .await;
    let unpublish = json!({"volume_id": id, "target_path": "/kubelet/pod"});
    cluster.check("NodeUnpublishVolume", unpublish, OK).await;
    for _ in 0..2 {
        cluster
            .check("NodeUnstageVolume", unstage.clone(), OK)
            .await;
    }
    assert_eq!(
        (cluster.events("mounted"), cluster.events("unmounted")),
        (2, 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_publishing() {
    // csi.md 6.7
    for (mode, second) in [
        (1, FAILED_PRECONDITION),
        (6, FAILED_PRECONDITION),
        (7, OK),
        (5, OK),
    ] {
        let cluster = Cluster::new();
        let stage = cluster.attached("v", mode).await;
        let id = &stage["volume_id"];
        cluster.check("NodeStageVolume", stage.clone(), OK).await;
        let publish = publication(&stage, "one");
        // csi.md 6.8
        let nowhere = publication(&stage, "none/one");
        cluster
            .check("NodePublishVolume", nowhere, FAILED_PRECONDITION)
            .await;
        // csi.md 6.6
        for _ in 0..2 {
            cluster
                .check("NodePublishVolume", publish.clone(), OK)
                .await;
        }
        let read_only = with(&publish, "readonly", json!(true));
        cluster
            .check("NodePublishVolume", read_only, ALREADY_EXISTS)
            .await;
        // csi.md 6.9
        let second_target = with(&publication(&stage, "two"), "readonly", json!(true));
        cluster
            .check("NodePublishVolume", second_target, second)
            .await;
        let here = |target: &str| cluster.dir.path().join("n1").join(target);
        std::fs::write(here("one/file"), "content").expect("write");
        if second == OK {
            assert_eq!(
                std::fs::read_to_string(here("two/file")).expect("read"),
                "content"
            );
            std::fs::write(here("two/file"), "x").expect_err("it is read-only");
        }
        // csi.md 6.10
        for target in ["one", "one", "two"] {
            let path = format!("/kubelet/{target}");
            let request = json!({"volume_id": id, "target_path": path});
            cluster.check("NodeUnpublishVolume", request, OK).await;
            assert!(!here(target).exists(), "{target} stays");
        }
        let request = json!({"volume_id": id, "staging_target_path": "/kubelet/stage"});
        cluster.check("NodeUnstageVolume", request, OK).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_volumes_in_use() {
    let cluster = Cluster::new();
    let stage = cluster.attached("v", 7).await;
    let id = &stage["volume_id"];
    cluster.check("NodeStageVolume", stage.clone(), OK).await;
    cluster
        .check("NodePublishVolume", publication(&stage, "pod"), OK)
        .await;
    // csi.md 6.11
    let at = |path: &str| json!({"volume_id": id, "volume_path": path});
    let grown = |path: &str, bytes: i64| {
        with(
            &at(path),
            "capacity_range",
            json!({"required_bytes": bytes}),
        )
    };
    cluster
        .check("NodeGetVolumeStats", at("/kubelet/none"), NOT_FOUND)
        .await;
    cluster
        .check("NodeExpandVolume", at("/kubelet/none"), NOT_FOUND)
        .await;
    let stats = cluster
        .check("NodeGetVolumeStats", at("/kubelet/pod"), OK)
        .await;
    assert_eq!(stats["usage"][0]["total"], MIB, "{stats}");
    // csi.md 6.12
    cluster
        .check(
            "NodeExpandVolume",
            grown("/kubelet/pod", 2 * MIB),
            OUT_OF_RANGE,
        )
        .await;
    let request = json!({"volume_id": id, "capacity_range": {"required_bytes": 2 * MIB}});
    cluster.check("ControllerExpandVolume", request, OK).await;
    for _ in 0..2 {
        let response = cluster
            .check("NodeExpandVolume", grown("/kubelet/pod", 2 * MIB), OK)
            .await;
        assert_eq!(response["capacity_bytes"], 2 * MIB);
    }
    // csi.md 6.13
    let info = cluster.check("NodeGetInfo", json!({}), OK).await;
    assert_eq!(
        info,
        json!({"node_id": "n1", "max_volumes_per_node": 2,
        "accessible_topology": {"segments": {ZONE: "a"}}})
    );
    let request = json!({"volume_id": id, "target_path": "/kubelet/pod"});
    cluster.check("NodeUnpublishVolume", request, OK).await;
    let request = json!({"volume_id": id, "staging_target_path": "/kubelet/stage"});
    cluster.check("NodeUnstageVolume", request, OK).await;
}

/// csi.md 6.8: the target of a device is a file.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_published_and_grows() {
    use std::os::unix::fs::FileTypeExt as _;
    let cluster = Cluster::new();
    let request = with(&create("v", 7), "volume_capabilities", json!([block()]));
    let created = cluster.check("CreateVolume", request, OK).await;
    let id = created["volume"]["volume_id"].as_str().expect("an id");
    let request = with(&attach(id, "n1", 7), "volume_capability", block());
    let attachment = cluster.check("ControllerPublishVolume", request, OK).await;
    let stage = json!({"volume_id": id, "staging_target_path": "/kubelet/stage",
        "volume_capability": block(), "publish_context": attachment["publish_context"],
        "volume_context": {"name": "v"}});
    for _ in 0..2 {
        cluster.check("NodeStageVolume", stage.clone(), OK).await;
        cluster
            .check("NodePublishVolume", publication(&stage, "device"), OK)
            .await;
    }
    let device = cluster.dir.path().join("n1/device");
    let kind = std::fs::metadata(&device).expect("the device").file_type();
    assert!(kind.is_block_device());
    let size = || {
        let mut file = std::fs::File::open(&device).expect("the device");
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).expect("its size")
    };
    assert_eq!(size(), 1 << 20);
    let range = json!({"required_bytes": 2 * MIB});
    let request = json!({"volume_id": id, "capacity_range": range});
    cluster.check("ControllerExpandVolume", request, OK).await;
    let request =
        json!({"volume_id": id, "volume_path": "/kubelet/device", "capacity_range": range});
    cluster.check("NodeExpandVolume", request, OK).await;
    assert_eq!(size(), 2 << 20);
    let request = json!({"volume_id": id, "target_path": "/kubelet/device"});
    cluster.check("NodeUnpublishVolume", request, OK).await;
    assert!(!device.exists());
    let request = json!({"volume_id": id, "staging_target_path": "/kubelet/stage"});
    cluster.check("NodeUnstageVolume", request, OK).await;
    // Tests of other processes open every device for a moment, and it is detached after that.
    let limit = tokio::time::Instant::now() + Duration::from_secs(60);
    while has_device(id) {
        assert!(tokio::time::Instant::now() < limit, "the loop device stays");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether a loop device has a volume's file.
fn has_device(id: &str) -> bool {
    let devices = std::fs::read_dir("/sys/block").expect("the devices");
    devices.flatten().any(|device| {
        let backing = device.path().join(Path::new("loop/backing_file"));
        std::fs::read_to_string(backing).is_ok_and(|file| file.trim().ends_with(id))
    })
}
