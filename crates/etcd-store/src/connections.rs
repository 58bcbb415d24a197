//! The members of the cluster: one connection at a time, and the next member after a failure.

use std::{io, time::Duration};

use mvcc_store::Txn;
use outbound_http::{socket, tls};
use process_telemetry::backoff;
use prost::Message;
use rpc_channel::{Channel, ChannelOptions, Code, KeepAlive, Method, RpcError};
use service_protocols::etcdserverpb::{StatusRequest, TxnRequest, TxnResponse, kv, maintenance};
use tokio::{
    net::TcpStream,
    sync::{Mutex, watch},
    time::Instant,
};

use crate::{
    options::{Call, CallObserver, ConnectError, Connection, Dialer, EtcdOptions},
    tls::TlsFiles,
    version,
};

/// Maximum time to connect to one member, including TLS and the read of its version.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Delay before the next attempts if no member could be reached.
const PAUSE: Duration = Duration::from_millis(100);

/// etcd refuses clients that send pings more often than every five seconds (`--grpc-keepalive-min-time`).
const CHANNEL: ChannelOptions = ChannelOptions {
    keep_alive: Some(KeepAlive {
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
    }),
    // A member without a leader refuses the call at once, and cancels its watches.
    headers: &[("hasleader", "true")],
    message_bytes_max: MESSAGE_BYTES_MAX,
};
/// Longest message that is accepted. Pages of keys are far shorter.
pub(crate) const MESSAGE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Whether a call certainly has no effect, neither now nor later. After other codes, the effect of the call is unknown.
pub(crate) fn is_without_effect(error: &RpcError) -> bool {
    match error {
        RpcError::Unreachable(_) => true,
        RpcError::Broken(_) | RpcError::Malformed(_) | RpcError::TimedOut(_) => false,
        RpcError::Status { code, .. } => [
            Code::INVALID_ARGUMENT,
            Code::NOT_FOUND,
            Code::PERMISSION_DENIED,
            Code::RESOURCE_EXHAUSTED,
            Code::FAILED_PRECONDITION,
            Code::OUT_OF_RANGE,
            Code::UNAUTHENTICATED,
        ]
        .contains(code),
    }
}

/// Whether a call was certainly not started, so that the caller may repeat it: it was not sent, or the member knows no
/// leader. With the header `hasleader`, a member checks for a leader before it starts the call.
pub(crate) fn is_not_begun(error: &RpcError) -> bool {
    match error {
        RpcError::Unreachable(_) => true,
        RpcError::Status { code, message } => {
            *code == Code::UNAVAILABLE && message == "etcdserver: no leader"
        }
        RpcError::Broken(_) | RpcError::Malformed(_) | RpcError::TimedOut(_) => false,
    }
}

/// Whether another member may carry the call out: the error concerns neither the request nor the response.
pub(crate) fn is_of_member(error: &RpcError) -> bool {
    !is_without_effect(error) && !matches!(error, RpcError::Malformed(_))
}

/// A member's address for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) is_tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Endpoint {
    fn base(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        match self.host.contains(':') {
            true => format!("{scheme}://[{}]:{}", self.host, self.port),
            false => format!("{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// The connection in use. Each new connection has a higher number.
#[derive(Clone)]
pub(crate) struct CurrentConnection {
    pub(crate) number: u64,
    pub(crate) channel: Channel,
}

async fn tcp(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    stream.set_nodelay(true)?;
    socket::end_when_silent(&stream)?;
    Ok(stream)
}

/// All members, and the connection to one member.
pub(crate) struct Connections {
    endpoints: Vec<Endpoint>,
    tls: Option<TlsFiles>,
    observer: Option<CallObserver>,
    dialer: Option<Dialer>,
    state: Mutex<State>,
    /// The number of the newest connection that was closed or opened.
    changes: watch::Sender<u64>,
}

struct State {
    /// The member in use, or to be tried next.
    member: usize,
    number: u64,
    channel: Option<Channel>,
    /// The last time when no member could be reached, with the reasons.
    unreachable: Option<(Instant, String)>,
}

impl Connections {
    /// The members of the options. The certificates are read.
    ///
    /// *Errors.* Options that are not understood.
    pub(crate) async fn from_options(options: &EtcdOptions) -> Result<Self, ConnectError> {
        let endpoints = options.endpoints()?;
        let tls = match endpoints.iter().any(|endpoint| endpoint.is_tls) {
            true => Some(TlsFiles::open(options).await?),
            false => None,
        };
        Ok(Self {
            endpoints,
            tls,
            observer: options.observer.clone(),
            dialer: options.dialer.clone(),
            state: Mutex::new(State {
                member: 0,
                number: 0,
                channel: None,
                unreachable: None,
            }),
            changes: watch::Sender::new(0),
        })
    }

    /// The connection in use; if there is no connection, a new connection to the first member that responds.
    ///
    /// *Errors.* `Unreachable`, with the reason of each member.
    pub(crate) async fn current(&self) -> Result<CurrentConnection, RpcError> {
        let mut state = self.state.lock().await;
        if let Some(channel) = state.channel.take_if(|channel| !channel.is_closed()) {
            state.channel = Some(channel.clone());
            let number = state.number;
            return Ok(CurrentConnection { number, channel });
        }
        // All that wait share an attempt.
        if let Some((at, reasons)) = &state.unreachable
            && at.elapsed() < PAUSE
        {
            return Err(RpcError::Unreachable(reasons.clone()));
        }
        let mut reasons = Vec::new();
        for _ in 0..self.endpoints.len() {
            let endpoint = &self.endpoints[state.member % self.endpoints.len()];
            match self.connect(endpoint).await {
                Ok(channel) => {
                    state.number += 1;
                    state.channel = Some(channel.clone());
                    state.unreachable = None;
                    let number = state.number;
                    self.changes.send_replace(number);
                    return Ok(CurrentConnection { number, channel });
                }
                Err(error) => {
                    reasons.push(format!("{}: {error}", endpoint.base()));
                    state.member += 1;
                }
            }
        }
        let reasons = reasons.join("; ");
        state.unreachable = Some((Instant::now(), reasons.clone()));
        Err(RpcError::Unreachable(reasons))
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, RpcError> {
        let connecting = async {
            let broken =
                |error: &dyn std::error::Error| RpcError::Broken(rpc_channel::with_causes(error));
            let stream: Box<dyn Connection> = match (&self.dialer, &self.tls) {
                (Some(dialer), _) => {
                    let stream = dialer.dial(&endpoint.host).await;
                    stream.map_err(|error| broken(&error))?
                }
                (None, Some(files)) if endpoint.is_tls => {
                    let stream = tcp(endpoint).await.map_err(|error| broken(&error))?;
                    let config = files.current().await;
                    let stream = tls::handshake(stream, &endpoint.host, config).await;
                    Box::new(stream.map_err(|error| broken(&error))?)
                }
                (None, _) => Box::new(tcp(endpoint).await.map_err(|error| broken(&error))?),
            };
            let channel = Channel::over(stream, endpoint.base(), CHANNEL).await?;
            let request = StatusRequest::default();
            let status = channel.call(maintenance::STATUS, &request, CONNECT_TIMEOUT);
            let status = status.await?;
            version::check(&status.version).map_err(|error| RpcError::Broken(error.to_string()))?;
            Ok(channel)
        };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        connected.unwrap_or(Err(RpcError::TimedOut(CONNECT_TIMEOUT)))
    }

    /// Closes a connection, unless a newer connection is in use: the next call uses the next member.
    pub(crate) async fn give_up(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.number == number && state.channel.take().is_some() {
            state.member += 1;
            self.changes.send_modify(|_| ());
        }
    }

    /// Changes when the connection in use has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// One attempt of a call. After an error that does not concern the request, the next attempt uses another
    /// member.
    pub(crate) async fn call_once<Q: Message, A: Message + Default>(
        &self,
        method: Method<Q, A>,
        request: &Q,
        limit: Duration,
    ) -> Result<A, RpcError> {
        let current = self.current().await?;
        self.call_over(current, method, None, request, limit).await
    }

    /// One attempt of a transaction, as [`call_once`](Self::call_once), with a connection that is open before a
    /// deadline.
    ///
    /// *Errors.* `Unreachable` if no member can be reached; then nothing was sent.
    pub(crate) async fn send(
        &self,
        txn: &Txn,
        by: Instant,
        request: &TxnRequest,
        limit: Duration,
    ) -> Result<TxnResponse, RpcError> {
        let current = tokio::time::timeout_at(by, self.current()).await;
        let in_time = "no member answers in time".to_owned();
        let current = current.unwrap_or(Err(RpcError::Unreachable(in_time)))?;
        self.call_over(current, kv::TXN, Some(txn), request, limit)
            .await
    }

    async fn call_over<Q: Message, A: Message + Default>(
        &self,
        CurrentConnection { number, channel }: CurrentConnection,
        method: Method<Q, A>,
        txn: Option<&Txn>,
        request: &Q,
        limit: Duration,
    ) -> Result<A, RpcError> {
        let begun = Instant::now();
        let response = channel.call(method, request, limit).await;
        if let Some(observer) = &self.observer {
            observer.observe(&Call {
                method: method.name(),
                txn,
                duration: begun.elapsed(),
                failed: response.is_err(),
            });
        }
        if response.as_ref().is_err_and(is_of_member) {
            self.give_up(number).await;
        }
        response
    }

    /// A read before the start of a server.
    pub(crate) async fn read<Q: Message, A: Message + Default>(
        &self,
        method: Method<Q, A>,
        request: &Q,
    ) -> Result<A, RpcError> {
        const ATTEMPT: Duration = Duration::from_secs(5);
        const LIMIT: Duration = Duration::from_secs(15);
        self.call(method, request, ATTEMPT, Instant::now() + LIMIT)
            .await
    }

    /// A call that may be executed more than once: it is repeated until the member responds or refuses.
    ///
    /// *Errors.* The error of the last attempt before the deadline.
    pub(crate) async fn call<Q: Message, A: Message + Default>(
        &self,
        method: Method<Q, A>,
        request: &Q,
        limit: Duration,
        deadline: Instant,
    ) -> Result<A, RpcError> {
        loop {
            let error = match self.call_once(method, request, limit).await {
                Ok(response) => return Ok(response),
                Err(error @ RpcError::Malformed(_)) => return Err(error),
                Err(error @ RpcError::Status { .. }) if is_without_effect(&error) => {
                    return Err(error);
                }
                Err(error) => error,
            };
            if Instant::now() + PAUSE >= deadline {
                return Err(error);
            }
            tracing::debug!(%error, path = method.path(), "a call of etcd is repeated");
            tokio::time::sleep(backoff::jittered(PAUSE)).await;
        }
    }
}
