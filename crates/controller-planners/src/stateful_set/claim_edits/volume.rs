//! The volume of a claim beside the template.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec};
use object_model::Quantity;

use crate::claim_size;

/// The changed fields of a claim's volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeEdit {
    /// The requested size.
    pub storage: Option<String>,
    pub attributes_class: Option<String>,
}

/// The state of a claim's volume beside the template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum VolumeFit {
    Compatible,
    /// The volume changes now.
    Changing,
    /// The volume changes when the claim is bound, or when a pod uses the volume.
    Waiting,
    OverSized {
        /// Whether the volume follows an edit to an earlier template now.
        is_changing: bool,
    },
    Incompatible,
    /// The claim is to be edited.
    Differs {
        edit: VolumeEdit,
        /// Whether the volume follows an earlier edit now.
        is_changing: bool,
    },
    /// The change to the present template failed, with this message.
    Failed(String),
}

fn attributes_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let class = claim.spec.as_ref()?.volume_attributes_class_name.as_deref();
    class.filter(|name| !name.is_empty())
}

/// The circumstances of a claim.
#[derive(Clone, Copy)]
pub(super) struct Circumstances {
    /// Whether a pod uses the volume: a node extends a file system only then.
    pub is_used: bool,
    /// The maximum size of volumes that grow by themselves.
    pub grows_to: Option<Quantity>,
}

/// Compares a claim with its template.
pub(super) fn compare(
    template: &PersistentVolumeClaim,
    claim: &PersistentVolumeClaim,
    Circumstances { is_used, grows_to }: Circumstances,
) -> VolumeFit {
    if !is_compatible(template.spec.as_ref(), claim.spec.as_ref()) {
        return VolumeFit::Incompatible;
    }
    let (size, request) = match (
        claim_size::requested(template),
        claim_size::requested(claim),
    ) {
        (Some(size), Some(request)) => (size, request),
        // Without a size there is nothing to compare.
        _ => Default::default(),
    };
    let volume = claim_size::capacity(claim);
    let grows = volume.is_some_and(|volume| volume < request);
    // A template without a class has no say about the class.
    let class = attributes_class(template);
    let is_modified = class.is_some() && is_modified(claim);
    let failure = failure(claim, class.is_some());
    let is_changing =
        failure.is_none() && (is_modified || (grows && (is_used || !is_resized(claim))));
    // A growth that failed may be taken back, but not to the size of the volume or below (statefulset.md 11.13).
    // A volume that has grown by itself is larger than the template (D9).
    let is_grown = size < request && grows_to.is_some_and(|max| request <= max);
    let is_taken_back = size < request
        && !is_grown
        && failure.is_some()
        && volume.is_some_and(|volume| size > volume);
    let edit = VolumeEdit {
        storage: (size > request || is_taken_back).then(|| size.to_string()),
        attributes_class: class
            .filter(|class| attributes_class(claim) != Some(class))
            .map(str::to_owned),
    };
    if edit != VolumeEdit::default() {
        // Only the volume of a bound claim can be changed.
        return match phase(claim) {
            Some("Bound") => VolumeFit::Differs { edit, is_changing },
            _ => VolumeFit::Waiting,
        };
    }
    match failure {
        Some(message) => VolumeFit::Failed(message),
        None if size < request && !is_grown => VolumeFit::OverSized { is_changing },
        None if is_changing => VolumeFit::Changing,
        None if grows => VolumeFit::Waiting,
        None => VolumeFit::Compatible,
    }
}

fn phase(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.status.as_ref()?.phase.as_deref()
}

/// Whether the volume gets the attributes of the claim's class.
fn is_modified(claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    let present = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    phase(claim) == Some("Bound")
        && present.unwrap_or_default() != attributes_class(claim).unwrap_or_default()
}

/// Whether the volume has the requested size, and only its file system has not.
fn is_resized(claim: &PersistentVolumeClaim) -> bool {
    let conditions = claim
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let mut conditions = conditions.into_iter();
    let is_pending =
        conditions.any(|one| one.type_ == "FileSystemResizePending" && one.status == "True");
    is_pending && !is_growth_of_another_request(claim)
}

/// Whether the claim has the fields of the template that no claim can change.
fn is_compatible(
    template: Option<&PersistentVolumeClaimSpec>,
    claim: Option<&PersistentVolumeClaimSpec>,
) -> bool {
    let (Some(template), Some(claim)) = (template, claim) else {
        return template.is_none();
    };
    let mode = |spec: &PersistentVolumeClaimSpec| {
        let mode = spec.volume_mode.clone();
        mode.unwrap_or_else(|| "Filesystem".to_owned())
    };
    // The server fills in the default class.
    let class = template.storage_class_name.as_ref();
    class.is_none_or(|class| claim.storage_class_name.as_ref() == Some(class))
        && template.access_modes == claim.access_modes
        && mode(template) == mode(claim)
        && template.selector == claim.selector
}

/// Whether the last growth was for another request than the present one, which the driver has not begun yet.
fn is_growth_of_another_request(claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    let allocated = status.and_then(|status| status.allocated_resources.as_ref()?.get("storage"));
    let allocated = allocated.and_then(|allocated| allocated.0.parse::<Quantity>().ok());
    allocated.is_some() && allocated != claim_size::requested(claim)
}

/// Whether the last change of a claim's volume failed.
pub(in crate::stateful_set) fn has_failed(claim: &PersistentVolumeClaim) -> bool {
    failure(claim, true).is_some()
}

/// The message of a change that failed: of a growth to the present request, and of a change of attributes if the template
/// has a class.
fn failure(claim: &PersistentVolumeClaim, has_class: bool) -> Option<String> {
    let is_present = !is_growth_of_another_request(claim);
    let is_failure = |kind: &str| match kind {
        "ControllerResizeError" | "NodeResizeError" => is_present,
        "ModifyVolumeError" => has_class,
        _ => false,
    };
    let status = claim.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    let failed =
        conditions.find(|condition| is_failure(&condition.type_) && condition.status == "True");
    if let Some(failed) = failed {
        let text = failed.message.clone().or_else(|| failed.reason.clone());
        return Some(text.unwrap_or_else(|| failed.type_.clone()));
    }
    let mut states = status.allocated_resource_statuses.iter().flatten();
    if let Some((_, state)) = states.find(|(_, state)| is_present && state.ends_with("Infeasible"))
    {
        return Some(state.clone());
    }
    let modification = status.modify_volume_status.as_ref()?;
    let is_infeasible = has_class && modification.status == "Infeasible";
    is_infeasible.then(|| {
        format!(
            "the driver refuses the attributes of {}",
            modification
                .target_volume_attributes_class_name
                .as_deref()
                .unwrap_or_default()
        )
    })
}
