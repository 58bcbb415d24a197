//! The world of a node that is lost and returns, with the earliest replacement of its pod elsewhere.
//!
//! One node runs one pod that may fail over. The node renews its lease, and ends the pod at its deadline; two control
//! planes watch the lease, and the second takes over from the first. The decisions are those of the product:
//! `controller_planners::node_lifecycle::fence::decide`, `controller_planners::pod_gc::missing::decide` and
//! `pod_lifecycle::node::lease::step`. The rest is a model: renewals, responses and writes that arrive late or never, a
//! broken link, an agent and a shim that are killed, clocks of different rates, a shim that kills late, and a Node
//! object and its lease that are deleted at any time.
//!
//! The replacement runs as soon as the pod's object is deleted. So a state has two running instances if the object is
//! deleted and the old instance still runs.

mod control_plane;
mod node;

use controller_planners::node_lifecycle::fence::wait;
use jiff::SignedDuration;
use stateright::{Checker, HasDiscoveries, Model, Property};

use node::stop_instance;

/// A tick, in milliseconds: the lease has the default length of 38 s.
const TICK: u16 = 4750;
/// The length of the lease, in ticks.
const LENGTH: u8 = 8;
/// Minimum number of ticks between two renewals.
const BETWEEN: u8 = 2;
/// Maximum number of ticks that an observer counts: more than the length of its wait.
const COUNTED: u8 = WAIT + 1;
/// The number of ticks for which a lease must be unchanged.
const WAIT: u8 = LENGTH + LENGTH / 4;
/// The error of a clock that is compared with another machine's clock.
const CLOCKS_APART: u8 = 4;

/// A world; the worlds differ in the deletions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// A node is lost, fenced, and returns.
    LostNode,
    /// A node is lost, fenced, and returns, and its Node object and its lease are deleted.
    DeletedNode,
}

impl World {
    /// All worlds.
    pub const ALL: [Self; 2] = [Self::LostNode, Self::DeletedNode];

    pub fn name(self) -> &'static str {
        match self {
            Self::LostNode => "fence",
            Self::DeletedNode => "fence-deleted-node",
        }
    }

    /// A description.
    pub fn about(self) -> &'static str {
        match self {
            Self::LostNode => "a node is lost, fenced, and returns",
            Self::DeletedNode => "the same, and its Node object and lease are deleted",
        }
    }

    fn budget(self) -> Budget {
        let lost = Budget {
            faults: 1,
            renewals: 2,
            slips: 1,
            takeovers: 1,
            deletions: 0,
        };
        match self {
            Self::LostNode => lost,
            // The errors of clocks and shims are explored in the other world.
            Self::DeletedNode => Budget {
                slips: 0,
                deletions: 1,
                ..lost
            },
        }
    }
}

/// An injected mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The time of a renewal counts from its response.
    CountedFromResponse,
    /// The deadline is written when a renewal is sent.
    BeforeAcknowledgement,
    /// A new leader uses the clock reading of its predecessor.
    PredecessorsClock,
    /// A new run continues the count of the former run for a lease that was renewed since then.
    ContinuedOverRenewal,
    /// The lease is fenced without compare-and-swap.
    FencedUnconditionally,
    /// Renewals contain neither version nor epoch.
    RenewedUnconditionally,
    /// Containers are not nested in the warden's namespace, and outlive the shim.
    WithoutNesting,
    /// A returning node acquires its lease, and runs its old pods.
    ReturnsWithoutProof,
    /// A node whose lease was deleted creates it with the present epoch, and runs its old pods.
    CreatedInServedEpoch,
    /// Pods of a node without a Node object are removed although its lease is renewed.
    RemovedWhileRenewed,
    /// A deleted lease counts as a proof at once.
    DeletedLeaseIsProof,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct StoredLease {
    /// The version of the last change, including a deletion.
    version: u8,
    epoch: u8,
    exists: bool,
    has_holder: bool,
}

/// A renewal that was sent and has no response yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct InFlight {
    version: u8,
    epoch: u8,
    /// Ticks of the node's clock since the renewal was sent.
    age: u8,
    /// The renewal creates the lease.
    creates: bool,
    returns: bool,
    /// The result in the store: the new version, or a refusal; `None` before the arrival.
    stored: Option<Option<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    linked: bool,
    agent: bool,
    shim: bool,
    instance: bool,
    /// Remaining ticks of the node's clock until the deadline on the deadline page.
    remaining_ticks: u8,
    /// The shim kills a tick late.
    late: bool,
    served_epoch: u8,
    /// The version of the lease in the agent's cache.
    version: Option<u8>,
    /// Whether the agent's cache has the pod.
    has_cached_pod: bool,
    flight: Option<InFlight>,
}

/// A control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Observer {
    leads: bool,
    /// The last version that the observer read, and the ticks of its clock since then.
    observed: StoredLease,
    since: u8,
    /// A pending write that fences the lease.
    fencing: Option<(u8, u8)>,
    /// Whether a deletion of the pod is pending.
    delete: bool,
}

/// The remaining faults and steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    faults: u8,
    renewals: u8,
    /// Ticks that a clock loses or gains, or by which a shim is late.
    slips: u8,
    takeovers: u8,
    /// Deletions of the Node object.
    deletions: u8,
}

/// A state of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FenceState {
    lease: StoredLease,
    /// The Node object exists.
    registered: bool,
    /// Whether the Node object that owned the lease was deleted.
    owner_deleted: bool,
    pod: bool,
    node: Node,
    observers: [Observer; 2],
    budget: Budget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceStep {
    /// Time passes; the node's clock may lose a tick, the observers' clocks may count two ticks.
    Tick {
        /// The node's clock does not count the tick.
        slow_node: bool,
        /// The observers' clocks count two ticks.
        fast_observer: bool,
        /// The shim is late.
        late: bool,
    },
    /// The agent sends a renewal.
    Send,
    /// The renewal reaches the store.
    Store,
    /// The response reaches the agent.
    Respond,
    /// The renewal or its response is lost, and the agent stops waiting.
    Lose,
    /// The link of the node is broken, or repaired.
    Link,
    /// The agent is killed, or starts again.
    Agent,
    KillShim,
    /// The agent starts the pod's instance.
    Start,
    /// The agent observes the deletion of its pod.
    ObservePodDeletion,
    /// An observer reads the lease.
    Watch(usize),
    /// An observer decides.
    Decide(usize),
    /// An observer decides about the node without a Node object.
    Collect(usize),
    /// The observer's write reaches the store.
    Fence(usize),
    /// The observer's deletion reaches the store.
    Delete(usize),
    /// The other control plane takes over.
    TakeOver {
        /// The new control plane has the record of the former control plane, and continues its count.
        continues: bool,
    },
    /// A user deletes the Node object.
    DeleteNode,
    /// The agent creates the Node object again.
    Register,
    /// A user or controller deletes the lease after the deletion of its owner.
    DeleteLease,
}

/// The world as a model for the checker.
pub struct FenceModel {
    world: World,
    mistake: Option<Mistake>,
}

impl FenceModel {
    fn has(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}

impl FenceState {
    fn delete_lease(&mut self) {
        self.lease.version += 1;
        self.lease.exists = false;
        self.lease.has_holder = false;
    }
}

fn elapsed(ticks: u8) -> SignedDuration {
    SignedDuration::from_millis(i64::from(ticks) * i64::from(TICK))
}

impl Model for FenceModel {
    type State = FenceState;
    type Action = FenceStep;

    fn init_states(&self) -> Vec<FenceState> {
        let lease = StoredLease {
            version: 0,
            epoch: 0,
            exists: true,
            has_holder: true,
        };
        let observer = |leads| Observer {
            leads,
            observed: lease,
            since: 0,
            fencing: None,
            delete: false,
        };
        vec![FenceState {
            lease,
            registered: true,
            owner_deleted: false,
            pod: true,
            node: Node {
                linked: true,
                agent: true,
                shim: true,
                instance: true,
                remaining_ticks: LENGTH,
                late: false,
                served_epoch: 0,
                version: Some(0),
                has_cached_pod: true,
                flight: None,
            },
            observers: [observer(true), observer(false)],
            budget: self.world.budget(),
        }]
    }

    fn actions(&self, state: &FenceState, actions: &mut Vec<FenceStep>) {
        let (node, budget) = (&state.node, &state.budget);
        // Time stops when no decision depends on it any more.
        let counts = |observer: &Observer| observer.leads && observer.since < COUNTED;
        if node.remaining_ticks > 0 || state.observers.iter().any(counts) {
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
                if node.remaining_ticks <= 1 && node.instance {
                    tick(false, false, true);
                }
            }
        }
        match &node.flight {
            None if node.agent
                && node.linked
                && budget.renewals > 0
                && node.remaining_ticks + BETWEEN <= LENGTH =>
            {
                actions.push(FenceStep::Send);
            }
            Some(renewal) => {
                match renewal.stored {
                    // A sent renewal may arrive although the link is broken since then.
                    None => actions.push(FenceStep::Store),
                    Some(_) if node.agent && node.linked => actions.push(FenceStep::Respond),
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
            // Each fault is repaired eventually.
            if !node.linked {
                actions.push(FenceStep::Link);
            }
            if !node.agent {
                actions.push(FenceStep::Agent);
            }
        }
        if node.agent
            && node.has_cached_pod
            && !node.instance
            && !node.shim
            && node.remaining_ticks > 0
        {
            actions.push(FenceStep::Start);
        }
        if node.agent && node.linked && node.has_cached_pod && !state.pod {
            actions.push(FenceStep::ObservePodDeletion);
        }
        observer_steps(state, actions);
        if budget.takeovers > 0 {
            actions.push(FenceStep::TakeOver { continues: false });
            actions.push(FenceStep::TakeOver { continues: true });
        }
        if budget.deletions > 0 && state.registered {
            actions.push(FenceStep::DeleteNode);
        }
        if node.agent && node.linked && !state.registered {
            actions.push(FenceStep::Register);
        }
        if state.owner_deleted && state.lease.exists {
            actions.push(FenceStep::DeleteLease);
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
                    // First all instances of earlier epochs end, and no such instance can start.
                    node.remaining_ticks = 0;
                    stop_instance(node);
                }
                if self.has(Mistake::BeforeAcknowledgement) && !renewal.returns {
                    node.remaining_ticks = LENGTH;
                }
            }
            FenceStep::Store => self.store(&mut state),
            FenceStep::Respond => self.respond(&mut state),
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
                    node.instance = false;
                }
            }
            FenceStep::Start => {
                node.shim = true;
                node.instance = true;
            }
            FenceStep::ObservePodDeletion => {
                node.has_cached_pod = false;
                stop_instance(node);
            }
            FenceStep::Watch(at) => {
                state.observers[at].observed = state.lease;
                state.observers[at].since = 0;
            }
            FenceStep::Decide(at) => self.decide(&mut state, at),
            FenceStep::Collect(at) => self.collect(&mut state, at),
            FenceStep::Fence(at) => self.fence(&mut state, at),
            FenceStep::Delete(at) => {
                state.observers[at].delete = false;
                state.pod = false;
            }
            FenceStep::TakeOver { continues } => {
                budget.takeovers -= 1;
                self.take_over(&mut state, continues);
            }
            FenceStep::DeleteNode => {
                budget.deletions -= 1;
                state.registered = false;
                state.owner_deleted = true;
            }
            FenceStep::Register => state.registered = true,
            FenceStep::DeleteLease => {
                state.owner_deleted = false;
                state.delete_lease();
            }
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "the pod never has two running instances",
                |_: &Self, state: &FenceState| state.pod || !state.node.instance,
            ),
            Property::sometimes("the pod is replaced", |_: &Self, state: &FenceState| {
                !state.pod && !state.lease.has_holder
            }),
            Property::sometimes("the node is back", |_: &Self, state: &FenceState| {
                state.node.served_epoch > 0 && state.node.remaining_ticks > 0
            }),
        ]
    }
}

/// The result of the exploration of a world.
#[derive(Clone, Debug)]
pub struct Exploration {
    /// The number of different states.
    pub states: usize,
    /// The length of the longest shortest path to a state.
    pub depth: usize,
    /// The violated rule, with the steps to it.
    pub violation: Option<String>,
}

/// Explores a world, with an injected mistake or without.
pub fn explore(world: World, mistake: Option<Mistake>, threads: usize) -> Exploration {
    debug_assert!(wait(elapsed(LENGTH)) > elapsed(LENGTH));
    let checker = FenceModel { world, mistake }
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let missing = |name: &str| format!("never: {name}");
    let violation = checker
        .discovery("the pod never has two running instances")
        .map(|path| {
            let steps = path.into_actions();
            let steps: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
            format!(
                "the pod has two running instances after: {}",
                steps.join(", ")
            )
        });
    let violation = violation.or_else(|| {
        let expected = ["the pod is replaced", "the node is back"];
        let name = expected
            .iter()
            .find(|name| checker.discovery(name).is_none())?;
        Some(missing(name))
    });
    Exploration {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        violation,
    }
}

fn observer_steps(state: &FenceState, actions: &mut Vec<FenceStep>) {
    for (at, observer) in state.observers.iter().enumerate() {
        if observer.leads && observer.observed != state.lease {
            actions.push(FenceStep::Watch(at));
        }
        if observer.leads && observer.fencing.is_none() && !observer.delete {
            actions.push(FenceStep::Decide(at));
            if !state.registered {
                actions.push(FenceStep::Collect(at));
            }
        }
        if observer.fencing.is_some() {
            actions.push(FenceStep::Fence(at));
        }
        if observer.delete {
            actions.push(FenceStep::Delete(at));
        }
    }
}
