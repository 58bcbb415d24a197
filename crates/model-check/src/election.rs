//! The world of two servers that elect a leader: there are never two leaders at once.
//!
//! The decisions are those of the product (`controller_planners::leader_election`). The rest is a model: a Lease whose
//! writes are compared with its version, reads and writes that are late or lost, servers that are suspended, stop in
//! order and start again, and two clocks of different rates.

use controller_planners::leader_election::{
    Candidate, ClockReading, ElectionDecision, HolderIdentity, LENGTH, LeaderLease,
};
use jiff::SignedDuration;
use object_model::ResourceVersion;
use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::fence::Exploration;

/// The name of the world.
pub const NAME: &str = "election";
/// Its description.
pub const ABOUT: &str = "two servers elect a leader";

/// The length of a tick: a lead lasts for two ticks, and other servers wait for three.
const TICK: SignedDuration = SignedDuration::from_secs(5);
/// The number of ticks in the world: enough for one server to lead, and for another server to take over.
const TICKS: u8 = 3;
/// Maximum number of writes of the Lease.
const WRITES: u8 = 3;

/// An injected mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A lead counts from the response to the renewal.
    CountedFromResponse,
    /// The Lease is written without a comparison of its version.
    WrittenUnconditionally,
    /// A candidate counts the age of a Lease from the start of the candidate.
    CountedFromStart,
}

/// A write that was sent and has no response yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct InFlight {
    lease: LeaderLease,
    /// The version that the write replaces; `None` if it creates the Lease.
    replaced_version: Option<ResourceVersion>,
    sent: ClockReading,
    /// Whether the write was executed; `None` before its arrival.
    stored: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Server {
    candidate: Candidate,
    starts: u8,
    clock: ClockReading,
    flight: Option<InFlight>,
    /// A write of the former process, which may still arrive.
    late: Option<InFlight>,
}

/// A state of the world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ElectionState {
    lease: Option<LeaderLease>,
    writes: u8,
    servers: [Server; 2],
    ticks: u8,
    /// Remaining ticks that the clock of one server may gain on the clock of the other.
    gains: u8,
    /// Remaining starts.
    starts: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionStep {
    /// Time passes; a clock may count two ticks.
    Tick(Option<usize>),
    /// A server reads the Lease.
    Read(usize),
    /// A server decides, and sends a write.
    Decide(usize),
    /// A write arrives.
    Store(usize),
    /// The response to a write arrives.
    Respond(usize),
    /// A write is lost, or its response.
    Lose(usize),
    /// A late write of a server that has stopped arrives.
    StoreLate(usize),
    /// A server is killed and starts again.
    Kill(usize),
    /// A leader stops in order, and starts again.
    Stop(usize),
}

/// The world as a model for the checker.
pub struct ElectionModel {
    mistake: Option<Mistake>,
}

impl ElectionModel {
    fn has(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn store(&self, state: &mut ElectionState, flight: &mut InFlight) {
        let fits = flight.replaced_version == version(state.lease.as_ref());
        let is_stored = fits || self.has(Mistake::WrittenUnconditionally);
        flight.stored = Some(is_stored);
        if is_stored {
            state.writes += 1;
            flight.lease.version = stored_version(state.writes);
            state.lease = Some(flight.lease.clone());
        }
    }

    fn record_read(&self, server: &mut Server, lease: Option<LeaderLease>) {
        let at = match self.has(Mistake::CountedFromStart) {
            // Both servers started at the beginning of the world.
            true => ClockReading::ZERO,
            false => server.clock,
        };
        server.candidate.saw(lease, at);
    }
}

/// The version after that many writes.
fn stored_version(writes: u8) -> ResourceVersion {
    writes.to_string().parse().expect("a positive number")
}

fn identity(number: usize, starts: u8) -> HolderIdentity {
    HolderIdentity::of_process(&number.to_string(), starts)
}

fn start_again(server: &mut Server, number: usize) {
    server.starts += 1;
    server.candidate = Candidate::new(identity(number, server.starts));
}

fn version(lease: Option<&LeaderLease>) -> Option<ResourceVersion> {
    lease.map(|lease| lease.version)
}

impl Model for ElectionModel {
    type State = ElectionState;
    type Action = ElectionStep;

    fn init_states(&self) -> Vec<ElectionState> {
        let server = |number| Server {
            candidate: Candidate::new(identity(number, 0)),
            starts: 0,
            clock: ClockReading::ZERO,
            flight: None,
            late: None,
        };
        vec![ElectionState {
            lease: None,
            writes: 0,
            servers: [server(0), server(1)],
            ticks: 0,
            gains: 1,
            starts: 1,
        }]
    }

    fn actions(&self, state: &ElectionState, actions: &mut Vec<ElectionStep>) {
        if state.ticks < TICKS {
            actions.push(ElectionStep::Tick(None));
            if state.gains > 0 {
                actions.extend([0, 1].map(|at| ElectionStep::Tick(Some(at))));
            }
        }
        for (at, server) in state.servers.iter().enumerate() {
            match &server.flight {
                None => {
                    let read_version = version(server.candidate.lease());
                    if read_version != version(state.lease.as_ref()) || read_version.is_none() {
                        actions.push(ElectionStep::Read(at));
                    }
                    if state.writes < WRITES {
                        actions.push(ElectionStep::Decide(at));
                    }
                }
                Some(flight) => {
                    actions.push(match flight.stored {
                        None => ElectionStep::Store(at),
                        Some(_) => ElectionStep::Respond(at),
                    });
                    actions.push(ElectionStep::Lose(at));
                }
            }
            if server.late.is_some() {
                actions.push(ElectionStep::StoreLate(at));
            }
            if state.starts > 0 {
                actions.push(ElectionStep::Kill(at));
                if server.candidate.leads(server.clock) && server.flight.is_none() {
                    actions.push(ElectionStep::Stop(at));
                }
            }
        }
    }

    fn next_state(&self, before: &ElectionState, step: ElectionStep) -> Option<ElectionState> {
        let mut state = before.clone();
        match step {
            ElectionStep::Tick(fast) => {
                state.ticks += 1;
                for server in &mut state.servers {
                    server.clock += TICK;
                }
                if let Some(fast) = fast {
                    state.gains -= 1;
                    state.servers[fast].clock += TICK;
                }
            }
            ElectionStep::Read(at) => {
                let lease = state.lease.clone();
                self.record_read(&mut state.servers[at], lease);
            }
            ElectionStep::Decide(at) => {
                let server = &mut state.servers[at];
                let read_lease = server.candidate.lease();
                let transitions = match server.candidate.decide(server.clock) {
                    ElectionDecision::Create => 0,
                    ElectionDecision::Acquire { transitions } => transitions,
                    ElectionDecision::Renew => read_lease?.transitions,
                    ElectionDecision::Wait(_) => return None,
                };
                let replaced_version = version(read_lease);
                let holder = Some(server.candidate.identity().clone());
                server.flight = Some(write(replaced_version, holder, transitions, server.clock));
            }
            ElectionStep::Store(at) => {
                let mut flight = state.servers[at].flight.take()?;
                self.store(&mut state, &mut flight);
                state.servers[at].flight = Some(flight);
            }
            ElectionStep::StoreLate(at) => {
                let mut late = state.servers[at].late.take()?;
                self.store(&mut state, &mut late);
            }
            ElectionStep::Respond(at) => {
                let server = &mut state.servers[at];
                let flight = server.flight.take()?;
                let sent = match self.has(Mistake::CountedFromResponse) {
                    true => server.clock,
                    false => flight.sent,
                };
                match flight.stored {
                    Some(true) => {
                        server.candidate.wrote(flight.lease, sent, server.clock);
                    }
                    // The Lease is read again after a refusal.
                    _ => self.record_read(server, state.lease.clone()),
                }
            }
            ElectionStep::Lose(at) => state.servers[at].flight = None,
            ElectionStep::Kill(at) => {
                state.starts -= 1;
                let server = &mut state.servers[at];
                start_again(server, at);
                let flight = server.flight.take();
                server.late = flight.filter(|flight| flight.stored.is_none());
            }
            ElectionStep::Stop(at) => {
                state.starts -= 1;
                let server = &mut state.servers[at];
                let read_lease = server.candidate.lease()?;
                let (replaced_version, transitions) =
                    (version(Some(read_lease)), read_lease.transitions);
                server.late = Some(write(replaced_version, None, transitions, server.clock));
                start_again(server, at);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("at most one server leads", |_, state: &ElectionState| {
                let leads = |server: &Server| server.candidate.leads(server.clock);
                !state.servers.iter().all(leads)
            }),
            Property::sometimes("the lead changes", |_, state: &ElectionState| {
                let lease = state.lease.as_ref();
                lease.is_some_and(|lease| lease.transitions > 0)
                    && state.servers.iter().any(|server| {
                        server.candidate.leads(server.clock)
                            && server.candidate.lease().map(|lease| lease.transitions)
                                == lease.map(|lease| lease.transitions)
                    })
            }),
        ]
    }
}

fn write(
    replaced_version: Option<ResourceVersion>,
    holder: Option<HolderIdentity>,
    transitions: i32,
    sent: ClockReading,
) -> InFlight {
    InFlight {
        lease: LeaderLease {
            // The store replaces the version.
            version: stored_version(1),
            holder,
            length: LENGTH,
            transitions,
        },
        replaced_version,
        sent,
        stored: None,
    }
}

/// Explores the world, with an injected mistake or without.
pub fn explore(mistake: Option<Mistake>, threads: usize) -> Exploration {
    let checker = ElectionModel { mistake }
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let violating_path = checker.discovery("at most one server leads");
    let violation = violating_path.map(|path| {
        let steps = path.into_actions();
        let steps: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
        format!("two servers lead after: {}", steps.join(", "))
    });
    let changes = checker.discovery("the lead changes");
    let unreached = changes
        .is_none()
        .then(|| "never: the lead changes".to_owned());
    Exploration {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        violation: violation.or(unreached),
    }
}
