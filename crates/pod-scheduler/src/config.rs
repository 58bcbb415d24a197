//! The settings of the scheduler, and the reason why it ended.

use controller_framework::SharedCaches;

use crate::metrics::Metrics;

/// The settings of the scheduler.
#[derive(Clone, Debug)]
pub struct Config {
    /// The scheduler schedules the pods with this `spec.schedulerName`. The name is also the source of its events.
    pub scheduler_name: String,
    /// The metrics that the scheduler updates.
    pub metrics: Metrics,
    /// Caches that the scheduler shares with other parts of the process; `None` gives it separate caches.
    pub caches: Option<SharedCaches>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheduler_name: "default-scheduler".to_owned(),
            metrics: Metrics::default(),
            caches: None,
        }
    }
}

/// The reason why the scheduler ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A watch cache stopped unexpectedly.
    #[error("the watch of {kind} stopped")]
    WatchStopped { kind: &'static str },
}
