//! Devices of plugins and of claims, in real containers. The plugins of the tests speak the published protocols.

use std::path::PathBuf;
use std::sync::Arc;

use csi_test_driver::devices::{
    DeviceFault, TestDevicePlugin, TestDraDriver, register, registration_request,
};
use csi_test_driver::{Registrant, TestDriver};
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube_api_client::{Api, Patch, PatchParams};
use node_agent::OnShutdown;
use service_protocols::deviceplugin_v1beta1::{
    CdiDevice, ContainerAllocateResponse, DeviceSpec, Mount, RegisterRequest,
};
use tokio::net::UnixStream;

use crate::csi::{node_user, started, until};
use crate::harness::{Harness, NODE, phase};
use crate::spec::shell;

const RESOURCE: &str = "vendor.example.com/gpu";
const DRA_DRIVER: &str = "dra.example.com";

/// A device plugin on the node of a test.
struct Plugin {
    plugin: Arc<TestDevicePlugin>,
    directory: PathBuf,
    serving: Option<TestDriver>,
}

impl Plugin {
    fn new(
        harness: &Harness,
        devices: &[(&str, bool)],
        response: ContainerAllocateResponse,
    ) -> Self {
        Self {
            plugin: TestDevicePlugin::new(devices, response),
            directory: harness.dir.join("kubelet/device-plugins"),
            serving: None,
        }
    }

    /// Serves the plugin, and registers it as soon as the agent serves its socket.
    async fn register(&mut self) {
        let kubelet = self.directory.join("kubelet.sock");
        until("the agent serves registrations", || async {
            UnixStream::connect(&kubelet).await.ok()
        })
        .await;
        self.serving = Some(self.plugin.serve(&self.directory.join("gpu.sock")).unwrap());
        self.send(registration_request(RESOURCE, "gpu.sock"))
            .await
            .unwrap();
    }

    async fn send(&self, request: RegisterRequest) -> Result<(), String> {
        let registered = register(&self.directory.join("kubelet.sock"), &request).await;
        registered.map_err(|error| error.to_string())
    }
}

/// Waits for the capacity and the allocatable amount of the resource in the node's status.
async fn reported(harness: &Harness, capacity: &str, allocatable: &str) {
    let nodes: Api<Node> = Api::all(harness.client.clone());
    let name = format!("{capacity} devices, {allocatable} allocatable");
    until(&name, || async {
        let status = nodes.get(NODE).await.unwrap().status.unwrap_or_default();
        let amount = |amounts: Option<std::collections::BTreeMap<String, _>>| {
            let amount: k8s_openapi::apimachinery::pkg::api::resource::Quantity =
                amounts.unwrap_or_default().remove(RESOURCE)?;
            Some(amount.0)
        };
        let amounts = (amount(status.capacity)?, amount(status.allocatable)?);
        (amounts == (capacity.to_owned(), allocatable.to_owned())).then_some(())
    })
    .await;
}

fn pod_spec(script: &str) -> Value {
    json!({"terminationGracePeriodSeconds": 0, "containers": [
        {"name": "c", "command": shell(script)}]})
}

fn with_devices(script: &str, count: u32) -> Value {
    let mut spec = pod_spec(script);
    spec["containers"][0]["resources"] = json!({"limits": {RESOURCE: count.to_string()}});
    spec
}

fn response(library: &std::path::Path) -> ContainerAllocateResponse {
    ContainerAllocateResponse {
        envs: [("GPU".to_owned(), "mine".to_owned())].into(),
        mounts: vec![Mount {
            container_path: "/opt/gpu".to_owned(),
            host_path: library.display().to_string(),
            read_only: true,
        }],
        devices: vec![DeviceSpec {
            container_path: "/dev/gpu".to_owned(),
            host_path: "/dev/kmsg".to_owned(),
            permissions: "r".to_owned(),
        }],
        ..ContainerAllocateResponse::default()
    }
}

const SHOW: &str = "echo env $GPU; cat /opt/gpu/lib; touch /opt/gpu/x 2>/dev/null || echo read-only; \
    test -c /dev/gpu && echo node; (echo x > /dev/gpu) 2>/dev/null || echo refused; sleep 1000";

pub async fn devices_are_one_pods_until_it_ends_even_after_a_restart() {
    let mut harness = Harness::new("devices").await;
    harness.user = node_user();
    harness.start(OnShutdown::LeavePods).await;
    let library = harness.dir.join("gpu-library");
    std::fs::create_dir(&library).unwrap();
    std::fs::write(library.join("lib"), "library\n").unwrap();
    let devices = [("a", true), ("b", true), ("c", false)];
    let mut plugin = Plugin::new(&harness, &devices, response(&library));
    plugin.register().await;
    reported(&harness, "3", "2").await;

    harness.pod("first", with_devices(SHOW, 1)).await;
    let log = harness.logged("first", "c", "refused").await;
    assert_eq!(log, "env mine\nlibrary\nread-only\nnode\nrefused\n");
    assert_eq!(plugin.plugin.calls(), ["Allocate b", "PreStartContainer b"]);
    harness.pod("large", with_devices("sleep 1000", 2)).await;
    let large = harness
        .until("large", "rejected", |pod| phase(pod) == "Failed")
        .await;
    assert_eq!(reason(&large), format!("OutOf{RESOURCE}"));

    // The next agent removes the socket of the plugin, which registers again.
    harness.stop().await;
    harness.start(OnShutdown::StopPods).await;
    reported(&harness, "0", "0").await;
    plugin.register().await;
    reported(&harness, "3", "2").await;
    harness.pod("second", with_devices(SHOW, 1)).await;
    harness.logged("second", "c", "refused").await;
    let calls = plugin.plugin.calls();
    assert_eq!(calls[2..], ["Allocate a", "PreStartContainer a"]);

    harness.delete("first").await;
    harness.wait_deleted("first").await;
    harness.pod("third", with_devices(SHOW, 1)).await;
    harness.logged("third", "c", "refused").await;
    assert_eq!(plugin.plugin.calls()[4], "Allocate b");
    plugin.plugin.list(&[("a", true), ("b", false)]);
    reported(&harness, "2", "1").await;
    plugin.serving = None;
    reported(&harness, "2", "0").await;
    for pod in ["large", "second", "third"] {
        harness.delete(pod).await;
        harness.wait_deleted(pod).await;
    }
    harness.end().await;
}

fn reason(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    status.reason.unwrap_or_default()
}

pub async fn a_plugin_that_is_wrong_fails_only_pods_with_its_devices() {
    let mut harness = Harness::new("devices-wrong").await;
    harness.user = node_user();
    harness.start(OnShutdown::StopPods).await;
    let mut plugin = Plugin::new(
        &harness,
        &[("a", true)],
        ContainerAllocateResponse::default(),
    );
    plugin.register().await;
    reported(&harness, "1", "1").await;

    for (request, words) in [
        (
            registration_request("cpu", "gpu.sock"),
            "ResourceName \"cpu\" is invalid",
        ),
        (
            registration_request(RESOURCE, "../gpu.sock"),
            "no name of a socket",
        ),
        (
            registration_request("vendor.example.com/none", "none.sock"),
            "failed to dial device plugin",
        ),
        (
            RegisterRequest {
                version: "v1alpha".to_owned(),
                ..registration_request(RESOURCE, "gpu.sock")
            },
            "\"v1alpha\" is not supported",
        ),
    ] {
        let refusal = plugin.send(request).await.unwrap_err();
        assert!(refusal.contains(words), "{refusal}");
    }

    let faults = [
        (DeviceFault::Refuses, "on purpose"),
        (
            DeviceFault::Empty,
            "no containers return in allocation response",
        ),
    ];
    for (number, (fault, words)) in faults.into_iter().enumerate() {
        let name = format!("wrong-{number}");
        plugin.plugin.order(fault);
        harness.pod(&name, with_devices("sleep 1000", 1)).await;
        let pod = harness
            .until(&name, "rejected", |pod| phase(pod) == "Failed")
            .await;
        assert_eq!(reason(&pod), "UnexpectedAdmissionError");
        let message = pod
            .status
            .and_then(|status| status.message)
            .unwrap_or_default();
        let rejected = message.starts_with("Pod was rejected: Allocate failed due to ");
        assert!(rejected && message.contains(words), "{message}");
        harness.delete(&name).await;
        harness.wait_deleted(&name).await;
    }

    plugin.plugin.order(DeviceFault::Silent);
    harness.pod("waiting", with_devices("sleep 1000", 1)).await;
    until("the plugin is asked", || async {
        (plugin.plugin.calls().len() > 2).then_some(())
    })
    .await;
    harness.pod("other", pod_spec("sleep 1000")).await;
    harness.ready("other").await;
    // The plugin dies, and the pod that waits for it fails.
    plugin.serving = None;
    let waiting = harness
        .until("waiting", "rejected", |pod| phase(pod) == "Failed")
        .await;
    assert_eq!(reason(&waiting), "UnexpectedAdmissionError");
    reported(&harness, "1", "0").await;

    // A list that is too long ends the plugin, and a correct plugin replaces it.
    let many: Vec<String> = (0..10_001).map(|number| number.to_string()).collect();
    let many: Vec<(&str, bool)> = many.iter().map(|id| (id.as_str(), true)).collect();
    plugin.plugin.list(&many);
    plugin.register().await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    reported(&harness, "1", "0").await;
    plugin.plugin.list(&[("a", true), ("b", true)]);
    plugin.register().await;
    reported(&harness, "2", "2").await;
    plugin.serving = None;
    for pod in ["waiting", "other"] {
        harness.delete(pod).await;
        harness.wait_deleted(pod).await;
    }
    harness.end().await;
}

/// A CDI specification of the machine, which the test removes.
struct CdiFile {
    path: PathBuf,
    kind: String,
}

impl CdiFile {
    fn new() -> Self {
        let kind = format!("test{}.example.com/gpu", std::process::id());
        let directory = PathBuf::from("/var/run/cdi");
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join(format!("mainstay-test-{}.json", std::process::id()));
        let spec = json!({"cdiVersion": "0.6.0", "kind": kind, "devices": [{"name": "one",
            "containerEdits": {"env": ["CDI=one"], "deviceNodes": [
                {"path": "/dev/cdi", "hostPath": "/dev/kmsg", "permissions": "r"}]}}]});
        std::fs::write(&path, spec.to_string()).unwrap();
        Self { path, kind }
    }

    fn device(&self) -> String {
        format!("{}=one", self.kind)
    }
}

impl Drop for CdiFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

async fn claim_status(harness: &Harness, name: &str, status: Value) {
    let patch = Patch::Merge(json!({ "status": status }));
    let claims = harness.api::<ResourceClaim>();
    let params = PatchParams::default();
    claims.patch_status(name, &params, &patch).await.unwrap();
}

fn allocated(pods: &[&Pod]) -> Value {
    let users: Vec<Value> = pods
        .iter()
        .map(|pod| json!({"resource": "pods", "name": pod.metadata.name, "uid": pod.metadata.uid}))
        .collect();
    json!({"reservedFor": users, "allocation": {"devices": {"results": [
        {"request": "one", "driver": DRA_DRIVER, "pool": "pool", "device": "device"}]}}})
}

fn with_claim(script: &str) -> Value {
    let mut spec = pod_spec(script);
    spec["resourceClaims"] = json!([{"name": "gpu", "resourceClaimName": "claim"}]);
    spec["containers"][0]["resources"] = json!({"claims": [{"name": "gpu", "request": "one"}]});
    spec
}

pub async fn claims_are_prepared_for_their_pods_and_reverted_after_the_last() {
    let harness = started("claims").await;
    let kubelet = harness.dir.join("kubelet");
    for dir in ["plugins/t", "plugins_registry"] {
        std::fs::create_dir_all(kubelet.join(dir)).unwrap();
    }
    let cdi = CdiFile::new();
    let driver = TestDraDriver::new(&cdi.device());
    let claim = json!({"metadata": {"name": "claim"}, "spec": {"devices": {"requests": [
        {"name": "one", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1}}]}}});
    let claim: ResourceClaim = harness.create(claim).await;
    let script = "echo cdi $CDI; test -c /dev/cdi && echo node; sleep 1000";
    let first = harness.pod("first", with_claim(script)).await;
    harness
        .event("first", "FailedPrepareDynamicResources")
        .await;
    claim_status(&harness, "claim", allocated(&[&first])).await;
    harness
        .event(
            "first",
            &format!("DRA driver {DRA_DRIVER} is not registered"),
        )
        .await;

    driver.order(DeviceFault::Empty);
    let serving = driver.serve(&kubelet.join("plugins/t/dra.sock")).unwrap();
    let endpoint = "/var/lib/kubelet/plugins/t/dra.sock";
    let registrant = Registrant::driver(DRA_DRIVER, endpoint)
        .with_kind("DRAPlugin")
        .with_versions(&["v1beta1.DRAPlugin", "v1.DRAPlugin"]);
    let registration = kubelet.join("plugins_registry/dra-reg.sock");
    let registering = registrant.serve(&registration, |error| assert_eq!(error, ""));
    let registering = registering.unwrap();
    harness
        .event("first", "the response does not have the claim")
        .await;
    driver.order(DeviceFault::None);
    harness.ready("first").await;
    let log = harness.logged("first", "c", "node").await;
    assert_eq!(log, "cdi one\nnode\n");

    // A second pod shares the claim, which stays prepared until both have ended.
    let uid = claim.metadata.uid.clone().unwrap();
    let second = harness.pod("second", with_claim(script)).await;
    claim_status(&harness, "claim", allocated(&[&first, &second])).await;
    harness.ready("second").await;
    harness.delete("first").await;
    harness.wait_deleted("first").await;
    assert!(driver.prepared().contains(&uid));
    let record = kubelet.join(format!("device-claims/{uid}.json"));
    assert!(record.exists());

    // A driver that fails holds the pod, and nothing is left when it works again.
    driver.order(DeviceFault::Refuses);
    harness.delete("second").await;
    harness
        .event("second", "Failed to unprepare dynamic resources")
        .await;
    assert!(driver.prepared().contains(&uid));
    driver.order(DeviceFault::None);
    harness.wait_deleted("second").await;
    assert!(driver.prepared().is_empty() && !record.exists());
    drop((serving, registering));
    harness.end().await;
}

pub async fn a_device_that_no_specification_has_is_named() {
    let mut harness = Harness::new("cdi").await;
    harness.user = node_user();
    harness.start(OnShutdown::StopPods).await;
    let cdi = CdiFile::new();
    let named = |device: String| ContainerAllocateResponse {
        cdi_devices: vec![CdiDevice { name: device }],
        ..ContainerAllocateResponse::default()
    };
    let missing = format!("{}=two", cdi.kind);
    let mut plugin = Plugin::new(&harness, &[("a", true)], named(missing.clone()));
    plugin.register().await;
    reported(&harness, "1", "1").await;
    harness
        .pod("pod", with_devices("echo cdi $CDI; sleep 1000", 1))
        .await;
    harness
        .event("pod", &format!("unresolvable CDI devices {missing}"))
        .await;
    // The device appears, and the container starts.
    let text = std::fs::read_to_string(&cdi.path).unwrap();
    std::fs::write(&cdi.path, text.replace("\"one\"", "\"two\"")).unwrap();
    harness.logged("pod", "c", "cdi one").await;
    harness.delete("pod").await;
    harness.wait_deleted("pod").await;
    plugin.serving = None;
    harness.end().await;
}
