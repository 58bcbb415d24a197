//! A world with two or three servers over a simulated etcd: servers are killed and restarted, suspended and continued,
//! their links to etcd are cut, slow and broken, etcd changes its leader, splits, lags and is compacted.

use std::sync::Arc;
use std::time::Duration;

use kube_api_server::UserInfo;
use leader_election::Clock;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::audit::Audit;
use crate::candidate::{
    Candidate, Terms, Traits, cached_clock, fast_clock, too_fast_clock, uptime,
};
use crate::checks::Checks;
use crate::etcd::{Cluster, MEMBERS};
use crate::faults::{Machine, break_machine, some_settings, some_time};
use crate::instances::Instances;
use crate::link::{Link, Servers};
use crate::random::{below, between, chance, millis};
use crate::rest::{pause, settle, wait_for_account};
use crate::run::Mutation;
use crate::user::User;
use crate::{random, trace};

/// Maximum age of a cache: a watch through a server without its store delivers no changes.
const STALENESS: Duration = Duration::from_secs(180);
/// Maximum latency to the store in one direction, without a fault.
const HEALTHY_LATENCY: Duration = Duration::from_millis(20);

/// Runs one world. Violations are in the trace.
pub async fn live(seed: u64, mutation: Option<Mutation>) {
    random::begin(seed ^ 0x7365_7276_6572_7332);
    let checks = Checks::new(STALENESS, false);
    let audit = Audit::default();
    let (observer, auditor) = (checks.clone(), audit.clone());
    let etcd = Cluster::start(move |change| {
        observer.check_commit(change);
        auditor.record_commit(change);
    });
    let terms = Terms::default();
    let clocks: [Clock; 3] = match mutation {
        Some(Mutation::FastClock) => [uptime, too_fast_clock, uptime],
        Some(Mutation::OldClock) => [cached_clock, fast_clock, uptime],
        _ => [uptime, fast_clock, uptime],
    };
    let server = |(member, (name, clock))| {
        let traits = Traits {
            name,
            clock,
            member,
            flaw: mutation.and_then(Mutation::store_flaw),
            is_unguarded: mutation == Some(Mutation::UnguardedLead),
        };
        Arc::new(Candidate::new(traits, etcd.clone(), terms.clone()))
    };
    let names = ["a", "b", "c"].into_iter().zip(clocks).enumerate();
    let servers: Vec<_> = names.map(server).take(between(2, 3) as usize).collect();
    for server in &servers {
        server.link.set_slowest(HEALTHY_LATENCY);
        server.start().await;
    }
    let addresses = || Servers::of(servers.iter().map(|server| server.address.clone()));
    let admin = || UserInfo::new("admin", ["system:masters"]);
    let link = Link::new("user", admin(), addresses(), Arc::default());
    let user = User::new(link.client(), checks, &[]);
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
    let clients = audit.start(|name| {
        let servers = addresses();
        let link = Link::new(name, admin(), servers.clone(), Arc::default());
        (link.client(), servers)
    });
    let mut repairs = JoinSet::new();
    for _ in 0..between(10, 30) {
        match chance(50) {
            true => strike(&etcd, &servers, &machines, &mut repairs),
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
        repair(server).await;
    }
    settle(&user, &instances, &machines).await;
    audit.stop(clients).await;
}

/// Starts a fault; its end is scheduled in `repairs`.
fn strike(
    etcd: &Arc<Cluster>,
    servers: &[Arc<Candidate>],
    machines: &[Arc<Machine>],
    repairs: &mut JoinSet<()>,
) {
    let etcd = etcd.clone();
    let server = servers[below(servers.len() as u64) as usize].clone();
    let machine = machines[below(machines.len() as u64) as usize].clone();
    let member = below(MEMBERS as u64) as usize;
    let kind = below(100);
    repairs.spawn(async move {
        match kind {
            0..15 => {
                server.crash();
                sleep(millis(10, 30_000)).await;
            }
            15..22 => {
                server.stop().await;
                sleep(millis(10, 30_000)).await;
            }
            22..38 => {
                trace!("a server is cut off from etcd");
                server.link.set_cut(true);
                sleep(millis(200, 60_000)).await;
                if chance(50) {
                    etcd.compact();
                }
                if chance(50) {
                    server.link.break_connections();
                }
            }
            38..48 => {
                trace!("a server is far from etcd");
                server.link.set_slowest(millis(500, 12_000));
                sleep(millis(2_000, 40_000)).await;
            }
            48..52 => server.link.break_connections(),
            52..60 => server.pause(millis(200, 60_000)).await,
            60..70 => etcd.change_leader().await,
            70..78 => etcd.split(member, millis(200, 30_000)).await,
            78..84 => etcd.kill(member, millis(200, 30_000)).await,
            84..88 => {
                let slowest = millis(100, 5_000);
                etcd.slow_down(member, slowest, millis(1_000, 30_000)).await;
            }
            _ => break_machine(&machine, some_time()).await,
        }
        repair(&server).await;
    });
}

/// Repairs the link of a server, and starts the server unless it runs.
async fn repair(server: &Candidate) {
    server.link.set_cut(false);
    server.link.set_slowest(HEALTHY_LATENCY);
    server.start().await;
}
