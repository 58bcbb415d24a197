//! The upstream servers, and their health.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use crate::limits;

const DNS_PORT: u16 = 53;

/// The source of the list of servers.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A file such as the host's `resolv.conf`, read again when it changes.
    File(PathBuf),
    /// Servers that never change.
    Fixed(Vec<SocketAddr>),
}

/// The list of servers with their health.
pub(crate) struct Upstreams {
    source: Source,
    local: Vec<SocketAddr>,
    servers: Vec<Upstream>,
    checked_at: Option<Instant>,
    /// The text of the file at the last read.
    text: String,
}

struct Upstream {
    address: SocketAddr,
    failures: u32,
    paused_until: Option<Instant>,
}

/// A server for the next query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) address: SocketAddr,
    /// The server was paused and is tried again, so the timeout is short.
    pub(crate) is_on_trial: bool,
}

impl Upstreams {
    /// `own_addresses` are the addresses of this server, which must not forward queries to itself.
    pub(crate) fn new(source: Source, own_addresses: Vec<SocketAddr>) -> Upstreams {
        let mut upstreams = Upstreams {
            source,
            local: own_addresses,
            servers: Vec::new(),
            checked_at: None,
            text: String::new(),
        };
        if let Source::Fixed(addresses) = &upstreams.source {
            let addresses = addresses.clone();
            upstreams.replace(addresses);
        }
        upstreams
    }

    /// Returns the servers in the order in which they are tried; `None` if no server is configured. A server whose
    /// pause has ended is returned once, and is paused again until it responds.
    pub(crate) fn candidates(&mut self, now: Instant) -> Option<Vec<Candidate>> {
        if self.servers.is_empty() {
            return None;
        }
        let awake = |server: &&mut Upstream| server.paused_until.is_none_or(|until| until <= now);
        let awake = self.servers.iter_mut().filter(awake);
        let candidates = awake.take(limits::UPSTREAMS_MAX).map(|server| {
            let is_on_trial = server.paused_until.is_some();
            server.paused_until = is_on_trial.then(|| now + limits::UPSTREAM_PAUSE);
            Candidate {
                address: server.address,
                is_on_trial,
            }
        });
        Some(candidates.collect())
    }

    /// Records whether a server responded.
    pub(crate) fn note(&mut self, address: SocketAddr, has_responded: bool, now: Instant) {
        let recorded_server = self
            .servers
            .iter_mut()
            .find(|server| server.address == address);
        let Some(server) = recorded_server else {
            return;
        };
        server.failures = if has_responded {
            0
        } else {
            server.failures + 1
        };
        let pause = server.failures >= limits::UPSTREAM_FAILURES_MAX;
        server.paused_until = pause.then(|| now + limits::UPSTREAM_PAUSE);
    }

    /// The file of the servers, if its last read is older than the interval.
    pub(crate) fn outdated_file(&self, now: Instant) -> Option<PathBuf> {
        let Source::File(path) = &self.source else {
            return None;
        };
        let recent = |at: Instant| now.duration_since(at) < limits::RESOLV_CONF_INTERVAL;
        let is_due = !self.checked_at.is_some_and(recent);
        is_due.then(|| path.clone())
    }

    /// Parses the text of the file. If the text has not changed, the health of the servers stays.
    pub(crate) fn was_read(&mut self, text: String, now: Instant) {
        self.checked_at = Some(now);
        if self.text != text {
            self.replace(parse(&text));
            self.text = text;
        }
    }

    fn replace(&mut self, addresses: Vec<SocketAddr>) {
        let desired = addresses
            .into_iter()
            .filter(|address| !self.local.contains(address));
        self.servers = desired
            .map(|address| Upstream {
                address,
                failures: 0,
                paused_until: None,
            })
            .collect();
    }
}

/// Parses the servers in a `resolv.conf`.
fn parse(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let keyword = words.next() == Some("nameserver");
        let address = words.next().filter(|_| keyword)?;
        // A link-local address names its link after a percent sign.
        let (address, link) = address
            .split_once('%')
            .map_or((address, None), |(a, l)| (a, Some(l)));
        Some(match (address.parse().ok()?, link) {
            (IpAddr::V6(ip), Some(link)) => {
                let path = format!("/sys/class/net/{link}/ifindex");
                let index = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
                std::net::SocketAddrV6::new(ip, DNS_PORT, 0, index).into()
            }
            (ip, _) => SocketAddr::new(ip, DNS_PORT),
        })
    };
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{Candidate, Source, Upstreams, parse};
    use crate::limits;

    fn healthy(address: &str) -> Candidate {
        Candidate {
            address: address.parse().unwrap(),
            is_on_trial: false,
        }
    }

    /// The servers, after the file was read if the read is due.
    fn candidates(upstreams: &mut Upstreams, now: Instant) -> Option<Vec<Candidate>> {
        if let Some(path) = upstreams.outdated_file(now) {
            upstreams.was_read(std::fs::read_to_string(path).unwrap(), now);
        }
        upstreams.candidates(now)
    }

    #[test]
    fn servers_are_read_and_the_server_itself_is_left_out() {
        let text =
            "; x\nnameserver 192.0.2.53\nnameserver fd00::53\nnameserver 10.96.0.10\nsearch a b\n";
        assert_eq!(parse(text).len(), 3);
        let own_address = vec!["10.96.0.10:53".parse().unwrap()];
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut upstreams = Upstreams::new(Source::File(file.path().to_owned()), own_address);
        let servers = candidates(&mut upstreams, Instant::now()).unwrap();
        let expected = ["192.0.2.53:53", "[fd00::53]:53"].map(healthy);
        assert_eq!(servers, expected);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut upstreams = Upstreams::new(Source::File(file.path().to_owned()), Vec::new());
        let start = Instant::now();
        assert_eq!(candidates(&mut upstreams, start), None);
        std::fs::write(file.path(), "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(candidates(&mut upstreams, start), None, "not looked at yet");
        let servers = candidates(&mut upstreams, start + limits::RESOLV_CONF_INTERVAL);
        assert_eq!(servers, Some(vec![healthy("192.0.2.1:53")]));
    }

    #[test]
    fn a_server_that_fails_again_and_again_is_left_alone_for_a_while() {
        let server = healthy("192.0.2.1:53");
        let address = server.address;
        let mut upstreams = Upstreams::new(Source::Fixed(vec![address]), Vec::new());
        let start = Instant::now();
        upstreams.note(address, false, start);
        let servers = upstreams.candidates(start);
        assert_eq!(servers, Some(vec![server]), "once may happen");
        upstreams.note(address, false, start);
        assert_eq!(upstreams.candidates(start), Some(vec![]));
        let over = start + limits::UPSTREAM_PAUSE;
        let on_trial = Candidate {
            is_on_trial: true,
            ..server
        };
        assert_eq!(upstreams.candidates(over), Some(vec![on_trial]));
        assert_eq!(upstreams.candidates(over), Some(vec![]), "one trial");
        upstreams.note(address, true, over);
        assert_eq!(upstreams.candidates(over), Some(vec![server]));
    }

    /// A lost response of a trial pauses the server no longer than a failure.
    #[test]
    fn a_trial_without_a_result_is_repeated() {
        let address = healthy("192.0.2.1:53").address;
        let mut upstreams = Upstreams::new(Source::Fixed(vec![address]), Vec::new());
        let start = Instant::now();
        for _ in 0..limits::UPSTREAM_FAILURES_MAX {
            upstreams.note(address, false, start);
        }
        for pause in 1..4 {
            let servers = upstreams.candidates(start + pause * limits::UPSTREAM_PAUSE);
            assert!(servers.unwrap()[0].is_on_trial);
        }
    }
}
