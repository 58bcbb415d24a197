//! The messages to systemd that the program is alive (`sd_notify`(3), `WatchdogSec=` of the unit): without
//! them systemd kills the program and starts it again. Tasks of the runtime send them, so the messages end
//! when the runtime's threads hang; a disk that does not respond does not end them.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Starts to send the messages, if systemd waits for them. Must be called on the runtime.
pub fn keep_alive() {
    let variable = |name: &str| env::var(name).ok();
    let (limit, process) = (variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
    let Some(period) = period(limit.as_deref(), process.as_deref(), std::process::id()) else {
        return;
    };
    let Some(manager) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    match Manager::at(&manager) {
        Ok(manager) => drop(tokio::spawn(async move {
            loop {
                if let Err(error) = manager.send("WATCHDOG=1") {
                    tracing::warn!(%error, "systemd is not told that the program works");
                }
                tokio::time::sleep(period).await;
            }
        })),
        Err(error) => tracing::warn!(%error, "systemd is not told that the program works"),
    }
}

/// The time between two messages: a third of the limit; `None` if systemd waits for no messages of this
/// process.
fn period(limit: Option<&str>, process: Option<&str>, this_process: u32) -> Option<Duration> {
    let limit: u64 = limit?.parse().ok().filter(|micros| *micros > 0)?;
    let is_meant = process.is_none_or(|process| process.parse() == Ok(this_process));
    is_meant.then(|| Duration::from_micros(limit) / 3)
}

/// The socket of systemd.
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Manager {
    /// The socket at a path, or at a name without a file, which begins with `@`.
    fn at(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
            _ => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }

    fn send(&self, message: &str) -> io::Result<()> {
        let sent = self.socket.send_to_addr(message.as_bytes(), &self.address);
        sent.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_for_the_process_that_systemd_started() {
        let minute = Some("60000000");
        let third = Some(Duration::from_secs(20));
        assert_eq!(period(minute, Some("7"), 7), third);
        assert_eq!(period(minute, None, 7), third);
        for (limit, process) in [
            (minute, Some("8")),
            (minute, Some("")),
            (Some("0"), Some("7")),
            (Some("x"), Some("7")),
            (None, Some("7")),
        ] {
            assert_eq!(period(limit, process, 7), None, "{limit:?} {process:?}");
        }
    }

    #[test]
    fn both_kinds_of_sockets_get_the_message() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("notify");
        let name = format!("mainstay-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (manager, at) in [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&abstract_name).unwrap(),
                format!("@{name}").into(),
            ),
        ] {
            Manager::at(&at).unwrap().send("WATCHDOG=1").unwrap();
            let mut buffer = [0; 32];
            let length = manager.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"WATCHDOG=1");
        }
    }
}
