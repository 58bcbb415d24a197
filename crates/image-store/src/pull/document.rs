//! Transfers of manifests and configurations. A document is received into a file, and then read. So a pull
//! that waits for a slow registry holds no part of a document in memory, and afterwards only the needed
//! parts.

use std::fs::File;
use std::io::BufReader;

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;

use super::client::{RegistryClient, RegistryResponse, RequestError};
use super::{Pull, PullError};
use crate::digest::Digest;
use crate::manifest::{
    self, Blob, ConfigBlob, Descriptor, MalformedDocument, Manifest, for_this_platform,
};
use crate::store::{ImageStore, io_error};

/// Maximum size of a manifest or index in bytes, as in registries.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Maximum size of a configuration in bytes.
const CONFIG_BYTES_MAX: u64 = 8 << 20;

/// The size limit of a document.
struct Bound {
    bytes: u64,
    /// The error for a larger document.
    error: PullError,
}

impl Pull<'_> {
    /// The manifest for this machine: its digest, the configuration, and the layers.
    pub(super) async fn manifest(
        &self,
        client: &RegistryClient,
    ) -> Result<(Digest, Blob, Vec<Blob>), PullError> {
        let (name, expected) = match (self.target.digest(), self.target.tag()) {
            (Some(digest), _) => (digest, Some(digest)),
            (None, tag) => (tag.unwrap_or("latest"), None),
        };
        let digest = match self.manifest_or_index(client, name, expected).await? {
            (digest, Manifest::Image { config, layers }) => return Ok((digest, config, layers)),
            (_, Manifest::Index(entries)) => self.for_this_machine(&entries)?,
        };
        let digest = digest.as_str();
        match self.manifest_or_index(client, digest, Some(digest)).await? {
            (digest, Manifest::Image { config, layers }) => Ok((digest, config, layers)),
            (_, Manifest::Index(_)) => Err(self.malformed("an index of indexes")),
        }
    }

    fn for_this_machine(&self, entries: &[Descriptor]) -> Result<Digest, PullError> {
        let entry =
            for_this_platform(entries).map_err(|platforms| self.wrong_platform(&platforms))?;
        let digest = Digest::parse(&entry.digest);
        digest.ok_or_else(|| self.malformed(format!("malformed digest {:?}", entry.digest)))
    }

    async fn manifest_or_index(
        &self,
        client: &RegistryClient,
        name: &str,
        expected: Option<&str>,
    ) -> Result<(Digest, Manifest), PullError> {
        let response = client.manifest(name).await;
        let response = response.map_err(|error| self.remote(error))?;
        // A digest of another algorithm cannot be compared.
        let reported = response.digest().and_then(Digest::parse);
        let expected = expected.map(str::to_owned).into_iter();
        let expected: Vec<String> = expected
            .chain(reported.map(|digest| digest.to_string()))
            .collect();
        let bound = Bound {
            bytes: MANIFEST_BYTES_MAX,
            error: self.remote(RequestError::TooLong {
                document: "manifest",
                limit: MANIFEST_BYTES_MAX,
            }),
        };
        let read = |file| manifest::parse(file);
        self.receive(response, bound, &expected, read).await
    }

    /// The configuration of the image.
    pub(super) async fn configuration(
        &self,
        client: &RegistryClient,
        blob: &Blob,
    ) -> Result<ConfigBlob, PullError> {
        if blob.size > CONFIG_BYTES_MAX {
            return Err(self.malformed("the configuration is larger than 8 MiB"));
        }
        let response = client.blob(blob.digest.as_str()).await;
        let response = response.map_err(|error| self.remote(error))?;
        let expected = [blob.digest.to_string()];
        // The descriptor of a blob has its length; longer content does not match.
        let bound = Bound {
            bytes: CONFIG_BYTES_MAX,
            error: self.mismatch(blob.digest.as_str()),
        };
        let read = |file| manifest::configuration(file);
        let received = self.receive(response, bound, &expected, read);
        Ok(received.await?.1)
    }

    /// Receives a document that matches all these digests, and decodes it.
    async fn receive<T: Send + 'static>(
        &self,
        mut response: RegistryResponse,
        bound: Bound,
        expected: &[String],
        read: fn(BufReader<File>) -> Result<T, MalformedDocument>,
    ) -> Result<(Digest, T), PullError> {
        if response.is_longer_than(bound.bytes) {
            return Err(bound.error);
        }
        let scratch = self.in_store(ImageStore::scratch).await?;
        let path = scratch.path().join("document");
        let failed = |error| self.store_error(io_error("write", &path)(error));
        let mut file = tokio::fs::File::create_new(&path).await.map_err(failed)?;
        let (mut hasher, mut length) = (Sha256::new(), 0);
        while let Some(chunk) = response.next().await.map_err(|error| self.remote(error))? {
            length += chunk.len() as u64;
            if length > bound.bytes {
                return Err(bound.error);
            }
            hasher.update(&chunk);
            file.write_all(&chunk).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        let digest = Digest::finish(hasher);
        if let Some(mismatch) = expected
            .iter()
            .find(|expected| **expected != digest.as_str())
        {
            return Err(self.mismatch(mismatch));
        }
        let read = self.in_store(move |_| {
            let file = File::open(&path).map_err(io_error("read", &path))?;
            let read = read(BufReader::new(file));
            // The drop deletes files, so it runs on the thread for blocking work.
            drop(scratch);
            Ok(read)
        });
        match read.await? {
            Ok(document) => Ok((digest, document)),
            Err(error) => Err(self.malformed(error.to_string())),
        }
    }
}
