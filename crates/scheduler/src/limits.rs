//! Every number that bounds something here, and why it is that number.

use std::time::Duration;

/// So many attempts are made as soon as something changes: a pod often comes a moment before
/// its claims are known, and must not wait for that.
pub(crate) const PROMPT_ATTEMPTS: u32 = 8;
/// First delay after those; doubles with each further attempt.
pub(crate) const BACK_OFF_MIN: Duration = Duration::from_millis(250);
/// Longest delay between attempts while things change; kube-scheduler's own.
pub(crate) const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// After this time a pod is looked at again even if nothing is known to have changed, as
/// kube-scheduler does.
pub(crate) const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);
/// How long the volumes of a pod may take to be bound before another node may be chosen;
/// kube-scheduler's own.
pub(crate) const VOLUMES_BOUND_WITHIN: Duration = Duration::from_secs(600);
/// Writes under way at once.
pub(crate) const WRITES_MAX: usize = 64;
