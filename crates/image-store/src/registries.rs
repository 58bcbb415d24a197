//! `registries.yaml`: mirrors and credentials, in the format of k3s.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use object_model::yaml_error;
use serde::Deserialize;

use crate::credentials::Credentials;

#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// The file cannot be read.
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file is malformed, or has unknown settings.
    #[error("parse {path}: {reason}")]
    Parse { path: PathBuf, reason: String },
}

/// The endpoints and credentials of registries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistriesConfig {
    mirrors: BTreeMap<String, Mirror>,
    configs: BTreeMap<String, Host>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Mirror {
    endpoint: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Host {
    auth: Option<Auth>,
    tls: Option<Tls>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Auth {
    username: String,
    password: String,
    token: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tls {
    ca_file: Option<PathBuf>,
    insecure_skip_verify: bool,
}

/// A registry server that is tried for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The registry's host, with `:port` if the port is not the default.
    pub host: String,
    /// Whether HTTP is used without TLS.
    pub plain_http: bool,
    /// Whether the certificate is not verified.
    pub insecure_skip_verify: bool,
    /// An additional certificate authority to trust.
    pub ca_file: Option<PathBuf>,
    /// Whether the registries file names the endpoint.
    pub configured: bool,
    pub credentials: Option<Credentials>,
}

impl RegistriesConfig {
    /// Reads a file. A missing file is like an empty one.
    ///
    /// # Errors
    /// The file cannot be read or parsed.
    pub fn read(path: &Path) -> Result<Self, RegistriesError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map_err(|error| RegistriesError::Parse {
                path: path.to_owned(),
                reason: yaml_error::in_text(&error),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(RegistriesError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn parse(text: &str) -> Result<Self, serde_saphyr::Error> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text)
    }

    /// The endpoints to try for a registry: its mirrors in their order, then the registry itself.
    pub(crate) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let mirror = self.mirrors.get(registry).or_else(|| self.mirrors.get("*"));
        let mut endpoints: Vec<Endpoint> = mirror
            .iter()
            .flat_map(|mirror| &mirror.endpoint)
            .map(|url| self.endpoint(url))
            .collect();
        let registry_endpoint = if is_loopback(registry) {
            self.endpoint(&format!("http://{registry}"))
        } else {
            self.endpoint(&format!("https://{}", api_host(registry)))
        };
        if endpoints
            .iter()
            .all(|endpoint| endpoint.host != registry_endpoint.host)
        {
            endpoints.push(registry_endpoint);
        }
        endpoints
    }

    /// Whether the file configures a registry, or names it as a mirror.
    fn names(&self, host: &str) -> bool {
        let urls = self.mirrors.values().flat_map(|mirror| &mirror.endpoint);
        self.mirrors.contains_key(host)
            || urls.map(|url| host_of(url).1).any(|mirror| mirror == host)
    }

    fn endpoint(&self, url: &str) -> Endpoint {
        let (plain_http, host) = host_of(url);
        let host = host.to_owned();
        let config = self.configs.get(&host).or_else(|| {
            let name = host.split(':').next().unwrap_or(&host);
            self.configs.get(name)
        });
        let tls = config
            .and_then(|config| config.tls.clone())
            .unwrap_or_default();
        Endpoint {
            plain_http,
            insecure_skip_verify: tls.insecure_skip_verify,
            ca_file: tls.ca_file,
            configured: config.is_some() || self.names(&host),
            credentials: config
                .and_then(|config| config.auth.as_ref())
                .map(Auth::credentials),
            host,
        }
    }
}

impl Auth {
    fn credentials(&self) -> Credentials {
        if self.token.is_empty() {
            Credentials::Basic {
                username: self.username.clone(),
                password: self.password.clone(),
            }
        } else {
            Credentials::Bearer(self.token.clone())
        }
    }
}

/// Whether a URL uses plain HTTP, and its host.
fn host_of(url: &str) -> (bool, &str) {
    let (plain_http, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (scheme == "http", rest),
        None => (false, url),
    };
    (
        plain_http,
        rest.trim_end_matches('/').trim_end_matches("/v2"),
    )
}

/// The host of a registry's API. Docker Hub's API has another host than its name.
fn api_host(registry: &str) -> &str {
    if registry == "docker.io" {
        "index.docker.io"
    } else {
        registry
    }
}

/// Whether a registry is on this machine. Such a registry uses plain HTTP, as in Docker.
fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(config: &RegistriesConfig, registry: &str) -> Vec<(String, bool)> {
        config
            .endpoints(registry)
            .into_iter()
            .map(|e| (e.host, e.plain_http))
            .collect()
    }

    #[test]
    fn mirrors_come_first_and_the_registry_last() {
        let text = "mirrors:\n  docker.io:\n    endpoint: [\"http://127.0.0.1:5000\", \"https://m.example/v2\"]\n";
        let config = RegistriesConfig::parse(text).unwrap();
        assert_eq!(
            hosts(&config, "docker.io"),
            [
                ("127.0.0.1:5000".to_owned(), true),
                ("m.example".to_owned(), false),
                ("index.docker.io".to_owned(), false)
            ]
        );
        assert_eq!(
            hosts(&config, "quay.example"),
            [("quay.example".to_owned(), false)]
        );
        assert_eq!(
            hosts(&config, "localhost:5000"),
            [("localhost:5000".to_owned(), true)]
        );
    }

    #[test]
    fn credentials_belong_to_a_host() {
        let text = "configs:\n  m.example:\n    auth: {username: u, password: p}\n    tls: {insecure_skip_verify: true}\n";
        let config = RegistriesConfig::parse(text).unwrap();
        let endpoint = &config.endpoints("m.example:8443")[0];
        let expected = Credentials::Basic {
            username: "u".into(),
            password: "p".into(),
        };
        assert_eq!(endpoint.credentials, Some(expected));
        assert!(endpoint.insecure_skip_verify);
        assert_eq!(config.endpoints("other.example")[0].credentials, None);
    }

    /// findings S19
    #[test]
    fn what_the_file_names_in_any_way_is_configured() {
        let text = "mirrors:\n  docker.io: {endpoint: [\"http://127.0.0.1:1\"]}\n  \"127.0.0.1:2\": {}\nconfigs:\n  127.0.0.1:3: {}\n";
        let config = RegistriesConfig::parse(text).unwrap();
        let configured = |registry: &str| {
            let all = config.endpoints(registry).into_iter();
            all.map(|endpoint| endpoint.configured).collect::<Vec<_>>()
        };
        for port in 1..4 {
            assert_eq!(configured(&format!("127.0.0.1:{port}")), [true]);
        }
        assert_eq!(configured("127.0.0.1:4"), [false]);
        assert_eq!(configured("docker.io"), [true, false]);
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        assert!(RegistriesConfig::parse("mirrors:\n  x: {endpoints: []}\n").is_err());
    }
}
