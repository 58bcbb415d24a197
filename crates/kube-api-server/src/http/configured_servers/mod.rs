//! Connections to servers that users configure: webhooks and extension API servers. There is a pool of connections for
//! each trust and server name.

mod error;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response};
use object_model::dialling::{SpecialAddress, dialled};
use outbound_http::tls::{self, Roots};
use outbound_http::{Body, Pool, Proxies, Settings};
use tokio::time::Instant;

pub(crate) use self::error::CallError;
use crate::http::body::BoxBody;

/// Maximum number of pools. The pool that was not used for the longest time is dropped first.
const POOLS_MAX: usize = 64;

/// The time after which a pool is built again, so that changed authorities of this machine apply.
const AGE_MAX: Duration = Duration::from_secs(600);

/// The maximum time for a connection and its handshake. The time of a whole call is shorter or equal.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// The maximum time without a byte. It is longer than all calls with a time limit, so it applies to streams only.
const SILENCE_LIMIT: Duration = Duration::from_secs(3600);

/// The certificates that are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust<'a> {
    /// Certificates of the authorities of a `caBundle` (PEM in base64); if empty, of the authorities of this machine.
    Bundle(&'a str),
    /// All certificates (`insecureSkipTLSVerify`).
    Any,
}

/// The pools, with the client certificate of their connections.
#[derive(Default)]
pub(crate) struct ServerPools(Mutex<PoolsState>);

#[derive(Default)]
struct PoolsState {
    /// The entry that was used last is at the end.
    entries: Vec<PoolEntry>,
    identity: Option<Arc<ClientIdentity>>,
}

/// A client certificate and its key, as PEM.
struct ClientIdentity {
    certificate_pem: String,
    key_pem: String,
}

impl ClientIdentity {
    fn of_pem(&self) -> Result<tls::Identity, CallError> {
        let (certificate, key) = (self.certificate_pem.as_bytes(), self.key_pem.as_bytes());
        let identity = tls::Identity::of_pem(certificate, key);
        identity.map_err(|error| CallError::Trust(error.to_string()))
    }
}

struct PoolEntry {
    key: Key,
    pool: Pool<BoxBody>,
    created: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    /// `None` if all certificates are accepted.
    bundle: Option<Arc<str>>,
    server_name: Option<Arc<str>>,
}

impl ServerPools {
    /// Presents a client certificate on new connections. Open connections end with their requests.
    pub(crate) fn present(&self, certificate_pem: &str, key_pem: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.entries.clear();
        state.identity = Some(Arc::new(ClientIdentity {
            certificate_pem: certificate_pem.to_owned(),
            key_pem: key_pem.to_owned(),
        }));
    }

    /// Sends a request to the server of its URL. `server_name` is the name in the certificate, if it is not the host of
    /// the URL.
    ///
    /// *Errors.* There is no connection, or it ended before the response.
    pub(crate) async fn exchange(
        &self,
        trust: Trust<'_>,
        server_name: Option<&str>,
        request: Request<BoxBody>,
    ) -> Result<Response<Body>, CallError> {
        let pool = self.get(trust, server_name).await?;
        let response = pool.request(request).await;
        response.map_err(|error| CallError::exchange_failed(&error))
    }

    /// The pool for a trust and a server name.
    ///
    /// *Errors.* The bundle is malformed.
    async fn get(
        &self,
        trust: Trust<'_>,
        server_name: Option<&str>,
    ) -> Result<Pool<BoxBody>, CallError> {
        let key = Key {
            bundle: match trust {
                Trust::Bundle(bundle) => Some(bundle.into()),
                Trust::Any => None,
            },
            server_name: server_name.map(Arc::from),
        };
        let (pool, identity) = self.existing(&key);
        if let Some(pool) = pool {
            return Ok(pool);
        }
        let trust = match trust {
            Trust::Bundle("") => tls::Trust::Roots(Roots::of_machine().await),
            Trust::Bundle(bundle) => tls::Trust::Roots(authorities(bundle)?),
            Trust::Any => tls::Trust::AnyServer,
        };
        let presented = identity.as_ref().map(|identity| identity.of_pem());
        let tls = tls::client(trust, presented.transpose()?);
        let pool = Pool::new(Settings {
            connect_limit: CONNECT_LIMIT,
            silence_limit: SILENCE_LIMIT,
            tls: tls.map_err(|error| CallError::Trust(error.to_string()))?,
            server_name: server_name.map(str::to_owned),
            http2: true,
            proxies: Proxies::None,
            allows: Arc::new(|host, ip| refused(host, ip).is_none()),
        });
        self.add(key, pool.clone(), identity.as_ref());
        Ok(pool)
    }

    /// The pool for a key, and the identity for a new pool.
    fn existing(&self, key: &Key) -> (Option<Pool<BoxBody>>, Option<Arc<ClientIdentity>>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = state.identity.clone();
        let entries = &mut state.entries;
        let Some(index) = entries.iter().position(|entry| entry.key == *key) else {
            return (None, identity);
        };
        let entry = entries.remove(index);
        if entry.created.elapsed() > AGE_MAX {
            return (None, identity);
        }
        let pool = entry.pool.clone();
        entries.push(entry);
        (Some(pool), identity)
    }

    /// Keeps a pool for further requests, unless another identity was set since.
    fn add(&self, key: Key, pool: Pool<BoxBody>, identity: Option<&Arc<ClientIdentity>>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = match (identity, &state.identity) {
            (Some(identity), Some(current)) => Arc::ptr_eq(identity, current),
            (None, None) => true,
            _ => false,
        };
        if !is_current {
            return;
        }
        let entries = &mut state.entries;
        entries.retain(|entry| entry.key != key);
        if entries.len() >= POOLS_MAX {
            entries.remove(0);
        }
        entries.push(PoolEntry {
            key,
            pool,
            created: Instant::now(),
        });
    }
}

/// The reason why an address of a host is not called. A URL with a loopback address or `localhost` is allowed; another
/// host name that resolves to an address of this machine is refused.
pub(crate) fn refused(host: &str, ip: IpAddr) -> Option<SpecialAddress> {
    let is_literal_local = host == "localhost" || host.parse::<IpAddr>().is_ok();
    match dialled(ip) {
        Ok(_) => None,
        Err(SpecialAddress::Loopback) if is_literal_local => None,
        Err(special) => {
            cov_mark::hit!(findings_s15_webhooks);
            Some(special)
        }
    }
}

/// The authorities of a `caBundle`.
pub(crate) fn authorities(bundle: &str) -> Result<Roots, CallError> {
    let pem = STANDARD.decode(bundle);
    let pem = pem.map_err(|error| CallError::Bundle(error.to_string()))?;
    let roots = Roots::none().with_pem(&pem);
    roots.map_err(|error| CallError::Bundle(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pools_are_shared_by_trust_and_name_and_bounded() {
        let pools = ServerPools::default();
        for name in ["a", "b", "a"] {
            pools.get(Trust::Any, Some(name)).await.unwrap();
        }
        let count = || pools.0.lock().unwrap().entries.len();
        assert_eq!(count(), 2);
        for number in 0..2 * POOLS_MAX {
            let name = format!("n{number}");
            pools.get(Trust::Any, Some(&name)).await.unwrap();
            pools.get(Trust::Any, Some("a")).await.unwrap();
        }
        assert_eq!(count(), POOLS_MAX);
        let keys = pools.0.lock().unwrap();
        assert_eq!(
            keys.entries.last().unwrap().key.server_name.as_deref(),
            Some("a")
        );
    }

    #[tokio::test]
    async fn a_malformed_bundle_is_an_error() {
        let pools = ServerPools::default();
        let error = pools.get(Trust::Bundle("%"), None).await.err().unwrap();
        assert!(error.to_string().starts_with("caBundle: "), "{error}");
    }
}
