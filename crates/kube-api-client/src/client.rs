//! A client of an API server, over any transport.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::apimachinery::pkg::version::Info;
use serde::de::DeserializeOwned;
use tower::Service;

use crate::error::{Error, Result, Status};
use crate::lines::ResponseLines;
use crate::request;
use crate::transport::{Body, BoxError, ResponseBody, TowerTransport, Transport};

/// A client of an API server, for one user; clones share the transport.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    default_namespace: Arc<str>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client whose transport is a `tower` service.
    pub fn new<S, B>(service: S, default_namespace: &str) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self::over(Arc::new(TowerTransport(service)), default_namespace)
    }

    /// A client with the given transport.
    pub fn over(transport: Arc<dyn Transport>, default_namespace: &str) -> Self {
        Self {
            transport,
            default_namespace: default_namespace.into(),
        }
    }

    /// The namespace of requests that do not specify one.
    pub fn default_namespace(&self) -> &str {
        &self.default_namespace
    }

    /// Sends a request. The response may be a refusal.
    pub fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Result<Response<ResponseBody>>> {
        let transport = self.transport.clone();
        let response = async move {
            // A server in the same process may respond without waiting. This lets other tasks run between two requests,
            // as over a network.
            tokio::task::yield_now().await;
            transport.send(request).await.map_err(Error::Transport)
        };
        response.boxed()
    }

    /// Sends a request, and reads the whole response.
    pub fn bytes(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Bytes>> {
        let response = self.send(request);
        async move { collected(accepted(response.await?).await?).await }.boxed()
    }

    /// Sends a request. The response is read line by line.
    pub fn lines(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<ResponseLines>> {
        let response = self.send(request);
        async move { Ok(ResponseLines::new(accepted(response.await?).await?)) }.boxed()
    }

    /// Sends a request, and decodes the response.
    pub async fn request<T: DeserializeOwned>(&self, request: Request<Bytes>) -> Result<T> {
        decode(&self.bytes(request).await?)
    }

    /// Reads an API path, and decodes the response.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.request(request::get(path.to_owned())?).await
    }

    /// Reads an API path whose response may have `max` bytes, and decodes the response. A longer response is an error: the
    /// responses of some paths are those of nodes or pods.
    pub async fn get_up_to<T: DeserializeOwned>(&self, path: &str, max: usize) -> Result<T> {
        let response = self.send(request::get(path.to_owned())?).await?;
        let response = response.map(|body| Limited::new(body, max).boxed_unsync());
        decode(&collected(accepted(response).await?).await?)
    }

    /// Reads the path of these segments with a query, and decodes the response. Segments and query are percent-encoded.
    pub async fn get_at<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T> {
        self.get(&request::encoded_uri(segments, query)).await
    }

    /// The version of the server.
    pub async fn apiserver_version(&self) -> Result<Info> {
        self.get("/version").await
    }
}

/// Decodes JSON. All objects are decoded by this function, so there is one decoder for each type.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    object_decoders::from_slice(bytes).map_err(Error::Json)
}

/// The body of a response, unless the response is a refusal.
async fn accepted(response: Response<ResponseBody>) -> Result<ResponseBody> {
    let code = response.status();
    if code.is_client_error() || code.is_server_error() {
        let body = collected(response.into_body()).await?;
        return Err(Error::Api(Box::new(Status::of_response(code, &body))));
    }
    Ok(response.into_body())
}

async fn collected(body: ResponseBody) -> Result<Bytes> {
    let body = body.collect().await.map_err(Error::Body)?;
    Ok(body.to_bytes())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use json_tree::{Value, json};

    use super::*;

    /// A server that responds with the request, or refuses it.
    fn client() -> Client {
        let respond = |request: Request<Body>| async move {
            let code = if request.uri().path() == "/no" {
                403
            } else {
                200
            };
            let request_line = json!({"uri": request.uri().to_string(), "reason": "Forbidden"});
            let body = Body::from(request_line.to_string());
            let response = Response::builder().status(code).body(body);
            Ok::<_, Infallible>(response.expect("a response"))
        };
        Client::new(tower::service_fn(respond), "default")
    }

    #[tokio::test]
    async fn the_status_code_distinguishes_responses_from_refusals() {
        let version: Value = client().get("/version").await.unwrap();
        assert_eq!(version["uri"], "/version");
        let refused = client().get::<Value>("/no").await.unwrap_err();
        assert_eq!(refused.code(), Some(403));
        let failing = |_: Request<Body>| async { Err::<Response<Body>, BoxError>("broken".into()) };
        let client = Client::new(tower::service_fn(failing), "default");
        let failed = client.get::<Value>("/version").await.unwrap_err();
        assert!(matches!(failed, Error::Transport(_)));
    }

    /// The response of a node or a pod is read up to the limit, also if it is a refusal.
    #[tokio::test]
    async fn a_long_response_is_an_error() {
        for code in [200, 500] {
            let service = tower::service_fn(move |_| async move {
                let body = format!("\"{}\"", "x".repeat(98));
                let response = Response::builder().status(code).body(Body::from(body));
                Ok::<_, Infallible>(response.unwrap())
            });
            let client = Client::new(service, "default");
            let up_to = async |max| {
                client
                    .get_up_to::<Value>("/", max)
                    .await
                    .map_err(|e| e.code())
            };
            assert_eq!(up_to(99).await, Err(None), "{code}");
            match code {
                200 => assert!(up_to(100).await.is_ok()),
                _ => assert_eq!(up_to(100).await, Err(Some(500))),
            }
        }
    }
}
