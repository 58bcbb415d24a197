//! The clock of leases among servers.

use host_kernel::deadline;
use jiff::SignedDuration;
use planners::leader_election::ClockReading;

/// The reading of this machine's clock since its boot, which continues while the machine is suspended.
pub fn reading() -> ClockReading {
    SignedDuration::try_from(deadline::now()).unwrap_or(SignedDuration::MAX)
}
