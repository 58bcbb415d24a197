//! The lease of a simulated node, and the end of its pods with it.
//!
//! The keeper is the node agent's own (`node-lease`). The machine is simulated, its shims included: pods
//! end at the deadline without an agent, and none starts without a lease.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_client::{Api, Client, ResourceExt, Result};
use k8s_openapi::api::core::v1::Pod;
use node_lease::LeasedMachine;
use tokio::time::Instant;

use crate::instances::Instances;
use crate::trace;

/// The part of a machine that outlives its agent: the deadline page and the epoch. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MachineLease(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    epoch: i32,
    deadline: Option<Instant>,
    /// Counts the times at which bodies of before may not be started any more.
    turn: u64,
    /// For a mutation: bodies do not end at the deadline.
    outlived: bool,
}

impl MachineLease {
    /// A lease that bodies outlive, for a mutation.
    pub fn outlived() -> Self {
        let lease = Self::default();
        lease.kept().outlived = true;
        lease
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether bodies that end with the lease may run at that time.
    pub fn lets_run(&self, now: Instant) -> bool {
        let kept = self.kept();
        kept.outlived || kept.deadline.is_some_and(|deadline| now < deadline)
    }

    fn begin_turn(&self) {
        self.kept().turn += 1;
    }
}

/// Whether the body of a pod may be started: the pod is still bound to the node, and nothing that ends
/// its body has happened in the meantime.
pub(super) async fn may_start(
    lease: &MachineLease,
    client: &Client,
    node: &str,
    pod: &Pod,
) -> Result<bool> {
    let turn = lease.kept().turn;
    if !lease.lets_run(Instant::now()) {
        return Ok(false);
    }
    let namespace = pod.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let found = pods.get_opt(&pod.name_any()).await?;
    let bound = found.is_some_and(|found| {
        let on = found
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref());
        found.metadata.uid == pod.metadata.uid && on == Some(node)
    });
    Ok(bound && lease.kept().turn == turn && lease.lets_run(Instant::now()))
}

/// The machine of a simulated node, for the keeper of its lease.
pub(super) struct Machine {
    pub node: String,
    pub instances: Instances,
    pub lease: MachineLease,
}

impl LeasedMachine for Machine {
    type Instant = Instant;
    type Closed = ();
    type Error = api_client::Error;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn epoch(&self) -> i32 {
        self.lease.kept().epoch
    }

    async fn close(&self) {
        self.lease.begin_turn();
    }

    async fn end_pods(&mut self) -> Result<()> {
        trace!("{} was fenced and ends its leased pods", self.node);
        self.lease.kept().deadline = None;
        self.instances.end_leased(&self.node);
        Ok(())
    }

    fn store_epoch(&mut self, epoch: i32) -> Result<()> {
        self.lease.kept().epoch = epoch;
        Ok(())
    }

    fn set_deadline(&mut self, deadline: Instant) {
        // Pods that ended at the former deadline do not run on.
        if !self.lease.lets_run(Instant::now()) {
            self.instances.end_leased(&self.node);
        }
        self.lease.kept().deadline = Some(deadline);
    }
}
