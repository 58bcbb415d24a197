//! Stand-ins for the sidecars of CSI drivers: external-provisioner, external-attacher, external-resizer and
//! external-snapshotter, with their annotations, finalizers and statuses and with the permissions of their
//! manifests; and for node-driver-registrar.
//!
//! Each stand-in watches the objects of its kinds. It processes an object after each change, one worker for
//! each object, and after a failure with a growing delay.

mod attacher;
mod capacity;
mod cluster;
mod kubernetes;
mod provisioner;
mod registrar;
mod resizer;
mod snapshotter;

use std::time::Duration;

use json_tree::{Value, json};

use crate::caller::{Caller, Refusal};
use cluster::{Objects, Workers};
pub use kubernetes::Kubernetes;
pub use registrar::register;

/// Maximum time between two passes over all objects.
const PASS_INTERVAL: Duration = Duration::from_millis(500);

/// A sidecar of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Makes and deletes volumes, and reports free storage.
    Provisioner,
    /// Attaches and detaches.
    Attacher,
    /// Grows volumes and changes their attributes.
    Resizer,
    /// Makes and deletes snapshots.
    Snapshotter,
}

/// The driver, and the objects of the cluster.
#[derive(Clone)]
pub(crate) struct Sidecar {
    /// The driver's name.
    pub(crate) driver: String,
    pub(crate) caller: Caller,
    pub(crate) kubernetes: Kubernetes,
}

/// The reason why an object cannot be processed now.
#[derive(Debug)]
pub(crate) enum Trouble {
    Driver(Refusal),
    Api(kube_api_client::Error),
    /// A missing precondition; a later pass tries again.
    Missing(String),
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Driver(refusal)
    }
}

impl From<kube_api_client::Error> for Trouble {
    fn from(error: kube_api_client::Error) -> Self {
        Self::Api(error)
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Driver((code, words)) => write!(f, "rpc error: code = {code} desc = {words}"),
            Self::Api(error) => write!(f, "{error}"),
            Self::Missing(text) => write!(f, "{text}"),
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Trouble>;

pub(crate) fn missing<T>(text: impl Into<String>) -> Result<T> {
    Err(Trouble::Missing(text.into()))
}

/// Runs a sidecar; never returns.
pub async fn run(kind: Kind, caller: Caller, kubernetes: Kubernetes) {
    // The driver may start after its sidecars.
    let driver = loop {
        if let Ok(info) = caller.call("Identity/GetPluginInfo", &json!({})).await {
            break text(&info["name"]).to_owned();
        }
        tokio::time::sleep(PASS_INTERVAL).await;
    };
    let objects = Objects::follow(&kubernetes, kinds(kind));
    let sidecar = Sidecar {
        driver,
        caller,
        kubernetes,
    };
    let workers = Workers::default();
    objects.wait_complete().await;
    loop {
        match kind {
            Kind::Provisioner => {
                provisioner::start_work(&sidecar, &objects, &workers);
                capacity::start_work(&sidecar, &objects, &workers);
            }
            Kind::Attacher => attacher::start_work(&sidecar, &objects, &workers),
            Kind::Resizer => resizer::start_work(&sidecar, &objects, &workers),
            Kind::Snapshotter => snapshotter::start_work(&sidecar, &objects, &workers),
        }
        objects.changed(PASS_INTERVAL).await;
    }
}

/// The collections that a sidecar watches.
fn kinds(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Provisioner => &[
            CLAIMS,
            VOLUMES,
            CLASSES,
            NODES,
            CSI_NODES,
            ATTACHMENTS,
            CAPACITIES,
        ],
        Kind::Attacher => &[VOLUMES, ATTACHMENTS, CSI_NODES],
        Kind::Resizer => &[CLAIMS, VOLUMES, ATTRIBUTES],
        Kind::Snapshotter => &[CONTENTS, SNAPSHOT_CLASSES],
    }
}

pub(crate) const CLAIMS: &str = "/api/v1/persistentvolumeclaims";
pub(crate) const VOLUMES: &str = "/api/v1/persistentvolumes";
pub(crate) const NODES: &str = "/api/v1/nodes";
pub(crate) const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
pub(crate) const CSI_NODES: &str = "/apis/storage.k8s.io/v1/csinodes";
pub(crate) const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
pub(crate) const CAPACITIES: &str = "/apis/storage.k8s.io/v1/csistoragecapacities";
pub(crate) const ATTRIBUTES: &str = "/apis/storage.k8s.io/v1/volumeattributesclasses";
pub(crate) const CONTENTS: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents";
pub(crate) const SNAPSHOT_CLASSES: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotclasses";

/// The path of a namespaced object.
pub(crate) fn in_namespace(api: &str, plural: &str, object: &Value) -> String {
    let metadata = &object["metadata"];
    let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
    format!("{api}/namespaces/{namespace}/{plural}/{name}")
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(crate) fn annotation<'a>(object: &'a Value, key: &str) -> &'a str {
    text(&object["metadata"]["annotations"][key])
}

pub(crate) fn is_deleted(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// The finalizers of an object with or without `name`; a new finalizer is the last.
pub(crate) fn finalizers(object: &Value, name: &str, present: bool) -> Value {
    let all = object["metadata"]["finalizers"].as_array();
    let mut all = all.cloned().unwrap_or_default();
    all.retain(|finalizer| finalizer != name);
    if present {
        all.push(json!(name));
    }
    json!(all)
}

pub(crate) fn has_finalizer(object: &Value, name: &str) -> bool {
    let all = object["metadata"]["finalizers"].as_array();
    all.is_some_and(|all| all.iter().any(|finalizer| finalizer == name))
}

/// The finalizer of a driver's attacher; dots in the driver's name are replaced.
pub(crate) fn attacher_finalizer(driver: &str) -> String {
    format!("external-attacher/{}", driver.replace('.', "-"))
}

/// A quantity in bytes.
pub(crate) fn bytes(quantity: &Value) -> i64 {
    object_model::Quantity::from_json(quantity).map_or(0, |quantity| quantity.value())
}

/// The volume capabilities, from a claim or from a volume.
pub(crate) fn capabilities(spec: &Value, fs_type: &str, options: &Value) -> Vec<Value> {
    let modes = spec["accessModes"].as_array().into_iter().flatten();
    let capability_of = |mode: &Value| {
        let mode = match text(mode) {
            "ReadWriteOncePod" => 6,
            "ReadOnlyMany" => 3,
            "ReadWriteMany" => 5,
            _ => 7,
        };
        let mut capability = json!({"access_mode": {"mode": mode}});
        if spec["volumeMode"] == "Block" {
            capability["block"] = json!({});
        } else {
            capability["mount"] = json!({"fs_type": fs_type});
            if options.is_array() {
                capability["mount"]["mount_flags"] = options.clone();
            }
        }
        capability
    };
    modes.map(capability_of).collect()
}

impl Sidecar {
    /// Calls a method of the driver.
    pub(crate) async fn call(&self, method: &str, request: &Value) -> Result<Value> {
        Ok(self.caller.call(method, request).await?)
    }

    /// The Secret to which parameters of a class, or a volume, refer.
    pub(crate) async fn secret(&self, name: &Value, namespace: &Value) -> Result<Value> {
        let (name, namespace) = (text(name), text(namespace));
        if name.is_empty() {
            return Ok(json!({}));
        }
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
        let secret = self.kubernetes.get(&path).await?;
        let data = secret["data"].as_object().into_iter().flatten();
        let plain = data.map(|(key, value)| (key.clone(), json!(kubernetes::decoded(text(value)))));
        Ok(Value::Object(plain.collect()))
    }

    /// Creates an Event about an object.
    pub(crate) async fn event(&self, about: &Value, kind: &str, reason: &str, words: &str) {
        let metadata = &about["metadata"];
        let namespace = match text(&metadata["namespace"]) {
            "" => "default",
            namespace => namespace,
        };
        let of = match reason.contains("Fail") {
            true => "Warning",
            false => "Normal",
        };
        let (api_version, kind) = kind.rsplit_once('/').unwrap_or(("v1", kind));
        let event = json!({"metadata": {"generateName": "csi-", "namespace": namespace},
            "involvedObject": {"apiVersion": api_version, "kind": kind, "namespace": metadata["namespace"],
                "name": metadata["name"], "uid": metadata["uid"]},
            "reason": reason, "message": words, "type": of, "count": 1,
            "source": {"component": self.driver}});
        let path = format!("/api/v1/namespaces/{namespace}/events");
        if let Err(error) = self.kubernetes.create(&path, &event).await {
            eprintln!("event {reason}: {error}");
        }
    }
}
