//! The lease of a simulated node, and the end of bodies with it.
//!
//! As the node agent and the shims have it: renewals are guarded by version and epoch, the deadline
//! counts from the sending of an acknowledged renewal, bodies end at the deadline without an agent, and
//! a node that was fenced returns without the bodies of the former epoch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_client::{Api, Client, ListParams, Patch, PatchParams, PostParams, ResourceExt, Result};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use pod_lifecycle::node::lease::{Step, ends_with_it, step};
use reconcile::execute::{Delete, Refusal, delete, refusal};
use resource_kinds::annotations::{ENDS_PODS, FENCED};
use resource_kinds::namespaces::NODE_LEASES;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::instances::Instances;
use crate::trace;

const LENGTH: Duration = Duration::from_secs(40);

/// The part of a machine that outlives its agent: the deadline page and the epoch. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MachineLease(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    epoch: i32,
    deadline: Option<Instant>,
    /// Counts the times at which bodies of before may not be started any more.
    turn: u64,
    /// For a mutation: bodies do not end at the deadline.
    outlived: bool,
}

impl MachineLease {
    /// A lease that bodies outlive, for a mutation.
    pub fn outlived() -> Self {
        let lease = Self::default();
        lease.kept().outlived = true;
        lease
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether bodies that end with the lease may run at that time.
    pub fn lets_run(&self, now: Instant) -> bool {
        let kept = self.kept();
        kept.outlived || kept.deadline.is_some_and(|deadline| now < deadline)
    }

    fn begin_turn(&self) {
        self.kept().turn += 1;
    }
}

/// Whether the body of a pod may be started: the pod is still bound to the node, and nothing that ends
/// its body has happened in the meantime.
pub(super) async fn may_start(
    lease: &MachineLease,
    client: &Client,
    node: &str,
    pod: &Pod,
) -> Result<bool> {
    let turn = lease.kept().turn;
    if !lease.lets_run(Instant::now()) {
        return Ok(false);
    }
    let namespace = pod.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let found = pods.get_opt(&pod.name_any()).await?;
    let bound = found.is_some_and(|found| {
        let on = found
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref());
        found.metadata.uid == pod.metadata.uid && on == Some(node)
    });
    Ok(bound && lease.kept().turn == turn && lease.lets_run(Instant::now()))
}

/// Renews the lease of a node.
pub(super) struct Keeper {
    pub client: Client,
    pub node: String,
    pub instances: Instances,
    pub lease: MachineLease,
    /// The resourceVersion after the last write.
    pub version: Option<String>,
}

impl Keeper {
    pub async fn renew(&mut self, now: Timestamp) -> Result<()> {
        let served = self.lease.kept().epoch;
        let sent = Instant::now();
        if let Some(version) = self.version.take() {
            match self.write(&version, served, now).await {
                Err(error) if is_outrun(&error) => {}
                written => {
                    self.renewed(written?, sent);
                    return Ok(());
                }
            }
        }
        let sent = Instant::now();
        let read = self.api().get_opt(&self.node).await?;
        let spec = read
            .as_ref()
            .map(|lease| lease.spec.clone().unwrap_or_default());
        let version = read.and_then(|lease| lease.metadata.resource_version);
        let version = version.unwrap_or_default();
        match step(spec.as_ref(), &self.node, served) {
            Step::Create { epoch } => {
                self.lease.begin_turn();
                let lease = json!({
                    "metadata": { "name": self.node, "annotations": { ENDS_PODS: "true" } },
                    "spec": self.spec(epoch, now),
                });
                let lease = serde_json::from_value(lease).map_err(api_client::Error::Json)?;
                let lease = self.api().create(&PostParams::default(), &lease).await?;
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

    async fn come_back(&mut self, version: &str, epoch: i32, now: Timestamp) -> Result<()> {
        trace!("{} was fenced and returns in epoch {epoch}", self.node);
        self.lease.begin_turn();
        self.lease.kept().deadline = None;
        self.instances.end_leased(&self.node);
        let sent = Instant::now();
        let lease = self.write(version, epoch, now).await?;
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
        self.lease.kept().epoch = epoch;
        self.renewed(lease, sent);
        Ok(())
    }

    fn renewed(&mut self, lease: Lease, sent: Instant) {
        self.version = lease.metadata.resource_version;
        // What ended at the former deadline does not run on.
        if !self.lease.lets_run(Instant::now()) {
            self.instances.end_leased(&self.node);
        }
        self.lease.kept().deadline = Some(sent + LENGTH);
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), NODE_LEASES)
    }

    async fn write(&self, version: &str, epoch: i32, now: Timestamp) -> Result<Lease> {
        let meta = json!({
            "resourceVersion": version,
            "annotations": { ENDS_PODS: "true", FENCED: Value::Null },
        });
        let patch = Patch::Merge(json!({ "metadata": meta, "spec": self.spec(epoch, now) }));
        self.api()
            .patch(&self.node, &PatchParams::default(), &patch)
            .await
    }

    fn spec(&self, epoch: i32, now: Timestamp) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.node.clone()),
            lease_duration_seconds: i32::try_from(LENGTH.as_secs()).ok(),
            lease_transitions: Some(epoch),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }
    }
}

fn is_outrun(error: &api_client::Error) -> bool {
    matches!(refusal(error), Refusal::Conflict | Refusal::NotFound)
}
