//! The rules of the specification (`docs/contract`) as cases that run against the whole driver of the tests.
//! Needs root: the driver mounts.

use std::path::PathBuf;
use std::sync::Arc;

use csi_test_driver::{Caller, Death, Driver, Role, TestDriver, journal, order};
use json_tree::{Value, json};
use tempfile::TempDir;

mod calls;
mod nodes;
mod volumes;

const OK: u32 = 0;
const INVALID_ARGUMENT: u32 = 3;
const NOT_FOUND: u32 = 5;
const ALREADY_EXISTS: u32 = 6;
const RESOURCE_EXHAUSTED: u32 = 8;
const FAILED_PRECONDITION: u32 = 9;
const ABORTED: u32 = 10;
const OUT_OF_RANGE: u32 = 11;
const UNIMPLEMENTED: u32 = 12;
/// A connection that broke.
const BROKEN: u32 = 14;

const NAME: &str = "disks.test.example.com";
const ZONE: &str = "topology.disks.test.example.com/zone";
const MIB: i64 = 1 << 20;

/// A controller and two nodes, in the zones `a` and `b`, over one state.
struct Cluster {
    controller: Caller,
    nodes: [Caller; 2],
    _serving: Vec<TestDriver>,
    dir: TempDir,
}

impl Cluster {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        let mut serving = Vec::new();
        let mut serve = |name: &str, role: Role| {
            let driver = Driver::open(NAME, role, &state, Death::Connection).expect("a state");
            let socket = dir.path().join(name);
            serving.push(TestDriver::serve_whole(&socket, Arc::new(driver)).expect("a socket"));
            Caller::at(&socket)
        };
        let node = |id: &str, zone: &str| Role::Node {
            id: id.to_owned(),
            zone: zone.to_owned(),
            volumes_max: 2,
            root: (PathBuf::from("/kubelet"), dir.path().join(id)),
        };
        let controller = serve("controller.sock", Role::Controller);
        let nodes = [("n1", "a"), ("n2", "b")];
        let nodes = nodes.map(|(id, zone)| serve(&format!("{id}.sock"), node(id, zone)));
        for id in ["n1", "n2"] {
            std::fs::create_dir_all(dir.path().join(id).join("stage")).expect("a directory");
        }
        Self {
            controller,
            nodes,
            _serving: serving,
            dir,
        }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A call of the controller or, for methods of nodes, of the first node: the code and the answer.
    async fn try_to(&self, method: &str, request: Value) -> (u32, Value) {
        self.try_on(0, method, request).await
    }

    async fn try_on(&self, node: usize, method: &str, request: Value) -> (u32, Value) {
        let (caller, service) = match method {
            method if method.starts_with("Node") => (&self.nodes[node], "Node"),
            "GetPluginInfo" | "GetPluginCapabilities" | "Probe" => (&self.controller, "Identity"),
            _ => (&self.controller, "Controller"),
        };
        match caller.call(&format!("{service}/{method}"), &request).await {
            Ok(response) => (OK, response),
            Err((code, words)) => (code, json!(words)),
        }
    }

    /// A call with the expected code; its answer.
    async fn check(&self, method: &str, request: Value, code: u32) -> Value {
        self.check_on(0, method, request, code).await
    }

    async fn check_on(&self, node: usize, method: &str, request: Value, code: u32) -> Value {
        let (observed_code, response) = self.try_on(node, method, request.clone()).await;
        assert_eq!(observed_code, code, "{method} {request}: {response}");
        response
    }

    /// A new volume; its id.
    async fn volume(&self, name: &str, mode: i64) -> String {
        let response = self.check("CreateVolume", create(name, mode), OK).await;
        response["volume"]["volume_id"]
            .as_str()
            .expect("an id")
            .to_owned()
    }

    /// A volume that is attached to the first node, and the request to stage it.
    async fn attached(&self, name: &str, mode: i64) -> Value {
        let id = self.volume(name, mode).await;
        let response = self
            .check("ControllerPublishVolume", attach(&id, "n1", mode), OK)
            .await;
        json!({"volume_id": id, "staging_target_path": "/kubelet/stage",
            "volume_capability": capability(mode), "publish_context": response["publish_context"],
            "volume_context": {"name": name}})
    }

    /// Orders a failure of the next such call.
    fn fail(&self, method: &str, at: &str, kind: &str) {
        let fault = json!({"method": method, "at": at, "kind": kind});
        order(&self.state(), "fault", &fault).expect("order a failure");
    }

    /// Events of the journal.
    fn events(&self, event: &str) -> usize {
        let lines = journal(&self.state()).expect("the journal");
        lines.iter().filter(|line| line["event"] == event).count()
    }
}

fn capability(mode: i64) -> Value {
    json!({"mount": {"fs_type": "ext4"}, "access_mode": {"mode": mode}})
}

fn block() -> Value {
    json!({"block": {}, "access_mode": {"mode": 7}})
}

fn create(name: &str, mode: i64) -> Value {
    json!({"name": name, "volume_capabilities": [capability(mode)],
        "capacity_range": {"required_bytes": MIB}})
}

fn attach(id: &str, node: &str, mode: i64) -> Value {
    json!({"volume_id": id, "node_id": node, "volume_capability": capability(mode)})
}

/// A request with another value, or without the field.
fn with(request: &Value, field: &str, value: Value) -> Value {
    let mut request = request.clone();
    request[field] = value;
    request
}

fn publication(stage: &Value, target: &str) -> Value {
    with(stage, "target_path", json!(format!("/kubelet/{target}")))
}
