//! Image pulls by pull policy, with their events.

pub(crate) mod pull_limiter;

use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use host_kernel::block_in_place;
use image_store::{
    Credentials, Image, ImageStore, PullError, PullOptions, PullSecret, RegistriesConfig,
    SecretName, StoreError,
};
use jiff::SignedDuration;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Pod, Secret};
use pod_lifecycle::messages;
use resource_kinds::MetadataIdentity;
use tokio::sync::{Notify, RwLock};

use crate::api::events::PodEvents;
use crate::api::objects::ApiObjects;
use crate::config::Config;
use crate::machine::pressure::Monitor;
use pull_limiter::PullLimiter;

/// The reason why an image is not available.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageTrouble {
    /// The waiting reason in the status, for instance `ErrImagePull`.
    pub reason: &'static str,
    /// The error message for the user.
    pub message: String,
}

/// Pulls the images of pods.
pub struct Puller {
    store: ImageStore,
    registries: RegistriesConfig,
    api_objects: Arc<ApiObjects>,
    /// Knows how much disk space pulls must leave free.
    monitor: Arc<Monitor>,
    limiter: PullLimiter,
    /// Notified when a pull needs more disk space than is free.
    pub disk_space_needed: Notify,
    /// Read-locked during lookups and mounts of images, so that no image is removed meanwhile.
    pub lookups: RwLock<()>,
}

/// The image name with the tag replaced by a digest.
pub fn by_digest(name: &str, digest: &str) -> String {
    let name = name.split('@').next().unwrap_or_default();
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    let repository = match name[slash..].find(':') {
        Some(colon) => &name[..slash + colon],
        None => name,
    };
    format!("{repository}@{digest}")
}

/// The pull policy of a container: without a policy, `Always` for the tag `latest`, else `IfNotPresent`.
fn policy<'a>(specified: Option<&'a str>, image: &str) -> &'a str {
    specified
        .filter(|policy| !policy.is_empty())
        .unwrap_or_else(|| {
            let last = image.rsplit('/').next().unwrap_or_default();
            let latest =
                !image.contains('@') && last.split(':').nth(1).is_none_or(|t| t == "latest");
            if latest { "Always" } else { "IfNotPresent" }
        })
}

impl Puller {
    pub fn new(config: &Config, api_objects: Arc<ApiObjects>, monitor: Arc<Monitor>) -> Self {
        Self {
            store: config.images.clone(),
            registries: config.registries.clone(),
            api_objects,
            monitor,
            limiter: PullLimiter::default(),
            disk_space_needed: Notify::new(),
            lookups: RwLock::default(),
        }
    }

    /// Ensures that an image of the pod is present, as its pull policy says.
    pub async fn ensure(
        &self,
        pod: &Pod,
        name: &str,
        pull_policy: Option<&str>,
        events: &PodEvents,
    ) -> Result<Image, ImageTrouble> {
        // The pod manager has the pod, so images that are present from now on are not collected.
        let lookup = self.lookups.read().await;
        let present = block_in_place(|| self.stored_image(name, events))?;
        drop(lookup);
        let policy = policy(pull_policy, name);
        let mut secrets = None;
        let allowed = match &present {
            Some(_) if policy != "Always" => self.may_use(pod, name, &mut secrets, events).await?,
            _ => false,
        };
        match (policy, present) {
            (_, Some(image)) if allowed => {
                events.normal("Pulled", messages::present(name));
                Ok(image)
            }
            ("Always" | "IfNotPresent", _) => {
                let secrets = match secrets {
                    Some(secrets) => secrets,
                    None => self.secrets(pod, name, events).await,
                };
                self.pull(name, secrets, events).await
            }
            (_, present) => {
                let message = match present {
                    Some(_) => messages::never_pull_to_verify(name),
                    None => messages::never_pull(name),
                };
                events.warning(messages::ERR_IMAGE_NEVER_PULL, message.clone());
                events.warning(
                    "Failed",
                    format!("Error: {}", messages::ERR_IMAGE_NEVER_PULL),
                );
                Err(ImageTrouble {
                    reason: messages::ERR_IMAGE_NEVER_PULL,
                    message,
                })
            }
        }
    }

    /// Whether the pod may use the present image. The pull secrets are read only if the result depends on
    /// them.
    async fn may_use(
        &self,
        pod: &Pod,
        name: &str,
        secrets: &mut Option<Vec<PullSecret>>,
        events: &PodEvents,
    ) -> Result<bool, ImageTrouble> {
        let failed = |error| inspect_failed(name, &error, events);
        if block_in_place(|| self.store.may_use(name, &[])).map_err(failed)? {
            return Ok(true);
        }
        let secrets = secrets.insert(self.secrets(pod, name, events).await);
        block_in_place(|| self.store.may_use(name, secrets)).map_err(failed)
    }

    fn stored_image(&self, name: &str, events: &PodEvents) -> Result<Option<Image>, ImageTrouble> {
        if let Err(error) = image_store::normalize(name) {
            let message = messages::invalid_image(name, &error.reason);
            events.warning("InspectFailed", message.clone());
            events.warning("Failed", format!("Error: {}", messages::INVALID_IMAGE_NAME));
            return Err(ImageTrouble {
                reason: messages::INVALID_IMAGE_NAME,
                message,
            });
        }
        let image = self.store.get(name);
        image.map_err(|error| inspect_failed(name, &error, events))
    }

    async fn pull(
        &self,
        name: &str,
        secrets: Vec<PullSecret>,
        events: &PodEvents,
    ) -> Result<Image, ImageTrouble> {
        let begun = Instant::now();
        events.normal("Pulling", messages::pulling(name));
        let options = PullOptions {
            registries: self.registries.clone(),
            secrets,
            keep_free: block_in_place(|| self.monitor.keep_free_of_images()),
            ..PullOptions::default()
        };
        let pull = self.store.pull(name, &options);
        let registry = registry_of(name);
        let pull = self.limiter.run(&registry, &options.progress, pull);
        let Ok(pulled) = pull.await else {
            return Err(trouble("the node is stopping".to_owned()));
        };
        match pulled {
            Ok(image) => {
                let took = SignedDuration::try_from(begun.elapsed()).unwrap_or_default();
                events.normal("Pulled", messages::pulled(name, took, image.size));
                Ok(image)
            }
            Err(error) => {
                if error.out_of_space().is_some() {
                    self.disk_space_needed.notify_one();
                }
                let text = chain(&error);
                events.warning("Failed", messages::pull_failed(name, &text));
                events.warning("Failed", format!("Error: {}", messages::ERR_IMAGE_PULL));
                Err(trouble(text))
            }
        }
    }

    /// The credentials that the pod's pull secrets hold for the image's registry.
    async fn secrets(&self, pod: &Pod, image: &str, events: &PodEvents) -> Vec<PullSecret> {
        let namespace = match pod.metadata.object_namespace() {
            Ok(namespace) => namespace,
            Err(error) => {
                tracing::error!(%error, "pull secrets of a pod not read");
                return Vec::new();
            }
        };
        let spec = pod.spec.as_ref();
        let names = spec
            .and_then(|spec| spec.image_pull_secrets.as_ref())
            .into_iter()
            .flatten();
        let mut pull_secrets = Vec::new();
        let mut missing = Vec::new();
        for reference in names {
            match self.api_objects.secret(namespace, &reference.name).await {
                Ok(Some(secret)) => {
                    let uid = match secret.metadata.object_uid() {
                        Ok(uid) => uid,
                        Err(error) => {
                            tracing::error!(secret = reference.name, %error, "pull secret");
                            continue;
                        }
                    };
                    let holder = SecretName {
                        namespace: namespace.to_owned(),
                        name: reference.name.clone(),
                        uid: uid.to_string(),
                    };
                    let all = credentials_of(&secret, image).into_iter();
                    pull_secrets.extend(all.map(|credentials| PullSecret {
                        credentials,
                        holder: holder.clone(),
                    }));
                }
                // A missing secret is no error yet: the image may be public.
                Ok(None) => missing.push(reference.name.as_str()),
                Err(error) => tracing::warn!(secret = reference.name, %error, "pull secret"),
            }
        }
        if !missing.is_empty() {
            let text = messages::pull_secrets_missing(&missing);
            events.warning(messages::FAILED_TO_RETRIEVE_PULL_SECRET, text);
        }
        pull_secrets
    }
}

fn inspect_failed(name: &str, error: &StoreError, events: &PodEvents) -> ImageTrouble {
    let message = format!("Failed to inspect image \"{name}\": {error}");
    events.warning("InspectFailed", message.clone());
    ImageTrouble {
        reason: "ImageInspectError",
        message,
    }
}

fn trouble(message: String) -> ImageTrouble {
    ImageTrouble {
        reason: messages::ERR_IMAGE_PULL,
        message,
    }
}

/// The text of the error with its causes.
fn chain(error: &PullError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}

/// The number of entries for a registry in a Docker configuration.
pub fn entries_for(config: &[u8], image: &str) -> usize {
    [".dockerconfigjson", ".dockercfg"]
        .into_iter()
        .map(|key| {
            let data = [(key.to_owned(), ByteString(config.to_vec()))];
            let secret = Secret {
                data: Some(data.into()),
                ..Secret::default()
            };
            credentials_of(&secret, image).len()
        })
        .sum()
}

/// The entries of a Docker configuration that match the image's registry.
fn credentials_of(secret: &Secret, image: &str) -> Vec<Credentials> {
    let data = |key: &str| {
        secret
            .data
            .as_ref()?
            .get(key)
            .map(|ByteString(bytes)| bytes.clone())
    };
    let parsed = |bytes: Vec<u8>| serde_json::from_slice::<json_tree::Value>(&bytes).ok();
    let auths = match data(".dockerconfigjson").and_then(parsed) {
        Some(config) => config.get("auths").cloned().unwrap_or_default(),
        None => data(".dockercfg").and_then(parsed).unwrap_or_default(),
    };
    let registry = registry_of(image);
    let entries = auths.as_object().into_iter().flatten();
    entries
        .filter(|(host, _)| host_of(host) == registry)
        .filter_map(|(_, entry)| credentials_of_entry(entry))
        .collect()
}

fn credentials_of_entry(entry: &json_tree::Value) -> Option<Credentials> {
    let field = |name: &str| entry[name].as_str().filter(|text| !text.is_empty());
    if let (Some(username), Some(password)) = (field("username"), field("password")) {
        return Some(basic(username, password));
    }
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(field("auth")?)
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(basic(username, password))
}

fn basic(username: &str, password: &str) -> Credentials {
    Credentials::Basic {
        username: username.to_owned(),
        password: password.to_owned(),
    }
}

fn registry_of(image: &str) -> String {
    let whole = image_store::normalize(image).unwrap_or_default();
    whole.split('/').next().unwrap_or_default().to_owned()
}

/// The host in image references for the key of a Docker configuration, for instance for
/// `https://index.docker.io/v1/`.
fn host_of(entry: &str) -> String {
    let bare = entry.split("://").last().unwrap_or_default();
    match bare.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings A6
    #[test]
    fn a_docker_configuration_that_is_no_map_has_no_entries() {
        for config in [
            "[]",
            "\"x\"",
            "1",
            "null",
            "{\"auths\":[1]}",
            "{\"auths\":{\"docker.io\":1}}",
        ] {
            assert_eq!(entries_for(config.as_bytes(), "nginx"), 0, "{config}");
        }
    }

    #[test]
    fn policy_defaults_by_tag() {
        let of = |image: &str| policy(None, image).to_owned();
        assert_eq!(of("nginx"), "Always");
        assert_eq!(of("nginx:latest"), "Always");
        assert_eq!(of("nginx:1.27"), "IfNotPresent");
        assert_eq!(of("localhost:5000/nginx"), "Always");
        assert_eq!(of("nginx@sha256:00"), "IfNotPresent");
    }

    #[test]
    fn pull_secrets_give_the_credentials_of_the_registry() {
        let config = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"},
            "r.example:5000": {"username": "a", "password": "b"}}}"#;
        let data = [(
            ".dockerconfigjson".to_owned(),
            ByteString(config.as_bytes().to_vec()),
        )];
        let secret = Secret {
            data: Some(data.into()),
            ..Secret::default()
        };
        let is = |image: &str, user: &str| {
            let credentials = credentials_of(&secret, image);
            let name = |c: &Credentials| {
                matches!(c, Credentials::Basic { username, .. }
                if username == user)
            };
            assert!(credentials.len() == 1 && name(&credentials[0]), "{image}");
        };
        is("nginx", "u");
        is("r.example:5000/x/y:1", "a");
        assert!(credentials_of(&secret, "other.example/x").is_empty());
    }
}
