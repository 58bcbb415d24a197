//! The promise of a failover (docs/node-failure.md), by its parts, in simulated time: on a machine of any load the same
//! code needs the same time.

use std::time::Duration;

use node_lease::LeaseLength;
use simulation::failover::{Loss, failover};

/// docs/node-failure.md: a pod whose image is on the other node runs there within this time.
const PROMISE: Duration = Duration::from_secs(50);
/// Renewals and looks are some milliseconds late.
const LATENESS: Duration = Duration::from_millis(100);
/// All nodes are looked at so often.
const LOOK: Duration = Duration::from_secs(1);

// findings-2 R40
#[test]
fn a_pod_runs_on_another_node_within_the_promise_after_each_loss() {
    let lease = LeaseLength::DEFAULT.duration();
    for loss in [Loss::Power, Loss::Agent, Loss::Link] {
        let times = failover(loss).expect("a failover");
        println!("{loss:?}: {times:?}");
        // The pod ends at the node's own deadline, and never before the fence.
        match loss {
            Loss::Power => assert!(times.ended <= LATENESS, "{loss:?}: {times:?}"),
            Loss::Agent | Loss::Link => {
                assert!(times.ended + LATENESS >= lease, "{loss:?}: {times:?}");
                assert!(times.ended <= lease + LATENESS, "{loss:?}: {times:?}");
            }
        }
        // Not earlier than a quarter after the deadline, and not much later.
        let fence = lease * 5 / 4;
        assert!(times.fenced + LATENESS >= fence, "{loss:?}: {times:?}");
        assert!(
            times.fenced <= fence + LOOK + LATENESS,
            "{loss:?}: {times:?}"
        );
        assert!(times.ended < times.fenced, "{loss:?}: {times:?}");
        assert!(times.ready <= PROMISE, "{loss:?}: {times:?}");
    }
}
