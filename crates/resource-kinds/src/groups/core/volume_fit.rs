//! The fit of a volume and a claim: rules that the binder, the scheduler and the provisioner share
//! (statefulset.md §11.3). Pure questions about two objects; who binds what, and when, is decided
//! elsewhere.

use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as SelectorObject;
use object_model::quantity::Quantity;
use object_model::selector::LabelSelector;

use crate::well_known::annotations::STORAGE_CLASS;

/// Whom a volume is kept for, seen from one claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// Nobody.
    Free,
    /// This claim: by name, and by identity where the volume names one.
    ThisClaim,
    /// Another claim, or one that had this claim's name.
    Other,
}

/// Why a volume that is free, or kept for a claim, cannot serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of what differs")]
pub enum Misfit {
    Deleting,
    Size,
    Class,
    AttributesClass,
    VolumeMode,
    AccessModes,
    Selector,
}

/// The claim's class; `None` when it leaves the choice to the cluster's default.
pub fn requested_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotations = claim.metadata.annotations.as_ref();
    let annotated = annotations.and_then(|all| all.get(STORAGE_CLASS));
    let asked = || claim.spec.as_ref()?.storage_class_name.as_ref();
    annotated.or_else(asked).map(String::as_str)
}

/// The volume's class, empty for none.
pub fn volume_class(volume: &PersistentVolume) -> &str {
    let annotations = volume.metadata.annotations.as_ref();
    let annotated = annotations.and_then(|all| all.get(STORAGE_CLASS));
    let own = || volume.spec.as_ref()?.storage_class_name.as_ref();
    annotated.or_else(own).map_or("", String::as_str)
}

/// How much the claim asks for.
pub fn requested_size(claim: &PersistentVolumeClaim) -> Quantity {
    let requests = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let size = requests.and_then(|requests| requests.get("storage"));
    size.and_then(|size| size.0.parse().ok())
        .unwrap_or_default()
}

/// How much the volume holds.
pub fn capacity(volume: &PersistentVolume) -> Quantity {
    let capacity = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    capacity
        .and_then(|size| size.0.parse().ok())
        .unwrap_or_default()
}

/// Whom the volume is kept for.
pub fn reservation(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Reservation {
    match volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref())
    {
        None => Reservation::Free,
        Some(reference) if names(reference, claim) => Reservation::ThisClaim,
        Some(_) => Reservation::Other,
    }
}

fn names(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    let same_uid = match reference.uid.as_deref() {
        None | Some("") => true,
        uid => uid == claim.metadata.uid.as_deref(),
    };
    same_uid
        && reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
}

/// What a volume's `spec.claimRef` says when it is kept for a claim.
pub fn claim_reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// What makes the volume unfit to be taken for the claim when both are meant for each other by
/// name: everything but the labels and, if the volume names the claim, the class.
pub fn misfit(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<Misfit> {
    let volume_spec = volume.spec.as_ref();
    let claim_spec = claim.spec.as_ref();
    if volume.metadata.deletion_timestamp.is_some() {
        return Some(Misfit::Deleting);
    }
    if capacity(volume) < requested_size(claim) {
        return Some(Misfit::Size);
    }
    if attributes_class(volume_spec.and_then(|spec| spec.volume_attributes_class_name.as_ref()))
        != attributes_class(claim_spec.and_then(|spec| spec.volume_attributes_class_name.as_ref()))
    {
        return Some(Misfit::AttributesClass);
    }
    if volume_mode(volume_spec.and_then(|spec| spec.volume_mode.as_ref()))
        != volume_mode(claim_spec.and_then(|spec| spec.volume_mode.as_ref()))
    {
        return Some(Misfit::VolumeMode);
    }
    None
}

/// What else must hold of a volume that is kept for nobody.
pub fn further_misfit(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<Misfit> {
    if volume_class(volume) != requested_class(claim).unwrap_or_default() {
        return Some(Misfit::Class);
    }
    if !covers_modes(volume, claim) {
        return Some(Misfit::AccessModes);
    }
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selected = selector.is_none_or(|selector| selects(selector, volume));
    if selected {
        None
    } else {
        Some(Misfit::Selector)
    }
}

/// Whether the volume can be used in all ways that the claim asks for.
pub fn covers_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let offered = volume_modes(volume.spec.as_ref());
    claim_modes(claim.spec.as_ref())
        .iter()
        .all(|mode| offered.contains(mode))
}

/// The volume that suits the claim best, or `None`: one that is kept for it; else, of those that
/// are Available and fit, the one with the fewest modes to spare, then the smallest.
///
/// `permitted` narrows the choice (for the scheduler: what can be used on a node and is not
/// taken by another claim of the pod); with `reserved_only` nothing but a volume that is kept for
/// the claim is taken (for the binder: a claim that waits for its first consumer).
pub fn find<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'a PersistentVolume>,
    permitted: impl Fn(&PersistentVolume) -> bool,
    reserved_only: bool,
) -> Option<&'a PersistentVolume> {
    let mut best: Option<(usize, Quantity, &'a PersistentVolume)> = None;
    for volume in volumes {
        let reservation = reservation(volume, claim);
        if reservation == Reservation::Other || misfit(volume, claim).is_some() {
            continue;
        }
        if reservation == Reservation::ThisClaim {
            if covers_modes(volume, claim) {
                return permitted(volume).then_some(volume);
            }
            continue;
        }
        let available = volume
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            == Some("Available");
        if reserved_only
            || !available
            || further_misfit(volume, claim).is_some()
            || !permitted(volume)
        {
            continue;
        }
        let spare = volume_modes(volume.spec.as_ref()).len();
        let size = capacity(volume);
        let better = best
            .as_ref()
            .is_none_or(|(modes, smallest, _)| (spare, size) < (*modes, *smallest));
        if better {
            best = Some((spare, size, volume));
        }
    }
    best.map(|(_, _, volume)| volume)
}

fn volume_mode(mode: Option<&String>) -> &str {
    mode.map_or("Filesystem", String::as_str)
}

fn attributes_class(name: Option<&String>) -> &str {
    name.map_or("", String::as_str)
}

fn volume_modes(spec: Option<&PersistentVolumeSpec>) -> &[String] {
    spec.and_then(|spec| spec.access_modes.as_deref())
        .unwrap_or_default()
}

fn claim_modes(spec: Option<&PersistentVolumeClaimSpec>) -> &[String] {
    spec.and_then(|spec| spec.access_modes.as_deref())
        .unwrap_or_default()
}

fn selects(selector: &SelectorObject, volume: &PersistentVolume) -> bool {
    let labels = volume.metadata.labels.as_ref();
    let parsed = serde_json::to_value(selector)
        .ok()
        .and_then(|selector| LabelSelector::from_json(&selector).ok());
    parsed.is_some_and(|selector| {
        selector.matches_by(|key| {
            labels
                .and_then(|labels| labels.get(key))
                .map(String::as_str)
        })
    })
}
