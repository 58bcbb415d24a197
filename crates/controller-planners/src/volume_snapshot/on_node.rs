//! The plan of a node for a snapshot content.

use k8s_openapi::api::core::v1::PersistentVolume;
use resource_kinds::snapshot::{BEING_DELETED, CONTENT_PROTECTION, VolumeSnapshotContent};
use resource_kinds::storage::Driver;
use resource_kinds::volume_fit::capacity;

use super::stored_name;
use crate::volume_expansion::bytes;

/// The snapshot handle of the built-in drivers: `<node>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    /// Name of the node with the snapshot.
    pub node: String,
    /// The name on the node.
    pub name: String,
}

impl Handle {
    /// Parses `NODE/NAME`; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let (node, name) = text.split_once('/')?;
        let complete = !node.is_empty() && !name.is_empty() && !name.contains('/');
        complete.then(|| Self {
            node: node.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl std::fmt::Display for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.node, self.name)
    }
}

/// The next step on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentStep {
    /// No step: the content is complete, or belongs to another node.
    Nothing,
    /// Add a finalizer to the content, so that its data is handled before the deletion of the content. A content that a
    /// user created has no finalizer.
    Protect,
    /// Take a snapshot of a volume.
    Create {
        driver: Driver,
        volume: String,
        /// The handle for the snapshot.
        handle: Handle,
        /// The size of the volume, in bytes.
        bytes: u64,
    },
    /// Check that the content's snapshot exists.
    Find {
        driver: Driver,
        /// The handle of the snapshot.
        handle: Handle,
    },
    /// Delete the snapshot, then remove the content's finalizer.
    Remove {
        driver: Driver,
        /// The handle of the snapshot.
        handle: Handle,
    },
    /// Remove the content's finalizer; the snapshot stays.
    LetGo,
}

/// Plans the step for a content. `volume` is the content's volume, with its node.
pub fn plan_on_node(
    content: &VolumeSnapshotContent,
    volume: Option<(&PersistentVolume, &str)>,
    node: &str,
) -> ContentStep {
    let Some(driver) = Driver::of_provisioner(&content.spec.driver) else {
        return ContentStep::Nothing;
    };
    let status = content.status.clone().unwrap_or_default();
    let uid = content.spec.volume_snapshot_ref.uid.as_deref();
    let source = &content.spec.source;
    let stored_handle = status
        .snapshot_handle
        .as_ref()
        .or(source.snapshot_handle.as_ref());
    let handle = match (stored_handle, uid) {
        (Some(text), _) => Handle::parse(text),
        // The snapshot may have been taken before a crash, without a write of the handle.
        (None, Some(uid)) => volume.map(|(_, on)| Handle {
            node: on.to_owned(),
            name: stored_name(uid),
        }),
        (None, None) => None,
    };
    let Some(handle) = handle.filter(|handle| handle.node == node) else {
        return nowhere(content, volume.is_none() && stored_handle.is_none());
    };
    if content.metadata.deletion_timestamp.is_some() {
        return match end(content) {
            End::Wait => ContentStep::Nothing,
            End::Remove => ContentStep::Remove { driver, handle },
            End::LetGo => ContentStep::LetGo,
        };
    }
    if !holds(content) {
        return ContentStep::Protect;
    }
    if status.ready_to_use == Some(true) {
        return ContentStep::Nothing;
    }
    match (&source.volume_handle, volume) {
        (Some(name), Some((volume, _))) => ContentStep::Create {
            driver,
            volume: name.clone(),
            handle,
            bytes: bytes(capacity(volume)),
        },
        (Some(_), None) => ContentStep::Nothing,
        (None, _) => ContentStep::Find { driver, handle },
    }
}

/// The step for a content without a node: a content that never had data may be deleted.
fn nowhere(content: &VolumeSnapshotContent, never_was: bool) -> ContentStep {
    let going = content.metadata.deletion_timestamp.is_some();
    if never_was && going && holds(content) {
        ContentStep::LetGo
    } else {
        ContentStep::Nothing
    }
}

fn holds(content: &VolumeSnapshotContent) -> bool {
    let mut finalizers = content.metadata.finalizers.iter().flatten();
    finalizers.any(|present| present == CONTENT_PROTECTION)
}

/// The end of a content.
enum End {
    /// The content stays, because its snapshot still exists.
    Wait,
    Remove,
    LetGo,
}

/// The effect of a deletion: the data is deleted if the snapshot was deleted, or never existed, and the policy demands
/// it.
fn end(content: &VolumeSnapshotContent) -> End {
    let annotations = content.metadata.annotations.as_ref();
    let marked = annotations.is_some_and(|all| all.contains_key(BEING_DELETED));
    let bound = content.spec.volume_snapshot_ref.uid.is_some();
    match (holds(content), content.spec.deletion_policy.as_str()) {
        (false, _) => End::Wait,
        (true, "Delete") if marked || !bound => End::Remove,
        (true, "Delete") => End::Wait,
        (true, _) => End::LetGo,
    }
}
