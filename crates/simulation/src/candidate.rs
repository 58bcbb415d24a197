//! One of several servers over a shared store: its API, its part in the election, and the controllers and the
//! scheduler while it leads.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ptr::fn_addr_eq;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_server::UserInfo;
use jiff::SignedDuration;
use leader_election::{Clock, Election, Lead, Term, during};
use planners::leader_election::Reading;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::control_plane::{Component, Instance, start_server};
use crate::disk::Disk;
use crate::link::{Address, Conditions, Incarnation, Link};
use crate::process::Process;
use crate::replica::{Replica, StoreLink};
use crate::{system, trace};

/// The time between two looks at the clock, for the mutation that does not read it when it needs it.
const LOOK: Duration = Duration::from_millis(200);

/// A server, which may run.
pub struct Candidate {
    name: &'static str,
    disk: Arc<Disk>,
    clock: Clock,
    leads: Leads,
    /// Its way to the store.
    pub link: Arc<StoreLink>,
    /// Its address for clients.
    pub address: Address,
    process: Process,
    /// Held while it starts, and until it has stopped in order.
    turn: tokio::sync::Mutex<()>,
    starts: AtomicU64,
    running: Mutex<Option<Running>>,
}

/// The tasks of a running server.
struct Running {
    following: AbortHandle,
    looking: Option<AbortHandle>,
    election: JoinHandle<()>,
    stop: CancellationToken,
}

impl Candidate {
    /// A server that does not run yet, with its clock.
    pub fn new(name: &'static str, disk: Arc<Disk>, clock: Clock, leads: Leads) -> Self {
        Self {
            name,
            disk,
            clock,
            leads,
            link: Arc::default(),
            address: Address::default(),
            process: Process::default(),
            turn: tokio::sync::Mutex::default(),
            starts: AtomicU64::new(0),
            running: Mutex::new(None),
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it, if it does not run. Without the store it ends again.
    pub async fn start(&self) {
        let _turn = self.turn.lock().await;
        if self.running().is_some() {
            return;
        }
        let replica = match Replica::load(self.disk.clone(), self.link.clone()).await {
            Ok(replica) => replica,
            Err(error) => return trace!("server {} does not start: {error}", self.name),
        };
        let following = self.spawn(replica.clone().follow()).abort_handle();
        let server = match start_server(replica).await {
            Ok(server) => server,
            Err(error) => {
                following.abort();
                return trace!("server {} does not start: {error}", self.name);
            }
        };
        let down = CancellationToken::new();
        let process = self.process.clone();
        *self.place() = Some(Incarnation {
            server,
            down,
            process,
        });
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        let identity = format!("{}-{start}", self.name);
        trace!("server {identity} up");
        let user = UserInfo::new("system:apiserver", ["system:masters"]);
        let link = Link::new(self.name, user, self.address.clone(), Arc::default()).inside();
        let looking = fn_addr_eq(self.clock, seen as Clock).then(|| {
            SEEN.set(uptime());
            self.spawn(look_at_clock()).abort_handle()
        });
        let election = Election::new(link.client(), &identity, self.clock);
        let (stop, address) = (CancellationToken::new(), self.address.clone());
        let leads = self.leads.clone();
        let election = election.run(stop.clone(), move |term| {
            leads.begin(&identity, term);
            Deciders::start(term, &address)
        });
        *self.running() = Some(Running {
            following,
            looking,
            election: self.spawn(election),
            stop,
        });
    }

    /// Starts a task that stands still with the process.
    fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let process = self.process.clone();
        tokio::spawn(async move { process.run(work).await })
    }

    /// Stops its process for a while, wherever it is in its work.
    pub async fn pause(&self, time: Duration) {
        trace!("server {} stands still", self.name);
        self.process.set_still(true);
        sleep(time).await;
        trace!("server {} goes on", self.name);
        self.process.set_still(false);
    }

    /// Ends it at any point of its work.
    pub fn crash(&self) {
        self.process.set_still(false);
        if let Some(running) = self.running().take() {
            trace!("server {} crashes", self.name);
            running.election.abort();
            self.end(&running);
        }
    }

    /// Stops it in order: it gives the Lease back.
    pub async fn stop(&self) {
        let _turn = self.turn.lock().await;
        let running = self.running().take();
        if let Some(mut running) = running {
            trace!("server {} stops", self.name);
            running.stop.cancel();
            if let Err(error) = (&mut running.election).await {
                trace::broken(format!("the election of {}: {error}", self.name));
            }
            self.end(&running);
        }
    }

    fn end(&self, running: &Running) {
        self.leads.end(self.name);
        running.following.abort();
        running.looking.iter().for_each(AbortHandle::abort);
        if let Some(incarnation) = self.place().take() {
            incarnation.down.cancel();
        }
    }

    fn place(&self) -> MutexGuard<'_, Option<Incarnation>> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest lead of each server, of which at most one may hold.
#[derive(Clone, Default)]
pub struct Leads(Arc<Mutex<BTreeMap<String, Arc<Term>>>>);

impl Leads {
    fn begin(&self, identity: &str, term: &Arc<Term>) {
        trace!("{identity} leads");
        let mut leads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        leads.insert(identity.to_owned(), Arc::clone(term));
        let holding = leads.iter().filter(|(_, term)| term.holds());
        let holding: Vec<&String> = holding.map(|(identity, _)| identity).collect();
        if holding.len() > 1 {
            trace::broken(format!("several servers lead: {holding:?}"));
        }
    }

    /// The lead of a server that was killed is over.
    fn end(&self, name: &str) {
        let mut leads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        leads.retain(|identity, _| !identity.starts_with(name));
    }
}

/// A clock of a server.
pub fn uptime() -> Reading {
    SignedDuration::try_from(system::uptime()).unwrap_or(SignedDuration::MAX)
}

thread_local! {
    static SEEN: Cell<Reading> = const { Cell::new(Reading::ZERO) };
}

/// A clock that a task of the process reads for all: it stands still with the process.
pub fn seen() -> Reading {
    SEEN.get()
}

/// Reads the clock now, and from time to time.
async fn look_at_clock() {
    loop {
        SEEN.set(uptime());
        sleep(LOOK).await;
    }
}

/// A clock that is fast by a fourth, which is allowed.
pub fn fast() -> Reading {
    uptime() * 5 / 4
}

/// A clock that is too fast for leases of 15 seconds and leads of 10.
pub fn too_fast() -> Reading {
    uptime() * 2
}

/// Controllers and scheduler of one lead, which end with this value.
struct Deciders(Vec<Instance>);

impl Deciders {
    fn start(term: &Arc<Term>, address: &Address) -> Self {
        let conditions = Arc::new(Conditions::default());
        let parts = [Component::Controllers, Component::Scheduler].map(|component| {
            let link = component.link(address, &conditions).inside();
            let client = during(term, link.client());
            Instance::over(component, link, client)
        });
        Self(parts.into())
    }
}

impl Lead for Deciders {
    async fn end(mut self) {
        for part in std::mem::take(&mut self.0) {
            part.end().await;
        }
    }

    async fn abort(self) {}
}

impl Drop for Deciders {
    fn drop(&mut self) {
        self.0.iter().for_each(Instance::crash);
    }
}
