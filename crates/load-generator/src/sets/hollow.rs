//! Nodes without containers: objects of the API, and one task that answers for the kubelets of all
//! of them. A bound pod is Running and Ready at once, and a deleted one is removed at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::views::{Views, follow};
use crate::call::{Call, is_not_found};
use crate::target::Target;

/// The label of the nodes of a measurement; its value is the namespace.
pub(super) const NODE_LABEL: &str = "mainstay-bench/namespace";
/// The taint that keeps other pods away.
pub(super) const TAINT: &str = "mainstay-bench/hollow";
/// As many as a cluster of some size has, so that scheduling has a choice.
const NODES: usize = 10;
/// Concurrent writes of the kubelets.
const WRITES: usize = 32;
/// Interval of the nodes' heartbeats. A node is lost after 40 seconds.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Maximum time until the nodes take pods.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Hollow nodes; their tasks end with this value.
pub(super) struct Hollow {
    _tasks: JoinSet<()>,
}

/// A kubelet's answer to the state of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Run,
    Remove,
}

impl Hollow {
    /// Creates the nodes and waits until pods can be bound to them.
    pub async fn start(target: &Target, views: &Arc<Views>) -> Result<Self> {
        let names: Vec<String> = (0..NODES)
            .map(|number| format!("{}-{number}", target.namespace))
            .collect();
        let client = &target.client;
        for name in &names {
            let node = node(name, &target.namespace);
            let made = Call::post("/api/v1/nodes".to_owned(), &node).send(client);
            made.await.context("make a node")?;
            beat(client, name).await?;
        }
        for name in &names {
            wait_until_free(client, name).await?;
        }
        let mut tasks = JoinSet::new();
        let (beating, failing) = (client.clone(), views.clone());
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                for name in &names {
                    if let Err(error) = beat(&beating, name).await {
                        failing.fail(&error);
                    }
                }
            }
        });
        let path = format!("/api/v1/namespaces/{}/pods", target.namespace);
        let kubelet = Kubelet {
            // A connection of its own, so that the kubelets do not wait for other requests.
            client: target.clients(1).await?.remove(0),
            path,
            views: views.clone(),
            slots: Arc::new(Semaphore::new(WRITES)),
        };
        tasks.spawn(kubelet.run());
        Ok(Self { _tasks: tasks })
    }
}

/// Removes the nodes of the measurement.
pub async fn remove_nodes(target: &Target) -> Result<()> {
    let selector = format!("labelSelector={NODE_LABEL}%3D{}", target.namespace);
    let deleted = Call::delete(format!("/api/v1/nodes?{selector}"));
    let deleted = deleted.send(&target.client).await;
    deleted.map(drop).with_context(|| {
        let namespace = &target.namespace;
        format!("remove the nodes: try `kubectl delete node -l {NODE_LABEL}={namespace}`")
    })
}

fn node(name: &str, namespace: &str) -> Value {
    json!({
        "metadata": {
            "name": name,
            "labels": {NODE_LABEL: namespace, "kubernetes.io/hostname": name},
        },
        "spec": {"taints": [{"key": TAINT, "effect": "NoSchedule"}]},
    })
}

/// Reports that a node is ready.
async fn beat(client: &Client, name: &str) -> Result<()> {
    let room = json!({"cpu": "10000", "memory": "10Ti", "pods": "100000"});
    let status = json!({
        "capacity": room,
        "allocatable": room,
        "conditions": [{
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "lastHeartbeatTime": Timestamp::from_second(Timestamp::now().as_second())?.to_string(),
        }],
    });
    let uri = format!("/api/v1/nodes/{name}/status");
    let written = Call::merge_patch(uri, &json!({"status": status}));
    let written = written.send(client).await;
    written.map(drop).context("report that a node is ready")
}

async fn wait_until_free(client: &Client, name: &str) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    while Instant::now() < deadline {
        let node = Call::get(format!("/api/v1/nodes/{name}"));
        let node = node.json(client).await.context("read a node")?;
        let taints = node["spec"]["taints"].as_array();
        if taints.is_none_or(|taints| taints.iter().all(|taint| taint["key"] == TAINT)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the node {name} takes no pods after {READY_WITHIN:?}")
}

/// The kubelets of all nodes.
struct Kubelet {
    client: Client,
    path: String,
    views: Arc<Views>,
    slots: Arc<Semaphore>,
}

impl Kubelet {
    async fn run(self) {
        let mut given = BTreeSet::new();
        let mut started = 0;
        let seen = follow(&self.client, &self.path, |is_gone, pod| {
            self.views.see_pod(is_gone, &pod);
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
            if is_gone {
                for answer in [Answer::Run, Answer::Remove] {
                    given.remove(&(uid.to_owned(), answer));
                }
                return;
            }
            let Some(answer) = answer(&pod) else {
                return;
            };
            // Other events come before the view shows the answer.
            if given.insert((uid.to_owned(), answer)) {
                started += u32::from(answer == Answer::Run);
                self.give(answer, &pod, started);
            }
        });
        if let Err(error) = seen.await {
            self.views.fail(&error);
        }
    }

    fn give(&self, answer: Answer, pod: &Value, number: u32) {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let uri = format!("{}/{name}", self.path);
        let call = match answer {
            Answer::Run => Call::merge_patch(format!("{uri}/status"), &running(pod, number)),
            Answer::Remove => Call::delete(format!("{uri}?gracePeriodSeconds=0")),
        };
        let (client, views, slots) = (self.client.clone(), self.views.clone(), self.slots.clone());
        tokio::spawn(async move {
            let _slot = slots.acquire_owned().await;
            match call.send(&client).await {
                Err(error) if !is_not_found(&error) => views.fail(&error.context("a kubelet")),
                _ => {}
            }
        });
    }
}

fn answer(pod: &Value) -> Option<Answer> {
    pod["spec"]["nodeName"].as_str()?;
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return Some(Answer::Remove);
    }
    (pod["status"]["phase"] != "Running").then_some(Answer::Run)
}

/// The status of the pod with that number.
fn running(pod: &Value, number: u32) -> Value {
    let [_, high, middle, low] = number.to_be_bytes();
    let address = format!("10.{high}.{middle}.{low}");
    let spec = &pod["spec"]["containers"][0];
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];
    let conditions = conditions.map(|kind| json!({"type": kind, "status": "True"}));
    json!({
        "metadata": {"uid": pod["metadata"]["uid"]},
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": conditions,
            "containerStatuses": [{
                "name": spec["name"],
                "image": spec["image"],
                "imageID": "",
                "ready": true,
                "started": true,
                "restartCount": 0,
                "state": {"running": {}},
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_runs_bound_pods_and_removes_deleted_ones() {
        let mut pod = json!({"metadata": {"name": "a-0", "uid": "u"}, "spec": {}, "status": {}});
        assert_eq!(answer(&pod), None);
        pod["spec"]["nodeName"] = json!("n");
        assert_eq!(answer(&pod), Some(Answer::Run));
        pod["status"] = running(&pod, 258)["status"].take();
        assert_eq!(pod["status"]["podIP"], "10.0.1.2");
        assert_eq!(answer(&pod), None);
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(answer(&pod), Some(Answer::Remove));
    }

    #[test]
    fn only_the_pods_of_the_measurement_get_to_hollow_nodes() {
        let node = node("n", "ns");
        assert_eq!(node["metadata"]["labels"][NODE_LABEL], "ns");
        assert_eq!(node["spec"]["taints"][0]["effect"], "NoSchedule");
    }
}
