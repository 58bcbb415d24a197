//! The decoders of drivers' answers, for tests that feed them any input.

use crate::messages::{NodeCapabilities, NodeInfo, PluginInfo, RegisteredPlugin, VolumeStats};

/// Decodes bytes as each answer that is in use. Returns the number of texts in them.
pub fn answers(bytes: &[u8]) -> usize {
    let mut texts = 0;
    if let Ok(info) = NodeInfo::read(bytes) {
        texts += usize::from(!info.node_id.is_empty()) + info.topology.len();
    }
    if let Ok(found) = RegisteredPlugin::read(bytes) {
        texts += found.versions.len();
    }
    let _others = (
        PluginInfo::read(bytes),
        NodeCapabilities::read(bytes),
        VolumeStats::read(bytes),
    );
    texts
}
