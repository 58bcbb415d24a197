//! Serves the `healthCheckNodePort` of Services, which reports to external load balancers whether this node
//! has endpoints, because with `externalTrafficPolicy: Local` connections to other nodes' endpoints are
//! dropped.
//!
//! As kube-proxy: 200 if there are ready endpoints and the kernel has the rules, else 503, for any path;
//! the number is in the header `X-Load-Balancing-Endpoint-Weight` and in the body.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;

use connection_limits::{ConnectionSlot, Connections};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use json_tree::json;
use process_telemetry::Component;
use process_telemetry::refusals::{self, Budget};
use service_routing::{HealthCheck, ServiceName};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::limits;

const ENDPOINT_WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// The health checks of all Services, which stop when the value is dropped.
pub(crate) struct HealthChecks {
    desired: BTreeMap<ServiceName, HealthCheck>,
    open: BTreeMap<ServiceName, Open>,
    is_current: watch::Sender<bool>,
    component: Component,
}

/// An open port.
struct Open {
    port: u16,
    local_endpoints: watch::Sender<usize>,
    serving: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl HealthChecks {
    pub(crate) fn new(component: Component) -> Self {
        Self {
            component,
            desired: BTreeMap::new(),
            open: BTreeMap::new(),
            is_current: watch::Sender::new(false),
        }
    }

    /// Sets the health check of a Service, or removes it.
    pub(crate) fn set(&mut self, service: ServiceName, check: Option<HealthCheck>) {
        match check {
            Some(check) => self.desired.insert(service, check),
            None => self.desired.remove(&service),
        };
    }

    /// Opens and closes ports as the checks require; `is_current` is true if the kernel has the rules. If
    /// another program uses a port, the next call tries again.
    pub(crate) async fn update(&mut self, is_current: bool) {
        self.is_current.send_replace(is_current);
        let desired = &self.desired;
        let is_over = |name: &ServiceName, open: &mut Open| {
            desired
                .get(name)
                .is_none_or(|check| check.port != open.port)
        };
        let removed: Vec<Open> = self
            .open
            .extract_if(.., is_over)
            .map(|(_, open)| open)
            .collect();
        for mut open in removed {
            // Another Service may use the port now.
            open.serving.abort();
            drop((&mut open.serving).await);
        }
        for (name, check) in &self.desired {
            if let Some(open) = self.open.get(name) {
                open.local_endpoints.send_replace(check.local_endpoints);
                continue;
            }
            match TcpListener::bind((Ipv4Addr::UNSPECIFIED, check.port)).await {
                Ok(listener) => {
                    let local_endpoints = watch::Sender::new(check.local_endpoints);
                    let responses = Responses {
                        service: name.clone(),
                        local_endpoints: local_endpoints.subscribe(),
                        is_current: self.is_current.subscribe(),
                    };
                    let work = serve(listener, responses);
                    let open = Open {
                        port: check.port,
                        local_endpoints,
                        serving: tokio::spawn(self.component.watched("health checks", work)),
                    };
                    self.open.insert(name.clone(), open);
                }
                Err(error) => tracing::warn!(
                    %error,
                    port = check.port,
                    namespace = name.namespace,
                    service = name.name,
                    "the health check of a service cannot be answered"
                ),
            }
        }
    }
}

/// The data for the responses of one Service.
#[derive(Clone)]
struct Responses {
    service: ServiceName,
    local_endpoints: watch::Receiver<usize>,
    is_current: watch::Receiver<bool>,
}

impl Responses {
    fn now(&self) -> Response<String> {
        response(
            &self.service,
            *self.local_endpoints.borrow(),
            *self.is_current.borrow(),
        )
    }
}

fn response(service: &ServiceName, local_endpoints: usize, is_current: bool) -> Response<String> {
    let body = json!({
        "service": { "namespace": service.namespace, "name": service.name },
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": is_current,
    });
    let mut response = Response::new(body.to_string());
    if local_endpoints == 0 || !is_current {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(ENDPOINT_WEIGHT, HeaderValue::from(local_endpoints));
    response
}

/// Serves until the task is aborted. Each connection gets one response.
async fn serve(listener: TcpListener, responses: Responses) {
    let open = Arc::new(Connections::default());
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accept a health check");
                tokio::time::sleep(limits::RETRY_DELAY).await;
                continue;
            }
        };
        let close = CancellationToken::new();
        // Clients have no credentials, so a full listener closes the oldest connection of the client with
        // the most connections.
        let slot = open.enter(client.ip(), close.clone(), limits::HEALTH_CHECK_CONNECTIONS);
        if slot.as_ref().is_none_or(ConnectionSlot::replaces_another) {
            refusals::count(Budget::HealthCheckConnections);
        }
        let Some(slot) = slot else { continue };
        let responses = responses.clone();
        connections.spawn(async move {
            let service = service_fn(|_: Request<Incoming>| {
                let response = responses.now();
                async { Ok::<_, Infallible>(response) }
            });
            let mut http = http1::Builder::new();
            http.header_read_timeout(None).keep_alive(false);
            let connection = http.serve_connection(TokioIo::new(stream), service);
            // If the client disconnects, the error has no receiver.
            let connection = tokio::time::timeout(limits::HEALTH_CHECK_TIMEOUT, connection);
            drop(close.run_until_cancelled(connection).await);
            drop(slot);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings-2 S40: a client with too many connections loses only its own connections.
    #[tokio::test]
    async fn a_client_with_too_many_connections_closes_its_own() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_endpoints, local_endpoints) = watch::channel(1);
        let (_rules, is_current) = watch::channel(true);
        let service = ServiceName {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
        };
        let serving = tokio::spawn(serve(
            listener,
            Responses {
                service,
                local_endpoints,
                is_current,
            },
        ));
        let other = tokio::net::TcpSocket::new_v4().unwrap();
        other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut other = other.connect(address).await.unwrap();
        let mut many = Vec::new();
        for _ in 0..limits::HEALTH_CHECK_CONNECTIONS.all {
            many.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        let closed = many[0].read(&mut [0]).await;
        assert!(matches!(closed, Ok(0) | Err(_)), "the oldest one is closed");
        other
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let mut response = String::new();
        other.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        serving.abort();
    }

    #[test]
    fn only_ready_endpoints_behind_rules_are_offered() {
        let service = ServiceName {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
        };
        for (endpoints, is_current, status) in [(2, true, 200), (0, true, 503), (2, false, 503)] {
            let response = response(&service, endpoints, is_current);
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()[ENDPOINT_WEIGHT], endpoints.to_string());
        }
    }
}
