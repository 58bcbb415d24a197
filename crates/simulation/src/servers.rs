//! A world with two servers over one store: servers are killed and come back, stand still and go on, their links to
//! the store are cut and slow, and the store itself does not answer while it has no leader.

use std::sync::Arc;
use std::time::Duration;

use api_server::UserInfo;
use leader_election::Clock;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::candidate::{Candidate, Leads, fast, seen, too_fast, uptime};
use crate::checks::Checks;
use crate::disk::Disk;
use crate::faults::{Machine, some_settings, some_time, trouble};
use crate::instances::Instances;
use crate::link::{Link, Servers};
use crate::random::{below, between, chance, millis};
use crate::run::Mutation;
use crate::user::User;
use crate::world::{come_to_rest, pause, wait_for_account};
use crate::{random, trace};

/// Maximum age of a view: a watch through a server without its store tells nothing new.
const STALENESS: Duration = Duration::from_secs(180);
/// Longest time of one way to the store when nothing is wrong.
const WELL: Duration = Duration::from_millis(20);

/// Runs one world. Violations are in the trace.
pub async fn live(seed: u64, mutation: Option<Mutation>) {
    random::begin(seed ^ 0x7365_7276_6572_7332);
    let checks = Checks::new(STALENESS, false);
    let observer = checks.clone();
    let (disk, spin) = Disk::new(move |change| observer.see(change));
    tokio::spawn(spin);
    let leads = Leads::default();
    let clocks: [Clock; 2] = match mutation {
        Some(Mutation::FastClock) => [uptime, too_fast],
        Some(Mutation::OldClock) => [seen, fast],
        _ => [uptime, fast],
    };
    let servers = [("a", clocks[0]), ("b", clocks[1])];
    let servers = servers
        .map(|(name, clock)| Arc::new(Candidate::new(name, disk.clone(), clock, leads.clone())));
    for server in &servers {
        server.link.set_slowest(WELL);
        server.start().await;
    }
    let addresses = || Servers::of(servers.iter().map(|server| server.address.clone()));
    let admin = UserInfo::new("admin", ["system:masters"]);
    let link = Link::new("user", admin, addresses(), Arc::default());
    let user = User::new(link.client(), checks, false);
    let instances = Instances::default();
    let machines: Vec<Arc<Machine>> = (0..between(1, 3) as usize)
        .map(|number| {
            let settings = some_settings(number, false);
            Arc::new(Machine::new(settings, instances.clone(), addresses()))
        })
        .collect();
    for machine in &machines {
        machine.start();
    }
    wait_for_account(&user).await;
    let mut repairs = JoinSet::new();
    for _ in 0..between(10, 30) {
        match chance(50) {
            true => strike(&servers, &machines, &mut repairs),
            false => user.act().await,
        }
        sleep(pause()).await;
        if trace::is_broken() {
            return;
        }
    }
    trace!("no more faults");
    while repairs.join_next().await.is_some() {}
    for server in &servers {
        mend(server).await;
    }
    come_to_rest(&user, &instances, &machines).await;
}

/// Starts a fault; its end is scheduled in `repairs`.
fn strike(servers: &[Arc<Candidate>; 2], machines: &[Arc<Machine>], repairs: &mut JoinSet<()>) {
    let server = servers[below(2) as usize].clone();
    let all = servers.clone();
    let machine = machines[below(machines.len() as u64) as usize].clone();
    let kind = below(100);
    repairs.spawn(async move {
        match kind {
            0..20 => {
                server.crash();
                sleep(millis(10, 30_000)).await;
            }
            20..30 => {
                server.stop().await;
                sleep(millis(10, 30_000)).await;
            }
            30..55 => {
                trace!("a server is cut off from the store");
                server.link.set_cut(true);
                sleep(millis(200, 60_000)).await;
            }
            55..70 => {
                trace!("a server is far from the store");
                server.link.set_slowest(millis(500, 12_000));
                sleep(millis(2_000, 40_000)).await;
            }
            70..80 => server.pause(millis(200, 60_000)).await,
            80..88 => {
                trace!("the store has no leader");
                all.iter().for_each(|server| server.link.set_cut(true));
                sleep(millis(200, 8_000)).await;
                all.iter().for_each(|server| server.link.set_cut(false));
            }
            _ => trouble(&machine, some_time()).await,
        }
        mend(&server).await;
    });
}

/// Mends the link of a server, and starts it if it does not run.
async fn mend(server: &Candidate) {
    server.link.set_cut(false);
    server.link.set_slowest(WELL);
    server.start().await;
}
