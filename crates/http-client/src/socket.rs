//! Sockets that notice a peer that has vanished without a word: a machine without power, a cut link, a forgotten
//! translation of addresses.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{
    KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpUserTimeout,
};

/// A connection is broken when its peer has acknowledged nothing for this time.
pub const SILENCE_MAX: Duration = Duration::from_secs(15);
/// An idle connection asks its peer after this time, and again at this interval.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Probes without an answer before the end.
const PROBES: u32 = 2;

/// Lets a connection end when its peer has been silent for [`SILENCE_MAX`]: for peers that always read. The kernel takes a
/// peer that does not read for that time for one that has vanished.
///
/// # Errors
/// The kernel refuses an option.
pub fn end_when_silent(stream: &impl AsFd) -> io::Result<()> {
    let silence = u32::try_from(SILENCE_MAX.as_millis()).unwrap_or(u32::MAX);
    setsockopt(stream, TcpUserTimeout, &silence)?;
    end_when_idle(stream)
}

/// Lets a connection on which nothing is sent end when its peer is not there any more. A peer that reads later is waited
/// for.
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

/// As [`end_when_silent`], for the connections that a connector makes.
pub(crate) fn ending_when_silent<R>(connector: &mut HttpConnector<R>) {
    connector.set_tcp_user_timeout(Some(SILENCE_MAX));
    connector.set_keepalive(Some(PROBE_INTERVAL));
    connector.set_keepalive_interval(Some(PROBE_INTERVAL));
    connector.set_keepalive_retries(Some(PROBES));
}
