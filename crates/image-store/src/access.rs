//! Access to present images: which pods have proved their right to use an image.
//!
//! As kubelet 1.36 (KEP 2535, policy `NeverVerifyPreloadedImages`): if the pull of an image needed no
//! secret, all pods may use the image. Otherwise only pods with a pull secret that was used for the image
//! may use it: the coordinates or the content of the secret must match. Other pods have to pull the image,
//! so that the registry decides. All pods may use imported and built-in images.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::credentials::Credentials;
use crate::reference::{InvalidReference, normalize};

/// Maximum number of stored secrets per repository. Pods with further secrets pull at each use. As
/// kubelet's limit of records that are written while reading.
const SECRETS_MAX: usize = 100;

/// The coordinates of a pull secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SecretName {
    pub namespace: String,
    pub name: String,
    /// UID of the Secret, which distinguishes a new Secret with an old name.
    pub uid: String,
}

/// Credentials that a pod has for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullSecret {
    /// The credentials for the registry.
    pub credentials: Credentials,
    /// The Secret that contains the credentials.
    pub holder: SecretName,
}

/// A secret that a registry has accepted for an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct SecretHash {
    #[serde(flatten)]
    holder: SecretName,
    /// The hash of the credentials.
    hash: String,
}

impl SecretHash {
    fn new(secret: &PullSecret) -> Self {
        Self {
            holder: secret.holder.clone(),
            hash: secret.credentials.hash(),
        }
    }
}

/// The allowed users of an image under the name of one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Access {
    /// Whether all pods of the node may use the image.
    #[serde(default)]
    everybody: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<SecretHash>,
}

/// The allowed users of an image, by repository. Empty for images that were not pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ImageUsers(BTreeMap<String, Access>);

impl ImageUsers {
    /// Whether the image was not pulled: it is built in, or was imported.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The access after a successful pull of `reference`, with this secret or without a secret.
    pub fn pulled(reference: &str, secret: Option<&PullSecret>) -> Self {
        let access = Access {
            everybody: secret.is_none(),
            secrets: secret.map(SecretHash::new).into_iter().collect(),
        };
        Self([(repository(reference).to_owned(), access)].into())
    }

    /// The access of an image that gets another name. If the image was not pulled before, its former names
    /// stay for all pods.
    pub fn joined(new: (&str, Self), former: (&[String], &Self)) -> Self {
        let ((name, new), (former_names, former)) = (new, former);
        if new.is_empty() && former.is_empty() {
            return new;
        }
        let mut all = match new.is_empty() {
            true => Self::pulled(name, None),
            false => new,
        };
        if former.is_empty() {
            for name in former_names {
                all.merge(&Self::pulled(name, None));
            }
        }
        all.merge(former);
        all
    }

    /// Adds the former access.
    fn merge(&mut self, former: &Self) {
        for (repository, former_access) in &former.0 {
            let access = self.0.entry(repository.clone()).or_default();
            access.everybody |= former_access.everybody;
            for secret in &former_access.secrets {
                if access.secrets.len() < SECRETS_MAX && !access.secrets.contains(secret) {
                    access.secrets.push(secret.clone());
                }
            }
        }
    }

    /// Whether a pod with these secrets may use the image under a full name.
    pub fn allow(&self, reference: &str, secrets: &[PullSecret]) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let Some(access) = self.0.get(repository(reference)) else {
            return false;
        };
        let good = |secret: &PullSecret| {
            let presented = SecretHash::new(secret);
            let same = |stored: &SecretHash| {
                stored.hash == presented.hash || stored.holder == presented.holder
            };
            access.secrets.iter().any(same)
        };
        let is_allowed = access.everybody || secrets.iter().any(good);
        if !is_allowed {
            cov_mark::hit!(findings_s20);
        }
        is_allowed
    }
}

/// The full name without its tag and digest.
fn repository(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or_default();
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    match name[slash..].find(':') {
        Some(colon) => &name[..slash + colon],
        None => name,
    }
}

impl crate::ImageStore {
    /// Whether a pod with these secrets may use the present image `name`; otherwise the image must be
    /// pulled with the secrets. `None` for an absent image.
    ///
    /// # Errors
    /// The name is malformed, or the disk fails.
    pub fn may_use(
        &self,
        reference: &str,
        secrets: &[PullSecret],
    ) -> Result<bool, crate::StoreError> {
        let index = self.index()?;
        let name = normalize(reference).map_err(|error: InvalidReference| error)?;
        let image = index.look_up(reference)?;
        Ok(image.is_some_and(|(_, record)| record.access.allow(&name, secrets)))
    }
}

/// A pull secret for tests.
#[cfg(test)]
pub(crate) fn secret(namespace: &str, password: &str) -> PullSecret {
    PullSecret {
        credentials: Credentials::Basic {
            username: "me".to_owned(),
            password: password.to_owned(),
        },
        holder: SecretName {
            namespace: namespace.to_owned(),
            name: "pull".to_owned(),
            uid: format!("uid-{namespace}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings S20
    #[test]
    fn who_has_not_shown_a_secret_has_to_pull() {
        cov_mark::check!(findings_s20);
        let image = "r.example:5000/team/app:1";
        let (pulled_with, stranger) = (secret("team", "p"), secret("other", "q"));
        let access = ImageUsers::pulled(image, Some(&pulled_with));
        assert!(!access.allow(image, &[]));
        assert!(!access.allow(image, std::slice::from_ref(&stranger)));
        assert!(access.allow(image, &[stranger.clone(), pulled_with.clone()]));
        // Another tag is allowed, but not another repository's name of the image.
        assert!(access.allow(
            "r.example:5000/team/app@sha256:1",
            std::slice::from_ref(&pulled_with)
        ));
        assert!(!access.allow(
            "r.example:5000/other/app@sha256:1",
            std::slice::from_ref(&pulled_with)
        ));
        // A secret with equal content is allowed, and so is the known secret with another content.
        assert!(access.allow(image, &[secret("other", "p")]));
        assert!(access.allow(image, &[secret("team", "new")]));
        // After a pull without a secret, all pods may use the image.
        let mut public = ImageUsers::pulled(image, None);
        public.merge(&access);
        assert!(public.allow(image, &[]));
        // All pods may use an image that was not pulled.
        assert!(ImageUsers::default().allow(image, &[]));
    }

    #[test]
    fn what_is_kept_tells_no_secret_and_is_bounded() {
        let image = "r.example/app:1";
        let mut access = ImageUsers::pulled(image, Some(&secret("a", "very-secret")));
        for number in 0..2 * SECRETS_MAX {
            let more = secret(&number.to_string(), &format!("p{number}"));
            access.merge(&ImageUsers::pulled(image, Some(&more)));
        }
        let text = serde_json::to_string(&access).unwrap();
        assert!(!text.contains("very-secret"));
        assert_eq!(access.0["r.example/app"].secrets.len(), SECRETS_MAX);
        let back: ImageUsers = serde_json::from_str(&text).unwrap();
        assert_eq!(back, access);
    }
}
