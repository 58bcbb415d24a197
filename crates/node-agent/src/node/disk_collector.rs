//! The collector of disk usage: measures the files of all pods at intervals.
//!
//! A measurement takes time in proportion to the number of files. The delay after a measurement grows with
//! that time. So the measurements use a small part of one processor, even on a node with millions of files.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use host_kernel::blocking_value;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::limits::{
    DISK_USAGE_PERIOD, DISK_USAGE_PERIOD_MAX, DISK_USAGE_SHARE, LOCAL_STORAGE_PERIOD,
};
use crate::machine::disk_figures::DiskFigures;
use crate::pods::pod_manager::PodManager;

/// Measures the disk usage of pods until `shutdown`.
pub async fn watch(
    figures: Arc<DiskFigures>,
    pods: Arc<PodManager>,
    clock: Clock,
    shutdown: CancellationToken,
) {
    loop {
        let begun = Instant::now();
        let (figures, pods) = (figures.clone(), pods.clone());
        let measure = move || measure_all(&figures, &pods, clock);
        if let Err(error) = blocking_value(measure).await {
            tracing::error!(%error, "disk usage not read");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(pause_after(begun.elapsed())) => {}
        }
    }
}

/// The delay after a round of measurements that took the duration `round`.
fn pause_after(round: Duration) -> Duration {
    (round * DISK_USAGE_SHARE).clamp(DISK_USAGE_PERIOD, DISK_USAGE_PERIOD_MAX)
}

/// Measures the files of one pod after another. The worker of a pod with limits measures its files more
/// often.
fn measure_all(figures: &DiskFigures, pods: &PodManager, clock: Clock) {
    let views = pods.list();
    let uids = views.iter().map(|view| view.identity.uid.as_str());
    figures.keep(&uids.collect::<BTreeSet<&str>>());
    for view in &views {
        let last = figures.of_pod(view.identity.uid.as_str());
        let is_fresh = |at| clock.instant().since(at) < LOCAL_STORAGE_PERIOD;
        if last.is_none_or(|last| !is_fresh(last.at.instant)) {
            view.measure_files(figures, clock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_take_a_small_part_of_a_processor() {
        let pause = |round: u64| pause_after(Duration::from_millis(round));
        assert_eq!(pause(1), DISK_USAGE_PERIOD);
        assert_eq!(pause(1_000), Duration::from_secs(50));
        assert_eq!(pause(600_000), DISK_USAGE_PERIOD_MAX);
    }
}
