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

use crate::csi::{DRIVER, Disks, TOLD, claim, has_grown, key, node_user, started, until, with};
use crate::world::{NODE, World};

fn endpoint() -> String {
    let path = Path::new(TOLD).join("plugins/t/csi.sock");
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
async fn listed_drivers(world: &World) -> (Vec<String>, Option<String>) {
    let nodes: Api<CSINode> = Api::all(world.client.clone());
    let Some(csi_node) = nodes.get_opt(NODE).await.unwrap() else {
        return (Vec::new(), None);
    };
    let owners = csi_node.metadata.owner_references.unwrap_or_default();
    let uid = owners.into_iter().next().map(|owner| owner.uid);
    let drivers = csi_node.spec.drivers.into_iter();
    (drivers.map(|driver| driver.name).collect(), uid)
}

pub async fn a_registrar_that_is_refused_hears_why() {
    let world = started("csi-refused").await;
    let mut disks = Disks::new(&world);
    let driver = |name: &str| Registrant::driver(name, &endpoint());
    let old = driver("old.example.com").with_versions(&["0.3.0"]);
    let device = driver("gpu.example.com").with_kind("DevicePlugin");
    let outside = Registrant::driver("out.example.com", "/run/csi.sock");
    std::fs::write(disks.kubelet.join("plugins_registry/file.sock"), "x").unwrap();
    let silent = driver("silent.example.com").with_versions(&[]);
    let new = driver("new.example.com").with_versions(&["2.0.0", "10.1"]);
    std::fs::write(disks.kubelet.join("plugins/t/file"), "x").unwrap();
    let file = Path::new(TOLD).join("plugins/t/file").display().to_string();
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
        (device, "\"DevicePlugin\" is no plugin for volumes"),
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
        (listed_drivers(&world).await.0 == [DRIVER]).then_some(())
    })
    .await;
    let second = Registrar::start(&disks, "second.sock", driver(DRIVER));
    let refusal = format!("another driver with the name {DRIVER} is registered already");
    second.hears(&refusal).await;
    // The first driver is removed, so that the second driver can register.
    std::fs::remove_file(disks.kubelet.join("plugins_registry/t-reg.sock")).unwrap();
    second.hears("").await;
    until("the driver is registered by the second", || async {
        (listed_drivers(&world).await.0 == [DRIVER]).then_some(())
    })
    .await;
    second.stop();
    std::fs::write(disks.kubelet.join("plugins_registry/t-reg.sock"), "").unwrap();
    disks.end(world).await;
}

pub async fn a_socket_that_says_nothing_holds_up_no_other() {
    let world = started("csi-silent").await;
    let mut disks = Disks::new(&world);
    let silent = disks.kubelet.join("plugins_registry/a.sock");
    let listener = UnixListener::bind(&silent).unwrap();
    let (connection, _) = listener.accept().await.unwrap();
    disks.start();
    until("the other driver is registered", || async {
        (listed_drivers(&world).await.0 == [DRIVER]).then_some(())
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
    disks.end(world).await;
}

pub async fn the_node_shows_the_drivers_that_are_registered_and_no_others() {
    let mut world = World::new("csi-shown").await;
    world.user = node_user();
    let mut disks = Disks::new(&world);
    disks.start();
    world.start(OnShutdown::LeavePods).await;
    let nodes: Api<Node> = Api::all(world.client.clone());
    let is_shown = async |drivers: &[&str]| {
        until("the node shows its drivers", || async {
            let node = nodes.get_opt(NODE).await.unwrap()?.metadata;
            let (drivers_listed, owner) = listed_drivers(&world).await;
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
    world.stop().await;
    disks.stop();
    world.start(OnShutdown::StopPods).await;
    let nodes: Api<Node> = Api::all(world.client.clone());
    until("no driver is shown", || async {
        let node = nodes.get(NODE).await.unwrap().metadata;
        let annotations = node.annotations.unwrap_or_default();
        let has_id = annotations.contains_key("csi.volume.kubernetes.io/nodeid");
        (listed_drivers(&world).await.0.is_empty() && !has_id).then_some(())
    })
    .await;
    disks.start();
    until("the driver is shown again", || async {
        (listed_drivers(&world).await.0 == [DRIVER]).then_some(())
    })
    .await;
    disks.end(world).await;
}

/// Calls to a driver that sends invalid responses are repeated, for the node and for a volume.
pub async fn a_driver_that_answers_nonsense_is_asked_again() {
    let world = started("csi-nonsense").await;
    let mut disks = Disks::new(&world);
    key(&world).await;
    let unattached = json!({"attachRequired": false});
    disks.driver_object(&world, unattached).await;
    disks.claim(&world, "v").await;
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
    world.pod("p", with(claim("v"), "true")).await;
    world.event("p", "NodeStageVolume: malformed answer").await;
    world.ready("p").await;
    world.delete("p").await;
    world.wait_deleted("p").await;
    disks.free("v").await;
    registrar.stop();
    std::fs::write(disks.kubelet.join("plugins_registry/t-reg.sock"), "").unwrap();
    disks.end(world).await;
}

/// A missing Secret is reported with its name, for each call that needs a Secret. The call succeeds when
/// the Secret exists.
pub async fn secrets_that_are_missing_are_named() {
    let world = started("csi-secrets").await;
    let mut disks = Disks::new(&world);
    let modes = json!({"volumeLifecycleModes": ["Persistent", "Ephemeral"],
        "attachRequired": false, "podInfoOnMount": true});
    disks.driver_object(&world, modes).await;
    disks.claim(&world, "v").await;
    disks.start();
    world.pod("staged", with(claim("v"), "true")).await;
    let inline = json!({"csi": {"driver": DRIVER, "nodePublishSecretRef": {"name": "own"}}});
    world.pod("published", with(inline, "true")).await;
    for (pod, secret) in [("staged", "key"), ("published", "own")] {
        let words = format!("secret \"default/{secret}\" not found");
        world.event(pod, &words).await;
    }
    assert_eq!(disks.node.calls(), []);
    key(&world).await;
    let secret = json!({"metadata": {"name": "own"}, "stringData": {"user": "o"}});
    world.create::<Secret>(secret).await;
    world.ready("staged").await;
    world.ready("published").await;

    let secrets = world.api::<Secret>();
    secrets
        .delete("key", &DeleteParams::default())
        .await
        .unwrap();
    disks.grown(&world, "v", "2Mi").await;
    world
        .event("staged", "secret \"default/key\" not found")
        .await;
    key(&world).await;
    has_grown(&world, "v", "2Mi").await;
    for pod in ["staged", "published"] {
        world.delete(pod).await;
        world.wait_deleted(pod).await;
    }
    disks.free("v").await;
    disks.end(world).await;
}

pub async fn the_end_of_a_pod_touches_no_volume_of_others() {
    let world = started("csi-own").await;
    let disks = Disks::with_claim(&world, json!({"attachRequired": false})).await;
    disks.claim(&world, "w").await;
    disks.node.fail_next("NodeStageVolume", Failure::HangsAfter);
    world.pod("stuck", with(claim("v"), "true")).await;
    until("the driver hangs", || async {
        (disks.node.hanging() == 1).then_some(())
    })
    .await;
    world.pod("other", with(claim("w"), "true")).await;
    world.ready("other").await;
    world.delete("other").await;
    world.wait_deleted("other").await;
    until("the other volume is free", || async {
        (disks.calls("w") == ["Stage", "Publish", "Unpublish", "Unstage"]).then_some(())
    })
    .await;
    let calls = disks.calls("v");
    assert!(!calls.contains(&"Unstage".to_owned()), "{calls:?}");
    world.delete("stuck").await;
    world.wait_deleted("stuck").await;
    disks.free("v").await;
    disks.end(world).await;
}

pub async fn a_volume_that_cannot_be_unstaged_holds_no_pod_up_and_is_tried_again() {
    let world = started("csi-unstage").await;
    let disks = Disks::with_claim(&world, json!({"attachRequired": false})).await;
    world.pod("p", with(claim("v"), "true")).await;
    world.ready("p").await;
    for _ in 0..4 {
        disks
            .node
            .fail_next("NodeUnstageVolume", Failure::Before(13));
    }
    world.delete("p").await;
    world.wait_deleted("p").await;
    disks.free("v").await;
    let calls = disks.calls("v");
    assert_eq!(calls, ["Stage", "Publish", "Unpublish", "Unstage"]);
    disks.end(world).await;
}

/// As with kubelet: a volume whose stage was rejected with a final error is not unstaged; a volume that may
/// be staged is unstaged.
// findings-2 C31
pub async fn a_volume_that_was_never_staged_is_not_unstaged() {
    let world = started("csi-refused").await;
    let disks = Disks::with_claim(&world, json!({"attachRequired": false})).await;
    for (code, expected) in [(3, &[][..]), (4, &["Unstage"][..])] {
        let before = disks.calls("v").len();
        for _ in 0..100 {
            disks
                .node
                .fail_next("NodeStageVolume", Failure::Before(code));
        }
        // Each pod has another name, so that its events differ from those of the pods before.
        let pod = format!("refused-{code}");
        world.pod(&pod, with(claim("v"), "true")).await;
        world.event(&pod, "MountDevice failed").await;
        world.delete(&pod).await;
        world.wait_deleted(&pod).await;
        disks.free("v").await;
        disks.node.fail_no_more();
        assert_eq!(disks.calls("v")[before..], *expected, "{code}");
    }
    // The volume was staged before, so a rejected stage does not mean that the volume is not staged: the
    // volume is unstaged.
    world.pod("p", with(claim("v"), "true")).await;
    world.ready("p").await;
    disks.node.fail_next("NodeStageVolume", Failure::Before(3));
    world.pod("q", with(claim("v"), "true")).await;
    world.ready("q").await;
    for name in ["p", "q"] {
        world.delete(name).await;
        world.wait_deleted(name).await;
    }
    disks.free("v").await;
    assert_eq!(disks.calls("v").last().map(String::as_str), Some("Unstage"));
    disks.end(world).await;
}

/// The driver reports that the volume is published, but creates no target. The node creates the directory,
/// as containerd does.
// findings-2 C32
pub async fn a_pod_runs_whose_driver_has_made_no_target() {
    let world = started("csi-idle").await;
    let disks = Disks::with_claim(&world, json!({"attachRequired": false})).await;
    disks.node.fail_next("NodePublishVolume", Failure::Idle);
    world.pod("p", with(claim("v"), "true")).await;
    world.ready("p").await;
    world.delete("p").await;
    world.wait_deleted("p").await;
    disks.free("v").await;
    disks.end(world).await;
}

/// A reverse call returns NOT_FOUND: the volume does not exist any more, so there is nothing to revert.
pub async fn a_volume_that_its_driver_does_not_know_is_released() {
    let world = started("csi-unknown").await;
    let disks = Disks::with_claim(&world, json!({"attachRequired": false})).await;
    world.pod("p", with(claim("v"), "true")).await;
    world.ready("p").await;
    for method in ["NodeUnpublishVolume", "NodeUnstageVolume"] {
        disks.node.fail_next(method, Failure::Before(5));
    }
    world.delete("p").await;
    world.wait_deleted("p").await;
    disks.free("v").await;
    // Each call was made once and had no effect: the node has unmounted the volume.
    assert_eq!(disks.calls("v"), ["Stage", "Publish"]);
    disks.end(world).await;
}

pub async fn a_volume_for_one_pod_is_given_to_one_at_a_time() {
    let world = started("csi-one-pod").await;
    let mut disks = Disks::new(&world);
    key(&world).await;
    disks
        .driver_object(&world, json!({"attachRequired": false}))
        .await;
    std::fs::create_dir_all(disks.volumes.join("v")).unwrap();
    let modes = ("Filesystem", "ReadWriteOncePod");
    disks.claim_of(&world, "v", modes).await;
    disks.start();
    world.pod("first", with(claim("v"), "true")).await;
    world.ready("first").await;
    world.pod("second", with(claim("v"), "true")).await;
    let words = "volume uses the ReadWriteOncePod access mode and is already in use by another pod";
    world.event("second", words).await;
    assert_eq!(disks.calls("v"), ["Stage", "Publish"]);
    world.delete("first").await;
    world.wait_deleted("first").await;
    world.ready("second").await;
    world.delete("second").await;
    world.wait_deleted("second").await;
    disks.free("v").await;
    disks.end(world).await;
}
