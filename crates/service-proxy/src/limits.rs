//! Numbers that bound the proxy's work.

use std::time::Duration;

use connection_limits::ConnectionLimits;

/// Changes that come this close together are programmed as one.
pub const DEBOUNCE: Duration = Duration::from_millis(2);

/// Changes take at most one part in this many of the time of the kernel: it checks the whole table when a chain, a rule
/// or a verdict with a chain is added, and a series of thousands of Services would keep it busy.
pub const REST_FACTOR: u32 = 4;

/// This much delay may accumulate before a change has to wait: related changes, such as those of a
/// Service and of its endpoints, do not wait.
pub const REST_OWED_MAX: Duration = Duration::from_millis(500);

/// Longest time that a change waits.
pub const REST_MAX: Duration = Duration::from_millis(500);

/// Interval of the checks whether the table still exists: other programs can flush all rules of the
/// machine.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Time between a refused change and the next full replacement of the table.
pub const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Interval of the trials of rules that the kernel has refused.
pub const REFUSED_RETRY: Duration = Duration::from_secs(10);

/// Connections to the health check of one Service: of one client, and of all. Beyond it, the oldest one of the client with
/// the most is closed.
pub const HEALTH_CHECK_CONNECTIONS: ConnectionLimits = ConnectionLimits::without_nodes(32, 8);

/// Timeout of a load balancer's request and of its reading of the response.
pub const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Attributes have 16 bits of length; lists of elements are split well before.
pub(crate) const LIST_BYTES_MAX: usize = 32 * 1024;

/// Smallest send buffer of the netlink socket; grown for larger transactions.
pub(crate) const SEND_BUFFER_BYTES_MIN: usize = 1 << 20;

/// Maximum number of clients with session affinity to one endpoint; further ones are balanced at
/// random.
pub(crate) const AFFINITY_CLIENTS_MAX: u32 = 65_535;
