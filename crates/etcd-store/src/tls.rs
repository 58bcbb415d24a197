//! The certificates for TLS connections. Their files are read again for each new connection, so renewed certificates
//! need no restart.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use outbound_http::tls::{self, BundleError, ClientConfig, Identity, Roots, Trust};
use tokio::sync::Mutex;

use crate::options::{ConnectError, EtcdOptions};

/// The contents of the files, in PEM.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    authorities: Option<Vec<u8>>,
    /// The certificate with its chain, and its key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// The files: of authorities, and of the certificate with its key.
struct Files {
    authorities: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

/// The settings of TLS, and the files that they are from.
pub(crate) struct TlsFiles {
    files: Files,
    in_use: Mutex<(Contents, Arc<ClientConfig>)>,
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// *Errors.* A file that cannot be read or is invalid.
    pub(crate) async fn open(options: &EtcdOptions) -> Result<Self, ConnectError> {
        let files = Files {
            authorities: options.cafile.clone(),
            identity: options.identity.clone(),
        };
        let contents = files.read().await?;
        let config = files.config(&contents).await?;
        Ok(Self {
            files,
            in_use: Mutex::new((contents, config)),
        })
    }

    /// The settings from the current contents of the files; the previous settings if the contents are invalid, because
    /// a certificate may be replaced a moment before its key.
    pub(crate) async fn current(&self) -> Arc<ClientConfig> {
        let mut in_use = self.in_use.lock().await;
        let present = async {
            let contents = self.files.read().await?;
            if contents != in_use.0 {
                let config = self.files.config(&contents).await?;
                tracing::info!("the certificates for etcd have changed");
                *in_use = (contents, config);
            }
            Ok::<_, ConnectError>(())
        };
        if let Err(error) = present.await {
            let error = rpc_channel::with_causes(&error);
            tracing::warn!(%error, "the former certificates for etcd are used");
        }
        Arc::clone(&in_use.1)
    }
}

impl Files {
    async fn read(&self) -> Result<Contents, ConnectError> {
        let authorities = match &self.authorities {
            Some(path) => Some(file(path).await?),
            None => None,
        };
        let identity = match &self.identity {
            Some((certificate, key)) => Some((file(certificate).await?, file(key).await?)),
            None => None,
        };
        Ok(Contents {
            authorities,
            identity,
        })
    }

    async fn config(&self, contents: &Contents) -> Result<Arc<ClientConfig>, ConnectError> {
        let of = |path: &PathBuf| {
            let path = path.clone();
            move |error| ConnectError::Certificates(path, error)
        };
        let roots = match (&self.authorities, &contents.authorities) {
            (Some(path), Some(pem)) => {
                let roots = Roots::none().with_pem(pem).map_err(of(path))?;
                if roots.is_empty() {
                    return Err(of(path)(BundleError::NoCertificate));
                }
                roots
            }
            _ => Roots::of_machine().await,
        };
        let identity = match (&self.identity, &contents.identity) {
            (Some((certificate, key)), Some((chain_pem, key_pem))) => {
                let chain = tls::chain_of_pem(chain_pem).map_err(of(certificate))?;
                Some(Identity::new(
                    chain,
                    tls::key_of_pem(key_pem).map_err(of(key))?,
                ))
            }
            _ => None,
        };
        let config = tls::client(Trust::Roots(roots), identity);
        let config = config.map_err(|error| match (error, &self.identity) {
            (tls::Error::InconsistentKeys(_), Some((certificate, key))) => {
                ConnectError::OtherKey(certificate.clone(), key.clone())
            }
            (error, _) => error.into(),
        });
        let mut config = ClientConfig::clone(&*config?);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

async fn file(path: &Path) -> Result<Vec<u8>, ConnectError> {
    let refused = |error: io::Error| ConnectError::File(path.to_owned(), error);
    tokio::fs::read(path).await.map_err(refused)
}
