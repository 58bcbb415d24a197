//! The certificate authority and the key of ServiceAccount tokens that several servers of one cluster share. They are
//! in the store, encrypted with the server token.
//!
//! [`SharedKeys`] is the content. [`ServerToken`] encrypts it, and decides whether a server may use it.

mod seal;

use std::fmt;
use std::path::Path;

use rcgen::KeyPair;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use seal::{SealError, ServerToken};

use crate::{Authority, CertificateError, authority, files, token_keys::generate_pem};

/// The certificate authority and the key of ServiceAccount tokens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SharedKeys {
    /// The certificate of the authority, PEM.
    ca_certificate: String,
    /// The private key of the authority, in PEM.
    ca_key: String,
    /// The private key that signs ServiceAccount tokens, PEM.
    service_account_key: String,
}

/// The output must not contain the keys.
impl fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKeys").finish_non_exhaustive()
    }
}

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const SERVICE_ACCOUNT_KEY: &str = "service-accounts.key";

impl SharedKeys {
    /// New keys for a new cluster.
    pub fn generate() -> Result<Self, CertificateError> {
        let ca = KeyPair::generate()?;
        let certificate = authority::self_signed(&ca, OffsetDateTime::now_utc())?;
        Ok(Self {
            ca_certificate: certificate.pem(),
            ca_key: ca.serialize_pem(),
            service_account_key: generate_pem()?,
        })
    }

    /// The keys in an authority's directory; `None` if one of the files is missing.
    pub fn read(dir: &Path) -> Result<Option<Self>, CertificateError> {
        let file = |name| files::read(&dir.join(name));
        let files = (
            file(CA_CERTIFICATE)?,
            file(CA_KEY)?,
            file(SERVICE_ACCOUNT_KEY)?,
        );
        let (Some(ca_certificate), Some(ca_key), Some(service_account_key)) = files else {
            return Ok(None);
        };
        Ok(Some(Self {
            ca_certificate,
            ca_key,
            service_account_key,
        }))
    }

    /// The files that are missing in a directory, in order.
    pub fn missing(dir: &Path) -> Result<Vec<&'static str>, CertificateError> {
        let mut missing = Vec::new();
        for name in [CA_CERTIFICATE, CA_KEY, SERVICE_ACCOUNT_KEY] {
            if files::read(&dir.join(name))?.is_none() {
                missing.push(name);
            }
        }
        Ok(missing)
    }

    /// The keys of the authority in a directory; missing keys are generated.
    pub fn read_or_generate(dir: &Path) -> Result<Self, CertificateError> {
        for name in [CA_CERTIFICATE, CA_KEY] {
            if files::read(&dir.join(name))?.is_some() {
                Authority::open_or_create(dir)?.token_signer()?;
            }
        }
        Self::read(dir)?.map_or_else(Self::generate, Ok)
    }

    /// Writes the keys into the directory for [`Authority::open_or_create`].
    ///
    /// *Errors.* `Damaged` if a file has other contents; such a file is not replaced.
    pub fn install(&self, dir: &Path) -> Result<(), CertificateError> {
        files::make_dir(dir)?;
        let all = [
            (CA_CERTIFICATE, &self.ca_certificate),
            (CA_KEY, &self.ca_key),
            (SERVICE_ACCOUNT_KEY, &self.service_account_key),
        ];
        for (name, pem) in all {
            let path = dir.join(name);
            match files::read(&path)? {
                None => files::write(&path, pem)?,
                Some(there) if there == *pem => {}
                Some(_) => {
                    let what = "is not that of the cluster in the store";
                    return Err(CertificateError::Damaged { path, what });
                }
            }
        }
        Ok(())
    }
}

/// The reason why the stored keys cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SharedError {
    /// The keys cannot be decrypted.
    #[error(transparent)]
    Sealed(#[from] SealError),
    /// The directory contains the keys of another cluster.
    #[error(
        "the certificate authority in the data directory is not the one of the cluster in the store: \
         choose another --data-dir, or another store"
    )]
    OtherCluster,
}

impl ServerToken {
    /// Decrypts the stored keys for a server whose directory contains `local`.
    ///
    /// # Errors
    /// The token is wrong, or the directory belongs to another cluster.
    pub fn open_for(
        &self,
        stored: &[u8],
        local: Option<&SharedKeys>,
    ) -> Result<SharedKeys, SharedError> {
        let keys = self.open(stored)?;
        match local {
            Some(local) if *local != keys => Err(SharedError::OtherCluster),
            _ => Ok(keys),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyHash;

    fn token() -> ServerToken {
        ServerToken::parse("0123456789abcdef0123456789abcdef").unwrap()
    }

    #[test]
    fn another_cluster_and_another_token_are_refused() {
        let keys = SharedKeys::generate().unwrap();
        let stored = token().seal(&keys).unwrap();
        assert_eq!(token().open_for(&stored, None), Ok(keys.clone()));
        assert_eq!(token().open_for(&stored, Some(&keys)), Ok(keys));
        let other = SharedKeys::generate().unwrap();
        let refused = token().open_for(&stored, Some(&other));
        assert_eq!(refused, Err(SharedError::OtherCluster));
        let wrong = ServerToken::generate().unwrap();
        let refused = wrong.open_for(&stored, Some(&other));
        assert_eq!(refused, Err(SealError::WrongToken.into()));
    }

    #[test]
    fn servers_with_the_same_keys_are_one_authority() {
        let keys = SharedKeys::generate().unwrap();
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(SharedKeys::read(one.path()).unwrap(), None);
        let opened = |dir: &Path| {
            keys.install(dir).unwrap();
            Authority::open_or_create(dir).unwrap()
        };
        let (first, second) = (opened(one.path()), opened(two.path()));
        assert_eq!(SharedKeys::read(two.path()).unwrap(), Some(keys.clone()));
        let hash = |authority: &Authority| KeyHash::of_pem(authority.ca_pem()).unwrap();
        assert_eq!(hash(&first), hash(&second));
        let claims = json_tree::json!({"sub": "system:serviceaccount:default:default"});
        let signed = first.token_signer().unwrap().sign(&claims);
        assert_eq!(second.token_signer().unwrap().verify(&signed), Ok(claims));
        // A directory that contains some of the files is completed.
        std::fs::remove_file(two.path().join(CA_CERTIFICATE)).unwrap();
        keys.install(two.path()).unwrap();
        assert_eq!(SharedKeys::read(two.path()).unwrap(), Some(keys));
        let other = SharedKeys::generate().unwrap();
        let refused = other.install(two.path()).unwrap_err().to_string();
        assert!(refused.contains("not that of the cluster"), "{refused}");
    }

    #[test]
    fn an_authority_is_never_replaced_by_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let old = Authority::open_or_create(dir.path()).unwrap();
        // No token has been signed yet.
        let keys = SharedKeys::read_or_generate(dir.path()).unwrap();
        assert_eq!(keys.ca_certificate, old.ca_pem());
        assert_eq!(SharedKeys::read(dir.path()).unwrap(), Some(keys));
        std::fs::remove_file(dir.path().join(CA_KEY)).unwrap();
        SharedKeys::read_or_generate(dir.path()).unwrap_err();
    }
}
