//! Requests to a registry (OCI distribution specification; tokens as in "Docker Registry v2
//! authentication"). The size of each response is limited, because a registry is not trusted.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, USER_AGENT};
use http::{Response, StatusCode};
use outbound_http::tls::{self, Roots};
use outbound_http::{Body, BodyError, Error, Pool, Proxies, Settings, Url};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::Credentials;
use super::chain;
use super::challenge::{Challenge, challenge, token_url};
use super::reach::AllowedAddresses;
use crate::manifest::{ACCEPTED, json_fault};
use crate::reference::Reference;
use crate::registries::Endpoint;
use crate::stall_detector::{MinimumSpeed, PullProgress, StallDetector, TooSlow};

const USER_AGENT_VALUE: HeaderValue =
    HeaderValue::from_static(concat!("mainstay/", env!("CARGO_PKG_VERSION")));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum size of a response with a token, in bytes.
const TOKEN_BYTES_MAX: u64 = 256 << 10;
/// Maximum size of the response to the check whether a server is a registry, in bytes.
const HELLO_BYTES_MAX: u64 = 1 << 10;
/// Maximum size of an error response that is read, in bytes.
const REFUSAL_BYTES_MAX: u64 = 64 << 10;

/// The error codes that are reported (OCI distribution specification, "Error codes", and common
/// additions of registries).
const CODES: &[&str] = &[
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DENIED",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "MANIFEST_UNVERIFIED",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "NOT_FOUND",
    "SIZE_INVALID",
    "TAG_INVALID",
    "TOOMANYREQUESTS",
    "UNAUTHORIZED",
    "UNAVAILABLE",
    "UNKNOWN",
    "UNSUPPORTED",
];

#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// The registry does not have the manifest or blob (404).
    #[error("not found")]
    NotFound,
    /// The registry requires credentials, or rejects these credentials.
    #[error("unauthorized")]
    Unauthorized,
    /// The registry responds with another status.
    #[error("it answered {status}{}{}", if .code.is_some() { ": " } else { "" }, .code.unwrap_or(""))]
    Status {
        status: StatusCode,
        /// The error code, if it is one of the known codes. No other part of the response is reported,
        /// because the response may come from a service that the pod's owner must not read.
        code: Option<&'static str>,
        /// Whether a retry may succeed.
        passing: bool,
    },
    /// The response exceeds its maximum size.
    #[error("its {document} is longer than the limit of {limit} bytes")]
    TooLong {
        document: &'static str,
        /// The maximum size, in bytes.
        limit: u64,
    },
    /// The address belongs to this node and has no registry, or no listener.
    #[error("does not answer as a registry")]
    NoRegistry,
    /// The address is not allowed for pulls.
    #[error("the address is not allowed for pulls")]
    OutOfReach,
    #[error("too slow")]
    TooSlow(TooSlow),
    /// The response violates the protocol.
    #[error("{0}")]
    Protocol(String),
    /// The registry cannot be reached, or does not respond.
    #[error(transparent)]
    Connection(#[from] Error),
    /// The response ends before its length.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The certificate authorities cannot be read.
    #[error("read {path}: {source}")]
    Certificates { path: PathBuf, source: io::Error },
}

impl RequestError {
    /// Whether an immediate retry may succeed. A refused connection or an unknown host is reported at once,
    /// because there may be another endpoint.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Status { passing, .. } => *passing,
            Self::Connection(Error::Url | Error::Redirect(_)) => false,
            Self::Connection(error) => !error.is_connect(),
            Self::Body(_) => true,
            _ => false,
        }
    }
}

/// A client for one repository of a registry, with credentials.
pub(super) struct RegistryClient {
    http: Pool,
    /// The URL `https://host/v2/`.
    root: Url,
    /// The URL `https://host/v2/repository`.
    base: String,
    reach: AllowedAddresses,
    /// Whether the server has proved that it is a registry.
    is_verified: AtomicBool,
    /// The query `?ns=registry`, for a mirror.
    query: String,
    repository: String,
    credentials: Option<Credentials>,
    minimum_speed: MinimumSpeed,
    progress: PullProgress,
    /// The `Authorization` header that the registry has accepted.
    authorization: Mutex<Option<HeaderValue>>,
}

impl RegistryClient {
    /// A client for the repository of an image name, at an endpoint.
    pub async fn new(
        endpoint: &Endpoint,
        reference: &Reference,
        credentials: Option<Credentials>,
        minimum_speed: MinimumSpeed,
        progress: PullProgress,
    ) -> Result<Self, RequestError> {
        let scheme = if endpoint.plain_http { "http" } else { "https" };
        let url = Url::parse(&format!("{scheme}://{}", endpoint.host))
            .map_err(|_| RequestError::Protocol("it has no host name".to_owned()))?;
        let reach = AllowedAddresses::new(url, endpoint.configured);
        if !reach.allows_endpoint() {
            return Err(RequestError::OutOfReach);
        }
        let root = Url::parse(&format!("{scheme}://{}/v2/", endpoint.host));
        let root = root.map_err(|_| Error::Url)?;
        let allowed = reach.clone();
        let http = Pool::new(Settings {
            connect_limit: CONNECT_TIMEOUT,
            silence_limit: READ_TIMEOUT,
            tls: trust(endpoint).await?,
            server_name: None,
            http2: false,
            proxies: Proxies::Environment,
            allows: Arc::new(move |name, address| allowed.allows_address(name, address)),
        });
        let repository = reference.repository().to_owned();
        let is_mirror = endpoint.host != reference.resolve_registry();
        let authorization = match &credentials {
            Some(Credentials::Bearer(token)) => Some(bearer(token)?),
            _ => None,
        };
        Ok(Self {
            http,
            root,
            reach,
            is_verified: AtomicBool::new(false),
            base: format!("{scheme}://{}/v2/{repository}", endpoint.host),
            query: match is_mirror {
                true => format!("?ns={}", reference.registry()),
                false => String::new(),
            },
            repository,
            credentials,
            minimum_speed,
            progress,
            authorization: Mutex::new(authorization),
        })
    }

    /// Checks that a listener on this node is a registry, before any request whose content a pod's owner
    /// has chosen: the response must be that of the base of the distribution API. The error does not reveal
    /// to the pod's owner whether there is no listener or another server.
    pub async fn verify_registry(&self) -> Result<(), RequestError> {
        if !self.reach.must_be_verified() || self.is_verified.load(Ordering::Relaxed) {
            return Ok(());
        }
        let response = self.ask(&self.root, None).await;
        let is_registry = match response {
            Ok(response) => speaks_distribution(response).await,
            Err(error) => {
                tracing::info!(
                    url = %self.root,
                    error = chain(&error),
                    "no registry answers"
                );
                false
            }
        };
        if !is_registry {
            return Err(RequestError::NoRegistry);
        }
        self.is_verified.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// A manifest or an index by tag or digest, as a stream.
    pub async fn manifest(&self, name: &str) -> Result<RegistryResponse, RequestError> {
        self.get(&format!("manifests/{name}")).await
    }

    /// A blob, as a stream.
    pub async fn blob(&self, digest: &str) -> Result<RegistryResponse, RequestError> {
        self.get(&format!("blobs/{digest}")).await
    }

    async fn get(&self, path: &str) -> Result<RegistryResponse, RequestError> {
        let url = format!("{}/{path}{}", self.base, self.query);
        let url = Url::parse(&url).map_err(|_| Error::Url)?;
        let authorization = self.authorization().clone();
        let mut response = self.ask(&url, authorization).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(authorization) = self.authorize(response.response.headers()).await?
        {
            *self.authorization() = Some(authorization.clone());
            response = self.ask(&url, Some(authorization)).await?;
        }
        match response.status() {
            StatusCode::OK => Ok(response),
            _ => Err(refusal(response).await),
        }
    }

    fn authorization(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        let lock = self.authorization.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(
        &self,
        url: &Url,
        authorization: Option<HeaderValue>,
    ) -> Result<RegistryResponse, RequestError> {
        let accepted = HeaderValue::from_str(&ACCEPTED.join(", "));
        let mut headers = HeaderMap::from_iter([(USER_AGENT, USER_AGENT_VALUE)]);
        headers.extend(accepted.ok().map(|accepted| (ACCEPT, accepted)));
        headers.extend(authorization.map(|value| (AUTHORIZATION, value)));
        self.send(url, headers).await
    }

    async fn send(&self, url: &Url, headers: HeaderMap) -> Result<RegistryResponse, RequestError> {
        let follows = |url: &Url, followed| self.reach.check_redirect(url, followed);
        let response = self.http.get(url, headers, follows).await?;
        Ok(self.registry_response(response))
    }

    fn registry_response(&self, response: Response<Body>) -> RegistryResponse {
        RegistryResponse {
            response,
            stall_detector: StallDetector::new(self.minimum_speed, Instant::now()),
            progress: self.progress.clone(),
        }
    }

    /// The `Authorization` header for a challenge; `None` if the client does not support the challenge.
    async fn authorize(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, RequestError> {
        let login = match &self.credentials {
            None => None,
            Some(Credentials::Basic { username, password }) => Some((username, password)),
            // The client has no other credentials.
            Some(Credentials::Bearer(_)) => return Ok(None),
        };
        match challenge(headers) {
            Some(Challenge::Basic) => {
                let Some((username, password)) = login else {
                    return Ok(None);
                };
                basic(username, password).map(Some)
            }
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
                let url = token_url(&realm, service.as_deref(), &scope)?;
                if !self.reach.allows(&url) {
                    let text = "it sends for a token to an address that pulls may not reach";
                    return Err(RequestError::Protocol(text.to_owned()));
                }
                let mut headers = HeaderMap::from_iter([(USER_AGENT, USER_AGENT_VALUE)]);
                if let Some((username, password)) = login {
                    headers.insert(AUTHORIZATION, basic(username, password)?);
                }
                let response = self.send(&url, headers).await?;
                match response.status() {
                    StatusCode::OK => {}
                    // Some token servers respond with 400 to an unknown name.
                    status if status.is_client_error() && !is_passing(status) => {
                        return Err(RequestError::Unauthorized);
                    }
                    _ => return Err(refusal(response).await),
                }
                let bytes = whole(response, "token", TOKEN_BYTES_MAX).await?;
                let token = token(&bytes)
                    .map_err(|error| RequestError::Protocol(json_fault("token", &error)))?;
                let token = token.filter(|token| !token.is_empty());
                let missing = || RequestError::Protocol("it sent no token".to_owned());
                bearer(&token.ok_or_else(missing)?).map(Some)
            }
            None => Ok(None),
        }
    }
}

/// A response whose body is being received.
pub(super) struct RegistryResponse {
    response: Response<Body>,
    stall_detector: StallDetector,
    progress: PullProgress,
}

impl RegistryResponse {
    fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The digest in the headers of the response.
    pub fn digest(&self) -> Option<&str> {
        let digest = self.response.headers().get("docker-content-digest")?;
        digest.to_str().ok()
    }

    /// Whether the headers state more than `limit` bytes.
    pub fn is_longer_than(&self, limit: u64) -> bool {
        let length = self.response.body().content_length();
        length.is_some_and(|length| length > limit)
    }

    /// The next chunk; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RequestError> {
        loop {
            let chunk =
                timeout_at(self.stall_detector.end(), self.response.body_mut().chunk()).await;
            if let Ok(chunk) = chunk {
                let chunk = chunk?;
                let length = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                self.stall_detector.add(length);
                self.progress.add(length);
                return Ok(chunk);
            }
            let now = Instant::now();
            self.stall_detector
                .check(now)
                .map_err(RequestError::TooSlow)?;
        }
    }
}

/// The token in a response, under either of its two names.
pub(crate) fn token(bytes: &[u8]) -> Result<Option<String>, serde_json::Error> {
    let tokens: Tokens = serde_json::from_slice(bytes)?;
    Ok(tokens.token.or(tokens.access_token))
}

#[derive(Deserialize)]
struct Tokens {
    token: Option<String>,
    access_token: Option<String>,
}

/// The error response of a registry (OCI distribution specification, "Error codes").
#[derive(Deserialize)]
struct Refusal {
    errors: Vec<RefusalError>,
}

#[derive(Deserialize)]
struct RefusalError {
    #[serde(default)]
    code: String,
}

/// Whether a response is valid for the base of the distribution API (OCI distribution specification,
/// "Determining Support"): 200, or 401 with a challenge.
async fn speaks_distribution(response: RegistryResponse) -> bool {
    let headers = response.response.headers();
    let version = headers.get("docker-distribution-api-version");
    let named = version.is_some_and(|version| version.as_bytes().starts_with(b"registry/2"));
    match response.status() {
        StatusCode::UNAUTHORIZED => named || challenge(headers).is_some(),
        StatusCode::OK if named => true,
        StatusCode::OK => match whole(response, "greeting", HELLO_BYTES_MAX).await {
            Ok(body) => matches!(body.trim_ascii(), b"" | b"{}" | b"true"),
            Err(_) => false,
        },
        _ => false,
    }
}

/// The TLS configuration with the trusted certificates of an endpoint.
async fn trust(endpoint: &Endpoint) -> Result<Arc<tls::ClientConfig>, RequestError> {
    let tls = |error: tls::Error| RequestError::Protocol(error.to_string());
    if endpoint.insecure_skip_verify {
        return tls::insecure().map_err(tls);
    }
    let mut roots = Roots::of_machine().await;
    if let Some(path) = &endpoint.ca_file {
        let unreadable = |source| RequestError::Certificates {
            path: path.clone(),
            source,
        };
        let pem = tokio::fs::read(path).await.map_err(unreadable)?;
        let with = roots.with_pem(&pem);
        roots = with.map_err(|error| unreadable(io::Error::other(error)))?;
    }
    tls::trusting(roots).map_err(tls)
}

fn basic(username: &str, password: &str) -> Result<HeaderValue, RequestError> {
    let text = format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    );
    let value = HeaderValue::from_str(&text);
    let mut value = value.map_err(|error| RequestError::Protocol(error.to_string()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn bearer(token: &str) -> Result<HeaderValue, RequestError> {
    let value = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut value = value.map_err(|_| RequestError::Protocol("the token is none".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads a complete response of at most `limit` bytes.
async fn whole(
    mut response: RegistryResponse,
    document: &'static str,
    limit: u64,
) -> Result<Vec<u8>, RequestError> {
    let too_long = RequestError::TooLong { document, limit };
    if response.is_longer_than(limit) {
        return Err(too_long);
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.next().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > limit {
            return Err(too_long);
        }
    }
    Ok(bytes)
}

/// The error for a failed response.
async fn refusal(mut response: RegistryResponse) -> RequestError {
    let status = response.status();
    let mut bytes = Vec::new();
    // A truncated response is evaluated as far as it was read.
    while let Ok(Some(chunk)) = response.next().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > REFUSAL_BYTES_MAX {
            break;
        }
    }
    meaning(status, &bytes)
}

/// The error code in the body of an error response.
pub(crate) fn error_text(body: &[u8]) -> String {
    format!("{:?}", meaning(StatusCode::BAD_REQUEST, body))
}

fn meaning(status: StatusCode, body: &[u8]) -> RequestError {
    let errors = serde_json::from_slice::<Refusal>(body).map(|refusal| refusal.errors);
    let errors = errors.unwrap_or_default();
    let has_code = |codes: &[&str]| errors.iter().any(|e| codes.contains(&e.code.as_str()));
    let refused = status.is_client_error();
    match status {
        StatusCode::NOT_FOUND => return RequestError::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return RequestError::Unauthorized,
        _ if refused && has_code(&["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND"]) => {
            return RequestError::NotFound;
        }
        _ if refused && has_code(&["UNAUTHORIZED", "DENIED"]) => return RequestError::Unauthorized,
        _ => {}
    }
    let supported = |error: &RefusalError| CODES.iter().find(|code| **code == error.code);
    RequestError::Status {
        status,
        code: errors.iter().find_map(supported).copied(),
        passing: is_passing(status) || has_code(&["TOOMANYREQUESTS"]),
    }
}

/// Whether the failure is temporary, for instance because the registry is busy.
fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
    ) || status.is_server_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_two_lines_is_none() {
        bearer("a\nb").unwrap_err();
    }

    #[test]
    fn refusals_have_a_meaning() {
        let of = |status: u16, code: &str| {
            let body = format!(r#"{{"errors": [{{"code": "{code}", "message": "m"}}]}}"#);
            meaning(StatusCode::from_u16(status).unwrap(), body.as_bytes())
        };
        assert!(matches!(of(404, "X"), RequestError::NotFound));
        assert!(matches!(of(400, "NAME_UNKNOWN"), RequestError::NotFound));
        assert!(matches!(of(401, "X"), RequestError::Unauthorized));
        assert!(matches!(of(400, "DENIED"), RequestError::Unauthorized));
        assert!(of(429, "X").is_passing() && of(503, "NAME_UNKNOWN").is_passing());
        assert!(of(400, "TOOMANYREQUESTS").is_passing());
        let invalid = of(400, "NAME_INVALID");
        assert!(!invalid.is_passing());
        assert_eq!(
            invalid.to_string(),
            "it answered 400 Bad Request: NAME_INVALID"
        );
        // findings S19: nothing else of a response is reported.
        for body in [
            "secret",
            r#"{"errors": [{"code": "secret", "message": "secret"}]}"#,
        ] {
            let text = meaning(StatusCode::BAD_GATEWAY, body.as_bytes()).to_string();
            assert_eq!(text, "it answered 502 Bad Gateway");
        }
    }
}
