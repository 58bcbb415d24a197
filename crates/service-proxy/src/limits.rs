//! Limits of the proxy's work.

use std::time::Duration;

use connection_limits::ConnectionLimits;

/// Changes within this time are programmed together.
pub const DEBOUNCE: Duration = Duration::from_millis(2);

/// Changes use at most the time of the kernel divided by this number. The kernel checks the whole table
/// when a chain, a rule or a verdict with a chain is added, so a series of thousands of Services would keep
/// the kernel busy.
pub const REST_FACTOR: u32 = 4;

/// This much delay may accumulate before a change has to wait, so that related changes, such as a Service
/// and its endpoints, do not wait.
pub const REST_OWED_MAX: Duration = Duration::from_millis(500);

/// Maximum time that a change waits.
pub const REST_MAX: Duration = Duration::from_millis(500);

/// Interval of the checks whether the table still exists, because other programs can flush all rules of the
/// machine.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Delay between a rejected change and the next full replacement of the table.
pub const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Interval of the trials of rules that the kernel has rejected.
pub const REFUSED_RETRY: Duration = Duration::from_secs(10);

/// Maximum connections to the health check of one Service: in total, and per client. If a limit is reached,
/// the oldest connection of the client with the most connections is closed.
pub const HEALTH_CHECK_CONNECTIONS: ConnectionLimits = ConnectionLimits::without_nodes(32, 8);

/// Time limit of a load balancer's request and of reading the response.
pub const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum bytes of a list of elements: the length of an attribute has 16 bits, and longer lists are split.
pub(crate) const LIST_BYTES_MAX: usize = 32 * 1024;

/// Minimum send buffer of the netlink socket, which grows for larger transactions.
pub(crate) const SEND_BUFFER_BYTES_MIN: usize = 1 << 20;

/// Maximum number of clients with session affinity to one endpoint; further clients are balanced at random.
pub(crate) const AFFINITY_CLIENTS_MAX: u32 = 65_535;
