//! The time of a CSI volume from its attachment to the running pod, and from the deletion of the pod to the end of the
//! attachment; compared with direct calls of the driver and with a pod without a volume.
//!
//! The driver is the driver of the tests, whose volumes are directories, so its own work is short. Run the benchmark on
//! an idle machine with `cargo xtask bench csi`.

use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use csi_test_driver::Caller;
use end_to_end::csi::{CsiDriver, claim, pod};
use end_to_end::samples::{Sample, sized};
use end_to_end::{Api, csi_test_driver, text};
use http::Method;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
const LIMIT: Duration = Duration::from_secs(300);
/// The time between two checks whether an object is deleted.
const PAUSE: Duration = Duration::from_millis(2);

pub(crate) fn bench() {
    let driver = CsiDriver::start(1, 0, &[]);
    let api = Api::new(&driver.instance);
    let by_hand = api.block_on(ByHand::start());
    api.create(CLAIMS, &claim("data", json!({})));
    let [mut plain, mut started, mut ended, mut deleted] = [(); 4].map(|()| Sample::new("ms"));
    let [mut attached, mut detached] = [(); 2].map(|()| Sample::new("ms"));
    // The first round provisions the volume, and is not counted.
    let rounds = sized(20, 2);
    for round in 0..=rounds {
        let without = once(&api, &without_volume());
        let with = once(&api, &pod("with", "data"));
        let hand = api.block_on(by_hand.once());
        if round > 0 {
            plain.push_time(without.0);
            deleted.push_time(without.1);
            started.push_time(with.0);
            ended.push_time(with.1);
            attached.push_time(hand.0);
            detached.push_time(hand.1);
        }
    }
    println!("{rounds} rounds on one node");
    println!("attach to running");
    println!("  creation of a pod with an unattached volume to Running: {started}");
    println!("  creation of a pod without a volume to Running: {plain}");
    println!("  ControllerPublish, NodeStage, NodePublish by hand: {attached}");
    println!("detach");
    println!("  deletion of the pod until its attachment is gone: {ended}");
    println!("  deletion of a pod without a volume until it is gone: {deleted}");
    println!("  NodeUnpublish, NodeUnstage, ControllerUnpublish by hand: {detached}");
    api.delete(&format!("{CLAIMS}/data"));
}

fn without_volume() -> Value {
    let mut pod = pod("without", "");
    pod["spec"]["volumes"] = json!([]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([]);
    pod
}

/// The time until a pod runs, and the time from its deletion until the pod and its attachment are deleted.
fn once(api: &Api, pod: &Value) -> (Duration, Duration) {
    let mut pod = pod.clone();
    pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
    let pods = api.watch(PODS);
    let begun = Instant::now();
    api.create(PODS, &pod);
    let started = loop {
        let (at, pod) = pods.recv_timeout(LIMIT).expect("a pod that runs");
        if pod["status"]["phase"] == "Running" {
            break at - begun;
        }
    };
    let name = text(&pod, "/metadata/name");
    let begun = Instant::now();
    api.delete(&format!("{PODS}/{name}"));
    for path in [PODS, ATTACHMENTS] {
        while begun.elapsed() < LIMIT {
            let left = api.request(Method::GET, path, None).expect("a list");
            if left["items"].as_array().is_none_or(Vec::is_empty) {
                break;
            }
            sleep(PAUSE);
        }
    }
    (started, begun.elapsed())
}

/// The driver without a cluster, with an unattached volume.
struct ByHand {
    controller: Caller,
    node: Caller,
    volume: json_tree::Value,
    stage: String,
    target: String,
    programs: [Child; 2],
    _directory: tempfile::TempDir,
}

impl ByHand {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        std::fs::create_dir_all(path("stage")).expect("a directory");
        let start = |role: &str, more: &[&str]| {
            let mut program = Command::new(csi_test_driver());
            let endpoint = format!("--endpoint=unix://{}", path(role));
            let state = format!("--state={}", path("state"));
            program.args([role, &endpoint, &state]).args(more);
            program.spawn().expect("start the driver")
        };
        let programs = [start("controller", &[]), start("node", &["--node=n"])];
        let [controller, node] = ["controller", "node"].map(|role| Caller::at(path(role).as_ref()));
        for caller in [&controller, &node] {
            while caller
                .call("Identity/Probe", &json_tree::json!({}))
                .await
                .is_err()
            {
                tokio::time::sleep(PAUSE).await;
            }
        }
        let request = json_tree::json!({"name": "v", "volume_capabilities": [capability()]});
        let created = controller.call("Controller/CreateVolume", &request).await;
        Self {
            controller,
            node,
            volume: created.expect("a volume")["volume"]["volume_id"].take(),
            stage: path("stage"),
            target: path("pod"),
            programs,
            _directory: directory,
        }
    }

    /// The time of the calls that attach and mount, and of their reverse.
    async fn once(&self) -> (Duration, Duration) {
        let (id, stage, target) = (&self.volume, &self.stage, &self.target);
        let begun = Instant::now();
        let request =
            json_tree::json!({"volume_id": id, "node_id": "n", "volume_capability": capability()});
        let attached = self
            .controller
            .call("Controller/ControllerPublishVolume", &request)
            .await;
        let mut request = json_tree::json!({"volume_id": id, "staging_target_path": stage,
            "volume_capability": capability(), "volume_context": {"name": "v"}});
        request["publish_context"] = attached.expect("an attachment")["publish_context"].take();
        self.on_node("NodeStageVolume", &request).await;
        request["target_path"] = json_tree::json!(target);
        self.on_node("NodePublishVolume", &request).await;
        let attached = begun.elapsed();
        let begun = Instant::now();
        let unpublish = json_tree::json!({"volume_id": id, "target_path": target});
        self.on_node("NodeUnpublishVolume", &unpublish).await;
        let unstage = json_tree::json!({"volume_id": id, "staging_target_path": stage});
        self.on_node("NodeUnstageVolume", &unstage).await;
        let request = json_tree::json!({"volume_id": id, "node_id": "n"});
        let detached = self
            .controller
            .call("Controller/ControllerUnpublishVolume", &request)
            .await;
        detached.expect("the end of the attachment");
        (attached, begun.elapsed())
    }

    async fn on_node(&self, method: &str, request: &json_tree::Value) {
        let done = self.node.call(&format!("Node/{method}"), request).await;
        done.unwrap_or_else(|refusal| panic!("{method}: {refusal:?}"));
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        for program in &mut self.programs {
            drop(program.kill());
            drop(program.wait());
        }
    }
}

fn capability() -> json_tree::Value {
    json_tree::json!({"mount": {"fs_type": "ext4"}, "access_mode": {"mode": 7}})
}
