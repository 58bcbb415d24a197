//! Drivers and registrars that fail, hang, exit, or send invalid responses.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use csi_test_driver::{Failure, Registrant, TestDriver};
use json_tree::json;
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::api::storage::v1::CSINode;
use kube_api_client::{Api, DeleteParams};
use node_agent::OnShutdown;
use tokio::net::UnixListener;

use crate::csi::{
    CONFIGURED, DRIVER, Disks, claim, has_grown, key, node_user, started, until, with,
};
use crate::harness::{Harness, NODE};

fn endpoint() -> String {
    let path = Path::new(CONFIGURED).join("plugins/t/csi.sock");
    path.display().to_string()
}

/// A registrar that records the node's messages.
struct Registrar {
    messages: Arc<Mutex<Vec<String>>>,
    socket: PathBuf,
    _serving: TestDriver,
}

impl Registrar {
    fn start(disks: &Disks, name: &str, registrant: Registrant) -> Self {
        let socket = disks.kubelet.join("plugins_registry").join(name);
        let messages = Arc::<Mutex<Vec<String>>>::default();
        let sink = messages.clone();
        let serving = registrant.serve(&socket, move |words| sink.lock().unwrap().push(words));
        Self {
            messages,
            socket,
            _serving: serving.unwrap(),
        }
    }

    /// Waits until the registrar has received a message that contains `words`.
    async fn hears(&self, words: &str) {
        until(words, || async {
            let messages = self.messages.lock().unwrap();
            let is_match = |text: &String| match words {
                "" => text.is_empty(),
                words => text.contains(words),
            };
            messages.iter().any(is_match).then_some(())
        })
        .await;
    }

    fn stop(self) {
        std::fs::remove_file(&self.socket).unwrap();
    }
}

/// The drivers in the CSINode, with the UID of the Node that owns the CSINode.
async fn listed_drivers(harness: &Harness) -> (Vec<String>, Option<String>) {
    let nodes: Api<CSINode> = Api::all(harness.client.clone());
    let Some(csi_node) = nodes.get_opt(NODE).await.unwrap() else {
        return (Vec::new(), None);
    };
    let owners = csi_node.metadata.owner_references.unwrap_or_default();
    let uid = owners.into_iter().next().map(|owner| owner.uid);
    let drivers = csi_node.spec.drivers.into_iter();
    (drivers.map(|driver| driver.name).collect(), uid)
}

pub async fn a_registrar_that_is_refused_hears_why() {
    let harness = started("csi-refused").await;
    let mut disks = Disks::new(&harness);
    let driver = |name: &str| Registrant::driver(name, &endpoint());
    let old = driver("old.example.com").with_versions(&["0.3.0"]);
    let device = driver("gpu.example.com").with_kind("OtherPlugin");
    let outside = Registrant::driver("out.example.com", "/run/csi.sock");
    std::fs::write(disks.kubelet.join("plugins_registry/file.sock"), "x").unwrap();
    let silent = driver("silent.example.com").with_versions(&[]);
    let new = driver("new.example.com").with_versions(&["2.0.0", "10.1"]);
    std::fs::write(disks.kubelet.join("plugins/t/file"), "x").unwrap();
    let file = Path::new(CONFIGURED)
        .join("plugins/t/file")
        .display()
        .to_string();
    let file = Registrant::driver("file.example.com", &file);
    let refused = [
        (old, "versions 0.3.0 of CSI, but only 1.x is supported"),
        (
            new,
            "versions 2.0.0, 10.1 of CSI, but only 1.x is supported",
        ),
        (silent, "no version of CSI, but only 1.x is supported"),
        (file, "connect to "),
        (Registrant::Nonsense, "malformed answer"),
        (Registrant::Error(13), "on purpose"),
        (
            device,
            "\"OtherPlugin\" is no plugin for volumes or devices",
        ),
        (driver("../escape"), "\"../escape\" is no name of a driver"),
        (outside, "is not below /var/lib/kubelet"),
        (driver("none.example.com"), "connect to "),
    ];
    for (number, (registrant, words)) in refused.into_iter().enumerate() {
        let registrar = Registrar::start(&disks, &format!("bad-{number}.sock"), registrant);
        registrar.hears(words).await;
        registrar.stop();
    }

    disks.start();
    until("the driver is registered", || async {
        (listed_drivers(&harness).await.0 == [DRIVER]).then_some(())
    })
    .await;
    let second = Registrar::start(&disks, "second.sock", driver(DRIVER));
    let refusal = format!("another driver with the name {DRIVER} is registered already");
    second.hears(&refusal).await;
    // The first driver is removed, so that the second driver can register.
    std::fs::remove_file(disks.kubelet.join("plugins_registry/t-reg.sock")).unwrap();
    second.hears("").await;
    until("the driver is registered by the second", || async {
        (listed_drivers(&harness).await.0 == [DRIVER]).then_some(())
    })
    .await;
    second.stop();
    std::fs::write(disks.kubelet.join("plugins_registry/t-reg.sock"), "").unwrap();
    disks.end(harness).await;
}

pub async fn a_socket_that_says_nothing_holds_up_no_other() {
    let harness = started("csi-silent").await;
    let mut disks = Disks::new(&harness);
    let silent = disks.kubelet.join("plugins_registry/a.sock");
    let listener = UnixListener::bind(&silent).unwrap();
    let (connection, _) = listener.accept().await.unwrap();
    disks.start();
    until("the other driver is registered", || async {
        (listed_drivers(&harness).await.0 == [DRIVER]).then_some(())
    })
    .await;
    // The node still waits for the response: the socket has the request of the node, and is open.
    let mut bytes = [0; 4096];
    let mut is_open = true;
    while let Ok(count) = connection.try_read(&mut bytes) {
        is_open = count > 0;
        if !is_open {
            break;
        }
    }
    assert!(is_open, "the silent socket was given up first");
    drop((connection, listener));
    std::fs::remove_file(silent).unwrap();
    disks.end(harness).await;
}

pub async fn the_node_shows_the_drivers_that_are_registered_and_no_others() {
    let mut harness = Harness::new("csi-shown").await;
    harness.user = node_user();
    let mut disks = Disks::new(&harness);
    disks.start();
    harness.start(OnShutdown::LeavePods).await;
    let nodes: Api<Node> = Api::all(harness.client.clone());
    let is_shown = async |drivers: &[&str]| {
        until("the node shows its drivers", || async {
            let node = nodes.get_opt(NODE).await.unwrap()?.metadata;
            let (drivers_listed, owner) = listed_drivers(&harness).await;
            let annotations = node.annotations.unwrap_or_default();
            let ids = annotations.get("csi.volume.kubernetes.io/nodeid");
            let ids = ids.is_some_and(|ids| ids.contains(DRIVER));
            let labels = node.labels.unwrap_or_default();
            let has_labels = labels.contains_key("topology.example.com/zone");
            let is_new = owner == node.uid && has_labels;
            (is_new && drivers_listed == drivers && ids != drivers.is_empty()).then_some(node.uid)
        })
        .await
    };
    let first = is_shown(&[DRIVER]).await;
    nodes.delete(NODE, &DeleteParams::default()).await.unwrap();
    until("the Node is another one", || async {
        let node = nodes.get_opt(NODE).await.unwrap()?;
        (node.metadata.uid != first).then_some(())
    })
    .await;
    is_shown(&[DRIVER]).await;

    // The driver stops while no agent runs.
    harness.stop().await;
    disks.stop();
    harness.start(OnShutdown::StopPods).await;
    let nodes: Api<Node> = Api::all(harness.client.clone());
    until("no driver is shown", || async {
        let node = nodes.get(NODE).await.unwrap().metadata;
        let annotations = node.annotations.unwrap_or_default();
        let has_id = annotations.contains_key("csi.volume.kubernetes.io/nodeid");
        (listed_drivers(&harness).await.0.is_empty() && !has_id).then_some(())
    })
    .await;
    disks.start();
    until("the driver is shown again", || async {
        (listed_drivers(&harness).await.0 == [DRIVER]).then_some(())
    })
    .await;
    disks.end(harness).await;
}

/// Calls to a driver that sends invalid responses are repeated, for the node and for a volume.
pub async fn a_driver_that_answers_nonsense_is_asked_again() {
    let harness = started("csi-nonsense").await;
    let mut disks = Disks::new(&harness);
    key(&harness).await;
    let unattached = json!({"attachRequired": false});
    disks.driver_object(&harness, unattached).await;
    disks.claim(&harness, "v").await;
    disks.node.fail_next("NodeGetInfo", Failure::Nonsense);
    disks.start();
    std::fs::remove_file(disks.kubelet.join("plugins_registry/t-reg.sock")).unwrap();
    let registrar = Registrar::start(
        &disks,
        "talks.sock",
        Registrant::driver(DRIVER, &endpoint()),
    );
    registrar.hears("NodeGetInfo: malformed answer").await;
    registrar.hears("").await;
    disks.node.fail_next("NodeStageVolume", Failure::Nonsense);
    harness.pod("p", with(claim("v"), "true")).await;
    harness
        .event("p", "NodeStageVolume: malformed answer")
        .await;
    harness.ready("p").await;
    harness.delete("p").await;
    harness.wait_deleted("p").await;
    disks.free("v").await;
    registrar.stop();
    std::fs::write(disks.kubelet.join("plugins_registry/t-reg.sock"), "").unwrap();
    disks.end(harness).await;
}

/// A missing Secret is reported with its name, for each call that needs a Secret. The call succeeds when
/// the Secret exists.
pub async fn secrets_that_are_missing_are_named() {
    let harness = started("csi-secrets").await;
    let mut disks = Disks::new(&harness);
    let modes = json!({"volumeLifecycleModes": ["Persistent", "Ephemeral"],
        "attachRequired": false, "podInfoOnMount": true});
    disks.driver_object(&harness, modes).await;
    disks.claim(&harness, "v").await;
    disks.start();
    harness.pod("staged", with(claim("v"), "true")).await;
    let inline = json!({"csi": {"driver": DRIVER, "nodePublishSecretRef": {"name": "own"}}});
    harness.pod("published", with(inline, "true")).await;
    for (pod, secret) in [("staged", "key"), ("published", "own")] {
        let words = format!("secret \"default/{secret}\" not found");
        harness.event(pod, &words).await;
    }
    assert_eq!(disks.node.calls(), []);
    key(&harness).await;
    let secret = json!({"metadata": {"name": "own"}, "stringData": {"user": "o"}});
    harness.create::<Secret>(secret).await;
    harness.ready("staged").await;
    harness.ready("published").await;

    let secrets = harness.api::<Secret>();
    secrets
        .delete("key", &DeleteParams::default())
        .await
        .unwrap();
    disks.grown(&harness, "v", "2Mi").await;
    harness
        .event("staged", "secret \"default/key\" not found")
        .await;
    key(&harness).await;
    has_grown(&harness, "v", "2Mi").await;
    for pod in ["staged", "published"] {
        harness.delete(pod).await;
        harness.wait_deleted(pod).await;
    }
    disks.free("v").await;
    disks.end(harness).await;
}

pub async fn the_end_of_a_pod_touches_no_volume_of_others() {
    let harness = started("csi-own").await;
    let disks = Disks::with_claim(&harness, json!({"attachRequired": false})).await;
    disks.claim(&harness, "w").await;
    disks.node.fail_next("NodeStageVolume", Failure::HangsAfter);
    harness.pod("stuck", with(claim("v"), "true")).await;
    until("the driver hangs", || async {
        (disks.node.hanging() == 1).then_some(())
    })
    .await;
    harness.pod("other", with(claim("w"), "true")).await;
    harness.ready("other").await;
    harness.delete("other").await;
    harness.wait_deleted("other").await;
    until("the other volume is free", || async {
        (disks.calls("w") == ["Stage", "Publish", "Unpublish", "Unstage"]).then_some(())
    })
    .await;
    let calls = disks.calls("v");
    assert!(!calls.contains(&"Unstage".to_owned()), "{calls:?}");
    harness.delete("stuck").await;
    harness.wait_deleted("stuck").await;
    disks.free("v").await;
    disks.end(harness).await;
}

pub async fn a_volume_that_cannot_be_unstaged_holds_no_pod_up_and_is_tried_again() {
    let harness = started("csi-unstage").await;
    let disks = Disks::with_claim(&harness, json!({"attachRequired": false})).await;
    harness.pod("p", with(claim("v"), "true")).await;
    harness.ready("p").await;
    for _ in 0..4 {
        disks
            .node
            .fail_next("NodeUnstageVolume", Failure::Before(13));
    }
    harness.delete("p").await;
    harness.wait_deleted("p").await;
    disks.free("v").await;
    let calls = disks.calls("v");
    assert_eq!(calls, ["Stage", "Publish", "Unpublish", "Unstage"]);
    disks.end(harness).await;
}

/// As with kubelet: a volume whose stage was rejected with a final error is not unstaged; a volume that may
/// be staged is unstaged.
// findings-2 C31
pub async fn a_volume_that_was_never_staged_is_not_unstaged() {
    let harness = started("csi-refused").await;
    let disks = Disks::with_claim(&harness, json!({"attachRequired": false})).await;
    for (code, expected) in [(3, &[][..]), (4, &["Unstage"][..])] {
        let before = disks.calls("v").len();
        for _ in 0..100 {
            disks
                .node
                .fail_next("NodeStageVolume", Failure::Before(code));
        }
        // Each pod has another name, so that its events differ from those of the pods before.
        let pod = format!("refused-{code}");
        harness.pod(&pod, with(claim("v"), "true")).await;
        harness.event(&pod, "MountDevice failed").await;
        harness.delete(&pod).await;
        harness.wait_deleted(&pod).await;
        disks.free("v").await;
        disks.node.fail_no_more();
        assert_eq!(disks.calls("v")[before..], *expected, "{code}");
    }
    // The volume was staged before, so a rejected stage does not mean that the volume is not staged: the
    // volume is unstaged.
    harness.pod("p", with(claim("v"), "true")).await;
    harness.ready("p").await;
    disks.node.fail_next("NodeStageVolume", Failure::Before(3));
    harness.pod("q", with(claim("v"), "true")).await;
    harness.ready("q").await;
    for name in ["p", "q"] {
        harness.delete(name).await;
        harness.wait_deleted(name).await;
    }
    disks.free("v").await;
    assert_eq!(disks.calls("v").last().map(String::as_str), Some("Unstage"));
    disks.end(harness).await;
}

/// The driver reports that the volume is published, but creates no target. The node creates the directory,
/// as containerd does.
// findings-2 C32
pub async fn a_pod_runs_whose_driver_has_made_no_target() {
    let harness = started("csi-idle").await;
    let disks = Disks::with_claim(&harness, json!({"attachRequired": false})).await;
    disks.node.fail_next("NodePublishVolume", Failure::Idle);
    harness.pod("p", with(claim("v"), "true")).await;
    harness.ready("p").await;
    harness.delete("p").await;
    harness.wait_deleted("p").await;
    disks.free("v").await;
    disks.end(harness).await;
}

/// A reverse call returns NOT_FOUND: the volume does not exist any more, so there is nothing to revert.
pub async fn a_volume_that_its_driver_does_not_know_is_released() {
    let harness = started("csi-unknown").await;
    let disks = Disks::with_claim(&harness, json!({"attachRequired": false})).await;
    harness.pod("p", with(claim("v"), "true")).await;
    harness.ready("p").await;
    for method in ["NodeUnpublishVolume", "NodeUnstageVolume"] {
        disks.node.fail_next(method, Failure::Before(5));
    }
    harness.delete("p").await;
    harness.wait_deleted("p").await;
    disks.free("v").await;
    // Each call was made once and had no effect: the node has unmounted the volume.
    assert_eq!(disks.calls("v"), ["Stage", "Publish"]);
    disks.end(harness).await;
}

pub async fn a_volume_for_one_pod_is_given_to_one_at_a_time() {
    let harness = started("csi-one-pod").await;
    let mut disks = Disks::new(&harness);
    key(&harness).await;
    disks
        .driver_object(&harness, json!({"attachRequired": false}))
        .await;
    std::fs::create_dir_all(disks.volumes.join("v")).unwrap();
    let modes = ("Filesystem", "ReadWriteOncePod");
    disks.claim_of(&harness, "v", modes).await;
    disks.start();
    harness.pod("first", with(claim("v"), "true")).await;
    harness.ready("first").await;
    harness.pod("second", with(claim("v"), "true")).await;
    let words = "volume uses the ReadWriteOncePod access mode and is already in use by another pod";
    harness.event("second", words).await;
    assert_eq!(disks.calls("v"), ["Stage", "Publish"]);
    harness.delete("first").await;
    harness.wait_deleted("first").await;
    harness.ready("second").await;
    harness.delete("second").await;
    harness.wait_deleted("second").await;
    disks.free("v").await;
    disks.end(harness).await;
}
