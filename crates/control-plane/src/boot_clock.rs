//! The clock of leases among servers.

use controller_planners::leader_election::ClockReading;
use host_kernel::deadline;
use jiff::SignedDuration;

/// The clock of this machine since its boot, which continues while the machine is suspended.
pub fn reading() -> ClockReading {
    SignedDuration::try_from(deadline::now()).unwrap_or(SignedDuration::MAX)
}
