//! Upgrades of HTTP connections to WebSocket, or to SPDY for older clients.

use std::sync::Arc;

use http::header::{self, HeaderName};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::Upgraded;
use object_model::Status;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::pod_sessions::PodSession;
use super::response::{BoxBody, error_status};

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const SPDY: &str = "SPDY/3.1";

/// The protocol of the upgrade, and the subprotocols that the client offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A WebSocket, which carries messages.
    WebSocket(Vec<String>),
    /// A SPDY connection, which carries streams.
    Spdy(Vec<String>),
}

impl Transport {
    /// Reads the transport from the request.
    ///
    /// *Errors.* 400 for a request without a supported upgrade.
    pub fn from_request(request: &Request<BoxBody>) -> Result<Self, Box<Status>> {
        let protocol = request.headers().get(header::UPGRADE);
        let protocol = protocol
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if protocol.eq_ignore_ascii_case("websocket") {
            return Ok(Self::WebSocket(offered(
                request,
                &header::SEC_WEBSOCKET_PROTOCOL,
            )));
        }
        if protocol.eq_ignore_ascii_case(SPDY) {
            return Ok(Self::Spdy(offered(request, &STREAM_PROTOCOL)));
        }
        let message = "the connection has to be upgraded to a WebSocket or to SPDY/3.1";
        Err(error_status(StatusCode::BAD_REQUEST, message))
    }
}

/// 400 for a client that offers only protocols that are not in `supported`.
pub fn none_offered(supported: impl IntoIterator<Item = &'static str>) -> Box<Status> {
    let supported: Vec<&str> = supported.into_iter().collect();
    let supported = match supported.as_slice() {
        [supported @ .., last] if !supported.is_empty() => {
            format!("{} and {last}", supported.join(", "))
        }
        supported => supported.concat(),
    };
    let message = format!("none of the protocols {supported} is offered");
    error_status(StatusCode::BAD_REQUEST, &message)
}

fn offered(request: &Request<BoxBody>, name: &HeaderName) -> Vec<String> {
    let values = request.headers().get_all(name).iter();
    let lists = values.filter_map(|value| value.to_str().ok());
    let names = lists.flat_map(|list| list.split(',')).map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Responds to the upgrade with the name of the chosen subprotocol, and runs `serve` with the connection.
///
/// *Errors.* 400 for a WebSocket request without a key.
pub fn accept<F, Fut>(
    mut request: Request<BoxBody>,
    protocol: &'static str,
    serve: F,
) -> Result<Response<BoxBody>, Box<Status>>
where
    F: FnOnce(Upgraded) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let name = HeaderValue::from_static(protocol);
    if let Transport::WebSocket(_) = Transport::from_request(&request)? {
        let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
        let key = key.map(|key| derive_accept_key(key.as_bytes()));
        let key = key.and_then(|key| HeaderValue::from_str(&key).ok());
        let key_missing = || error_status(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing");
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, key.ok_or_else(key_missing)?);
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if !protocol.is_empty() {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, name);
        }
    } else {
        headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
        headers.insert(STREAM_PROTOCOL, name);
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let session = request.extensions_mut().remove::<Arc<PodSession>>();
    tokio::spawn(async move {
        let _session = session;
        match upgraded.await {
            Ok(connection) => serve(connection).await,
            Err(error) => tracing::debug!(%error, "connection not upgraded"),
        }
    });
    Ok(response)
}

fn empty() -> BoxBody {
    http_body_util::Empty::new()
        .map_err(|never: std::convert::Infallible| match never {})
        .boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_clients_name_their_protocols_elsewhere() {
        // kubectl.md 5.1
        let request = |upgrade: &str| {
            let request = Request::builder()
                .header("Upgrade", upgrade)
                .header("X-Stream-Protocol-Version", "v4.channel.k8s.io")
                .header("X-Stream-Protocol-Version", "v3.channel.k8s.io")
                .header("Sec-WebSocket-Protocol", "a, b");
            request.body(empty()).unwrap()
        };
        let names = |names: [&str; 2]| names.map(str::to_owned).to_vec();
        assert_eq!(
            Transport::from_request(&request("SPDY/3.1")).unwrap(),
            Transport::Spdy(names(["v4.channel.k8s.io", "v3.channel.k8s.io"]))
        );
        assert_eq!(
            Transport::from_request(&request("WebSocket")).unwrap(),
            Transport::WebSocket(names(["a", "b"]))
        );
        assert_eq!(
            Transport::from_request(&request("h2c")).unwrap_err().code,
            400
        );
    }

    #[test]
    fn a_refusal_names_all_supported_protocols() {
        for (supported, names) in [
            (&["a"][..], "a"),
            (&["a", "b"], "a and b"),
            (&["a", "b", "c"], "a, b and c"),
        ] {
            let status = none_offered(supported.iter().copied());
            let message = format!("none of the protocols {names} is offered");
            assert_eq!((status.code, status.message), (400, message));
        }
    }
}
