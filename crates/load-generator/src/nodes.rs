//! Nodes without containers: objects of the API, with the heartbeats of real nodes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use json_tree::{Value, json};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};

use crate::call::{Call, text};
use crate::target::BenchNamespace;

/// The label of the nodes of a measurement; its value is the namespace.
pub const NODE_LABEL: &str = "mainstay-bench/namespace";
/// The taint that keeps other pods away.
pub const TAINT: &str = "mainstay-bench/hollow";
/// The time between two renewals of a node's Lease; as kubelet. A node is lost after 50 seconds.
pub const RENEWAL_PERIOD: Duration = Duration::from_secs(10);
/// A node writes its status with each thirtieth renewal: every five minutes, as kubelet does.
const RENEWALS_PER_STATUS: usize = 30;
/// The namespace of the Leases.
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// Nodes that are created concurrently.
const AT_ONCE: usize = 16;
/// Maximum number of connections of all nodes, because a server may limit the connections of one address.
const CONNECTIONS: u32 = 100;
/// Maximum time until pods can be bound to the nodes.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A receiver of the result of each heartbeat: the latency of a renewal, or an error.
pub trait Heartbeats: Clone + Send + 'static {
    /// A Lease was renewed.
    fn renewed(&self, latency: Duration);
    /// A renewal or a status failed.
    fn failed(&self, error: &anyhow::Error);
}

/// Nodes; their heartbeats stop when this value is dropped.
pub struct HollowNodes {
    names: Vec<String>,
    clients: Vec<Client>,
    _tasks: JoinSet<()>,
}

impl HollowNodes {
    /// Creates nodes and waits until pods can be bound to them.
    pub async fn start(
        target: &BenchNamespace,
        count: u32,
        heartbeats: impl Heartbeats,
    ) -> Result<Self> {
        let names: Vec<String> = (0..count)
            .map(|number| format!("{}-{number}", target.namespace))
            .collect();
        let clients = target.clients(count.min(CONNECTIONS)).await?;
        let mut starting = JoinSet::new();
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        for (index, (name, client)) in names.iter().zip(clients.iter().cycle()).enumerate() {
            let (name, client, slots) = (name.clone(), client.clone(), slots.clone());
            let namespace = target.namespace.clone();
            starting.spawn(async move {
                let _slot = slots.acquire_owned().await;
                let node = Node::create(client, &name, &namespace).await?;
                anyhow::Ok((index, node))
            });
        }
        let mut tasks = JoinSet::new();
        while let Some(started) = starting.join_next().await {
            let (index, node) = started??;
            // The renewals of all nodes are distributed over the period.
            let first = RENEWAL_PERIOD * u32::try_from(index)? / count;
            tasks.spawn(node.live(index, first, heartbeats.clone()));
        }
        for name in &names {
            wait_until_free(&target.client, name).await?;
        }
        Ok(Self {
            names,
            clients,
            _tasks: tasks,
        })
    }

    /// Each node's name and the connection that it uses.
    pub fn each(&self) -> impl Iterator<Item = (&str, &Client)> {
        let clients = self.clients.iter().cycle();
        self.names.iter().map(String::as_str).zip(clients)
    }
}

/// Removes the nodes of the measurement.
pub async fn remove_nodes(target: &BenchNamespace) -> Result<()> {
    let selector = format!("labelSelector={NODE_LABEL}%3D{}", target.namespace);
    let deleted = Call::delete(format!("/api/v1/nodes?{selector}"));
    let deleted = deleted.send(&target.client).await;
    deleted.map(drop).with_context(|| {
        let namespace = &target.namespace;
        format!("remove the nodes: try `kubectl delete node -l {NODE_LABEL}={namespace}`")
    })
}

/// One node, and the version of its Lease after the node's last write.
struct Node {
    client: Client,
    name: String,
    version: String,
}

impl Node {
    /// Creates the Node, which owns its Lease, and the Lease.
    async fn create(client: Client, name: &str, namespace: &str) -> Result<Self> {
        let node = Call::post("/api/v1/nodes".to_owned(), &object(name, namespace));
        let node = node.json(&client).await.context("make a node")?;
        let owner = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "name": name,
            "uid": text(&node, "/metadata/uid")?,
        });
        let lease = json!({
            "metadata": {"name": name, "ownerReferences": [owner]},
            "spec": lease(name),
        });
        let lease = Call::post(LEASES.to_owned(), &lease);
        let lease = lease.json(&client).await.context("make a node's Lease")?;
        let node = Self {
            client,
            name: name.to_owned(),
            version: version(&lease)?,
        };
        node.write_status().await?;
        Ok(node)
    }

    async fn live(mut self, index: usize, first: Duration, heartbeats: impl Heartbeats) {
        let first = tokio::time::Instant::now() + first;
        let mut ticks = interval_at(first, RENEWAL_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in index.. {
            ticks.tick().await;
            let sent = Instant::now();
            match self.renew().await {
                Ok(()) => heartbeats.renewed(sent.elapsed()),
                Err(error) => heartbeats.failed(&error),
            }
            if number % RENEWALS_PER_STATUS == 0
                && let Err(error) = self.write_status().await
            {
                heartbeats.failed(&error);
            }
        }
    }

    /// Renews the Lease; fails if another client has written the Lease.
    async fn renew(&mut self) -> Result<()> {
        let patch = json!({
            "metadata": {"resourceVersion": self.version},
            "spec": lease(&self.name),
        });
        let patch = Call::merge_patch(format!("{LEASES}/{}", self.name), &patch);
        let renewed = patch.json(&self.client).await;
        self.version = version(&renewed.context("renew a node's Lease")?)?;
        Ok(())
    }

    /// Reports that the node is ready.
    async fn write_status(&self) -> Result<()> {
        let capacity = json!({"cpu": "10000", "memory": "10Ti", "pods": "100000"});
        let now = Timestamp::from_second(Timestamp::now().as_second())?;
        let status = json!({
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [{
                "type": "Ready",
                "status": "True",
                "reason": "KubeletReady",
                "lastHeartbeatTime": now.to_string(),
            }],
        });
        let uri = format!("/api/v1/nodes/{}/status", self.name);
        let written = Call::merge_patch(uri, &json!({"status": status}));
        let written = written.send(&self.client).await;
        written.map(drop).context("report that a node is ready")
    }
}

fn object(name: &str, namespace: &str) -> Value {
    json!({
        "metadata": {
            "name": name,
            "labels": {NODE_LABEL: namespace, "kubernetes.io/hostname": name},
        },
        "spec": {"taints": [{"key": TAINT, "effect": "NoSchedule"}]},
    })
}

fn lease(holder: &str) -> Value {
    json!({
        "holderIdentity": holder,
        "leaseDurationSeconds": 40,
        "renewTime": format!("{:.6}", Timestamp::now()),
    })
}

fn version(object: &Value) -> Result<String> {
    text(object, "/metadata/resourceVersion").map(str::to_owned)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pods_of_the_measurement_get_to_hollow_nodes() {
        let node = object("n", "ns");
        assert_eq!(node["metadata"]["labels"][NODE_LABEL], "ns");
        assert_eq!(node["spec"]["taints"][0]["effect"], "NoSchedule");
    }

    /// The form of `metav1.MicroTime`.
    #[test]
    fn a_renewal_has_microseconds() {
        let lease = lease("n");
        let time = lease["renewTime"].as_str().unwrap();
        assert_eq!(time.len(), "2026-01-01T00:00:00.000000Z".len(), "{time}");
    }
}
