//! Faults: each fault is injected, lasts a while and is repaired.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use kube_api_server::UserInfo;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::control_plane::{Component, Server, run_second};
use crate::disk::Disk;
use crate::instances::Instances;
use crate::link::{Conditions, Link, Servers, Weather};
use crate::node::{self, Settings, WallClock};
use crate::random::{below, between, chance, millis, one_of};
use crate::{system, trace};

/// A machine with its agent, if the agent runs.
pub struct Machine {
    settings: Settings,
    instances: Instances,
    servers: Servers,
    conditions: Arc<Conditions>,
    agent: Mutex<Option<Agent>>,
}

struct Agent {
    link: Link,
    stop: CancellationToken,
    work: AbortHandle,
}

impl Machine {
    /// A machine with a stopped agent.
    pub fn new(settings: Settings, instances: Instances, servers: impl Into<Servers>) -> Self {
        Self {
            settings,
            instances,
            servers: servers.into(),
            conditions: Arc::default(),
            agent: Mutex::new(None),
        }
    }

    pub fn name(&self) -> String {
        self.settings.name.clone()
    }

    fn agent(&self) -> MutexGuard<'_, Option<Agent>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the agent, unless it runs.
    pub fn start(&self) {
        let mut agent = self.agent();
        if agent.is_some() {
            return;
        }
        let name = &self.settings.name;
        trace!("{name} up");
        let user = UserInfo::new(
            format!("system:node:{name}"),
            ["system:authenticated", "system:nodes"],
        );
        let (servers, conditions) = (self.servers.clone(), self.conditions.clone());
        let link = Link::new(name, user, servers, conditions);
        let stop = CancellationToken::new();
        let (settings, instances) = (self.settings.clone(), self.instances.clone());
        let clients = node::Clients {
            agent: link.client(),
            provisioner: link.of(provisioner()).client(),
        };
        let work = node::run(settings, instances, clients, stop.clone());
        let work = tokio::spawn(work).abort_handle();
        *agent = Some(Agent { link, stop, work });
    }

    /// Stops the agent at any point of its work; instances continue.
    pub fn crash_agent(&self) {
        if let Some(agent) = self.agent().take() {
            trace!("{} agent crashes", self.settings.name);
            agent.link.dead.cancel();
            agent.stop.cancel();
            agent.work.abort();
        }
    }

    /// Cuts or repairs the link of the machine.
    pub fn set_cut_off(&self, is_cut_off: bool) {
        self.conditions.set_partitioned(is_cut_off);
    }

    /// Stops the machine, with all instances on it.
    pub fn crash(&self) {
        trace!("{} crashes", self.settings.name);
        self.crash_agent();
        self.instances.end_all(&self.settings.name);
    }
}

/// The user that creates volumes.
fn provisioner() -> UserInfo {
    UserInfo::new(node::PROVISIONER, node::PROVISIONER_GROUPS)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultExtent {
    /// Controllers read the current state, or are stopped.
    Contained,
    /// Controllers may also be disconnected, and return with an old state.
    Everything,
    /// All faults of `Everything`, and nodes are away for minutes.
    Nodes,
    /// The agents of nodes are suspended on a slow link, and continue without a link: the response to a renewal of a
    /// Lease arrives late.
    SuspendedNodes,
}

/// The parts of a world in which faults are injected.
pub struct Faults {
    pub server: Server,
    /// The store's disk.
    pub disk: Arc<Disk>,
    pub controllers: Arc<Conditions>,
    pub scheduler: Arc<Conditions>,
    pub machines: Vec<Arc<Machine>>,
    /// The instances on the machines.
    pub instances: Instances,
}

impl Faults {
    /// Sets the quality of the network from now on.
    pub fn set_weather(&self, weather: Weather) {
        let nodes = self.machines.iter().map(|machine| &machine.conditions);
        for conditions in nodes.chain([&self.controllers, &self.scheduler]) {
            conditions.set_weather(weather);
        }
    }

    /// Sets the clock of the control plane or of a machine to a wrong time, by hours.
    pub fn set_clock_wrong(&self) {
        let minutes = below(600).cast_signed() - 300;
        match chance(40) {
            true => {
                trace!("clock of the control plane is off by {minutes} min");
                system::set_skew(minutes * 60_000_000_000);
            }
            false => {
                let machine = self.machine();
                trace!("clock of {} is off by {minutes} min", machine.settings.name);
                let error = SignedDuration::from_mins(minutes);
                machine.settings.clock.set_error(error);
            }
        }
    }

    /// Corrects all clocks.
    pub fn set_clocks_right(&self) {
        system::set_skew(0);
        for machine in &self.machines {
            machine.settings.clock.set_error(SignedDuration::ZERO);
        }
    }

    /// The name of one of the machines.
    pub fn node_name(&self) -> String {
        self.machine().name()
    }

    /// Starts a fault; its end is scheduled in `repairs`.
    pub fn strike(self: &Arc<Self>, extent: FaultExtent, repairs: &mut JoinSet<()>) {
        let faults = self.clone();
        let suspended = extent == FaultExtent::SuspendedNodes;
        if suspended || (extent == FaultExtent::Nodes && chance(60)) {
            let machine = self.machine();
            repairs.spawn(async move {
                let time = millis(30_000, 200_000);
                if suspended || chance(50) {
                    suspension(&machine, time, suspended).await;
                } else {
                    break_machine(&machine, time).await;
                }
            });
            return;
        }
        match below(100) {
            0..25 => self.controllers.die_at_write(between(1, 15)),
            25..30 => self.scheduler.die_at_write(between(1, 5)),
            30..38 => {
                repairs.spawn(async move { faults.restart_server().await });
            }
            38..60 => {
                let machine = self.machine();
                repairs.spawn(async move { break_machine(&machine, some_time()).await });
            }
            60..66 => {
                repairs.spawn(async move { faults.slow_disk().await });
            }
            66..74 if extent != FaultExtent::Contained => {
                repairs.spawn(async move { faults.cut_off_component().await });
            }
            74..80 => {
                let address = self.server.address.clone();
                let second = run_second(Component::Controllers, address, millis(500, 40_000));
                repairs.spawn(second);
            }
            80..85 => {
                let skew = i64::try_from(below(6_000)).unwrap_or_default() - 3_000;
                trace!("clock of the control plane is off by {skew} ms");
                system::set_skew(skew * 1_000_000);
            }
            _ => self.hurt_instance(),
        }
    }

    fn machine(&self) -> Arc<Machine> {
        let chosen = below(self.machines.len() as u64) as usize;
        self.machines[chosen].clone()
    }

    async fn restart_server(&self) {
        self.server.crash();
        sleep(millis(10, 8_000)).await;
        let is_down = {
            let address = &self.server.address;
            let guard = address.lock().unwrap_or_else(PoisonError::into_inner);
            guard.is_none()
        };
        if is_down {
            self.server.start().await;
        }
    }

    async fn slow_disk(&self) {
        trace!("disk is slow");
        self.disk.set_slowest(millis(50, 1_500));
        sleep(millis(1_000, 20_000)).await;
        self.disk.set_slowest(Duration::from_millis(3));
    }

    async fn cut_off_component(&self) {
        let component = one_of(&[&self.controllers, &self.scheduler]);
        trace!("a part is cut off");
        component.set_partitioned(true);
        sleep(millis(500, 60_000)).await;
        component.set_partitioned(false);
        trace!("a part is back");
    }

    /// A container fails, or only its probe; or a node has no capacity for its pod any more.
    fn hurt_instance(&self) {
        let machine = self.machine();
        let name = &machine.settings.name;
        let on_node = self.instances.on(name);
        if on_node.is_empty() {
            return;
        }
        let identity = &on_node[below(on_node.len() as u64) as usize];
        let now = Instant::now();
        let (ready_at, evicted) = (now + millis(100, 30_000), below(5) == 0);
        for instance in self.instances.running(name, identity) {
            trace!("{name} hurts {} (evicted: {evicted})", identity.1);
            self.instances.change(name, &instance.uid, |instance| {
                if evicted {
                    instance.ends_at.get_or_insert(now);
                } else {
                    instance.ready_at = ready_at;
                }
            });
        }
    }
}

/// A duration that is usually shorter than the tolerated silence of a node.
pub fn some_time() -> Duration {
    one_of(&[
        millis(500, 30_000),
        millis(500, 30_000),
        millis(30_000, 420_000),
    ])
}

/// Injects a fault into a machine, which is repaired after some time.
pub async fn break_machine(machine: &Machine, time: Duration) {
    match below(3) {
        0 => machine.crash_agent(),
        1 => machine.crash(),
        _ => {
            trace!("{} is cut off", machine.settings.name);
            machine.conditions.set_partitioned(true);
        }
    }
    sleep(time).await;
    machine.conditions.set_partitioned(false);
    machine.start();
    trace!("{} is well", machine.settings.name);
}

/// The machine has a slow link, on which its agent may be suspended with pending requests, and may be disconnected when
/// it continues. Both happen if `always` is set.
async fn suspension(machine: &Machine, time: Duration, always: bool) {
    let name = &machine.settings.name;
    let conditions = &machine.conditions;
    let before = conditions.weather();
    trace!("{name} has a slow link");
    conditions.set_weather(Weather {
        latency_millis: between(500, 6_000),
        ..before
    });
    sleep(millis(5_000, 60_000)).await;
    if always || chance(80) {
        conditions.freeze_at_write(millis(0, 30_000)).await;
        trace!("{name} is frozen");
        let frozen = millis(5_000, 35_000);
        sleep(one_of(&[frozen, frozen, time])).await;
        if always || chance(80) {
            trace!("{name} goes on, and is cut off");
            conditions.set_partitioned(true);
            conditions.set_frozen(false);
            sleep(time).await;
            conditions.set_partitioned(false);
        }
        conditions.set_frozen(false);
    }
    conditions.set_weather(before);
    trace!("{name} is well");
}

/// The settings of a machine: machines are slow or fast, and have different clocks.
pub fn some_settings(number: usize, hasty: bool) -> Settings {
    let startup = between(1, 3_000);
    let shutdown = between(1, 4_000);
    Settings {
        name: format!("n{number}"),
        startup_millis: (startup / 4, startup),
        shutdown_millis: (shutdown / 4, shutdown),
        clock: WallClock::off_by(SignedDuration::from_millis(
            below(10_000).cast_signed() - 5_000,
        )),
        workers: 4,
        hasty,
        lease: None,
    }
}
