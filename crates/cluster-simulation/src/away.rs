//! A world whose server is away for an hour while its nodes continue (docs/many-machines.md). There are no other
//! faults.
//!
//! During the hour, agents, controllers and the scheduler stop and start again. Pods that fail over end with the lease
//! of their node, and all other pods continue. After the return of the server the node of each pod is unchanged.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube_api_client::{ListParams, ResourceExt};
use kube_api_server::UserInfo;
use node_lease::LeaseLength;
use resource_kinds::labels;
use tokio::time::{Instant, sleep};

use crate::checks::Checks;
use crate::control_plane::{Component, ComponentRun, Server};
use crate::disk::Disk;
use crate::faults::{Machine, some_settings};
use crate::instances::{Identity, Instances};
use crate::link::{Address, Conditions, Link};
use crate::node::MachineLease;
use crate::random::{between, chance, millis, one_of};
use crate::rest::{pause, settle, wait_for_account, wait_for_goal};
use crate::user::{NAMESPACE, SETS, User};
use crate::{random, trace};

/// The time without a server.
const AWAY: Duration = Duration::from_secs(3600);
/// Maximum age of a controller's caches, because controllers stop and start again.
const STALENESS: Duration = Duration::from_secs(15);
/// The rates of the machines' clocks, in percent of the control plane's clock rate (docs/node-failure.md).
const RATES: (u32, u32) = (96, 104);

/// The reason why nodes lose their server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absence {
    /// The server stops, with or without the controllers and the scheduler.
    Ended,
    /// The link of the server's machine is cut: the control plane continues, without nodes.
    CutOff,
}

/// A pod that runs.
#[derive(Debug, PartialEq, Eq)]
struct RunningPod {
    identity: Identity,
    node: String,
    uid: String,
    ends_with_lease: bool,
    /// Whether the pod has the set's current revision; a pod of another revision is replaced after it has
    /// ended.
    is_current: bool,
}

/// The controllers and the scheduler, which can stop and start again.
struct Components {
    address: Address,
    running: Vec<(Component, ComponentRun)>,
}

impl Components {
    fn start(address: &Address) -> Self {
        let start = |component| {
            let run = ComponentRun::start(component, address, &Arc::new(Conditions::default()));
            (component, run)
        };
        Self {
            address: address.clone(),
            running: [Component::Controllers, Component::Scheduler]
                .map(start)
                .into(),
        }
    }

    fn crash(self) {
        for (_, run) in self.running {
            run.crash();
        }
    }

    /// Restarts some of the components.
    fn restart_some(&mut self) {
        for (component, run) in &mut self.running {
            if chance(30) {
                run.crash();
                *run = ComponentRun::start(*component, &self.address, &Arc::default());
            }
        }
    }
}

/// Runs one simulated cluster with the server away. Violations are in the trace.
pub async fn live(seed: u64) {
    random::begin(seed ^ 0x6177_6179_5f31_6800);
    let absence = one_of(&[Absence::Ended, Absence::Ended, Absence::CutOff]);
    // A control plane that stops must not treat a node as lost.
    let checks = Checks::new(STALENESS, absence == Absence::Ended);
    let observer = checks.clone();
    let (disk, spin) = Disk::new(move |change| observer.check_commit(change));
    tokio::spawn(spin);
    let server = Server::new(disk);
    server.start().await;
    let address = server.address.clone();
    let admin = UserInfo::new("admin", ["system:masters"]);
    let link = Link::new("user", admin, address.clone(), Arc::default());
    let user = User::new(link.client(), checks, &SETS[..1]);
    let instances = Instances::default();
    let machine = |number| {
        let mut settings = some_settings(number, false);
        let rate = between(RATES.0.into(), RATES.1.into()) as u32;
        settings.lease = Some(MachineLease::new(rate, &settings.clock, None));
        Arc::new(Machine::new(settings, instances.clone(), address.clone()))
    };
    let machines: Vec<_> = (0..between(1, 3) as usize).map(machine).collect();
    let mut components = Some(Components::start(&address));
    for machine in &machines {
        machine.start();
    }
    wait_for_account(&user).await;
    for _ in 0..between(3, 12) {
        user.act().await;
        sleep(pause()).await;
    }
    settle(&user, &instances, &machines).await;
    if let Err(error) = user.ensure_pods().await {
        trace::broken(format!("the user cannot have pods: {error}"));
    }
    settle(&user, &instances, &machines).await;
    let before = running_pods(&user, &instances).await;
    if trace::is_broken() {
        return;
    }

    trace!("the server goes away: {absence:?}");
    match absence {
        Absence::Ended => {
            server.crash();
            // The controllers are in the process of the server, or in another process.
            if chance(60)
                && let Some(components) = components.take()
            {
                components.crash();
            }
        }
        Absence::CutOff => machines
            .iter()
            .for_each(|machine| machine.set_cut_off(true)),
    }
    let since = Instant::now();
    while since.elapsed() < AWAY {
        let remaining = AWAY.saturating_sub(since.elapsed());
        sleep(millis(1_000, 90_000).min(remaining)).await;
        check(&before, &instances, since);
        if chance(20) {
            components.iter_mut().for_each(Components::restart_some);
        }
        for machine in &machines {
            if chance(10) {
                machine.crash_agent();
            } else {
                machine.start();
            }
        }
    }
    trace!("the server is back");
    for machine in &machines {
        machine.start();
        machine.set_cut_off(false);
    }
    if absence == Absence::Ended {
        server.start().await;
    }
    components.get_or_insert_with(|| Components::start(&address));
    wait_for_goal(&user, &instances, &machines).await;
    let after = running_pods(&user, &instances).await;
    for pod in before {
        let must_run = pod.is_current || !pod.ends_with_lease;
        if must_run && !after.contains(&pod) {
            trace::broken(format!("{pod:?} does not run as before: {after:?}"));
        }
    }
}

/// The pods that run on the node that their API object names.
async fn running_pods(user: &User, instances: &Instances) -> Vec<RunningPod> {
    let pods = user.api::<Pod>().list(&ListParams::default()).await;
    let pods = pods.unwrap_or_else(|error| {
        trace::broken(format!("the user cannot list pods: {error}"));
        Default::default()
    });
    let sets = user.api::<StatefulSet>().list(&ListParams::default()).await;
    let statuses = sets.into_iter().flatten().filter_map(|set| set.status);
    let revisions = statuses.flat_map(|status| [status.current_revision, status.update_revision]);
    let revisions: Vec<String> = revisions.flatten().collect();
    let running = |pod: &Pod| {
        let revision = pod.labels().get(labels::CONTROLLER_REVISION_HASH);
        let identity = (NAMESPACE.to_owned(), pod.name_any());
        let node = pod.spec.as_ref()?.node_name.clone()?;
        let uid = pod.uid()?;
        let instance = instances.of(&node, &identity, &uid)?;
        instance.runs(Instant::now()).then(|| RunningPod {
            identity,
            node,
            uid,
            ends_with_lease: instance.lease.is_some(),
            is_current: revision.is_some_and(|revision| revisions.contains(revision)),
        })
    };
    pods.items.iter().filter_map(running).collect()
}

/// Checks that pods that fail over have ended by the end of the last lease that was renewed before `since`, and that
/// other pods run.
fn check(before: &[RunningPod], instances: &Instances, since: Instant) {
    let lease_is_over = since.elapsed() > LeaseLength::DEFAULT.duration() * 100 / RATES.0;
    for pod in before {
        let instance = instances.of(&pod.node, &pod.identity, &pod.uid);
        let runs = instance.is_some_and(|instance| instance.runs(Instant::now()));
        let name = &pod.identity.1;
        if pod.ends_with_lease && lease_is_over && runs {
            trace::broken(format!("{name} outlives the lease of {}", pod.node));
        }
        if !pod.ends_with_lease && !runs {
            trace::broken(format!("{name} has ended without its server"));
        }
    }
}
