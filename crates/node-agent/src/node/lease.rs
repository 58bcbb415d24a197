//! The renewals of the node's lease, and the deadline that follows from them.
//!
//! Renewals are guarded by resourceVersion and epoch, so that one that is on its way when the control
//! plane fences the node is refused. An acknowledged renewal moves the deadline of pods that end with the
//! lease: it counts from the time at which the renewal was sent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api_client::{Api, Client, ListParams, Patch, PatchParams, PostParams, ResourceExt};
use container_runtime::deadline::{self, DeadlinePage};
use container_runtime::{Runtime, beside, tree};
use durable_file::Durability;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use pod_lifecycle::node::lease::{Step, ends_with_it, step};
use reconcile::execute::{Delete, Refusal, delete, refusal};
use resource_kinds::annotations::{ENDS_PODS, FENCED};
use resource_kinds::namespaces::NODE_LEASES;
use serde_json::{Value, json};
use tokio::sync::RwLock;

use crate::limits::{LEASE_SECONDS, LEASE_TIMEOUT};
use crate::paths::{DEADLINE_PAGE, deadline_page, lease_dir};

/// A lease that was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The API server refused it, or cannot be reached.
    #[error(transparent)]
    Api(#[from] api_client::Error),
    /// There was no answer.
    #[error("no answer within {}s", LEASE_TIMEOUT.as_secs())]
    Timeout,
    /// The pods of an earlier epoch could not be ended.
    #[error("end the pods of an earlier epoch")]
    Pods(#[source] container_runtime::RuntimeError),
    /// The epoch could not be stored.
    #[error("store the lease's epoch")]
    Epoch(#[source] io::Error),
}

/// The files of a node's lease.
pub struct LeaseFiles {
    dir: PathBuf,
    page: PathBuf,
}

impl LeaseFiles {
    /// Those in a data directory, for a boot of the machine.
    pub fn of(data_dir: &Path, boot_id: &str) -> Self {
        Self {
            dir: lease_dir(data_dir),
            page: deadline_page(data_dir, boot_id),
        }
    }
}

/// Renews the lease of a node.
pub struct LeaseKeeper {
    client: Client,
    node: String,
    runtime: Runtime,
    page: DeadlinePage,
    /// The file with the epoch.
    epoch_file: PathBuf,
    /// Held to read while a sandbox that ends with the lease is made: no old pod gets one in a new epoch.
    gate: Arc<RwLock<()>>,
    /// The epoch in which this agent runs pods.
    served: i32,
    /// The lease's resourceVersion after the last write of this agent.
    version: Option<String>,
}

impl LeaseKeeper {
    /// Opens the deadline page of this boot; `node` is the node's name.
    ///
    /// # Errors
    /// The files in the data directory cannot be used.
    pub fn open(
        client: Client,
        node: String,
        runtime: Runtime,
        files: LeaseFiles,
        gate: Arc<RwLock<()>>,
    ) -> io::Result<Self> {
        tree::make_private(&files.dir)?;
        remove_other_pages(&files.dir, &files.page)?;
        let epoch_file = files.dir.join("epoch");
        Ok(Self {
            client,
            node,
            runtime,
            page: DeadlinePage::open(&files.page)?,
            served: read_epoch(&epoch_file)?,
            epoch_file,
            gate,
            version: None,
        })
    }

    /// Renews the lease, or makes it; `uid` is that of the Node object.
    pub async fn renew(&mut self, uid: Option<&str>, now: Timestamp) -> Result<(), LeaseError> {
        match tokio::time::timeout(LEASE_TIMEOUT, self.step(uid, now)).await {
            Ok(done) => done,
            Err(_) => {
                // It may have been stored: the lease is read before the next renewal.
                self.version = None;
                Err(LeaseError::Timeout)
            }
        }
    }

    async fn step(&mut self, uid: Option<&str>, now: Timestamp) -> Result<(), LeaseError> {
        let sent = deadline::now();
        if let Some(version) = self.version.take() {
            match self.write(&version, self.served, now).await {
                // Another write came first, perhaps an own one whose answer was lost.
                Err(error) if is_outrun(&error) => {}
                written => {
                    self.renewed(written?, sent);
                    return Ok(());
                }
            }
        }
        let sent = deadline::now();
        let read = self.api().get_opt(&self.node).await?;
        let spec = read
            .as_ref()
            .map(|lease| lease.spec.clone().unwrap_or_default());
        let version = read.and_then(|lease| lease.metadata.resource_version);
        let version = version.unwrap_or_default();
        match step(spec.as_ref(), &self.node, self.served) {
            Step::Create { epoch } => {
                // The proof of a fence went with the lease: pods are asked for again before they start.
                let gate = self.gate.clone();
                let _closed = gate.write().await;
                let lease = self.create(uid, epoch, now).await?;
                self.renewed(lease, sent);
            }
            Step::Renew { epoch } => {
                let lease = self.write(&version, epoch, now).await?;
                self.renewed(lease, sent);
            }
            Step::Return { epoch } => self.come_back(&version, epoch, now).await?,
        }
        Ok(())
    }

    /// Begins a new epoch after the node was fenced: first the old bodies end, and none can start; then
    /// the lease is taken; then the pods that were bound before are given up, since the control plane may
    /// still be deleting them.
    async fn come_back(
        &mut self,
        version: &str,
        epoch: i32,
        now: Timestamp,
    ) -> Result<(), LeaseError> {
        let node = &self.node;
        tracing::warn!(
            node,
            epoch,
            "the node was fenced: its pods that may fail over end"
        );
        let gate = self.gate.clone();
        let _closed = gate.write().await;
        self.page.set(Duration::ZERO);
        for sandbox in self.runtime.sandboxes().await.map_err(LeaseError::Pods)? {
            if sandbox.spec().lease.is_some() {
                sandbox.destroy().await.map_err(LeaseError::Pods)?;
            }
        }
        let sent = deadline::now();
        let lease = self.write(version, epoch, now).await?;
        self.give_up_pods().await?;
        let (file, text) = (&self.epoch_file, epoch.to_string());
        let kept = beside(|| durable_file::replace(file, text.as_bytes(), 0o644, Durability::Name));
        kept.map_err(LeaseError::Epoch)?;
        self.served = epoch;
        self.renewed(lease, sent);
        Ok(())
    }

    async fn give_up_pods(&self) -> api_client::Result<()> {
        let all: Api<Pod> = Api::all(self.client.clone());
        let here = ListParams::default().fields(&format!("spec.nodeName={}", self.node));
        for pod in all.list(&here).await?.items {
            if ends_with_it(&pod) {
                let namespace = pod.namespace().unwrap_or_default();
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                delete(&pods, &pod.name_any(), Delete::of_uid(uid).at_once()).await?;
            }
        }
        Ok(())
    }

    /// Records an acknowledged renewal.
    fn renewed(&mut self, lease: Lease, sent: Duration) {
        self.version = lease.metadata.resource_version;
        let length = u64::try_from(LEASE_SECONDS).unwrap_or_default();
        self.page.set(sent + Duration::from_secs(length));
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), NODE_LEASES)
    }

    async fn write(&self, version: &str, epoch: i32, now: Timestamp) -> api_client::Result<Lease> {
        let meta = json!({
            "resourceVersion": version,
            "annotations": { ENDS_PODS: "true", FENCED: Value::Null },
        });
        let patch = Patch::Merge(json!({ "metadata": meta, "spec": self.spec(epoch, now) }));
        let params = PatchParams::default();
        self.api().patch(&self.node, &params, &patch).await
    }

    async fn create(
        &self,
        uid: Option<&str>,
        epoch: i32,
        now: Timestamp,
    ) -> api_client::Result<Lease> {
        let owner = uid.map(|uid| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.node.clone(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        });
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.node.clone()),
                namespace: Some(NODE_LEASES.to_owned()),
                owner_references: owner.map(|owner| vec![owner]),
                annotations: Some([(ENDS_PODS.to_owned(), "true".to_owned())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec(epoch, now)),
        };
        self.api().create(&PostParams::default(), &lease).await
    }

    fn spec(&self, epoch: i32, now: Timestamp) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.node.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            lease_transitions: Some(epoch),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }
    }
}

fn is_outrun(error: &api_client::Error) -> bool {
    matches!(refusal(error), Refusal::Conflict | Refusal::NotFound)
}

/// The stored epoch; agents without a file have the first. A file that cannot be understood is none of
/// the epochs, so that the agent begins a new one.
fn read_epoch(file: &Path) -> io::Result<i32> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text.trim().parse().unwrap_or(-1)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Removes the pages of earlier boots, whose readings have no meaning any more.
fn remove_other_pages(dir: &Path, page: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        if path != page && name.is_some_and(|name| name.starts_with(DEADLINE_PAGE)) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_and_the_page_of_this_boot_are_kept() {
        let temp = tempfile::tempdir().unwrap();
        let dir = lease_dir(temp.path());
        tree::make_private(&dir).unwrap();
        let file = dir.join("epoch");
        assert_eq!(read_epoch(&file).unwrap(), 0);
        for (text, expected) in [("3", 3), ("", -1), ("x", -1)] {
            fs::write(&file, text).unwrap();
            assert_eq!(read_epoch(&file).unwrap(), expected);
        }
        let (old, new) = (
            deadline_page(temp.path(), "a"),
            deadline_page(temp.path(), "b"),
        );
        fs::write(&old, "").unwrap();
        fs::write(&new, "").unwrap();
        remove_other_pages(&dir, &new).unwrap();
        assert!(!old.exists() && new.exists() && file.exists());
    }
}
