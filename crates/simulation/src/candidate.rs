//! One of several servers over a shared store: its API, its part in the election, and the controllers and the
//! scheduler while it leads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_server::UserInfo;
use jiff::SignedDuration;
use leader_election::{Clock, Election, Lead, Term, during};
use planners::leader_election::Reading;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::control_plane::{Component, Instance, start_server};
use crate::disk::Disk;
use crate::link::{Address, Conditions, Incarnation, Link};
use crate::replica::{Replica, StoreLink};
use crate::{system, trace};

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
    starts: AtomicU64,
    running: Mutex<Option<Running>>,
}

/// The tasks of a running server.
struct Running {
    following: AbortHandle,
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
            starts: AtomicU64::new(0),
            running: Mutex::new(None),
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it, if it does not run. Without the store it ends again.
    pub async fn start(&self) {
        if self.running().is_some() {
            return;
        }
        let replica = match Replica::load(self.disk.clone(), self.link.clone()).await {
            Ok(replica) => replica,
            Err(error) => return trace!("server {} does not start: {error}", self.name),
        };
        let following = tokio::spawn(replica.clone().follow()).abort_handle();
        let server = match start_server(replica).await {
            Ok(server) => server,
            Err(error) => {
                following.abort();
                return trace!("server {} does not start: {error}", self.name);
            }
        };
        let down = CancellationToken::new();
        *self.place() = Some(Incarnation { server, down });
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        let identity = format!("{}-{start}", self.name);
        trace!("server {identity} up");
        let user = UserInfo::new("system:apiserver", ["system:masters"]);
        let link = Link::new(self.name, user, self.address.clone(), Arc::default());
        let election = Election::new(link.client(), &identity, self.clock);
        let (stop, address) = (CancellationToken::new(), self.address.clone());
        let leads = self.leads.clone();
        let election = election.run(stop.clone(), move |term| {
            leads.begin(&identity, term);
            Deciders::start(term, &address)
        });
        *self.running() = Some(Running {
            following,
            election: tokio::spawn(election),
            stop,
        });
    }

    /// Ends it at any point of its work.
    pub fn crash(&self) {
        if let Some(running) = self.running().take() {
            trace!("server {} crashes", self.name);
            running.election.abort();
            self.end(&running.following);
        }
    }

    /// Stops it in order: it gives the Lease back.
    pub async fn stop(&self) {
        let running = self.running().take();
        if let Some(running) = running {
            trace!("server {} stops", self.name);
            running.stop.cancel();
            if let Err(error) = running.election.await {
                trace::broken(format!("the election of {}: {error}", self.name));
            }
            self.end(&running.following);
        }
    }

    fn end(&self, following: &AbortHandle) {
        self.leads.end(self.name);
        following.abort();
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
            let link = component.link(address, &conditions);
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
