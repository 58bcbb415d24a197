//! The promise of a failover, by its phases: renewal, expiry, fence and start (docs/node-failure.md).
//!
//! The simulation checks the phases independently of the machine's load (`crates/cluster-simulation/tests/failover.rs`). This
//! test checks the program with real containers. Bounds that do not depend on the load are always checked.

use std::time::{Duration, Instant};

use end_to_end::load::LoadMeasurement;
use end_to_end::wait_for;

use super::{Machines, get, runs, wait_for_pod};

/// Maximum time until a pod whose image is on the other node runs there.
const PROMISE: Duration = Duration::from_secs(50);
/// The default lease, and the time from a renewal to the fence.
const LEASE: Duration = Duration::from_secs(38);
const FENCE: Duration = Duration::from_millis(47_500);
/// The duration of a check, which is the error of the times.
const LOOK: Duration = Duration::from_secs(1);
/// Maximum time with any load.
const LOADED_MAX: Duration = Duration::from_secs(150);

// findings-2 R40
#[test]
fn a_pod_whose_node_is_cut_off_right_after_a_renewal_runs_elsewhere_within_the_promise() {
    let mut machines = Machines::new();
    let mut running_pods = machines.join_with_pod(&[]);
    machines.join(1, &[]);
    let kubectl = machines.server.kubectl();
    let old = running_pods.0["ticks-0"][0].clone();
    let lease = ["lease", "-n", "kube-node-lease", "n1"];
    let renewals = || Ok::<_, String>(get(&kubectl, &lease)?["spec"]["renewTime"].clone());
    // The renewal came after the last check that has not observed it.
    let not_yet_renewed = machines.server.network.run(|| {
        let mut not_yet = Instant::now();
        let before = wait_for("a lease", 120, renewals);
        wait_for("a renewal", 120, || {
            let started = Instant::now();
            match renewals()? {
                now if now == before => {
                    not_yet = started;
                    Err(now.to_string())
                }
                _ => Ok(()),
            }
        });
        not_yet
    });
    let (renewed, load) = (Instant::now(), LoadMeasurement::begin());
    machines.lan.set_link(&machines.nodes[0], "down");
    let (mut ended, mut fenced) = (None, None);
    let ready = machines.server.network.run(|| {
        wait_for("the fence", 300, || {
            if !runs(&old) {
                ended.get_or_insert_with(|| renewed.elapsed());
            }
            let holder = get(&kubectl, &lease)?["spec"]["holderIdentity"].clone();
            match holder.as_str() {
                None | Some("") => Ok(()),
                Some(_) => Err(holder.to_string()),
            }
        });
        fenced = Some(renewed.elapsed());
        wait_for_pod(&kubectl, &mut running_pods, "ticks-0", "n2");
        renewed.elapsed()
    });
    let load = load.finish();
    let ended = ended.expect("the pod ended before the fence");
    let fenced = fenced.expect("a fence");
    let times =
        format!("ended after {ended:?}, fenced after {fenced:?}, ready after {ready:?}; {load}");
    eprintln!("{times}");
    // The fence must not be too early, whatever the load is.
    let earliest = renewed.duration_since(not_yet_renewed) + fenced;
    assert!(earliest >= FENCE, "too early: {times}");
    assert!(ended < fenced, "{times}");
    assert!(ready <= LOADED_MAX, "{times}");
    match load.is_high() {
        true => eprintln!(
            "the machine was loaded: the promise of {PROMISE:?} is not asserted, but {LOADED_MAX:?}"
        ),
        false => {
            assert!(ended <= LEASE + LOOK, "{times}");
            assert!(fenced <= FENCE + LOOK * 2, "{times}");
            assert!(ready <= PROMISE, "{times}");
        }
    }
    machines.lan.set_link(&machines.nodes[0], "up");
    machines.shut_down();
}
