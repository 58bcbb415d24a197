//! The settings of the scheduler, and the reason why it ended.

use reconcile::SharedCaches;

use crate::metrics::Metrics;

/// The settings of the scheduler.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods that ask for a scheduler of this name are scheduled; it also signs the events.
    pub scheduler_name: String,
    /// The metrics that the scheduler counts in.
    pub metrics: Metrics,
    /// Caches that other parts of the process read as well; without them the scheduler has its own.
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
    WatchStopped {
        /// The kind.
        kind: &'static str,
    },
}
