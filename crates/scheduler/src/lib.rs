//! Gives every pod a node: observes through watch caches, asks `placement` and writes what it
//! says. Decisions are made one after the other, each seeing those before it; writes go on beside.
//! For a pod that fits nowhere less important ones are deleted, where that helps.

mod backlog;
mod devices;
mod engine;
mod limits;
mod metrics;
mod nominations;
mod reservations;
mod writes;

use kube::Client;
pub use metrics::Metrics;
use reconcile::Part;

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods that ask for a scheduler of this name are scheduled; it also signs the events.
    pub scheduler_name: String,
    /// Where the scheduler tells how it gets on.
    pub metrics: Metrics,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheduler_name: "default-scheduler".to_owned(),
            metrics: Metrics::default(),
        }
    }
}

/// Why the scheduler ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A watch cache stopped although nobody asked it to.
    #[error("the watch of {kind} stopped")]
    WatchStopped {
        /// Of what.
        kind: &'static str,
    },
}

/// Schedules pods until its part of the program is to end.
///
/// # Errors
/// When a watch ends before that.
pub async fn run(client: Client, config: Config, part: impl Into<Part>) -> Result<(), Error> {
    let part = part.into();
    // A token of its own, so that what is started here ends with this function in any case.
    let own = part.shutdown.child_token();
    let _end = own.clone().drop_guard();
    let part = part.with_shutdown(own);
    let engine = engine::Engine::new(client, config, part.clone());
    part.watched("engine", engine.run()).await
}
