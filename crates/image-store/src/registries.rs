//! `registries.yaml`: which endpoints stand for a registry, and how to talk to them, in the
//! form that k3s made common.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::credentials::Credentials;

/// Mirrors, credentials and TLS settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistriesConfig {
    /// By registry host; `*` is for all others.
    pub mirrors: BTreeMap<String, Mirror>,
    /// By endpoint host.
    pub configs: BTreeMap<String, HostConfig>,
}

/// Endpoints asked instead of, and before, the registry itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mirror {
    /// Base addresses in order of preference (`http://127.0.0.1:5000`).
    #[serde(alias = "endpoints")]
    pub endpoint: Vec<String>,
}

/// How to talk to one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostConfig {
    /// Credentials.
    pub auth: Option<AuthConfig>,
    /// TLS.
    pub tls: Option<TlsConfig>,
}

/// Credentials of an endpoint.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Both, joined by a colon, in base64.
    pub auth: String,
    /// A token that is sent as it is.
    #[serde(alias = "identitytoken")]
    pub identity_token: String,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// TLS of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificates that sign the endpoint's, in PEM.
    pub ca_file: Option<PathBuf>,
    /// Believes any certificate.
    pub insecure_skip_verify: bool,
}

/// Why a file is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRegistries {
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is malformed, or says something that is not supported.
    #[error("registries file: {0}")]
    Malformed(String),
}

/// One place to ask for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Without TLS.
    pub plain_http: bool,
    /// Host, maybe with a port.
    pub host: String,
    /// Put before the repository, without slashes around it; may be empty.
    pub path_prefix: String,
    /// Stands for the registry that the image's name says, not for a mirror of it.
    pub is_origin: bool,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.plain_http { "http" } else { "https" };
        write!(f, "{scheme}://{}", self.host)?;
        match self.path_prefix.as_str() {
            "" => Ok(()),
            prefix => write!(f, "/{prefix}"),
        }
    }
}

impl RegistriesConfig {
    /// Reads a file; one that does not exist is empty.
    pub fn load(path: &Path) -> Result<RegistriesConfig, InvalidRegistries> {
        match std::fs::read_to_string(path) {
            Ok(text) => RegistriesConfig::parse(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(RegistriesConfig::default())
            }
            Err(source) => Err(InvalidRegistries::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<RegistriesConfig, InvalidRegistries> {
        let config: Option<RegistriesConfig> = serde_saphyr::from_str(text)
            .map_err(|error| InvalidRegistries::Malformed(error.to_string()))?;
        let config = config.unwrap_or_default();
        for address in config.mirrors.values().flat_map(|mirror| &mirror.endpoint) {
            parse_endpoint(address).map_err(InvalidRegistries::Malformed)?;
        }
        Ok(config)
    }

    /// Where to ask for an image of `registry`, in order: its mirrors, then itself.
    pub fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let mirror = self.mirrors.get(registry).or_else(|| self.mirrors.get("*"));
        let addresses = mirror
            .map(|mirror| mirror.endpoint.as_slice())
            .unwrap_or_default();
        let mut endpoints: Vec<Endpoint> = addresses
            .iter()
            .filter_map(|address| parse_endpoint(address).ok())
            .collect();
        let origin = Endpoint {
            plain_http: is_loopback(registry) && !self.has_tls(registry),
            host: match registry {
                "docker.io" => "registry-1.docker.io".to_owned(),
                other => other.to_owned(),
            },
            path_prefix: String::new(),
            is_origin: true,
        };
        for endpoint in &mut endpoints {
            endpoint.is_origin = endpoint.host == origin.host;
        }
        if !endpoints
            .iter()
            .any(|e| e.host == origin.host && e.path_prefix.is_empty())
        {
            endpoints.push(origin);
        }
        endpoints
    }

    /// Credentials that the file has for an endpoint.
    pub(crate) fn credentials(&self, endpoint: &Endpoint) -> Option<Credentials> {
        let auth = self.host(endpoint)?.auth.as_ref()?;
        Credentials::from_parts(
            &auth.username,
            &auth.password,
            &auth.auth,
            &auth.identity_token,
        )
    }

    pub(crate) fn tls(&self, endpoint: &Endpoint) -> TlsConfig {
        self.host(endpoint)
            .and_then(|host| host.tls.clone())
            .unwrap_or_default()
    }

    fn host(&self, endpoint: &Endpoint) -> Option<&HostConfig> {
        let spellings = [endpoint.to_string(), endpoint.host.clone()];
        let found = spellings.iter().find_map(|name| self.configs.get(name));
        // Docker's registry is known under its public name.
        let docker = (endpoint.host == "registry-1.docker.io").then_some("docker.io");
        found.or_else(|| docker.and_then(|name| self.configs.get(name)))
    }

    fn has_tls(&self, registry: &str) -> bool {
        self.configs
            .get(registry)
            .is_some_and(|host| host.tls.is_some())
    }
}

fn parse_endpoint(address: &str) -> Result<Endpoint, String> {
    let wrong = |reason| format!("endpoint {address:?} {reason}");
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (scheme, rest),
        None => ("https", address),
    };
    let plain_http = match scheme {
        "http" => true,
        "https" => false,
        _ => return Err(wrong("is neither http nor https")),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() || host.contains(['@', '?', '#', ' ']) {
        return Err(wrong("has no proper host"));
    }
    let path = path.trim_matches('/');
    // The version is part of each request anyway.
    let path = path.strip_prefix("v2").unwrap_or(path).trim_matches('/');
    let (host, path_prefix) = (host.to_owned(), path.to_owned());
    Ok(Endpoint {
        plain_http,
        host,
        path_prefix,
        is_origin: false,
    })
}

/// Registries on this machine have no certificates, as Docker and containerd assume too.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
mirrors:
  docker.io:
    endpoint:
      - "http://127.0.0.1:5000"
      - "https://mirror.example.com/v2/hub"
  "*":
    endpoint: ["https://cache.example.com"]
configs:
  "127.0.0.1:5000":
    auth: {username: me, password: secret}
  mirror.example.com:
    auth: {auth: bWU6aGlkZGVu}
    tls: {insecure_skip_verify: true, ca_file: /ca.pem}
"#;

    #[test]
    fn mirrors_come_first_and_the_registry_itself_last() {
        let config = RegistriesConfig::parse(FILE).unwrap();
        let shown = |registry: &str| {
            config
                .endpoints(registry)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            shown("docker.io"),
            [
                "http://127.0.0.1:5000",
                "https://mirror.example.com/hub",
                "https://registry-1.docker.io"
            ]
        );
        assert_eq!(
            shown("quay.io"),
            ["https://cache.example.com", "https://quay.io"]
        );
        let empty = RegistriesConfig::default();
        assert_eq!(
            empty.endpoints("localhost:5000")[0].to_string(),
            "http://localhost:5000"
        );
        assert_eq!(
            empty.endpoints("[::1]:5000")[0].to_string(),
            "http://[::1]:5000"
        );
    }

    #[test]
    fn credentials_belong_to_endpoints() {
        let config = RegistriesConfig::parse(FILE).unwrap();
        let endpoints = config.endpoints("docker.io");
        let basic = |user: &str, password: &str| {
            Some(Credentials::Basic {
                username: user.into(),
                password: password.into(),
            })
        };
        assert_eq!(config.credentials(&endpoints[0]), basic("me", "secret"));
        assert_eq!(config.credentials(&endpoints[1]), basic("me", "hidden"));
        assert_eq!(config.credentials(&endpoints[2]), None);
        assert!(config.tls(&endpoints[1]).insecure_skip_verify);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "mirrors: {docker.io: {endpoint: ['ftp://x']}}",
            "mirrors: {docker.io: {rewrite: {a: b}}}",
            "configs: {x: {tls: {cert_file: /c}}}",
            "mirors: {}",
        ] {
            assert!(RegistriesConfig::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            RegistriesConfig::parse("").unwrap(),
            RegistriesConfig::default()
        );
    }
}
