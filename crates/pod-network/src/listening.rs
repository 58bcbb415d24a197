//! The listening sockets of the host. TCP sockets are read from the kernel's socket diagnosis, UDP sockets
//! from `/proc/net`. If the kernel has no socket diagnosis, TCP sockets are read from `/proc/net`, too.
//!
//! The connection and the files are opened once, in the host's network namespace; files are read again from
//! their beginning. IPv6 sockets on all addresses count for IPv4, too, because the kernel does not report
//! which of them are IPv6-only.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use object_model::listening::{Listening, ListeningAddress, Transport};

use crate::error::{Error, file};
use crate::socket_diagnosis::SocketDiagnosis;

/// State of a listening TCP socket, and state of a UDP socket without a peer.
const TCP_LISTEN: &str = "0A";
const UDP_UNCONNECTED: &str = "07";

/// The default range of ephemeral ports.
const CLIENT_PORTS: RangeInclusive<u16> = 32_768..=60_999;

/// The kernel's lists of sockets, open for repeated reads.
pub(crate) struct Sockets {
    diagnosis: Option<SocketDiagnosis>,
    tcp: Vec<File>,
    udp: Vec<File>,
    client_ports: RangeInclusive<u16>,
    /// UDP sockets on ephemeral ports in the last reading.
    ephemeral: BTreeSet<ListeningAddress>,
}

impl Sockets {
    /// Opens the lists in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Sockets, Error> {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let diagnosis = SocketDiagnosis::open();
        let diagnosis =
            diagnosis.and_then(|diagnosis| diagnosis.tcp_listeners().map(|_| diagnosis));
        if let Err(error) = &diagnosis {
            tracing::info!(%error, "no diagnosis of sockets: /proc/net/tcp is read instead");
        }
        Ok(Sockets {
            diagnosis: diagnosis.ok(),
            tcp: lists("tcp")?,
            udp: lists("udp")?,
            client_ports: range
                .ok()
                .and_then(|text| ports(&text))
                .unwrap_or(CLIENT_PORTS),
            ephemeral: BTreeSet::new(),
        })
    }

    /// Reads the listening sockets. A UDP client's socket on an ephemeral port cannot be distinguished from
    /// a server's socket, so such a socket counts only if two consecutive readings contain it.
    pub(crate) fn read(&mut self) -> Result<Listening, Error> {
        let failed = || file("read", "the kernel's sockets");
        let mut addresses = BTreeSet::new();
        match &self.diagnosis {
            Some(diagnosis) => {
                let listeners = diagnosis.tcp_listeners().map_err(failed())?.into_iter();
                addresses.extend(listeners.filter_map(|(ip, port)| {
                    reach(ip).map(|address| ListeningAddress {
                        transport: Transport::Tcp,
                        address,
                        port,
                    })
                }));
            }
            None => {
                for list in &mut self.tcp {
                    read(list, Transport::Tcp, &mut addresses).map_err(failed())?;
                }
            }
        }
        let mut udp = BTreeSet::new();
        for list in &mut self.udp {
            read(list, Transport::Udp, &mut udp).map_err(failed())?;
        }
        let (ephemeral, certain): (BTreeSet<ListeningAddress>, _) = udp
            .into_iter()
            .partition(|address| self.client_ports.contains(&address.port));
        addresses.extend::<BTreeSet<ListeningAddress>>(certain);
        addresses.extend(ephemeral.intersection(&self.ephemeral));
        self.ephemeral = ephemeral;
        Ok(addresses.into_iter().collect())
    }
}

/// The files of both address families. The IPv6 file is missing if the kernel has no IPv6 support.
fn lists(transport: &str) -> Result<Vec<File>, Error> {
    let v4 = format!("/proc/thread-self/net/{transport}");
    let mut lists = vec![File::open(&v4).map_err(file("open", &v4))?];
    lists.extend(File::open(format!("{v4}6")).ok());
    Ok(lists)
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace();
    let mut next = || words.next()?.parse().ok();
    Some(next()?..=next()?)
}

fn read(
    list: &mut File,
    transport: Transport,
    addresses: &mut BTreeSet<ListeningAddress>,
) -> io::Result<()> {
    list.rewind()?;
    for line in BufReader::new(list).lines().skip(1) {
        let line = line?;
        match socket(&line) {
            Some((address_and_port, state)) => match (transport, state) {
                (Transport::Tcp, TCP_LISTEN) | (Transport::Udp, UDP_UNCONNECTED) => {
                    addresses.extend(address_and_port.map(|(address, port)| ListeningAddress {
                        transport,
                        address,
                        port,
                    }));
                }
                // Listening sockets are first in the list; there may be very many connections.
                (Transport::Tcp, _) => break,
                (Transport::Udp, _) => {}
            },
            None => continue,
        }
    }
    Ok(())
}

/// An address (`None` for all addresses) and a port.
type Bound = (Option<Ipv4Addr>, u16);

/// The address (`None` for an IPv6 address), the port and the state in a line.
fn socket(line: &str) -> Option<(Option<Bound>, &str)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    let state = words.nth(1)?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let reached = reach(address_of(address)?);
    Some((reached.map(|address| (address, port)), state))
}

/// Decodes an address: words of four bytes, each in the byte order of the machine.
fn address_of(text: &str) -> Option<IpAddr> {
    let mut octets = Vec::with_capacity(16);
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    for word in words {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    if !rest.is_empty() {
        return None;
    }
    match <[u8; 4]>::try_from(octets.as_slice()) {
        Ok(octets) => Some(IpAddr::from(octets)),
        Err(_) => Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)),
    }
}

/// The IPv4 address at which a socket can be reached. The inner `None` means all addresses, the outer
/// `None` means no IPv4 address.
fn reach(address: IpAddr) -> Option<Option<Ipv4Addr>> {
    let v4 = match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => return Some(None),
        IpAddr::V6(v6) => v6.to_ipv4_mapped()?,
    };
    Some(Some(v4).filter(|v4| !v4.is_unspecified()))
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let read = |address: &str, state: &str| {
            let line = format!(
                "   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0"
            );
            socket(&line).map(|(address, state)| (address, state.to_owned()))
        };
        let some = |address: Option<[u8; 4]>, port| Some((address.map(Ipv4Addr::from), port));
        assert_eq!(
            read("0100007F:1F90", "0A"),
            Some((some(Some([127, 0, 0, 1]), 8080), "0A".to_owned()))
        );
        assert_eq!(
            read("00000000:0016", "0A"),
            Some((some(None, 22), "0A".to_owned()))
        );
        let v6 = |address: &str| read(&format!("{address}:0016"), "0A").map(|(address, _)| address);
        assert_eq!(v6("00000000000000000000000000000000"), Some(some(None, 22)));
        assert_eq!(v6("00000000000000000000000001000000"), Some(None), "::1");
        assert_eq!(
            v6("0000000000000000FFFF00000100007F"),
            Some(some(Some([127, 0, 0, 1]), 22))
        );
        for damaged in ["x", "0100007F", "0100007F:", "01:1F90", "0100007F0:1"] {
            assert_eq!(read(damaged, "0A"), None, "{damaged}");
        }
        assert_eq!(ports("32768\t60999\n"), Some(CLIENT_PORTS));
    }
}
