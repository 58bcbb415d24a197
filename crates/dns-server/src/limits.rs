//! Numbers that bound the server's work.

use std::time::Duration;

/// Changes of Services and endpoints within this time are processed together.
pub const DEBOUNCE: Duration = Duration::from_millis(1);

/// Maximum number of Services to update per pause of queries.
pub const SERVICES_AT_ONCE: usize = 64;

/// TCP connections at a time. Beyond it, the oldest one of the client with the most is closed.
pub const TCP_CONNECTIONS_MAX: usize = 256;

/// TCP connections of one client at a time. Beyond it, its oldest one is closed.
pub const TCP_CONNECTIONS_PER_CLIENT_MAX: usize = 32;

/// A TCP connection without a question for so long is closed.
pub const TCP_IDLE: Duration = Duration::from_secs(10);

/// Questions that wait for another server at a time; further ones are answered SERVFAIL.
pub const FORWARDS_MAX: usize = 1024;

/// Questions of one client by UDP that wait for another server at a time; further ones of it are answered SERVFAIL.
pub const FORWARDS_PER_CLIENT_MAX: usize = 128;

/// Timeout of one upstream server.
pub const UPSTREAM_TIMEOUT: Duration = Duration::from_millis(1500);

/// Wait for an upstream server that is tried again after a pause. Some programs, such as Redis Sentinel, do nothing
/// else while they resolve a name, so a dead server must not cost them seconds again and again.
pub const UPSTREAM_TRIAL: Duration = Duration::from_millis(300);

/// Maximum number of upstream servers per query. Together they take less than the five seconds
/// after which clients retry.
pub const UPSTREAMS_MAX: usize = 3;

/// Number of failures in a row after which an upstream server is paused.
pub const UPSTREAM_FAILURES_MAX: u32 = 2;

/// A failed upstream server is skipped for this time; queries that only it could answer fail at
/// once. Then one query tries it.
pub const UPSTREAM_PAUSE: Duration = Duration::from_secs(5);

/// Interval of the checks of the host's list of servers.
pub const RESOLV_CONF_INTERVAL: Duration = Duration::from_secs(5);

/// Maximum number of cached responses.
pub const CACHE_ENTRIES_MAX: usize = 1000;

/// Maximum number of records of a cached response. Each has up to two kilobytes in memory, and 16 bytes of its message.
pub const CACHE_RECORDS_MAX: usize = 64;

/// Maximum caching time of a response, whatever its time to live.
pub const CACHE_TTL_SECONDS_MAX: u32 = 30;

/// Maximum caching time of "no such name" from another server.
pub const CACHE_NEGATIVE_TTL_SECONDS_MAX: u32 = 5;

/// Aliases followed for one question.
pub const ALIASES_MAX: usize = 8;

/// Maximum length of UDP responses to clients that do not announce a size.
pub const UDP_BYTES_MIN: usize = 512;

/// Answers by UDP to clients that can take more; larger ones could be lost as fragments.
pub const UDP_BYTES_MAX: usize = 1232;

/// Ports tried when any free one will do.
pub(crate) const FREE_PORT_ATTEMPTS_MAX: u32 = 16;

/// Wait for the API before names are answered by the contents on disk.
pub(crate) const KEPT_PATIENCE: Duration = Duration::from_secs(5);

/// The contents are kept on disk this long after a change, and not more often.
pub(crate) const KEEP_PERIOD: Duration = Duration::from_secs(10);
