//! Numbers that bound the proxy's work.

use std::time::Duration;

/// Changes that come this close together are programmed as one.
pub const DEBOUNCE: Duration = Duration::from_millis(2);

/// In the long run the kernel works for one part in so many of the time: however small a change is,
/// it looks through the whole table, and while thousands of Services come one after the other it
/// would do nothing else.
pub const REST_FACTOR: u32 = 4;

/// So much rest may be owed before a change has to wait: those that belong together, such as that
/// of a Service and that of its endpoints, do not.
pub const REST_OWED_MAX: Duration = Duration::from_millis(500);

/// Longest time that a change waits.
pub const REST_MAX: Duration = Duration::from_millis(500);

/// How often the kernel is asked whether the table is still there: other programs can flush all
/// rules of the machine.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// How long to wait after the kernel refused a change, before the table is made anew.
pub const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Health checks of one Service that are answered at once; further ones wait.
pub const HEALTH_CHECK_CONNECTIONS_MAX: usize = 32;

/// How long a balancer may take to ask, and to read the answer.
pub const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Attributes have 16 bits of length; lists of elements are split well before.
pub(crate) const LIST_BYTES_MAX: usize = 32 * 1024;

/// Smallest send buffer of the netlink socket; grown for larger transactions.
pub(crate) const SEND_BUFFER_BYTES_MIN: usize = 1 << 20;

/// Clients that one endpoint remembers at most; further ones are balanced at random.
pub(crate) const AFFINITY_CLIENTS_MAX: u32 = 65_535;
