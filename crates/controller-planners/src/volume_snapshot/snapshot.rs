//! The plan for a snapshot and its content.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use object_model::Quantity;
use resource_kinds::snapshot::{
    BEING_DELETED, BOUND_PROTECTION, CONTENT_PROTECTION, ContentSource, ContentSpec, DEFAULT_CLASS,
    SOURCE_PROTECTION, SnapshotError, SnapshotStatus, VolumeSnapshot, VolumeSnapshotClass,
    VolumeSnapshotContent,
};
use resource_kinds::storage::Driver;

use super::secret::{self, SecretParameters};

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
        uid: String,
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
pub fn plan_snapshot(view: &ObservedSnapshot<'_>, now: Timestamp) -> SnapshotPlan {
    let mut plan = SnapshotPlan::default();
    if view.snapshot.metadata.deletion_timestamp.is_some() {
        end(view, &mut plan);
        return plan;
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
        return plan;
    }
    let source = &view.snapshot.spec.source;
    let bound = match (
        &source.volume_snapshot_content_name,
        &source.persistent_volume_claim_name,
    ) {
        (Some(name), _) => bind_existing(view, name, &mut plan),
        (None, Some(claim)) => bind_new(view, claim, &mut plan),
        (None, None) => Err(Fault::new("SnapshotValidationError", "it has no source")),
    };
    match bound {
        Ok(Some(content)) => follow(view, content, &mut plan),
        Ok(None) => {}
        Err(fault) => fail(view, fault, now, &mut plan),
    }
    plan
}

/// The reason why a snapshot cannot proceed.
struct Fault {
    reason: &'static str,
    message: String,
}

impl Fault {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Binds the snapshot to a content that existed before the snapshot.
fn bind_existing<'v>(
    view: &ObservedSnapshot<'v>,
    name: &str,
    plan: &mut SnapshotPlan,
) -> Result<Option<&'v VolumeSnapshotContent>, Fault> {
    let content = view.content.ok_or_else(|| {
        let text = "VolumeSnapshotContent is missing";
        Fault::new("SnapshotContentMissing", format!("{text}: {name}"))
    })?;
    let (reference, metadata) = (&content.spec.volume_snapshot_ref, &view.snapshot.metadata);
    let meant = reference.name == metadata.name
        && reference.namespace == metadata.namespace
        && (reference.uid.is_none() || reference.uid == metadata.uid);
    if !meant {
        return Err(Fault::new(
            "SnapshotContentMisbound",
            format!("VolumeSnapshotContent {name} is bound to another snapshot"),
        ));
    }
    if content.spec.source.snapshot_handle.is_none() {
        return Err(Fault::new(
            "SnapshotContentMismatch",
            format!("VolumeSnapshotContent {name} was made for a snapshot of a claim"),
        ));
    }
    if reference.uid.is_none() {
        plan.actions.push(SnapshotAction::BindContent {
            uid: metadata.uid.clone().unwrap_or_default(),
        });
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
    if let Some(content) = view.content {
        if content.spec.volume_snapshot_ref.uid != metadata.uid {
            let name = content.metadata.name.as_deref().unwrap_or_default();
            return Err(Fault::new(
                "SnapshotContentMisbound",
                format!("VolumeSnapshotContent {name} is bound to another snapshot"),
            ));
        }
        return Ok(Some(content));
    }
    let status = view.snapshot.status.as_ref();
    if status.is_some_and(|status| status.bound_volume_snapshot_content_name.is_some()) {
        // The content existed and was deleted: a new content would have other data.
        return Err(Fault::new(
            "SnapshotContentMissing",
            "VolumeSnapshotContent is missing",
        ));
    }
    let failed = |message: String| Fault::new("SnapshotContentCreationFailed", message);
    let claim_of_snapshot = view.claim.ok_or_else(|| {
        failed(format!(
            "failed to get input parameters to create snapshot: \
             persistentvolumeclaim {claim:?} not found"
        ))
    })?;
    let phase = claim_of_snapshot
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let volume = view.volume.filter(|_| phase == Some("Bound"));
    let volume = volume.ok_or_else(|| {
        failed(format!(
            "the PVC {claim} is not yet bound to a PV, will not attempt to take a snapshot"
        ))
    })?;
    let driver = provisioner(volume).ok_or_else(|| {
        failed(format!(
            "the volume of claim {claim} was not made by a provisioner that makes snapshots"
        ))
    })?;
    let class = match &view.snapshot.spec.volume_snapshot_class_name {
        Some(name) => view.class(name)?,
        None => {
            let class = view.default_class(driver)?;
            let name = class.metadata.name.clone().unwrap_or_default();
            plan.actions.push(SnapshotAction::AssignClass(name));
            return Ok(None);
        }
    };
    if class.driver != driver {
        return Err(failed(format!(
            "the class is of driver {}, the volume of driver {driver}",
            class.driver
        )));
    }
    let mut content = content(view.snapshot, volume, class);
    let words = SecretParameters {
        content: content.metadata.name.as_deref().unwrap_or_default(),
        snapshot: metadata.name.as_deref().unwrap_or_default(),
        namespace: metadata.namespace.as_deref().unwrap_or_default(),
    };
    let secret = secret::annotations(&class.parameters, &words);
    content.metadata.annotations = secret.map_err(|why| {
        failed(format!(
            "failed to get input parameters to create snapshot: {why}"
        ))
    })?;
    plan.notes.push(SnapshotEvent {
        warning: false,
        reason: "CreatingSnapshot",
        message: format!(
            "Waiting for a snapshot {}/{} to be created by the CSI driver.",
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default()
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
        existing.ok_or_else(|| {
            Fault::new(
                "GetSnapshotClassFailed",
                format!(
                    "failed to get snapshot class with error \
                     volumesnapshotclass.snapshot.storage.k8s.io {name:?} not found"
                ),
            )
        })
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
            classes => Err(Fault::new(
                "SetDefaultSnapshotClassFailed",
                match classes.len() {
                    0 => format!("cannot find default snapshot class for driver {driver}"),
                    many => format!("{many} default snapshot classes were found"),
                },
            )),
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
    volume: &PersistentVolume,
    class: &VolumeSnapshotClass,
) -> VolumeSnapshotContent {
    let metadata = &snapshot.metadata;
    let uid = metadata.uid.clone().unwrap_or_default();
    let spec = volume.spec.as_ref();
    VolumeSnapshotContent {
        metadata: ObjectMeta {
            name: Some(content_name(&uid)),
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
                uid: Some(uid),
                ..ObjectReference::default()
            },
        },
        status: None,
    }
}

fn content_name(uid: &str) -> String {
    format!("snapcontent-{uid}")
}

impl ObservedSnapshot<'_> {
    /// The name of the content that a snapshot has, or would get.
    pub fn content_name(snapshot: &VolumeSnapshot) -> String {
        let status = snapshot.status.as_ref();
        let bound = status.and_then(|status| status.bound_volume_snapshot_content_name.clone());
        let named = snapshot.spec.source.volume_snapshot_content_name.clone();
        bound
            .or(named)
            .unwrap_or_else(|| content_name(snapshot.metadata.uid.as_deref().unwrap_or_default()))
    }
}

/// Copies the content's status to the snapshot.
fn follow(view: &ObservedSnapshot<'_>, content: &VolumeSnapshotContent, plan: &mut SnapshotPlan) {
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
        let name = view.snapshot.metadata.name.as_deref().unwrap_or_default();
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
}

fn fail(view: &ObservedSnapshot<'_>, fault: Fault, now: Timestamp, plan: &mut SnapshotPlan) {
    plan.waiting_on = Some(fault.message.clone());
    let stored = view.snapshot.status.clone().unwrap_or_default();
    let message = match fault.reason {
        "SnapshotContentCreationFailed" => format!(
            "Failed to create snapshot content with error {}",
            fault.message
        ),
        _ => fault.message,
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
        reason: fault.reason,
        message,
    });
    plan.actions
        .push(SnapshotAction::SetStatus(Box::new(status)));
}

/// The plan for a snapshot that is being deleted: its content is deleted first, if the policy demands it.
fn end(view: &ObservedSnapshot<'_>, plan: &mut SnapshotPlan) {
    let finalizers = finalizers_of(view.snapshot);
    let ours = |name: &&String| *name == SOURCE_PROTECTION || *name == BOUND_PROTECTION;
    if !finalizers.iter().any(|name| ours(&name)) {
        return;
    }
    if let Some(claim) = view.restoring {
        let text = format!("claim {claim}, which is being made from it");
        plan.waiting_on = Some(text);
        plan.notes.push(SnapshotEvent {
            warning: true,
            reason: "SnapshotDeletePending",
            message: "Snapshot is being used to restore a PVC".to_owned(),
        });
        return;
    }
    let uid = &view.snapshot.metadata.uid;
    let content = view
        .content
        .filter(|content| content.spec.volume_snapshot_ref.uid == *uid);
    if let Some(content) = content
        && content.spec.deletion_policy == "Delete"
    {
        plan.waiting_on = Some("its content to go".to_owned());
        let annotations = content.metadata.annotations.as_ref();
        let marked = annotations.is_some_and(|all| all.contains_key(BEING_DELETED));
        if !marked || content.metadata.deletion_timestamp.is_none() {
            plan.actions.push(SnapshotAction::DeleteContent);
        }
        return;
    }
    let rest = finalizers.iter().filter(|name| !ours(name)).cloned();
    plan.actions
        .push(SnapshotAction::SetFinalizers(rest.collect()));
}

fn finalizers_of(snapshot: &VolumeSnapshot) -> Vec<String> {
    snapshot.metadata.finalizers.clone().unwrap_or_default()
}
