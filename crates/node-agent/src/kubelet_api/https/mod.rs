//! The kubelet's API on the network: TLS, and a check of each request by the API server.
//!
//! A client presents a certificate of the cluster's authority, or a bearer token. Anonymous requests are
//! refused. Each address has a share of the connections. If the limit is reached, connections without valid
//! credentials are closed first.

mod access;
mod rights;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use connection_limits::{ConnectionLimits, ConnectionSlot, ConnectionStage, Connections};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use process_telemetry::refusals::{self, Budget};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::NodeService;
use super::response::{BoxBody, BoxError, error_response};
use crate::config::{KubeletApi, ServingCertificate};
use crate::error::KubeletApiError;
pub(crate) use access::KubeletAuthorizer;
use access::User;

/// A client that does not finish its handshake, or the head of its request, within this time is
/// disconnected.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Maximum number of concurrent connections. Sessions in containers do not count after their upgrade.
const CONNECTIONS_MAX: ConnectionLimits = ConnectionLimits::without_nodes(
    1024, // The limit of one API server: each follower of a log needs a connection.
    512,
);
/// Delay after a failed accept.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The certificate for new connections.
#[derive(Debug)]
struct CertificateResolver(watch::Receiver<Option<ServingCertificate>>);

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificate = self.0.borrow();
        certificate.as_ref().map(ServingCertificate::pair)
    }
}

/// The kubelet's API on the network, bound to its port but not serving yet.
pub(crate) struct HttpsServer {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    access: Arc<KubeletAuthorizer>,
}

impl HttpsServer {
    /// Binds the port, so that a port in use is an error before the node is registered. The chosen port is
    /// written into `settings`.
    pub(crate) async fn bind(
        settings: &mut KubeletApi,
        access: KubeletAuthorizer,
    ) -> Result<Self, KubeletApiError> {
        let acceptor = TlsAcceptor::from(Arc::new(tls(settings)?));
        let listen_error = |source| KubeletApiError::Listen {
            address: settings.listen,
            source,
        };
        let listener = TcpListener::bind(settings.listen)
            .await
            .map_err(listen_error)?;
        settings.listen = listener.local_addr().map_err(listen_error)?;
        Ok(Self {
            listener,
            acceptor,
            access: Arc::new(access),
        })
    }

    /// Like [`bind`](Self::bind), but `None` if another program uses the port and the port is not needed.
    pub(crate) async fn bind_if_possible(
        settings: &mut KubeletApi,
        access: KubeletAuthorizer,
    ) -> Result<Option<Self>, KubeletApiError> {
        match Self::bind(settings, access).await {
            Err(KubeletApiError::Listen { address, source }) if !settings.is_needed => {
                tracing::warn!(
                    "this node does not serve the kubelet API on port {}: {source}. kubectl works all the same; \
                     monitoring that asks the node itself needs another port (--kubelet-port)",
                    address.port()
                );
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    /// Serves connections until `shutdown`, which closes them.
    pub(crate) async fn serve(self, service: NodeService, shutdown: CancellationToken) {
        self.serve_up_to(CONNECTIONS_MAX, service, shutdown).await;
    }

    async fn serve_up_to(
        self,
        max: ConnectionLimits,
        service: NodeService,
        shutdown: CancellationToken,
    ) {
        let permits = Arc::new(Semaphore::new(max.all));
        let connections = Arc::new(Connections::default());
        loop {
            let accepted = shutdown.run_until_cancelled(self.listener.accept()).await;
            let (stream, peer) = match accepted {
                None => return,
                Some(Ok(accepted)) => accepted,
                Some(Err(error)) => {
                    // The usual reason is a lack of file descriptors. Other connections may close during
                    // the delay.
                    tracing::warn!(%error, "connection to the kubelet API not accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let close = shutdown.child_token();
            let slot = connections.enter(peer.ip(), close.clone(), max);
            if slot.as_ref().is_none_or(ConnectionSlot::replaces_another) {
                refusals::count(Budget::KubeletConnections);
            }
            let Some(slot) = slot else {
                tracing::debug!(%peer, "too many connections of one address to the kubelet API");
                continue;
            };
            // While authenticated clients have all permits, new connections wait in the kernel's queue.
            let permit = shutdown.run_until_cancelled(permits.clone().acquire_owned());
            let Some(Ok(permit)) = permit.await else {
                return;
            };
            let (access, service) = (self.access.clone(), service.clone());
            let acceptor = self.acceptor.clone();
            tokio::spawn(async move {
                let connection = connection(stream, acceptor, access, service, &slot);
                let result = close.run_until_cancelled(connection).await;
                if let Some(Err(error)) = result {
                    tracing::debug!(%error, %peer, "connection to the kubelet API ended");
                }
                drop((slot, permit));
            });
        }
    }
}

fn tls(settings: &KubeletApi) -> Result<ServerConfig, KubeletApiError> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(settings.client_ca_pem.as_bytes()) {
        roots.add(authority?)?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let resolver = CertificateResolver(settings.certificate.clone());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients.allow_unauthenticated().build()?)
        .with_cert_resolver(Arc::new(resolver));
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    access: Arc<KubeletAuthorizer>,
    service: NodeService,
    slot: &ConnectionSlot,
) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await??;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let user = certificates.first().and_then(|certificate| {
        let user = User::of_certificate(certificate);
        user.inspect_err(|error| tracing::debug!(%error, "client certificate refused"))
            .ok()
    });
    if !slot.shook_hands(None) {
        return Ok(());
    }
    let stage = slot.stage();
    if user.is_some() {
        stage.is_known();
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let client = (user.clone(), stage.clone());
        respond(request, access.clone(), client, service.clone())
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_LIMIT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await?;
    Ok(())
}

async fn respond(
    request: Request<Incoming>,
    access: Arc<KubeletAuthorizer>,
    (user, stage): (Option<User>, ConnectionStage),
    service: NodeService,
) -> Result<Response<BoxBody>, BoxError> {
    match access.permit(&request, user, &stage).await {
        Ok(()) => {
            let request = request.map(|body| body.map_err(BoxError::from).boxed_unsync());
            forward(service, request).await
        }
        Err(status) => Ok(error_response(&status)),
    }
}

/// The future is boxed, because the compiler cannot prove that the future of the service is `Send`.
fn forward(
    service: NodeService,
    request: Request<BoxBody>,
) -> BoxFuture<'static, Result<Response<BoxBody>, BoxError>> {
    service.oneshot(request).boxed()
}
