//! Chooses a node for every pod: the scheduler observes through watch caches, calls `pod-placement` for a decision, and
//! writes the decision. Decisions are sequential, and each includes the results of the earlier ones; writes are
//! concurrent. For a pod without a feasible node, pods of lower priority are preempted if that helps.

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

use kube_api_client::Client;
use process_telemetry::Component;

pub use config::{Config, Error};
pub use metrics::Metrics;

/// Schedules pods until its component is shut down.
///
/// # Errors
/// A watch cache stopped before the shutdown.
pub async fn run(
    client: Client,
    config: Config,
    component: impl Into<Component>,
) -> Result<(), Error> {
    let component = component.into();
    // A child token, so that all tasks end with this function.
    let stopping = component.shutdown.child_token();
    let _end = stopping.clone().drop_guard();
    let component = component.with_shutdown(stopping);
    let engine = engine::Engine::new(client, config, component.clone());
    component.watched("engine", engine.run()).await
}
