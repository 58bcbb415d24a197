//! HTTP probes and hooks, with up to ten redirects on the same host, as in kubelet's client.

use std::time::Duration;

use http_body_util::Empty;
use k8s_openapi::api::core::v1::HTTPHeader;
use outbound_http::tls::{self, TlsError};
use outbound_http::{Url, exchange, redirect};
use pod_lifecycle::record::probes::ProbeOutcome;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

use super::prober::{connect, host_and_port};
use crate::limits::{PROBE_OUTPUT_BYTES_MAX, REDIRECTS_MAX};

/// The URL of a request, in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTarget {
    /// Whether the scheme is `https`; certificates are not verified.
    pub tls: bool,
    pub host: String,
    pub port: u16,
    /// Path with its query.
    pub path: String,
}

/// The response of the probed server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbeResponse {
    /// The HTTP status code.
    pub status: u16,
    location: Option<String>,
    /// The beginning of the body, if the response is a redirect.
    body: String,
}

/// A request without a response; a message for users.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HttpProbeError {
    /// The server does not speak TLS, although the scheme is HTTPS.
    #[error("{0}")]
    NotTls(String),
    #[error("{0}")]
    Other(String),
}

/// The target of a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Redirect {
    /// A redirect to another host or to an invalid target: the redirect is the final response.
    Away,
    /// A redirect to another target on the present host.
    Here(HttpTarget),
}

/// The probe's result for a response. A redirect that was not followed counts as success, with a
/// warning.
pub fn outcome(response: &HttpProbeResponse) -> ProbeOutcome {
    match response.status {
        200..300 => ProbeOutcome::Success,
        300..400 => ProbeOutcome::Warning(format!(
            "Probe terminated redirects, Response body: {}",
            response.body
        )),
        status => ProbeOutcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
    }
}

/// The target of a `Location` in a response of `http://10.0.0.1:8080`; `None` if the redirect is not
/// followed.
pub fn followed(location: &str) -> Option<String> {
    let start = HttpTarget {
        tls: false,
        host: "10.0.0.1".to_owned(),
        port: 8080,
        path: "/a/b?c".to_owned(),
    };
    match start.redirected(location) {
        Ok(Redirect::Here(target)) => Some(target.url()),
        Ok(Redirect::Away) | Err(_) => None,
    }
}

impl HttpTarget {
    fn address(&self) -> String {
        host_and_port(&self.host, self.port)
    }

    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.address(), self.path)
    }

    /// The target of a `Location` in a response of this target.
    fn redirected(&self, location: &str) -> Result<Redirect, String> {
        let malformed = |error| format!("failed to parse Location header {location:?}: {error}");
        let base = Url::parse(&self.url()).map_err(malformed)?;
        let destination = redirect::target(&base, location).map_err(malformed)?;
        if destination.host_str() != base.host_str() {
            return Ok(Redirect::Away);
        }
        let tls = match destination.scheme() {
            "http" => false,
            "https" => true,
            scheme => return Err(format!("unsupported protocol scheme {scheme:?}")),
        };
        let path = match destination.query() {
            Some(query) => format!("{}?{query}", destination.path()),
            None => destination.path().to_owned(),
        };
        Ok(Redirect::Here(Self {
            tls,
            host: self.host.clone(),
            port: destination.port().unwrap_or(if tls { 443 } else { 80 }),
            path,
        }))
    }
}

/// Sends a GET request and follows redirects on the present host. Returns the last response.
///
/// # Errors
/// A timeout, or too many redirects; a message for users.
pub async fn get(
    mut target: HttpTarget,
    agent: &str,
    headers: &[HTTPHeader],
    timeout: Duration,
) -> Result<HttpProbeResponse, HttpProbeError> {
    let exchange = follow(&mut target, agent, headers, timeout);
    match tokio::time::timeout(timeout, exchange).await {
        Ok(result) => result,
        Err(_) => Err(HttpProbeError::Other(failed(
            &target.url(),
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
        ))),
    }
}

/// An error's text in the form of Go's HTTP client.
fn failed(url: &str, cause: &str) -> String {
    format!("Get \"{url}\": {cause}")
}

/// Sends requests until a response is no redirect to follow. `target` is the last target then.
async fn follow(
    target: &mut HttpTarget,
    agent: &str,
    headers: &[HTTPHeader],
    timeout: Duration,
) -> Result<HttpProbeResponse, HttpProbeError> {
    let mut headers = RequestHeaders {
        agent,
        specified: headers,
        sends_custom_host: true,
        referer: None,
    };
    let mut sent = 0;
    loop {
        sent += 1;
        let response = request_once(target, &headers, timeout).await;
        let response = response.map_err(|error| match error {
            HttpProbeError::NotTls(why) => HttpProbeError::NotTls(failed(&target.url(), &why)),
            HttpProbeError::Other(why) => HttpProbeError::Other(failed(&target.url(), &why)),
        })?;
        let Some(location) = &response.location else {
            return Ok(response);
        };
        let next = target.redirected(location);
        let next = next.map_err(|error| HttpProbeError::Other(failed(&target.url(), &error)));
        let next = match next? {
            Redirect::Here(next) if sent < REDIRECTS_MAX => next,
            Redirect::Here(_) => {
                let stopped = format!("stopped after {REDIRECTS_MAX} redirects");
                return Err(HttpProbeError::Other(failed(location, &stopped)));
            }
            Redirect::Away => return Ok(response),
        };
        // A custom `Host` header is only sent again after relative redirects.
        headers.sends_custom_host &= is_relative(location);
        headers.referer = (!target.tls || next.tls).then(|| target.url());
        *target = next;
    }
}

/// The headers of the requests.
struct RequestHeaders<'a> {
    agent: &'a str,
    /// The headers in the probe's specification.
    specified: &'a [HTTPHeader],
    /// Whether a custom header `Host` is sent.
    sends_custom_host: bool,
    referer: Option<String>,
}

async fn request_once(
    target: &HttpTarget,
    headers: &RequestHeaders<'_>,
    timeout: Duration,
) -> Result<HttpProbeResponse, HttpProbeError> {
    let address = target.address();
    let request = request(&address, &target.path, headers)
        .map_err(|error| HttpProbeError::Other(error.to_string()))?;
    let stream = connect(&address, timeout)
        .await
        .map_err(|error| HttpProbeError::Other(error.to_string()))?;
    let response = match target.tls {
        true => {
            let config =
                tls::insecure().map_err(|error| HttpProbeError::Other(error.to_string()))?;
            match tls::handshake(stream, &target.host, config).await {
                Ok(stream) => exchange_once(stream, request).await,
                Err(TlsError::NotTls(_)) => return Err(HttpProbeError::NotTls(NOT_TLS.to_owned())),
                Err(TlsError::Failed(error)) => Err(format!("tls: {error}")),
                Err(error @ TlsError::Name(_)) => Err(error.to_string()),
            }
        }
        false => exchange_once(stream, request).await,
    };
    response.map_err(HttpProbeError::Other)
}

/// The error of Go's client for a server that does not speak TLS.
const NOT_TLS: &str = "tls: first record does not look like a TLS handshake";

/// Whether a location has no scheme.
fn is_relative(location: &str) -> bool {
    Url::parse(location).is_err()
}

/// Sends a request and returns the response.
async fn exchange_once(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Empty<bytes::Bytes>>,
) -> Result<HttpProbeResponse, String> {
    let response = exchange(stream, request).await;
    let (head, body) = response.map_err(|error| error.to_string())?.into_parts();
    let body = match head.status.is_redirection() {
        true => body.beginning(PROBE_OUTPUT_BYTES_MAX).await,
        false => Vec::new(),
    };
    Ok(HttpProbeResponse {
        status: head.status.as_u16(),
        location: redirect::location(head.status, &head.headers),
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn request(
    address: &str,
    path: &str,
    headers: &RequestHeaders<'_>,
) -> Result<http::Request<Empty<bytes::Bytes>>, http::Error> {
    let specified = headers
        .specified
        .iter()
        .filter(|header| headers.sends_custom_host || !header.name.eq_ignore_ascii_case("Host"));
    let mut builder = http::Request::get(path);
    let defaults = [
        ("Host", Some(address)),
        ("User-Agent", Some(headers.agent)),
        ("Accept", Some("*/*")),
        ("Referer", headers.referer.as_deref()),
    ];
    for (name, value) in defaults {
        let mut specified = specified.clone();
        if let Some(value) = value
            && !specified.any(|header| header.name.eq_ignore_ascii_case(name))
        {
            builder = builder.header(name, value);
        }
    }
    builder = builder.header("Connection", "close");
    for header in specified {
        builder = builder.header(&header.name, &header.value);
    }
    builder.body(Empty::new())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn redirections_are_followed_on_the_same_host_only() {
        // statefulset.md 12.5
        let here = HttpTarget {
            tls: false,
            host: "10.0.0.1".to_owned(),
            port: 8080,
            path: "/a/b?c=d".to_owned(),
        };
        let to = |location: &str| match here.redirected(location) {
            Ok(Redirect::Here(target)) => target.url(),
            Ok(Redirect::Away) => "away".to_owned(),
            Err(error) => error,
        };
        for (location, leads) in [
            ("/login?next=a", "http://10.0.0.1:8080/login?next=a"),
            ("login", "http://10.0.0.1:8080/a/login"),
            ("../x#y", "http://10.0.0.1:8080/x"),
            ("?e=f", "http://10.0.0.1:8080/a/b?e=f"),
            ("http://10.0.0.1/b", "http://10.0.0.1:80/b"),
            ("not a place", "http://10.0.0.1:8080/a/not%20a%20place"),
            ("./.", "http://10.0.0.1:8080/a/"),
            ("../../../é", "http://10.0.0.1:8080/%C3%A9"),
            ("", "http://10.0.0.1:8080/a/b?c=d"),
            ("https://10.0.0.1", "https://10.0.0.1:443/"),
            ("https://10.0.0.1:8443", "https://10.0.0.1:8443/"),
            ("//10.0.0.1/b", "http://10.0.0.1:80/b"),
            ("https://example.org/", "away"),
            ("//example.org/a", "away"),
            ("mailto:somebody", "away"),
            ("ftp://10.0.0.1/", "unsupported protocol scheme \"ftp\""),
        ] {
            assert_eq!(to(location), leads, "{location}");
        }
        assert!(to("http://[/").starts_with("failed to parse Location header \"http://[/\": "));
    }

    /// A server that responds to each path with the result of `responses`, and the list of its requests.
    pub async fn server(
        responses: impl Fn(&str) -> String + Send + 'static,
    ) -> (HttpTarget, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let received = requests.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let count = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..count]).into_owned();
                // A request with invalid HTTP gets the default response.
                let response = responses(request.split(' ').nth(1).unwrap_or_default());
                received.lock().unwrap().push(request);
                stream.write_all(response.as_bytes()).await.unwrap();
            }
        });
        let target = HttpTarget {
            tls: false,
            host: "127.0.0.1".to_owned(),
            port,
            path: "/".to_owned(),
        };
        (target, requests)
    }

    fn redirect_to(location: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    }

    pub const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";
    pub const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_redirection_to_another_host_is_a_success_with_a_warning() {
        // statefulset.md 12.5
        let (target, requests) = server(|path| match path {
            "/" => redirect_to("next", "here"),
            _ => redirect_to("https://example.org/login", "<a>there</a>"),
        })
        .await;
        let response = get(target, "probe", &[], PATIENCE).await.unwrap();
        assert_eq!(
            outcome(&response),
            ProbeOutcome::Warning(
                "Probe terminated redirects, Response body: <a>there</a>".to_owned()
            )
        );
        assert_eq!(requests.lock().unwrap().len(), 2);
        // A redirect without a target is a success, too.
        let (target, _) = server(|_| "HTTP/1.1 304 Not Modified\r\n\r\n".to_owned()).await;
        let response = get(target, "probe", &[], PATIENCE).await.unwrap();
        assert_eq!(
            outcome(&response),
            ProbeOutcome::Warning("Probe terminated redirects, Response body: ".to_owned())
        );
    }

    #[tokio::test]
    async fn who_speaks_no_tls_has_not_answered() {
        // statefulset.md 12.5
        let (plain, _) = server(|_| NO_CONTENT.to_owned()).await;
        let over_tls = HttpTarget { tls: true, ..plain };
        let url = over_tls.url();
        let error = get(over_tls, "probe", &[], PATIENCE).await.unwrap_err();
        let message =
            format!("Get \"{url}\": tls: first record does not look like a TLS handshake");
        assert_eq!(error, HttpProbeError::NotTls(message));
    }

    #[tokio::test]
    async fn redirections_end() {
        // statefulset.md 12.5
        let (target, requests) = server(|path| redirect_to(&format!("{path}x"), "")).await;
        let error = get(target, "probe", &[], PATIENCE).await.unwrap_err();
        let message = "Get \"/xxxxxxxxxx\": stopped after 10 redirects".to_owned();
        assert_eq!(error, HttpProbeError::Other(message));
        assert_eq!(requests.lock().unwrap().len(), 10);
    }

    #[tokio::test]
    async fn a_name_of_its_own_goes_no_further_than_its_relatives() {
        let headers = [("Host", "app"), ("X", "y")].map(|(name, value)| HTTPHeader {
            name: name.to_owned(),
            value: value.to_owned(),
        });
        let (last, at_last) = server(|_| NO_CONTENT.to_owned()).await;
        let url = last.url();
        let (first, at_first) = server(move |path| match path {
            "/" => redirect_to("/relative", ""),
            _ => redirect_to(&url, ""),
        })
        .await;
        let address = first.address();
        let response = get(first, "probe", &headers, PATIENCE).await.unwrap();
        assert_eq!(outcome(&response), ProbeOutcome::Success);
        let lines = |requests: &Mutex<Vec<String>>| {
            let all = requests.lock().unwrap().join("").to_lowercase();
            all.lines()
                .filter(|line| {
                    ["host:", "referer:", "x:"]
                        .iter()
                        .any(|h| line.starts_with(h))
                })
                .map(str::to_owned)
                .collect::<Vec<String>>()
        };
        let referer = |path: &str| format!("referer: http://{address}{path}");
        let host = "host: app".to_owned();
        let x = "x: y".to_owned();
        assert_eq!(
            lines(&at_first),
            [host.clone(), x.clone(), referer("/"), host, x.clone()]
        );
        let host = format!("host: {}", last.address());
        assert_eq!(lines(&at_last), [host, referer("/relative"), x]);
    }
}
