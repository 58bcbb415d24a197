//! The world of a node that is lost and returns: when may its pod be replaced elsewhere?
//!
//! One node runs one pod that may fail over. It renews its lease, and ends the pod at its deadline; two
//! control planes watch the lease, of which one takes over from the other. The decisions are those of
//! the product: `planners::node_lifecycle::fence::decide` and `pod_lifecycle::node::lease::step`. The
//! rest is a model: renewals, answers and writes that arrive late or never, a link that is cut, an
//! agent and a shim that are killed, clocks of different rates, and a shim that kills late.
//!
//! The replacement runs as soon as the pod's object is gone. So there are two bodies in a state if the
//! object is gone and the old body still runs.

use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use planners::node_lifecycle::fence::{Decision, NodeLease, decide, wait};
use pod_lifecycle::node::lease::{Step as Renewal, step};
use stateright::{Checker, HasDiscoveries, Model, Property};

/// The length of the lease, in ticks.
const LENGTH: u8 = 8;
/// Ticks between two renewals, at least.
const BETWEEN: u8 = 2;
/// Ticks that an observer counts, at most: more than it waits.
const COUNTED: u8 = LENGTH + LENGTH / 4 + 1;
/// The error of a clock that is compared with another machine's.
const CLOCKS_APART: u8 = 4;

/// A mistake on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A renewal counts from its answer.
    CountedFromAnswer,
    /// The deadline is written when a renewal is sent.
    BeforeAcknowledgement,
    /// A new leader trusts its predecessor's clock.
    PredecessorsClock,
    /// The lease is taken without compare-and-swap.
    TakenUnconditionally,
    /// Renewals carry neither version nor epoch.
    RenewedUnconditionally,
    /// Containers do not nest in the warden's namespace, and outlive the shim.
    WithoutNesting,
    /// A returning node takes its lease, and runs its old pods.
    ReturnsWithoutProof,
}

/// The stored lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct StoredLease {
    version: u8,
    epoch: u8,
    held: bool,
}

/// A renewal on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct InFlight {
    version: u8,
    epoch: u8,
    /// Ticks of the node's clock since it was sent.
    age: u8,
    returns: bool,
    /// It has reached the store, which gave it this version, or refused it.
    stored: Option<Option<u8>>,
}

/// The node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    linked: bool,
    agent: bool,
    shim: bool,
    body: bool,
    /// Ticks of its clock until the deadline on the page.
    left: u8,
    /// The shim is late by a tick.
    late: bool,
    served: u8,
    /// The agent's view of the lease's version.
    version: Option<u8>,
    /// The agent's view of the pod.
    knows_pod: bool,
    flight: Option<InFlight>,
}

/// A control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Observer {
    leads: bool,
    /// The version that it saw last, and the ticks of its clock since.
    seen: StoredLease,
    since: u8,
    /// A write that takes the lease, on its way.
    take: Option<(u8, u8)>,
    /// A deletion of the pod, on its way.
    delete: bool,
}

/// The faults and steps that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    faults: u8,
    renewals: u8,
    /// Ticks that a clock loses or gains, or by which a shim is late.
    slips: u8,
    takeovers: u8,
}

/// A state of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FenceState {
    lease: StoredLease,
    pod: bool,
    node: Node,
    observers: [Observer; 2],
    budget: Budget,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceStep {
    /// Time passes; the node's clock may miss a tick, the observers' may count two.
    Tick {
        /// The node's clock misses it.
        slow_node: bool,
        /// The observers' clocks count two.
        fast_observer: bool,
        /// The shim is late.
        late: bool,
    },
    /// The agent sends a renewal.
    Send,
    /// The renewal reaches the store.
    Store,
    /// Its answer reaches the agent.
    Answer,
    /// The renewal or its answer is lost, and the agent gives up on it.
    Lose,
    /// The link of the node is cut, or comes back.
    Link,
    /// The agent is killed, or starts again.
    Agent,
    /// The shim is killed.
    KillShim,
    /// The agent starts the pod's body.
    Start,
    /// The agent hears that its pod is gone.
    HearOfPod,
    /// An observer is shown the lease.
    Watch(usize),
    /// An observer decides.
    Decide(usize),
    /// Its write reaches the store.
    Take(usize),
    /// Its deletion reaches the store.
    Delete(usize),
    /// The other control plane takes over.
    TakeOver,
}

/// The world.
pub struct FenceModel {
    mistake: Option<Mistake>,
}

impl FenceModel {
    fn has(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn send(&self, state: &FenceState) -> Option<InFlight> {
        let node = &state.node;
        let mut renewal = InFlight {
            version: 0,
            epoch: node.served,
            age: 0,
            returns: false,
            stored: None,
        };
        if let Some(version) = node.version {
            renewal.version = version;
            return Some(renewal);
        }
        let lease = LeaseSpec {
            holder_identity: state.lease.held.then(|| "node".to_owned()),
            lease_transitions: Some(state.lease.epoch.into()),
            ..LeaseSpec::default()
        };
        let (epoch, returns) = match step(Some(&lease), "node", node.served.into()) {
            Renewal::Renew { epoch } => (epoch, false),
            Renewal::Return { epoch } => (epoch, true),
            Renewal::Create { .. } => return None,
        };
        renewal.version = state.lease.version;
        renewal.epoch = u8::try_from(epoch).ok()?;
        renewal.returns = returns;
        Some(renewal)
    }

    fn store(&self, state: &mut FenceState) {
        let Some(renewal) = &mut state.node.flight else {
            return;
        };
        let unguarded = self.has(Mistake::RenewedUnconditionally);
        if renewal.version == state.lease.version || unguarded {
            state.lease.version += 1;
            state.lease.held = true;
            if !unguarded {
                state.lease.epoch = renewal.epoch;
            }
            renewal.stored = Some(Some(state.lease.version));
        } else {
            renewal.stored = Some(None);
        }
    }

    fn answer(&self, state: &mut FenceState) {
        let node = &mut state.node;
        let Some(InFlight {
            stored: Some(stored),
            epoch,
            age,
            returns,
            ..
        }) = node.flight.take()
        else {
            return;
        };
        node.version = stored;
        if stored.is_none() {
            return;
        }
        node.served = epoch;
        if returns && !self.has(Mistake::ReturnsWithoutProof) {
            // The pods that it then reads were never started in this epoch: it deletes them.
            state.pod = false;
            node.knows_pod = false;
        }
        let age = if self.has(Mistake::CountedFromAnswer) {
            0
        } else {
            age
        };
        node.left = node.left.max(LENGTH.saturating_sub(age));
    }

    fn tick(&self, state: &mut FenceState, slow_node: bool, fast_observer: bool, late: bool) {
        let node = &mut state.node;
        if !slow_node {
            node.left = node.left.saturating_sub(1);
            if let Some(renewal) = &mut node.flight {
                renewal.age = (renewal.age + 1).min(LENGTH);
            }
        }
        if node.left == 0 && node.shim && node.body {
            if late && !node.late {
                node.late = true;
            } else {
                end(node);
            }
        }
        let ticks = if fast_observer { 2 } else { 1 };
        for observer in state.observers.iter_mut().filter(|one| one.leads) {
            observer.since = (observer.since + ticks).min(COUNTED);
        }
    }

    fn decide(&self, state: &mut FenceState, at: usize) {
        let pod = state.pod;
        let stored = state.lease;
        let observer = &mut state.observers[at];
        let lease = NodeLease {
            version: observer.seen.version.to_string(),
            epoch: observer.seen.epoch.into(),
            fenced: !observer.seen.held,
            length: seconds(LENGTH),
            ends_pods: true,
        };
        match decide(&lease, seconds(observer.since), pod) {
            Decision::Nothing | Decision::Wait(_) => {}
            Decision::Take { epoch } => {
                let epoch = u8::try_from(epoch).unwrap_or(u8::MAX);
                observer.take = Some((observer.seen.version, epoch));
            }
            // The executor reads the lease before it deletes.
            Decision::Delete => observer.delete = !stored.held,
        }
    }

    fn take(&self, state: &mut FenceState, at: usize) {
        let Some((version, epoch)) = state.observers[at].take.take() else {
            return;
        };
        if version == state.lease.version || self.has(Mistake::TakenUnconditionally) {
            state.lease = StoredLease {
                version: state.lease.version + 1,
                epoch,
                held: false,
            };
            state.observers[at].delete = true;
        }
    }

    fn take_over(&self, state: &mut FenceState) {
        let [former, next] = &mut state.observers;
        next.leads = true;
        next.seen = state.lease;
        if self.has(Mistake::PredecessorsClock) {
            next.since = (former.since + CLOCKS_APART).min(COUNTED);
        }
        // Only its writes are left.
        former.leads = false;
        former.seen = next.seen;
        former.since = 0;
    }
}

/// Ends the body, and the shim with it.
fn end(node: &mut Node) {
    node.body = false;
    node.shim = false;
    node.late = false;
}

fn seconds(ticks: u8) -> SignedDuration {
    SignedDuration::from_secs(ticks.into())
}

impl Model for FenceModel {
    type State = FenceState;
    type Action = FenceStep;

    fn init_states(&self) -> Vec<FenceState> {
        let lease = StoredLease {
            version: 0,
            epoch: 0,
            held: true,
        };
        let observer = |leads| Observer {
            leads,
            seen: lease,
            since: 0,
            take: None,
            delete: false,
        };
        vec![FenceState {
            lease,
            pod: true,
            node: Node {
                linked: true,
                agent: true,
                shim: true,
                body: true,
                left: LENGTH,
                late: false,
                served: 0,
                version: Some(0),
                knows_pod: true,
                flight: None,
            },
            observers: [observer(true), observer(false)],
            budget: Budget {
                faults: 1,
                renewals: 2,
                slips: 1,
                takeovers: 1,
            },
        }]
    }

    fn actions(&self, state: &FenceState, actions: &mut Vec<FenceStep>) {
        let (node, budget) = (&state.node, &state.budget);
        // Time stands still when nothing depends on it any more.
        let counts = |one: &Observer| one.leads && one.since < COUNTED;
        if node.left > 0 || state.observers.iter().any(counts) {
            let mut tick = |slow_node, fast_observer, late| {
                actions.push(FenceStep::Tick {
                    slow_node,
                    fast_observer,
                    late,
                });
            };
            tick(false, false, false);
            if budget.slips > 0 {
                tick(true, false, false);
                tick(false, true, false);
                if node.left <= 1 && node.body {
                    tick(false, false, true);
                }
            }
        }
        match &node.flight {
            None if node.agent
                && node.linked
                && budget.renewals > 0
                && node.left + BETWEEN <= LENGTH =>
            {
                actions.push(FenceStep::Send);
            }
            Some(renewal) => {
                match renewal.stored {
                    // What was sent may arrive although the link is cut since.
                    None => actions.push(FenceStep::Store),
                    Some(_) if node.agent && node.linked => actions.push(FenceStep::Answer),
                    Some(_) => {}
                }
                if renewal.age > BETWEEN || !node.agent {
                    actions.push(FenceStep::Lose);
                }
            }
            None => {}
        }
        if budget.faults > 0 {
            actions.push(FenceStep::Link);
            actions.push(FenceStep::Agent);
            if node.shim {
                actions.push(FenceStep::KillShim);
            }
        } else {
            // Faults end.
            if !node.linked {
                actions.push(FenceStep::Link);
            }
            if !node.agent {
                actions.push(FenceStep::Agent);
            }
        }
        if node.agent && node.knows_pod && !node.body && !node.shim && node.left > 0 {
            actions.push(FenceStep::Start);
        }
        if node.agent && node.linked && node.knows_pod && !state.pod {
            actions.push(FenceStep::HearOfPod);
        }
        for (at, observer) in state.observers.iter().enumerate() {
            if observer.leads && observer.seen != state.lease {
                actions.push(FenceStep::Watch(at));
            }
            if observer.leads && observer.take.is_none() && !observer.delete {
                actions.push(FenceStep::Decide(at));
            }
            if observer.take.is_some() {
                actions.push(FenceStep::Take(at));
            }
            if observer.delete {
                actions.push(FenceStep::Delete(at));
            }
        }
        if budget.takeovers > 0 {
            actions.push(FenceStep::TakeOver);
        }
    }

    fn next_state(&self, before: &FenceState, action: FenceStep) -> Option<FenceState> {
        let mut state = *before;
        let (node, budget) = (&mut state.node, &mut state.budget);
        match action {
            FenceStep::Tick {
                slow_node,
                fast_observer,
                late,
            } => {
                budget.slips -= u8::from(slow_node || fast_observer || late);
                self.tick(&mut state, slow_node, fast_observer, late);
            }
            FenceStep::Send => {
                let renewal = self.send(before)?;
                budget.renewals -= 1;
                node.flight = Some(renewal);
                if renewal.returns && !self.has(Mistake::ReturnsWithoutProof) {
                    // First all bodies of earlier epochs end, and none can start.
                    node.left = 0;
                    end(node);
                }
                if self.has(Mistake::BeforeAcknowledgement) && !renewal.returns {
                    node.left = LENGTH;
                }
            }
            FenceStep::Store => self.store(&mut state),
            FenceStep::Answer => self.answer(&mut state),
            FenceStep::Lose => {
                node.flight = None;
                node.version = None;
            }
            FenceStep::Link => {
                budget.faults = budget.faults.saturating_sub(1);
                node.linked = !node.linked;
            }
            FenceStep::Agent => {
                budget.faults = budget.faults.saturating_sub(1);
                node.agent = !node.agent;
                node.version = None;
            }
            FenceStep::KillShim => {
                budget.faults -= 1;
                node.shim = false;
                node.late = false;
                if !self.has(Mistake::WithoutNesting) {
                    node.body = false;
                }
            }
            FenceStep::Start => {
                node.shim = true;
                node.body = true;
            }
            FenceStep::HearOfPod => {
                node.knows_pod = false;
                end(node);
            }
            FenceStep::Watch(at) => {
                state.observers[at].seen = state.lease;
                state.observers[at].since = 0;
            }
            FenceStep::Decide(at) => self.decide(&mut state, at),
            FenceStep::Take(at) => self.take(&mut state, at),
            FenceStep::Delete(at) => {
                state.observers[at].delete = false;
                state.pod = false;
            }
            FenceStep::TakeOver => {
                budget.takeovers -= 1;
                self.take_over(&mut state);
            }
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "the pod never has two bodies",
                |_: &Self, state: &FenceState| state.pod || !state.node.body,
            ),
            Property::sometimes("the pod is replaced", |_: &Self, state: &FenceState| {
                !state.pod && !state.lease.held
            }),
            Property::sometimes("the node is back", |_: &Self, state: &FenceState| {
                state.node.served > 0 && state.node.left > 0
            }),
        ]
    }
}

/// The result of exploring the world.
#[derive(Clone, Debug)]
pub struct FenceReport {
    /// Different states.
    pub states: usize,
    /// Steps of the longest of the shortest paths.
    pub depth: usize,
    /// The broken rule, with the steps to it.
    pub violation: Option<String>,
}

/// Explores the world, with a mistake or without.
pub fn explore(mistake: Option<Mistake>, threads: usize) -> FenceReport {
    debug_assert!(wait(seconds(LENGTH)) > seconds(LENGTH));
    let checker = FenceModel { mistake }
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let missing = |name: &str| format!("never: {name}");
    let violation = checker
        .discovery("the pod never has two bodies")
        .map(|path| {
            let steps = path.into_actions();
            let steps: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
            format!("the pod has two bodies after: {}", steps.join(", "))
        });
    let violation = violation.or_else(|| {
        let wanted = ["the pod is replaced", "the node is back"];
        let name = wanted
            .iter()
            .find(|name| checker.discovery(name).is_none())?;
        Some(missing(name))
    });
    FenceReport {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        violation,
    }
}
