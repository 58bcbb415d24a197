//! All limits of the scheduler, each with its reason.

use std::time::Duration;

/// Attempts without a delay after a change. A pod is often created just before its claims are cached, and must not wait
/// for a backoff.
pub(crate) const PROMPT_ATTEMPTS: u32 = 8;
/// Delay after these attempts; it doubles with each further attempt.
pub(crate) const BACK_OFF_MIN: Duration = Duration::from_millis(250);
/// Longest delay between attempts; as kube-scheduler.
pub(crate) const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// Time after which a pod is retried without a change; as kube-scheduler.
pub(crate) const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);
/// Maximum time for binding a pod's volumes before another node may be chosen; kube-scheduler's
/// default.
pub(crate) const VOLUMES_BOUND_WITHIN: Duration = Duration::from_secs(600);
/// Nodes that are compared with a pod for one unit of work ([`process_telemetry::polls::spend`]); one poll compares 128
/// times as many.
pub(crate) const NODES_PER_UNIT: usize = 2;
/// Maximum number of concurrent writes.
pub(crate) const WRITES_MAX: usize = 64;
/// Time for which a node is excluded after its provisioner has failed to create the volume of a claim. Afterwards the
/// node is tried again, even if it is the only node.
pub(crate) const REFUSED_FOR: Duration = Duration::from_secs(60);
