//! Tools for the network.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs,
    UdpSocket,
};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::options::{Options, flags, misuse, with_values};
use crate::report::ToolResult;

/// Timeout of the wait for a name server.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Default timeout of a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The contents of `/etc/resolv.conf`.
#[derive(Debug, PartialEq, Eq)]
struct Resolver {
    servers: Vec<IpAddr>,
    domains: Vec<String>,
    /// Names with fewer dots are first looked up in the search domains.
    dots: usize,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut resolver = Self {
            servers: Vec::new(),
            domains: Vec::new(),
            dots: 1,
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
                    resolver.servers.extend(server);
                }
                Some("search" | "domain") => resolver.domains = words.map(str::to_owned).collect(),
                Some("options") => {
                    let mut dots = words.filter_map(|word| word.strip_prefix("ndots:"));
                    if let Some(dots) = dots.next_back().and_then(|dots| dots.parse().ok()) {
                        resolver.dots = dots;
                    }
                }
                _ => {}
            }
        }
        resolver
    }

    /// The full names to try for a name, in order.
    fn names(&self, name: &str) -> Vec<String> {
        if let Some(full) = name.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let within = self.domains.iter().map(|domain| format!("{name}.{domain}"));
        let mut names: Vec<String> = within.collect();
        match name.matches('.').count() >= self.dots {
            true => names.insert(0, name.to_owned()),
            false => names.push(name.to_owned()),
        }
        names
    }
}

pub fn nslookup(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let words: Vec<&String> = arguments
        .iter()
        .filter(|word| !word.starts_with('-'))
        .collect();
    let (name, server) = match words[..] {
        [name] => (name, None),
        [name, server] => (name, Some(server)),
        _ => return Err(misuse("a name is missing")),
    };
    let file = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let resolver = Resolver::parse(&file);
    let server = match server {
        Some(server) => server
            .parse()
            .context("the server is told by its address")?,
        None => *resolver
            .servers
            .first()
            .context("no name server in /etc/resolv.conf")?,
    };
    let server = SocketAddr::new(server, 53);
    writeln!(out, "Server:    {}\nAddress:   {server}\n", server.ip())?;
    if let Ok(address) = name.parse::<IpAddr>() {
        let reverse = Name::from(address).to_string();
        let entry = ask(server, &reverse, RecordType::PTR)?;
        for data in &entry.records {
            if let RData::PTR(name) = data {
                writeln!(out, "{address} is {name}")?;
            }
        }
        return match entry.records.is_empty() {
            true => Err(anyhow::anyhow!("{address} has no name ({})", entry.code)),
            false => Ok(0),
        };
    }
    let mut code = ResponseCode::NXDomain;
    for full in resolver.names(name) {
        let mut has_address = false;
        for kind in [RecordType::A, RecordType::AAAA] {
            let entry = ask(server, &format!("{full}."), kind)?;
            if entry.code != ResponseCode::NXDomain {
                code = entry.code;
            }
            for data in &entry.records {
                let address = match data {
                    RData::A(address) => IpAddr::V4(address.0),
                    RData::AAAA(address) => IpAddr::V6(address.0),
                    RData::CNAME(other) => {
                        writeln!(out, "{full} is another name of {}", other.0)?;
                        continue;
                    }
                    _ => continue,
                };
                writeln!(out, "Name:      {full}\nAddress:   {address}")?;
                has_address = true;
            }
        }
        if has_address {
            return Ok(0);
        }
    }
    bail!("{name} has no address ({code})")
}

/// The response of a name server.
struct ServerResponse {
    code: ResponseCode,
    records: Vec<RData>,
}

fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Result<ServerResponse> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let parsed = Name::from_ascii(name).with_context(|| format!("the name {name}"))?;
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(parsed, kind));
    let query = message.to_vec().context("write the question")?;
    let socket = UdpSocket::bind((any, 0)).context("open a socket")?;
    socket.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
    socket.connect(server)?;
    socket
        .send(&query)
        .with_context(|| format!("ask {server}"))?;
    let mut buffer = vec![0; 1 << 16];
    let length = socket
        .recv(&mut buffer)
        .with_context(|| format!("no answer from {server}"))?;
    let response = Message::from_vec(buffer.get(..length).unwrap_or_default());
    let response = response.context("read the answer")?;
    Ok(ServerResponse {
        code: response.metadata.response_code,
        records: response
            .answers
            .into_iter()
            .map(|record| record.data)
            .collect(),
    })
}

/// Connects to the first address of a host that accepts the connection.
pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<TcpStream> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = (bare, port)
        .to_socket_addrs()
        .with_context(|| format!("look up {host}"))?;
    let mut last = io::Error::other("it has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last).with_context(|| format!("connect to {host}:{port}"))
}

pub fn nc(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, with_values("zlvn", "wp"))?;
    let timeout = match options.number('w')? {
        Some(seconds) => Duration::from_secs(seconds),
        None => CONNECT_TIMEOUT,
    };
    let (host, port) = match &options.operands[..] {
        [port] => ("0.0.0.0", port.as_str()),
        [host, port] => (host.as_str(), port.as_str()),
        [] => ("0.0.0.0", options.value('p').unwrap_or_default()),
        _ => return Err(misuse("a host and a port are needed")),
    };
    let port: u16 = port
        .parse()
        .map_err(|_| misuse(format!("{port:?} is no port")))?;
    let stream = match options.has('l') {
        true => {
            let listener = TcpListener::bind((host, port))?;
            listener.accept()?.0
        }
        false => connect(host, port, timeout)?,
    };
    if options.has('z') {
        if options.has('v') {
            writeln!(out, "{host}:{port} is open")?;
        }
        return Ok(0);
    }
    let mut to = stream.try_clone()?;
    std::thread::Builder::new().spawn(move || {
        // An error is ignored, because the peer may close its side first.
        io::copy(&mut io::stdin().lock(), &mut to).ok();
        to.shutdown(Shutdown::Write).ok();
    })?;
    let mut from = stream;
    let mut buffer = [0; 1 << 14];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(0);
        }
        out.write_all(buffer.get(..length).unwrap_or_default())?;
        out.flush()?;
    }
}

/// `ip addr`, `ip route`
pub fn ip(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    match arguments.first().map(String::as_str) {
        Some("a" | "addr" | "address") => addresses(out),
        Some("r" | "route") => routes(out),
        _ => Err(misuse("it shows addr or route")),
    }
}

fn addresses(out: &mut dyn Write) -> ToolResult {
    for entry in nix::ifaddrs::getifaddrs()? {
        let Some(address) = entry.address else {
            continue;
        };
        let length = entry.netmask.and_then(|mask| {
            let mask = mask.as_sockaddr_in()?;
            Some(mask.ip().to_bits().count_ones())
        });
        let name = &entry.interface_name;
        if let Some(address) = address.as_sockaddr_in() {
            writeln!(
                out,
                "{name}: inet {}/{}",
                address.ip(),
                length.unwrap_or(32)
            )?;
        } else if let Some(address) = address.as_sockaddr_in6() {
            writeln!(out, "{name}: inet6 {}", address.ip())?;
        }
    }
    Ok(0)
}

fn routes(out: &mut dyn Write) -> ToolResult {
    let text = fs::read_to_string("/proc/net/route").context("/proc/net/route")?;
    for line in text.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [link, target, gateway, _, _, _, _, mask, ..] = words[..] else {
            continue;
        };
        let (Some(target), Some(gateway), Some(mask)) = (
            kernel_address(target),
            kernel_address(gateway),
            kernel_address(mask),
        ) else {
            continue;
        };
        let target = match mask.to_bits().count_ones() {
            0 => "default".to_owned(),
            length => format!("{target}/{length}"),
        };
        match gateway.is_unspecified() {
            true => writeln!(out, "{target} dev {link}")?,
            false => writeln!(out, "{target} via {gateway} dev {link}")?,
        }
    }
    Ok(0)
}

/// Parses an address in the kernel's form: the bytes in memory as one number.
fn kernel_address(text: &str) -> Option<Ipv4Addr> {
    let text = (text.len() == 8).then_some(text)?;
    let number = u32::from_str_radix(text, 16).ok()?;
    Some(Ipv4Addr::from(number.to_ne_bytes()))
}

pub fn netstat(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("tlnpau"))?;
    writeln!(out, "{:<24} {:<24} state", "here", "there")?;
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(text) = fs::read_to_string(file) else {
            continue;
        };
        for line in text.lines().skip(1) {
            let mut words = line.split_whitespace().skip(1);
            let (Some(local), Some(remote), Some(state)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let state = match state {
                "01" => "ESTABLISHED",
                "02" => "SYN_SENT",
                "06" => "TIME_WAIT",
                "08" => "CLOSE_WAIT",
                "0A" => "LISTEN",
                _ => "CLOSING",
            };
            let is_listed = match (options.has('l'), options.has('a')) {
                (_, true) => true,
                (true, false) => state == "LISTEN",
                (false, false) => state != "LISTEN",
            };
            if let (true, Some(local), Some(remote)) =
                (is_listed, socket_address(local), socket_address(remote))
            {
                writeln!(out, "{local:<24} {remote:<24} {state}")?;
            }
        }
    }
    Ok(0)
}

/// Converts `0100007F:0050` to `127.0.0.1:80`.
fn socket_address(text: &str) -> Option<String> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    if let Some(address) = kernel_address(address) {
        return Some(format!("{address}:{port}"));
    }
    let mut bytes = [0; 16];
    for (chunk, at) in bytes.chunks_mut(4).zip((0..).step_by(8)) {
        let number = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        chunk.copy_from_slice(&number.to_ne_bytes());
    }
    Some(format!("[{}]:{port}", Ipv6Addr::from(bytes).to_canonical()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_tried_within_the_domains_first() {
        let resolver = Resolver::parse(
            "nameserver 10.0.0.10\nsearch a.svc.cluster.local svc.cluster.local\noptions ndots:5\n",
        );
        assert_eq!(resolver.servers, [IpAddr::from([10, 0, 0, 10])]);
        let names = ["web.a.svc.cluster.local", "web.svc.cluster.local", "web"];
        assert_eq!(resolver.names("web"), names);
        assert_eq!(resolver.names("web."), ["web"]);
        assert_eq!(Resolver::parse("").names("a.b"), ["a.b"]);
    }

    #[test]
    fn the_kernels_addresses_are_read() {
        if cfg!(target_endian = "little") {
            assert_eq!(
                socket_address("0100007F:0050").as_deref(),
                Some("127.0.0.1:80")
            );
            let loopback = "00000000000000000000000001000000:1F90";
            assert_eq!(socket_address(loopback).as_deref(), Some("[::1]:8080"));
        }
        for wrong in ["", "x:y", "0100007F", "00:1"] {
            socket_address(wrong);
        }
        assert_eq!(socket_address("zz:50"), None);
    }
}
