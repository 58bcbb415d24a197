//! Servers and clients in networks of the test. The kernel has no sockets for SCTP, so the packets are built here.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use end_to_end::Network;
use rustix::net::{AddressFamily, SocketType, ipproto, socket};

/// The time without a response after which a packet counts as dropped; a first packet is repeated meanwhile.
pub(super) const SILENCE: Duration = Duration::from_millis(1500);
/// The time within which a connected server responds.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The reply of a server.
#[derive(Debug)]
pub(super) struct EchoReply {
    /// The server's name.
    pub(super) name: String,
    /// The address of the client, as the server received it.
    pub(super) client: IpAddr,
}

impl EchoReply {
    fn read(text: &str) -> io::Result<Self> {
        let parts = text.split_once(' ');
        let parsed = parts.and_then(|(name, client)| {
            let client = client.parse().ok()?;
            let name = name.to_owned();
            Some(Self { name, client })
        });
        parsed.ok_or_else(|| io::Error::other(format!("an incomplete reply: {text:?}")))
    }
}

/// Whether no response arrived, not even a refusal.
pub(super) fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

/// Serves until the test ends.
pub(super) fn serve_tcp(network: &Network, port: u16, name: &str) {
    let listener = network.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
    let (listener, name) = (listener.expect("listen"), name.to_owned());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let served = connection.and_then(|mut connection| {
                let peer = connection.peer_addr()?.ip();
                connection.write_all(format!("{name} {peer}").as_bytes())
            });
            // A disconnected client does not matter to the server.
            drop(served);
        }
    });
}

pub(super) fn request_tcp(network: &Network, to: SocketAddr) -> io::Result<EchoReply> {
    network.run(|| {
        let mut connection = TcpStream::connect_timeout(&to, SILENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let mut reply = String::new();
        connection.read_to_string(&mut reply)?;
        EchoReply::read(&reply)
    })
}

/// The two sockets of an open connection, with a port that no other server uses.
pub(super) fn connection(
    from: &Network,
    to: &Network,
    at: SocketAddr,
) -> io::Result<(TcpStream, TcpStream)> {
    let listener = to.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, at.port())))?;
    let client = from.run(|| TcpStream::connect_timeout(&at, PATIENCE))?;
    let (server, _) = listener.accept()?;
    Ok((client, server))
}

/// Whether a byte that is written at one end arrives at the other end in time.
pub(super) fn arrives(mut from: &TcpStream, mut to: &TcpStream, limit: Duration) -> bool {
    let written = from.write_all(b"x");
    let limit = to.set_read_timeout(Some(limit));
    let mut buffer = [0; 64];
    written.is_ok() && limit.is_ok() && to.read(&mut buffer).is_ok_and(|length| length > 0)
}

/// Serves until the test ends.
pub(super) fn serve_udp(network: &Network, port: u16, name: &str) {
    let socket = network.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
    let (socket, name) = (socket.expect("a socket"), name.to_owned());
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer));
        }
    });
}

pub(super) fn request_udp(network: &Network, to: SocketAddr) -> io::Result<EchoReply> {
    send_udp(network, to, 1)
}

/// Sends a datagram of that length, which may not be fragmented: Linux sets DF on datagrams of sockets that discover
/// the MTU of the path, which is the default.
pub(super) fn send_udp(network: &Network, to: SocketAddr, length: usize) -> io::Result<EchoReply> {
    let socket = network.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(SILENCE))?;
    socket.send(&vec![7; length])?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    EchoReply::read(&String::from_utf8_lossy(&buffer[..length]))
}

/// A raw socket for SCTP.
fn sctp(network: &Network) -> io::Result<UdpSocket> {
    let raw_socket =
        network.run(|| socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::SCTP)));
    Ok(UdpSocket::from(raw_socket?))
}

/// The types of the chunks INIT and INIT ACK (RFC 9260 §3.2).
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// A packet with one chunk that starts an association (RFC 9260 §3.3.2): 16 bytes of the chunk are an initiate
/// tag, a window, two numbers of streams, and a number of a chunk.
fn packet(from: u16, to: u16, verification: u32, chunk: u8, more: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend(verification.to_be_bytes());
    packet.extend([0; 4]);
    let length = u16::try_from(20 + more.len()).expect("a short chunk");
    packet.extend([chunk, 0]);
    packet.extend(length.to_be_bytes());
    packet.extend(TAG.to_be_bytes());
    packet.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    packet.extend(more);
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// The initiate tag of all ends.
const TAG: u32 = 0x6d61_696e;

/// CRC-32C, the checksum of SCTP (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let round = |sum: u32| (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 };
    let add = |sum: u32, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), |sum, _| round(sum));
    !bytes.iter().fold(u32::MAX, add)
}

/// A received packet: the sender, the ports, the type of the first chunk, and the bytes after the chunk's 16 bytes.
fn received(socket: &UdpSocket) -> io::Result<(IpAddr, [u16; 2], u8, Vec<u8>)> {
    let mut buffer = [0; 2048];
    let (length, peer) = socket.recv_from(&mut buffer)?;
    // A raw socket delivers the IP header, too.
    let header = usize::from(buffer[0] & 0xf) * 4;
    let packet = &buffer[header..length];
    if packet.len() < 32 {
        return Err(io::Error::other("half a packet"));
    }
    let port = |offset: usize| u16::from_be_bytes([packet[offset], packet[offset + 1]]);
    Ok((
        peer.ip(),
        [port(0), port(2)],
        packet[12],
        packet[32..].to_vec(),
    ))
}

/// Responds to the INIT of an association with an INIT ACK, until the test ends.
pub(super) fn serve_sctp(network: &Network, port: u16, name: &str) {
    let socket = sctp(network).expect("a raw socket");
    let name = name.to_owned();
    std::thread::spawn(move || {
        loop {
            match received(&socket) {
                Ok((peer, [from, to], INIT, _)) if to == port => {
                    let reply = format!("{name} {peer}");
                    let reply = packet(port, from, TAG, INIT_ACK, reply.as_bytes());
                    drop(socket.send_to(&reply, (peer, 0)));
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    });
}

/// Sends an INIT, and waits for the INIT ACK from that address and port.
pub(super) fn request_sctp(network: &Network, to: SocketAddr, from: u16) -> io::Result<EchoReply> {
    let socket = sctp(network)?;
    socket.set_read_timeout(Some(SILENCE))?;
    socket.send_to(&packet(from, to.port(), 0, INIT, &[]), (to.ip(), 0))?;
    loop {
        match received(&socket)? {
            (peer, ports, INIT_ACK, reply) if peer == to.ip() && ports == [to.port(), from] => {
                return EchoReply::read(&String::from_utf8_lossy(&reply));
            }
            _ => {}
        }
    }
}

#[test]
fn the_checksum_of_sctp_is_crc32c() {
    // RFC 3720 B.4: 32 bytes of zeroes.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
}
