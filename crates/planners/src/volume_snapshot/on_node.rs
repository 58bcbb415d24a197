//! The plan of a node for a snapshot content.

use k8s_openapi::api::core::v1::PersistentVolume;
use resource_kinds::snapshot::{BEING_DELETED, CONTENT_PROTECTION, VolumeSnapshotContent};
use resource_kinds::storage::Driver;
use resource_kinds::volume_fit::capacity;

use super::kept_name;
use crate::volume_expansion::bytes;

/// Where something is kept: `<node>/<name>`, the snapshot handle of the built-in drivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    /// The node.
    pub node: String,
    /// The name there.
    pub name: String,
}

impl Handle {
    /// Reads a handle.
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

/// What the node does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is done, or another's.
    Nothing,
    /// Let the content not go before what it stands for is dealt with: who brought it need not have
    /// seen to that.
    Protect,
    /// Keep what is in a volume at this moment.
    Take {
        /// The driver.
        driver: Driver,
        /// The volume.
        volume: String,
        /// Where it will be kept.
        handle: Handle,
        /// How large the volume is, in bytes.
        bytes: u64,
    },
    /// See whether what the content says is kept is there.
    Find {
        /// The driver.
        driver: Driver,
        /// Where it is kept.
        handle: Handle,
    },
    /// Remove what is kept, then let the content go.
    Remove {
        /// The driver.
        driver: Driver,
        /// Where it is kept.
        handle: Handle,
    },
    /// Let the content go; what is kept stays.
    LetGo,
}

/// Decides about a content. `volume` is the one that it names, with the node that it is on.
pub fn plan_on_node(
    content: &VolumeSnapshotContent,
    volume: Option<(&PersistentVolume, &str)>,
    node: &str,
) -> Step {
    let Some(driver) = Driver::of_provisioner(&content.spec.driver) else {
        return Step::Nothing;
    };
    let status = content.status.clone().unwrap_or_default();
    let uid = content.spec.volume_snapshot_ref.uid.as_deref();
    let source = &content.spec.source;
    let known = status
        .snapshot_handle
        .as_ref()
        .or(source.snapshot_handle.as_ref());
    let handle = match (known, uid) {
        (Some(text), _) => Handle::parse(text),
        // Perhaps it was made, and this was not written down any more.
        (None, Some(uid)) => volume.map(|(_, on)| Handle {
            node: on.to_owned(),
            name: kept_name(uid),
        }),
        (None, None) => None,
    };
    let Some(handle) = handle.filter(|handle| handle.node == node) else {
        return nowhere(content, volume.is_none() && known.is_none());
    };
    if content.metadata.deletion_timestamp.is_some() {
        return match end(content) {
            End::Wait => Step::Nothing,
            End::Remove => Step::Remove { driver, handle },
            End::LetGo => Step::LetGo,
        };
    }
    if !holds(content) {
        return Step::Protect;
    }
    if status.ready_to_use == Some(true) {
        return Step::Nothing;
    }
    match (&source.volume_handle, volume) {
        (Some(name), Some((volume, _))) => Step::Take {
            driver,
            volume: name.clone(),
            handle,
            bytes: bytes(capacity(volume)),
        },
        (Some(_), None) => Step::Nothing,
        (None, _) => Step::Find { driver, handle },
    }
}

/// Of what never came to be nothing can be left: its content may go.
fn nowhere(content: &VolumeSnapshotContent, never_was: bool) -> Step {
    let going = content.metadata.deletion_timestamp.is_some();
    if never_was && going && holds(content) {
        Step::LetGo
    } else {
        Step::Nothing
    }
}

fn holds(content: &VolumeSnapshotContent) -> bool {
    let mut finalizers = content.metadata.finalizers.iter().flatten();
    finalizers.any(|present| present == CONTENT_PROTECTION)
}

/// How a content ends.
enum End {
    /// Not yet: its snapshot is still there.
    Wait,
    Remove,
    LetGo,
}

/// What is kept goes when the snapshot was deleted, or never was, and the policy says so.
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
