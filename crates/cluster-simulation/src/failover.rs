//! The phases of a failover, in simulated time: from the last renewal of a lost node's Lease to the end of its
//! pod, to the fence, and to the pod that runs on another node (docs/node-failure.md).

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube_api_client::{Api, ResourceExt};
use resource_kinds::namespaces::NODE_LEASES;
use tokio::time::{Instant, sleep};

use crate::lifetimes::{AtNodeLoss, Lives, Sets, is_ready_with};
use crate::run;
use crate::user::NAMESPACE;

/// The loss of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The machine is switched off.
    Power,
    /// The agent stops; the pod runs until the lease ends.
    Agent,
    /// The link of the machine is cut.
    Link,
}

/// The times since the last renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailoverTimes {
    /// The pod has ended on the lost node.
    pub ended: Duration,
    /// The control plane has fenced the node's Lease.
    pub fenced: Duration,
    /// The pod is ready on another node.
    pub ready: Duration,
}

/// The startup time of a container on a node that has its image.
const STARTUP_MILLIS: (u64, u64) = (1_000, 1_000);
/// The interval of the checks, which is the error of the times.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Maximum time of a step; longer than any failover.
const WITHIN: Duration = Duration::from_secs(300);

/// Loses the node of a pod right after a renewal of its Lease, which is the longest failover.
///
/// # Errors
/// The pod does not become ready on another node.
pub fn failover(loss: Loss) -> Result<FailoverTimes> {
    run::run_on_thread(1, move || measure(loss, None))?
}

/// As [`failover`], with controllers that are killed again and again, each time after they have run for `every`.
///
/// # Errors
///
/// The pod does not become ready on another node.
pub fn failover_with_restarts(loss: Loss, every: Duration) -> Result<FailoverTimes> {
    run::run_on_thread(1, move || measure(loss, Some(every)))?
}

async fn measure(loss: Loss, restarts: Option<Duration>) -> Result<FailoverTimes> {
    let single_set = Sets {
        number: 1,
        replicas: 1,
    };
    let lives = Lives::prepare(single_set, STARTUP_MILLIS, AtNodeLoss::Failover).await?;
    lives.create().await?;
    let pods: Api<Pod> = lives.api();
    let leases: Api<Lease> = Api::namespaced(lives.client.clone(), NODE_LEASES);
    let pod = pods.get("set-0-0").await?;
    let node = node_of(&pod).context("the pod has no node")?;
    let machines = &lives.cluster.machines;
    let machine = machines.iter().find(|machine| machine.name() == node);
    let machine = machine.context("the node is no machine")?;
    let before = leases.get(&node).await?.resource_version();
    wait_until(async || Ok(leases.get(&node).await?.resource_version() != before)).await?;
    let renewed = Instant::now();
    match loss {
        Loss::Power => machine.crash(),
        Loss::Agent => machine.crash_agent(),
        Loss::Link => machine.set_cut_off(true),
    }
    if let Some(every) = restarts {
        let controllers = lives.cluster.controllers.clone();
        tokio::spawn(async move {
            loop {
                sleep(every).await;
                controllers.kill();
            }
        });
    }
    let identity = (NAMESPACE.to_owned(), pod.name_any());
    let runs = || !lives.cluster.instances.running(&node, &identity).is_empty();
    let mut ended = None;
    let mut check_now = || {
        if !runs() {
            ended.get_or_insert_with(|| renewed.elapsed());
        }
    };
    wait_until(async || {
        check_now();
        let spec = leases.get(&node).await?.spec.unwrap_or_default();
        Ok(spec.holder_identity.is_none_or(|holder| holder.is_empty()))
    })
    .await?;
    let fenced = renewed.elapsed();
    wait_until(async || {
        check_now();
        let pod = pods.get_opt("set-0-0").await?;
        Ok(pod.is_some_and(|pod| {
            node_of(&pod).is_some_and(|other| other != node) && is_ready_with(&pod, "v1")
        }))
    })
    .await?;
    Ok(FailoverTimes {
        ended: ended.context("the pod runs on the lost node")?,
        fenced,
        ready: renewed.elapsed(),
    })
}

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

async fn wait_until(
    mut condition: impl AsyncFnMut() -> kube_api_client::Result<bool>,
) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < WITHIN {
        if condition().await.context("ask the API server")? {
            return Ok(());
        }
        sleep(POLL_INTERVAL).await;
    }
    bail!("the failover does not go on")
}
