//! Executes a plan for a node.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use api_client::{Api, Client, ListParams, Patch, PatchParams, PostParams};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{
    VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use planners::attach_detach::Action;
use reconcile::execute::{Delete, Refusal, delete, refusal, unless_outrun};
use reconcile::{EventType, Recorder};
use serde_json::json;

use super::Error;
use super::observe::Observed;

/// The reason of events about volumes that are not attached; kube-controller-manager's.
const FAILED_ATTACH: &str = "FailedAttachVolume";
/// The annotation of an attachment with the version in which a new leader has found it.
const CLAIMED_AT: &str = "node.mainstay.dev/claimed-at";

pub(super) struct Executor {
    client: Client,
    recorder: Recorder,
    /// The UIDs of the attachments that this leader has made or claimed.
    own: Mutex<BTreeSet<String>>,
}

impl Executor {
    pub fn new(client: Client, recorder: Recorder) -> Self {
        Self {
            client,
            recorder,
            own: Mutex::default(),
        }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The UIDs of the attachments that this leader has made or claimed.
    pub fn own(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn execute(&self, observed: &Observed, actions: Vec<Action>) -> Result<(), Error> {
        for action in actions {
            tracing::debug!(node = observed.view.name, ?action, "write");
            self.write(observed, action).await?;
        }
        Ok(())
    }

    async fn write(&self, observed: &Observed, action: Action) -> Result<(), Error> {
        let attachments: Api<VolumeAttachment> = Api::all(self.client.clone());
        match action {
            Action::SetAttached(names) => self.set_attached(observed, &names).await?,
            Action::Attach { name, volume } => {
                if volume.is_exclusive && self.is_elsewhere(observed, &volume.volume).await? {
                    // The cache shows it soon, and the node is looked at again.
                    return Ok(());
                }
                let attachment = VolumeAttachment {
                    metadata: ObjectMeta {
                        name: Some(name),
                        ..ObjectMeta::default()
                    },
                    spec: VolumeAttachmentSpec {
                        attacher: volume.driver,
                        node_name: observed.view.name.clone(),
                        source: VolumeAttachmentSource {
                            persistent_volume_name: Some(volume.volume),
                            ..VolumeAttachmentSource::default()
                        },
                    },
                    status: None,
                };
                let made = attachments
                    .create(&PostParams::default(), &attachment)
                    .await;
                match made {
                    Ok(made) => self.own().extend(made.metadata.uid),
                    Err(error) if refusal(&error) == Refusal::AlreadyExists => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Action::Claim { name, uid, version } => {
                let patch = Patch::Merge(json!({"metadata": {
                    "uid": uid,
                    "resourceVersion": version,
                    "annotations": {CLAIMED_AT: version},
                }}));
                let params = PatchParams::default();
                let written = attachments.patch(&name, &params, &patch).await;
                if unless_outrun(written)?.is_some() {
                    self.own().insert(uid);
                }
            }
            Action::Detach { name, uid, version } => {
                tracing::info!(attachment = name, node = observed.view.name, "detach");
                let how = Delete {
                    resource_version: Some(version),
                    ..Delete::of_uid(&uid)
                };
                // Without an answer the deletion may come late: the attachment is to be claimed first then.
                self.own().remove(&uid);
                delete(&attachments, &name, how).await?;
            }
            Action::Failed { volume, error } => {
                let volume = &volume.volume;
                let message =
                    format!("AttachVolume.Attach failed for volume \"{volume}\" : {error}");
                self.tell_users(observed, volume, &message);
            }
            Action::Refuse { volume, nodes } => {
                let message = multi_attach(&volume.volume, &nodes, &observed.gone);
                self.tell_users(observed, &volume.volume, &message);
            }
        }
        Ok(())
    }

    fn tell_users(&self, observed: &Observed, volume: &str, message: &str) {
        for pod in observed.users.get(volume).into_iter().flatten() {
            let warning = EventType::Warning;
            self.recorder
                .event(pod.reference(), warning, FAILED_ATTACH, message);
        }
    }

    /// Whether a volume is attached to another node; the cache may not show it yet.
    async fn is_elsewhere(&self, observed: &Observed, volume: &str) -> Result<bool, Error> {
        let attachments: Api<VolumeAttachment> = Api::all(self.client.clone());
        let listed = attachments.list(&ListParams::default()).await?;
        Ok(listed.items.iter().any(|found| {
            let of = found.spec.source.persistent_volume_name.as_deref();
            of == Some(volume) && found.spec.node_name != observed.view.name
        }))
    }

    /// The write names the version of the Node: in a newer one the volume may be in use.
    async fn set_attached(
        &self,
        observed: &Observed,
        names: &BTreeSet<String>,
    ) -> Result<(), Error> {
        let Some(node) = &observed.node else {
            return Ok(());
        };
        let volumes: Vec<_> = names
            .iter()
            .map(|name| json!({"name": name, "devicePath": ""}))
            .collect();
        let patch = Patch::Merge(json!({
            "metadata": {
                "uid": node.metadata.uid,
                "resourceVersion": node.metadata.resource_version,
            },
            "status": {"volumesAttached": volumes},
        }));
        let nodes: Api<Node> = Api::all(self.client.clone());
        let params = PatchParams::default();
        let written = nodes.patch_status(&observed.view.name, &params, &patch);
        unless_outrun(written.await)?;
        Ok(())
    }
}

/// The words of kube-controller-manager, and a way out if a person has to find it.
fn multi_attach(volume: &str, nodes: &BTreeSet<String>, gone: &BTreeSet<String>) -> String {
    let names = |nodes: Vec<&str>| nodes.join(", ");
    let mut text = format!(
        "Multi-Attach error for volume \"{volume}\" Volume is already exclusively attached to one node and can't be attached to another ({})",
        names(nodes.iter().map(String::as_str).collect())
    );
    let gone: Vec<&str> = nodes.intersection(gone).map(String::as_str).collect();
    if !gone.is_empty() {
        text.push_str(&format!(
            ". The Node {} was deleted, and nothing proves that its pods are dead: if its machine is off, create the Node with the taint {}",
            names(gone),
            resource_kinds::reasons::taint::OUT_OF_SERVICE
        ));
    }
    text
}
