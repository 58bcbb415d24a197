//! A complete run: set-up, users and faults, and rest.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use kube_api_server::UserInfo;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::checks::Checks;
use crate::control_plane::{Component, Server, supervise};
use crate::disk::Disk;
use crate::faults::{FaultExtent, Faults, Machine, some_settings};
use crate::instances::Instances;
use crate::link::{Address, Conditions, Link, Weather};
use crate::node::{LeaseFlaw, MachineLease, WallClock};
use crate::random::{below, between, chance, millis};
use crate::rest::{pause, settle, wait_for_account};
use crate::run::{Mutation, suspend_machine};
use crate::user::{SETS, User};
use crate::{random, trace};

/// The properties of a world.
struct Climate {
    weather: Weather,
    faults: Option<FaultExtent>,
    /// Whether two controllers always run, as if each assumed that the other is dead.
    two_controllers: bool,
    /// Maximum age of the state that controllers read.
    staleness: Duration,
    /// Whether the machine is sometimes suspended.
    pauses: bool,
    /// Whether pods fail over from nodes that are away.
    failover: bool,
}

/// The rate of a clock with which instances live for 66 seconds after a renewal, although a node is fenced after 50
/// seconds.
const SLOW_CLOCK_PERCENT: u32 = 60;

/// Maximum length of a pause.
const PAUSE_MAX: Duration = Duration::from_secs(400);

impl Climate {
    /// The first random choices of the world.
    fn of_seed(seed: u64, mutation: Option<Mutation>) -> Self {
        random::begin(seed ^ 0x6d61_696e_7374_6179);
        Self::of_chance(seed, mutation)
    }

    fn of_chance(seed: u64, mutation: Option<Mutation>) -> Self {
        let fair = Self {
            weather: Weather {
                latency_millis: between(0, 20),
                ..Weather::default()
            },
            faults: None,
            two_controllers: false,
            staleness: Duration::from_secs(2),
            pauses: false,
            failover: false,
        };
        let kind = below(4);
        let of_lease = mutation.is_some_and(Mutation::is_of_lease);
        if of_lease || (mutation.is_none() && seed % 10 == 4) {
            let extent = match mutation {
                Some(Mutation::AnsweredLease) => FaultExtent::SuspendedNodes,
                _ => FaultExtent::Nodes,
            };
            return Self {
                faults: Some(extent),
                staleness: Duration::from_secs(180),
                failover: true,
                ..fair
            };
        }
        if mutation == Some(Mutation::DeafWhilePaused) || (mutation.is_none() && seed % 10 == 9) {
            return Self {
                pauses: true,
                staleness: fair.staleness + PAUSE_MAX,
                ..fair
            };
        }
        // The mistake needs a race between two controllers.
        let needs_race = mutation == Some(Mutation::CarelessDeletes);
        match if needs_race { 3 } else { kind } {
            // No faults except the users' actions: here the checks are strict.
            0 => fair,
            1 => Self {
                faults: Some(FaultExtent::Contained),
                staleness: Duration::from_secs(15),
                ..fair
            },
            2 => Self {
                weather: Weather {
                    lost_requests: below(6),
                    lost_responses: below(6),
                    late_events: below(10),
                    broken_watches: below(4),
                    latency_millis: between(0, 300),
                    lateness_millis: between(100, 8_000),
                },
                faults: Some(FaultExtent::Everything),
                staleness: Duration::from_secs(180),
                ..fair
            },
            _ => Self {
                weather: Weather {
                    latency_millis: between(10, 300),
                    ..Weather::default()
                },
                two_controllers: true,
                staleness: Duration::from_secs(15),
                ..fair
            },
        }
    }
}

/// Whether machines, agents and their links have faults in a world without a mistake.
#[cfg(test)]
pub fn has_faults_of_nodes(seed: u64) -> bool {
    Climate::of_seed(seed, None).faults.is_some()
}

/// The machines of a world, with the mistake of the mutation.
fn machines(
    climate: &Climate,
    mutation: Option<Mutation>,
    instances: &Instances,
    address: &Address,
) -> Vec<Arc<Machine>> {
    let hasty = mutation == Some(Mutation::HastyNode);
    let flaw = match mutation {
        Some(Mutation::OutlivedLease) => Some(LeaseFlaw::Outlived),
        Some(Mutation::AnsweredLease) => Some(LeaseFlaw::FromResponse),
        Some(Mutation::WallClockLease) => Some(LeaseFlaw::WallClock),
        _ => None,
    };
    let lease = |clock: &WallClock| match mutation {
        Some(Mutation::SlowNodeClock) => MachineLease::new(SLOW_CLOCK_PERCENT, clock, flaw),
        // The assumption of docs/node-failure.md.
        _ => MachineLease::new(between(96, 104) as u32, clock, flaw),
    };
    let machine = |number| {
        let mut settings = some_settings(number, hasty);
        settings.lease = climate.failover.then(|| lease(&settings.clock));
        Arc::new(Machine::new(settings, instances.clone(), address.clone()))
    };
    let fewest = if climate.failover { 2 } else { 1 };
    (0..between(fewest, 3) as usize).map(machine).collect()
}

/// Runs one world. Violations are in the trace.
pub async fn live(seed: u64, mutation: Option<Mutation>) {
    let climate = Climate::of_seed(seed, mutation);
    // Only faults make a node silent; a suspension of the observer does not.
    let checks = Checks::new(climate.staleness, climate.faults.is_none());
    let observer = checks.clone();
    let (disk, spin) = Disk::new(move |change| observer.check_commit(change));
    tokio::spawn(spin);
    let server = Server::new(disk.clone());
    server.start().await;
    let address = server.address.clone();
    let admin = UserInfo::new("admin", ["system:masters"]);
    let link = Link::new("user", admin, address.clone(), Arc::default());
    let failing_over = if climate.failover { &SETS[..] } else { &[] };
    let mut user = User::new(link.client(), checks, failing_over);
    let wrong_clocks =
        climate.failover && (chance(50) || mutation == Some(Mutation::WallClockLease));
    if wrong_clocks {
        user = user.timeless();
    }
    let instances = Instances::default();
    let machines = machines(&climate, mutation, &instances, &address);
    let controllers = Arc::new(Conditions::default());
    controllers.forge(mutation.and_then(Mutation::forgery));
    controllers.set_careless(mutation == Some(Mutation::CarelessDeletes));
    let scheduler = Arc::new(Conditions::default());
    let parts = [
        (Component::Controllers, &controllers),
        (Component::Scheduler, &scheduler),
    ];
    let gap = (mutation == Some(Mutation::DeafWhilePaused)).then_some(SignedDuration::MAX);
    controllers.set_observation_gap(gap);
    for (component, conditions) in parts {
        tokio::spawn(supervise(component, address.clone(), conditions.clone()));
    }
    if climate.two_controllers {
        let second = supervise(Component::Controllers, address.clone(), controllers.clone());
        tokio::spawn(second);
    }
    let faults = Arc::new(Faults {
        server,
        disk,
        controllers,
        scheduler,
        machines,
        instances: instances.clone(),
    });
    for machine in &faults.machines {
        machine.start();
    }
    wait_for_account(&user).await;
    faults.set_weather(climate.weather);
    let mut repairs = JoinSet::new();
    for _ in 0..between(10, 30) {
        match climate.faults {
            Some(extent) if chance(40) => faults.strike(extent, &mut repairs),
            _ => user.act().await,
        }
        if climate.failover && chance(15) {
            user.delete_node(&faults.node_name()).await;
        }
        if wrong_clocks && chance(20) {
            faults.set_clock_wrong();
        }
        if climate.pauses && chance(30) {
            let time = millis(20_000, PAUSE_MAX.as_millis() as u64);
            trace!("everything stands still for {time:?}");
            suspend_machine(time).await;
        }
        sleep(pause()).await;
        if trace::is_broken() {
            return;
        }
    }
    trace!("no more faults");
    while repairs.join_next().await.is_some() {}
    faults.set_weather(Weather::default());
    faults.controllers.die_at_write(0);
    faults.scheduler.die_at_write(0);
    faults.set_clocks_right();
    settle(&user, &instances, &faults.machines).await;
}
