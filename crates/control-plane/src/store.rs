//! The store of a control plane: in the data directory, or in an etcd that several servers share.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use data_directory::process;
use etcd_store::{CallObserver, ConnectError, EtcdOptions, EtcdStore};
use host_kernel::blocking_value;
use mvcc_store::embedded::{EmbeddedOptions, EmbeddedStore};
use mvcc_store::{Store, StoreError};
use process_telemetry::prometheus::Page;
use resource_kinds::Kind;

use super::store_address::EtcdAddress;
use super::store_metrics::{self, EtcdCalls};

/// An open store.
#[derive(Clone)]
pub enum OpenStore {
    /// The store is in the data directory.
    Embedded(Arc<EmbeddedStore>),
    /// The store is in etcd; with the durations of its calls.
    Etcd(Arc<EtcdStore>, Arc<EtcdCalls>),
}

impl OpenStore {
    /// The store, independent of its engine.
    pub fn shared(&self) -> Arc<dyn Store> {
        match self {
            Self::Embedded(store) => Arc::clone(store) as Arc<dyn Store>,
            Self::Etcd(store, _) => Arc::clone(store) as Arc<dyn Store>,
        }
    }

    /// Whether other servers may use the store at the same time.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Etcd(..))
    }

    /// Writes the metrics of the engine about objects of these kinds to the server's page.
    pub fn metrics(&self, kinds: &[Arc<dyn Kind>]) -> impl Fn(&mut Page) + Send + Sync + use<> {
        let write = match self {
            Self::Embedded(_) => None,
            Self::Etcd(store, calls) => {
                let (store, calls) = (Arc::clone(store), Arc::clone(calls));
                Some(store_metrics::writer(calls, move || store.size(), kinds))
            }
        };
        move |page| write.iter().for_each(|write| write(page))
    }

    /// Finishes submitted transactions and closes the store, which can then be opened again.
    pub async fn close(self) {
        let store = match self {
            Self::Embedded(store) => store,
            Self::Etcd(store, _) => return store.close().await,
        };
        if let Err(error) = blocking_value(move || store.close()).await {
            tracing::error!(%error, "the store was not closed in order");
        }
    }
}

/// Opens the store of a data directory, with at most `quota` bytes; the error says if another process has the
/// store open, or if it is damaged.
pub async fn open(data: &Path, quota: Option<u64>) -> Result<OpenStore> {
    let mut options = EmbeddedOptions::new(data.join("store"));
    if let Some(quota) = quota {
        options.limits.live_bytes_max = quota;
    }
    let opened = blocking_value(move || EmbeddedStore::open(options))
        .await
        .context("open the store")?;
    opened.map(OpenStore::Embedded).map_err(|error| {
        if let (StoreError::InUse(_), Some(server)) = (&error, process::serving(data)) {
            return anyhow!(process::runs_already(data, server));
        }
        let next = match &error {
            StoreError::InUse(_) => "; stop that one, or choose another --data-dir",
            StoreError::NewerFormat { .. } => "; start a newer mainstay on it",
            StoreError::Damaged(_) => "; restore a backup, or choose another --data-dir",
            _ => "",
        };
        anyhow!("open the store in {}: {error}{next}", data.display())
    })
}

/// Connects to the store in etcd; this server keeps at most `quota` bytes of it in memory.
///
/// # Errors
/// A file cannot be read, or the members cannot be reached or used, each with its reason.
pub async fn connect(address: &EtcdAddress, quota: Option<u64>) -> Result<OpenStore> {
    let calls = Arc::new(EtcdCalls::default());
    let observing = Arc::clone(&calls);
    let observer = CallObserver::new(move |call| observing.observe(call));
    let mut options = EtcdOptions {
        observer: Some(observer),
        ..address.options()
    };
    if let Some(quota) = quota {
        options.limits.live_bytes_max = quota;
    }
    let connected = EtcdStore::connect(&options).await;
    connected
        .map(|store| OpenStore::Etcd(store, calls))
        .map_err(|error| refusal(address, error))
}

/// The error of a failed connection, with its most likely cause.
pub fn refusal(address: &EtcdAddress, error: ConnectError) -> anyhow::Error {
    let error = anyhow::Error::new(error);
    let next = next_step(&format!("{error:#}"), address.url.is_tls());
    error.context(format!("open the store in {}{next}", address.url))
}

/// The most likely cause of a failed connection, decided by the text of the TLS error.
fn next_step(error: &str, is_tls: bool) -> &'static str {
    const ALERTS: [&str; 3] = ["CertificateRequired", "BadCertificate", "UnknownCA"];
    // A member closes the connection if only one side uses TLS.
    const NO_TLS: [&str; 2] = ["tls handshake eof", "InvalidContentType"];
    const HUNG_UP: [&str; 3] = ["connection error", "broken pipe", "reset by peer"];
    let has = |words: &[&str]| words.iter().any(|word| error.contains(word));
    if error.contains("UnknownIssuer") {
        " (is --etcd-cafile the authority of etcd's members?)"
    } else if has(&ALERTS) {
        " (etcd asks for a certificate of its own authority: --etcd-certfile and --etcd-keyfile)"
    } else if error.contains("CertificateExpired") {
        " (the certificate of --etcd-certfile has expired)"
    } else if error.contains("certificate expired") {
        " (the certificate of a member of etcd has expired)"
    } else if is_tls && has(&NO_TLS) {
        " (do etcd's members use TLS? Without it, the address is etcd+http://…)"
    } else if !is_tls && has(&HUNG_UP) {
        " (do etcd's members use TLS? With it, the address is etcd://…)"
    } else {
        ""
    }
}
