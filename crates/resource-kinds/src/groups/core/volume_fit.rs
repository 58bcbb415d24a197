//! The match of a volume and a claim: rules that the binder, the scheduler and the provisioner share (statefulset.md
//! §11.3). Pure functions of two objects; the callers decide on bindings.

use k8s_openapi::api::core::v1::{
    NodeSelectorTerm, ObjectReference, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeClaimSpec, PersistentVolumeSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as SelectorObject;
use object_model::quantity::Quantity;
use object_model::selector::LabelSelector;

use crate::well_known::annotations::STORAGE_CLASS;
use crate::well_known::labels::HOSTNAME;

/// The reservation of a volume, from the view of one claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reservation {
    Free,
    /// Reserved for this claim: by name, and by UID if the volume contains a UID.
    ThisClaim,
    /// Reserved for another claim, or for a deleted claim with this name.
    Other,
}

/// The reason why a volume cannot be bound to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeMismatch {
    Deleting,
    Size,
    Class,
    AttributesClass,
    VolumeMode,
    AccessModes,
    Selector,
}

/// The claim's class; `None` if the claim uses the cluster's default class.
pub fn requested_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotations = claim.metadata.annotations.as_ref();
    let annotated = annotations.and_then(|all| all.get(STORAGE_CLASS));
    let class_field = || claim.spec.as_ref()?.storage_class_name.as_ref();
    annotated.or_else(class_field).map(String::as_str)
}

/// The volume's class; empty if the volume has no class.
pub fn volume_class(volume: &PersistentVolume) -> &str {
    let annotations = volume.metadata.annotations.as_ref();
    let annotated = annotations.and_then(|all| all.get(STORAGE_CLASS));
    let class_field = || volume.spec.as_ref()?.storage_class_name.as_ref();
    annotated.or_else(class_field).map_or("", String::as_str)
}

/// The only node on which a volume can be used, by its host name label; `None` unless every term of the volume's
/// affinity selects exactly this node.
pub fn only_node(volume: &PersistentVolume) -> Option<&str> {
    fn named(term: &NodeSelectorTerm) -> Option<&str> {
        let mut requirements = term.match_expressions.iter().flatten();
        requirements.find_map(|requirement| {
            let is_by_name = requirement.key == HOSTNAME && requirement.operator == "In";
            match requirement.values.as_deref() {
                Some([node]) if is_by_name => Some(node.as_str()),
                _ => None,
            }
        })
    }
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?;
    let mut nodes = affinity
        .required
        .as_ref()?
        .node_selector_terms
        .iter()
        .map(named);
    let first = nodes.next()??;
    nodes.all(|node| node == Some(first)).then_some(first)
}

/// The requested size of the claim.
pub fn requested_size(claim: &PersistentVolumeClaim) -> Quantity {
    let requests = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let size = requests.and_then(|requests| requests.get("storage"));
    size.and_then(|size| size.0.parse().ok())
        .unwrap_or_default()
}

/// The capacity of the volume.
pub fn capacity(volume: &PersistentVolume) -> Quantity {
    let capacity = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    capacity
        .and_then(|size| size.0.parse().ok())
        .unwrap_or_default()
}

/// The reservation of the volume.
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

/// The `spec.claimRef` of a volume reserved for the claim.
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

/// The reason why the volume cannot be bound to a claim if both refer to each other: all checks except labels and, if
/// the volume refers to the claim, the class.
pub fn misfit(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<VolumeMismatch> {
    let volume_spec = volume.spec.as_ref();
    let claim_spec = claim.spec.as_ref();
    if volume.metadata.deletion_timestamp.is_some() {
        return Some(VolumeMismatch::Deleting);
    }
    if capacity(volume) < requested_size(claim) {
        return Some(VolumeMismatch::Size);
    }
    if attributes_class(volume_spec.and_then(|spec| spec.volume_attributes_class_name.as_ref()))
        != attributes_class(claim_spec.and_then(|spec| spec.volume_attributes_class_name.as_ref()))
    {
        return Some(VolumeMismatch::AttributesClass);
    }
    if volume_mode(volume_spec.and_then(|spec| spec.volume_mode.as_ref()))
        != volume_mode(claim_spec.and_then(|spec| spec.volume_mode.as_ref()))
    {
        return Some(VolumeMismatch::VolumeMode);
    }
    None
}

/// The further checks for an unreserved volume.
pub fn further_misfit(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
) -> Option<VolumeMismatch> {
    if volume_class(volume) != requested_class(claim).unwrap_or_default() {
        return Some(VolumeMismatch::Class);
    }
    if !covers_modes(volume, claim) {
        return Some(VolumeMismatch::AccessModes);
    }
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selected = selector.is_none_or(|selector| selects(selector, volume));
    if selected {
        None
    } else {
        Some(VolumeMismatch::Selector)
    }
}

/// Whether the volume supports all access modes that the claim requests.
pub fn covers_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let offered = volume_modes(volume.spec.as_ref());
    claim_modes(claim.spec.as_ref())
        .iter()
        .all(|mode| offered.contains(mode))
}

/// Whether the volume may be bound to the claim: it matches, and is reserved for the claim or Available.
pub fn may_be_bound(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let phase = volume
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let is_free = match reservation(volume, claim) {
        Reservation::Other => false,
        Reservation::ThisClaim => covers_modes(volume, claim),
        Reservation::Free => phase == Some("Available") && further_misfit(volume, claim).is_none(),
    };
    is_free && misfit(volume, claim).is_none()
}

/// The best volume for the claim: a volume that is reserved for the claim; otherwise, of the matching Available
/// volumes, the volume with the fewest excess access modes, then the smallest.
///
/// `permitted` narrows the choice. For the scheduler: volumes that the node can use and that no other claim of the
/// pod uses. With `reserved_only`, only a volume that is reserved for the claim is chosen. For the binder: a claim
/// that waits for its first consumer.
pub fn find<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'a PersistentVolume>,
    permitted: impl Fn(&PersistentVolume) -> bool,
    reserved_only: bool,
) -> Option<&'a PersistentVolume> {
    let mut best: Option<(usize, Quantity, &'a PersistentVolume)> = None;
    let volumes = volumes.into_iter();
    for volume in volumes.filter(|volume| may_be_bound(volume, claim)) {
        if reservation(volume, claim) == Reservation::ThisClaim {
            return permitted(volume).then_some(volume);
        }
        if reserved_only || !permitted(volume) {
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
    LabelSelector::of(selector).is_some_and(|selector| {
        selector.matches_by(|key| {
            labels
                .and_then(|labels| labels.get(key))
                .map(String::as_str)
        })
    })
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    #[test]
    fn a_volume_has_one_node_if_each_term_names_it() {
        let on = |nodes: &[&str]| json!({"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": nodes}]});
        let zone =
            json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["n1"]}]});
        let both = json!({"matchExpressions":
            [zone["matchExpressions"][0], on(&["n1"])["matchExpressions"][0]]});
        for (terms, node) in [
            (vec![on(&["n1"])], Some("n1")),
            (vec![on(&["n1"]), both], Some("n1")),
            (vec![on(&["n1"]), on(&["n2"])], None),
            (vec![on(&["n1", "n2"])], None),
            // Another term allows the volume on another node.
            (vec![on(&["n1"]), zone], None),
            (vec![], None),
        ] {
            let volume: Value =
                json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}});
            let volume: PersistentVolume = json_tree::from_value(volume).unwrap();
            assert_eq!(only_node(&volume), node, "{volume:?}");
        }
        assert_eq!(only_node(&PersistentVolume::default()), None);
    }
}
