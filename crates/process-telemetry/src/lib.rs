//! Telemetry of the process: [`health`] of long-running components, the text of all metrics ([`prometheus`]), [`polls`]
//! that take too long, and counts of [`refusals`] at limits. Also the delays between retries: [`backoff`] with jitter.

pub mod backoff;
pub mod health;
pub mod limits;
pub mod polls;
pub mod prometheus;
pub mod refusals;

pub use health::{Component, Health};
pub use polls::SlowPolls;
