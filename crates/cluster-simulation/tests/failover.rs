//! The promise of a failover (docs/node-failure.md), by its phases, in simulated time: the times do not depend on the
//! load of the machine.

use std::time::Duration;

use cluster_simulation::failover::{Loss, failover, failover_with_restarts};
use node_lease::LeaseLength;

/// docs/node-failure.md: a pod whose image is on the other node runs there within this time.
const PROMISE: Duration = Duration::from_secs(50);
/// Renewals and checks are some milliseconds late.
const LATENESS: Duration = Duration::from_millis(100);
/// The interval of the checks of all nodes.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

// findings-2 R40
#[test]
fn a_pod_runs_on_another_node_within_the_promise_after_each_loss() {
    let lease = LeaseLength::DEFAULT.duration();
    for loss in [Loss::Power, Loss::Agent, Loss::Link] {
        let times = failover(loss).expect("a failover");
        println!("{loss:?}: {times:?}");
        // The pod ends at the deadline of the node, and always before the fence.
        match loss {
            Loss::Power => assert!(times.ended <= LATENESS, "{loss:?}: {times:?}"),
            Loss::Agent | Loss::Link => {
                assert!(times.ended + LATENESS >= lease, "{loss:?}: {times:?}");
                assert!(times.ended <= lease + LATENESS, "{loss:?}: {times:?}");
            }
        }
        // The fence is a quarter of the lease's length after the deadline, and not much later.
        let fence = lease * 5 / 4;
        assert!(times.fenced + LATENESS >= fence, "{loss:?}: {times:?}");
        assert!(
            times.fenced <= fence + POLL_INTERVAL + LATENESS,
            "{loss:?}: {times:?}"
        );
        assert!(times.ended < times.fenced, "{loss:?}: {times:?}");
        assert!(times.ready <= PROMISE, "{loss:?}: {times:?}");
    }
}

/// docs/node-failure.md: each restart adds a quarter of the lease, the time without a server, and the time since the
/// last record.
// findings-2 R36
#[test]
fn controllers_that_restart_again_and_again_fence_a_lost_node() {
    let lease = LeaseLength::DEFAULT.duration();
    for seconds in [24, 30, 40] {
        for loss in [Loss::Power, Loss::Agent, Loss::Link] {
            let every = Duration::from_secs(seconds);
            let times = failover_with_restarts(loss, every).expect("a failover");
            println!("{loss:?}, killed every {seconds}s: {times:?}");
            assert!(
                times.fenced + LATENESS >= lease * 5 / 4,
                "{loss:?}: {times:?}"
            );
            assert!(times.ended < times.fenced, "{loss:?}: {times:?}");
            // The controllers are away for 5 s at most, and record every 5 s.
            let lost = lease / 4 + Duration::from_secs(10);
            let rounds = (lease * 5 / 4)
                .div_duration_f64(every.saturating_sub(lost))
                .ceil();
            let bound = every.mul_f64(rounds + 1.0);
            assert!(times.fenced <= bound, "{loss:?}: {times:?} > {bound:?}");
        }
    }
}
