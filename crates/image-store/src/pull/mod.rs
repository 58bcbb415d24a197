//! Pulls from registries (OCI distribution specification): mirrors are tried in order, digests are checked,
//! layers are downloaded to disk and unpacked once.

mod challenge;
mod client;
mod document;
mod error;
mod reach;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use host_kernel::{block_in_place, blocking_value};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;

use crate::access::{ImageUsers, PullSecret};
use crate::compression::decompressed;
use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::disk_space::{KeepFree, WriteSpace};
use crate::index::{Image, ImageRecord};
use crate::layers::{Settled, layer_name};
use crate::manifest::{Blob, architecture};
use crate::reference::{Reference, parse};
use crate::registries::{Endpoint, RegistriesConfig};
use crate::stall_detector::{MinimumSpeed, Observer, PullProgress, TooSlow};
use crate::store::{ImageStore, StoreError, io_error, space_error};

pub(crate) use challenge::meets;
use client::{RegistryClient, RequestError};
pub(crate) use client::{error_text, token};
pub use error::PullError;
pub(crate) use reach::may_send;

/// Maximum number of layers that are downloaded concurrently.
const DOWNLOADS_MAX: usize = 3;

/// Maximum length of a text about a registry's data in an error, in bytes, because the registry chooses the
/// text.
const REASON_BYTES_MAX: usize = 1024;

/// Maximum number of attempts at one endpoint after temporary failures: the registry is busy, the
/// connection broke, or a layer was removed before the image was added.
const ATTEMPTS: u32 = 3;
/// The delay before the second attempt; four times as long before each further attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The options of a pull: registries and credentials.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Mirrors and credentials of the machine.
    pub registries: RegistriesConfig,
    /// Credentials for the registry in the image name (pull secrets), tried in order.
    pub secrets: Vec<PullSecret>,
    /// The space that the pull must leave free on the store's disk, in addition to the store's minimum: 5 %
    /// of the disk, at most 1 GiB.
    pub keep_free: KeepFree,
    pub minimum_speed: MinimumSpeed,
    pub progress: PullProgress,
}

impl ImageStore {
    /// Pulls an image, even if an image with this name is present. Pulls of one name run one after another.
    /// A built-in image has no registry and is returned unchanged.
    ///
    /// # Errors
    /// See [`PullError`]; the store is then unchanged.
    pub fn pull<'a>(
        &'a self,
        reference: &'a str,
        options: &'a PullOptions,
    ) -> BoxFuture<'a, Result<Image, PullError>> {
        self.pull_from_registry(reference, options).boxed()
    }

    async fn pull_from_registry(
        &self,
        reference: &str,
        options: &PullOptions,
    ) -> Result<Image, PullError> {
        let reference = parse(reference)?;
        if let Some(image) = block_in_place(|| self.builtin(&reference.whole())) {
            return Ok(image);
        }
        let lock = self.pull_lock(&reference.whole());
        let _lock = lock.lock().await;
        let mut first_error = None;
        for endpoint in options.registries.endpoints(reference.registry()) {
            for candidate in candidates(&endpoint, &reference, &options.secrets) {
                let space = WriteSpace::new(self.directory(), options.keep_free);
                let pull = Pull {
                    store: self,
                    space,
                    progress: &options.progress,
                    name: reference.whole(),
                    target: &reference,
                    access: candidate.access(&reference),
                    host: &endpoint.host,
                    passing: AtomicBool::new(false),
                    new_layers: Mutex::default(),
                };
                let client = RegistryClient::new(
                    &endpoint,
                    &reference,
                    candidate.credentials(),
                    options.minimum_speed,
                    options.progress.clone(),
                );
                let error = match client.await {
                    Ok(client) => match pull.run(&client).await {
                        Ok(image) => return Ok(image),
                        Err(error) => error,
                    },
                    Err(error) => pull.remote(error),
                };
                tracing::debug!(%error, host = endpoint.host, "pull failed");
                if error.out_of_space().is_some() {
                    pull.remove_begun_layers().await;
                }
                let retry = matches!(error, PullError::Unauthorized { .. });
                keep_more_useful(&mut first_error, error);
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

/// Keeps the more useful of two errors: the error of a registry that responded is more useful than the
/// error of an unreachable registry.
fn keep_more_useful(best: &mut Option<PullError>, error: PullError) {
    let silent = |error: &PullError| {
        matches!(
            error,
            PullError::Unreachable { .. } | PullError::TooSlow { .. }
        )
    };
    match best {
        Some(former) if !silent(former) || silent(&error) => {}
        _ => *best = Some(error),
    }
}

/// The credentials to try at an endpoint: the configured credentials, then each pull secret; without any,
/// no credentials. Pull secrets are only for the registry in the name, and not for its mirrors.
fn candidates(
    endpoint: &Endpoint,
    reference: &Reference,
    secrets: &[PullSecret],
) -> Vec<Candidate> {
    if let Some(credentials) = &endpoint.credentials {
        return vec![Candidate::Node(credentials.clone())];
    }
    let is_default_registry =
        endpoint.host == reference.registry() || endpoint.host == reference.resolve_registry();
    if is_default_registry && !secrets.is_empty() {
        return secrets.iter().cloned().map(Candidate::Pod).collect();
    }
    vec![Candidate::Nobody]
}

/// The credentials of an attempt.
enum Candidate {
    Nobody,
    /// The credentials of `registries.yaml`.
    Node(Credentials),
    /// A pull secret of the pod.
    Pod(PullSecret),
}

impl Candidate {
    fn credentials(&self) -> Option<Credentials> {
        match self {
            Self::Nobody => None,
            Self::Node(credentials) => Some(credentials.clone()),
            Self::Pod(secret) => Some(secret.credentials.clone()),
        }
    }

    /// The allowed users of the pulled image.
    fn access(&self, reference: &Reference) -> ImageUsers {
        let secret = match self {
            Self::Pod(secret) => Some(secret),
            Self::Nobody | Self::Node(_) => None,
        };
        ImageUsers::pulled(&reference.whole(), secret)
    }
}

/// A layer of an image, and whether the store has it.
type Work = (Blob, Digest, bool);

/// One attempt at one endpoint.
struct Pull<'a> {
    store: &'a ImageStore,
    space: WriteSpace,
    progress: &'a PullProgress,
    name: String,
    target: &'a Reference,
    /// The allowed users of the image.
    access: ImageUsers,
    host: &'a str,
    /// Whether the last failure was temporary.
    passing: AtomicBool,
    /// Layers that were not in the store before.
    new_layers: Mutex<BTreeSet<String>>,
}

impl Pull<'_> {
    /// Pulls, and repeats the attempt after a temporary failure. Present layers are not downloaded again.
    async fn run(&self, client: &RegistryClient) -> Result<Image, PullError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            self.passing.store(false, Ordering::Relaxed);
            match self.attempt(client).await {
                Err(error) if self.passing.load(Ordering::Relaxed) => {
                    tracing::debug!(%error, host = self.host, "trying again");
                    tokio::time::sleep(pause).await;
                    pause *= 4;
                }
                result => return result,
            }
        }
        self.attempt(client).await
    }

    async fn attempt(&self, client: &RegistryClient) -> Result<Image, PullError> {
        let verified = client.verify_registry().await;
        verified.map_err(|error| self.remote(error))?;
        let (digest, config, layers) = self.manifest(client).await?;
        let blob = self.configuration(client, &config).await?;
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
        let work = self.missing(work).await?;
        self.check_space(&work).await?;
        let absent: Vec<Work> = work.iter().filter(|work| !work.2).cloned().collect();
        futures::stream::iter(absent)
            .map(|(layer, diff_id, _)| self.layer(client, layer, diff_id, None))
            .buffered(DOWNLOADS_MAX)
            .try_collect::<()>()
            .await?;
        let (mut names, mut size, mut alone) = (Vec::new(), 0, BTreeSet::new());
        for (layer, diff_id, _) in work {
            let (name, bytes) = match self.settled(&diff_id, &names).await? {
                Settled::Present { name, size } => (name, size),
                Settled::Missing { .. } => {
                    // The layer refers to files of the layers below, which are all in the store now.
                    alone.insert(diff_id.hex().to_owned());
                    let below = Some(names.clone());
                    self.layer(client, layer, diff_id.clone(), below).await?;
                    match self.settled(&diff_id, &names).await? {
                        Settled::Present { name, size } => (name, size),
                        Settled::Missing { name: layer } => {
                            return Err(self.store_error(StoreError::LayerCleared { layer }));
                        }
                    }
                }
            };
            names.push(name);
            size += bytes;
        }
        let record = ImageRecord {
            id: config.digest.to_string(),
            config: blob.config,
            layers: names,
            size,
            fingerprint: None,
            pulled: true,
            access: self.access.clone(),
        };
        let name = self.name.clone();
        self.in_store(move |store| {
            let image = store.insert(&name, digest.as_str(), record)?;
            store.drop_unused(&alone)?;
            Ok(image)
        })
        .await
    }

    /// The layers, each with the information whether the store has it.
    async fn missing(&self, work: Vec<(Blob, Digest)>) -> Result<Vec<Work>, PullError> {
        self.in_store(move |store| {
            let diff_ids: Vec<Digest> = work.iter().map(|(_, diff_id)| diff_id.clone()).collect();
            let present = store.present(&diff_ids);
            let work = work.into_iter().zip(present);
            Ok(work
                .map(|((layer, diff_id), present)| (layer, diff_id, present))
                .collect())
        })
        .await
    }

    async fn settled(&self, diff_id: &Digest, below: &[String]) -> Result<Settled, PullError> {
        let (diff_id, below) = (diff_id.clone(), below.to_vec());
        self.in_store(move |store| store.settle(&diff_id, &below))
            .await
    }

    /// Runs blocking work on a thread for blocking work.
    async fn in_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImageStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, PullError> {
        let store = self.store.clone();
        blocking_value(move || work(&store))
            .await
            .map_err(|error| self.malformed(format!("cut off: {error}")))?
            .map_err(|source| self.store_error(source))
    }

    /// Downloads a layer to disk, checks its digest, and unpacks it: independently, or above other layers.
    async fn layer(
        &self,
        client: &RegistryClient,
        blob: Blob,
        diff_id: Digest,
        below: Option<Vec<String>>,
    ) -> Result<(), PullError> {
        self.new_layers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(layer_name(below.as_deref(), &diff_id));
        let scratch = self.in_store(ImageStore::scratch).await?;
        let added = self
            .download_and_unpack(client, &blob, &diff_id, below, scratch.path())
            .await;
        // The drop deletes files, so it runs on the thread for blocking work.
        self.in_store(move |_| {
            drop(scratch);
            Ok(())
        })
        .await?;
        added
    }

    /// Removes the layers of this pull: a pull without enough disk space leaves the disk unchanged.
    async fn remove_begun_layers(&self) {
        let new_layers = {
            let mut new_layers = self
                .new_layers
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *new_layers)
        };
        drop_layers(self.store, new_layers).await;
    }

    /// Checks that the announced sizes of the layers fit, before any download.
    async fn check_space(&self, work: &[Work]) -> Result<(), PullError> {
        let missing = work.iter().filter(|(_, _, is_present)| !is_present);
        let bytes = missing.fold(0_u64, |sum, (layer, ..)| sum.saturating_add(layer.size));
        let space = self.space.clone();
        self.in_store(move |store| {
            let failed = space_error("inspect the disk of", store.directory());
            space.check(bytes, 0).map_err(failed)
        })
        .await
    }

    async fn download_and_unpack(
        &self,
        client: &RegistryClient,
        blob: &Blob,
        diff_id: &Digest,
        below: Option<Vec<String>>,
        scratch: &Path,
    ) -> Result<(), PullError> {
        let path: PathBuf = scratch.join("blob");
        let failed = |error| self.store_error(io_error("write", &path)(error));
        let mut space = self.space.clone();
        let mut file = tokio::fs::File::create_new(&path).await.map_err(failed)?;
        let mut hasher = Sha256::new();
        let response = client.blob(blob.digest.as_str()).await;
        let mut download = response.map_err(|error| self.remote(error))?;
        let mut length = 0;
        while let Some(chunk) = download.next().await.map_err(|error| self.remote(error))? {
            length += chunk.len() as u64;
            if length > blob.size {
                return Err(self.mismatch(blob.digest.as_str()));
            }
            hasher.update(&chunk);
            let fits = space.reserve(chunk.len() as u64, 0);
            fits.map_err(|error| self.store_error(space_error("write", &path)(error)))?;
            file.write_all(&chunk).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        if Digest::finish(hasher) != blob.digest {
            return Err(self.mismatch(blob.digest.as_str()));
        }
        let (store, diff_id) = (self.store.clone(), diff_id.clone());
        let file = tokio::fs::File::open(&path)
            .await
            .map_err(failed)?
            .into_std()
            .await;
        // A cancelled pull does not need the layer either.
        let observer = Observer::new(self.progress.clone());
        let _waiting = observer.cancel_on_drop();
        let unpacked = blocking_value(move || {
            let archive = decompressed(file).map_err(io_error("read", &path))?;
            let below = below.as_deref();
            let added = store.add_layer(archive, &diff_id, below, space, observer.clone());
            if observer.is_cancelled() {
                store.drop_unused(&BTreeSet::from([layer_name(below, &diff_id)]))?;
            }
            added.map(drop)
        });
        unpacked
            .await
            .map_err(|error| self.malformed(format!("unpacking failed: {error}")))?
            .map_err(|source| self.store_error(source))
    }

    fn remote(&self, error: RequestError) -> PullError {
        let (reference, host) = (self.name.clone(), self.host.to_owned());
        self.passing.store(error.is_passing(), Ordering::Relaxed);
        match error {
            RequestError::NotFound => PullError::NotFound { reference, host },
            RequestError::Unauthorized => PullError::Unauthorized { reference, host },
            RequestError::TooSlow(TooSlow {
                bytes,
                minimum_speed,
            }) => PullError::TooSlow {
                reference,
                host,
                bytes,
                window: minimum_speed.window,
                bytes_min: minimum_speed.bytes_min,
            },
            error @ RequestError::NoRegistry => PullError::NoRegistry {
                reference,
                host,
                reason: error.to_string(),
            },
            RequestError::OutOfReach => PullError::OutOfReach { reference, host },
            error @ RequestError::TooLong { .. } => {
                self.malformed(format!("{host} is no registry: {error}"))
            }
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
            reason: shortened(reason.into()),
        }
    }

    fn wrong_platform(&self, platforms: &[String]) -> PullError {
        PullError::WrongPlatform {
            reference: self.name.clone(),
            architecture: architecture().to_owned(),
            platforms: shortened(platforms.join(", ")),
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

async fn drop_layers(store: &ImageStore, layers: BTreeSet<String>) {
    let store = store.clone();
    let dropped = blocking_value(move || store.drop_unused(&layers)).await;
    let failed = match dropped {
        Ok(Ok(())) => return,
        Ok(Err(error)) => chain(&error),
        Err(error) => error.to_string(),
    };
    tracing::warn!(
        error = failed,
        "layers of an image that does not fit stay behind"
    );
}

fn shortened(mut text: String) -> String {
    if text.len() > REASON_BYTES_MAX {
        text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
        text.push('…');
    }
    text
}

/// The text of the error with its causes.
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
