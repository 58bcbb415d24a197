//! Numbers that bound the server's work.

use std::time::Duration;

/// Changes of Services and endpoints that come this close together are taken together.
pub const DEBOUNCE: Duration = Duration::from_millis(1);

/// Services whose names change while no question is answered.
pub const SERVICES_AT_ONCE: usize = 64;

/// TCP connections at a time; further ones wait to be accepted.
pub const TCP_CONNECTIONS_MAX: usize = 256;

/// A TCP connection without a question for so long is closed.
pub const TCP_IDLE: Duration = Duration::from_secs(10);

/// Questions that wait for another server at a time; further ones are answered SERVFAIL.
pub const FORWARDS_MAX: usize = 1024;

/// How long one upstream server may take.
pub const UPSTREAM_TIMEOUT: Duration = Duration::from_millis(1500);

/// Upstream servers asked in turn for one question. Together they take less than the five
/// seconds after which clients ask again.
pub const UPSTREAMS_MAX: usize = 3;

/// An upstream server that failed so often in a row is left alone for a while.
pub const UPSTREAM_FAILURES_MAX: u32 = 2;

/// How long it is left alone; questions that only it could answer fail at once meanwhile.
pub const UPSTREAM_PAUSE: Duration = Duration::from_secs(5);

/// How often the host's list of servers is looked at for changes.
pub const RESOLV_CONF_INTERVAL: Duration = Duration::from_secs(5);

/// Answers of other servers kept.
pub const CACHE_ENTRIES_MAX: usize = 1000;

/// Longest time that an answer of another server is kept, whatever it allows.
pub const CACHE_TTL_SECONDS_MAX: u32 = 30;

/// Longest time that another server's "there is no such name" is kept.
pub const CACHE_NEGATIVE_TTL_SECONDS_MAX: u32 = 5;

/// Aliases followed for one question.
pub const ALIASES_MAX: usize = 8;

/// Answers by UDP to clients that do not say what they can take.
pub const UDP_BYTES_MIN: usize = 512;

/// Answers by UDP to clients that can take more; larger ones could be lost as fragments.
pub const UDP_BYTES_MAX: usize = 1232;

/// Ports tried when any free one will do.
pub(crate) const FREE_PORT_ATTEMPTS_MAX: u32 = 16;
