//! Names of resource limits, and the bounds of the shim's own buffers.

use std::collections::BTreeMap;

/// Maximum output bytes in a client's queue; if the queue is full, the source is not read.
pub(crate) const CLIENT_BYTES_MAX: usize = 256 << 10;

/// Maximum input bytes in a process's queue; if the queue is full, the client is not read.
pub(crate) const INPUT_BYTES_MAX: usize = 64 << 10;

/// Bytes per read of a stream.
pub(crate) const READ_BYTES: usize = 16 << 10;

/// An attached client that receives nothing for this time is disconnected, so that it cannot block the
/// container.
pub(crate) const STUCK_CLIENT_MS: u64 = 10_000;

/// Maximum number of concurrent connections; further connections wait in the socket's queue.
pub(crate) const CONNECTIONS_MAX: usize = 256;

/// Maximum number of stored exits of processes whose workers have not reported yet.
pub(crate) const EARLY_EXITS_MAX: usize = 64;

const NAMES: [(&str, u32); 16] = [
    ("RLIMIT_AS", libc::RLIMIT_AS),
    ("RLIMIT_CORE", libc::RLIMIT_CORE),
    ("RLIMIT_CPU", libc::RLIMIT_CPU),
    ("RLIMIT_DATA", libc::RLIMIT_DATA),
    ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
    ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
    ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", libc::RLIMIT_NICE),
    ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
    ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
    ("RLIMIT_RSS", libc::RLIMIT_RSS),
    ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
    ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
    ("RLIMIT_STACK", libc::RLIMIT_STACK),
];

/// The kernel has no resource limit with the name.
#[derive(Debug, thiserror::Error)]
#[error("unknown resource limit {0:?}")]
pub(crate) struct UnknownLimit(String);

/// Resource limits by number: resource, soft limit, hard limit.
pub(crate) fn rlimits(
    limits: &BTreeMap<String, (u64, u64)>,
) -> Result<Vec<(u32, u64, u64)>, UnknownLimit> {
    let number = |name: &str| {
        NAMES
            .iter()
            .find(|(candidate, _)| *candidate == name)
            .map(|(_, n)| *n)
    };
    limits
        .iter()
        .map(|(name, (soft, hard))| match number(name) {
            Some(resource) => Ok((resource, *soft, *hard)),
            None => Err(UnknownLimit(name.clone())),
        })
        .collect()
}
