//! Pulling: endpoints and credentials in order, manifest, configuration, layers.

use std::fs::File;
use std::sync::Arc;

use futures::future::try_join_all;

use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::disk::Record;
use crate::error::{PullError, StoreError};
use crate::image::Image;
use crate::import::layer_error;
use crate::manifest::{self, Descriptor, Document, Manifest, Platform};
use crate::reference::Reference;
use crate::registries::{Endpoint, RegistriesConfig};
use crate::registry::{Fault, Remote};
use crate::store::{Inner, blocking};

/// Where and as whom to pull.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Mirrors, TLS and the node's own credentials.
    pub registries: RegistriesConfig,
    /// The pod's credentials for the image's registry (see
    /// [`credentials_for`](crate::credentials_for)), tried in order before the node's. They
    /// are never shown to a mirror.
    pub auth: Vec<Credentials>,
}

pub(crate) async fn pull(
    inner: &Arc<Inner>,
    reference: &str,
    options: &PullOptions,
) -> Result<Image, PullError> {
    let reference: Reference = reference.parse()?;
    let image = reference.to_string();
    let gate = inner.gates.gate(&image);
    let _only = gate.lock().await;
    let disk = inner.disk.clone();
    let lock = blocking(move || disk.lock_shared()).await;
    let _lock = lock.map_err(|source| PullError::Store {
        image: image.clone(),
        source,
    })?;
    let mut attempts = Vec::new();
    for endpoint in options.registries.endpoints(reference.registry()) {
        let puller = Puller {
            inner,
            reference: &reference,
            image: &image,
        };
        match puller.pull_from(&endpoint, options).await {
            Ok(image) => return Ok(image),
            // Another endpoint has the same disk.
            Err(error @ PullError::Store { .. }) => return Err(error),
            Err(error) => {
                tracing::debug!(image, %endpoint, %error, "endpoint failed");
                attempts.push((endpoint, error));
            }
        }
    }
    Err(most_telling(&image, attempts))
}

/// The error that helps most, of those of all endpoints: rather "not found" on a mirror than
/// "unreachable" of a registry that this machine never meant to reach.
fn most_telling(image: &str, attempts: Vec<(Endpoint, PullError)>) -> PullError {
    let rank = |error: &PullError| match error {
        PullError::Unreachable { .. } => 0,
        PullError::NotFound { .. } => 1,
        PullError::Registry { .. } => 2,
        PullError::Unauthorized { .. } => 3,
        _ => 4,
    };
    let list = |wanted: u8, text: &dyn Fn(&Endpoint, &PullError) -> String| {
        let same = attempts.iter().filter(|(_, error)| rank(error) == wanted);
        same.map(|(endpoint, error)| text(endpoint, error))
            .collect::<Vec<_>>()
            .join("; ")
    };
    let image = image.to_owned();
    match attempts.iter().map(|(_, error)| rank(error)).max() {
        Some(0) => {
            let reason = list(0, &|endpoint, error| match error {
                PullError::Unreachable { reason, .. } => format!("{endpoint}: {reason}"),
                other => other.to_string(),
            });
            PullError::Unreachable { image, reason }
        }
        Some(1) => {
            let asked = list(1, &|endpoint, _| endpoint.to_string());
            PullError::NotFound { image, asked }
        }
        highest => {
            let mut attempts = attempts.into_iter().map(|(_, error)| error);
            let found = attempts.find(|error| Some(rank(error)) == highest);
            let reason = "no registry to ask".to_owned();
            found.unwrap_or(PullError::Unreachable { image, reason })
        }
    }
}

struct Puller<'a> {
    inner: &'a Arc<Inner>,
    reference: &'a Reference,
    image: &'a str,
}

impl Puller<'_> {
    async fn pull_from(
        &self,
        endpoint: &Endpoint,
        options: &PullOptions,
    ) -> Result<Image, PullError> {
        let mut credentials = Vec::new();
        if endpoint.is_origin {
            credentials.extend(options.auth.iter().cloned().map(Some));
        }
        credentials.extend(options.registries.credentials(endpoint).map(Some));
        credentials.push(None);
        let tls = options.registries.tls(endpoint);
        let mut refused = None;
        for credentials in credentials {
            let remote = Remote::new(endpoint, &tls, self.reference, credentials.as_ref())
                .map_err(|fault| self.error(fault))?;
            match self.pull_with(&remote).await {
                // What the first, the most particular, credentials were told counts.
                Err(error @ PullError::Unauthorized { .. }) => {
                    refused.get_or_insert(error);
                }
                other => return other,
            }
        }
        Err(refused.unwrap_or_else(|| self.error(Fault::Unauthorized(String::new()))))
    }

    async fn pull_with(&self, remote: &Remote) -> Result<Image, PullError> {
        let fault = |fault| self.error(fault);
        let asked = self.reference.parsed_digest();
        let top = remote
            .manifest(self.reference.tag(), asked)
            .await
            .map_err(fault)?;
        let (bytes, manifest) = self.choose(remote, &top).await?;
        let config = remote.document(&manifest.config).await.map_err(fault)?;
        let configuration = manifest::parse_configuration(&config, manifest.layers.len())
            .map_err(|reason| self.bad(reason))?;
        self.check_platform(&configuration.os, &configuration.architecture)?;
        let pairs = manifest.layers.iter().zip(configuration.diff_ids());
        let layers = pairs.map(|(descriptor, diff_id)| self.layer(remote, descriptor, diff_id));
        let sizes = try_join_all(layers).await?;
        let mut digests = vec![format!("{}@{}", self.reference.name(), Digest::of(&top))];
        let own = format!("{}@{}", self.reference.name(), Digest::of(&bytes));
        if !digests.contains(&own) {
            digests.push(own);
        }
        let record = Record {
            reference: self.image.to_owned(),
            id: manifest.config.digest.clone(),
            manifest: Some(Digest::of(&bytes)),
            digests,
            layers: configuration.diff_ids().to_vec(),
            size: sizes.iter().sum(),
        };
        let disk = self.inner.disk.clone();
        let image = blocking(move || {
            disk.put_blob(&bytes)?;
            disk.put_blob(&config)?;
            disk.write_record(&record)?;
            Ok(disk.image(&record))
        })
        .await;
        let image = image.map_err(|source| self.store_error(source))?;
        image.ok_or_else(|| self.bad("it cannot be read back".to_owned()))
    }

    /// Goes from an index to the manifest for this machine.
    async fn choose(&self, remote: &Remote, top: &[u8]) -> Result<(Vec<u8>, Manifest), PullError> {
        let parse = |bytes: &[u8]| manifest::parse(bytes).map_err(|reason| self.bad(reason));
        let manifests = match parse(top)? {
            Document::Manifest(manifest) => return Ok((top.to_vec(), manifest)),
            Document::Index(manifests) => manifests,
        };
        let architecture = manifest::this_architecture();
        let chosen = manifest::choose(&manifests, architecture)
            .map_err(|available| self.wrong_platform(available))?;
        let bytes = remote.manifest(None, Some(&chosen.digest)).await;
        let bytes = bytes.map_err(|fault| self.error(fault))?;
        match parse(&bytes)? {
            Document::Manifest(manifest) => Ok((bytes, manifest)),
            Document::Index(_) => Err(self.bad("its index contains an index".to_owned())),
        }
    }

    /// Makes sure a layer is unpacked; gives its bytes.
    async fn layer(
        &self,
        remote: &Remote,
        descriptor: &Descriptor,
        diff_id: &Digest,
    ) -> Result<u64, PullError> {
        let gate = self.inner.gates.gate(diff_id.hex());
        let _only = gate.lock().await;
        if let Some(bytes) = self.inner.disk.layer_bytes(diff_id) {
            return Ok(bytes);
        }
        // The semaphore is never closed.
        let _slot = self.inner.slots.acquire().await.ok();
        let temporary = self.inner.disk.temporary();
        let fetched = remote.layer(descriptor, temporary.path()).await;
        fetched.map_err(|fault| self.error(fault))?;
        let (disk, diff_id) = (self.inner.disk.clone(), diff_id.clone());
        let added = blocking(move || {
            let file =
                File::open(temporary.path()).map_err(StoreError::io("open", temporary.path()))?;
            disk.add_layer(&diff_id, file)
        })
        .await;
        added.map_err(|error| layer_error(self.image, error))
    }

    fn check_platform(&self, os: &str, architecture: &str) -> Result<(), PullError> {
        check_platform(os, architecture).map_err(|available| self.wrong_platform(available))
    }

    fn wrong_platform(&self, available: String) -> PullError {
        wrong_platform(self.image, available)
    }

    fn bad(&self, reason: String) -> PullError {
        PullError::BadImage {
            image: self.image.to_owned(),
            reason,
        }
    }

    fn store_error(&self, source: StoreError) -> PullError {
        PullError::Store {
            image: self.image.to_owned(),
            source,
        }
    }

    fn error(&self, fault: Fault) -> PullError {
        let image = self.image.to_owned();
        match fault {
            Fault::NotFound => PullError::NotFound {
                image,
                asked: String::new(),
            },
            Fault::Unauthorized(reason) => PullError::Unauthorized { image, reason },
            Fault::Unreachable(reason) => PullError::Unreachable { image, reason },
            Fault::Passing(reason) | Fault::Other(reason) => PullError::Registry { image, reason },
            Fault::Mismatch {
                what,
                expected,
                found,
            } => PullError::DigestMismatch {
                image,
                what,
                expected,
                found,
            },
            Fault::Disk(reason) => {
                let source = std::io::Error::other(reason);
                self.store_error(StoreError::io("write", "a downloaded layer")(source))
            }
        }
    }
}

/// Images that do not say what they are for are believed to be for this machine.
pub(crate) fn check_platform(os: &str, architecture: &str) -> Result<(), String> {
    let is = Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: None,
    };
    let fits = (os.is_empty() || os == "linux")
        && (architecture.is_empty() || architecture == manifest::this_architecture());
    if fits {
        Ok(())
    } else {
        Err(format!("{}/{}", is.os, is.architecture))
    }
}

pub(crate) fn wrong_platform(image: &str, available: String) -> PullError {
    let wanted = format!("linux/{}", manifest::this_architecture());
    PullError::WrongPlatform {
        image: image.to_owned(),
        wanted,
        available,
    }
}
