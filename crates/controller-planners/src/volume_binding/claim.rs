//! The plan for a claim.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::{
    BETA_STORAGE_PROVISIONER, BIND_COMPLETED, BOUND_BY_CONTROLLER, DEFAULT_STORAGE_CLASS,
    SELECTED_NODE, STORAGE_PROVISIONER,
};
use resource_kinds::reasons::volume as reasons;
use resource_kinds::volume_fit::{
    Reservation, VolumeMismatch, covers_modes, find, misfit, requested_class, reservation,
    volume_class,
};

use super::action::{BindingObject, NoteType, VolumeBindingAction, VolumeBindingPlan};
use super::attributes::refuse_attributes;
use super::bind::bind;

/// The name of the provisioner that stands for manual provisioning.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// The observed state of one claim.
#[derive(Clone, Debug)]
pub struct ClaimView<'a> {
    /// The PersistentVolumeClaim.
    pub claim: &'a PersistentVolumeClaim,
    /// All PersistentVolumes, from which the plan chooses a volume.
    pub volumes: &'a [Arc<PersistentVolume>],
    /// All StorageClasses.
    pub classes: &'a [Arc<StorageClass>],
    /// Names of unscheduled pods that use the claim.
    pub unscheduled_pods: &'a [String],
    /// Whether the provisioner of the claim's class has a CSIDriver that no CSINode names.
    pub is_driver_absent: bool,
}

impl ClaimView<'_> {
    fn volume(&self, name: &str) -> Option<&PersistentVolume> {
        let mut volumes = self.volumes.iter().map(AsRef::as_ref);
        volumes.find(|volume: &&PersistentVolume| volume.metadata.name.as_deref() == Some(name))
    }

    fn class(&self, name: &str) -> Option<&StorageClass> {
        let mut classes = self.classes.iter().map(AsRef::as_ref);
        classes.find(|class: &&StorageClass| class.metadata.name.as_deref() == Some(name))
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.claim
            .metadata
            .annotations
            .as_ref()?
            .get(key)
            .map(String::as_str)
    }

    fn volume_name(&self) -> Option<&str> {
        let name = self.claim.spec.as_ref()?.volume_name.as_deref();
        name.filter(|name| !name.is_empty())
    }
}

/// The default class: the newest of the classes with the annotation; of equal age, the first by name.
pub fn default_class(classes: &[Arc<StorageClass>]) -> Option<&StorageClass> {
    let marked = classes
        .iter()
        .map(AsRef::as_ref)
        .filter(|class: &&StorageClass| {
            let annotations = class.metadata.annotations.as_ref();
            annotations
                .and_then(|all| all.get(DEFAULT_STORAGE_CLASS))
                .is_some_and(|is| is == "true")
        });
    marked.max_by(|a, b| {
        let age = |class: &StorageClass| class.metadata.creation_timestamp.as_ref().map(|at| at.0);
        age(a)
            .cmp(&age(b))
            .then_with(|| b.metadata.name.cmp(&a.metadata.name))
    })
}

/// The result of a plan, which needs the identities of its objects.
type Planned<T = ()> = Result<T, IncompleteMetadata>;

/// Plans the writes for a claim.
pub fn plan_claim(view: &ClaimView<'_>, now: Timestamp) -> Planned<VolumeBindingPlan> {
    let mut plan = VolumeBindingPlan::default();
    if view.annotation(BIND_COMPLETED).is_some() {
        keep_bound(view, now, &mut plan)?;
    } else if view.claim.metadata.deletion_timestamp.is_some() {
        plan.waiting_on = Some("the end of its deletion".to_owned());
    } else if let Some(name) = view.volume_name() {
        bind_to_named(view, name, now, &mut plan)?;
    } else {
        bind_to_best(view, now, &mut plan)?;
    }
    Ok(plan)
}

/// A bound claim stays bound, or becomes Lost (statefulset.md §11.9).
fn keep_bound(view: &ClaimView<'_>, now: Timestamp, plan: &mut VolumeBindingPlan) -> Planned {
    let Some(name) = view.volume_name() else {
        let text = "Bound claim has lost reference to PersistentVolume. \
            Data on the volume is lost!";
        lose(view, reasons::CLAIM_LOST, text, plan);
        return Ok(());
    };
    let Some(volume) = view.volume(name) else {
        let text = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        lose(view, reasons::CLAIM_LOST, text, plan);
        return Ok(());
    };
    let reference = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    let uid = view.claim.metadata.object_uid()?;
    let is_reserved = |uid_of_claim: Option<&str>| uid_of_claim.is_some_and(|text| uid == *text);
    if reference.is_none_or(|reference| is_reserved(reference.uid.as_deref())) {
        bind(volume, view.claim, now, plan)?;
        refuse_attributes(volume, view.claim, now, plan);
    } else {
        let text = "Two claims are bound to the same volume, this one is bound incorrectly";
        lose(view, reasons::CLAIM_MISBOUND, text, plan);
    }
    Ok(())
}

fn lose(view: &ClaimView<'_>, reason: &'static str, text: &str, plan: &mut VolumeBindingPlan) {
    plan.waiting_on = Some(text.to_owned());
    if phase(view.claim) != Some("Lost") {
        plan.actions.push(VolumeBindingAction::SetClaimStatus {
            phase: "Lost",
            access_modes: Vec::new(),
            capacity: None,
            attributes: None,
        });
        plan.note(BindingObject::Claim, NoteType::Warning, reason, text);
    }
}

/// Binds the claim to the volume that the user named (statefulset.md §11.4).
fn bind_to_named(
    view: &ClaimView<'_>,
    name: &str,
    now: Timestamp,
    plan: &mut VolumeBindingPlan,
) -> Planned {
    let Some(volume) = view.volume(name) else {
        plan.waiting_on = Some(format!("volume {name:?}, which does not exist"));
        stay_pending(view, plan);
        return Ok(());
    };
    match reservation(volume, view.claim) {
        Reservation::ThisClaim => bind(volume, view.claim, now, plan)?,
        Reservation::Free => match unfit(volume, view.claim, name) {
            None => bind(volume, view.claim, now, plan)?,
            Some(why) => {
                let text = format!("Cannot bind to requested volume {name:?}: {why}");
                plan.waiting_on = Some(text.clone());
                let reason = reasons::VOLUME_MISMATCH;
                plan.note(BindingObject::Claim, NoteType::Warning, reason, text);
                stay_pending(view, plan);
            }
        },
        Reservation::Other => {
            let text = format!("volume {name:?} already bound to a different claim.");
            plan.waiting_on = Some(text.clone());
            // The controller chose this volume earlier, and another claim got the volume; the user needs no event.
            if view.annotation(BOUND_BY_CONTROLLER).is_none() {
                plan.note(
                    BindingObject::Claim,
                    NoteType::Warning,
                    reasons::FAILED_BINDING,
                    text,
                );
            }
            stay_pending(view, plan);
        }
    }
    Ok(())
}

/// The reason why the volume that the claim names cannot be bound; labels do not count here.
fn unfit(volume: &PersistentVolume, claim: &PersistentVolumeClaim, name: &str) -> Option<String> {
    let why = match misfit(volume, claim) {
        Some(VolumeMismatch::Deleting) => {
            return Some(format!("the volume is marked for deletion {name:?}"));
        }
        Some(VolumeMismatch::Size) => "requested PV is too small",
        Some(VolumeMismatch::AttributesClass) => "volumeAttributesClassName does not match",
        _ if volume_class(volume) != requested_class(claim).unwrap_or_default() => {
            "storageClassName does not match"
        }
        Some(VolumeMismatch::VolumeMode) => "incompatible volumeMode",
        _ if !covers_modes(volume, claim) => "incompatible accessMode",
        _ => return None,
    };
    Some(why.to_owned())
}

/// Binds the claim to the best volume, which the controller chooses.
fn bind_to_best(view: &ClaimView<'_>, now: Timestamp, plan: &mut VolumeBindingPlan) -> Planned {
    let class = requested_class(view.claim).filter(|class| !class.is_empty());
    let is_existing = class.and_then(|class| view.class(class));
    let waits = is_existing
        .is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let volumes = view.volumes.iter().map(AsRef::as_ref);
    if let Some(volume) = find(view.claim, volumes, |_| true, waits) {
        return bind(volume, view.claim, now, plan);
    }
    if waits && view.annotation(SELECTED_NODE).is_none() {
        wait_for_consumer(view, plan);
        stay_pending(view, plan);
        return Ok(());
    }
    match (class, is_existing) {
        (Some(_), Some(class)) => provision(view, class, plan),
        (Some(class), None) => {
            let text = format!("storageclass.storage.k8s.io {class:?} not found");
            plan.waiting_on = Some(text.clone());
            plan.note(
                BindingObject::Claim,
                NoteType::Warning,
                reasons::PROVISIONING_FAILED,
                text,
            );
        }
        (None, _) => match default_class(view.classes) {
            // The default class is written later, only if the user set no class (statefulset.md §11.2).
            Some(class) if requested_class(view.claim).is_none() => {
                let class = class.metadata.object_name()?.to_owned();
                plan.actions
                    .push(VolumeBindingAction::AssignClass { class });
            }
            _ => {
                let text = "no persistent volumes available for this claim and no storage class \
                    is set";
                plan.waiting_on = Some(text.to_owned());
                plan.note(
                    BindingObject::Claim,
                    NoteType::Normal,
                    reasons::FAILED_BINDING,
                    text,
                );
            }
        },
    }
    stay_pending(view, plan);
    Ok(())
}

/// Waits for a pod that uses the claim (statefulset.md §11.6).
fn wait_for_consumer(view: &ClaimView<'_>, plan: &mut VolumeBindingPlan) {
    let (reason, text) = match view.unscheduled_pods {
        [] => (
            reasons::WAIT_FOR_FIRST_CONSUMER,
            "waiting for first consumer to be created before binding".to_owned(),
        ),
        [pod] => (
            reasons::WAIT_FOR_POD_SCHEDULED,
            format!("waiting for pod {pod} to be scheduled"),
        ),
        pods => (
            reasons::WAIT_FOR_POD_SCHEDULED,
            format!("waiting for pods {} to be scheduled", pods.join(",")),
        ),
    };
    plan.waiting_on = Some(text.clone());
    plan.note(BindingObject::Claim, NoteType::Normal, reason, text);
}

/// statefulset.md §11.7: all provisioners are external to the binder, also the built-in one.
fn provision(view: &ClaimView<'_>, class: &StorageClass, plan: &mut VolumeBindingPlan) {
    let provisioner = class.provisioner.as_str();
    if provisioner.is_empty() || provisioner == NO_PROVISIONER {
        let text = format!("no volume plugin matched name: {provisioner}");
        plan.waiting_on = Some(text.clone());
        return plan.note(
            BindingObject::Claim,
            NoteType::Warning,
            reasons::PROVISIONING_FAILED,
            text,
        );
    }
    let requested = [STORAGE_PROVISIONER, BETA_STORAGE_PROVISIONER]
        .iter()
        .all(|key| view.annotation(key) == Some(provisioner));
    if !requested {
        plan.actions.push(VolumeBindingAction::RequestVolume {
            provisioner: provisioner.to_owned(),
        });
    }
    let text = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' \
         or manually by the system administrator. If volume creation is delayed, please verify \
         that the provisioner is running and correctly registered."
    );
    plan.waiting_on = Some(text.clone());
    plan.note(
        BindingObject::Claim,
        NoteType::Normal,
        reasons::EXTERNAL_PROVISIONING,
        text,
    );
    if view.is_driver_absent {
        let text = format!(
            "the CSI driver {provisioner:?} runs on no node: no CSINode names it, so no pod could use \
             the volume"
        );
        let (warning, reason) = (NoteType::Warning, reasons::DRIVER_NOT_ON_NODE);
        plan.note(BindingObject::Claim, warning, reason, text);
    }
}

fn phase(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.status.as_ref()?.phase.as_deref()
}

fn stay_pending(view: &ClaimView<'_>, plan: &mut VolumeBindingPlan) {
    if phase(view.claim) != Some("Pending") {
        plan.actions.push(VolumeBindingAction::SetClaimStatus {
            phase: "Pending",
            access_modes: Vec::new(),
            capacity: None,
            attributes: None,
        });
    }
}
