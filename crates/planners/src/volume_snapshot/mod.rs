//! Snapshots of volumes: binding a VolumeSnapshot and its VolumeSnapshotContent, and what the node
//! does that has the volume (statefulset.md §11.15).
//!
//! Goal: a snapshot is ready to use, or says why not. Guarantees: a content is made before the
//! storage does anything, under a name that follows from the snapshot's identity, so that nothing
//! is made twice; what is kept goes only when its snapshot was deleted and the policy says so; a
//! snapshot stays while a claim is made from it.

mod on_node;
mod snapshot;

pub use on_node::{Handle, Step, plan_on_node};
pub use snapshot::{Action, Note, Plan, View, plan_snapshot};

/// The name of what is kept, from the identity of its snapshot.
fn kept_name(uid: &str) -> String {
    format!("snapshot-{uid}")
}
