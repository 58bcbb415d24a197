//! Detection of peers that have vanished without closing the connection, because of a power failure, a cut link, or a
//! forgotten address translation (NAT).

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{
    KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpUserTimeout,
};

/// Time without an acknowledgement from the peer after which a connection is broken.
pub const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Time after which an idle connection is probed, and the interval of further probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Number of probes without a response after which the connection is broken.
const PROBES: u32 = 2;

/// Ends the connection when its peer has been silent for [`SILENCE_MAX`]. Only for peers that always read: the kernel
/// treats a peer that does not read for this time like a peer that has vanished.
///
/// # Errors
/// The kernel refuses an option.
pub fn end_when_silent(stream: &impl AsFd) -> io::Result<()> {
    let silence = u32::try_from(SILENCE_MAX.as_millis()).unwrap_or(u32::MAX);
    setsockopt(stream, TcpUserTimeout, &silence)?;
    end_when_idle(stream)
}

/// Ends an idle connection when its peer has vanished. A peer that exists but does not read is waited for.
///
/// # Errors
/// The kernel refuses an option.
pub fn end_when_idle(stream: &impl AsFd) -> io::Result<()> {
    let seconds = u32::try_from(PROBE_INTERVAL.as_secs()).unwrap_or(1);
    setsockopt(stream, TcpKeepIdle, &seconds)?;
    setsockopt(stream, TcpKeepInterval, &seconds)?;
    setsockopt(stream, TcpKeepCount, &PROBES)?;
    setsockopt(stream, KeepAlive, &true)?;
    Ok(())
}

/// Does the same as [`end_when_silent`] for all connections of a connector.
pub(crate) fn ending_when_silent<R>(connector: &mut HttpConnector<R>) {
    connector.set_tcp_user_timeout(Some(SILENCE_MAX));
    connector.set_keepalive(Some(PROBE_INTERVAL));
    connector.set_keepalive_interval(Some(PROBE_INTERVAL));
    connector.set_keepalive_retries(Some(PROBES));
}
