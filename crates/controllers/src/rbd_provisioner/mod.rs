//! The provisioner `kubernetes.io/rbd`, as decided in `controller_planners::rbd_provisioner`: images of Ceph for
//! claims, created, resized and removed by the program `rbd`.

mod expansion;

use std::sync::Arc;

use controller_framework::{Queue, ReconcileResult, Recorder, object_key};
use controller_planners::rbd_provisioner::{
    FINALIZER, ImageCreation, ImageError, ImagePlan, RbdClass, image_to_remove, plan,
    reclaim_action,
};
use controller_planners::volume_provisioning::{
    ReclaimAction, claim_of, finalizers_without, is_claimed_by,
};
use json_tree::json;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Secret};
use k8s_openapi::api::storage::v1::StorageClass;
use kube_api_client::guarded_writes::{
    Delete, WriteRefusal, chain, delete, existing_object, merge, merge_status, refusal,
};
use kube_api_client::{Api, PostParams};
use object_model::{IncompleteMetadata, ObjectKey};
use rbd_images::{RbdLogin, RbdProgram, RbdProgramError};
use resource_kinds::MetadataIdentity;
use resource_kinds::reasons::volume as reasons;
use resource_kinds::storage::rbd::{PROVISIONER, key_of};
use resource_kinds::volume_fit::requested_class;

use crate::Context;

/// Reason of the event, and of the phase Failed (statefulset.md §11.8).
const FAILED_DELETE: &str = "VolumeFailedDelete";

/// The reason why an image was not created or not removed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The Secret of the administrator has no key.
    #[error("the key of {user:?} in secret \"{secret}\": {why}")]
    Key {
        user: String,
        secret: ObjectKey,
        why: KeyError,
    },
    #[error(
        "the program \"rbd\" (ceph-common) is not installed on the machine of the server, and images of \
         Ceph are made, resized and removed by it"
    )]
    NoProgram,
    #[error(transparent)]
    Program(RbdProgramError),
    /// The API server.
    #[error("read or write a volume, claim or secret")]
    Api(#[from] kube_api_client::Error),
    #[error("identity of a volume")]
    Identity(#[from] IncompleteMetadata),
}

/// The reason why a Secret has no key of a Ceph user.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error("not found")]
    NoSecret,
    #[error("the secret is not of type {PROVISIONER:?}")]
    OtherType,
    #[error("{0}")]
    Data(&'static str),
}

impl From<RbdProgramError> for Error {
    fn from(error: RbdProgramError) -> Self {
        match error {
            RbdProgramError::Missing => Self::NoProgram,
            other => Self::Program(other),
        }
    }
}

/// The object in question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Task {
    Claim(ObjectKey),
    Volume(ObjectKey),
}

struct RbdProvisioner {
    context: Context,
    recorder: Recorder,
    /// The program of the server's machine.
    program: RbdProgram,
}

pub(crate) async fn run(context: Context) {
    let controller = RbdProvisioner {
        recorder: context.recorder("persistentvolume-controller"),
        context: context.clone(),
        program: RbdProgram::default(),
    };
    context.run("rbd_provisioner", controller).await;
}

impl controller_framework::Controller for RbdProvisioner {
    type Key = Task;
    type Error = Error;

    /// Maximum number of images that are created or removed concurrently.
    const WORKERS: usize = 4;

    async fn wait_synced(&self) -> bool {
        let caches = &self.context.caches;
        caches.claims.wait_synced().await
            && caches.volumes.wait_synced().await
            && caches.classes.wait_synced().await
    }

    async fn feed(&self, queue: &Queue<Task>) {
        let caches = &self.context.caches;
        let mut claims = caches.claims.subscribe();
        let mut volumes = caches.volumes.subscribe();
        let mut classes = caches.classes.subscribe();
        loop {
            tokio::select! {
                Some(change) = claims.next() => {
                    queue.add(Task::Claim(object_key(&**change.object())));
                }
                Some(change) = volumes.next() => {
                    let volume = change.object();
                    if reclaim_action(volume) != ReclaimAction::Keep {
                        queue.add(Task::Volume(object_key(&**volume)));
                    }
                }
                Some(change) = classes.next() => {
                    if change.object().provisioner == PROVISIONER {
                        for claim in caches.claims.list() {
                            queue.add(Task::Claim(object_key(&*claim)));
                        }
                    }
                }
                else => return,
            }
        }
    }

    async fn reconcile(&self, task: &Task) -> Result<ReconcileResult, Error> {
        match task {
            Task::Claim(key) => {
                self.provision(key).await?;
                return self.expand(key).await;
            }
            Task::Volume(key) => self.reclaim(&key.name).await?,
        }
        Ok(ReconcileResult::Done)
    }
}

impl RbdProvisioner {
    async fn provision(&self, key: &ObjectKey) -> Result<(), Error> {
        let caches = &self.context.caches;
        let Some(claim) = caches.claims.get_key(key) else {
            return Ok(());
        };
        let class = requested_class(&claim).and_then(|class| caches.classes.get("", class));
        let Some(class) = class else {
            return Ok(());
        };
        let has_volume = |name: &str| caches.volumes.get("", name).is_some();
        let created = match plan(&claim, &class, has_volume)? {
            ImagePlan::Nothing => return Ok(()),
            ImagePlan::Refuse(error) => Err(error.into()),
            ImagePlan::Create(creation) => self.create(&claim, &creation).await,
        };
        if let Err(error) = &created {
            self.report_failure(&claim, &class, error);
        }
        created
    }

    fn report_failure(&self, claim: &PersistentVolumeClaim, class: &StorageClass, error: &Error) {
        let class = object_key(class).name;
        let text = format!(
            "Failed to provision volume with StorageClass {class:?}: {}",
            chain(error)
        );
        self.recorder
            .warning(claim, reasons::PROVISIONING_FAILED, text);
    }

    async fn create(
        &self,
        claim: &PersistentVolumeClaim,
        creation: &ImageCreation,
    ) -> Result<(), Error> {
        let (class, image) = (&creation.class, &creation.image);
        let login = self.login(class).await?;
        self.program
            .create(&login, image, creation.mebibytes, &class.format)
            .await?;
        let api: Api<PersistentVolume> = Api::all(self.context.client.clone());
        match api.create(&PostParams::default(), &creation.volume).await {
            Ok(volume) => {
                let name = volume.metadata.object_name()?;
                let text = format!("Successfully provisioned volume {name} using {PROVISIONER}");
                let reason = reasons::PROVISIONING_SUCCEEDED;
                self.recorder.normal(claim, reason, text);
                tracing::info!(volume = name, image, "image made");
                Ok(())
            }
            Err(error) if refusal(&error) == WriteRefusal::AlreadyExists => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The administrator of a class, with the key.
    async fn login(&self, class: &RbdClass) -> Result<RbdLogin, Error> {
        let user = &class.admin;
        // Only the Secret of a user who maps images may have no namespace; the administrator's has one.
        let namespace = user.namespace.as_deref().unwrap_or_default();
        let key = ObjectKey::new(namespace, user.secret.as_str());
        let secrets: Api<Secret> = Api::namespaced(self.context.client.clone(), namespace);
        let no_key = |why: KeyError| Error::Key {
            user: user.id.clone(),
            secret: key.clone(),
            why,
        };
        let secret = existing_object(secrets.get(&key.name).await)?;
        let secret = secret.ok_or_else(|| no_key(KeyError::NoSecret))?;
        if secret.type_.as_deref() != Some(PROVISIONER) {
            return Err(no_key(KeyError::OtherType));
        }
        let key = key_of(&secret.data.unwrap_or_default());
        let key = key.map_err(|why| no_key(KeyError::Data(why)))?;
        Ok(RbdLogin {
            monitors: class.monitors.clone(),
            pool: class.pool.clone(),
            user: user.id.clone(),
            key: Some(key),
        })
    }

    /// The API server must confirm the cached state before an image is removed.
    async fn reclaim(&self, name: &str) -> Result<(), Error> {
        let api: Api<PersistentVolume> = Api::all(self.context.client.clone());
        let Some(volume) = existing_object(api.get(name).await)? else {
            return Ok(());
        };
        match reclaim_action(&volume) {
            ReclaimAction::Keep => return Ok(()),
            ReclaimAction::RemoveFinalizer => return self.remove_finalizer(&api, &volume).await,
            ReclaimAction::Remove => {}
        }
        if self.is_claimed(&volume).await? {
            return Ok(());
        }
        if let Err(error) = self.remove_image(&volume).await {
            let text = chain(&error);
            self.recorder.warning(&volume, FAILED_DELETE, text.clone());
            let status = json!({"phase": "Failed", "reason": FAILED_DELETE, "message": text});
            merge_status(&api, &volume, json!({"status": status})).await?;
            return Err(error);
        }
        self.remove_finalizer(&api, &volume).await?;
        let uid = volume.metadata.object_uid()?;
        delete(&api, name, Delete::of_uid(uid.clone())).await?;
        tracing::info!(volume = name, "image removed");
        Ok(())
    }

    async fn remove_image(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let class = self.class_of(volume);
        let image = image_to_remove(volume, class.as_deref())?;
        let Some(existing) = image else {
            return Ok(());
        };
        let login = self.login(&existing.class).await?;
        Ok(self.program.remove(&login, &existing.image).await?)
    }

    fn class_of(&self, volume: &PersistentVolume) -> Option<Arc<StorageClass>> {
        let spec = volume.spec.as_ref()?;
        let name = spec.storage_class_name.as_deref()?;
        self.context.caches.classes.get("", name)
    }

    /// Whether the claim in the reference of the volume exists, with the UID of the reference.
    async fn is_claimed(&self, volume: &PersistentVolume) -> Result<bool, Error> {
        let Some((namespace, name)) = claim_of(volume) else {
            return Ok(false);
        };
        let api = Api::namespaced(self.context.client.clone(), namespace);
        let claim = existing_object(api.get(name).await)?;
        match claim {
            Some(claim) => Ok(is_claimed_by(volume, &claim)?),
            None => Ok(false),
        }
    }

    async fn remove_finalizer(
        &self,
        api: &Api<PersistentVolume>,
        volume: &PersistentVolume,
    ) -> Result<(), Error> {
        if let Some(rest) = finalizers_without(volume, FINALIZER) {
            merge(api, volume, json!({"metadata": {"finalizers": rest}})).await?;
        }
        Ok(())
    }
}
