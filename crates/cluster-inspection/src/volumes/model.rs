//! The rows of the list, computed from the objects that were read: pure functions.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use object_model::quantity::Quantity;
use resource_kinds::labels::HOSTNAME;
use resource_kinds::pod_references::claim_of;
use resource_kinds::snapshot::VolumeSnapshot;
use resource_kinds::storage::volume_replication::{VolumeReplication, time_text as replicated};
use resource_kinds::storage::volume_size;
use serde::Serialize;

use super::objects::VolumeObjects;
use crate::node_summaries;

/// The output of `mainstay volume ls`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeList {
    /// The claims, by namespace and name.
    pub claims: Vec<ClaimRow>,
    /// The kinds that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A claim with its volume. `None` means that the fact is unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRow {
    /// Namespace of the claim.
    pub namespace: String,
    /// Name of the claim.
    pub name: String,
    /// `Bound`, `Pending`, `Lost` or `Terminating`.
    pub status: String,
    /// Name of the storage class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Name of the PersistentVolume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The nodes from which the data can be reached; empty if that is any node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
    /// The size that the claim requests, in its written form.
    pub requested: String,
    /// The requested size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_bytes: Option<i64>,
    /// The size of the volume, in its written form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<String>,
    /// The bytes that the volume's files occupy, if they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<i64>,
    /// Whether the volume can hold no more than its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_enforced: Option<bool>,
    /// The number of VolumeSnapshots of the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<usize>,
    /// The time of the newest snapshot, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest_snapshot: Option<String>,
    /// The copies of the volume on another node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication: Option<Replication>,
    /// The pods that use the claim and have not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<Vec<String>>,
    /// `Filesystem` or `Block`, as `spec.volumeMode`.
    pub volume_mode: String,
    /// The access modes of the claim.
    pub access_modes: Vec<String>,
    /// `Delete` or `Retain`, from the PersistentVolume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reclaim_policy: Option<String>,
}

/// The copies of a volume on another node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replication {
    /// The node with the copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// The time (RFC 3339) of the last complete copy. The copy has the content of the volume at that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_copy: Option<String>,
    /// The recovery point of the last promotion, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_point: Option<String>,
    /// The retained states of former primaries, as `node/snapshot`.
    pub diverged: Vec<String>,
}

impl Replication {
    fn of(volume: &PersistentVolume) -> Option<Self> {
        let record = VolumeReplication::of(volume)?;
        let diverged = record.diverged.iter();
        Some(Self {
            diverged: diverged
                .map(|divergence| format!("{}/{}", divergence.node, divergence.snapshot))
                .collect(),
            last_copy: record.last.map(replicated),
            recovery_point: record.recovery.map(|recovery| replicated(recovery.time)),
            replica: record.replica,
        })
    }
}

/// The list of the objects.
pub fn list(observed: &VolumeObjects) -> VolumeList {
    let mut claims: Vec<ClaimRow> = observed
        .claims
        .iter()
        .map(|claim| row(claim, observed))
        .collect();
    claims.sort_unstable_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    VolumeList {
        claims,
        notes: observed.notes.clone(),
    }
}

/// The nodes that report the usage of the volumes: the nodes with the data, and the nodes with the pods.
pub fn nodes(observed: &VolumeObjects) -> BTreeSet<String> {
    let volumes = observed
        .claims
        .iter()
        .filter_map(|claim| volume(claim, observed));
    let with_data = volumes.filter_map(places).flatten();
    let claims = || observed.claims.iter();
    let pods = observed.pods.iter().flatten();
    let with_pods = pods.filter(|pod| claims().any(|claim| uses(pod, claim)));
    let with_pods = with_pods.filter_map(|pod| pod.spec.as_ref()?.node_name.clone());
    with_data.chain(with_pods).collect()
}

fn row(claim: &PersistentVolumeClaim, observed: &VolumeObjects) -> ClaimRow {
    let spec = claim.spec.clone().unwrap_or_default();
    let status = claim.status.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|resources| resources.requests);
    let requested = requests.and_then(|requests| requests.get("storage").cloned());
    let requested = requested.map(|size| size.0).unwrap_or_default();
    let capacity = status.capacity.as_ref();
    let volume = volume(claim, observed);
    let of_volume = volume.and_then(|volume| volume.spec.as_ref());
    let usage = node_summaries::usage(&claim.metadata, volume, &observed.figures);
    let snapshots = observed.snapshots.as_ref();
    let snapshots = snapshots.map(|all| all.iter().filter(|one| is_of(one, claim)));
    let pods = observed.pods.as_ref();
    let pods = pods.map(|all| all.iter().filter(|pod| uses(pod, claim)));
    ClaimRow {
        namespace: claim.metadata.namespace.clone().unwrap_or_default(),
        name: claim.metadata.name.clone().unwrap_or_default(),
        status: match claim.metadata.deletion_timestamp {
            Some(_) => "Terminating".to_owned(),
            None => status.phase.unwrap_or_else(|| "Pending".to_owned()),
        },
        class: spec.storage_class_name.filter(|class| !class.is_empty()),
        volume: spec.volume_name.filter(|name| !name.is_empty()),
        nodes: volume.and_then(places),
        requested_bytes: requested.parse().ok().map(|size: Quantity| size.value()),
        requested,
        capacity: capacity.and_then(|capacity| Some(capacity.get("storage")?.0.clone())),
        used_bytes: usage.used,
        size_enforced: usage.enforced.or_else(|| enforced(claim)),
        newest_snapshot: snapshots.clone().and_then(|all| all.filter_map(time).max()),
        snapshots: snapshots.map(Iterator::count),
        replication: volume.and_then(Replication::of),
        pods: pods.map(|pods| {
            let names = pods.filter_map(|pod| pod.metadata.name.clone());
            names.collect::<BTreeSet<_>>().into_iter().collect()
        }),
        volume_mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
        access_modes: spec.access_modes.unwrap_or_default(),
        reclaim_policy: of_volume.and_then(|spec| spec.persistent_volume_reclaim_policy.clone()),
    }
}

/// The state of the condition of a claim about the size of its volume.
fn enforced(claim: &PersistentVolumeClaim) -> Option<bool> {
    let conditions = claim.status.as_ref()?.conditions.as_ref()?;
    let mut conditions = conditions.iter();
    let condition = conditions.find(|condition| condition.type_ == volume_size::CONDITION)?;
    Some(condition.status == "True")
}

/// The volume of a claim, if the claim is bound and the user may read the volume.
fn volume<'a>(
    claim: &PersistentVolumeClaim,
    observed: &'a VolumeObjects,
) -> Option<&'a PersistentVolume> {
    let name = claim.spec.as_ref()?.volume_name.as_ref()?;
    let mut volumes = observed.volumes.iter();
    volumes.find(|volume| volume.metadata.name.as_ref() == Some(name))
}

/// The nodes of a volume from its node affinity; empty without an affinity. `None` if the affinity does not list node
/// names.
fn places(volume: &PersistentVolume) -> Option<Vec<String>> {
    let spec = volume.spec.as_ref()?;
    let affinity = spec.node_affinity.as_ref();
    let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else {
        return Some(Vec::new());
    };
    let mut nodes = BTreeSet::new();
    for term in &required.node_selector_terms {
        let expressions = term.match_expressions.iter().flatten();
        let mut named = expressions
            .filter(|requirement| requirement.key == HOSTNAME && requirement.operator == "In");
        nodes.extend(named.next()?.values.iter().flatten().cloned());
    }
    Some(nodes.into_iter().collect())
}

/// Whether a pod that has not ended uses a claim.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed"))
        || pod.metadata.namespace != claim.metadata.namespace
    {
        return false;
    }
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let mut claims = volumes.filter_map(|volume| claim_of(pod_name, volume));
    claims.any(|(claim, _)| claim == name)
}

/// Whether a claim is the source of a snapshot.
fn is_of(snapshot: &VolumeSnapshot, claim: &PersistentVolumeClaim) -> bool {
    let source = snapshot.spec.source.persistent_volume_claim_name.as_ref();
    source.is_some()
        && source == claim.metadata.name.as_ref()
        && snapshot.metadata.namespace == claim.metadata.namespace
}

/// The time at which a snapshot was created or, if it does not exist yet, requested.
fn time(snapshot: &VolumeSnapshot) -> Option<String> {
    let status = snapshot.status.as_ref();
    let created = status.and_then(|status| status.creation_time.as_ref());
    let requested = snapshot.metadata.creation_timestamp.as_ref();
    created.or(requested).map(|time| time.0.to_string())
}
