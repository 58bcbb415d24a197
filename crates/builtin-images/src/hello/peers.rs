//! Finds the other pods of the Service by DNS only: the addresses of the Service's name, then the
//! name of each address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Another pod of the Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// The DNS name; the address for a peer without a name.
    pub name: String,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
}

/// The ready pods of the Service, sorted by name; empty if DNS does not respond.
pub async fn find(service: &str) -> Vec<Peer> {
    match query_all(service).await {
        Ok(mut peers) => {
            peers.sort_unstable();
            peers
        }
        Err(error) => {
            command_output::output::warn(&format!("find peers of {service}: {error:#}"));
            Vec::new()
        }
    }
}

async fn query_all(service: &str) -> Result<Vec<Peer>> {
    let server = name_server().context("no name server in /etc/resolv.conf")?;
    let mut peers = Vec::new();
    for data in query(server, &format!("{service}."), RecordType::A).await? {
        let RData::A(address) = data else { continue };
        let address = address.0;
        let reverse = Name::from(IpAddr::V4(address)).to_string();
        let name = query(server, &reverse, RecordType::PTR)
            .await?
            .into_iter()
            .find_map(|data| match data {
                RData::PTR(name) => name
                    .0
                    .iter()
                    .next()
                    .map(|l| String::from_utf8_lossy(l).into()),
                _ => None,
            })
            .unwrap_or_else(|| address.to_string());
        peers.push(Peer { name, address });
    }
    Ok(peers)
}

fn name_server() -> Option<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").ok()?;
    let address = text
        .lines()
        .find_map(|line| line.strip_prefix("nameserver "))?;
    Some(SocketAddr::new(address.trim().parse().ok()?, 53))
}

async fn query(server: SocketAddr, name: &str, kind: RecordType) -> Result<Vec<RData>> {
    let name = Name::from_ascii(name).with_context(|| format!("name {name}"))?;
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    let socket = UdpSocket::bind("0.0.0.0:0")
        .await
        .context("open a socket")?;
    socket
        .connect(server)
        .await
        .with_context(|| format!("reach {server}"))?;
    socket
        .send(&message.to_vec().context("encode")?)
        .await
        .context("send")?;
    let mut buffer = vec![0; 4096];
    let length = tokio::time::timeout(TIMEOUT, socket.recv(&mut buffer))
        .await
        .with_context(|| format!("no answer from {server}"))?
        .context("receive")?;
    let response = Message::from_vec(&buffer[..length]).context("decode")?;
    Ok(response
        .answers
        .into_iter()
        .map(|record| record.data)
        .collect())
}
