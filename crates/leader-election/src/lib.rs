//! Leader election among the servers of a shared store: controllers and scheduler run on one of the servers.
//!
//! [`controller_planners::leader_election`] decides; this crate reads and writes the Lease, starts the components of a lead, and
//! stops them before another server may lead.

mod term;

use std::sync::Arc;
use std::time::Duration;

use controller_framework::{Cache, WatchConfig};
use controller_planners::leader_election::{
    Candidate, ElectionDecision, HolderIdentity, LENGTH, LeaderLease, RENEW_DEADLINE, RETRY,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube_api_client::guarded_writes::{self, WriteRefusal, refusal};
use kube_api_client::{Api, Client, PostParams};
use resource_kinds::namespaces::KUBE_SYSTEM;
use tokio_util::sync::CancellationToken;

pub use term::{Clock, Term, during};

/// The Lease of the leader.
const LEASE: &str = "mainstay";

/// The components that run during a lead.
pub trait Lead: Send {
    /// Stops the components in order.
    fn end(self) -> impl Future<Output = ()> + Send;
    /// Stops the components at once.
    fn abort(self) -> impl Future<Output = ()> + Send;
}

/// A server in the election.
pub struct Election {
    leases: Api<Lease>,
    clock: Clock,
    candidate: Candidate,
    /// The Lease after the last read or write.
    object: Lease,
    /// The begin of this server's lead, for users.
    acquired: Option<Timestamp>,
}

impl Election {
    /// A candidate with an identity that is unique among all processes; a process uses its identity only once.
    pub fn new(client: Client, identity: HolderIdentity, clock: Clock) -> Self {
        Self {
            leases: Api::namespaced(client, KUBE_SYSTEM),
            clock,
            candidate: Candidate::new(identity),
            object: Lease::default(),
            acquired: None,
        }
    }

    /// Takes part in the election until `stop`; runs the components of each lead, and stops them with the lead. At the
    /// end the Lease is released, so that another server leads at once.
    pub async fn run<L: Lead>(
        mut self,
        stop: CancellationToken,
        mut start: impl FnMut(&Arc<Term>) -> L,
    ) {
        let config = WatchConfig::default().fields(&format!("metadata.name={LEASE}"));
        let changes = Cache::spawn(self.leases.clone(), config, stop.clone());
        loop {
            let won = stop.run_until_cancelled(self.win(&changes)).await;
            let Some(term) = won else {
                self.release().await;
                return;
            };
            tracing::info!("this server leads: controllers and scheduler start");
            let parts = start(&term);
            self.hold(&term, &stop).await;
            if stop.is_cancelled() {
                parts.end().await;
                term.end();
                self.release().await;
                return;
            }
            tracing::warn!("this server leads no more: controllers and scheduler stop");
            term.end();
            parts.abort().await;
        }
    }

    /// Tries to acquire the lead, at each change of the Lease and every two seconds.
    async fn win(&mut self, changes: &Cache<Lease>) -> Arc<Term> {
        let mut changed = changes.subscribe();
        loop {
            self.attempt(RENEW_DEADLINE).await;
            let now = (self.clock)();
            if let Some(until) = self.candidate.leads_until().filter(|until| now < *until) {
                return Term::new(until, self.clock);
            }
            let wait = match self.candidate.decide(now) {
                ElectionDecision::Wait(left) if left > SignedDuration::ZERO => left,
                _ => RETRY,
            };
            tokio::select! {
                Some(_) = changed.next() => {}
                () = tokio::time::sleep(std(wait)) => {}
            }
        }
    }

    /// Renews the lead until it is lost, or until `stop`.
    async fn hold(&mut self, term: &Term, stop: &CancellationToken) {
        while let Some(until) = self.candidate.leads_until() {
            let left = until.saturating_sub((self.clock)());
            if left <= SignedDuration::ZERO {
                return;
            }
            let pause = tokio::time::sleep(std(RETRY.min(left)));
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
            let left = until.saturating_sub((self.clock)());
            if stop.run_until_cancelled(self.attempt(left)).await.is_none() {
                return;
            }
            if let Some(until) = self.candidate.leads_until() {
                term.prolong(until);
            }
        }
    }

    /// One attempt, within a time limit. A write without a response may be executed; the next read of the Lease reveals
    /// this.
    async fn attempt(&mut self, within: SignedDuration) {
        let written = tokio::time::timeout(std(within), self.write()).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the Lease of the leader: {error}"),
            Err(_) => tracing::warn!("the Lease of the leader is not written in time"),
        }
    }

    async fn write(&mut self) -> kube_api_client::Result<()> {
        if !self.candidate.leads((self.clock)()) {
            self.read_lease().await?;
        }
        let sent = (self.clock)();
        let params = PostParams::default();
        let written = match self.candidate.decide(sent) {
            ElectionDecision::Wait(_) => return Ok(()),
            ElectionDecision::Create => self.leases.create(&params, &self.as_holder(0, true)).await,
            ElectionDecision::Acquire { transitions } => {
                let lease = self.as_holder(transitions, true);
                self.leases.replace(LEASE, &params, &lease).await
            }
            ElectionDecision::Renew => {
                let transitions = self.candidate.lease().map_or(0, |lease| lease.transitions);
                let lease = self.as_holder(transitions, false);
                self.leases.replace(LEASE, &params, &lease).await
            }
        };
        match written {
            Ok(lease) => {
                let written = LeaderLease::try_from(&lease)?;
                let spec = lease.spec.as_ref();
                self.acquired = spec.and_then(|spec| Some(spec.acquire_time.as_ref()?.0));
                self.candidate.wrote(written, sent, (self.clock)());
                self.object = lease;
                Ok(())
            }
            Err(error) => match refusal(&error) {
                WriteRefusal::NotFound | WriteRefusal::Conflict | WriteRefusal::AlreadyExists => {
                    self.read_lease().await
                }
                _ => Err(error),
            },
        }
    }

    async fn read_lease(&mut self) -> kube_api_client::Result<()> {
        let read = self.leases.get_opt(LEASE).await?;
        let lease = read.as_ref().map(LeaderLease::try_from).transpose()?;
        self.candidate.saw(lease, (self.clock)());
        self.object = read.unwrap_or_default();
        Ok(())
    }

    /// The Lease as a holder writes it, over the observed version.
    fn as_holder(&self, transitions: i32, anew: bool) -> Lease {
        let now = Timestamp::now();
        let acquired = self.acquired.filter(|_| !anew).unwrap_or(now);
        self.with(LeaseSpec {
            holder_identity: Some(self.candidate.identity().to_string()),
            lease_duration_seconds: i32::try_from(LENGTH.as_secs()).ok(),
            acquire_time: Some(MicroTime(acquired)),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        })
    }

    fn with(&self, spec: LeaseSpec) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(LEASE.to_owned()),
                namespace: Some(KUBE_SYSTEM.to_owned()),
                ..self.object.metadata.clone()
            },
            spec: Some(spec),
        }
    }

    /// Releases the Lease if this server holds it.
    async fn release(&mut self) {
        match tokio::time::timeout(std(RETRY), self.give_back()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the Lease of the leader is not released: {error}"),
            Err(_) => tracing::warn!("the Lease of the leader is not released in time"),
        }
    }

    /// Releases the Lease as client-go does: without a holder, for one second. The Lease is read before the write,
    /// because the last write may have had no response.
    async fn give_back(&mut self) -> kube_api_client::Result<()> {
        self.read_lease().await?;
        let Some(lease) = self.candidate.lease() else {
            return Ok(());
        };
        if lease.holder.as_ref() != Some(self.candidate.identity()) {
            return Ok(());
        }
        let now = Some(MicroTime(Timestamp::now()));
        let released = self.with(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: now.clone(),
            renew_time: now,
            lease_transitions: Some(lease.transitions),
            ..LeaseSpec::default()
        });
        let params = PostParams::default();
        let written = self.leases.replace(LEASE, &params, &released).await;
        guarded_writes::unless_outrun(written).map(drop)
    }
}

fn std(time: SignedDuration) -> Duration {
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests;
