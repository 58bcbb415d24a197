//! Gives every pod a node: observes through watch caches, asks `placement` and writes its decision.
//! Decisions are made one after the other, each with the results of the earlier ones; writes run
//! concurrently. For a pod without a feasible node, pods of lower priority are preempted where that
//! helps.

mod backlog;
mod config;
mod devices;
mod engine;
mod explanations;
mod limits;
mod metrics;
mod nominations;
mod refusals;
mod reservations;
mod writes;

use api_client::Client;
use process_telemetry::Component;

pub use config::{Config, Error};
pub use metrics::Metrics;

/// Schedules pods until its component is shut down.
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
