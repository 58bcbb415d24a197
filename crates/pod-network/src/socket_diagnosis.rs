//! The listening TCP sockets, as the kernel reports them (`sock_diag(7)`).
//!
//! The kernel reads only its table of listening sockets. For `/proc/net/tcp`, the kernel also reads the
//! table of all connections, whose size depends on the machine's memory: this takes milliseconds per
//! reading.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

/// Message types, flags, and the numbers of families, protocol and state.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST_DUMP: u16 = 0x301;
const FAMILIES: [u8; 2] = [2, 10];
const IPPROTO_TCP: u8 = 6;
const TCP_LISTEN: u32 = 1 << 10;

const HEADER_BYTES: usize = 16;
/// The rest of `inet_diag_req_v2`: the address of a single socket, which is empty in a dump.
const SOCKET_ID: [u8; 48] = [0; 48];

/// A connection to the kernel in one network namespace.
pub(crate) struct SocketDiagnosis(Socket);

impl SocketDiagnosis {
    /// Opens the connection in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_SOCK_DIAG)?;
        // A missing response must not block the caller.
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// The addresses and ports of listening TCP sockets.
    pub(crate) fn tcp_listeners(&self) -> io::Result<Vec<(IpAddr, u16)>> {
        let mut listeners = Vec::new();
        for family in FAMILIES {
            self.0.send(&request(family), 0)?;
            while !read(&self.0.recv_from_full()?.0, &mut listeners)? {}
        }
        Ok(listeners)
    }
}

/// A request for all listening sockets of an address family.
fn request(family: u8) -> Vec<u8> {
    let mut body = vec![family, IPPROTO_TCP, 0, 0];
    body.extend(TCP_LISTEN.to_ne_bytes());
    body.extend(SOCKET_ID);
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST_DUMP.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Adds the sockets of a part of the response. Returns whether this part was the last.
fn read(mut part: &[u8], listeners: &mut Vec<(IpAddr, u16)>) -> io::Result<bool> {
    while let Some((header, _)) = part.split_first_chunk::<HEADER_BYTES>() {
        let [a, b, c, d, kind @ ..] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let message = part.get(HEADER_BYTES..length);
        let message = message.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        match u16::from_ne_bytes([kind[0], kind[1]]) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let number = message
                    .first_chunk()
                    .map(|bytes| i32::from_ne_bytes(*bytes));
                return Err(io::Error::from_raw_os_error(-number.unwrap_or_default()));
            }
            _ => listeners.extend(listener(message)),
        }
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The local address of an `inet_diag_msg`: the family is the first byte, the port is at offset 4 in
/// network byte order, the address at offset 8.
fn listener(message: &[u8]) -> Option<(IpAddr, u16)> {
    let port = u16::from_be_bytes(*message.get(4..)?.first_chunk()?);
    let address = message.get(8..)?;
    let address = match *message.first()? {
        2 => Ipv4Addr::from(*address.first_chunk::<4>()?).into(),
        10 => Ipv6Addr::from(*address.first_chunk::<16>()?).into(),
        _ => return None,
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_kernel_tells_sockets_that_listen() {
        let diagnosis = SocketDiagnosis::open().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let bound = listener.local_addr().unwrap();
            let address = (bound.ip(), bound.port());
            assert!(diagnosis.tcp_listeners().unwrap().contains(&address));
            // A connected socket is no listening socket.
            let _open = std::net::TcpStream::connect(bound).unwrap();
            drop(listener);
            assert!(!diagnosis.tcp_listeners().unwrap().contains(&address));
        }
    }

    #[test]
    fn a_damaged_answer_is_an_error() {
        let mut listeners = Vec::new();
        let short = [17, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(read(&short, &mut listeners).is_err());
        // ENOENT: the kernel has no socket diagnosis.
        let mut refused = vec![20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        refused.extend((-2_i32).to_ne_bytes());
        let error = read(&refused, &mut listeners).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(listeners.is_empty());
    }
}
