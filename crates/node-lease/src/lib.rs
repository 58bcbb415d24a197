//! The renewals of a node's Lease, and the deadline that follows from each renewal.
//!
//! Each renewal is guarded by the resourceVersion and the epoch. If the control plane fences the node while a renewal
//! is in transit, the renewal is refused. An acknowledged renewal moves the deadline of the pods that end with the
//! Lease; the deadline counts from the time at which the renewal was sent. The next renewal is not sent before the
//! deadline is written. The node agent and the simulated nodes share this code; [`LeasedMachine`] is the difference
//! between them.

mod length;
#[cfg(test)]
mod tests;

use std::ops::Add;
use std::time::Duration;

use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube_api_client::guarded_writes::{Delete, WriteRefusal, delete, refusal};
use kube_api_client::{Api, Client, ListParams, Patch, PatchParams, PostParams};
use object_model::ResourceVersion;
use pod_lifecycle::PodIdentity;
use pod_lifecycle::node::lease::{LeaseStep, ends_with_it, step};
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::{ENDS_PODS, FENCED};
use resource_kinds::namespaces::NODE_LEASES;

pub use length::LeaseLength;

/// The machine of a node: its clock, its running pods, and the epoch and deadline that survive a restart of the agent.
pub trait LeasedMachine: Send {
    /// A reading of the clock of deadlines. The clock continues while the machine is suspended.
    type Instant: Copy + Send + Add<Duration, Output = Self::Instant>;
    /// A guard against starts: while a value exists, no pod that ends with the Lease starts.
    type Closed: Send;
    /// A failed operation of the machine or of the API.
    type Error: From<kube_api_client::Error> + Send;

    /// Reads the clock.
    fn now(&self) -> Self::Instant;

    /// The epoch in which this machine runs pods.
    fn epoch(&self) -> i32;

    /// Waits for the starts of pods in progress, and delays further starts.
    fn close(&self) -> impl Future<Output = Self::Closed> + Send;

    /// Stops all pods that end with the Lease.
    fn end_pods(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Stores a new epoch durably.
    fn store_epoch(&mut self, epoch: i32) -> Result<(), Self::Error>;

    /// Moves the deadline, at which the pods that end with the Lease are killed.
    fn set_deadline(&mut self, deadline: Self::Instant) -> Result<(), Self::Error>;
}

/// The keeper of a node's lease.
pub struct LeaseKeeper<M: LeasedMachine> {
    client: Client,
    node: String,
    length: LeaseLength,
    machine: M,
    /// The resourceVersion of the Lease after the last write of this agent.
    version: Option<ResourceVersion>,
    /// The deadline of an acknowledged renewal that is not written yet.
    unwritten: Option<M::Instant>,
}

impl<M: LeasedMachine> LeaseKeeper<M> {
    /// The keeper of the Lease of the given node.
    pub fn new(client: Client, node: String, length: LeaseLength, machine: M) -> Self {
        Self {
            client,
            node,
            length,
            machine,
            version: None,
            unwritten: None,
        }
    }

    /// Renews or creates the Lease; `uid` is the UID of the Node object. If the future is dropped, the renewal may
    /// still be stored, so the next renewal reads the Lease.
    ///
    /// # Errors
    /// The API server refused the renewal or is unreachable, the pods of an earlier epoch could not be stopped, or a
    /// deadline could not be written.
    pub async fn renew(&mut self, uid: Option<&str>, now: Timestamp) -> Result<(), M::Error> {
        self.write_deadline()?;
        let sent = self.machine.now();
        if let Some(version) = self.version.take() {
            match self.write(uid, version, self.machine.epoch(), now).await {
                // Another write was first, perhaps a write of this agent whose response was lost.
                Err(error) if is_outrun(&error) => {}
                result => return self.renewed(&result?, sent),
            }
        }
        let sent = self.machine.now();
        let lease = self.api().get_opt(&self.node).await?;
        let version = lease.as_ref().and_then(version);
        let spec = lease.map(|lease| lease.spec.unwrap_or_default());
        match step(spec.as_ref(), &self.node, self.machine.epoch()) {
            LeaseStep::Renew { epoch } => {
                let lease = self.write_or_create(uid, version, epoch, now).await?;
                self.renewed(&lease, sent)
            }
            LeaseStep::Return { epoch } => {
                let node = &self.node;
                match version {
                    Some(_) => tracing::warn!(
                        node,
                        epoch,
                        "the node was fenced: its pods that may fail over end"
                    ),
                    None => tracing::info!(node, epoch, "the node has no lease: an epoch begins"),
                }
                self.come_back(uid, version, epoch, now).await
            }
        }
    }

    /// Begins a new epoch after the node was fenced. First the pods of earlier epochs are stopped, and no pod can
    /// start. Then the Lease is taken over, or created if it was deleted. Then the pods that were bound before are
    /// given up, because the control plane may still be deleting them.
    async fn come_back(
        &mut self,
        uid: Option<&str>,
        version: Option<ResourceVersion>,
        epoch: i32,
        now: Timestamp,
    ) -> Result<(), M::Error> {
        let _closed = self.machine.close().await;
        self.machine.end_pods().await?;
        let sent = self.machine.now();
        let lease = self.write_or_create(uid, version, epoch, now).await?;
        self.give_up_pods().await?;
        self.machine.store_epoch(epoch)?;
        self.renewed(&lease, sent)
    }

    async fn give_up_pods(&self) -> kube_api_client::Result<()> {
        let all: Api<Pod> = Api::all(self.client.clone());
        let here = ListParams::default().fields(&format!("spec.nodeName={}", self.node));
        for pod in all.list(&here).await?.items {
            if ends_with_it(&pod) {
                let pod = match PodIdentity::read(&pod) {
                    Ok(pod) => pod,
                    Err(error) => {
                        tracing::error!(%error, "a pod of the node is ignored");
                        continue;
                    }
                };
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), pod.namespace());
                let how = Delete::of_uid(pod.uid.clone()).at_once();
                delete(&pods, pod.name(), how).await?;
            }
        }
        Ok(())
    }

    /// Records an acknowledged renewal.
    fn renewed(&mut self, lease: &Lease, sent: M::Instant) -> Result<(), M::Error> {
        self.version = version(lease);
        self.unwritten = Some(sent + self.length.duration());
        self.write_deadline()
    }

    /// Writes the deadline of the last renewal. A node that cannot write it does not renew its Lease: the pods of the
    /// node are killed at the former deadline, and may fail over afterwards.
    fn write_deadline(&mut self) -> Result<(), M::Error> {
        if let Some(deadline) = self.unwritten {
            self.machine.set_deadline(deadline)?;
            self.unwritten = None;
        }
        Ok(())
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), NODE_LEASES)
    }

    /// Writes the Lease over the version that was read, or creates the Lease if there was none.
    async fn write_or_create(
        &self,
        uid: Option<&str>,
        version: Option<ResourceVersion>,
        epoch: i32,
        now: Timestamp,
    ) -> kube_api_client::Result<Lease> {
        match version {
            Some(version) => self.write(uid, version, epoch, now).await,
            None => self.create(uid, epoch, now).await,
        }
    }

    /// Writes the Lease over the given version. A recreated Node object owns the Lease, too.
    async fn write(
        &self,
        uid: Option<&str>,
        version: ResourceVersion,
        epoch: i32,
        now: Timestamp,
    ) -> kube_api_client::Result<Lease> {
        let mut meta = json!({
            "resourceVersion": version.to_string(),
            "annotations": { ENDS_PODS: "true", FENCED: Value::Null },
        });
        if let Some(uid) = uid {
            meta["ownerReferences"] = json!([self.owner(uid)]);
        }
        let patch = Patch::Merge(json!({ "metadata": meta, "spec": self.spec(epoch, now) }));
        let params = PatchParams::default();
        self.api().patch(&self.node, &params, &patch).await
    }

    async fn create(
        &self,
        uid: Option<&str>,
        epoch: i32,
        now: Timestamp,
    ) -> kube_api_client::Result<Lease> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.node.clone()),
                namespace: Some(NODE_LEASES.to_owned()),
                owner_references: uid.map(|uid| vec![self.owner(uid)]),
                annotations: Some([(ENDS_PODS.to_owned(), "true".to_owned())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec(epoch, now)),
        };
        self.api().create(&PostParams::default(), &lease).await
    }

    fn owner(&self, uid: &str) -> OwnerReference {
        OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.node.clone(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }
    }

    fn spec(&self, epoch: i32, now: Timestamp) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.node.clone()),
            lease_duration_seconds: i32::try_from(self.length.seconds()).ok(),
            lease_transitions: Some(epoch),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }
    }
}

/// `None` for a Lease without a version, which no API server sends: the next renewal reads the Lease again.
fn version(lease: &Lease) -> Option<ResourceVersion> {
    lease.metadata.object_version().ok()
}

fn is_outrun(error: &kube_api_client::Error) -> bool {
    matches!(
        refusal(error),
        WriteRefusal::Conflict | WriteRefusal::NotFound
    )
}
