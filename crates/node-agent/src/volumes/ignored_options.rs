//! Mount options that have no effect.

use k8s_openapi::api::core::v1::PersistentVolume;

use crate::api::events::PodEvents;

/// Sends a warning event if the volume has mount options but is a directory of the node, which is not
/// mounted.
pub(super) fn tell(events: &PodEvents, volume: &PersistentVolume, is_directory: bool) {
    let options = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.mount_options.as_ref());
    let Some(options) = options.filter(|options| is_directory && !options.is_empty()) else {
        return;
    };
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let text = format!(
        "The mount options of volume \"{name}\" have no effect: it is a directory of the node ({})",
        options.join(",").escape_debug()
    );
    events.warning("UnsupportedMountOption", text);
}
