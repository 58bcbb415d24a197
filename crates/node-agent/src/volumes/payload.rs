//! The files of configMap, secret, downwardAPI and projected volumes.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use host_kernel::Interrupted;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret,
    ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use object_model::IncompleteMetadata;
use pod_lifecycle::environment::downward::{self, NodeFacts};
use pod_lifecycle::spec;
use resource_kinds::MetadataIdentity;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::atomic::{File, Payload};
use crate::api::object_error::ApiObjectError;
use crate::api::objects::{ApiObjects, ObjectKind, RequestedToken, Version, Versions};
use crate::limits::{SMALL_VOLUME_BYTES_MAX, VOLUME_FILES_BYTES_MAX};

const MODE_DEFAULT: i32 = 0o644;

/// The reason why the files of a volume are not built or written.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    #[error(
        "the files of ConfigMaps and Secrets in the volume have more than {} bytes",
        VOLUME_FILES_BYTES_MAX
    )]
    TooLarge,
    #[error("this kind of projected source is not supported")]
    UnsupportedSource,
    #[error("configmap \"{0}\" not found")]
    ConfigMapNotFound(String),
    #[error("secret \"{0}\" not found")]
    SecretNotFound(String),
    #[error("configmap references non-existent config key: {0}")]
    ConfigMapKey(String),
    #[error("references non-existent secret key: {0}")]
    SecretKey(String),
    /// The field or the resource is not supported.
    #[error("{0}")]
    DownwardApi(String),
    /// The API server has rejected a request, or did not respond.
    #[error(transparent)]
    Api(#[from] ApiObjectError),
    #[error(transparent)]
    Metadata(#[from] IncompleteMetadata),
    #[error("write files: {0}")]
    Write(io::Error),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// The files of a volume until they are written. Large volumes are built one at a time.
#[derive(Default)]
pub struct VolumeFiles {
    payload: Payload,
    bytes: usize,
    /// The lock for large volumes; `None` for small volumes.
    lock: Option<OwnedMutexGuard<()>>,
}

impl VolumeFiles {
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    fn insert(&mut self, path: String, file: File) {
        self.bytes += file.bytes.len();
        self.payload.insert(path, file);
    }

    /// Waits for the lock for large volumes if the files have many bytes now.
    ///
    /// # Errors
    /// The bytes exceed the limit of a volume.
    async fn lock_if_large(&mut self, lock: &Arc<Mutex<()>>) -> Result<(), PayloadError> {
        if self.bytes > VOLUME_FILES_BYTES_MAX {
            return Err(PayloadError::TooLarge);
        }
        if self.bytes > SMALL_VOLUME_BYTES_MAX && self.lock.is_none() {
            self.lock = Some(lock.clone().lock_owned().await);
        }
        Ok(())
    }
}

/// Builds the files of a volume from the API objects that the volume names.
pub struct Projector<'a> {
    /// Reads ConfigMaps, Secrets and tokens.
    pub api_objects: &'a ApiObjects,
    pub pod: &'a Pod,
    /// Addresses and allocatable resources of the node, for files of the downward API.
    pub facts: &'a NodeFacts,
}

/// The objects that were read to build files.
#[derive(Debug, Default)]
pub struct ReadObjects {
    /// The versions of the objects at their first read.
    pub versions: Versions,
    /// The delay after which a token in the files should be replaced.
    pub refresh_in: Option<SignedDuration>,
}

impl ReadObjects {
    /// Ensures that the files are rewritten after this delay at the latest.
    pub fn replace_in(&mut self, time: SignedDuration) {
        self.refresh_in = Some(self.refresh_in.map_or(time, |earlier| earlier.min(time)));
    }

    fn record<K: kube_api_client::Resource>(
        &mut self,
        kind: ObjectKind,
        name: &str,
        object: Option<&K>,
    ) {
        let version = self.versions.entry((kind, name.to_owned()));
        version.or_insert_with(|| Version::of_object(object));
    }
}

impl Projector<'_> {
    /// The files of a volume; `None` for volumes of other types. Records the objects that it reads.
    ///
    /// # Errors
    /// An object or a key is missing, or the files are too large.
    pub async fn project(
        &self,
        volume: &Volume,
        read_objects: &mut ReadObjects,
    ) -> Result<Option<VolumeFiles>, PayloadError> {
        let mut files = VolumeFiles::default();
        if let Some(source) = &volume.config_map {
            let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
            let keys = KeySelection::new(&source.items, mode, source.optional);
            self.config_map(&source.name, keys, &mut files, read_objects)
                .await?;
        } else if let Some(source) = &volume.secret {
            let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
            let name = source.secret_name.as_deref().unwrap_or_default();
            let keys = KeySelection::new(&source.items, mode, source.optional);
            self.secret(name, keys, &mut files, read_objects).await?;
        } else if let Some(source) = &volume.downward_api {
            let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
            self.downward(
                source.items.as_deref().unwrap_or_default(),
                mode,
                &mut files,
            )?;
        } else if let Some(source) = &volume.projected {
            self.projected(source, &mut files, read_objects).await?;
        } else {
            return Ok(None);
        }
        Ok(Some(files))
    }

    async fn projected(
        &self,
        source: &ProjectedVolumeSource,
        files: &mut VolumeFiles,
        read_objects: &mut ReadObjects,
    ) -> Result<(), PayloadError> {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        for projection in source.sources.iter().flatten() {
            self.projection(projection, mode, files, read_objects)
                .await?;
        }
        Ok(())
    }

    async fn projection(
        &self,
        projection: &VolumeProjection,
        mode: i32,
        files: &mut VolumeFiles,
        read_objects: &mut ReadObjects,
    ) -> Result<(), PayloadError> {
        if let Some(source) = &projection.config_map {
            let keys = KeySelection::new(&source.items, mode, source.optional);
            let name = &source.name;
            return self.config_map(name, keys, files, read_objects).await;
        }
        if let Some(source) = &projection.secret {
            let keys = KeySelection::new(&source.items, mode, source.optional);
            return self.secret(&source.name, keys, files, read_objects).await;
        }
        if let Some(source) = &projection.downward_api {
            let items = source.items.as_deref().unwrap_or_default();
            return self.downward(items, mode, files);
        }
        if let Some(source) = &projection.service_account_token {
            return self.token(source, mode, files, read_objects).await;
        }
        Err(PayloadError::UnsupportedSource)
    }

    async fn token(
        &self,
        source: &ServiceAccountTokenProjection,
        mode: i32,
        files: &mut VolumeFiles,
        read_objects: &mut ReadObjects,
    ) -> Result<(), PayloadError> {
        let request = RequestedToken {
            audience: source.audience.clone(),
            expiration_seconds: source.expiration_seconds.unwrap_or(3600),
        };
        let token = self.api_objects.token(self.pod, request).await?;
        let remaining_time = token.expires.duration_since(Timestamp::now());
        let delay = SignedDuration::from_millis_i128(remaining_time.as_millis() * 8 / 10);
        read_objects.replace_in(delay.max(SignedDuration::from_secs(10)));
        let (mode, uid) = token_access(self.pod, mode.unsigned_abs());
        let bytes = token.value.into_bytes();
        let file = File { bytes, mode, uid };
        files.insert(source.path.clone(), file);
        Ok(())
    }

    fn downward(
        &self,
        items: &[DownwardAPIVolumeFile],
        mode: i32,
        files: &mut VolumeFiles,
    ) -> Result<(), PayloadError> {
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => downward::field(self.pod, self.facts, &field.field_path),
                (None, Some(r)) => downward::resource(self.pod, None, self.facts, r),
                (None, None) => Ok(String::new()),
            };
            let bytes = text.map_err(|error| PayloadError::DownwardApi(error.message))?;
            let bytes = bytes.into_bytes();
            let mode = item.mode.unwrap_or(mode).unsigned_abs();
            files.insert(item.path.clone(), File::of_root(bytes, mode));
        }
        Ok(())
    }

    async fn config_map(
        &self,
        name: &str,
        keys: KeySelection<'_>,
        files: &mut VolumeFiles,
        read_objects: &mut ReadObjects,
    ) -> Result<(), PayloadError> {
        let object = self.api_objects.config_map(self.namespace()?, name).await?;
        read_objects.record(ObjectKind::ConfigMap, name, object.as_ref());
        match object {
            None if keys.is_required() => {
                return Err(PayloadError::ConfigMapNotFound(name.to_owned()));
            }
            object => keys.config_map(object, files)?,
        }
        files.lock_if_large(self.api_objects.large_volumes()).await
    }

    async fn secret(
        &self,
        name: &str,
        keys: KeySelection<'_>,
        files: &mut VolumeFiles,
        read_objects: &mut ReadObjects,
    ) -> Result<(), PayloadError> {
        let object = self.api_objects.secret(self.namespace()?, name).await?;
        read_objects.record(ObjectKind::Secret, name, object.as_ref());
        match object {
            None if keys.is_required() => {
                return Err(PayloadError::SecretNotFound(name.to_owned()));
            }
            object => keys.secret(object, files)?,
        }
        files.lock_if_large(self.api_objects.large_volumes()).await
    }

    fn namespace(&self) -> Result<&str, IncompleteMetadata> {
        self.pod.metadata.object_namespace()
    }
}

/// Mode and owner of a token's file. As in kubelet, only the pod's user may read the file, if the user is
/// known. The volume's group gets the read permission when the file is written.
fn token_access(pod: &Pod, mode: u32) -> (u32, Option<u32>) {
    let user = pod.spec.as_ref().and_then(spec::common_user);
    let user = user.and_then(|user| u32::try_from(user).ok());
    match user.is_some() || super::ownership::fs_group(pod).is_some() {
        true => (0o600, user),
        false => (mode, None),
    }
}

/// The keys of an object that become files, and their permissions.
struct KeySelection<'a> {
    items: Option<&'a [KeyToPath]>,
    mode: i32,
    optional: Option<bool>,
}

impl<'a> KeySelection<'a> {
    fn new(items: &'a Option<Vec<KeyToPath>>, mode: i32, optional: Option<bool>) -> Self {
        Self {
            items: items.as_deref(),
            mode,
            optional,
        }
    }

    /// Whether the object and the named keys must exist.
    fn is_required(&self) -> bool {
        self.optional != Some(true)
    }

    fn config_map(
        &self,
        object: Option<ConfigMap>,
        files: &mut VolumeFiles,
    ) -> Result<(), PayloadError> {
        let Some(object) = object else { return Ok(()) };
        let text = object
            .data
            .into_iter()
            .flatten()
            .map(|(key, text)| (key, text.into_bytes()));
        let binary = object.binary_data.into_iter().flatten();
        let data = text
            .chain(binary.map(|(key, ByteString(bytes))| (key, bytes)))
            .collect();
        self.insert(data, PayloadError::ConfigMapKey, files)
    }

    fn secret(&self, object: Option<Secret>, files: &mut VolumeFiles) -> Result<(), PayloadError> {
        let Some(object) = object else { return Ok(()) };
        let data = object.data.into_iter().flatten();
        let data = data.map(|(key, ByteString(bytes))| (key, bytes)).collect();
        self.insert(data, PayloadError::SecretKey, files)
    }

    fn insert(
        &self,
        mut data: BTreeMap<String, Vec<u8>>,
        missing: fn(String) -> PayloadError,
        files: &mut VolumeFiles,
    ) -> Result<(), PayloadError> {
        let mode = self.mode.unsigned_abs();
        let Some(items) = self.items.filter(|items| !items.is_empty()) else {
            for (key, bytes) in data {
                files.insert(key, File::of_root(bytes, mode));
            }
            return Ok(());
        };
        for item in items {
            let Some(bytes) = data.remove(&item.key) else {
                if self.is_required() {
                    return Err(missing(item.key.clone()));
                }
                continue;
            };
            let mode = item.mode.map_or(mode, i32::unsigned_abs);
            files.insert(item.path.clone(), File::of_root(bytes, mode));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Option<Secret> {
        let data = [("user", "app"), ("password", "pw")];
        let data = data.map(|(k, v)| (k.to_owned(), ByteString(v.as_bytes().to_vec())));
        Some(Secret {
            data: Some(data.into()),
            ..Secret::default()
        })
    }

    #[test]
    fn a_volume_has_all_keys_or_the_named_items() {
        // statefulset.md 12.13
        let mut files = VolumeFiles::default();
        KeySelection {
            items: None,
            mode: 0o644,
            optional: None,
        }
        .secret(secret(), &mut files)
        .unwrap();
        assert_eq!(
            files.payload().keys().collect::<Vec<_>>(),
            ["password", "user"]
        );

        let item = KeyToPath {
            key: "user".to_owned(),
            mode: Some(0o400),
            path: "a/b".to_owned(),
        };
        let mut files = VolumeFiles::default();
        let items = [item];
        let keys = KeySelection {
            items: Some(&items),
            mode: 0o644,
            optional: None,
        };
        keys.secret(secret(), &mut files).unwrap();
        assert_eq!(files.payload()["a/b"].mode, 0o400);
    }

    #[test]
    fn a_token_belongs_to_the_user_and_the_group_of_the_pod() {
        // statefulset.md 12.13
        let access = |context: json_tree::Value| {
            let pod = json_tree::json!({"spec": {"securityContext": context,
                "containers": [{"name": "c"}]}});
            token_access(&json_tree::from_value(pod).unwrap(), 0o444)
        };
        assert_eq!(access(json_tree::json!({})), (0o444, None));
        let user = json_tree::json!({"runAsUser": 1000});
        assert_eq!(access(user), (0o600, Some(1000)));
        let group = json_tree::json!({"fsGroup": 2000});
        assert_eq!(access(group), (0o600, None));
        let user_and_group = json_tree::json!({"runAsUser": 0, "fsGroup": 2000});
        assert_eq!(access(user_and_group), (0o600, Some(0)));
    }

    #[test]
    fn a_missing_key_is_named_unless_it_is_optional() {
        // statefulset.md 12.13
        let item = KeyToPath {
            key: "none".to_owned(),
            mode: None,
            path: "x".to_owned(),
        };
        let items = [item];
        let mut files = VolumeFiles::default();
        let mut keys = KeySelection {
            items: Some(&items),
            mode: 0o644,
            optional: None,
        };
        let error = keys.secret(secret(), &mut files).unwrap_err();
        assert_eq!(
            error.to_string(),
            "references non-existent secret key: none"
        );
        keys.optional = Some(true);
        assert!(keys.secret(secret(), &mut files).is_ok());
    }

    // findings-2 S39
    #[tokio::test]
    async fn one_volume_with_many_bytes_is_built_at_a_time() {
        let lock = Arc::default();
        let files = |bytes: usize| {
            let mut files = VolumeFiles::default();
            files.insert("a".to_owned(), File::of_root(vec![0; bytes], 0o644));
            files
        };
        let mut first = files(SMALL_VOLUME_BYTES_MAX + 1);
        first.lock_if_large(&lock).await.unwrap();
        // A volume of the usual size needs no lock.
        let mut small = files(SMALL_VOLUME_BYTES_MAX);
        small.lock_if_large(&lock).await.unwrap();
        let mut second = files(SMALL_VOLUME_BYTES_MAX + 1);
        let mut waiting = Box::pin(second.lock_if_large(&lock));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(first);
        waiting.await.unwrap();
        let mut too_large = files(VOLUME_FILES_BYTES_MAX + 1);
        let error = too_large.lock_if_large(&lock).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("more than 67108864 bytes"), "{text}");
    }
}
