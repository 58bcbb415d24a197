//! The observed state for the volume binding planner. A cache alone never decides that an object is absent, because a
//! wrong decision would lose data: a claim or volume that is missing in the cache is read from the API server.

use std::sync::Arc;

use controller_framework::{Cache, object_key};
use controller_planners::volume_binding::ClaimView;
use controller_planners::volume_protection::names;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, StorageClass};
use kube_api_client::guarded_writes::existing_object;
use kube_api_client::{Api, Client};
use object_model::ObjectKey;
use resource_kinds::annotations::BIND_COMPLETED;
use resource_kinds::pod_view::PodView;
use resource_kinds::volume_fit::requested_class;

use super::execute::Error;
use crate::Context;

pub(crate) struct Observer {
    client: Client,
    pub claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    pods: Cache<PodView>,
    drivers: Cache<CSIDriver>,
    csi_nodes: Cache<CSINode>,
}

/// The observed state of one claim.
pub(crate) struct ObservedClaim {
    pub claim: Arc<PersistentVolumeClaim>,
    pub volumes: Vec<Arc<PersistentVolume>>,
    classes: Vec<Arc<StorageClass>>,
    unscheduled_pods: Vec<String>,
    is_driver_absent: bool,
}

impl ObservedClaim {
    pub fn view(&self) -> ClaimView<'_> {
        ClaimView {
            claim: &self.claim,
            volumes: &self.volumes,
            classes: &self.classes,
            unscheduled_pods: &self.unscheduled_pods,
            is_driver_absent: self.is_driver_absent,
        }
    }
}

impl Observer {
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            claims: context.caches.claims.clone(),
            volumes: context.caches.volumes.clone(),
            classes: context.caches.classes.clone(),
            pods: context.caches.pods.clone(),
            drivers: context.cache(),
            csi_nodes: context.cache(),
        }
    }

    pub async fn wait_synced(&self) -> bool {
        self.claims.wait_synced().await
            && self.volumes.wait_synced().await
            && self.classes.wait_synced().await
            && self.pods.wait_synced().await
            && self.drivers.wait_synced().await
            && self.csi_nodes.wait_synced().await
    }

    /// The observed state of a claim; `None` if the claim was deleted.
    pub async fn claim(&self, key: &ObjectKey) -> Result<Option<ObservedClaim>, Error> {
        let Some(claim) = self.claims.get_key(key) else {
            return Ok(None);
        };
        let mut volumes = self.volumes.list();
        if let Some(name) = volume_of(&claim)
            && self.volumes.get("", &name).is_none()
        {
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            volumes.extend(existing_object(api.get(&name).await)?.map(Arc::new));
        }
        let unscheduled_pods = if is_unbound(&claim) {
            self.unscheduled_pods(key)
        } else {
            Vec::new()
        };
        let classes = self.classes.list();
        let is_driver_absent = self.is_driver_absent(&claim);
        Ok(Some(ObservedClaim {
            claim,
            volumes,
            classes,
            unscheduled_pods,
            is_driver_absent,
        }))
    }

    /// Whether the provisioner of an unbound claim's class is a CSI driver that runs on no node.
    fn is_driver_absent(&self, claim: &PersistentVolumeClaim) -> bool {
        let class = requested_class(claim).filter(|_| is_unbound(claim));
        let Some(class) = class.and_then(|class| self.classes.get("", class)) else {
            return false;
        };
        let driver = &class.provisioner;
        let runs = |node: &CSINode| node.spec.drivers.iter().any(|one| one.name == *driver);
        self.drivers.get("", driver).is_some()
            && !self.csi_nodes.list().iter().any(|node| runs(node))
    }

    /// A volume and the claim of its `claimRef`; `None` if the volume was deleted.
    pub async fn volume(&self, name: &str) -> Result<Option<ObservedVolume>, Error> {
        let Some(volume) = self.volumes.get("", name) else {
            return Ok(None);
        };
        let reference = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.claim_ref.as_ref());
        let uid = reference.and_then(|reference| reference.uid.clone());
        let (Some(key), Some(uid)) = (claim_of(&volume), uid) else {
            return Ok(Some((volume, None)));
        };
        let is_meant =
            |claim: &Arc<PersistentVolumeClaim>| claim.metadata.uid.as_ref() == Some(&uid);
        let claim = match self.claims.get_key(&key).filter(is_meant) {
            Some(claim) => Some(claim),
            None => {
                let api: Api<PersistentVolumeClaim> =
                    Api::namespaced(self.client.clone(), &key.namespace);
                existing_object(api.get(&key.name).await)?
                    .map(Arc::new)
                    .filter(is_meant)
            }
        };
        Ok(Some((volume, claim)))
    }

    /// Unbound claims that the pod uses.
    pub fn unbound_claims_of(&self, pod: &PodView) -> Vec<ObjectKey> {
        let claims = pod.claims.iter();
        let keys = claims.map(|claim| ObjectKey::new(&*pod.namespace, &*claim.name));
        keys.filter(|key| {
            self.claims
                .get_key(key)
                .is_some_and(|claim| is_unbound(&claim))
        })
        .collect()
    }

    /// Volumes reserved for a claim of that name.
    pub fn volumes_reserved_for(&self, claim: &ObjectKey) -> Vec<String> {
        let volumes = self.volumes.list().into_iter();
        let reserved = volumes.filter(|volume| claim_of(volume).as_ref() == Some(claim));
        reserved
            .filter_map(|volume| volume.metadata.name.clone())
            .collect()
    }

    /// Claims that name the volume.
    pub fn claims_that_name(&self, volume: &str) -> Vec<ObjectKey> {
        let claims = self.claims.list().into_iter();
        let naming = claims.filter(|claim| volume_of(claim).as_deref() == Some(volume));
        naming.map(|claim| object_key(&*claim)).collect()
    }

    fn unscheduled_pods(&self, claim: &ObjectKey) -> Vec<String> {
        let pods = self.pods.list_in(&claim.namespace).into_iter();
        let waiting = pods.filter(|pod| pod.node.is_none() && names(pod, &claim.name));
        waiting.map(|pod| pod.name.to_string()).collect()
    }
}

/// A volume with the claim that it is reserved for.
type ObservedVolume = (Arc<PersistentVolume>, Option<Arc<PersistentVolumeClaim>>);

/// The claim of a volume's `claimRef`.
pub(crate) fn claim_of(volume: &PersistentVolume) -> Option<ObjectKey> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(ObjectKey::new(
        reference.namespace.clone()?,
        reference.name.clone()?,
    ))
}

/// The volume of a claim's `volumeName`.
pub(crate) fn volume_of(claim: &PersistentVolumeClaim) -> Option<String> {
    let name = claim.spec.as_ref()?.volume_name.clone();
    name.filter(|name| !name.is_empty())
}

/// Whether a claim's binding is incomplete.
pub(crate) fn is_unbound(claim: &PersistentVolumeClaim) -> bool {
    let annotations = claim.metadata.annotations.as_ref();
    !annotations.is_some_and(|all| all.contains_key(BIND_COMPLETED))
}
