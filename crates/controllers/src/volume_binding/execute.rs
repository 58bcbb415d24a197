//! Executes a plan: write after write, each based on the observed state or on the previous write's
//! result.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_framework::{EventType, Object, Recorder, reference};
use controller_planners::volume_binding::{
    BindingEvent, BindingObject, NoteType, VolumeBindingPlan, Write,
};
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_api_client::{Api, Client, Patch, PatchParams};
use object_model::{IncompleteMetadata, ObjectIdentity, ObjectKey};
use resource_kinds::MetadataIdentity;

/// The reason why a plan was not executed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The server refused the request or did not respond.
    #[error("write or look up a claim or volume")]
    Api(#[from] kube_api_client::Error),
    #[error("identity of a claim or a volume")]
    Identity(#[from] IncompleteMetadata),
}

#[derive(Clone)]
pub(crate) struct Executor {
    pub client: Client,
    pub recorder: Recorder,
}

/// The identity and the newest version of each written object.
type Identities = BTreeMap<BindingObject, ObjectIdentity>;

impl Executor {
    /// Executes a plan for a claim or a volume, given all its objects.
    pub async fn execute(
        &self,
        claim: Option<&Arc<PersistentVolumeClaim>>,
        volumes: &[Arc<PersistentVolume>],
        plan: VolumeBindingPlan,
    ) -> Result<(), Error> {
        let mut identities = Identities::new();
        if let Some(claim) = claim {
            identities.insert(BindingObject::Claim, claim.metadata.identity()?);
        }
        for action in &plan.actions {
            let write = action.write();
            let identity = match identities.get(&write.on) {
                Some(identity) => identity.clone(),
                None => match metadata(&write.on, volumes) {
                    Some(metadata) => metadata.identity()?,
                    None => continue, // a planner names only objects of its input
                },
            };
            tracing::info!(object = ?write.on, name = %identity.key.name, patch = %write.patch, "write");
            let written = self.write(&write, &identity).await?;
            identities.insert(write.on, written);
        }
        for note in plan.notes {
            self.report(note, claim, volumes);
        }
        Ok(())
    }

    async fn write(
        &self,
        write: &Write,
        identity: &ObjectIdentity,
    ) -> kube_api_client::Result<ObjectIdentity> {
        let ObjectKey { namespace, name } = &identity.key;
        let mut patch = write.patch.clone();
        patch["metadata"]["uid"] = json!(identity.uid);
        patch["metadata"]["resourceVersion"] = json!(identity.version);
        match &write.on {
            BindingObject::Claim => {
                let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace);
                send(&api, name, write.status, &patch).await
            }
            BindingObject::Volume(_) => {
                let api = Api::<PersistentVolume>::all(self.client.clone());
                send(&api, name, write.status, &patch).await
            }
        }
    }

    fn report(
        &self,
        note: BindingEvent,
        claim: Option<&Arc<PersistentVolumeClaim>>,
        volumes: &[Arc<PersistentVolume>],
    ) {
        let object = match &note.on {
            BindingObject::Claim => claim.map(|claim| reference(&**claim)),
            BindingObject::Volume(name) => volume_named(name, volumes).map(reference),
        };
        let event_type = match note.note_type {
            NoteType::Normal => EventType::Normal,
            NoteType::Warning => EventType::Warning,
        };
        if let Some(object) = object {
            self.recorder
                .event(object, event_type, note.reason, note.message);
        }
    }
}

async fn send<K: Object>(
    api: &Api<K>,
    name: &str,
    status: bool,
    patch: &Value,
) -> kube_api_client::Result<ObjectIdentity> {
    let params = PatchParams::default();
    let patch = Patch::Merge(patch);
    let written = if status {
        api.patch_status(name, &params, &patch).await?
    } else {
        api.patch(name, &params, &patch).await?
    };
    Ok(written.meta().identity()?)
}

fn metadata<'v>(
    subject: &BindingObject,
    volumes: &'v [Arc<PersistentVolume>],
) -> Option<&'v ObjectMeta> {
    match subject {
        BindingObject::Claim => None,
        BindingObject::Volume(name) => volume_named(name, volumes).map(|volume| &volume.metadata),
    }
}

fn volume_named<'v>(
    name: &str,
    volumes: &'v [Arc<PersistentVolume>],
) -> Option<&'v PersistentVolume> {
    let mut volumes = volumes.iter().map(AsRef::as_ref);
    volumes.find(|volume: &&PersistentVolume| volume.metadata.name.as_deref() == Some(name))
}
