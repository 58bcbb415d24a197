//! Common queries of a running server: readiness of a set, properties of a pod.

use serde_json::Value;

use crate::{Kubectl, wait_for, wait_for_or_report};

/// A kind without a schema.
const THINGS: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: things, singular: thing, kind: Thing}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

impl Kubectl {
    /// Defines the kind `Thing` of `example.com/v1`, without a schema, and waits until it is served.
    ///
    /// # Panics
    ///
    /// The kind is not served in time.
    #[track_caller]
    pub fn define_things(&self) {
        self.apply(THINGS);
        let established = "--for=condition=Established";
        self.ok(&["wait", established, "crd/things.example.com"]);
    }

    /// Waits until the set has `replicas` ready pods, and no other pods. The pods are read, too, because the status may
    /// be older than the last change.
    ///
    /// # Panics
    ///
    /// The wait takes too long.
    #[track_caller]
    pub fn wait_ready(&self, set: &str, replicas: u64) {
        let ready = || {
            // A server is ready before it has applied its manifests.
            let set = self.get(&["statefulset", set])?;
            let status = &set["status"];
            let is = |field: &str| status[field].as_u64().unwrap_or(0) == replicas;
            if !is_observed(&set) || !is("readyReplicas") || !is("replicas") {
                return Err(status.to_string());
            }
            let pods = self.get(&["pods"])?;
            let pods = pods["items"].as_array().into_iter().flatten();
            let pods = pods.filter(|pod| is_of(pod, &set));
            let are_ready: Vec<bool> = pods
                .map(|pod| is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null())
                .collect();
            match are_ready.len() as u64 == replicas && !are_ready.contains(&false) {
                true => Ok(()),
                false => Err(format!("{status}, ready: {are_ready:?}")),
            }
        };
        let pods = || self.run(&["get", "pods", "-o", "wide"]).stdout;
        wait_for_or_report(&format!("{replicas} ready pods of {set}"), 180, ready, pods);
    }

    /// The pod, which must exist.
    ///
    /// # Panics
    ///
    /// The pod does not exist.
    #[track_caller]
    pub fn pod(&self, name: &str) -> Value {
        self.json(&["get", "pod", name])
    }

    /// The pod's address.
    ///
    /// # Panics
    ///
    /// The pod has no address.
    #[track_caller]
    pub fn pod_ip(&self, name: &str) -> String {
        self.pod(name)["status"]["podIP"]
            .as_str()
            .expect("the pod has an address")
            .to_owned()
    }

    /// Waits until pods, named as for `kubectl wait`, are Ready.
    ///
    /// # Panics
    ///
    /// The wait takes too long. The message describes the pods.
    #[track_caller]
    pub fn wait_pods_ready(&self, pods: &[&str]) {
        let wait = ["wait", "--for=condition=Ready", "--timeout=300s"];
        if let Err(output) = self.run(&[&wait[..], pods].concat()).success() {
            let described = self.run(&[&["describe"], pods].concat()).stdout;
            panic!("{pods:?} are not Ready: {output:#?}\n{described}");
        }
    }

    /// The only node.
    #[track_caller]
    fn node(&self) -> Value {
        self.json(&["get", "nodes"])["items"][0].take()
    }

    /// The name of the only node.
    ///
    /// # Panics
    /// There is no node.
    #[track_caller]
    pub fn node_name(&self) -> String {
        text(&self.node(), "/metadata/name").to_owned()
    }

    /// The address of the only node.
    ///
    /// # Panics
    ///
    /// The node has no address.
    #[track_caller]
    pub fn node_address(&self) -> String {
        let node = self.node();
        let addresses = node["status"]["addresses"].as_array();
        let mut addresses = addresses.into_iter().flatten();
        let internal = addresses.find(|address| address["type"] == "InternalIP");
        text(internal.expect("the node has an address"), "/address").to_owned()
    }

    /// Waits until a pod's first container has the given waiting reason.
    ///
    /// # Panics
    ///
    /// The wait takes too long.
    #[track_caller]
    pub fn wait_waiting(&self, pod: &str, reason: &str) {
        wait_for(&format!("{pod} to wait with {reason}"), 60, || {
            let status = self.get_for_wait(&["pod", pod])?["status"].clone();
            let state = &status["containerStatuses"][0]["state"];
            if state["waiting"]["reason"] == reason {
                Ok(())
            } else {
                Err(status)
            }
        });
    }

    /// Waits until a pod has the given phase.
    ///
    /// # Panics
    /// The wait takes too long.
    #[track_caller]
    pub fn wait_phase(&self, pod: &str, phase: &str) {
        wait_for(&format!("{pod} to be {phase}"), 60, || {
            let status = self.get_for_wait(&["pod", pod])?["status"].clone();
            if status["phase"] == phase {
                Ok(())
            } else {
                Err(status)
            }
        });
    }
}

/// Whether the status belongs to the current spec.
pub(crate) fn is_observed(set: &Value) -> bool {
    set["status"]["observedGeneration"] == set["metadata"]["generation"]
}

/// Whether an object has that owner.
fn is_of(object: &Value, owner: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    let mut owners = owners.into_iter().flatten();
    owners.any(|reference| reference["uid"] == owner["metadata"]["uid"])
}

/// Whether a pod or a node has the condition `Ready`.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The words of each line.
pub fn words(printed: &str) -> Vec<Vec<&str>> {
    let lines = printed.lines();
    lines
        .map(|line| line.split_whitespace().collect())
        .collect()
}

/// The string at a JSON pointer.
///
/// # Panics
///
/// There is no string at the pointer.
#[track_caller]
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("{pointer}: {value}"))
}
