//! Provisioning of a volume for a claim.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use controller_framework::ReconcileResult;
use controller_planners::volume_provisioning::local::{
    DataSource, Provisioning, claim_mode, class_name, data_source, other_mode, provisioning,
    size_of, size_of_volume, volume,
};
use controller_planners::volume_provisioning::volume_name;
use json_tree::json;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube_api_client::guarded_writes::{WriteRefusal, chain, merge, refusal};
use kube_api_client::{Api, ListParams, PostParams};
use object_model::{ObjectKey, Uid};
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::{SELECTED_NODE, VOLUME_REPLICATION};
use resource_kinds::node_conditions;
use resource_kinds::reasons::volume as reasons;
use resource_kinds::storage::Driver;
use resource_kinds::storage::nfs_class::NfsClass;
use resource_kinds::storage::volume_replication::{VolumeReplication, parameters_of_class};
use resource_kinds::volume_fit::only_node;
use volume_storage::{InitialContents, StorageError};

use super::Provisioner;
use super::error::ProvisionerError as Error;
use super::setbacks::Cause;

/// The initial contents of a volume.
pub(crate) enum Source {
    /// The source is on this node.
    Here(InitialContents),
    /// The source is on another node.
    On(String),
}

impl Provisioner {
    /// Provisions a volume for the claim, or expands its volume, if this node is responsible.
    pub(crate) async fn serve_claim(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        let Some(claim) = self.claims.get_key(key) else {
            return Ok(ReconcileResult::Done);
        };
        let names = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.as_ref());
        match names.and_then(|name| self.volumes.get("", name)) {
            // The write of the condition queues the claim again.
            Some(volume) if self.show_size(&claim, &volume).await? => Ok(ReconcileResult::Done),
            Some(volume) => self.expand(&claim, &volume).await,
            None => self.provision(&claim).await,
        }
    }

    async fn provision(&self, claim: &PersistentVolumeClaim) -> Result<ReconcileResult, Error> {
        let class = class_name(claim).and_then(|class| self.classes.get("", class));
        let needed = provisioning(claim, class.as_deref(), &self.config.node_name);
        let uid = claim.metadata.object_uid()?;
        let Some(class) = class.filter(|_| needed != Provisioning::None) else {
            return Ok(ReconcileResult::Done);
        };
        let name = volume_name(claim)?;
        if self.volumes.get("", &name).is_some() {
            return Ok(ReconcileResult::Done); // made; the binder goes on
        }
        if let Some(delay) = self.waits(&uid) {
            return Ok(ReconcileResult::RequeueAfter(delay));
        }
        let attempt = match needed {
            Provisioning::Unsupported(text) => Err(Error::Unsupported(text)),
            Provisioning::Anywhere if !self.is_first_node().await? => {
                return Ok(ReconcileResult::Done);
            }
            _ => match NfsClass::of(&class) {
                Some(Ok(nfs)) => self.make_directory(claim, &class, &nfs, &name).await,
                Some(Err(error)) => Err(Error::Unsupported(error.to_string())),
                None => self.make(claim, &class, &name).await,
            },
        };
        match attempt {
            Ok(()) => {
                self.forget_setbacks(&uid);
                Ok(ReconcileResult::Done)
            }
            Err(error) => self.give_up(claim, &class, &uid, &error).await,
        }
    }

    /// The remaining back-off of a claim.
    pub(crate) fn waits(&self, uid: &Uid) -> Option<Duration> {
        let setbacks = self.setbacks.lock().unwrap_or_else(PoisonError::into_inner);
        setbacks.remaining(uid, Instant::now())
    }

    /// Records a failure of a claim; returns the back-off.
    pub(crate) fn note_setback(&self, uid: &Uid, cause: Cause) -> Duration {
        let mut setbacks = self.setbacks.lock().unwrap_or_else(PoisonError::into_inner);
        setbacks.add(uid, cause, Instant::now())
    }

    /// Forgets the failures of a claim that has got its volume.
    pub(crate) fn forget_setbacks(&self, uid: &Uid) {
        let mut setbacks = self.setbacks.lock().unwrap_or_else(PoisonError::into_inner);
        setbacks.forget(uid);
    }

    async fn make(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        name: &str,
    ) -> Result<(), Error> {
        let driver = Driver::of_provisioner(&class.provisioner)
            .ok_or_else(|| Error::Unsupported("the class is another provisioner's".to_owned()))?;
        let replicated =
            parameters_of_class(class).map_err(|error| Error::Unsupported(error.to_string()))?;
        let content = match self.source(claim, driver).await? {
            Source::Here(content) => content,
            Source::On(node) => return self.select_node(claim, Some(&node)).await,
        };
        let storage = &self.config.storage;
        let (bytes, mode) = (size_of(claim), claim_mode(claim));
        let path = storage.make(driver, name, bytes, content, mode).await?;
        let mut persistent_volume = volume(claim, class, &self.config.node_name, &path)?;
        if let Some(parameters) = replicated {
            let record = VolumeReplication::new(&self.config.node_name, parameters);
            let annotations = persistent_volume
                .metadata
                .annotations
                .get_or_insert_default();
            annotations.insert(VOLUME_REPLICATION.to_owned(), record.to_text());
        }
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &persistent_volume).await {
            Ok(_) => {
                let text = format!(
                    "Successfully provisioned volume {name} using {}",
                    class.provisioner
                );
                self.recorder
                    .normal(claim, reasons::PROVISIONING_SUCCEEDED, text);
                tracing::info!(volume = name, path = %path.display(), "volume made");
                Ok(())
            }
            Err(error) if refusal(&error) == WriteRefusal::AlreadyExists => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The initial contents of the claim's volume (statefulset.md §11.15).
    async fn source(&self, claim: &PersistentVolumeClaim, driver: Driver) -> Result<Source, Error> {
        match data_source(claim) {
            DataSource::Nothing => Ok(Source::Here(InitialContents::Empty)),
            DataSource::Claim(name) => self.cloned_claim(claim, &name, driver),
            DataSource::Snapshot(name) => self.restored_snapshot(claim, &name, driver).await,
            DataSource::Other(text) => Err(Error::Unsupported(text)),
        }
    }

    fn cloned_claim(
        &self,
        claim: &PersistentVolumeClaim,
        name: &str,
        driver: Driver,
    ) -> Result<Source, Error> {
        let namespace = claim.metadata.object_namespace()?;
        let cannot = |why: &str| Error::Source(format!("cannot clone the claim {name:?}: {why}"));
        let source = self.claims.get(namespace, name);
        let source = source.ok_or_else(|| cannot("it does not exist"))?;
        if source.metadata.deletion_timestamp.is_some() {
            return Err(cannot("it is being deleted"));
        }
        let bound_to = source
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.as_ref());
        let volume = bound_to.and_then(|bound_to| self.volumes.get("", bound_to));
        let volume = volume.ok_or_else(|| cannot("it is not bound"))?;
        if Driver::of_volume(&volume) != Some(driver) {
            return Err(cannot("its volume is of another kind of class"));
        }
        let mode = volume.spec.as_ref();
        let mode = mode.and_then(|spec| spec.volume_mode.as_deref());
        if let Some(why) = other_mode(claim, mode) {
            return Err(cannot(&why));
        }
        if size_of(claim) < size_of_volume(&volume) {
            return Err(cannot("the new claim is smaller"));
        }
        let volume_name = volume.metadata.object_name()?.to_owned();
        Ok(match only_node(&volume) {
            Some(node) if node != self.config.node_name => Source::On(node.to_owned()),
            _ => Source::Here(InitialContents::OfVolume(volume_name)),
        })
    }

    /// Reports a failure. A pod that was scheduled here for the volume is released for scheduling
    /// (statefulset.md §11.6); after a refusal by the API server this node retries.
    async fn give_up(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        uid: &Uid,
        error: &Error,
    ) -> Result<ReconcileResult, Error> {
        let cause = match error {
            Error::Api(_) | Error::Identity(_) | Error::Unsupported(_) | Error::Source(_) => {
                Cause::Other
            }
            Error::Storage(
                StorageError::Unsupported(_)
                | StorageError::Source(_)
                | StorageError::NoCopies { .. },
            ) => Cause::Other,
            Error::Storage(_) => Cause::Node,
        };
        let delay = self.note_setback(uid, cause);
        let class_name = class.metadata.object_name()?;
        let text = format!(
            "failed to provision volume with StorageClass {class_name:?}: {}",
            chain(error)
        );
        tracing::warn!(claim = claim.metadata.name, error = text, "volume not made");
        self.recorder
            .warning(claim, reasons::PROVISIONING_FAILED, text);
        if cause == Cause::Node {
            self.select_node(claim, None).await?;
        }
        Ok(ReconcileResult::RequeueAfter(delay))
    }

    /// Sends the pod of the volume to another node, or back to the scheduler.
    async fn select_node(
        &self,
        claim: &PersistentVolumeClaim,
        node: Option<&str>,
    ) -> Result<(), Error> {
        let namespace = claim.metadata.object_namespace()?;
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
        merge(&api, claim, patch).await?;
        Ok(())
    }

    /// The first ready node by name provisions the claims without a selected node, so that exactly one node creates
    /// each volume.
    pub(crate) async fn is_first_node(&self) -> Result<bool, Error> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let listed = nodes.list(&ListParams::default()).await?;
        let ready = listed
            .items
            .iter()
            .filter(|node| node_conditions::is_ready(node));
        let first = ready.filter_map(|node| node.metadata.name.as_deref()).min();
        Ok(first.is_none_or(|first| first == self.config.node_name))
    }
}
