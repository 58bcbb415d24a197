//! Snapshots of volumes: the binding of VolumeSnapshot and VolumeSnapshotContent, and the work of the volume's node
//! (statefulset.md §11.15).
//!
//! Goal: a snapshot is ready to use, or its status has the reason. Guarantees: a content is created before the storage
//! acts, with a name derived from the snapshot's UID, so that no snapshot is created twice; stored data is deleted only
//! if its snapshot was deleted and the policy demands it; a snapshot stays while a claim is restored from it.

mod on_node;
mod secret;
mod snapshot;

pub use on_node::{ContentStep, Handle, plan_on_node};
pub use snapshot::{ObservedSnapshot, SnapshotAction, SnapshotEvent, SnapshotPlan, plan_snapshot};

/// The name of the stored snapshot, from the UID of its VolumeSnapshot.
fn stored_name(uid: &str) -> String {
    format!("snapshot-{uid}")
}
