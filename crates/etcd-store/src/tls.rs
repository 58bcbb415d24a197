//! The certificates for connections by TLS. Their files are read again for each new connection, so that
//! renewed ones need no restart.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use http_client::tls::{self, BundleError, ClientConfig, Identity, Roots, Trust};
use tokio::sync::Mutex;

use crate::options::{ConnectError, EtcdOptions};

/// The contents of the files, in PEM.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    authorities: Option<Vec<u8>>,
    /// The certificate with its chain, and its key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// The settings of TLS, and the files that they are from.
pub(crate) struct TlsFiles {
    cafile: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    in_use: Mutex<(Contents, Arc<ClientConfig>)>,
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// *Errors.* A file that cannot be read or is invalid.
    pub(crate) async fn open(options: &EtcdOptions) -> Result<Self, ConnectError> {
        let (cafile, identity) = (options.cafile.clone(), options.identity.clone());
        let contents = read(cafile.as_deref(), identity.as_ref()).await?;
        let config = config(&contents).await?;
        Ok(Self {
            cafile,
            identity,
            in_use: Mutex::new((contents, config)),
        })
    }

    /// The settings from the current contents of the files, or the previous ones if these are invalid: a
    /// certificate may be replaced a moment before its key.
    pub(crate) async fn current(&self) -> Arc<ClientConfig> {
        let mut in_use = self.in_use.lock().await;
        let present = async {
            let contents = read(self.cafile.as_deref(), self.identity.as_ref()).await?;
            if contents != in_use.0 {
                let config = config(&contents).await?;
                tracing::info!("the certificates for etcd have changed");
                *in_use = (contents, config);
            }
            Ok::<_, ConnectError>(())
        };
        if let Err(error) = present.await {
            let error = grpc::with_causes(&error);
            tracing::warn!(%error, "the former certificates for etcd are used");
        }
        Arc::clone(&in_use.1)
    }
}

async fn read(
    cafile: Option<&Path>,
    identity: Option<&(PathBuf, PathBuf)>,
) -> Result<Contents, ConnectError> {
    let authorities = match cafile {
        Some(path) => Some(file(path).await?),
        None => None,
    };
    let identity = match identity {
        Some((certificate, key)) => Some((file(certificate).await?, file(key).await?)),
        None => None,
    };
    Ok(Contents {
        authorities,
        identity,
    })
}

async fn file(path: &Path) -> Result<Vec<u8>, ConnectError> {
    let refused = |error: io::Error| ConnectError::File(path.to_owned(), error);
    tokio::fs::read(path).await.map_err(refused)
}

async fn config(contents: &Contents) -> Result<Arc<ClientConfig>, ConnectError> {
    let roots = match &contents.authorities {
        Some(pem) => Roots::none().with_pem(pem)?,
        None => Roots::of_machine().await,
    };
    let identity = contents.identity.as_ref();
    let identity = identity.map(|(chain, key)| Identity::of_pem(chain, key));
    let config = tls::client(Trust::Roots(roots), identity.transpose()?);
    let mut config = ClientConfig::clone(&*config.map_err(BundleError::Certificate)?);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}
