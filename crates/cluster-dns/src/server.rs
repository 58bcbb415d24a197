//! Sockets: receive queries, send responses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use connection_limits::{ConnectionLimits, ConnectionSlot, Connections, Share, Shares};
use controller_framework::Cache;
use dns_records::Settings;
use futures::FutureExt;
use futures::future::BoxFuture;
use hickory_proto::op::ResponseCode;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_api_client::{Client, PartialObjectMeta};
use object_model::cidr::Cidr;
use process_telemetry::Component;
use process_telemetry::refusals::{self, Budget};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::forward::Forwarder;
use crate::limits;
use crate::resolve::{CurrentZone, LocalAnswer, Resolver};
use crate::upstreams::{Source, Upstreams};
use crate::watch::{ZoneCaches, follow, watch_namespaces};
use crate::wire::{self, ParsedMessage, Request, Response};
use crate::zone_file::ZoneFile;

/// The settings of the server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's domain, such as `cluster.local`.
    pub domain: String,
    /// The addresses to listen on, by UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The addresses of this server as pods use them.
    pub addresses: Vec<IpAddr>,
    /// Ranges of pods and Services: this server resolves their reverse names.
    pub ranges: Vec<Cidr>,
    /// Address ranges of pods: only clients in these ranges and this machine get responses.
    pub clients: Vec<Cidr>,
    /// Upstream servers; `None` uses the servers in `resolv_conf`.
    pub upstreams: Option<Vec<SocketAddr>>,
    /// The host's `resolv.conf`; read again when it changes.
    pub resolv_conf: PathBuf,
    /// The file that stores the names of Services and pods, for a start while no API server responds.
    pub zone_file: Option<PathBuf>,
}

/// A failure of the start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server cannot listen on an address: it is no address of this machine, or another program listens on it.
    #[error("listen for DNS on {address} ({transport})")]
    Listen {
        address: SocketAddr,
        /// `udp` or `tcp`.
        transport: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The allowed clients. Other clients get no response, so that the server cannot be abused for amplification attacks.
#[derive(Clone)]
struct Clients {
    pods: Arc<[Cidr]>,
    /// The addresses from which this machine reaches the server.
    local: Arc<[IpAddr]>,
}

impl Clients {
    fn has(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let is_pod = |client| self.pods.iter().any(|range| range.contains(client));
        client.is_loopback()
            || self.local.contains(&client)
            || matches!(client, IpAddr::V4(client) if is_pod(client))
    }
}

/// Runs the server until the shutdown of its component.
///
/// # Errors
///
/// The server cannot listen.
pub fn run(
    client: Client,
    config: Config,
    component: Component,
) -> BoxFuture<'static, Result<(), Error>> {
    async move {
        let server = Server::bind(config).await?;
        let namespaces = watch_namespaces(client.clone(), &component).await;
        let services = Cache::spawn_all(&client, &component);
        let slices = Cache::spawn_all(&client, &component);
        server.serve(namespaces, services, slices, component).await;
        Ok(())
    }
    .boxed()
}

/// A server that listens already, so that its caller can read its address.
pub struct Server {
    config: Config,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl Server {
    /// Listens; port 0 chooses a free port, one port for UDP and TCP.
    ///
    /// # Errors
    ///
    /// The server cannot listen.
    pub async fn bind(config: Config) -> Result<Server, Error> {
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for address in &config.listen {
            let (socket, listener) = listen(*address).await?;
            udp.push(socket);
            tcp.push(listener);
        }
        Ok(Server { config, udp, tcp })
    }

    /// Returns the addresses on which the server listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Resolves queries from the caches until the shutdown of the component.
    pub async fn serve(
        self,
        namespaces: Cache<PartialObjectMeta<Namespace>>,
        services: Cache<Service>,
        slices: Cache<EndpointSlice>,
        component: impl Into<Component>,
    ) {
        let component = component.into();
        let local_addresses = self.addresses();
        let Config {
            domain,
            addresses,
            ranges,
            clients,
            upstreams,
            resolv_conf,
            zone_file,
            ..
        } = self.config;
        let clients = Clients {
            pods: clients.into(),
            local: local_addresses.iter().map(SocketAddr::ip).collect(),
        };
        let source = upstreams.map_or(Source::File(resolv_conf), Source::Fixed);
        let zone = CurrentZone::default();
        let forwarder = Forwarder::new(Upstreams::new(source, local_addresses));
        let resolver = Resolver::new(&domain, zone.clone(), forwarder);
        let settings = Settings {
            domain,
            dns_addresses: addresses,
            ranges,
        };
        let watched = ZoneCaches {
            namespaces,
            services,
            slices,
        };
        let mut tasks = JoinSet::new();
        let zone_file = zone_file.map(ZoneFile::at);
        let following = follow(
            watched,
            settings,
            zone,
            zone_file,
            component.shutdown.clone(),
        );
        tasks.spawn(component.watched("the zone", following));
        for socket in self.udp {
            let answering = (clients.clone(), resolver.clone());
            let served = serve_udp(Arc::new(socket), answering, component.clone());
            let served = component.watched("questions by UDP", served);
            tasks.spawn(until(component.shutdown.clone(), served));
        }
        let connections = Arc::new(Connections::default());
        for listener in self.tcp {
            let answering = (clients.clone(), resolver.clone());
            let served = serve_tcp(listener, answering, connections.clone(), component.clone());
            let served = component.watched("connections", served);
            tasks.spawn(until(component.shutdown.clone(), served));
        }
        while tasks.join_next().await.is_some() {}
    }
}

/// Listens with both transports on one port. A free port of one transport may be in use for the other transport; then
/// another port is tried.
async fn listen(address: SocketAddr) -> Result<(UdpSocket, TcpListener), Error> {
    let failed = |address, transport| {
        move |source| Error::Listen {
            address,
            transport,
            source,
        }
    };
    let mut attempts = if address.port() == 0 {
        limits::FREE_PORT_ATTEMPTS_MAX
    } else {
        1
    };
    loop {
        let listener = TcpListener::bind(address)
            .await
            .map_err(failed(address, "tcp"))?;
        let bound = listener.local_addr().map_err(failed(address, "tcp"))?;
        attempts -= 1;
        match UdpSocket::bind(bound).await {
            Ok(socket) => return Ok((socket, listener)),
            Err(source) if attempts == 0 => return Err(failed(bound, "udp")(source)),
            Err(_) => {}
        }
    }
}

async fn until(shutdown: CancellationToken, work: impl Future<Output = ()>) {
    // The task has no result, whether the shutdown stopped it or not.
    shutdown.run_until_cancelled(work).await.unwrap_or_default();
}

async fn serve_udp(
    socket: Arc<UdpSocket>,
    (clients, resolver): (Clients, Resolver),
    component: Component,
) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let mut waiting = JoinSet::new();
    let shares = ForwardShares::default();
    loop {
        while waiting.try_join_next().is_some() {}
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "receive by udp");
                tokio::time::sleep(limits::DEBOUNCE).await;
                continue;
            }
        };
        if !clients.has(client.ip()) {
            continue;
        }
        let request = match wire::read(&buffer[..length]) {
            ParsedMessage::Request(request) => request,
            ParsedMessage::Refused(bytes) => {
                send(&socket, &bytes, client).await;
                continue;
            }
            ParsedMessage::Ignored => continue,
        };
        let response = match resolver.local(&request) {
            LocalAnswer::Complete(response) => response,
            LocalAnswer::Elsewhere(..) if waiting.len() >= limits::FORWARDS_MAX => {
                Response::code(ResponseCode::ServFail)
            }
            LocalAnswer::Elsewhere(query, so_far) => match shares.acquire(client.ip()) {
                None => Response::code(ResponseCode::ServFail),
                Some(permit) => {
                    let (socket, resolver) = (socket.clone(), resolver.clone());
                    let work = async move {
                        let proof = request.wants_proof();
                        let response = resolver.elsewhere(proof, &query, so_far).await;
                        drop(permit);
                        respond(&socket, &request, response, client).await;
                    };
                    waiting.spawn(component.watched("a question for others", work));
                    continue;
                }
            },
        };
        respond(&socket, &request, response, client).await;
    }
}

/// The number of forwarded queries of each client; the limit leaves capacity for other clients.
struct ForwardShares(Shares<IpAddr>);

impl Default for ForwardShares {
    fn default() -> Self {
        Self(Shares::new(limits::FORWARDS_PER_CLIENT_MAX))
    }
}

impl ForwardShares {
    /// `None` if the client has reached its limit.
    fn acquire(&self, client: IpAddr) -> Option<Share<IpAddr>> {
        let share = self.0.take(client.to_canonical());
        if share.is_none() {
            refusals::count(Budget::DnsQuestions);
        }
        share
    }
}

async fn respond(socket: &UdpSocket, request: &Request, response: Response, client: SocketAddr) {
    if let Some(bytes) = request.respond(response, request.udp_bytes_max()) {
        send(socket, &bytes, client).await;
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%client, %error, "send by udp");
    }
}

async fn serve_tcp(
    listener: TcpListener,
    (clients, resolver): (Clients, Resolver),
    connections: Arc<Connections>,
    component: Component,
) {
    let max = ConnectionLimits::without_nodes(
        limits::TCP_CONNECTIONS_MAX,
        limits::TCP_CONNECTIONS_PER_CLIENT_MAX,
    );
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((_, client)) if !clients.has(client.ip()) => {}
            Ok((stream, client)) => {
                let close = CancellationToken::new();
                // DNS clients have no credentials, so the oldest connection of the client is closed for the new
                // connection.
                let slot = connections.enter(client.ip(), close.clone(), max);
                if slot.as_ref().is_none_or(ConnectionSlot::replaces_another) {
                    refusals::count(Budget::DnsConnections);
                }
                let Some(slot) = slot else { continue };
                let resolver = resolver.clone();
                let work = async move {
                    let conversation = close.run_until_cancelled(converse(stream, resolver));
                    if let Some(Err(error)) = conversation.await {
                        tracing::debug!(%client, %error, "conversation by tcp");
                    }
                    drop(slot);
                };
                open.spawn(component.watched("a connection", work));
            }
            Err(error) => {
                tracing::warn!(%error, "accept DNS connections");
                tokio::time::sleep(limits::UPSTREAM_TIMEOUT).await;
            }
        }
    }
}

/// Responds to the queries of one connection, one after the other.
async fn converse(mut stream: TcpStream, resolver: Resolver) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let length = match timeout(limits::TCP_IDLE, stream.read_u16()).await {
            Ok(Ok(length)) => length,
            // The client has closed the connection.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        buffer.resize(usize::from(length), 0);
        timeout(limits::TCP_IDLE, stream.read_exact(&mut buffer)).await??;
        let bytes = match wire::read(&buffer) {
            ParsedMessage::Request(request) => {
                let response = match resolver.local(&request) {
                    LocalAnswer::Complete(response) => response,
                    LocalAnswer::Elsewhere(query, so_far) => {
                        resolver
                            .elsewhere(request.wants_proof(), &query, so_far)
                            .await
                    }
                };
                request.respond(response, usize::from(u16::MAX))
            }
            ParsedMessage::Refused(bytes) => Some(bytes),
            ParsedMessage::Ignored => None,
        };
        let Some(bytes) = bytes else { return Ok(()) };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend(bytes);
        timeout(limits::TCP_IDLE, stream.write_all(&framed)).await??;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings-2 S40: the forwarded queries of one client leave capacity for those of other clients.
    #[test]
    fn a_client_with_too_many_waiting_questions_is_refused_alone() {
        let shares = ForwardShares::default();
        let (greedy, modest) = ("10.244.0.7".parse().unwrap(), "10.244.0.8".parse().unwrap());
        let mut held_shares: Vec<Share<IpAddr>> = (0..limits::FORWARDS_PER_CLIENT_MAX)
            .map(|_| shares.acquire(greedy).unwrap())
            .collect();
        assert!(shares.acquire(greedy).is_none());
        assert!(
            shares
                .acquire("::ffff:10.244.0.7".parse().unwrap())
                .is_none()
        );
        assert!(shares.acquire(modest).is_some());
        held_shares.pop();
        assert!(shares.acquire(greedy).is_some());
        drop(held_shares);
        assert!(shares.0.is_empty());
    }

    // findings S25
    #[test]
    fn pods_and_this_machine_are_answered() {
        let clients = Clients {
            pods: ["10.244.0.0/24".parse().unwrap()].into(),
            local: ["10.96.0.10".parse().unwrap()].into(),
        };
        for (client, expected) in [
            ("10.244.0.7", true),
            ("::ffff:10.244.0.7", true),
            ("10.96.0.10", true),
            ("127.0.0.1", true),
            ("10.244.1.7", false),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(clients.has(client.parse().unwrap()), expected, "{client}");
        }
    }
}
