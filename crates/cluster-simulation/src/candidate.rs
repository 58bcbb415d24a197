//! A server over etcd: its API, its candidacy in the election, and the controllers and the scheduler of a leader.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ptr::fn_addr_eq;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use controller_planners::leader_election::{ClockReading, HolderIdentity};
use etcd_store::{EtcdOptions, EtcdStore};
use jiff::SignedDuration;
use kube_api_server::UserInfo;
use leader_election::{Clock, Election, Lead, Term, during};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::control_plane::{Component, ComponentRun, start_server};
use crate::etcd::{Cluster, MEMBERS, StoreLink};
use crate::flawed_store::{FlawedStore, StoreFlaw};
use crate::link::{Address, Conditions, Incarnation, Link};
use crate::process::Process;
use crate::{system, trace};

/// The interval of clock reads for the mutation that caches the clock.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The properties that differ between servers.
#[derive(Clone, Copy)]
pub struct Traits {
    /// The name of the server.
    pub name: &'static str,
    /// The clock that limits its leadership.
    pub clock: Clock,
    /// The etcd member to which the server connects first.
    pub member: usize,
    /// For a mutation: a defect of its store.
    pub flaw: Option<StoreFlaw>,
    /// For a mutation: the controllers and the scheduler can use the API even after their leadership has ended.
    pub is_unguarded: bool,
}

/// A server, running or stopped.
pub struct Candidate {
    traits: Traits,
    etcd: Arc<Cluster>,
    terms: Terms,
    /// Its connection to the store.
    pub link: Arc<StoreLink>,
    /// The address of the server for clients.
    pub address: Address,
    process: Process,
    /// Lock that keeps a start and an orderly stop of the server from running at the same time.
    start_stop_lock: tokio::sync::Mutex<()>,
    starts: AtomicU64,
    running: Mutex<Option<Running>>,
}

/// The tasks of a running server.
struct Running {
    /// Cancelled when the process of the server has ended.
    dead: CancellationToken,
    clock_task: Option<AbortHandle>,
    election: JoinHandle<()>,
    stop: CancellationToken,
}

impl Candidate {
    /// A server that is not running yet.
    pub fn new(traits: Traits, etcd: Arc<Cluster>, terms: Terms) -> Self {
        Self {
            traits,
            etcd,
            terms,
            link: Arc::default(),
            address: Address::default(),
            process: Process::default(),
            start_stop_lock: tokio::sync::Mutex::default(),
            starts: AtomicU64::new(0),
            running: Mutex::new(None),
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the server unless it runs. If the store is unreachable, the server stops again.
    pub async fn start(&self) {
        let _guard = self.start_stop_lock.lock().await;
        if self.running().is_some() {
            return;
        }
        let Traits { name, clock, .. } = self.traits;
        let dead = CancellationToken::new();
        let mut endpoints = Cluster::endpoints();
        endpoints.rotate_left(self.traits.member % MEMBERS);
        let options = EtcdOptions {
            dialer: Some(self.etcd.dialer(&self.link, dead.clone())),
            ..EtcdOptions::new(endpoints)
        };
        let store = match EtcdStore::connect(&options).await {
            Ok(store) => FlawedStore::over(store, self.traits.flaw),
            Err(error) => {
                dead.cancel();
                return trace!("server {name} does not start: {error}");
            }
        };
        let server = match start_server(store).await {
            Ok(server) => server,
            Err(error) => {
                dead.cancel();
                return trace!("server {name} does not start: {error}");
            }
        };
        let down = CancellationToken::new();
        let process = self.process.clone();
        *self.incarnation() = Some(Incarnation {
            server,
            down,
            process,
        });
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        let identity = format!("{name}-{start}");
        trace!("server {identity} up");
        let user = UserInfo::new("system:apiserver", ["system:masters"]);
        let link = Link::new(name, user, self.address.clone(), Arc::default()).inside();
        let clock_task = fn_addr_eq(clock, cached_clock as Clock).then(|| {
            CACHED_CLOCK.set(uptime());
            self.spawn(update_clock()).abort_handle()
        });
        let holder = HolderIdentity::new(&identity).expect("a name is not empty");
        let election = Election::new(link.client(), holder, clock);
        let (stop, address) = (CancellationToken::new(), self.address.clone());
        let terms = self.terms.clone();
        let is_unguarded = self.traits.is_unguarded;
        let election = election.run(stop.clone(), move |term| {
            terms.begin_term(&identity, term);
            Components::start(term, &address, is_unguarded)
        });
        *self.running() = Some(Running {
            dead,
            clock_task,
            election: self.spawn(election),
            stop,
        });
    }

    /// Spawns a task that is suspended whenever the process is suspended.
    fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let process = self.process.clone();
        tokio::spawn(async move { process.run(work).await })
    }

    /// Suspends the process for a while, at any point of its work.
    pub async fn pause(&self, time: Duration) {
        trace!("server {} stands still", self.traits.name);
        self.process.set_suspended(true);
        self.link.set_cut(true);
        sleep(time).await;
        trace!("server {} goes on", self.traits.name);
        self.link.set_cut(false);
        self.process.set_suspended(false);
    }

    /// Kills the process at any point of its work.
    pub fn crash(&self) {
        self.process.set_suspended(false);
        if let Some(running) = self.running().take() {
            trace!("server {} crashes", self.traits.name);
            running.election.abort();
            self.shut_down(&running);
        }
    }

    /// Stops the server in order: the server releases its Lease.
    pub async fn stop(&self) {
        let _guard = self.start_stop_lock.lock().await;
        let running = self.running().take();
        if let Some(mut running) = running {
            trace!("server {} stops", self.traits.name);
            running.stop.cancel();
            if let Err(error) = (&mut running.election).await {
                trace::broken(format!("the election of {}: {error}", self.traits.name));
            }
            self.shut_down(&running);
        }
    }

    fn shut_down(&self, running: &Running) {
        self.terms.end_terms(self.traits.name);
        running.dead.cancel();
        running.clock_task.iter().for_each(AbortHandle::abort);
        if let Some(incarnation) = self.incarnation().take() {
            incarnation.down.cancel();
        }
    }

    fn incarnation(&self) -> MutexGuard<'_, Option<Incarnation>> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest term of each server. At most one term holds at a time.
#[derive(Clone, Default)]
pub struct Terms(Arc<Mutex<BTreeMap<String, Arc<Term>>>>);

impl Terms {
    fn begin_term(&self, identity: &str, term: &Arc<Term>) {
        trace!("{identity} leads");
        let mut terms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        terms.insert(identity.to_owned(), Arc::clone(term));
        let holding = terms.iter().filter(|(_, term)| term.holds());
        let holding: Vec<&String> = holding.map(|(identity, _)| identity).collect();
        if holding.len() > 1 {
            trace::broken(format!("several servers lead: {holding:?}"));
        }
    }

    /// Ends the terms of a server that was stopped or killed.
    fn end_terms(&self, name: &str) {
        let mut terms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        terms.retain(|identity, _| !identity.starts_with(name));
    }
}

/// The correct clock of a server.
pub fn uptime() -> ClockReading {
    SignedDuration::try_from(system::uptime()).unwrap_or(SignedDuration::MAX)
}

thread_local! {
    static CACHED_CLOCK: Cell<ClockReading> = const { Cell::new(ClockReading::ZERO) };
}

/// A cached clock reading, which one task of the process updates. The reading does not advance while the process is
/// suspended.
pub fn cached_clock() -> ClockReading {
    CACHED_CLOCK.get()
}

/// Updates the cached clock reading at an interval.
async fn update_clock() {
    loop {
        CACHED_CLOCK.set(uptime());
        sleep(POLL_INTERVAL).await;
    }
}

/// A clock that runs faster by a fourth, which the design tolerates.
pub fn fast_clock() -> ClockReading {
    uptime() * 5 / 4
}

/// A clock that runs twice as fast: too fast for Leases of 14 seconds and terms of 9 seconds.
pub fn too_fast_clock() -> ClockReading {
    uptime() * 2
}

/// The controllers and the scheduler of one term; both stop when this value is dropped.
struct Components(Vec<ComponentRun>);

impl Components {
    fn start(term: &Arc<Term>, address: &Address, is_unguarded: bool) -> Self {
        let conditions = Arc::new(Conditions::default());
        let parts = [Component::Controllers, Component::Scheduler].map(|component| {
            let link = component
                .link(address, &conditions)
                .inside()
                .during_term(term);
            let client = match is_unguarded {
                false => during(term, link.client()),
                true => link.client(),
            };
            ComponentRun::over(component, link, client)
        });
        Self(parts.into())
    }
}

impl Lead for Components {
    async fn end(mut self) {
        for run in std::mem::take(&mut self.0) {
            run.stop().await;
        }
    }

    async fn abort(self) {}
}

impl Drop for Components {
    fn drop(&mut self) {
        self.0.iter().for_each(ComponentRun::crash);
    }
}
