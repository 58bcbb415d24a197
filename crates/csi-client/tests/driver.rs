//! The client against a driver of another codec. Needs root: the driver mounts.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use csi_client::{
    AccessMode, AccessType, CsiError, Driver, ExpandRequest, Finality, Plugin, PublishRequest,
    StageRequest, Usage, VolumeCapability,
};
use csi_test_driver::{Failure, NodeDriver, Settings, TestDriver, serve_registration};

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn settings(dir: &Path) -> Settings {
    let volumes = dir.join("volumes");
    std::fs::create_dir_all(volumes.join("v1")).expect("the directory of a volume");
    Settings {
        name: "test.csi.example.com".to_owned(),
        node_id: "node-ä".to_owned(),
        stages: true,
        expands: true,
        measures: true,
        volumes_max: 1 << 40,
        topology: texts(&[("example.com/zone", "z1")]),
        volumes,
        root: (PathBuf::from("/var/lib/kubelet"), dir.to_owned()),
    }
}

fn capability() -> VolumeCapability {
    VolumeCapability {
        access: AccessType::Mount {
            fs_type: "ext4".to_owned(),
            flags: vec!["noatime".to_owned()],
            group: None,
        },
        mode: AccessMode::SingleNodeSingleWriter,
    }
}

/// A driver that runs, and the client of it.
fn serving(dir: &Path) -> (Arc<NodeDriver>, Driver, TestDriver) {
    let node = Arc::new(NodeDriver::new(settings(dir)));
    let serving = TestDriver::serve(&dir.join("csi.sock"), node.clone()).expect("serve");
    let driver = Driver {
        name: "test.csi.example.com".to_owned(),
        socket: serving.socket().to_owned(),
    };
    (node, driver, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_staged_published_and_both_are_undone() {
    let dir = tempfile::tempdir().unwrap();
    let (node, driver, _serving) = serving(dir.path());
    check_info(&driver).await;
    std::fs::create_dir_all(dir.path().join("stage")).unwrap();
    std::fs::create_dir_all(dir.path().join("pod")).unwrap();
    let stage = check_stage(&driver).await;
    let publication = check_publication(&node, &driver, &stage).await;
    check_expansion(&node, &driver, &publication).await;
    check_stats(&driver, &publication, dir.path()).await;
    let busy = driver.unstage("v1", &stage.staging_path).await.unwrap_err();
    assert!(busy.to_string().contains("still published"), "{busy}");
    for _ in 0..2 {
        let target = &publication.target_path;
        driver.unpublish("v1", target).await.unwrap();
    }
    for _ in 0..2 {
        driver.unstage("v1", &stage.staging_path).await.unwrap();
    }
    assert_eq!(node.mounts_of("v1"), 0);
    let calls = node.calls();
    assert_eq!(calls[2].secrets, texts(&[("key", "secret")]));
    assert_eq!(calls[2].publish_context, texts(&[("device", "sdb")]));
    assert_eq!((calls[2].mode, calls[4].mode), (6, 6));
    assert_eq!(calls[4].context.len(), 2);
}

async fn check_info(driver: &Driver) {
    assert_eq!(driver.info().await.unwrap().name, driver.name);
    let info = driver.node_info().await.unwrap();
    assert_eq!(
        (info.node_id.as_str(), info.volumes_max),
        ("node-ä", Some(i32::MAX))
    );
    assert_eq!(info.topology, texts(&[("example.com/zone", "z1")]));
    let can = driver.node_capabilities().await.unwrap();
    assert!(can.stage && can.stats && can.condition && can.expand && !can.mount_group);
}

/// Returns the request for an existing volume, which is not staged yet.
async fn check_stage(driver: &Driver) -> StageRequest {
    let mut stage = StageRequest {
        volume_id: "none".to_owned(),
        publish_context: texts(&[("device", "sdb")]),
        staging_path: "/var/lib/kubelet/stage".to_owned(),
        capability: capability(),
        secrets: texts(&[("key", "secret")]),
        volume_context: texts(&[("pool", "p")]),
    };
    let error = driver.stage(&stage).await.unwrap_err();
    assert!(
        error.is_not_found() && error.finality() == Finality::Final,
        "{error}"
    );
    stage.volume_id = "v1".to_owned();
    stage
}

/// Stages and publishes the volume. Returns the publication.
async fn check_publication(
    node: &NodeDriver,
    driver: &Driver,
    stage: &StageRequest,
) -> PublishRequest {
    let mut publication = PublishRequest {
        volume_id: "v1".to_owned(),
        publish_context: stage.publish_context.clone(),
        staging_path: Some(stage.staging_path.clone()),
        target_path: "/var/lib/kubelet/pod/mount".to_owned(),
        capability: capability(),
        read_only: false,
        secrets: BTreeMap::new(),
        volume_context: texts(&[("pool", "p"), ("csi.storage.k8s.io/pod.name", "a")]),
    };
    assert!(driver.publish(&publication).await.is_err());
    // An answer that is lost after the work: the call is repeated.
    node.fail_next("NodeStageVolume", Failure::DiesAfter);
    let lost = driver.stage(stage).await.unwrap_err();
    assert_eq!(lost.finality(), Finality::Uncertain, "{lost}");
    driver.stage(stage).await.unwrap();
    driver.publish(&publication).await.unwrap();
    publication.volume_context.clear();
    driver.publish(&publication).await.unwrap();
    assert_eq!(node.mounts_of("v1"), 2);
    publication
}

async fn check_expansion(node: &NodeDriver, driver: &Driver, publication: &PublishRequest) {
    let mut expansion = ExpandRequest {
        volume_id: "v1".to_owned(),
        volume_path: publication.target_path.clone(),
        staging_path: publication.staging_path.clone(),
        required_bytes: 1 << 33,
        capability: capability(),
        secrets: texts(&[("key", "grow")]),
    };
    for _ in 0..2 {
        driver.expand(&expansion).await.unwrap();
    }
    assert_eq!(node.size_of("v1"), 1 << 33);
    let calls = node.calls();
    let last = calls.last().unwrap();
    assert_eq!((last.size, last.mode), (1 << 33, 6));
    assert_eq!(last.secrets, texts(&[("key", "grow")]));
    expansion.volume_path = "/var/lib/kubelet/elsewhere".to_owned();
    let elsewhere = driver.expand(&expansion).await.unwrap_err();
    assert!(elsewhere.is_infeasible(), "{elsewhere}");
}

async fn check_stats(driver: &Driver, publication: &PublishRequest, dir: &Path) {
    let target = &publication.target_path;
    let staging = publication.staging_path.as_deref();
    let stats = driver.stats("v1", target, staging).await.unwrap();
    let usage = |total, used, available| {
        Some(Usage {
            total,
            used,
            available,
        })
    };
    assert_eq!(
        (stats.bytes, stats.inodes),
        (usage(1000, 400, 600), usage(9, 4, 5))
    );
    assert_eq!(stats.is_abnormal, Some(false));
    std::fs::write(dir.join("volumes/v1/broken"), "").unwrap();
    let stats = driver.stats("v1", target, staging).await.unwrap();
    assert_eq!(stats.is_abnormal, Some(true));
    let elsewhere = driver.stats("v1", "/var/lib/kubelet/elsewhere", None).await;
    assert!(elsewhere.unwrap_err().is_not_found());
}

/// Each answer that is no message is an error, after which a call can be repeated.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_message_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (node, driver, _serving) = serving(dir.path());
    let stage = StageRequest {
        volume_id: "v1".to_owned(),
        publish_context: BTreeMap::new(),
        staging_path: "/var/lib/kubelet/stage".to_owned(),
        capability: capability(),
        secrets: BTreeMap::new(),
        volume_context: BTreeMap::new(),
    };
    for method in [
        "GetPluginInfo",
        "NodeGetInfo",
        "NodeGetCapabilities",
        "NodeGetVolumeStats",
        "NodeStageVolume",
        "NodeUnstageVolume",
        "NodeUnpublishVolume",
    ] {
        node.fail_next(method, Failure::Nonsense);
        let result = match method {
            "GetPluginInfo" => driver.info().await.map(drop),
            "NodeGetInfo" => driver.node_info().await.map(drop),
            "NodeGetCapabilities" => driver.node_capabilities().await.map(drop),
            "NodeGetVolumeStats" => driver.stats("v1", "/pod", None).await.map(drop),
            "NodeStageVolume" => driver.stage(&stage).await,
            "NodeUnstageVolume" => driver.unstage("v1", "/stage").await,
            _ => driver.unpublish("v1", "/pod").await,
        };
        let error = result.unwrap_err();
        let words = format!("{method}: malformed answer");
        assert!(error.to_string().contains(&words), "{error}");
        assert_eq!(error.finality(), Finality::Uncertain, "{method}");
        assert!(!error.is_silence(), "{method}");
    }
}

#[tokio::test]
async fn a_driver_registers_and_is_told_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, statuses) = mpsc::channel();
    let socket = dir.path().join("reg.sock");
    let endpoint = Path::new("/var/lib/kubelet/plugins/t/csi.sock");
    let serving = serve_registration(&socket, "t.example.com", endpoint, move |text| {
        sender.send(text).unwrap();
    });
    let serving = serving.unwrap();
    let plugin = Plugin { socket };
    let info = plugin.info().await.unwrap();
    assert_eq!(
        (info.name.as_str(), info.endpoint.as_path()),
        ("t.example.com", endpoint)
    );
    plugin.notify(Ok(())).await.unwrap();
    plugin.notify(Err("no\nroom 100%")).await.unwrap();
    assert_eq!(statuses.recv().unwrap(), "");
    assert_eq!(statuses.recv().unwrap(), "no\nroom 100%");
    drop(serving);
    let error = plugin.info().await.unwrap_err();
    assert!(matches!(error, CsiError::Unreachable { .. }), "{error}");
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let plugin = Plugin {
        socket: dir.path().join("file"),
    };
    assert!(plugin.info().await.is_err());
}

/// The path of a socket has 107 bytes at most; the directories of a node and the name of a driver may be longer together.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_may_have_a_long_path() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("d".repeat(100)).join("n".repeat(63));
    std::fs::create_dir_all(&long).unwrap();
    let inside = std::fs::File::open(&long).unwrap();
    let bound = format!("/proc/self/fd/{}/csi.sock", inside.as_raw_fd());
    let node = Arc::new(NodeDriver::new(settings(dir.path())));
    let _serving = TestDriver::serve(Path::new(&bound), node).expect("serve");
    let driver = Driver {
        name: "test.csi.example.com".to_owned(),
        socket: long.join("csi.sock"),
    };
    assert_eq!(driver.info().await.unwrap().name, driver.name);
}
