//! Claims and their template.

use std::collections::BTreeMap;

use controller_planners::stateful_set::{ClaimEdit, identity};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimCondition, PersistentVolumeClaimSpec,
    PersistentVolumeClaimStatus, PersistentVolumeClaimVolumeSource, Volume as PodVolume,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use resource_kinds::annotations::TEMPLATE_METADATA;

use crate::state::{Claim, Spec, Volume, VolumeChange};

use super::{CEASED, CLAIM, NAMESPACE, SET, app, at, owner_pod, owner_set, uid, version};

/// The label of the claim template.
const LABEL: &str = "tier";

pub(super) fn object(ordinal: u8, claim: &Claim) -> PersistentVolumeClaim {
    let of_set = claim.owners.set.map(owner_set);
    let of_pod = claim.owners.pod.map(|pod| owner_pod(ordinal, pod));
    let owners: Vec<_> = of_set.into_iter().chain(of_pod).collect();
    let volume = &claim.volume;
    let mut labels = app();
    labels.extend(label(volume.label));
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name(ordinal)),
            namespace: Some(NAMESPACE.to_owned()),
            uid: Some(uid("claim", claim.uid)),
            resource_version: Some(version(claim.version)),
            labels: Some(labels),
            annotations: record(volume.recorded_label),
            owner_references: (!owners.is_empty()).then_some(owners),
            deletion_timestamp: claim.terminating.then(|| at(CEASED)),
            ..ObjectMeta::default()
        },
        spec: spec(volume.request),
        status: (volume.request > 0).then(|| status(volume)),
    }
}

fn name(ordinal: u8) -> String {
    identity::claim_name(CLAIM, SET, i64::from(ordinal))
}

pub(super) fn template(set: &Spec) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(CLAIM.to_owned()),
            labels: label(set.claim_label).map(|label| BTreeMap::from([label])),
            ..ObjectMeta::default()
        },
        spec: spec(set.claim_size),
        ..PersistentVolumeClaim::default()
    }
}

/// The volume of a pod.
pub(super) fn of_pod(ordinal: u8) -> PodVolume {
    PodVolume {
        name: CLAIM.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: name(ordinal),
            read_only: None,
        }),
        ..PodVolume::default()
    }
}

fn label(value: u8) -> Option<(String, String)> {
    (value > 0).then(|| (LABEL.to_owned(), value.to_string()))
}

/// The annotation with the metadata of the template, as the planner writes it.
fn record(value: u8) -> Option<BTreeMap<String, String>> {
    let text = || format!(r#"{{"labels":{{"{LABEL}":"{value}"}}}}"#);
    (value > 0).then(|| BTreeMap::from([(TEMPLATE_METADATA.to_owned(), text())]))
}

fn spec(size: u8) -> Option<PersistentVolumeClaimSpec> {
    (size > 0).then(|| PersistentVolumeClaimSpec {
        resources: Some(VolumeResourceRequirements {
            requests: Some(storage(size)),
            ..VolumeResourceRequirements::default()
        }),
        ..PersistentVolumeClaimSpec::default()
    })
}

fn storage(size: u8) -> BTreeMap<String, Quantity> {
    BTreeMap::from([("storage".to_owned(), Quantity(format!("{size}Gi")))])
}

fn status(volume: &Volume) -> PersistentVolumeClaimStatus {
    let is_bound = volume.capacity > 0;
    let conditions = [
        (volume.failed > 0, "ControllerResizeError"),
        (volume.storage > 0, "FileSystemResizePending"),
    ];
    // The size of the last growth.
    let mut sizes = [&volume.failed, &volume.storage].into_iter();
    let allocated = sizes.find(|size| **size > 0);
    let conditions = conditions.into_iter().filter(|(is_set, _)| *is_set);
    let conditions = conditions.map(|(_, kind)| PersistentVolumeClaimCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        ..PersistentVolumeClaimCondition::default()
    });
    PersistentVolumeClaimStatus {
        phase: Some(if is_bound { "Bound" } else { "Pending" }.to_owned()),
        capacity: is_bound.then(|| storage(volume.capacity)),
        allocated_resources: allocated.map(|allocated| storage(*allocated)),
        conditions: Some(conditions.collect()),
        ..PersistentVolumeClaimStatus::default()
    }
}

/// The compact form of a new claim.
pub(super) fn volume(claim: &PersistentVolumeClaim) -> Option<Volume> {
    let requests = claim.spec.as_ref().and_then(|spec| {
        let resources = spec.resources.as_ref()?;
        resources.requests.as_ref()?.get("storage")
    });
    let meta = &claim.metadata;
    let label = meta.labels.as_ref().and_then(|all| all.get(LABEL));
    let record = meta
        .annotations
        .as_ref()
        .and_then(|all| all.get(TEMPLATE_METADATA));
    Some(Volume {
        request: requests.map_or(Some(0), |size| gibibytes(&size.0))?,
        label: label.map_or(Some(0), |label| label.parse().ok())?,
        recorded_label: record.map_or(Some(0), |text| recorded(text))?,
        ..Volume::default()
    })
}

/// The compact form of an edit.
pub(super) fn change(edit: &ClaimEdit) -> Option<VolumeChange> {
    match edit {
        ClaimEdit::Volume(edit) => Some(VolumeChange::Request(gibibytes(edit.storage.as_ref()?)?)),
        ClaimEdit::Metadata(edit) => {
            let label = edit.labels.get(LABEL);
            let record = edit.annotations.get(TEMPLATE_METADATA);
            Some(VolumeChange::Metadata {
                label: match label {
                    Some(Some(label)) => Some(label.parse().ok()?),
                    Some(None) => Some(0),
                    None => None,
                },
                recorded_label: match record {
                    Some(Some(text)) => Some(recorded(text)?),
                    Some(None) => Some(0),
                    None => None,
                },
            })
        }
    }
}

fn gibibytes(size: &str) -> Option<u8> {
    size.strip_suffix("Gi")?.parse().ok()
}

fn recorded(text: &str) -> Option<u8> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    value["labels"][LABEL].as_str()?.parse().ok()
}
