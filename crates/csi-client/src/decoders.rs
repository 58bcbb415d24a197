//! The decoders of drivers' responses, for the fuzzer.

use prost::Message as _;
use service_protocols::{csi_v1 as api, pluginregistration};

use crate::messages::{NodeCapabilities, NodeInfo, PluginInfo, VolumeStats};

/// Decodes the bytes as each type of response. Returns the number of texts in the responses.
pub fn answers(bytes: &[u8]) -> usize {
    let mut texts = 0;
    if let Ok(info) = api::NodeGetInfoResponse::decode(bytes).map(NodeInfo::from) {
        texts += usize::from(!info.node_id.is_empty()) + info.topology.len();
    }
    if let Ok(plugin) = pluginregistration::PluginInfo::decode(bytes) {
        texts += plugin.supported_versions.len();
    }
    let _others = (
        api::GetPluginInfoResponse::decode(bytes).map(PluginInfo::from),
        api::NodeGetCapabilitiesResponse::decode(bytes).map(NodeCapabilities::from),
        api::NodeGetVolumeStatsResponse::decode(bytes).map(VolumeStats::from),
    );
    texts
}
