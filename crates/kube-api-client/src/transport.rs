//! The transport of requests to an API server.

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use tower::{Service, ServiceExt};

/// An error of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of a request to a `tower` service.
pub type Body = Full<Bytes>;
/// The body of a response, which may arrive in parts.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// The transport of requests to an API server. URIs have a path and a query, but no host.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request. The response may be a refusal; an error is an error of the transport.
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Result<Response<ResponseBody>, BoxError>>;
}

/// A `tower` service as a transport.
pub(crate) struct TowerTransport<S>(pub(crate) S);

impl<S, B> Transport for TowerTransport<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Result<Response<ResponseBody>, BoxError>> {
        let response = self.0.clone().oneshot(request.map(Full::new));
        let boxed = |body: B| body.map_err(Into::into).boxed_unsync();
        let response = async move { Ok(response.await.map_err(Into::into)?.map(boxed)) };
        response.boxed()
    }
}
