//! Queries and their results.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The type of DNS record that a query requests.
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
    /// The canonical name.
    Cname,
    /// Free text.
    Txt,
    /// Name servers.
    Ns,
    /// Start of authority.
    Soa,
    /// All records.
    Any,
    /// A type that no name of the zone has.
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
        /// The share of the server among the servers of the result; all shares are equal.
        weight: u16,
        port: u16,
        /// The server's name.
        target: String,
    },
    /// The name of an address.
    Ptr(String),
    /// The canonical name.
    Cname(String),
    /// Free text.
    Txt(String),
    /// A name server.
    Ns(String),
    /// Start of authority; the server adds its fields.
    Soa,
}

impl Data {
    /// Returns the type of this record.
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

/// The result of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupResult {
    /// The name is not in this zone: an upstream server may know it.
    NotOurs,
    /// The name does not exist (NXDOMAIN).
    NoSuchName,
    /// The name exists, but has no record of that type (NODATA).
    NoData,
    /// Records of the requested name.
    Records {
        /// The records.
        records: Vec<Data>,
        /// Addresses of servers that the answers name.
        additional: Vec<(String, Data)>,
    },
}
