//! Mount options that have no effect.

use k8s_openapi::api::core::v1::PersistentVolume;
use resource_kinds::MetadataIdentity;

use crate::api::events::PodEvents;

/// Sends a warning event if the volume, a directory of the node that is not mounted, has mount options.
pub(super) fn warn(events: &PodEvents, volume: &PersistentVolume) {
    let options = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.mount_options.as_ref());
    let Some(options) = options.filter(|options| !options.is_empty()) else {
        return;
    };
    let Ok(name) = volume.metadata.object_name() else {
        return;
    };
    let text = format!(
        "The mount options of volume \"{name}\" have no effect: it is a directory of the node ({})",
        options.join(",").escape_debug()
    );
    events.warning("UnsupportedMountOption", text);
}
