//! All bounds of the scheduler, each with its reason.

use std::time::Duration;

/// This many attempts are made at once after a change: a pod is often created just before its
/// claims are known, and must not wait for a back-off.
pub(crate) const PROMPT_ATTEMPTS: u32 = 8;
/// First delay after those; doubles with each further attempt.
pub(crate) const BACK_OFF_MIN: Duration = Duration::from_millis(250);
/// Longest delay between attempts while things change; kube-scheduler's own.
pub(crate) const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// Time after which a pod is retried without a change, as kube-scheduler.
pub(crate) const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);
/// Maximum time for binding a pod's volumes before another node may be chosen; kube-scheduler's
/// default.
pub(crate) const VOLUMES_BOUND_WITHIN: Duration = Duration::from_secs(600);
/// Nodes with which a pod is compared for one unit of work ([`process_telemetry::polls::spend`]): one poll compares
/// 128 times as many.
pub(crate) const NODES_PER_UNIT: usize = 2;
/// Maximum number of concurrent writes.
pub(crate) const WRITES_MAX: usize = 64;
/// Time for which a node is left out after the volume of a claim could not be made there. A node that is the only one is
/// tried again after it.
pub(crate) const REFUSED_FOR: Duration = Duration::from_secs(60);
