//! Questions and answers.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The type of record asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Ports and names of servers.
    Srv,
    /// The name of an address.
    Ptr,
    /// The name that this one stands for.
    Cname,
    /// Free text.
    Txt,
    /// Name servers.
    Ns,
    /// Start of authority.
    Soa,
    /// Whatever there is.
    Any,
    /// A type that no name here has.
    Other,
}

/// The data of a record. Names have no final dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// A port on a named server.
    Srv {
        /// Share among the servers of this answer.
        weight: u16,
        /// The port.
        port: u16,
        /// The server's name.
        target: String,
    },
    /// The name of an address.
    Ptr(String),
    /// The name that this one stands for.
    Cname(String),
    /// Free text.
    Txt(String),
    /// A name server.
    Ns(String),
    /// Start of authority; the server fills in the rest.
    Soa,
}

impl Data {
    /// Returns the record type.
    pub fn kind(&self) -> Kind {
        match self {
            Data::A(_) => Kind::A,
            Data::Aaaa(_) => Kind::Aaaa,
            Data::Srv { .. } => Kind::Srv,
            Data::Ptr(_) => Kind::Ptr,
            Data::Cname(_) => Kind::Cname,
            Data::Txt(_) => Kind::Txt,
            Data::Ns(_) => Kind::Ns,
            Data::Soa => Kind::Soa,
        }
    }
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The name is not of this zone: someone else may know it.
    NotOurs,
    /// There is no such name (NXDOMAIN).
    NoSuchName,
    /// The name exists, but has no record of that type (NODATA).
    NoData,
    /// Records of the name that was asked for.
    Found {
        /// The records.
        answers: Vec<Data>,
        /// Addresses of servers that the answers name.
        additional: Vec<(String, Data)>,
    },
}
