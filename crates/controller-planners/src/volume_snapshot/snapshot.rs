//! The plan for a snapshot and its content.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use object_model::{IncompleteMetadata, Quantity, Uid};
use resource_kinds::MetadataIdentity;
use resource_kinds::snapshot::{
    BEING_DELETED, BOUND_PROTECTION, CONTENT_PROTECTION, ContentSource, ContentSpec, DEFAULT_CLASS,
    SOURCE_PROTECTION, SnapshotApiVersion, SnapshotError, SnapshotStatus, VolumeSnapshot,
    VolumeSnapshotClass, VolumeSnapshotContent,
};
use resource_kinds::storage::Driver;
use thiserror::Error;

use super::secret::{self, SecretError, SecretParameters};

/// The observed state of one snapshot.
#[derive(Clone, Copy, Debug)]
pub struct ObservedSnapshot<'a> {
    /// The VolumeSnapshot.
    pub snapshot: &'a VolumeSnapshot,
    /// The content that the snapshot names, or the content to create.
    pub content: Option<&'a VolumeSnapshotContent>,
    /// The claim that is the source of the snapshot, if the claim exists.
    pub claim: Option<&'a PersistentVolumeClaim>,
    /// The volume of that claim.
    pub volume: Option<&'a PersistentVolume>,
    /// All VolumeSnapshotClasses.
    pub classes: &'a [VolumeSnapshotClass],
    /// A claim that is being restored from the snapshot and has no volume yet.
    pub restoring: Option<&'a str>,
}

/// A write of the plan.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotAction {
    /// Replace the snapshot's finalizers.
    SetFinalizers(Vec<String>),
    /// Write a class into the snapshot.
    AssignClass(String),
    CreateContent(Box<VolumeSnapshotContent>),
    /// Write the snapshot's UID and class into a content that existed before the snapshot.
    BindContent {
        /// The snapshot's UID.
        uid: Uid,
    },
    /// Mark the content so that its data is deleted with it, and delete it.
    DeleteContent,
    /// Replace the snapshot's status.
    SetStatus(Box<SnapshotStatus>),
}

/// An event for the VolumeSnapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEvent {
    /// Whether its type is `Warning` (otherwise `Normal`).
    pub warning: bool,
    /// Reason of the event.
    pub reason: &'static str,
    /// Message of the event.
    pub message: String,
}

/// The planned writes and events, and the reason for waiting.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotPlan {
    /// Writes, in this order; the first failure ends the plan.
    pub actions: Vec<SnapshotAction>,
    /// Events to report, in order.
    pub notes: Vec<SnapshotEvent>,
    /// The reason for waiting; `None` if the plan does not wait.
    pub waiting_on: Option<String>,
}

/// Plans the writes for a snapshot.
pub fn plan_snapshot(
    view: &ObservedSnapshot<'_>,
    now: Timestamp,
) -> Result<SnapshotPlan, IncompleteMetadata> {
    let mut plan = SnapshotPlan::default();
    if view.snapshot.metadata.deletion_timestamp.is_some() {
        end(view, &mut plan)?;
        return Ok(plan);
    }
    let mut finalizers = finalizers_of(view.snapshot);
    let before = finalizers.len();
    for required in [SOURCE_PROTECTION, BOUND_PROTECTION] {
        if !finalizers.iter().any(|present| present == required) {
            finalizers.push(required.to_owned());
        }
    }
    if finalizers.len() != before {
        plan.actions.push(SnapshotAction::SetFinalizers(finalizers));
        return Ok(plan);
    }
    let source = &view.snapshot.spec.source;
    let bound = match (
        &source.volume_snapshot_content_name,
        &source.persistent_volume_claim_name,
    ) {
        (Some(name), _) => bind_existing(view, name, &mut plan),
        (None, Some(claim)) => bind_new(view, claim, &mut plan),
        (None, None) => Err(Fault::NoSource),
    };
    match bound {
        Ok(Some(content)) => follow(view, content, &mut plan)?,
        Ok(None) => {}
        Err(Fault::Identity(error)) => return Err(error),
        Err(fault) => fail(view, &fault, now, &mut plan),
    }
    Ok(plan)
}

/// The reason why a snapshot cannot proceed.
#[derive(Debug, Error)]
enum Fault {
    #[error("it has no source")]
    NoSource,
    #[error("VolumeSnapshotContent is missing: {0}")]
    NamedContentMissing(String),
    /// The content existed and was deleted.
    #[error("VolumeSnapshotContent is missing")]
    ContentMissing,
    #[error("VolumeSnapshotContent {0} is bound to another snapshot")]
    ContentMisbound(String),
    #[error("VolumeSnapshotContent {0} was made for a snapshot of a claim")]
    ContentMismatch(String),
    #[error(
        "failed to get snapshot class with error volumesnapshotclass.snapshot.storage.k8s.io {0:?} not found"
    )]
    NoClass(String),
    #[error("cannot find default snapshot class for driver {0}")]
    NoDefaultClass(String),
    #[error("{0} default snapshot classes were found")]
    ManyDefaultClasses(usize),
    #[error("{0}")]
    CreationFailed(#[from] CreationFault),
    #[error(transparent)]
    Identity(#[from] IncompleteMetadata),
}

/// The reason why the content for a snapshot of a claim cannot be created.
#[derive(Debug, Error)]
enum CreationFault {
    #[error(
        "failed to get input parameters to create snapshot: persistentvolumeclaim {0:?} not found"
    )]
    NoClaim(String),
    #[error("the PVC {0} is not yet bound to a PV, will not attempt to take a snapshot")]
    UnboundClaim(String),
    #[error("the volume of claim {0} was not made by a provisioner that makes snapshots")]
    NoProvisioner(String),
    #[error("the class is of driver {class}, the volume of driver {volume}")]
    OtherDriver { class: String, volume: String },
    #[error("failed to get input parameters to create snapshot: {0}")]
    Secret(#[from] SecretError),
}

impl Fault {
    /// The reason of the event.
    fn reason(&self) -> &'static str {
        match self {
            Self::NoSource | Self::Identity(_) => "SnapshotValidationError",
            Self::NamedContentMissing(_) | Self::ContentMissing => "SnapshotContentMissing",
            Self::ContentMisbound(_) => "SnapshotContentMisbound",
            Self::ContentMismatch(_) => "SnapshotContentMismatch",
            Self::NoClass(_) => "GetSnapshotClassFailed",
            Self::NoDefaultClass(_) | Self::ManyDefaultClasses(_) => {
                "SetDefaultSnapshotClassFailed"
            }
            Self::CreationFailed(_) => "SnapshotContentCreationFailed",
        }
    }
}

/// Binds the snapshot to a content that existed before the snapshot.
fn bind_existing<'v>(
    view: &ObservedSnapshot<'v>,
    name: &str,
    plan: &mut SnapshotPlan,
) -> Result<Option<&'v VolumeSnapshotContent>, Fault> {
    let content = view
        .content
        .ok_or_else(|| Fault::NamedContentMissing(name.to_owned()))?;
    let (reference, metadata) = (&content.spec.volume_snapshot_ref, &view.snapshot.metadata);
    let uid = metadata.object_uid()?;
    let is_of_snapshot = reference.name == metadata.name
        && reference.namespace == metadata.namespace
        && reference.uid.as_deref().is_none_or(|text| uid == *text);
    if !is_of_snapshot {
        return Err(Fault::ContentMisbound(name.to_owned()));
    }
    if content.spec.source.snapshot_handle.is_none() {
        return Err(Fault::ContentMismatch(name.to_owned()));
    }
    if reference.uid.is_none() {
        plan.actions.push(SnapshotAction::BindContent { uid });
        return Ok(None);
    }
    Ok(Some(content))
}

/// Binds the snapshot to the content that is created for it.
fn bind_new<'v>(
    view: &ObservedSnapshot<'v>,
    claim: &str,
    plan: &mut SnapshotPlan,
) -> Result<Option<&'v VolumeSnapshotContent>, Fault> {
    let metadata = &view.snapshot.metadata;
    let uid = metadata.object_uid()?;
    if let Some(content) = view.content {
        if !is_of_snapshot(content, &uid) {
            let name = content.metadata.object_name()?.to_owned();
            return Err(Fault::ContentMisbound(name));
        }
        return Ok(Some(content));
    }
    let status = view.snapshot.status.as_ref();
    if status.is_some_and(|status| status.bound_volume_snapshot_content_name.is_some()) {
        // The content existed and was deleted: a new content would have other data.
        return Err(Fault::ContentMissing);
    }
    let claim_of_snapshot = view
        .claim
        .ok_or_else(|| CreationFault::NoClaim(claim.to_owned()))?;
    let phase = claim_of_snapshot
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let volume = view.volume.filter(|_| phase == Some("Bound"));
    let volume = volume.ok_or_else(|| CreationFault::UnboundClaim(claim.to_owned()))?;
    let driver =
        provisioner(volume).ok_or_else(|| CreationFault::NoProvisioner(claim.to_owned()))?;
    let class = match &view.snapshot.spec.volume_snapshot_class_name {
        Some(name) => view.class(name)?,
        None => {
            let class = view.default_class(driver)?;
            let name = class.metadata.object_name()?.to_owned();
            plan.actions.push(SnapshotAction::AssignClass(name));
            return Ok(None);
        }
    };
    if class.driver != driver {
        return Err(Fault::CreationFailed(CreationFault::OtherDriver {
            class: class.driver.clone(),
            volume: driver.to_owned(),
        }));
    }
    let mut content = content(view.snapshot, &uid, volume, class);
    let words = SecretParameters {
        content: content.metadata.object_name()?,
        snapshot: metadata.object_name()?,
        namespace: metadata.object_namespace()?,
    };
    let secret = secret::annotations(&class.parameters, &words);
    content.metadata.annotations = secret.map_err(CreationFault::Secret)?;
    plan.notes.push(SnapshotEvent {
        warning: false,
        reason: "CreatingSnapshot",
        message: format!(
            "Waiting for a snapshot {}/{} to be created by the CSI driver.",
            metadata.object_namespace()?,
            metadata.object_name()?
        ),
    });
    plan.actions
        .push(SnapshotAction::CreateContent(Box::new(content)));
    Ok(None)
}

impl<'v> ObservedSnapshot<'v> {
    fn class(&self, name: &str) -> Result<&'v VolumeSnapshotClass, Fault> {
        let mut classes = self.classes.iter();
        let existing = classes.find(|class| class.metadata.name.as_deref() == Some(name));
        existing.ok_or_else(|| Fault::NoClass(name.to_owned()))
    }

    fn default_class(&self, driver: &str) -> Result<&'v VolumeSnapshotClass, Fault> {
        let marked: Vec<&VolumeSnapshotClass> = self
            .classes
            .iter()
            .filter(|class| {
                let annotations = class.metadata.annotations.as_ref();
                let value = annotations.and_then(|all| all.get(DEFAULT_CLASS));
                class.driver == driver && value.is_some_and(|value| value == "true")
            })
            .collect();
        match marked.as_slice() {
            [class] => Ok(class),
            [] => Err(Fault::NoDefaultClass(driver.to_owned())),
            classes => Err(Fault::ManyDefaultClasses(classes.len())),
        }
    }
}

/// The driver of a volume, as a snapshot class names it.
fn provisioner(volume: &PersistentVolume) -> Option<&str> {
    let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
    if let Some(csi) = csi {
        return Some(&csi.driver);
    }
    Some(Driver::of_volume(volume)?.name())
}

/// The name by which the driver identifies the volume; for the built-in drivers the name of the PersistentVolume.
fn handle(volume: &PersistentVolume) -> Option<String> {
    let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
    match csi {
        Some(csi) => Some(csi.volume_handle.clone()),
        None => volume.metadata.name.clone(),
    }
}

/// The content for a snapshot of a claim.
fn content(
    snapshot: &VolumeSnapshot,
    uid: &Uid,
    volume: &PersistentVolume,
    class: &VolumeSnapshotClass,
) -> VolumeSnapshotContent {
    let metadata = &snapshot.metadata;
    let spec = volume.spec.as_ref();
    VolumeSnapshotContent {
        api_version: SnapshotApiVersion,
        metadata: ObjectMeta {
            name: Some(content_name(uid)),
            finalizers: Some(vec![CONTENT_PROTECTION.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: ContentSpec {
            deletion_policy: class.deletion_policy.clone(),
            driver: class.driver.clone(),
            source: ContentSource {
                volume_handle: handle(volume),
                snapshot_handle: None,
            },
            source_volume_mode: spec.and_then(|spec| spec.volume_mode.clone()),
            volume_snapshot_class_name: class.metadata.name.clone(),
            volume_snapshot_ref: ObjectReference {
                api_version: Some("snapshot.storage.k8s.io/v1".to_owned()),
                kind: Some("VolumeSnapshot".to_owned()),
                namespace: metadata.namespace.clone(),
                name: metadata.name.clone(),
                uid: Some(uid.to_string()),
                ..ObjectReference::default()
            },
        },
        status: None,
    }
}

/// Whether the content is reserved for the snapshot of that UID.
fn is_of_snapshot(content: &VolumeSnapshotContent, uid: &Uid) -> bool {
    let reserved_for = content.spec.volume_snapshot_ref.uid.as_deref();
    reserved_for.is_some_and(|text| *uid == *text)
}

fn content_name(uid: &Uid) -> String {
    format!("snapcontent-{uid}")
}

impl ObservedSnapshot<'_> {
    /// The name of the content that a snapshot has, or would get.
    pub fn content_name(snapshot: &VolumeSnapshot) -> Result<String, IncompleteMetadata> {
        let status = snapshot.status.as_ref();
        let bound = status.and_then(|status| status.bound_volume_snapshot_content_name.clone());
        let named = snapshot.spec.source.volume_snapshot_content_name.clone();
        match bound.or(named) {
            Some(name) => Ok(name),
            None => Ok(content_name(&snapshot.metadata.object_uid()?)),
        }
    }
}

/// Copies the content's status to the snapshot.
fn follow(
    view: &ObservedSnapshot<'_>,
    content: &VolumeSnapshotContent,
    plan: &mut SnapshotPlan,
) -> Result<(), IncompleteMetadata> {
    let stored = view.snapshot.status.clone().unwrap_or_default();
    let of_content = content.status.clone().unwrap_or_default();
    let created = of_content
        .creation_time
        .and_then(|nanoseconds| Timestamp::from_nanosecond(nanoseconds.into()).ok())
        .and_then(|at| Timestamp::from_second(at.as_second()).ok());
    let ready = of_content.ready_to_use.unwrap_or(false);
    let status = SnapshotStatus {
        bound_volume_snapshot_content_name: content.metadata.name.clone(),
        creation_time: created.map(Time),
        ready_to_use: Some(ready),
        restore_size: of_content
            .restore_size
            .map(|bytes| Amount(Quantity::from_bytes(bytes).to_string())),
        error: of_content.error.clone().filter(|_| !ready),
    };
    let became_ready = ready && stored.ready_to_use != Some(true);
    let reported = |error: &Option<SnapshotError>| {
        let message = error.as_ref().and_then(|error| error.message.clone());
        message.unwrap_or_default()
    };
    let (error, before) = (reported(&status.error), reported(&stored.error));
    if !error.is_empty() && error != before {
        plan.notes.push(SnapshotEvent {
            warning: true,
            reason: "SnapshotContentCreationFailed",
            message: format!("Failed to create snapshot content with error {error}"),
        });
    }
    if became_ready {
        let name = view.snapshot.metadata.object_name()?;
        plan.notes.push(SnapshotEvent {
            warning: false,
            reason: "SnapshotReady",
            message: format!("Snapshot {name} is ready to use."),
        });
    }
    if !ready {
        plan.waiting_on = Some("its content to be ready".to_owned());
    }
    if status != stored {
        plan.actions
            .push(SnapshotAction::SetStatus(Box::new(status)));
    }
    Ok(())
}

fn fail(view: &ObservedSnapshot<'_>, fault: &Fault, now: Timestamp, plan: &mut SnapshotPlan) {
    plan.waiting_on = Some(fault.to_string());
    let stored = view.snapshot.status.clone().unwrap_or_default();
    let message = match fault {
        Fault::CreationFailed(fault) => {
            format!("Failed to create snapshot content with error {fault}")
        }
        fault => fault.to_string(),
    };
    let is_stored = stored
        .error
        .as_ref()
        .and_then(|error| error.message.clone());
    if is_stored.as_ref() == Some(&message) {
        return;
    }
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let status = SnapshotStatus {
        ready_to_use: Some(false),
        error: Some(SnapshotError {
            time: Some(Time(now)),
            message: Some(message.clone()),
        }),
        ..stored
    };
    plan.notes.push(SnapshotEvent {
        warning: true,
        reason: fault.reason(),
        message,
    });
    plan.actions
        .push(SnapshotAction::SetStatus(Box::new(status)));
}

/// The plan for a snapshot that is being deleted: its content is deleted first, if the policy demands it.
fn end(view: &ObservedSnapshot<'_>, plan: &mut SnapshotPlan) -> Result<(), IncompleteMetadata> {
    let finalizers = finalizers_of(view.snapshot);
    let is_of_controller = |name: &&String| *name == SOURCE_PROTECTION || *name == BOUND_PROTECTION;
    if !finalizers.iter().any(|name| is_of_controller(&name)) {
        return Ok(());
    }
    if let Some(claim) = view.restoring {
        let text = format!("claim {claim}, which is being made from it");
        plan.waiting_on = Some(text);
        plan.notes.push(SnapshotEvent {
            warning: true,
            reason: "SnapshotDeletePending",
            message: "Snapshot is being used to restore a PVC".to_owned(),
        });
        return Ok(());
    }
    let uid = view.snapshot.metadata.object_uid()?;
    let content = view.content.filter(|content| is_of_snapshot(content, &uid));
    if let Some(content) = content
        && content.spec.deletion_policy == "Delete"
    {
        plan.waiting_on = Some("its content to go".to_owned());
        let annotations = content.metadata.annotations.as_ref();
        let marked = annotations.is_some_and(|all| all.contains_key(BEING_DELETED));
        if !marked || content.metadata.deletion_timestamp.is_none() {
            plan.actions.push(SnapshotAction::DeleteContent);
        }
        return Ok(());
    }
    let rest = finalizers
        .iter()
        .filter(|name| !is_of_controller(name))
        .cloned();
    plan.actions
        .push(SnapshotAction::SetFinalizers(rest.collect()));
    Ok(())
}

fn finalizers_of(snapshot: &VolumeSnapshot) -> Vec<String> {
    snapshot.metadata.finalizers.clone().unwrap_or_default()
}
