//! The volumes that a simulated node provisions for claims.

use std::sync::Arc;

use controller_framework::{Queue, ReconcileResult, object_key, run_workers};
use json_tree::json;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube_api_client::guarded_writes::{Delete, WriteRefusal, delete, refusal};
use kube_api_client::{Api, PostParams, Result};
use object_model::ObjectKey;
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::{PROVISIONED_BY, SELECTED_NODE};
use tokio_util::sync::CancellationToken;

use super::Agent;

impl Agent {
    pub(super) async fn manage_volumes(self: Arc<Self>, shutdown: CancellationToken) {
        if !self.claims.wait_synced().await || !self.volumes.wait_synced().await {
            return;
        }
        let queue = Queue::new();
        let claims = async {
            let mut changes = self.claims.subscribe();
            while let Some(change) = changes.next().await {
                queue.add((true, object_key(&**change.object())));
            }
        };
        let volumes = async {
            let mut changes = self.volumes.subscribe();
            while let Some(change) = changes.next().await {
                queue.add((false, object_key(&**change.object())));
            }
        };
        let agent = self.clone();
        let work = run_workers(
            queue.clone(),
            1,
            shutdown,
            move |(is_claim, key): (bool, ObjectKey)| {
                let agent = agent.clone();
                async move {
                    let result = match is_claim {
                        true => agent.create_volume(&key).await,
                        false => agent.remove_volume(&key).await,
                    };
                    result.map(|()| ReconcileResult::Done)
                }
            },
        );
        tokio::join!(claims, volumes, work);
    }

    async fn create_volume(&self, key: &ObjectKey) -> Result<()> {
        let Some(claim) = self.claims.get_key(key) else {
            return Ok(());
        };
        let annotations = claim.metadata.annotations.clone().unwrap_or_default();
        let spec = claim.spec.clone().unwrap_or_default();
        let is_on_node = annotations.get(SELECTED_NODE) == Some(&self.settings.name);
        let is_terminating = claim.metadata.deletion_timestamp.is_some();
        if !is_on_node || is_terminating || spec.volume_name.is_some_and(|name| !name.is_empty()) {
            return Ok(());
        }
        let uid = claim.metadata.uid.clone().unwrap_or_default();
        let volume = json!({
            "metadata": {
                "name": format!("pvc-{uid}"),
                "annotations": {PROVISIONED_BY: "mainstay.dev/local"},
            },
            "spec": {
                "accessModes": spec.access_modes,
                "capacity": {"storage": "1Gi"},
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "namespace": key.namespace, "name": key.name, "uid": uid},
                "local": {"path": format!("/volumes/{uid}")},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{
                    "key": "kubernetes.io/hostname", "operator": "In",
                    "values": [self.settings.name]}]}]}},
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": spec.storage_class_name,
                "volumeMode": "Filesystem",
            },
        });
        let volume: PersistentVolume =
            json_tree::from_value(volume).map_err(kube_api_client::Error::Json)?;
        let api: Api<PersistentVolume> = Api::all(self.provisioner.clone());
        match api.create(&PostParams::default(), &volume).await {
            Err(error) if refusal(&error) != WriteRefusal::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    async fn remove_volume(&self, key: &ObjectKey) -> Result<()> {
        let Some(volume) = self.volumes.get_key(key) else {
            return Ok(());
        };
        let affinity = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.node_affinity.as_ref());
        let terms = affinity.and_then(|affinity| affinity.required.as_ref());
        let mut terms = terms
            .into_iter()
            .flat_map(|terms| &terms.node_selector_terms);
        let is_on_node = terms.any(|term| {
            let mut expressions = term.match_expressions.iter().flatten();
            expressions.any(|expression| {
                expression
                    .values
                    .iter()
                    .flatten()
                    .any(|name| *name == self.settings.name)
            })
        });
        let phase = volume
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if !is_on_node || phase != Some("Released") {
            return Ok(());
        }
        let api: Api<PersistentVolume> = Api::all(self.provisioner.clone());
        let uid = volume.metadata.object_uid()?;
        delete(&api, &key.name, Delete::of_uid(uid)).await.map(drop)
    }
}
