//! Reset of a container's delays when the pod names another image for it.

use k8s_openapi::api::core::v1::PodSpec;

use super::backoff::Backoff;
use crate::record::{ContainerRecord, Image, PodRecord};
use crate::spec;

impl PodRecord {
    /// Records which containers have another image after the pod's change from `before` to `after`.
    pub fn images_changed(&mut self, before: &PodSpec, after: &PodSpec) {
        for (_, container) in spec::containers(after) {
            let former = spec::containers(before).find(|(_, old)| old.name == container.name);
            if former.is_some_and(|(_, old)| old.image != container.image)
                && let Some(record) = self.containers.get_mut(&container.name)
            {
                record.image_changed();
            }
        }
    }
}

impl ContainerRecord {
    /// Records another image for the container: the messages and delays of the former image no
    /// longer apply, because kubelet keeps delays by container and image.
    pub fn image_changed(&mut self) {
        self.image = Image::Unknown;
        self.pull_backoff = Backoff::default();
        self.backoff = Backoff::default();
        self.backoff_announced = false;
        self.refusals = 0;
    }
}
