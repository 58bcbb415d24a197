//! Pulling from registries (OCI distribution specification): mirrors in order, digests checked,
//! layers downloaded to disk and unpacked once.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::TryStreamExt;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use sha2::{Digest as _, Sha256};

use crate::compression::decompressed;
use crate::digest::Digest;
use crate::index::{Image, Record};
use crate::manifest::{
    ACCEPTED, Blob, ConfigBlob, Manifest, architecture, for_this_platform, parse as parse_manifest,
};
use crate::reference::{InvalidReference, parse};
use crate::registries::{Endpoint, RegistriesConfig};
use crate::store::{ImageStore, StoreError, io_error};

/// Layers that are downloaded at the same time.
const DOWNLOADS_MAX: usize = 3;
/// The largest configuration that is read, in bytes.
const CONFIG_BYTES_MAX: u64 = 8 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A registry that sends nothing for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Attempts at one endpoint that fails for a passing reason: it is busy, the connection broke,
/// or a layer was cleared away by somebody else before the image had a name.
const ATTEMPTS: u32 = 3;
/// The wait before the second attempt; four times as long before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Who to be at a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Name and password.
    Basic {
        /// Name.
        username: String,
        /// Password.
        password: String,
    },
    /// A token.
    Bearer(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// Where to pull from, and as whom.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Mirrors and credentials of the machine.
    pub registries: RegistriesConfig,
    /// Credentials for the registry that the name names (pull secrets), tried in order.
    pub credentials: Vec<Credentials>,
}

/// Why an image was not pulled. The text goes to users, in a pod's events.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The name is malformed.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The registry has no such image.
    #[error("{reference}: not found at {host}")]
    NotFound {
        /// Full name of the image.
        reference: String,
        /// The registry that was asked.
        host: String,
    },
    /// The registry wants other credentials, or shows strangers nothing.
    #[error("{reference}: pull access denied at {host}: it may not exist, or needs a login")]
    Unauthorized {
        /// Full name of the image.
        reference: String,
        /// The registry that was asked.
        host: String,
    },
    /// The registry cannot be reached, or does not answer as one should.
    #[error("{reference}: {host} cannot be reached: {reason}")]
    Unreachable {
        /// Full name of the image.
        reference: String,
        /// The registry that was asked.
        host: String,
        /// What went wrong.
        reason: String,
    },
    /// What the registry sent is not what the digest says.
    #[error("{reference}: {host} sent data that does not match its digest {expected}")]
    DigestMismatch {
        /// Full name of the image.
        reference: String,
        /// The registry that was asked.
        host: String,
        /// The digest that was asked for.
        expected: String,
    },
    /// The image is for other machines.
    #[error("{reference}: no image for linux/{wanted}, only for {found}")]
    WrongPlatform {
        /// Full name of the image.
        reference: String,
        /// This machine's architecture.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// The registry's data makes no image.
    #[error("{reference}: {reason}")]
    Malformed {
        /// Full name of the image.
        reference: String,
        /// What is wrong.
        reason: String,
    },
    /// The image cannot be kept.
    #[error("{reference}: {source}")]
    Store {
        /// Full name of the image.
        reference: String,
        /// Why.
        #[source]
        source: StoreError,
    },
}

impl ImageStore {
    /// Pulls an image, whether or not one of that name is present. Pulls of one name wait for
    /// each other. An image that was made here has no registry: it is what it is.
    ///
    /// # Errors
    /// See [`PullError`]; nothing is changed then.
    pub async fn pull(&self, reference: &str, options: &PullOptions) -> Result<Image, PullError> {
        let reference = parse(reference)?;
        if let Some(image) = self.builtin(&reference.whole()) {
            return Ok(image);
        }
        let lock = self.pull_lock(&reference.whole());
        let _turn = lock.lock().await;
        let mut first_error = None;
        for endpoint in options.registries.endpoints(reference.registry()) {
            for credentials in candidates(&endpoint, &reference, &options.credentials) {
                let pull = Pull::new(self, &reference, &endpoint, credentials);
                let error = match pull {
                    Ok(pull) => match pull.run().await {
                        Ok(image) => return Ok(image),
                        Err(error) => error,
                    },
                    Err(error) => error,
                };
                tracing::debug!(%error, host = endpoint.host, "pull failed");
                let retry = matches!(error, PullError::Unauthorized { .. });
                keep_the_better(&mut first_error, error);
                if !retry {
                    break;
                }
            }
        }
        Err(first_error.unwrap_or_else(|| PullError::Malformed {
            reference: reference.whole(),
            reason: "no registry to ask".to_owned(),
        }))
    }
}

/// The registry that answered says more than one that could not be reached.
fn keep_the_better(kept: &mut Option<PullError>, error: PullError) {
    let silent = |error: &PullError| matches!(error, PullError::Unreachable { .. });
    match kept {
        Some(before) if !silent(before) || silent(&error) => {}
        _ => *kept = Some(error),
    }
}

/// As whom to ask an endpoint: as the file says, then with each pull secret, else as nobody. Pull
/// secrets are for the registry that the name names, and for no mirror of it.
fn candidates(
    endpoint: &Endpoint,
    reference: &Reference,
    secrets: &[Credentials],
) -> Vec<Option<Credentials>> {
    if let Some(credentials) = &endpoint.credentials {
        return vec![Some(credentials.clone())];
    }
    let is_own =
        endpoint.host == reference.registry() || endpoint.host == reference.resolve_registry();
    if is_own && !secrets.is_empty() {
        return secrets.iter().cloned().map(Some).collect();
    }
    vec![None]
}

/// One attempt at one endpoint.
struct Pull<'a> {
    store: &'a ImageStore,
    client: Client,
    auth: RegistryAuth,
    /// The full name.
    name: String,
    /// With the endpoint as its mirror.
    target: Reference,
    host: &'a str,
    /// The last failure was a passing one.
    passing: AtomicBool,
}

impl<'a> Pull<'a> {
    fn new(
        store: &'a ImageStore,
        reference: &Reference,
        endpoint: &'a Endpoint,
        credentials: Option<Credentials>,
    ) -> Result<Self, PullError> {
        let protocol = if endpoint.plain_http {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        };
        let extra_root_certificates = match &endpoint.ca_file {
            Some(path) => vec![certificate(path).map_err(|source| PullError::Store {
                reference: reference.whole(),
                source: io_error("read", path)(source),
            })?],
            None => Vec::new(),
        };
        let config = ClientConfig {
            protocol,
            extra_root_certificates,
            accept_invalid_certificates: endpoint.insecure_skip_verify,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("mainstay/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let auth = match credentials {
            None => RegistryAuth::Anonymous,
            Some(Credentials::Basic { username, password }) => {
                RegistryAuth::Basic(username, password)
            }
            Some(Credentials::Bearer(token)) => RegistryAuth::Bearer(token),
        };
        let mut target = reference.clone();
        if endpoint.host != target.resolve_registry() {
            target.set_mirror_registry(endpoint.host.clone());
        }
        Ok(Self {
            store,
            client: Client::new(config),
            auth,
            name: reference.whole(),
            target,
            host: &endpoint.host,
            passing: AtomicBool::new(false),
        })
    }

    /// Pulls, again if that may help; layers that are there already are not fetched again.
    async fn run(&self) -> Result<Image, PullError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            self.passing.store(false, Ordering::Relaxed);
            match self.attempt().await {
                Err(error) if self.passing.load(Ordering::Relaxed) => {
                    tracing::debug!(%error, host = self.host, "trying again");
                    tokio::time::sleep(pause).await;
                    pause *= 4;
                }
                result => return result,
            }
        }
        self.attempt().await
    }

    async fn attempt(&self) -> Result<Image, PullError> {
        let (digest, config, layers) = self.manifest().await?;
        let bytes = self.small_blob(&config).await?;
        let blob: ConfigBlob = serde_json::from_slice(&bytes)
            .map_err(|error| self.malformed(format!("malformed configuration: {error}")))?;
        if blob.os != "linux" || blob.architecture != architecture() {
            return Err(self.wrong_platform(&[format!("{}/{}", blob.os, blob.architecture)]));
        }
        if blob.rootfs.diff_ids.len() != layers.len() {
            return Err(self.malformed("configuration and manifest disagree on the layers"));
        }
        let mut work = Vec::new();
        for (layer, diff_id) in layers.iter().zip(&blob.rootfs.diff_ids) {
            let diff_id = Digest::parse(diff_id)
                .ok_or_else(|| self.malformed(format!("malformed layer digest {diff_id:?}")))?;
            work.push((layer.clone(), diff_id));
        }
        let sizes: Vec<u64> = futures::stream::iter(work.clone())
            .map(|(layer, diff_id)| self.layer(layer, diff_id))
            .buffered(DOWNLOADS_MAX)
            .try_collect()
            .await?;
        let record = Record {
            id: config.digest.to_string(),
            config: blob.config,
            layers: work
                .iter()
                .map(|(_, diff_id)| diff_id.hex().to_owned())
                .collect(),
            size: sizes.iter().sum(),
            fingerprint: None,
            pulled: true,
        };
        self.store
            .insert(&self.name, digest.as_str(), record)
            .map_err(|source| self.store_error(source))
    }

    /// The manifest for this machine: its digest, the configuration, the layers.
    async fn manifest(&self) -> Result<(Digest, Blob, Vec<Blob>), PullError> {
        let (digest, manifest) = self.document(&self.target).await?;
        match manifest {
            Manifest::Image { config, layers } => Ok((digest, config, layers)),
            Manifest::Index(entries) => {
                let entry =
                    for_this_platform(&entries).map_err(|found| self.wrong_platform(&found))?;
                let wanted = Digest::parse(&entry.digest).ok_or_else(|| {
                    self.malformed(format!("malformed digest {:?}", entry.digest))
                })?;
                let target = self.target.clone_with_digest(wanted.to_string());
                match self.document(&target).await? {
                    (digest, Manifest::Image { config, layers }) => Ok((digest, config, layers)),
                    (_, Manifest::Index(_)) => Err(self.malformed("an index of indexes")),
                }
            }
        }
    }

    async fn document(&self, target: &Reference) -> Result<(Digest, Manifest), PullError> {
        let (bytes, _) = self
            .client
            .pull_manifest_raw(target, &self.auth, ACCEPTED)
            .await
            .map_err(|error| self.remote(error))?;
        let digest = Digest::of(&bytes);
        if let Some(expected) = target.digest()
            && expected != digest.as_str()
        {
            return Err(self.mismatch(expected));
        }
        let manifest = parse_manifest(&bytes).map_err(|reason| self.malformed(reason))?;
        Ok((digest, manifest))
    }

    async fn small_blob(&self, blob: &Blob) -> Result<Vec<u8>, PullError> {
        if blob.size > CONFIG_BYTES_MAX {
            return Err(self.malformed("the configuration is larger than 8 MiB"));
        }
        let mut bytes = Vec::new();
        let mut stream = self.open(blob).await?;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| self.interrupted(&error))?;
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > CONFIG_BYTES_MAX {
                return Err(self.mismatch(blob.digest.as_str()));
            }
        }
        if Digest::of(&bytes) != blob.digest {
            return Err(self.mismatch(blob.digest.as_str()));
        }
        Ok(bytes)
    }

    /// Downloads a layer to disk, checks it, unpacks it. Returns its size as unpacked.
    async fn layer(&self, blob: Blob, diff_id: Digest) -> Result<u64, PullError> {
        if let Some(size) = self.store.layer_size(&diff_id) {
            return Ok(size);
        }
        let scratch = self
            .store
            .scratch()
            .map_err(|source| self.store_error(source))?;
        let result = self.download_and_unpack(&blob, &diff_id, &scratch).await;
        if let Err(error) = std::fs::remove_dir_all(&scratch) {
            tracing::warn!(path = %scratch.display(), %error, "scratch directory stays behind");
        }
        result
    }

    async fn download_and_unpack(
        &self,
        blob: &Blob,
        diff_id: &Digest,
        scratch: &Path,
    ) -> Result<u64, PullError> {
        let path: PathBuf = scratch.join("blob");
        let failed = |error| self.store_error(io_error("write", &path)(error));
        let mut file = File::create_new(&path).map_err(failed)?;
        let mut hasher = Sha256::new();
        let mut stream = self.open(blob).await?;
        let mut length = 0;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| self.interrupted(&error))?;
            length += chunk.len() as u64;
            if length > blob.size {
                return Err(self.mismatch(blob.digest.as_str()));
            }
            hasher.update(&chunk);
            file.write_all(&chunk).map_err(failed)?;
        }
        if Digest::finish(hasher) != blob.digest {
            return Err(self.mismatch(blob.digest.as_str()));
        }
        let (store, diff_id) = (self.store.clone(), diff_id.clone());
        let file = File::open(&path).map_err(failed)?;
        tokio::task::spawn_blocking(move || {
            let archive = decompressed(file).map_err(io_error("read", &path))?;
            store.add_layer(archive, &diff_id)
        })
        .await
        .map_err(|error| self.malformed(format!("unpacking failed: {error}")))?
        .map_err(|source| self.store_error(source))
    }

    async fn open(
        &self,
        blob: &Blob,
    ) -> Result<impl futures::Stream<Item = io::Result<bytes::Bytes>> + Unpin, PullError> {
        let descriptor = OciDescriptor {
            digest: blob.digest.to_string(),
            size: i64::try_from(blob.size).unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        };
        let sized = self
            .client
            .pull_blob_stream(&self.target, &descriptor)
            .await
            .map_err(|error| self.remote(error))?;
        Ok(sized.stream)
    }

    /// A stream that ends early; a wrong digest that the client library found comes this way too.
    fn interrupted(&self, error: &io::Error) -> PullError {
        let text = error.to_string();
        if text.to_lowercase().contains("digest") {
            return self.mismatch(&text);
        }
        self.passing.store(true, Ordering::Relaxed);
        PullError::Unreachable {
            reference: self.name.clone(),
            host: self.host.to_owned(),
            reason: text,
        }
    }

    fn remote(&self, error: OciDistributionError) -> PullError {
        let (reference, host) = (self.name.clone(), self.host.to_owned());
        self.passing.store(is_passing(&error), Ordering::Relaxed);
        match error {
            OciDistributionError::ImageManifestNotFoundError(_)
            | OciDistributionError::ServerError { code: 404, .. } => {
                PullError::NotFound { reference, host }
            }
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::ServerError {
                code: 401 | 403, ..
            } => PullError::Unauthorized { reference, host },
            OciDistributionError::RegistryError { envelope, .. }
                if envelope.errors.iter().any(|error| is_missing(&error.code)) =>
            {
                PullError::NotFound { reference, host }
            }
            OciDistributionError::RegistryError { envelope, .. }
                if envelope.errors.iter().any(|error| is_refusal(&error.code)) =>
            {
                PullError::Unauthorized { reference, host }
            }
            OciDistributionError::DigestError(error) => self.mismatch(&error.to_string()),
            error => PullError::Unreachable {
                reference,
                host,
                reason: chain(&error),
            },
        }
    }

    fn mismatch(&self, expected: &str) -> PullError {
        PullError::DigestMismatch {
            reference: self.name.clone(),
            host: self.host.to_owned(),
            expected: expected.to_owned(),
        }
    }

    fn malformed(&self, reason: impl Into<String>) -> PullError {
        PullError::Malformed {
            reference: self.name.clone(),
            reason: reason.into(),
        }
    }

    fn wrong_platform(&self, found: &[String]) -> PullError {
        PullError::WrongPlatform {
            reference: self.name.clone(),
            wanted: architecture().to_owned(),
            found: found.join(", "),
        }
    }

    fn store_error(&self, source: StoreError) -> PullError {
        let cleared = matches!(source, StoreError::LayerCleared { .. });
        self.passing.store(cleared, Ordering::Relaxed);
        PullError::Store {
            reference: self.name.clone(),
            source,
        }
    }
}

/// A refused connection or an unknown host is told at once; there may be another endpoint.
fn is_passing(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ServerError { code, .. } => matches!(code, 408 | 429 | 500..=599),
        OciDistributionError::RegistryError { envelope, .. } => {
            let busy = |code: &OciErrorCode| matches!(code, OciErrorCode::Toomanyrequests);
            envelope.errors.iter().any(|error| busy(&error.code))
        }
        OciDistributionError::RequestError(error) => !error.is_connect() && !error.is_builder(),
        _ => false,
    }
}

fn is_missing(code: &OciErrorCode) -> bool {
    matches!(
        code,
        OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound
    )
}

fn is_refusal(code: &OciErrorCode) -> bool {
    matches!(code, OciErrorCode::Unauthorized | OciErrorCode::Denied)
}

/// The error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn certificate(path: &Path) -> io::Result<Certificate> {
    Ok(Certificate {
        encoding: CertificateEncoding::Pem,
        data: std::fs::read(path)?,
    })
}
