//! A server that is killed again and again, each time before it has observed a silent node for long enough.

use std::thread::sleep;
use std::time::{Duration, Instant};

use end_to_end::{Kubectl, wait_for_text};
use nix::sys::signal::Signal;

use super::{Machines, fenced, get, runs, wait_for_pod, wait_node_ready};

const LEASE: [&str; 2] = ["--node-lease-duration", "24s"];

/// The time after which one run of a server fences the lease of a silent node: the lease's length and a quarter.
const ONE_RUN_FENCES: Duration = Duration::from_secs(30);

/// The time after which each run of the server is killed: before the lease could lapse within the run.
const RUN: Duration = Duration::from_secs(22);

/// On a busy machine a run begins late and adds less to the observed silence. Without the record of former runs, no
/// number of runs is enough.
const RUNS_MAX: usize = 10;

// findings-2 R36
#[test]
fn restarts_do_not_postpone_the_loss_of_a_silent_node_for_ever() {
    let mut machines = Machines::new();
    let mut running_pods = machines.join_with_pod(&LEASE);
    machines.join(1, &LEASE);
    let kubectl = machines.server.kubectl();
    machines
        .server
        .network
        .run(|| wait_node_ready(&kubectl, "n2"));
    let old = running_pods.0["ticks-0"][0].clone();
    assert!(runs(&old));
    machines.nodes[0].signal(Signal::SIGSTOP);
    let silent_since = Instant::now();
    machines.server.kill();
    let needed = (1..=RUNS_MAX).find(|_| is_fenced_in_a_short_run(&mut machines, &kubectl));
    let needed = needed.expect("the node is lost in spite of the restarts");
    eprintln!("fenced after {:?}, in run {needed}", silent_since.elapsed());
    assert!(needed > 1, "the first run was too long to show anything");
    machines.server.network.run(|| {
        wait_for_text("n1", 60, || fenced(&kubectl));
        wait_for_pod(&kubectl, &mut running_pods, "ticks-0", "n2");
        assert!(!runs(&old));
    });
    machines.nodes[0].signal(Signal::SIGCONT);
    machines
        .server
        .network
        .run(|| wait_node_ready(&kubectl, "n1"));
    machines.shut_down();
}

/// Starts the server, and kills it before it could have fenced the node by its own observation alone. A server that has
/// fenced the node is not killed.
fn is_fenced_in_a_short_run(machines: &mut Machines, kubectl: &Kubectl) -> bool {
    let started = Instant::now();
    machines.server.spawn(&["server"]);
    while started.elapsed() < RUN {
        let lease = ["lease", "-n", "kube-node-lease", "n1"];
        let lease = machines.server.network.run(|| get(kubectl, &lease));
        let holder = lease.map(|lease| lease["spec"]["holderIdentity"].clone());
        let is_fenced = holder.is_ok_and(|holder| holder.as_str().is_none_or(str::is_empty));
        if is_fenced {
            assert!(started.elapsed() < ONE_RUN_FENCES);
            return true;
        }
        sleep(Duration::from_millis(500));
    }
    machines.server.kill();
    assert!(started.elapsed() < ONE_RUN_FENCES, "the run was too long");
    false
}
