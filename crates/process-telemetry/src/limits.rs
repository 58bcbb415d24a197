//! The limits of health, each with its reason.

use std::time::Duration;

/// Longest delay between attempts to list or watch.
pub const WATCH_RETRY_DELAY_MAX: Duration = Duration::from_secs(10);
/// Number of consecutive failures of a watch or of a controller's work that makes it unhealthy.
pub const FAILURES_MAX: u32 = 3;
