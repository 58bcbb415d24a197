//! One task that acts as the kubelets of all nodes without containers. A bound pod is Running and Ready at once, and a
//! deleted pod is removed at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use json_tree::{Value, json};
use kube::Client;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::pod::Pod;
use super::views::Views;
use crate::call::{Call, is_not_found};
use crate::follow::{ObjectChange, follow};
use crate::nodes::HollowNodes;
use crate::target::BenchNamespace;

/// Concurrent writes of the kubelets.
const WRITES: usize = 32;

/// Hollow nodes with their kubelets; the tasks stop when this value is dropped.
pub(super) struct Hollow {
    _nodes: HollowNodes,
    _tasks: JoinSet<()>,
}

/// The write of a kubelet after a change of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PodAction {
    Run,
    Remove,
}

impl Hollow {
    /// Creates the nodes and waits until pods can be bound to them.
    pub async fn start(target: &BenchNamespace, count: u32, views: &Arc<Views>) -> Result<Self> {
        let nodes = HollowNodes::start(target, count, views.clone()).await?;
        let path = format!("/api/v1/namespaces/{}/pods", target.namespace);
        let kubelet = Kubelet {
            // A separate connection, so that the kubelets do not wait for other requests.
            client: target.clients(1).await?.remove(0),
            path,
            views: views.clone(),
            slots: Arc::new(Semaphore::new(WRITES)),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(kubelet.run());
        Ok(Self {
            _nodes: nodes,
            _tasks: tasks,
        })
    }
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
        // The last write for each pod, by its name. Events from before the write may arrive after it.
        let mut responses = BTreeMap::new();
        let mut started = 0;
        let followed = follow(&self.client, &self.path, |change: ObjectChange<Pod>| {
            self.views.see_pod(&change);
            let pod = match change {
                ObjectChange::Put(pod) => pod,
                ObjectChange::Deleted(name) => {
                    responses.remove(&name);
                    return;
                }
            };
            let Some(reply) = action(&pod) else {
                return;
            };
            let now = (pod.metadata.uid.clone(), reply);
            if responses.get(&pod.metadata.name) != Some(&now) {
                responses.insert(pod.metadata.name.clone(), now);
                started += u32::from(reply == PodAction::Run);
                self.send(reply, &pod, started);
            }
        });
        if let Err(error) = followed.await {
            self.views.fail(&error);
        }
    }

    fn send(&self, reply: PodAction, pod: &Pod, number: u32) {
        let uri = format!("{}/{}", self.path, pod.metadata.name);
        let call = match reply {
            PodAction::Run => Call::merge_patch(format!("{uri}/status"), &running(pod, number)),
            PodAction::Remove => Call::delete(format!("{uri}?gracePeriodSeconds=0")),
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

fn action(pod: &Pod) -> Option<PodAction> {
    if pod.spec.node_name.is_empty() {
        return None;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(PodAction::Remove);
    }
    (pod.status.phase != "Running").then_some(PodAction::Run)
}

/// The status of the pod with that number.
fn running(pod: &Pod, number: u32) -> Value {
    let [_, high, middle, low] = number.to_be_bytes();
    let address = format!("10.{high}.{middle}.{low}");
    let container = pod.spec.containers.first().cloned().unwrap_or_default();
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];
    let conditions = conditions.map(|kind| json!({"type": kind, "status": "True"}));
    json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": conditions,
            "containerStatuses": [{
                "name": container.name,
                "image": container.image,
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
        let decoded = |pod: &Value| json_tree::from_value::<Pod>(pod.clone()).unwrap();
        assert_eq!(action(&decoded(&pod)), None);
        pod["spec"]["nodeName"] = json!("n");
        assert_eq!(action(&decoded(&pod)), Some(PodAction::Run));
        pod["status"] = running(&decoded(&pod), 258)["status"].take();
        assert_eq!(pod["status"]["podIP"], "10.0.1.2");
        assert_eq!(action(&decoded(&pod)), None);
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(action(&decoded(&pod)), Some(PodAction::Remove));
    }
}
