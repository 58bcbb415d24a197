//! Numbers that bound the server's work.

use std::time::Duration;

/// Changes of Services and endpoints within this time are processed together.
pub const DEBOUNCE: Duration = Duration::from_millis(1);

/// Maximum number of Services that are updated while queries wait.
pub const SERVICES_AT_ONCE: usize = 64;

/// Concurrent TCP connections. Beyond the maximum, the oldest connection of the client with the most connections is
/// closed.
pub const TCP_CONNECTIONS_MAX: usize = 256;

/// Concurrent TCP connections of one client. Beyond the maximum, the client's oldest connection is closed.
pub const TCP_CONNECTIONS_PER_CLIENT_MAX: usize = 32;

/// A TCP connection without a query for this time is closed.
pub const TCP_IDLE: Duration = Duration::from_secs(10);

/// Concurrent queries to upstream servers; further queries get SERVFAIL.
pub const FORWARDS_MAX: usize = 1024;

/// Concurrent queries to upstream servers from one client by UDP; further queries of the client get SERVFAIL.
pub const FORWARDS_PER_CLIENT_MAX: usize = 128;

/// Timeout of one upstream server.
pub const UPSTREAM_TIMEOUT: Duration = Duration::from_millis(1500);

/// Timeout of a paused upstream server that is tried again. Some programs, such as Redis Sentinel, block while they
/// resolve a name, so a dead server must not cost them seconds again and again.
pub const UPSTREAM_TRIAL: Duration = Duration::from_millis(300);

/// Maximum number of upstream servers per query. All timeouts together are shorter than the five seconds after which
/// clients retry.
pub const UPSTREAMS_MAX: usize = 3;

/// Number of failures in a row after which an upstream server is paused.
pub const UPSTREAM_FAILURES_MAX: u32 = 2;

/// A failed upstream server is skipped for this time; queries that need this server fail at once. Then one query tries
/// the server again.
pub const UPSTREAM_PAUSE: Duration = Duration::from_secs(5);

/// Interval of the checks of the host's `resolv.conf`.
pub const RESOLV_CONF_INTERVAL: Duration = Duration::from_secs(5);

/// Maximum number of cached responses.
pub const CACHE_ENTRIES_MAX: usize = 1000;

/// Maximum number of records of a cached response. A record occupies up to two kilobytes of memory, but only 16 bytes
/// of its message.
pub const CACHE_RECORDS_MAX: usize = 64;

/// Maximum caching time of a response, even if its time to live is longer.
pub const CACHE_TTL_SECONDS_MAX: u32 = 30;

/// Maximum caching time of NXDOMAIN from an upstream server.
pub const CACHE_NEGATIVE_TTL_SECONDS_MAX: u32 = 5;

/// Maximum number of aliases that are followed for one query.
pub const ALIASES_MAX: usize = 8;

/// Maximum length of UDP responses to clients that do not announce a size.
pub const UDP_BYTES_MIN: usize = 512;

/// Maximum length of UDP responses to other clients; longer responses could be lost as fragments.
pub const UDP_BYTES_MAX: usize = 1232;

/// Maximum number of attempts to find a port that is free for both transports.
pub(crate) const FREE_PORT_ATTEMPTS_MAX: u32 = 16;

/// Time to wait for the API before the zone on disk is used.
pub(crate) const STORED_ZONE_DELAY: Duration = Duration::from_secs(5);

/// The delay between a change of the zone and its write to disk, and the shortest time between two writes.
pub(crate) const ZONE_WRITE_DELAY: Duration = Duration::from_secs(10);
