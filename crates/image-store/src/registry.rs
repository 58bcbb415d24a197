//! One endpoint of a registry, through `oci-client`, with our own words for what fails.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use sha2::{Digest as _, Sha256};

use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::limits::{ATTEMPTS, CONNECT_SECONDS, DOCUMENT_BYTES_MAX, FIRST_RETRY_MS, READ_SECONDS};
use crate::manifest::{ACCEPTED, Descriptor};
use crate::reference::Reference;
use crate::registries::{Endpoint, TlsConfig};

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    NotFound,
    Unauthorized(String),
    Unreachable(String),
    /// The registry is overloaded or hiccuped: worth another attempt.
    Passing(String),
    Mismatch {
        what: String,
        expected: String,
        found: String,
    },
    Other(String),
    /// The node's own disk.
    Disk(String),
}

/// An endpoint, ready to be asked for one repository.
pub(crate) struct Remote {
    client: oci_client::Client,
    host: String,
    repository: String,
    auth: RegistryAuth,
}

impl Remote {
    pub fn new(
        endpoint: &Endpoint,
        tls: &TlsConfig,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Remote, Fault> {
        let mut config = ClientConfig {
            protocol: match endpoint.plain_http {
                true => ClientProtocol::Http,
                false => ClientProtocol::Https,
            },
            accept_invalid_certificates: tls.insecure_skip_verify,
            connect_timeout: Some(Duration::from_secs(CONNECT_SECONDS)),
            read_timeout: Some(Duration::from_secs(READ_SECONDS)),
            user_agent: concat!("mainstay/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        if let Some(path) = &tls.ca_file {
            let data = std::fs::read(path)
                .map_err(|error| Fault::Other(format!("read {}: {error}", path.display())))?;
            let encoding = CertificateEncoding::Pem;
            config.extra_root_certificates = vec![Certificate { encoding, data }];
        }
        let repository = match endpoint.path_prefix.as_str() {
            "" => reference.repository().to_owned(),
            prefix => format!("{prefix}/{}", reference.repository()),
        };
        // `Client::new` falls back to defaults when it does not like a setting.
        let client = oci_client::Client::try_from(config).map_err(fault)?;
        let auth = match credentials {
            None => RegistryAuth::Anonymous,
            Some(Credentials::Basic { username, password }) => {
                RegistryAuth::Basic(username.clone(), password.clone())
            }
            Some(Credentials::Bearer(token)) => RegistryAuth::Bearer(token.clone()),
        };
        Ok(Remote {
            client,
            host: endpoint.host.clone(),
            repository,
            auth,
        })
    }

    /// Fetches a manifest or index, by digest where one is known.
    pub async fn manifest(
        &self,
        tag: Option<&str>,
        digest: Option<&Digest>,
    ) -> Result<Vec<u8>, Fault> {
        let (host, repository) = (self.host.clone(), self.repository.clone());
        let name = match (digest, tag) {
            (Some(digest), _) => {
                oci_client::Reference::with_digest(host, repository, digest.to_string())
            }
            (None, tag) => {
                let tag = tag.unwrap_or("latest").to_owned();
                oci_client::Reference::with_tag(host, repository, tag)
            }
        };
        let bytes = retried(async || {
            let answer = self
                .client
                .pull_manifest_raw(&name, &self.auth, ACCEPTED)
                .await;
            Ok(answer.map_err(fault)?.0.to_vec())
        })
        .await?;
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(Fault::Other("its manifest is too large".to_owned()));
        }
        check("manifest", digest, Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// Fetches a small blob into memory.
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Fault> {
        retried(async || {
            let mut bytes = Vec::new();
            let found = self
                .stream(descriptor, DOCUMENT_BYTES_MAX, &mut bytes)
                .await?;
            check("configuration", Some(&descriptor.digest), found)?;
            Ok(bytes)
        })
        .await
    }

    /// Fetches a layer into a file.
    pub async fn layer(&self, descriptor: &Descriptor, to: &Path) -> Result<(), Fault> {
        retried(async || {
            let mut file = File::create(to).map_err(disk)?;
            // Registries and manifests without a size exist; the disk is the bound then.
            let max = if descriptor.size == 0 {
                u64::MAX
            } else {
                descriptor.size
            };
            let found = self.stream(descriptor, max, &mut file).await?;
            check("layer", Some(&descriptor.digest), found)
        })
        .await
    }

    async fn stream(
        &self,
        descriptor: &Descriptor,
        bytes_max: u64,
        to: &mut (impl Write + Send),
    ) -> Result<Digest, Fault> {
        let name = oci_client::Reference::with_digest(
            self.host.clone(),
            self.repository.clone(),
            descriptor.digest.to_string(),
        );
        self.client
            .store_auth_if_needed(&self.host, &self.auth)
            .await;
        let wanted = OciDescriptor {
            digest: descriptor.digest.to_string(),
            size: i64::try_from(descriptor.size).unwrap_or(0),
            media_type: descriptor.media_type.clone(),
            ..OciDescriptor::default()
        };
        let mut stream = self
            .client
            .pull_blob_stream(&name, &wanted)
            .await
            .map_err(fault)?;
        let (mut hasher, mut total) = (Sha256::new(), 0);
        while let Some(chunk) = stream.stream.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                // The client compares digests too; ours tells what was found.
                Err(error) if is_digest_error(&error) => break,
                Err(error) => return Err(Fault::Passing(format!("read a blob: {error}"))),
            };
            total += chunk.len() as u64;
            if total > bytes_max {
                return Err(Fault::Other(format!(
                    "{} is larger than the {bytes_max} bytes it should have",
                    descriptor.digest
                )));
            }
            hasher.update(&chunk);
            to.write_all(&chunk).map_err(disk)?;
        }
        to.flush().map_err(disk)?;
        Ok(Digest::from_hasher(hasher))
    }
}

fn is_digest_error(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| {
        inner.is::<oci_client::errors::DigestError>()
            || inner
                .downcast_ref::<OciDistributionError>()
                .is_some_and(|error| matches!(error, OciDistributionError::DigestError(_)))
    })
}

fn disk(error: std::io::Error) -> Fault {
    Fault::Disk(error.to_string())
}

fn check(what: &str, expected: Option<&Digest>, found: Digest) -> Result<(), Fault> {
    match expected {
        Some(expected) if *expected != found => Err(Fault::Mismatch {
            what: what.to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
        }),
        _ => Ok(()),
    }
}

/// Repeats what fails for a passing reason, with growing pauses.
async fn retried<T>(attempt: impl AsyncFn() -> Result<T, Fault>) -> Result<T, Fault> {
    let mut pause = Duration::from_millis(FIRST_RETRY_MS);
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(Fault::Passing(reason)) => {
                tracing::debug!(reason, "trying again");
                tokio::time::sleep(pause).await;
                pause *= 4;
            }
            other => return other,
        }
    }
    attempt().await
}

fn fault(error: OciDistributionError) -> Fault {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => Fault::NotFound,
        OciDistributionError::UnauthorizedError { .. } => {
            Fault::Unauthorized("authorization failed".to_owned())
        }
        OciDistributionError::AuthenticationFailure(reason) => {
            Fault::Unauthorized(reason.trim().to_owned())
        }
        OciDistributionError::RegistryError { ref envelope, .. } => {
            let first = envelope.errors.first();
            let text = first
                .map(|error| error.message.clone())
                .filter(|text| !text.is_empty());
            let text = text.unwrap_or_else(|| error.to_string());
            match first.map(|error| &error.code) {
                Some(
                    OciErrorCode::ManifestUnknown
                    | OciErrorCode::NameUnknown
                    | OciErrorCode::NotFound
                    | OciErrorCode::BlobUnknown,
                ) => Fault::NotFound,
                Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => {
                    Fault::Unauthorized(text)
                }
                Some(OciErrorCode::Toomanyrequests) => Fault::Passing(text),
                _ => Fault::Other(text),
            }
        }
        OciDistributionError::ServerError {
            code, ref message, ..
        } => {
            let text = format!("the registry answered {code} {}", message.trim());
            match code {
                404 => Fault::NotFound,
                401 | 403 => Fault::Unauthorized(text),
                408 | 429 | 500..=599 => Fault::Passing(text),
                _ => Fault::Other(text),
            }
        }
        OciDistributionError::DigestError(error) => Fault::Mismatch {
            what: "manifest".to_owned(),
            expected: "what the registry says".to_owned(),
            found: error.to_string(),
        },
        OciDistributionError::RequestError(error) => {
            let text = chain(&error);
            match error.is_connect() || error.is_timeout() {
                true => Fault::Unreachable(text),
                false => Fault::Passing(text),
            }
        }
        other => Fault::Other(chain(&other)),
    }
}

/// An error with all that is behind it, each thing once.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
