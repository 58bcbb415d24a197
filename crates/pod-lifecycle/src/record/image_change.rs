//! Reset of a container's delays when the pod's specification names another image.

use k8s_openapi::api::core::v1::PodSpec;

use super::backoff::Backoff;
use crate::record::{ContainerRecord, Image, PodRecord};
use crate::spec;

impl PodRecord {
    /// Records a new image for each container whose image differs between `before` and `after`.
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
    /// Records a new image for the container. Messages and delays of the former image do not apply to the
    /// new image, because kubelet stores delays by container and image.
    pub fn image_changed(&mut self) {
        cov_mark::hit!(findings_c12);
        self.image = Image::Unknown;
        self.pull_backoff = Backoff::default();
        self.backoff = Backoff::default();
        self.backoff_announced = false;
        self.refusals = 0;
    }
}
