//! Ports on which programs of a machine listen. No pod or Service may use them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

/// A transport protocol with listening sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// The transport of a port's `protocol`; `None` for SCTP and unknown protocols.
    pub fn of(protocol: &str) -> Option<Self> {
        match protocol {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// The address and port of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListeningAddress {
    pub transport: Transport,
    /// `None` means all addresses of the machine.
    pub address: Option<Ipv4Addr>,
    pub port: u16,
}

/// All listening sockets of a machine: of this process, of other instances, and of all other processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    sockets: BTreeSet<ListeningAddress>,
}

impl Listening {
    /// The listening sockets, sorted and without duplicates.
    pub fn places(&self) -> impl Iterator<Item = ListeningAddress> + '_ {
        self.sockets.iter().copied()
    }

    /// Whether a program listens on this port at this address of the machine.
    pub fn holds(&self, transport: Transport, address: Ipv4Addr, port: u16) -> bool {
        self.holds_everywhere(transport, port) || self.has(transport, Some(address), port)
    }

    /// Whether a program listens on this port at all addresses of the machine.
    pub fn holds_everywhere(&self, transport: Transport, port: u16) -> bool {
        self.has(transport, None, port)
    }

    fn has(&self, transport: Transport, address: Option<Ipv4Addr>, port: u16) -> bool {
        self.sockets.contains(&ListeningAddress {
            transport,
            address,
            port,
        })
    }
}

impl FromIterator<ListeningAddress> for Listening {
    fn from_iter<T: IntoIterator<Item = ListeningAddress>>(addresses: T) -> Self {
        Self {
            sockets: addresses.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_on_all_addresses_holds_its_port_on_each() {
        let socket = |address, port| ListeningAddress {
            transport: Transport::Tcp,
            address,
            port,
        };
        let local = Ipv4Addr::LOCALHOST;
        let listening: Listening = [socket(None, 22), socket(Some(local), 6443)]
            .into_iter()
            .collect();
        let other = Ipv4Addr::new(192, 0, 2, 1);
        assert!(listening.holds(Transport::Tcp, other, 22));
        assert!(!listening.holds(Transport::Udp, other, 22));
        assert!(listening.holds(Transport::Tcp, local, 6443));
        assert!(!listening.holds(Transport::Tcp, other, 6443));
        assert!(!listening.holds_everywhere(Transport::Tcp, 6443));
    }
}
