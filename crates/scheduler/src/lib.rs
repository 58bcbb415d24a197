//! Gives every pod a node: observes through watch caches, asks `placement` and writes its decision.
//! Decisions are made one after the other, each with the results of the earlier ones; writes run
//! concurrently. For a pod without a feasible node, pods of lower priority are preempted where that
//! helps.

mod backlog;
mod devices;
mod engine;
mod limits;
mod metrics;
mod nominations;
mod reservations;
mod writes;

use api_client::Client;
pub use metrics::Metrics;
use reconcile::{Component, SharedCaches};

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods that ask for a scheduler of this name are scheduled; it also signs the events.
    pub scheduler_name: String,
    /// The scheduler's metrics.
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

/// Schedules pods until its part of the program is shut down.
///
/// # Errors
/// A watch cache stopped earlier.
pub async fn run(
    client: Client,
    config: Config,
    component: impl Into<Component>,
) -> Result<(), Error> {
    let component = component.into();
    // An own token, so that all tasks end with this function.
    let own = component.shutdown.child_token();
    let _end = own.clone().drop_guard();
    let component = component.with_shutdown(own);
    let engine = engine::Engine::new(client, config, component.clone());
    component.watched("engine", engine.run()).await
}
