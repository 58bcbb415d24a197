//! The VolumeAttachments of the cluster, by node.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::storage::v1::VolumeAttachment;

/// The VolumeAttachments, by node and name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attachments(BTreeMap<String, BTreeMap<String, Arc<VolumeAttachment>>>);

impl Attachments {
    /// Adds an attachment, or replaces its former state. The node of an attachment is immutable.
    pub fn push(&mut self, attachment: Arc<VolumeAttachment>) {
        let (node, name) = key(&attachment);
        self.0.entry(node).or_default().insert(name, attachment);
    }

    /// Removes a VolumeAttachment from its node.
    pub fn remove(&mut self, attachment: &VolumeAttachment) {
        let (node, name) = key(attachment);
        if let Some(there) = self.0.get_mut(&node) {
            there.remove(&name);
            if there.is_empty() {
                self.0.remove(&node);
            }
        }
    }

    /// The attachments of a node.
    pub(crate) fn on(&self, node: &str) -> impl Iterator<Item = &VolumeAttachment> {
        let there = self.0.get(node).into_iter();
        there.flat_map(|there| there.values().map(AsRef::as_ref))
    }
}

fn key(attachment: &VolumeAttachment) -> (String, String) {
    let name = attachment.metadata.name.clone();
    (attachment.spec.node_name.clone(), name.unwrap_or_default())
}
