//! The lease of a simulated node, and the end of its pods with the lease.
//!
//! The keeper is that of the node agent (`node-lease`). The machine is simulated, including its shims: pods end at the
//! deadline without an agent, and no pod starts without a lease.

use std::ops::Add;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use kube_api_client::{Api, Client, ResourceExt, Result};
use node_lease::{LeaseLength, LeasedMachine};
use tokio::time::Instant;

use super::WallClock;
use crate::instances::Instances;
use crate::trace;

/// The part of a machine that survives its agent: the deadline page and the epoch. Clones share the part.
#[derive(Clone, Debug, Default)]
pub struct MachineLease(Arc<Mutex<LeaseState>>);

#[derive(Debug)]
struct LeaseState {
    epoch: i32,
    deadline: Option<Reading>,
    /// Incremented whenever earlier instances must not be started again.
    generation: u64,
    clock: Clock,
    /// For a mutation.
    flaw: Option<LeaseFlaw>,
}

impl Default for LeaseState {
    fn default() -> Self {
        Self {
            epoch: 0,
            deadline: None,
            generation: 0,
            clock: Clock::new(100),
            flaw: None,
        }
    }
}

/// A mistake in the lease of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseFlaw {
    /// Instances do not end at the deadline.
    Outlived,
    /// The deadline counts from the response to a renewal, not from its request.
    FromResponse,
    /// The deadline is a reading of the wall clock.
    WallClock,
}

/// The clock of a machine, which has a separate rate.
#[derive(Clone, Debug)]
struct Clock {
    begun: Instant,
    percent: u32,
    /// For a mutation: the clock follows this wall clock.
    wall: Option<WallClock>,
}

/// A time that is longer than any error of a wall clock.
const LONG_AGO: SignedDuration = SignedDuration::from_hours(24);

impl Clock {
    fn new(percent: u32) -> Self {
        Self {
            begun: Instant::now(),
            percent,
            wall: None,
        }
    }

    fn read(&self, now: Instant) -> Reading {
        let elapsed = (now - self.begun) * self.percent / 100;
        let wall = self.wall.iter().map(|wall| LONG_AGO + wall.error());
        let wall = wall.filter_map(|wall| Duration::try_from(wall).ok());
        Reading(elapsed + wall.sum::<Duration>())
    }
}

/// A reading of a machine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reading(Duration);

impl Add<Duration> for Reading {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}

impl MachineLease {
    /// The lease of a machine whose monotonic clock has this rate, in percent of the control plane's clock rate.
    pub fn new(percent: u32, wall: &WallClock, flaw: Option<LeaseFlaw>) -> Self {
        let lease = Self::default();
        {
            let mut state = lease.state();
            state.clock = Clock::new(percent);
            if flaw == Some(LeaseFlaw::WallClock) {
                state.clock.wall = Some(wall.clone());
            }
            state.flaw = flaw;
        }
        lease
    }

    fn state(&self) -> MutexGuard<'_, LeaseState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether instances that end with the lease may run at that time.
    pub fn allows_running(&self, now: Instant) -> bool {
        let state = self.state();
        state.flaw == Some(LeaseFlaw::Outlived)
            || state
                .deadline
                .is_some_and(|deadline| state.clock.read(now) < deadline)
    }

    fn begin_generation(&self) {
        self.state().generation += 1;
    }
}

/// Whether the instance of a pod may be started: the pod is still bound to the node, and no event that ends its
/// instance has happened since the decision.
pub(super) async fn may_start(
    lease: &MachineLease,
    client: &Client,
    node: &str,
    pod: &Pod,
) -> Result<bool> {
    let generation = lease.state().generation;
    if !lease.allows_running(Instant::now()) {
        return Ok(false);
    }
    let namespace = pod.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let current_pod = pods.get_opt(&pod.name_any()).await?;
    let is_bound = current_pod.is_some_and(|current_pod| {
        let bound_node = current_pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref());
        current_pod.metadata.uid == pod.metadata.uid && bound_node == Some(node)
    });
    Ok(is_bound && lease.state().generation == generation && lease.allows_running(Instant::now()))
}

/// The machine of a simulated node, for the keeper of its lease.
pub(super) struct Machine {
    pub node: String,
    pub instances: Instances,
    pub lease: MachineLease,
}

impl LeasedMachine for Machine {
    type Instant = Reading;
    type Closed = ();
    type Error = kube_api_client::Error;

    fn now(&self) -> Reading {
        self.lease.state().clock.read(Instant::now())
    }

    fn epoch(&self) -> i32 {
        self.lease.state().epoch
    }

    async fn close(&self) {
        self.lease.begin_generation();
    }

    async fn end_pods(&mut self) -> Result<()> {
        trace!("{} was fenced and ends its leased pods", self.node);
        self.lease.state().deadline = None;
        self.instances.end_leased(&self.node);
        Ok(())
    }

    fn store_epoch(&mut self, epoch: i32) -> Result<()> {
        self.lease.state().epoch = epoch;
        Ok(())
    }

    fn set_deadline(&mut self, deadline: Reading) -> Result<()> {
        // Pods that ended at the former deadline are not continued.
        if !self.lease.allows_running(Instant::now()) {
            self.instances.end_leased(&self.node);
        }
        let now = self.now();
        let mut state = self.lease.state();
        state.deadline = Some(match state.flaw {
            Some(LeaseFlaw::FromResponse) => now + LeaseLength::DEFAULT.duration(),
            _ => deadline,
        });
        Ok(())
    }
}
