//! The server as a service in this process: the same pipeline without socket and TLS.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use process_telemetry::polls::spend;

use crate::access::identity::Caller;
use crate::http::body::{BoxError, ResponseBody, boxed};
use crate::http::limits::LOCAL_REQUEST_UNITS;
use crate::http::user::UserInfo;
use crate::pipeline;
use crate::server::ApiServer;

/// Calls an [`ApiServer`] in this process as one fixed user.
///
/// Requests go through the authorisation, admission and validation of requests from the network.
#[derive(Clone)]
pub struct LocalService {
    server: Arc<ApiServer>,
    user: Arc<UserInfo>,
    agent: HeaderValue,
}

impl ApiServer {
    /// The server as a service for callers in this process, as this user.
    pub fn local(self: &Arc<Self>, user: UserInfo) -> LocalService {
        LocalService::new(self.clone(), user)
    }
}

impl LocalService {
    fn new(server: Arc<ApiServer>, user: UserInfo) -> Self {
        let agent = HeaderValue::from_str(agent(&user.name));
        Self {
            server,
            user: Arc::new(user),
            agent: agent.unwrap_or_else(|_| HeaderValue::from_static("")),
        }
    }
}

/// The name of a component in managed fields: `kube-scheduler` for `system:kube-scheduler`, and `kubelet` for a node.
fn agent(user: &str) -> &str {
    match user.strip_prefix("system:") {
        Some(part) if part.starts_with("node:") => "kubelet",
        Some(part) => part.rsplit(':').next().unwrap_or(part),
        None => user,
    }
}

impl<B> tower::Service<Request<B>> for LocalService
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let agent = request.headers_mut().entry(USER_AGENT);
        agent.or_insert_with(|| self.agent.clone());
        let caller = Caller::Local(self.user.as_ref().clone());
        let handling = pipeline::run(self.server.clone(), request.map(boxed), caller);
        // A component may send hundreds of requests at once, which all run on the task of the component.
        async move {
            spend(LOCAL_REQUEST_UNITS).await;
            Ok(handling.await)
        }
        .boxed()
    }
}
