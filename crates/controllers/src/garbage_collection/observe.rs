//! The observed state of an object, its owners and its dependents.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use controller_framework::{EventType, Recorder};
use controller_planners::garbage_collection::{CollectedObject, Dependent, Owner, OwnerState};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use object_model::{IncompleteMetadata, Uid};
use resource_kinds::namespaces::NODE_LEASES;
use resource_kinds::reasons::metadata::MALFORMED;

use crate::inventory::{Inventory, ListedObject, Meta};

/// Maximum number of remembered UIDs of absent owners; a UID never returns.
const ABSENT_MAX: usize = 500;

/// The error of an observation.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("no such kind is served: {api_version} {kind}")]
    UnknownKind { api_version: String, kind: String },
    #[error("read owner {name}")]
    ReadOwner {
        name: String,
        #[source]
        source: kube_api_client::Error,
    },
    #[error("identity of an object or of its owner")]
    Identity(#[from] IncompleteMetadata),
}

pub(super) struct Observer {
    inventory: Arc<Inventory>,
    recorder: Recorder,
    absent: Mutex<Absent>,
}

#[derive(Default)]
struct Absent {
    uids: HashSet<Uid>,
    order: VecDeque<Uid>,
}

impl Observer {
    pub fn new(inventory: Arc<Inventory>, recorder: Recorder) -> Self {
        Self {
            inventory,
            recorder,
            absent: Mutex::default(),
        }
    }

    pub async fn observe(
        &self,
        uid: &Uid,
    ) -> Result<Option<(ListedObject, CollectedObject)>, Error> {
        let Some(listed) = self.inventory.by_uid(uid) else {
            return Ok(None);
        };
        let meta = &listed.object;
        let deleting = meta.deleting;
        let mut owners = Vec::new();
        // Owners matter only for objects that are not being deleted.
        for owner in meta.owners.iter().filter(|_| !deleting) {
            let uid = owner.uid.parse()?;
            let state = self.state(&listed, owner, &uid).await?;
            owners.push(Owner { uid, state });
        }
        let mut item = CollectedObject {
            deleting,
            finalizers: meta.finalizers.to_vec(),
            owners,
            dependents: Vec::new(),
        };
        if item.needs_dependents() {
            let dependents = self.inventory.by_owner(uid).into_iter();
            let dependents = dependents.map(|listed| dependent(&listed.object, uid));
            item.dependents = dependents.collect();
        }
        Ok(Some((listed, item)))
    }

    async fn state(
        &self,
        dependent: &ListedObject,
        owner: &OwnerReference,
        uid: &Uid,
    ) -> Result<OwnerState, Error> {
        let namespace = &dependent.object.namespace;
        let resource = &self.inventory.resources[dependent.resource].api;
        // The lease of a node must outlive its Node object: the machine may still run after the deletion of the Node,
        // and no pod may be replaced without the lease. Pod garbage collection deletes the lease after the pods.
        if **namespace == *NODE_LEASES && resource.kind == "Lease" && owner.kind == "Node" {
            return Ok(OwnerState::Solid);
        }
        let kind = self.inventory.resource_of(&owner.api_version, &owner.kind);
        let kind = kind.ok_or_else(|| Error::UnknownKind {
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
        })?;
        let namespaced = self.inventory.resources[kind].namespaced;
        if namespaced && namespace.is_empty() {
            // The reference cannot be resolved, so the object is kept.
            self.report(dependent, owner);
            return Ok(OwnerState::Solid);
        }
        if let Some(cached_owner) = self.inventory.by_uid(uid) {
            let elsewhere = cached_owner.object.namespace != *namespace;
            if cached_owner.resource != kind || (namespaced && elsewhere) {
                self.report(dependent, owner);
                return Ok(OwnerState::Absent);
            }
            return Ok(state_of(&cached_owner.object));
        }
        if self.is_absent(uid) {
            return Ok(OwnerState::Absent);
        }
        let api = self.inventory.api(kind, namespace);
        let live = api.get_opt(&owner.name).await;
        let live = live.map_err(|source| Error::ReadOwner {
            name: owner.name.clone(),
            source,
        })?;
        let live = live.map(Meta::try_from).transpose()?;
        match live.filter(|live| live.uid == *uid) {
            Some(live) => Ok(state_of(&live)),
            None => {
                self.remember_absent(uid);
                Ok(OwnerState::Absent)
            }
        }
    }

    fn is_absent(&self, uid: &Uid) -> bool {
        self.absent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .uids
            .contains(uid)
    }

    fn remember_absent(&self, uid: &Uid) {
        let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        if absent.uids.insert(uid.clone()) {
            absent.order.push_back(uid.clone());
        }
        if absent.order.len() > ABSENT_MAX
            && let Some(oldest) = absent.order.pop_front()
        {
            absent.uids.remove(&oldest);
        }
    }

    fn report(&self, item: &ListedObject, owner: &OwnerReference) {
        let namespace = &item.object.namespace;
        let text = format!(
            "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in \
             namespace \"{namespace}\"",
            owner.api_version, owner.kind, owner.name, owner.uid
        );
        self.warn(
            item.resource,
            &item.object,
            "OwnerRefInvalidNamespace",
            text,
        );
    }

    /// Reports that parts of the object's stored metadata are left out.
    pub fn report_malformed(&self, resource: usize, meta: &Meta) {
        let Some(parts) = &meta.malformed else {
            return;
        };
        let text = format!(
            "the stored metadata are malformed: {} left out; the next write of the object replaces them",
            parts.0
        );
        self.warn(resource, meta, MALFORMED, text);
    }

    fn warn(&self, resource: usize, meta: &Meta, reason: &str, text: String) {
        let resource = &self.inventory.resources[resource].api;
        let object = ObjectReference {
            api_version: Some(resource.api_version()),
            kind: Some(resource.kind.clone()),
            namespace: Some(meta.namespace.to_string()),
            name: Some(meta.name.to_string()),
            uid: Some(meta.uid.to_string()),
            ..ObjectReference::default()
        };
        self.recorder
            .event(object, EventType::Warning, reason, text);
    }
}

fn state_of(meta: &Meta) -> OwnerState {
    if meta.is_waiting() {
        OwnerState::Waiting
    } else {
        OwnerState::Solid
    }
}

fn dependent(object: &Meta, owner: &Uid) -> Dependent {
    let mut references = object.owners.iter();
    Dependent {
        uid: object.uid.clone(),
        blocks: references.any(|reference| {
            *owner == *reference.uid.as_str() && reference.block_owner_deletion == Some(true)
        }),
        waiting: object.is_waiting(),
    }
}
