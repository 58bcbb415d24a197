//! Telemetry of the process, and the pauses of its retries: [`health`] of long-running components, the text of all metrics
//! ([`prometheus`]), [`polls`] of tasks that take too long, counts of [`refusals`] at bounds, and [`backoff`] with jitter.

pub mod backoff;
pub mod health;
pub mod limits;
pub mod polls;
pub mod prometheus;
pub mod refusals;

pub use health::{Component, Health};
pub use polls::SlowPolls;
