//! The cost of nodes without pods: each node renews its Lease, writes its status periodically, and watches its pods, of
//! which there are none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::task::JoinSet;

use crate::follow::{AnyObject, follow};
use crate::memory::Memory;
use crate::nodes::{Heartbeats, HollowNodes, RENEWAL_PERIOD};
use crate::processor;
use crate::statistics::Summary;
use crate::target::BenchNamespace;

/// Figures of nodes without pods.
#[derive(Debug)]
pub struct IdleNodes {
    pub nodes: u32,
    pub span: Duration,
    /// Latencies of the renewals.
    pub renewals: Summary,
    /// Processor time of the server during the span.
    pub processor: Option<Duration>,
    /// Resident memory of the server, without and with the nodes, in bytes.
    pub resident: Option<[u64; 2]>,
}

impl IdleNodes {
    /// Processor time of the server per second, as a share of one processor.
    pub fn share(&self) -> Option<f64> {
        Some(self.processor?.as_secs_f64() / self.span.as_secs_f64())
    }
}

/// The nodes of a measurement. Their heartbeats stop when this value is dropped.
pub struct HeartbeatFixture {
    counted: Counted,
    resident_before: u64,
    nodes: HollowNodes,
}

impl HeartbeatFixture {
    /// Creates nodes.
    pub async fn prepare(target: &BenchNamespace, count: u32, server: &[u32]) -> Result<Self> {
        crate::output::warn(&format!("nodes: {count}"));
        let resident_before = Memory::of(server)?.resident;
        let counted = Counted::default();
        let nodes = HollowNodes::start(target, count, counted.clone()).await?;
        Ok(Self {
            counted,
            resident_before,
            nodes,
        })
    }

    /// Measures for that time.
    pub async fn measure(&self, span: Duration, server: &[u32]) -> Result<IdleNodes> {
        let mut watches = JoinSet::new();
        for (name, client) in self.nodes.each() {
            let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{name}");
            let (client, counted) = (client.clone(), self.counted.clone());
            watches.spawn(async move {
                if let Err(error) = follow::<AnyObject>(&client, &path, |_| {}).await {
                    counted.failed(&error);
                }
            });
        }
        // All effects of the creation of the nodes have ended by then.
        tokio::time::sleep(RENEWAL_PERIOD).await;
        self.counted.drain()?;
        let before = processor::time(server)?;
        tokio::time::sleep(span).await;
        let used = processor::time(server)?.saturating_sub(before);
        let latencies = self.counted.drain()?;
        let resident = [self.resident_before, Memory::of(server)?.resident];
        let has_processes = !server.is_empty();
        Ok(IdleNodes {
            nodes: u32::try_from(self.nodes.each().count())?,
            span,
            renewals: Summary::of(latencies),
            processor: has_processes.then_some(used),
            resident: has_processes.then_some(resident),
        })
    }
}

/// The latencies of renewals, and the first failure.
#[derive(Clone, Default)]
struct Counted {
    measured: Arc<Mutex<Measured>>,
}

#[derive(Default)]
struct Measured {
    latencies: Vec<Duration>,
    failure: Option<String>,
}

impl Counted {
    fn measured(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latencies since the last call.
    fn drain(&self) -> Result<Vec<Duration>> {
        let counted = std::mem::take(&mut *self.measured());
        match counted.failure {
            Some(failure) => bail!("a heartbeat failed: {failure}"),
            None => Ok(counted.latencies),
        }
    }
}

impl Heartbeats for Counted {
    fn renewed(&self, latency: Duration) {
        self.measured().latencies.push(latency);
    }

    fn failed(&self, error: &anyhow::Error) {
        self.measured().failure.get_or_insert(format!("{error:#}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_are_counted_until_one_fails() {
        let counted = Counted::default();
        counted.renewed(Duration::from_millis(1));
        assert_eq!(counted.drain().unwrap(), [Duration::from_millis(1)]);
        assert!(counted.drain().unwrap().is_empty());
        counted.failed(&anyhow::anyhow!("409 Conflict"));
        let failed = counted.drain().unwrap_err().to_string();
        assert_eq!(failed, "a heartbeat failed: 409 Conflict");
    }

    #[test]
    fn a_share_is_of_one_processor() {
        let idle = |processor| IdleNodes {
            nodes: 1,
            span: Duration::from_secs(10),
            renewals: Summary::default(),
            processor,
            resident: None,
        };
        assert_eq!(idle(Some(Duration::from_secs(1))).share(), Some(0.1));
        assert_eq!(idle(None).share(), None);
    }
}
