//! The data directory of a joined node is full.

use std::fs;
use std::path::Path;

use end_to_end::disk::Disk;
use end_to_end::{Kubectl, wait_for, wait_for_or_report, wait_for_text};

use super::{Machines, SHORT_LEASE, fenced, get, runs, wait_for_pod, wait_node_ready};

/// The node continues to work: it renews its lease, evicts its pods, and accepts pods when the disk has free bytes.
#[test]
fn a_node_whose_disk_is_full_stays_and_its_pods_go_elsewhere() {
    let mut machines = Machines::new();
    let data = machines.nodes[0].data();
    fs::create_dir(&data).expect("make a directory");
    machines.disk = Some(Disk::mount(Path::new(&data), 1024));
    let eviction = [
        "--eviction-hard=nodefs.available<10%",
        "--eviction-pressure-transition-period=1s",
    ];
    let mut running_pods = machines.join_with_pod(&[&SHORT_LEASE[..], &eviction].concat());
    let kubectl = machines.server.kubectl();
    let old = running_pods.0["ticks-0"][0].clone();
    machines.join(1, &SHORT_LEASE);
    let disk = machines.disk.as_ref().expect("a disk");
    disk.fill(0);
    machines.server.network.run(|| {
        wait_for_text("True", 120, || disk_pressure(&kubectl));
        wait_for_pod(&kubectl, &mut running_pods, "ticks-0", "n2");
        let ended = || match runs(&old) {
            true => Err(&old),
            false => Ok(()),
        };
        let pods = || kubectl.run(&["get", "pods", "-o", "wide"]).stdout;
        wait_for_or_report("the end of the old body", 120, ended, pods);
        // Longer than the lease, whose renewal needs no free bytes on the disk.
        let mut last_renewal = renewal(&kubectl);
        for _ in 0..5 {
            last_renewal = wait_for("a renewal of n1", 120, || match renewal(&kubectl) {
                now if now == last_renewal => Err(now),
                now => Ok(now),
            });
        }
        wait_node_ready(&kubectl, "n1");
        assert_eq!(fenced(&kubectl), "", "no node was lost");
    });
    disk.reclaim_space();
    machines.server.network.run(|| {
        wait_for_text("False", 120, || disk_pressure(&kubectl));
        kubectl.ok(&["scale", "statefulset/ticks", "--replicas=2"]);
        wait_for_pod(&kubectl, &mut running_pods, "ticks-1", "n1");
    });
    machines.shut_down();
}

fn disk_pressure(kubectl: &Kubectl) -> String {
    let condition = "jsonpath={.status.conditions[?(@.type==\"DiskPressure\")].status}";
    kubectl.run(&["get", "node", "n1", "-o", condition]).stdout
}

/// The time of the last renewal of the first node's lease.
fn renewal(kubectl: &Kubectl) -> String {
    let lease = get(kubectl, &["lease", "-n", "kube-node-lease", "n1"]);
    lease.map_or_else(
        |error| error,
        |lease| lease["spec"]["renewTime"].to_string(),
    )
}
